//! By what a row is found when it was updated or deleted on the other side.

use super::carry::comparable;
use super::flow::Judgement;
use super::{ReplicaIdentity, Table};
use crate::word::quote_ident;
use std::collections::BTreeSet;

/// What the server logs of a changed row, and sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Columns(Vec<String>),
    /// REPLICA IDENTITY FULL.
    Whole,
    /// UPDATE and DELETE fail as soon as the table is published.
    None,
}

impl Key {
    pub(super) fn of(table: &Table) -> Key {
        let index = match &table.identity {
            ReplicaIdentity::Full => return Key::Whole,
            ReplicaIdentity::Nothing => return Key::None,
            ReplicaIdentity::Index(name) => Some(name),
            // A primary key's index has its constraint's name. A deferrable one is no replica identity.
            ReplicaIdentity::Default => table.constraints.iter().find(|constraint| constraint.kind == "p").map(|c| &c.name),
        };
        let fit = table.indexes.iter().find(|candidate| Some(&candidate.name) == index);
        fit.and_then(|index| index.identity_columns.clone()).map_or(Key::None, Key::Columns)
    }

    /// Equal whatever the order of the columns.
    fn same(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::Columns(a), Key::Columns(b)) => set(a) == set(b),
            (a, b) => a == b,
        }
    }
}

fn set(columns: &[String]) -> BTreeSet<&String> {
    columns.iter().collect()
}

/// A table of blue and what has become of it on green, each with its partitions (of every level).
pub(super) struct Pair<'a> {
    pub blue: &'a Table,
    pub green: &'a Table,
    pub blue_parts: &'a [&'a Table],
    pub green_parts: &'a [&'a Table],
}

/// Judges the replica identity of both sides; the key, if there is a usable one.
pub(super) fn judge(pair: &Pair<'_>, judgement: &mut Judgement) -> Key {
    let (blue, green) = (Key::of(pair.blue), Key::of(pair.green));
    if blue == Key::None {
        judgement.refused.push(format!("UPDATE and DELETE on blue would fail once it is published: {}", remedy(pair.blue)));
        return blue;
    }
    if green == Key::None {
        judgement.refused.push("the migration leaves it without a primary key or replica identity".to_owned());
        return blue;
    }
    if !pair.blue.primary_key.is_empty() && set(&pair.blue.primary_key) != set(&pair.green.primary_key) {
        let to = if pair.green.primary_key.is_empty() { "none".to_owned() } else { pair.green.primary_key.join(", ") };
        judgement.refused.push(format!("its primary key changes from ({}) to ({to})", pair.blue.primary_key.join(", ")));
        return blue;
    }
    for (table, parts, key) in [(pair.blue, pair.blue_parts, &blue), (pair.green, pair.green_parts, &green)] {
        if let Some(column) = generated_in(table, key) {
            judgement.refused.push(format!("its key holds the generated column `{column}`, which is not sent"));
        }
        if let Some(part) = parts.iter().find(|part| !Key::of(part).same(key)) {
            let name = &part.name;
            judgement.refused.push(format!(
                "its partition {name} has another replica identity, by which changed rows would be sent; \
                 give all partitions that of the root with ALTER TABLE .. REPLICA IDENTITY"
            ));
        }
    }
    if let Err(why) = applies(pair.green, pair.blue, &blue) {
        judgement.refused.push(format!("changed rows of blue could not be found on green: {why}"));
    }
    if let Err(why) = applies(pair.blue, pair.green, &green) {
        judgement.refused_back.push(format!("changed rows of green could not be found on blue: {why}"));
    }
    blue
}

fn remedy(table: &Table) -> String {
    let name = table.name.sql();
    if Key::of(&Table { identity: ReplicaIdentity::Default, ..table.clone() }) != Key::None {
        return format!("its replica identity is not its primary key; run on blue: ALTER TABLE {name} REPLICA IDENTITY DEFAULT");
    }
    let why = if table.primary_key.is_empty() { "it has no primary key" } else { "its primary key is deferrable" };
    match table.indexes.iter().find(|index| index.valid && index.identity_columns.is_some()) {
        Some(index) => {
            let index = quote_ident(&index.name);
            format!("{why}; run on blue: ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}")
        }
        None => format!("{why}; give it a primary key on blue, or run there: ALTER TABLE {name} REPLICA IDENTITY FULL"),
    }
}

fn generated_in<'a>(table: &'a Table, key: &Key) -> Option<&'a str> {
    let Key::Columns(key) = key else { return None };
    let column = table.columns.iter().find(|column| column.generated.is_some() && key.contains(&column.name));
    column.map(|column| column.name.as_str())
}

/// Whether `local` can find the rows that `remote` sends with this key: PostgreSQL looks for them by the local replica
/// identity or primary key, whose columns must all be sent as key, or else by whole rows.
fn applies(local: &Table, remote: &Table, key: &Key) -> Result<(), String> {
    let local_key = match Key::of(local) {
        Key::Columns(columns) => columns,
        Key::Whole | Key::None => local.primary_key.clone(),
    };
    let sent: Vec<String> = match key {
        Key::Columns(columns) => columns.clone(),
        Key::Whole | Key::None => remote.columns.iter().filter(|c| c.generated.is_none()).map(|c| c.name.clone()).collect(),
    };
    if let Some(missing) = local_key.iter().find(|column| !sent.contains(column)) {
        return Err(format!("its key there has `{missing}`, which is not part of the key that is sent"));
    }
    if !local_key.is_empty() {
        return Ok(());
    }
    if *key != Key::Whole {
        return Err("it has neither primary key nor replica identity there".to_owned());
    }
    match local.columns.iter().find(|column| !comparable(&column.type_name)) {
        Some(column) => Err(format!(
            "with REPLICA IDENTITY FULL whole rows are compared, and `{}` of type `{}` has no equality; give it a primary key",
            column.name, column.type_name
        )),
        None => Ok(()),
    }
}

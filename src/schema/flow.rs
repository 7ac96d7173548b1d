//! The heart of schema-aware sync: from blue's schema, green's schema and what the migrations were seen to do, how each
//! table's rows can flow in each direction, and what a rollback would mean for them.
//!
//! **Invariant:** whatever is not known to flow rightly is refused, with the reason. A table never flows by silence.

use super::identity::{self, Key, Pair};
use super::{Catalog, Flow, Moves, Partition, Persistence, Table, TableFlow, Verdict, columns, rules, triggers};
use crate::migrate::TableWrite;
use crate::word::RelationName;
use std::collections::BTreeMap;

/// What the migrations were seen to do in the shadow, besides what the two schemas show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub writes: Vec<SeenWrite>,
    pub moves: Moves,
}

/// Rows that a statement writes.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenWrite {
    pub write: TableWrite,
    /// The statement, such as `0003_prices.up.sql` line 12.
    pub by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowOptions {
    /// Tables that the playbook accepts as not reversible, by name.
    pub accepted: Vec<RelationName>,
    /// History tables of migration tools: in neither direction.
    pub history: Vec<RelationName>,
    /// Major version of both servers.
    pub major: u32,
    /// Blue stands still while green is migrated: no row comes from blue meanwhile, so whatever cannot be carried is in the
    /// way of a rollback only.
    pub frozen: bool,
}

/// What was found of one table. The reasons stand in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// Why its rows cannot flow at all.
    pub refused: Vec<String>,
    /// Why its rows cannot come back.
    pub refused_back: Vec<String>,
    /// What rows that come back lose without an error.
    pub loses: Vec<String>,
    /// Conditions, and what is done about them.
    pub shims: Vec<String>,
}

/// The flow of every table of blue and of green, by name.
pub fn flows(before: &Catalog, after: &Catalog, seen: &Seen, options: &FlowOptions) -> Vec<TableFlow> {
    let look = Look { before, after, seen, options, blue_parts: parts(before), green_parts: parts(after) };
    let mut flows: Vec<TableFlow> = before.tables.values().map(|table| look.of_blue(table)).collect();
    let new = after.tables.iter().filter(|(name, _)| !before.tables.contains_key(*name));
    flows.extend(new.map(|(_, table)| look.of_green(table)));
    flows.sort_by(|a, b| a.table.cmp(&b.table));
    flows
}

/// The partitions of every level, by the name of their root.
fn parts(catalog: &Catalog) -> BTreeMap<&RelationName, Vec<&Table>> {
    let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for table in catalog.tables.values() {
        if let Some(root) = table.root() {
            parts.entry(root).or_default().push(table);
        }
    }
    parts
}

struct Look<'a> {
    before: &'a Catalog,
    after: &'a Catalog,
    seen: &'a Seen,
    options: &'a FlowOptions,
    blue_parts: BTreeMap<&'a RelationName, Vec<&'a Table>>,
    green_parts: BTreeMap<&'a RelationName, Vec<&'a Table>>,
}

fn out(table: &RelationName, why: impl Into<String>) -> TableFlow {
    let why = why.into();
    TableFlow { table: table.clone(), flow: Flow::Out { because: why.clone() }, verdict: Verdict::NotSent { why } }
}

/// Its rows are on green by the copy, and cannot come back.
fn stays(table: &RelationName, reasons: Vec<String>, accepted: bool) -> TableFlow {
    let because = "its change cannot be carried back".to_owned();
    let what = reasons.into_iter().map(|why| format!("every row written after the cutover: {why}")).collect();
    TableFlow { table: table.clone(), flow: Flow::Out { because }, verdict: Verdict::RollbackWouldLose { what, accepted } }
}

fn refused(table: &RelationName, reasons: Vec<String>) -> TableFlow {
    let because = "its change cannot be carried".to_owned();
    TableFlow { table: table.clone(), flow: Flow::Out { because }, verdict: Verdict::Refused { reasons } }
}

/// Why a table is not published whatever the migrations do.
fn never_sent(table: &Table) -> Option<String> {
    match (table.persistence, table.root()) {
        (_, Some(root)) => Some(format!("a partition: its rows flow through {root}")),
        _ if table.foreign => Some("a foreign table: its rows are elsewhere".to_owned()),
        (Persistence::Unlogged, _) => {
            Some("unlogged: its rows are not in the write-ahead log, and green has none of them".to_owned())
        }
        (Persistence::Temporary, _) => Some("temporary".to_owned()),
        (Persistence::Permanent, None) => None,
    }
}

impl<'a> Look<'a> {
    fn refused(&self, table: &RelationName, reasons: Vec<String>) -> TableFlow {
        if self.options.frozen {
            return stays(table, reasons, self.options.accepted.contains(table));
        }
        refused(table, reasons)
    }

    fn of_blue(&self, blue: &'a Table) -> TableFlow {
        if self.options.history.contains(&blue.name) {
            return out(&blue.name, "a migration tool's history: each side keeps its own");
        }
        if let Some(why) = never_sent(blue) {
            return out(&blue.name, why);
        }
        if let Some(reason) = self.moved(blue) {
            return self.refused(&blue.name, vec![reason]);
        }
        match self.after.tables.get(&blue.name.to_string()) {
            None => self.dropped(blue),
            Some(green) => self.both(blue, green),
        }
    }

    fn of_green(&self, green: &Table) -> TableFlow {
        if self.options.history.contains(&green.name) {
            return out(&green.name, "a migration tool's history: each side keeps its own");
        }
        let renamed = self.seen.moves.renamed.iter().any(|renamed| renamed.to == green.name);
        if let Some(why) = never_sent(green).or_else(|| renamed.then(|| "the new name of another table".to_owned())) {
            return out(&green.name, why);
        }
        out(&green.name, "new: only green has it; rows written to it after the cutover stay on green at a rollback")
    }

    /// A rename or an exchange, which looks like something else in the two schemas.
    fn moved(&self, blue: &Table) -> Option<String> {
        let moves = &self.seen.moves;
        let is_part = |name: &RelationName| {
            *name == blue.name || self.before.tables.get(&name.to_string()).and_then(Table::root) == Some(&blue.name)
        };
        if let Some(renamed) = moves.renamed.iter().find(|renamed| is_part(&renamed.from)) {
            let (from, to) = (&renamed.from, &renamed.to);
            return Some(format!(
                "the migration renames {from} to {to}; a rename belongs into the window and is not carried yet"
            ));
        }
        if let Some(replaced) = moves.replaced.iter().find(|replaced| is_part(replaced)) {
            return Some(format!(
                "the migration puts another table in the place of {replaced} (dropped and made again, or copied and swapped): \
                 rows that blue writes meanwhile would be lost without an error"
            ));
        }
        let column = moves.columns.iter().find(|column| column.table == blue.name)?;
        Some(match &column.to {
            Some(to) => format!(
                "the migration renames `{}` to `{to}`; a rename belongs into the window and is not carried yet. Add the new \
                 column, fill it by a trigger, and drop the old one in a later run",
                column.from
            ),
            None => format!(
                "the migration puts another column in the place of `{}`: rows that blue writes meanwhile would lack its values",
                column.from
            ),
        })
    }

    fn dropped(&self, blue: &'a Table) -> TableFlow {
        match self.copied(blue) {
            Some(reason) => self.refused(&blue.name, vec![reason]),
            None => out(&blue.name, "dropped by the migration: not sent, and stays on blue as it is"),
        }
    }

    /// Rows that a statement copies from this table into one that only green has.
    fn copied(&self, blue: &Table) -> Option<String> {
        let copy = self.writes(blue).find(|seen| seen.write.kind == "copy")?;
        let into = copy.write.columns.join(", ");
        (!self.options.frozen && !triggers::kept_elsewhere(blue, self.after)).then(|| {
            format!(
                "{} copies its rows into {into}, which only green has: rows that blue writes afterwards would be missing there. \
                 Make a row trigger on it in the migration that writes them there too",
                copy.by
            )
        })
    }

    /// What statements do to this table, its partitions, and what inherits it.
    fn writes<'s>(&'s self, blue: &'s Table) -> impl Iterator<Item = &'s SeenWrite> {
        self.seen.writes.iter().filter(move |seen| {
            let named = self.before.tables.get(&seen.write.table.to_string());
            seen.write.table == blue.name
                || named.and_then(Table::root) == Some(&blue.name)
                || self.inherits(blue, &seen.write.table)
        })
    }

    /// An UPDATE or DELETE of a table reaches the rows of those that inherit it.
    fn inherits(&self, blue: &Table, written: &RelationName) -> bool {
        blue.inherits.iter().any(|parent| {
            parent == written || self.before.tables.get(&parent.to_string()).is_some_and(|parent| self.inherits(parent, written))
        })
    }

    fn both(&self, blue: &'a Table, green: &'a Table) -> TableFlow {
        let none = Vec::new();
        let pair = Pair {
            blue,
            green,
            blue_parts: self.blue_parts.get(&blue.name).unwrap_or(&none),
            green_parts: self.green_parts.get(&blue.name).unwrap_or(&none),
        };
        let mut judgement = Judgement::default();
        shape(&pair, &mut judgement);
        let key = identity::judge(&pair, &mut judgement);
        if key == Key::None || !judgement.refused.is_empty() {
            return self.refused(&blue.name, judgement.refused);
        }
        let mut shared = columns::judge(&pair, (self.before, self.after), &key, self.options, &mut judgement);
        rules::judge(&pair, self.options, &mut judgement);
        for seen in self.writes(blue) {
            if self.options.frozen {
                judgement.loses.extend(rewritten(blue, green, seen, &mut shared));
            } else {
                judgement.refused.extend(written(blue, green, seen));
            }
        }
        judgement.refused.extend(self.copied(blue));
        if !self.options.frozen {
            judgement.shims.extend(triggers::says(self.before, blue, self.after, green));
            self.filled(blue, green, &mut judgement);
        }
        if !judgement.refused.is_empty() {
            return self.refused(&blue.name, judgement.refused);
        }
        let accepted = self.options.accepted.contains(&blue.name);
        let verdict = if !judgement.refused_back.is_empty() {
            shared.reverse = Some(Vec::new());
            shared.relax_on_blue.clear();
            let what = judgement.refused_back.into_iter().map(|why| format!("every row written after the cutover: {why}"));
            Verdict::RollbackWouldLose { what: what.collect(), accepted }
        } else if !judgement.loses.is_empty() {
            Verdict::RollbackWouldLose { what: judgement.loses, accepted }
        } else if !judgement.shims.is_empty() {
            Verdict::LosslessWithShim { shims: judgement.shims }
        } else {
            Verdict::Lossless
        };
        TableFlow { table: blue.name.clone(), flow: Flow::Both(shared), verdict }
    }

    /// Columns of green's that an UPDATE fills once.
    fn filled(&self, blue: &Table, green: &Table, judgement: &mut Judgement) {
        for seen in self.writes(blue).filter(|seen| seen.write.kind == "update") {
            let own = |column: &&String| blue.column(column).is_none() && green.column(column).is_some();
            let own: Vec<&str> = seen.write.columns.iter().filter(own).map(String::as_str).collect();
            if !own.is_empty() {
                judgement.shims.push(format!(
                    "{} fills `{}` once: rows that blue writes afterwards get their value from the default, or from a row trigger \
                     that the migration makes",
                    seen.by,
                    own.join("`, `")
                ));
            }
        }
    }
}

/// What a rollback would not undo of a statement's writes, done while blue stood still. What they change cannot be compared
/// with blue.
fn rewritten(blue: &Table, green: &Table, seen: &SeenWrite, shared: &mut super::SharedColumns) -> Option<String> {
    let (write, by) = (&seen.write, &seen.by);
    let changed = matches!(write.kind.as_str(), "update" | "convert") && !write.columns.is_empty();
    if write.kind == "copy" {
        return None;
    }
    if changed && triggers::old_ones(blue, &write.fires).is_empty() {
        shared.compare.retain(|column| !write.columns.contains(&column.name));
        let both = |column: &&String| blue.column(column).is_some() && green.column(column).is_some();
        let both: Vec<&str> = write.columns.iter().filter(both).map(String::as_str).collect();
        return (!both.is_empty()).then(|| {
            format!(
                "{by} changes `{}`: rows written after the cutover come back changed, the others as they were",
                both.join("`, `")
            )
        });
    }
    shared.rewritten = true;
    Some(match write.kind.as_str() {
        "insert" => format!("{by} inserts rows: blue has none of them, nor what is changed in them later"),
        "update" | "convert" => {
            format!("{by} changes rows: those written after the cutover come back changed, the others as they were")
        }
        _ => format!("{by} removes rows: blue has them still"),
    })
}

/// Why a statement's writes cannot be carried.
fn written(blue: &Table, green: &Table, seen: &SeenWrite) -> Option<String> {
    const WINDOW: &str = "it belongs into the window, which is not carried yet; run it on blue before, or after the finish";
    let (write, by) = (&seen.write, &seen.by);
    let old = triggers::old_ones(blue, &write.fires);
    match write.kind.as_str() {
        "copy" => None,
        "convert" => {
            let columns = write.columns.join("`, `");
            Some(format!(
                "{by} converts `{columns}` by an expression: rows that arrive from blue afterwards are not converted by it"
            ))
        }
        "update" => {
            let is_shared = |column: &&String| blue.column(column).is_some() && green.column(column).is_some();
            let shared: Vec<&str> = write.columns.iter().filter(is_shared).map(String::as_str).collect();
            if write.columns.is_empty() {
                Some(format!("{by} updates rows, of which columns cannot be told: {WINDOW}"))
            } else if !shared.is_empty() {
                let columns = shared.join("`, `");
                Some(format!("{by} sets `{columns}`, which blue has too and would overwrite: {WINDOW}"))
            } else if !old.is_empty() {
                let old = old.join("`, `");
                Some(format!(
                    "{by} updates rows, for which blue's trigger `{old}` fires and may write what blue has too; switch it off \
                     around the statement: ALTER TABLE .. DISABLE TRIGGER"
                ))
            } else {
                None
            }
        }
        kind => {
            let verb = match kind {
                "insert" => "inserts rows into it",
                "delete" => "deletes its rows",
                _ => "empties it",
            };
            Some(format!("{by} {verb} on green alone, and blue would not have the change: {WINDOW}"))
        }
    }
}

/// What kind of table it is on both sides.
fn shape(pair: &Pair<'_>, judgement: &mut Judgement) {
    let (blue, green) = (pair.blue, pair.green);
    let mut refuse = |reason: &str| judgement.refused.push(reason.to_owned());
    if green.foreign || green.persistence != blue.persistence {
        refuse("the migration makes it unlogged, or a table of another kind, which is not sent back");
    }
    let bounds = |parts: &[&Table]| -> Vec<(String, Partition)> {
        parts.iter().map(|part| (part.name.to_string(), part.partition.clone())).collect()
    };
    if green.partition != blue.partition || bounds(pair.blue_parts) != bounds(pair.green_parts) {
        refuse(
            "the migration changes how it is partitioned, which is not carried yet; add new partitions on blue, before the run",
        );
    }
    if green.inherits != blue.inherits {
        refuse("the migration changes what it inherits");
    }
    if pair.blue_parts.iter().chain(pair.green_parts).any(|part| part.foreign || part.persistence != Persistence::Permanent) {
        refuse("one of its partitions is a foreign or unlogged table, whose rows are not sent");
    }
}

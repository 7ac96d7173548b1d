//! Which columns flow in which direction.

use super::canonical::{canonical, mentions};
use super::carry::{Carried, Carry, carry, refuses_null};
use super::flow::{FlowOptions, Judgement};
use super::identity::{Key, Pair};
use super::{Catalog, Column, ComparedColumn, SharedColumns};

/// The first major version that has column lists in publications.
const COLUMN_LISTS: u32 = 15;

/// Judges each column; how the publications name them.
pub(super) fn judge(
    pair: &Pair<'_>,
    catalogs: (&Catalog, &Catalog),
    key: &Key,
    options: &FlowOptions,
    judgement: &mut Judgement,
) -> SharedColumns {
    let mut shared = SharedColumns {
        rewritten: false,
        forward: None,
        reverse: None,
        key: match key {
            Key::Columns(columns) => columns.clone(),
            Key::Whole | Key::None => pair.blue.primary_key.clone(),
        },
        compare: Vec::new(),
        relax_on_green: Vec::new(),
        relax_on_blue: Vec::new(),
        identity: pair.blue.identity.clone(),
    };
    let mut kept_back = KeptBack::default();
    for blue in &pair.blue.columns {
        match pair.green.column(&blue.name) {
            None => dropped(pair, (catalogs.0, options), blue, &mut shared, &mut kept_back, judgement),
            Some(green) => {
                if let Some(compared) = both(catalogs, options, (blue, green), &mut shared, &mut kept_back, judgement) {
                    shared.compare.push(compared);
                }
            }
        }
    }
    for green in pair.green.columns.iter().filter(|green| pair.blue.column(&green.name).is_none()) {
        added(catalogs.1, options, green, &mut kept_back, judgement);
    }
    let list = |columns: &[Column], without: &[String]| {
        let sent = columns.iter().filter(|column| column.generated.is_none() && !without.contains(&column.name));
        (!without.is_empty()).then(|| sent.map(|column| column.name.clone()).collect())
    };
    shared.forward = list(&pair.blue.columns, &kept_back.on_blue);
    shared.reverse = list(&pair.green.columns, &kept_back.on_green);
    for (side, without, refused) in
        [("blue", &kept_back.on_blue, &mut judgement.refused), ("green", &kept_back.on_green, &mut judgement.refused_back)]
    {
        let Some(first) = without.first() else { continue };
        let table = if side == "blue" { pair.blue } else { pair.green };
        if Key::of(table) == Key::Whole {
            refused.push(format!(
                "`{first}` must be left out of what {side} sends, and a table with REPLICA IDENTITY FULL is sent whole; \
                 give it a primary key, or a unique index as replica identity, on blue"
            ));
        } else if options.major < COLUMN_LISTS {
            refused.push(format!(
                "`{first}` must be left out of what {side} sends, for which PostgreSQL {COLUMN_LISTS} or later is needed"
            ));
        }
    }
    shared
}

/// Columns that a side has and does not send.
#[derive(Default)]
struct KeptBack {
    on_blue: Vec<String>,
    on_green: Vec<String>,
}

fn has_value_of_its_own(column: &Column) -> bool {
    column.default.is_some() || !column.identity.is_empty() || column.generated.is_some()
}

/// A default that gives each row another value, or may: a call.
fn volatile(default: &str) -> bool {
    let name_len = default.find(|c: char| !c.is_alphanumeric() && !['_', '.', '"'].contains(&c)).unwrap_or(default.len());
    default.starts_with("CURRENT_") || (name_len > 0 && default[name_len..].starts_with('('))
}

fn dropped(
    pair: &Pair<'_>,
    (catalog, options): (&Catalog, &FlowOptions),
    column: &Column,
    shared: &mut SharedColumns,
    kept_back: &mut KeptBack,
    judgement: &mut Judgement,
) {
    let name = &column.name;
    if column.generated.is_some() {
        // Neither side sends it, and blue computes it for rows that come back.
        return;
    }
    kept_back.on_blue.push(name.clone());
    if shared.key.contains(name) {
        judgement.refused.push(format!("the migration drops `{name}`, which is part of its key"));
        return;
    }
    let own_value = has_value_of_its_own(column);
    if !own_value && refuses_null(catalog, &column.type_name) {
        let type_name = &column.type_name;
        judgement.refused.push(format!("the migration drops `{name}`, and its domain `{type_name}` refuses rows without it"));
        return;
    }
    if column.not_null && !own_value {
        shared.relax_on_green.push(name.clone());
        shared.relax_on_blue.push(name.clone());
        let until_then = if options.frozen { "" } else { " on green until then, and" };
        judgement.shims.push(format!(
            "`{name}` is dropped: it loses NOT NULL{until_then} on blue from the window on. Rows inserted after \
             the cutover have no value there on blue, and NOT NULL is put back at a rollback only if there is no such row"
        ));
    } else {
        let default = column.default.as_deref().unwrap_or("NULL");
        let value = if column.identity.is_empty() { format!("the default {default}") } else { "a number".to_owned() };
        judgement.shims.push(format!("`{name}` is dropped: rows inserted after the cutover get {value} there on blue"));
    }
    let checks = pair.blue.constraints.iter().filter(|c| c.kind == "c" && mentions(&c.definition, name));
    for check in checks {
        judgement.shims.push(format!("rows must pass blue's `{}` without a value of their own for `{name}`", check.name));
    }
    let one_value = column.default.as_deref().is_some_and(|default| !volatile(default) && default != "NULL");
    for index in pair.blue.indexes.iter().filter(|index| index.unique && index.valid) {
        let (_, on) = index.definition.split_once(" USING ").unwrap_or_default();
        if !mentions(on, name) || !(one_value || on.contains("NULLS NOT DISTINCT")) {
            continue;
        }
        let with_others = pair.blue.columns.iter().any(|other| other.name != *name && mentions(on, &other.name));
        if with_others {
            judgement.shims.push(format!("rows must be unique in blue's `{}` with the default of `{name}`", index.name));
        } else {
            let index = &index.name;
            judgement.refused.push(format!("the migration drops `{name}`, and rows without it would collide in `{index}`"));
        }
    }
}

fn added(catalog: &Catalog, options: &FlowOptions, column: &Column, kept_back: &mut KeptBack, judgement: &mut Judgement) {
    let name = &column.name;
    if column.generated.is_some() {
        // Never sent; green computes it.
        judgement.shims.push(format!("`{name}` is computed on green and not sent to blue"));
        return;
    }
    if !options.frozen && !has_value_of_its_own(column) && (column.not_null || refuses_null(catalog, &column.type_name)) {
        judgement.refused.push(format!(
            "the migration adds `{name}` as NOT NULL without a default, and rows from blue have no value for it; \
             give it a default, or add NOT NULL after the run"
        ));
        return;
    }
    kept_back.on_green.push(name.clone());
    let made_on_green = column.default.as_deref().filter(|default| !options.frozen && volatile(default));
    judgement.shims.push(match made_on_green {
        Some(default) => {
            format!("`{name}` is green's alone: not sent to blue; for rows from blue its values are made on green ({default})")
        }
        None => format!("`{name}` is green's alone: not sent to blue"),
    });
}

/// A column that both sides have: how it is compared, if it can be.
fn both(
    catalogs: (&Catalog, &Catalog),
    options: &FlowOptions,
    (blue, green): (&Column, &Column),
    shared: &mut SharedColumns,
    kept_back: &mut KeptBack,
    judgement: &mut Judgement,
) -> Option<ComparedColumn> {
    let name = &blue.name;
    match (&blue.generated, &green.generated) {
        (Some(a), Some(b)) => {
            if canonical(a) == canonical(b) && blue.type_name == green.type_name {
                return Some(ComparedColumn { name: name.clone(), cast: None });
            }
            judgement.shims.push(format!("`{name}` is computed by each side's own expression"));
            return None;
        }
        (None, Some(_)) => {
            kept_back.on_blue.push(name.clone());
            if blue.not_null && !has_value_of_its_own(blue) {
                shared.relax_on_blue.push(name.clone());
            }
            judgement.loses.push(format!("`{name}`, which green computes and does not send: blue gets no value for it"));
            return None;
        }
        (Some(_), None) => {
            kept_back.on_green.push(name.clone());
            if options.frozen {
                judgement.shims.push(format!("`{name}` is not sent to blue, which computes it"));
                return None;
            }
            let why = "which blue computes and does not send: rows from blue would have no value for it on green";
            judgement.refused.push(format!("the migration makes an ordinary column of `{name}`, {why}"));
            return None;
        }
        (None, None) => {}
    }
    match carry(catalogs.0, &blue.type_name, catalogs.1, &green.type_name) {
        Carry::Refused(why) => judgement.refused.push(format!("`{name}`: {why}")),
        Carry::ForwardOnly(why) => judgement.refused_back.push(format!("`{name}`: {why}")),
        Carry::Flows(Carried { forward, back, loses }) => {
            judgement.shims.extend(forward.filter(|_| !options.frozen).map(|what| {
                format!("`{name}` flows to green as text as long as {what}; a row for which that does not hold stops the sync")
            }));
            judgement.shims.extend(back.map(|what| {
                format!("`{name}` flows back as text as long as {what}; `status` looks at the rows for which it does not hold")
            }));
            judgement.loses.extend(loses.map(|what| format!("`{name}`: {what}")));
        }
    }
    if green.not_null && !blue.not_null && !options.frozen {
        judgement
            .shims
            .push(format!("`{name}` becomes NOT NULL: a row from blue without a value stops the sync, and is noticed"));
    }
    if blue.not_null && !green.not_null {
        judgement.shims.push(format!(
            "`{name}` is no longer NOT NULL on green: a row without a value, written after the cutover, stops the way back to blue"
        ));
    }
    let cast = (blue.type_name != green.type_name && green.builtin_type).then(|| green.type_name.clone());
    Some(ComparedColumn { name: name.clone(), cast })
}

use super::{Catalog, Column, Table, fingerprint::comparable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing in which two schemas differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Such as `table shop.orders` or `function shop.total(integer)`.
    pub object: String,
    /// Such as `added`, `dropped`, or what of it changed.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.what)
    }
}

/// What leads from `before` to `after`, object by object; empty exactly when both have the same fingerprint.
pub fn difference(before: &Catalog, after: &Catalog) -> Vec<Change> {
    let (before, after) = (comparable(before), comparable(after));
    let mut changes = Vec::new();
    let set = |schemas: &[String]| schemas.iter().map(|schema| (schema.clone(), ())).collect::<BTreeMap<_, _>>();
    compare(&mut changes, "schema", &set(&before.schemas), &set(&after.schemas), |(), ()| Vec::new());
    compare(&mut changes, "extension", &before.extensions, &after.extensions, |_, _| Vec::new());
    compare(&mut changes, "type", &before.types, &after.types, |a, b| vec![format!("was {a}, is {b}")]);
    compare(&mut changes, "table", &before.tables, &after.tables, table_changes);
    compare(&mut changes, "sequence", &before.sequences, &after.sequences, |_, _| vec!["changed".to_owned()]);
    compare(&mut changes, "view", &before.views, &after.views, |_, _| vec!["changed".to_owned()]);
    compare(&mut changes, "function", &before.functions, &after.functions, |_, _| vec!["changed".to_owned()]);
    compare(&mut changes, "", &before.others, &after.others, |_, _| vec!["changed".to_owned()]);
    changes
}

fn compare<T: PartialEq>(
    changes: &mut Vec<Change>,
    kind: &str,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    changed: impl Fn(&T, &T) -> Vec<String>,
) {
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let whats = match (before.get(name), after.get(name)) {
            (Some(a), Some(b)) if a != b => changed(a, b),
            (Some(_), None) => vec!["dropped".to_owned()],
            (None, Some(_)) => vec!["added".to_owned()],
            _ => Vec::new(),
        };
        let object = format!("{kind} {name}").trim_start().to_owned();
        changes.extend(whats.into_iter().map(|what| Change { object: object.clone(), what }));
    }
}

fn table_changes(before: &Table, after: &Table) -> Vec<String> {
    let mut changes = Vec::new();
    let by_name = |columns: &[Column]| columns.iter().map(|column| (column.name.clone(), column.clone())).collect();
    compare(&mut changes, "column", &by_name(&before.columns), &by_name(&after.columns), column_changes);
    macro_rules! parts {
        ($kind:literal, $field:ident) => {
            let by_name = |table: &Table| table.$field.iter().map(|part| (part.name.clone(), part.clone())).collect();
            compare(&mut changes, $kind, &by_name(before), &by_name(after), |_, _| vec!["changed".to_owned()]);
        };
    }
    parts!("constraint", constraints);
    parts!("index", indexes);
    parts!("trigger", triggers);
    let mut whats: Vec<String> = changes.into_iter().map(|change| format!("{} {}", change.object, change.what)).collect();
    let mut note = |differs: bool, what: &str| whats.extend(differs.then(|| format!("{what} changed")));
    note(before.primary_key != after.primary_key, "primary key");
    note(before.identity != after.identity, "replica identity");
    note(before.persistence != after.persistence, "persistence");
    note(before.partition != after.partition, "partitioning");
    note(before.inherits != after.inherits, "inheritance");
    note(before.row_security != after.row_security, "row security");
    note(before.foreign != after.foreign, "kind");
    whats
}

fn column_changes(before: &Column, after: &Column) -> Vec<String> {
    let mut whats = Vec::new();
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    if before.type_name != after.type_name {
        whats.push(format!("changed its type from {} to {}", before.type_name, after.type_name));
    }
    if before.not_null != after.not_null {
        whats.push(if after.not_null { "became NOT NULL" } else { "is no longer NOT NULL" }.to_owned());
    }
    if before.default != after.default {
        whats.push(format!("changed its default from {} to {}", or_none(&before.default), or_none(&after.default)));
    }
    if before.generated != after.generated {
        whats.push(format!("changed its expression from {} to {}", or_none(&before.generated), or_none(&after.generated)));
    }
    if before.identity != after.identity || before.collation != after.collation || before.builtin_type != after.builtin_type {
        whats.push("changed".to_owned());
    }
    whats
}

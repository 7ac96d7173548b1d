//! What a schema is, in short, to see that somebody changed it.

use super::{Catalog, canonical::canonical};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The schema, object by object, each as the beginning of its SHA-256. Two servers with one schema have one fingerprint,
/// whatever the order of columns, the versions of extensions, whether a trigger fires always, and whether the schema came by
/// replication, by DDL, or by a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, String>);

/// Objects that are named in a message.
const NAMED_MAX: usize = 5;

impl FromIterator<(String, String)> for Fingerprint {
    /// Of objects by kind and name, and any text that tells one state of an object from another.
    fn from_iter<T: IntoIterator<Item = (String, String)>>(objects: T) -> Fingerprint {
        Fingerprint(objects.into_iter().collect())
    }
}

impl Fingerprint {
    /// Whether there is such an object, by kind and name: `table public.orders`.
    pub fn has(&self, object: &str) -> bool {
        self.0.contains_key(object)
    }

    /// Only the objects that are of concern.
    #[must_use]
    pub fn only(mut self, of_concern: impl Fn(&str) -> bool) -> Fingerprint {
        self.0.retain(|name, _| of_concern(name));
        self
    }

    /// What of this schema another one has changed, for a person: `table public.orders changed, view public.totals dropped`.
    pub fn changes(&self, now: &Fingerprint) -> String {
        let names: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        let what = |name: &&String| match (self.0.get(*name), now.0.get(*name)) {
            (Some(_), None) => Some(format!("{name} dropped")),
            (None, Some(_)) => Some(format!("{name} added")),
            (before, after) => (before != after).then(|| format!("{name} changed")),
        };
        let mut changes: Vec<String> = names.iter().filter_map(what).collect();
        if changes.len() > NAMED_MAX {
            let more = changes.split_off(NAMED_MAX).len();
            changes.push(format!("and {more} more"));
        }
        changes.join(", ")
    }
}

pub fn fingerprint(catalog: &Catalog) -> Fingerprint {
    let catalog = comparable(catalog);
    let mut objects = BTreeMap::new();
    note(&mut objects, "schema", catalog.schemas.iter().map(|schema| (schema, &())));
    note(&mut objects, "extension", &catalog.extensions);
    note(&mut objects, "type", &catalog.types);
    note(&mut objects, "table", &catalog.tables);
    note(&mut objects, "sequence", &catalog.sequences);
    note(&mut objects, "view", &catalog.views);
    note(&mut objects, "function", &catalog.functions);
    note(&mut objects, "", &catalog.others);
    Fingerprint(objects)
}

fn note<'a, T: Serialize + 'a>(
    objects: &mut BTreeMap<String, String>,
    kind: &str,
    of_kind: impl IntoIterator<Item = (&'a String, &'a T)>,
) {
    for (name, object) in of_kind {
        let text = serde_json::to_string(object).unwrap_or_default();
        let hex = Sha256::digest(text.as_bytes())[..16].iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        objects.insert(format!("{kind} {name}").trim_start().to_owned(), hex);
    }
}

/// The catalogue without what may differ between equal schemas.
pub(super) fn comparable(catalog: &Catalog) -> Catalog {
    let mut catalog = catalog.clone();
    for table in catalog.tables.values_mut() {
        for column in &mut table.columns {
            for expression in [&mut column.default, &mut column.generated].into_iter().flatten() {
                *expression = canonical(expression);
            }
        }
        table.columns.sort_by(|a, b| a.name.cmp(&b.name));
        for constraint in &mut table.constraints {
            constraint.definition = canonical(&constraint.definition);
        }
        table.constraints.sort_by(|a, b| a.name.cmp(&b.name));
        // What a failed CREATE INDEX CONCURRENTLY left behind is of no effect, and no dump holds it.
        table.indexes.retain(|index| index.valid);
        for index in &mut table.indexes {
            index.definition = canonical(&index.definition);
        }
        table.indexes.sort_by(|a, b| a.name.cmp(&b.name));
        for trigger in &mut table.triggers {
            trigger.definition = canonical(&trigger.definition);
            // A run sets its sync triggers to ALWAYS for a time.
            if trigger.enabled == "A" {
                "O".clone_into(&mut trigger.enabled);
            }
        }
        table.triggers.sort_by(|a, b| a.name.cmp(&b.name));
        table.inherits.sort();
    }
    for view in catalog.views.values_mut() {
        view.definition = canonical(&view.definition);
        view.populated = true;
    }
    // The server deparses the bodies that it has parsed; the others are the user's own text.
    for function in catalog.functions.values_mut().filter(|text| text.contains("BEGIN ATOMIC") || text.contains("\nRETURN ")) {
        *function = canonical(function);
    }
    for text in catalog.types.values_mut().filter(|text| text.starts_with("DOMAIN")).chain(catalog.others.values_mut()) {
        *text = canonical(text);
    }
    for version in catalog.extensions.values_mut() {
        version.clear();
    }
    // A new database has it, and a dump does not say that it was dropped.
    catalog.schemas.retain(|schema| schema != "public");
    catalog
}

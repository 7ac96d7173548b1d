use super::{Catalog, canonical::canonical};
use sha2::{Digest, Sha256};

/// SHA-256, in hex, of the schema. Two servers with one schema have one fingerprint, whatever the order of columns, the
/// versions of extensions, whether a trigger fires always, and whether the schema came by replication, by DDL, or by a dump.
pub fn fingerprint(catalog: &Catalog) -> String {
    let text = serde_json::to_string(&comparable(catalog)).unwrap_or_default();
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
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
                trigger.enabled = "O".to_owned();
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

//! Salvaged rows as text.

use super::SalvageTable;
use super::apply::OnConflict;
use super::compare::{Change, Kind, Values};
use crate::word::{quote_ident, quote_literal};

/// Rows as a statement that can be run again without harm.
pub fn sql(table: &SalvageTable, rows: &[&Values], on_conflict: OnConflict) -> String {
    let constant =
        |value: &Option<String>| value.as_deref().map_or("NULL".to_owned(), |text| quote_literal(text).trim_start().to_owned());
    let row = |values: &&Values| format!("({})", values.iter().map(constant).collect::<Vec<_>>().join(", "));
    let rows: Vec<String> = rows.iter().map(row).collect();
    format!("{} VALUES {}{}", insert_into(table), rows.join(", "), conflict(table, on_conflict))
}

fn insert_into(table: &SalvageTable) -> String {
    let columns: Vec<String> = table.columns.iter().map(|name| quote_ident(name)).collect();
    let overriding = if table.overriding { " OVERRIDING SYSTEM VALUE" } else { "" };
    format!("INSERT INTO {} ({}){overriding}", table.name.sql(), columns.join(", "))
}

fn conflict(table: &SalvageTable, on_conflict: OnConflict) -> String {
    let key: Vec<String> = table.key.iter().map(|name| quote_ident(name)).collect();
    let key = key.join(", ");
    let others: Vec<String> =
        table.columns.iter().filter(|name| !table.key.contains(name)).map(|name| quote_ident(name)).collect();
    match on_conflict {
        OnConflict::Stop => String::new(),
        OnConflict::Overwrite if !others.is_empty() => {
            let set: Vec<String> = others.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
            format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", "))
        }
        OnConflict::Overwrite | OnConflict::Keep => format!(" ON CONFLICT ({key}) DO NOTHING"),
    }
}

/// The header, or one row, of a CSV file: whether the row is missing or changed, then its columns. Null is empty, and the
/// empty text is `""`, as PostgreSQL's COPY reads them.
pub fn csv(table: &SalvageTable, change: Option<&Change>) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let cells: Vec<String> = match change {
        None => std::iter::once("greenlight_change".to_owned()).chain(table.columns.iter().map(|name| quoted(name))).collect(),
        Some(change) => {
            let kind = if change.kind == Kind::Missing { "missing" } else { "changed" };
            let values = change.values.iter().map(|value| value.as_deref().map(quoted).unwrap_or_default());
            std::iter::once(kind.to_owned()).chain(values).collect()
        }
    };
    cells.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::RelationName;

    #[test]
    fn rows_are_written_so_that_they_can_be_read_again() {
        let table = SalvageTable {
            name: RelationName::new("public", "Order items"),
            key: vec!["id".to_owned()],
            columns: vec!["id".to_owned(), "say \"x\"".to_owned()],
            overriding: true,
        };
        let values = vec![Some("1".to_owned()), Some(r"it's \ one".to_owned())];
        assert_eq!(
            sql(&table, &[&values], OnConflict::Overwrite),
            "INSERT INTO \"public\".\"Order items\" (\"id\", \"say \"\"x\"\"\") OVERRIDING SYSTEM VALUE VALUES ('1', E'it''s \\\\ one') \
             ON CONFLICT (\"id\") DO UPDATE SET \"say \"\"x\"\"\" = EXCLUDED.\"say \"\"x\"\"\""
        );
        assert_eq!(csv(&table, None), r#"greenlight_change,"id","say ""x""""#);
        let change = Change { kind: Kind::Missing, values: vec![Some("1".to_owned()), None] };
        assert_eq!(csv(&table, Some(&change)), "missing,\"1\",");
    }
}

//! Rows of blue that rules which only green has refuse: why green's apply worker is stuck, by key.
//!
//! Foreign keys are left out: an apply worker runs with the replica role, for which they are not checked.

use super::Difference;
use crate::postgres::catalog;
use crate::postgres::client::Session;
use crate::schema::{Catalog, Flow, Index, Table, TableFlow};
use crate::word::{PortError, quote_ident, quote_literal};

/// Rows of one rule that are shown.
const SHOWN_MAX: usize = 5;

/// A rule of green's, and which rows of blue break it, as a query's `FROM` and `WHERE`.
struct Rule {
    what: String,
    rows: String,
}

/// # Errors
/// When a catalogue cannot be read. A rule that cannot be put to blue (it speaks of a column that blue has not) is passed over.
pub(super) async fn find(blue: &Session, green: &Session, tables: &[TableFlow]) -> Result<Vec<Difference>, PortError> {
    let (on_blue, on_green) = (catalog::read(blue.client()).await?, catalog::read(green.client()).await?);
    let mut found = Vec::new();
    for flow in tables.iter().filter(|flow| matches!(flow.flow, Flow::Both(_))) {
        let of = |catalog: &'_ Catalog| catalog.tables.values().find(|table| table.name == flow.table).cloned();
        let (Some(before), Some(after)) = (of(&on_blue), of(&on_green)) else { continue };
        for rule in new_rules(&before, &after) {
            let sql = format!("SELECT {} FROM {} LIMIT {SHOWN_MAX}", key_text(&before), rule.rows);
            match blue.read("look for rows that green refuses", &sql, &[]).await {
                Ok(rows) => found.extend(rows.iter().map(|row| Difference {
                    object: flow.table.to_string(),
                    key: row.get(0),
                    what: format!("green refuses it: {}", rule.what),
                })),
                Err(error) => tracing::debug!(rule = rule.what, error = %error.chain(), "a rule could not be put to blue"),
            }
        }
    }
    Ok(found)
}

fn new_rules(before: &Table, after: &Table) -> Vec<Rule> {
    let table = before.name.sql();
    let known = |definition: &str| before.constraints.iter().any(|constraint| constraint.definition == definition);
    let checks = after.constraints.iter().filter(|c| c.kind == "c" && !known(&c.definition)).map(|c| {
        let condition = c.definition.trim_start_matches("CHECK ").trim_end_matches(" NOT VALID").trim_end_matches(" NO INHERIT");
        Rule { what: format!("constraint `{}`, {}", c.name, c.definition), rows: format!("{table} WHERE NOT ({condition})") }
    });
    let not_nulls = after.columns.iter().filter(|column| column.not_null).filter_map(|column| {
        let nullable = !before.column(&column.name)?.not_null;
        nullable.then(|| Rule {
            what: format!("column `{}` is NOT NULL", column.name),
            rows: format!("{table} WHERE {} IS NULL", quote_ident(&column.name)),
        })
    });
    let is_new = |index: &&Index| index.unique && before.indexes.iter().all(|known| known.definition != index.definition);
    let unique = after.indexes.iter().filter(is_new).filter_map(|index| {
        let (columns, condition) = columns_of(&index.definition)?;
        let condition = condition.map(|condition| format!(" AND ({condition})")).unwrap_or_default();
        Some(Rule {
            what: format!("unique index `{}`, ({columns})", index.name),
            rows: format!(
                "(SELECT *, count(*) OVER (PARTITION BY {columns}) AS \"greenlight count\" FROM {table} \
                 WHERE ROW({columns}) IS NOT NULL{condition}) AS grouped WHERE \"greenlight count\" > 1"
            ),
        })
    });
    checks.chain(not_nulls).chain(unique).collect()
}

/// The columns and the condition of an index, as `pg_get_indexdef` writes it.
fn columns_of(definition: &str) -> Option<(&str, Option<&str>)> {
    let (_, from) = definition.split_once(" USING btree (")?;
    let mut depth = 1;
    let end = from.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    })?;
    Some((&from[..end], from[end..].split_once(" WHERE ").map(|(_, condition)| condition)))
}

/// `id=7, line=1`; without a key the row's place in the table.
fn key_text(table: &Table) -> String {
    if table.primary_key.is_empty() {
        return "'ctid=' || ctid::text".to_owned();
    }
    let part = |name: &String| format!("{} || {}::text", quote_literal(&format!("{name}=")), quote_ident(name));
    format!("concat_ws(', ', {})", table.primary_key.iter().map(part).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::columns_of;

    #[test]
    fn an_index_is_read_as_the_server_writes_it() {
        let of = |definition| columns_of(definition);
        assert_eq!(of("CREATE UNIQUE INDEX i ON public.t USING btree (a, lower(b))"), Some(("a, lower(b)", None)));
        let partial = "CREATE UNIQUE INDEX i ON t USING btree (a) NULLS NOT DISTINCT WHERE (b > 0)";
        assert_eq!(of(partial), Some(("a", Some("(b > 0)"))));
        assert_eq!(of("CREATE INDEX i ON t USING gin (a)"), None);
    }
}

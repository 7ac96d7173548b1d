//! Rows of the side that serves which rules of the one that follows refuse, and it alone has: why its apply worker is stuck, by key.
//!
//! Foreign keys are left out: an apply worker runs with the replica role, for which they are not checked. So are rules that call
//! something of the user's own, or look at a value of such a type: they would be worked out here with our rights.

use super::Difference;
use crate::postgres::catalog;
use crate::postgres::client::Session;
use crate::postgres::content::{Content, text_of};
use crate::schema::{Catalog, Flow, Index, Table, TableFlow};
use crate::word::{PortError, Side, quote_ident, quote_literal};
use std::collections::BTreeSet;
use tokio_postgres::types::Type;

/// Rows of one rule that are shown.
const SHOWN_MAX: usize = 5;

/// A rule of the side that follows, and which rows break it.
struct Rule {
    /// Of the constraint or index; empty for that of a column.
    name: String,
    what: String,
    broken: Broken,
}

enum Broken {
    /// Where this is so.
    Where(String),
    /// Several rows have the same of these, of those for which the condition holds.
    Twice { columns: String, condition: String },
}

impl Rule {
    /// A query's `FROM` and `WHERE`.
    fn rows(&self, table: &str) -> String {
        match &self.broken {
            Broken::Where(condition) => format!("{table} WHERE {condition}"),
            Broken::Twice { columns, condition } => format!(
                "(SELECT *, count(*) OVER (PARTITION BY {columns}) AS \"greenlight count\" FROM {table} \
                 WHERE ROW({columns}) IS NOT NULL{condition}) AS grouped WHERE \"greenlight count\" > 1"
            ),
        }
    }

    /// It names no column of which the type is one of the user's own.
    fn is_plain(&self, before: &Table) -> bool {
        let text = self.rows("");
        before.columns.iter().all(|column| column.builtin_type || !text.contains(&column.name))
    }
}

/// Constraints and indexes of that side that name, by themselves, a function, an operator or a type that is not PostgreSQL's own.
const OF_OTHERS: &str = "SELECT DISTINCT coalesce(k.conname, c.relname)::text FROM pg_depend d
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('i', 'I')
    WHERE coalesce(k.conrelid, (SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = c.oid)) = to_regclass($1)
      AND d.refclassid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass, 'pg_namespace'::regclass)";

/// `to`: the side that follows.
///
/// # Errors
/// When a catalogue cannot be read. A rule that cannot be put to the rows (it speaks of a column that they have not) is passed over.
pub(super) async fn find(
    source: &Session,
    follower: &Session,
    to: Side,
    tables: &[TableFlow],
) -> Result<Vec<Difference>, PortError> {
    let (here, there) = (catalog::read(source.client()).await?, catalog::read(follower.client()).await?);
    let mut found = Vec::new();
    for flow in tables.iter().filter(|flow| matches!(flow.flow, Flow::Both(_))) {
        let of = |catalog: &'_ Catalog| catalog.tables.values().find(|table| table.name == flow.table).cloned();
        let (Some(before), Some(after)) = (of(&here), of(&there)) else { continue };
        let attempted = &format!("look for rows that {to} refuses");
        let rows = follower.read(attempted, OF_OTHERS, &[(&flow.table.sql(), Type::TEXT)]).await?;
        let of_others: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let rules = new_rules(&before, &after).into_iter();
        let mut rules: Vec<Rule> = rules.filter(|rule| !of_others.contains(&rule.name) && rule.is_plain(&before)).collect();
        rules.extend(narrower((&here, &before), (&there, &after)));
        if rules.is_empty() {
            continue;
        }
        let content = Content::look(source, &flow.table, &[]).await?;
        for rule in rules {
            let sql = format!("SELECT {} FROM {} LIMIT {SHOWN_MAX}", key_text(&before), rule.rows(content.from()));
            match content.read(source, attempted, &sql).await {
                Ok(rows) => found.extend(rows.iter().map(|row| Difference {
                    object: flow.table.to_string(),
                    key: row.get(0),
                    what: format!("{to} refuses it: {}", rule.what),
                })),
                Err(error) => tracing::debug!(rule = rule.what, error = %error.chain(), "a rule could not be put to the rows"),
            }
        }
    }
    Ok(found)
}

/// Values that do not fit the other side's type: longer texts, larger numbers, labels that its enum has not. By their texts, as
/// PostgreSQL's own functions write them.
fn narrower((here, before): (&Catalog, &Table), (there, after): (&Catalog, &Table)) -> Vec<Rule> {
    let mut rules = Vec::new();
    for column in &after.columns {
        let Some(own) = before.column(&column.name) else { continue };
        let text = text_of(&column.name);
        let labels = |catalog: &Catalog| {
            catalog.types.get(&column.type_name).and_then(|text| text.strip_prefix("ENUM ").map(str::to_owned))
        };
        let length = column.type_name.strip_prefix("character varying(").or_else(|| column.type_name.strip_prefix("character("));
        let bounds = match column.type_name.as_str() {
            "smallint" => Some("-32768 AND 32767"),
            "integer" => Some("-2147483648 AND 2147483647"),
            _ => None,
        };
        let condition = if own.type_name == column.type_name {
            labels(there).filter(|_| labels(here) != labels(there)).map(|labels| format!("{text} NOT IN ({labels})"))
        } else if let Some(length) = length.and_then(|length| length.strip_suffix(')')) {
            Some(format!("pg_catalog.char_length({text}) > {length}"))
        } else if let (Some(bounds), "bigint" | "integer" | "numeric") = (bounds, own.type_name.as_str()) {
            Some(format!("{} NOT BETWEEN {bounds}", quote_ident(&column.name)))
        } else {
            None
        };
        rules.extend(condition.map(|condition| Rule {
            name: String::new(),
            what: format!("column `{}` is {} there, and its value does not fit", column.name, column.type_name),
            broken: Broken::Where(condition),
        }));
    }
    rules
}

fn new_rules(before: &Table, after: &Table) -> Vec<Rule> {
    let known = |definition: &str| before.constraints.iter().any(|constraint| constraint.definition == definition);
    let checks = after.constraints.iter().filter(|c| c.kind == "c" && !known(&c.definition)).map(|c| {
        let condition = c.definition.trim_start_matches("CHECK ").trim_end_matches(" NOT VALID").trim_end_matches(" NO INHERIT");
        let what = format!("constraint `{}`, {}", c.name, c.definition);
        Rule { name: c.name.clone(), what, broken: Broken::Where(format!("NOT ({condition})")) }
    });
    let not_nulls = after.columns.iter().filter(|column| column.not_null).filter_map(|column| {
        let nullable = !before.column(&column.name)?.not_null;
        nullable.then(|| Rule {
            name: String::new(),
            what: format!("column `{}` is NOT NULL", column.name),
            broken: Broken::Where(format!("{} IS NOT DISTINCT FROM NULL", quote_ident(&column.name))),
        })
    });
    let is_new = |index: &&Index| index.unique && before.indexes.iter().all(|known| known.definition != index.definition);
    let unique = after.indexes.iter().filter(is_new).filter_map(|index| {
        let (columns, condition) = columns_of(&index.definition)?;
        let condition = condition.map(|condition| format!(" AND ({condition})")).unwrap_or_default();
        let what = format!("unique index `{}`, ({columns})", index.name);
        Some(Rule { name: index.name.clone(), what, broken: Broken::Twice { columns: columns.to_owned(), condition } })
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
        return "pg_catalog.format('ctid=%s', ctid)".to_owned();
    }
    let part =
        |name: &String| format!("pg_catalog.concat({}::pg_catalog.text, {})", quote_literal(&format!("{name}=")), text_of(name));
    format!("pg_catalog.concat_ws(', ', {})", table.primary_key.iter().map(part).collect::<Vec<_>>().join(", "))
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

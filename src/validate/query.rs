//! The SQL of a table's comparison. Rows are hashed as the text of a row of texts, which keeps NULL and the empty text, and
//! the places of separators, apart. Blue's value of a column whose type the migration changed is cast to green's type first.

use super::rows::Key;
use crate::schema::SharedColumns;
use crate::word::{RelationName, quote_ident, quote_literal};

#[derive(Debug)]
pub(super) struct Comparison {
    table: String,
    key: Vec<String>,
    blue_row: String,
    green_row: String,
}

impl Comparison {
    pub(super) fn new(table: &RelationName, shared: &SharedColumns) -> Comparison {
        let row = |cast: bool| {
            let columns = shared.compare.iter().map(|column| match &column.cast {
                Some(to) if cast => format!("{}::{to}::text", quote_ident(&column.name)),
                _ => format!("{}::text", quote_ident(&column.name)),
            });
            format!("hashtextextended(ROW({})::text, 0)", columns.collect::<Vec<_>>().join(", "))
        };
        Comparison {
            table: table.sql(),
            key: shared.key.iter().map(|name| quote_ident(name)).collect(),
            blue_row: row(true),
            green_row: row(false),
        }
    }

    pub(super) fn key_len(&self) -> usize {
        self.key.len()
    }

    /// A key for people.
    pub(super) fn key_text(&self, key: &Key) -> String {
        let parts = self.key.iter().zip(key).map(|(name, value)| format!("{}={value}", name.trim_matches('"')));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Count, hash, and the last key's columns, of the next `rows` rows.
    pub(super) fn chunk_on_blue(&self, after: Option<&Key>, rows: u64) -> String {
        let order = self.key.join(", ");
        let back = self.key.iter().map(|name| format!("{name} DESC")).collect::<Vec<_>>().join(", ");
        let last = self.key.iter().map(|name| format!("(SELECT {name}::text FROM c ORDER BY {back} LIMIT 1)"));
        format!(
            "WITH c AS MATERIALIZED (SELECT {order}, {hash} AS greenlight_hash FROM {table} {range} ORDER BY {order} LIMIT {rows}) \
             SELECT count(*), coalesce(sum(greenlight_hash::numeric), 0)::text, {last} FROM c",
            hash = self.blue_row,
            table = self.table,
            range = self.range(after, None),
            last = last.collect::<Vec<_>>().join(", "),
        )
    }

    pub(super) fn range_on_green(&self, after: Option<&Key>, until: Option<&Key>) -> String {
        self.sum(&self.green_row, &self.range(after, until))
    }

    pub(super) fn whole_on_blue(&self) -> String {
        self.sum(&self.blue_row, "")
    }

    pub(super) fn whole_on_green(&self) -> String {
        self.sum(&self.green_row, "")
    }

    pub(super) fn hashes_on_blue(&self, after: Option<&Key>, until: Option<&Key>) -> String {
        self.hashes(&self.blue_row, &self.range(after, until))
    }

    pub(super) fn hashes_on_green(&self, after: Option<&Key>, until: Option<&Key>) -> String {
        self.hashes(&self.green_row, &self.range(after, until))
    }

    pub(super) fn keys_on_blue(&self, keys: &[Key]) -> String {
        self.hashes(&self.blue_row, &self.among(keys))
    }

    pub(super) fn keys_on_green(&self, keys: &[Key]) -> String {
        self.hashes(&self.green_row, &self.among(keys))
    }

    fn sum(&self, row: &str, range: &str) -> String {
        format!("SELECT count(*), coalesce(sum({row}::numeric), 0)::text FROM {} {range}", self.table)
    }

    fn hashes(&self, row: &str, range: &str) -> String {
        let key = self.key.iter().map(|name| format!("{name}::text")).collect::<Vec<_>>().join(", ");
        format!("SELECT {key}, {row}::text FROM {} {range}", self.table)
    }

    /// Constants without a type take that of the column that they are compared with.
    fn range(&self, after: Option<&Key>, until: Option<&Key>) -> String {
        let bound = |operator: &str, key: &Key| format!("({}) {operator} ({})", self.key.join(", "), constants(key));
        let bounds: Vec<String> = after.map(|key| bound(">", key)).into_iter().chain(until.map(|key| bound("<=", key))).collect();
        if bounds.is_empty() { String::new() } else { format!("WHERE {}", bounds.join(" AND ")) }
    }

    fn among(&self, keys: &[Key]) -> String {
        let list = keys.iter().map(|key| format!("({}) = ({})", self.key.join(", "), constants(key)));
        format!("WHERE {}", list.collect::<Vec<_>>().join(" OR "))
    }
}

fn constants(key: &Key) -> String {
    key.iter().map(|value| quote_literal(value)).collect::<Vec<_>>().join(", ")
}

//! The SQL of a table's comparison. A row is hashed as the text of a row of its values, each as its type's output function
//! writes it, which keeps NULL and the empty text, and the places of separators, apart: equal are rows whose values are written
//! the same. So 1.0 and 1.00 differ, as do 'a' and 'A' where they compare equal, 0 and -0, '1 day' and '24 hours'; any NaN is NaN.
//! Blue's value of a column whose type the migration changed is read from that text by green's type, one of the system's own,
//! which is what replication does.

use crate::postgres::content::{Content, Key, text_of};
use crate::schema::SharedColumns;
use crate::word::quote_ident;

/// One side's table.
#[derive(Debug)]
pub(super) struct Comparison {
    content: Content,
    row: String,
}

impl Comparison {
    /// `cast`: it is blue's, and values are cast to green's types.
    pub(super) fn new(content: Content, shared: &SharedColumns, cast: bool) -> Comparison {
        let columns = shared.compare.iter().map(|column| match &column.cast {
            Some(to) if cast => format!("({})::{to}", text_of(&column.name)),
            _ => quote_ident(&column.name),
        });
        let row = columns.collect::<Vec<_>>().join(", ");
        let row = format!("pg_catalog.hashtextextended(ROW({row})::pg_catalog.text COLLATE pg_catalog.\"C\", 0)");
        Comparison { content, row }
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// Count, hash, and the last key's columns, of the next `rows` rows.
    pub(super) fn chunk(&self, after: Option<&Key>, rows: u64) -> String {
        format!(
            "WITH c AS MATERIALIZED (SELECT {key}, {hash} AS greenlight_hash FROM {table} WHERE {range} ORDER BY {order} LIMIT {rows}) \
             SELECT pg_catalog.count(*), {sum}, {last} FROM c",
            key = self.content.order().values(),
            hash = self.row,
            table = self.content.from(),
            range = self.content.order().range("", after.map(Vec::as_slice), None),
            order = self.content.order().sorted(""),
            sum = sum("greenlight_hash"),
            last = self.content.order().greatest("c").join(", "),
        )
    }

    /// Count and hash of a range.
    pub(super) fn range(&self, after: Option<&Key>, until: Option<&Key>) -> String {
        let range = self.content.order().range("", after.map(Vec::as_slice), until.map(Vec::as_slice));
        format!("SELECT pg_catalog.count(*), {} FROM {} WHERE {range}", sum(&self.row), self.content.from())
    }

    /// Key and hash of each row of a range.
    pub(super) fn hashes(&self, after: Option<&Key>, until: Option<&Key>) -> String {
        self.each(&self.content.order().range("", after.map(Vec::as_slice), until.map(Vec::as_slice)))
    }

    /// Key and hash of the rows with these keys.
    pub(super) fn keys(&self, keys: &[Key]) -> String {
        self.each(&keys.iter().map(|key| self.content.order().is(key)).collect::<Vec<_>>().join(" OR "))
    }

    fn each(&self, which: &str) -> String {
        let key = self.content.order().texts("").join(", ");
        format!("SELECT {key}, {}::pg_catalog.text FROM {} WHERE {which}", self.row, self.content.from())
    }
}

/// The sum of hashes: the same whatever the order of the rows.
fn sum(hash: &str) -> String {
    format!("coalesce(pg_catalog.sum({hash}::pg_catalog.numeric), 0)::pg_catalog.text")
}

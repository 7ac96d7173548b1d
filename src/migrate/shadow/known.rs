//! What is in the shadow, by object id: the only name that a migration cannot give to something else.

use super::scratch::refused;
use crate::schema::{MovedColumn, Moves, Renamed};
use crate::word::{PortError, RelationName};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Error};

/// A table, an index or a materialized view.
pub(super) struct Known {
    pub(super) name: RelationName,
    /// `r`, `p`, `i`, `I`, `m` as in `relkind`.
    kind: String,
    pub(super) file: u32,
    columns: BTreeMap<i16, String>,
}

impl Known {
    pub(super) fn is_table(&self) -> bool {
        self.kind == "r" || self.kind == "p"
    }
}

/// Every relation of the user's with a file or columns. `look`: a session of our own.
pub(super) async fn read(look: &Client) -> Result<BTreeMap<u32, Known>, Error> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relfilenode, \
                   coalesce(array_agg(a.attnum) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped), '{}'), \
                   coalesce(array_agg(a.attname::text) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped), '{}') \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE c.relkind IN ('r', 'p', 'i', 'm') AND n.nspname !~ '^pg_' \
                   AND n.nspname NOT IN ('information_schema', 'greenlight') \
               GROUP BY c.oid, n.nspname, c.relname, c.relkind, c.relfilenode";
    let mut known = BTreeMap::new();
    for row in look.query(sql, &[]).await? {
        let (numbers, names): (Vec<i16>, Vec<String>) = (row.try_get(5)?, row.try_get(6)?);
        let one = Known {
            name: RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
            kind: row.try_get(3)?,
            file: row.try_get(4)?,
            columns: numbers.into_iter().zip(names).collect(),
        };
        known.insert(row.try_get(0)?, one);
    }
    Ok(known)
}

/// What has become of the tables and columns that were there before.
pub(super) async fn moves(look: &Client, known: &BTreeMap<u32, Known>) -> Result<Moves, PortError> {
    let now = read(look).await.map_err(|e| refused("read what became of the tables", &e))?;
    let names: BTreeMap<&RelationName, u32> =
        now.iter().filter(|(_, known)| known.is_table()).map(|(oid, known)| (&known.name, *oid)).collect();
    let mut moves = Moves::default();
    for (oid, before) in known.iter().filter(|(_, one)| one.is_table()) {
        if names.get(&before.name).is_some_and(|now| now != oid) {
            moves.replaced.push(before.name.clone());
        }
        let Some(after) = now.get(oid) else { continue };
        if after.name != before.name {
            moves.renamed.push(Renamed { from: before.name.clone(), to: after.name.clone() });
        }
        moves.columns.extend(moved_columns(before, after));
    }
    Ok(moves)
}

fn moved_columns(before: &Known, after: &Known) -> Vec<MovedColumn> {
    let mut moved = Vec::new();
    for (no, name) in &before.columns {
        let to = match after.columns.get(no) {
            Some(now) if now == name => continue,
            Some(now) => Some(now.clone()),
            None if after.columns.values().any(|now| now == name) => None,
            None => continue,
        };
        moved.push(MovedColumn { table: before.name.clone(), from: name.clone(), to });
    }
    moved
}

//! Two tables side by side, in the order of their key, one row at a time: memory does not grow with the tables.

use super::SalvageTable;
use crate::postgres::catalog;
use crate::postgres::client::{Session, SessionOptions};
use crate::postgres::content::{self, Content, text_of};
use crate::postgres::failure::{self, Effect};
use crate::schema::{Catalog, Table};
use crate::word::{Endpoint, PortError, RelationName};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use serde::Serialize;
use std::{cmp::Ordering, time::Duration};

/// A row as the texts of its columns; `None` is null.
pub(super) type Values = Vec<Option<String>>;

/// A row that the damaged server has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub kind: Kind,
    /// In the order of `SalvageTable::columns`.
    pub values: Values,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The restored server has no row of this key.
    Missing,
    /// It has one with other values.
    Changed,
}

/// What differs in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    pub missing: u64,
    pub changed: u64,
    /// Rows that only the restored server has: deleted on the damaged one since, or new on the restored one.
    pub only_restored: u64,
}

/// A table that cannot be compared, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uncompared {
    pub table: RelationName,
    pub why: String,
}

/// Sorting a large table takes its time.
const LIMIT: Duration = Duration::from_hours(6);

pub(super) async fn session(at: &Endpoint, on: &str) -> Result<Session, PortError> {
    content::open(at, SessionOptions::ours("greenlight/salvage", LIMIT, Duration::from_secs(30)), on).await
}

/// One that writes: triggers find what they name as they do for applications.
pub(super) async fn writing_session(at: &Endpoint, on: &str) -> Result<Session, PortError> {
    let options = SessionOptions::for_applications("greenlight/salvage", LIMIT)
        .with("synchronous_commit", "local")
        .with("lock_timeout", "30s")
        .with_same_texts();
    Session::open(at, &options, on).await
}

/// The tables of both servers, in an order in which a foreign key finds what it points to; and those that cannot be compared.
///
/// # Errors
/// A catalogue could not be read.
pub async fn tables(damaged: &Endpoint, restored: &Endpoint) -> Result<(Vec<SalvageTable>, Vec<Uncompared>), PortError> {
    let damaged = session(damaged, "the damaged server").await?;
    let restored = session(restored, "the restored server").await?;
    let (there, here) = (catalog::read(damaged.client()).await?, catalog::read(restored.client()).await?);
    let mut tables = Vec::new();
    let mut uncompared = Vec::new();
    for (name, table) in &there.tables {
        if table.foreign || matches!(table.partition, crate::schema::Partition::Root { .. }) {
            // Its rows are in its partitions, or on another server.
            continue;
        }
        match comparable(table, here.tables.get(name)) {
            Ok(table) => tables.push(table),
            Err(why) => uncompared.push(Uncompared { table: table.name.clone(), why }),
        }
    }
    Ok((referenced_first(tables, &there), uncompared))
}

fn comparable(there: &Table, here: Option<&Table>) -> Result<SalvageTable, String> {
    let here = here.ok_or("the restored server does not have it")?;
    if there.primary_key.is_empty() || there.primary_key != here.primary_key {
        return Err("without the same primary key on both, no row can be told from another".to_owned());
    }
    let written = |table: &Table| -> Vec<String> {
        table.columns.iter().filter(|column| column.generated.is_none()).map(|column| column.name.clone()).collect()
    };
    let columns: Vec<String> = written(there).into_iter().filter(|name| written(here).contains(name)).collect();
    Ok(SalvageTable {
        name: there.name.clone(),
        key: there.primary_key.clone(),
        overriding: there.columns.iter().any(|column| column.identity == "a"),
        columns,
    })
}

/// Each table after those that its foreign keys name; tables of a circle in their own order.
fn referenced_first(tables: Vec<SalvageTable>, catalog: &Catalog) -> Vec<SalvageTable> {
    let references = |table: &SalvageTable, other: &SalvageTable| {
        let constraints =
            catalog.tables.values().find(|found| found.name == table.name).map_or(&[][..], |found| &found.constraints);
        let target = format!("REFERENCES {}", other.name);
        constraints.iter().any(|constraint| constraint.definition.contains(&format!("{target}(")))
    };
    let mut left = tables;
    let mut sorted: Vec<SalvageTable> = Vec::new();
    while !left.is_empty() {
        let free = (0..left.len()).find(|at| {
            let others = left.iter().enumerate().filter(|(other, _)| other != at);
            !others.map(|(_, other)| other).any(|other| references(&left[*at], other))
        });
        sorted.push(left.remove(free.unwrap_or(0)));
    }
    sorted
}

/// Goes through one table on both sides; `found` sees each row that the restored server lacks or has otherwise, and no other
/// is read while it works on one. Each side is read as it was at the beginning, whatever is written meanwhile.
///
/// # Errors
/// A server could not be read to the end: what was found until then is not all. And whatever `found` fails with.
pub async fn compare(
    table: &SalvageTable,
    damaged: &Endpoint,
    restored: &Endpoint,
    mut found: impl AsyncFnMut(Change) -> Result<(), PortError>,
) -> Result<TableDifference, PortError> {
    let damaged = session(damaged, "the damaged server").await?;
    let restored = session(restored, "the restored server").await?;
    let (mut there, mut here) = (rows(&damaged, table).await?, rows(&restored, table).await?);
    let mut difference = TableDifference::default();
    let (mut left, mut right) = (there.try_next().await?, here.try_next().await?);
    while left.is_some() || right.is_some() {
        let order = match (&left, &right) {
            (Some(left), Some(right)) => left.key.cmp(&right.key),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        match (order, left.take(), right.take()) {
            (Ordering::Less, Some(row), other) => {
                difference.missing += 1;
                found(Change { kind: Kind::Missing, values: row.values }).await?;
                (left, right) = (there.try_next().await?, other);
            }
            (Ordering::Equal, Some(row), Some(other)) => {
                if row.values != other.values {
                    difference.changed += 1;
                    found(Change { kind: Kind::Changed, values: row.values }).await?;
                }
                (left, right) = (there.try_next().await?, here.try_next().await?);
            }
            (_, row, _) => {
                difference.only_restored += 1;
                (left, right) = (row, here.try_next().await?);
            }
        }
    }
    Ok(difference)
}

struct Row {
    /// As bytes, in which order the server sent them.
    key: Vec<String>,
    values: Values,
}

async fn rows<'a>(on: &'a Session, table: &SalvageTable) -> Result<BoxStream<'a, Result<Row, PortError>>, PortError> {
    let attempted = format!("read table `{}`", table.name);
    // Of the key no index is asked for: it is sorted by its texts.
    let content = Content::look(on, &table.name, &[]).await?;
    let key: Vec<String> = table.key.iter().map(|name| text_of(name)).collect();
    let columns: Vec<String> = table.columns.iter().map(|name| text_of(name)).collect();
    // By bytes: the order of the servers' own collations may differ between their machines.
    let order: Vec<String> = key.iter().map(|part| format!("({part}) COLLATE pg_catalog.\"C\"")).collect();
    let (key, columns, order) = (key.join(", "), columns.join(", "), order.join(", "));
    let sql = format!("SELECT {key}, {columns} FROM {} ORDER BY {order}", content.from());
    content.begin(on, &attempted).await?;
    let answer = on.client().query_raw(&sql, std::iter::empty::<&str>()).await;
    let answer = answer.map_err(|error| failure::of_call(attempted.clone(), Effect::Read, &error))?;
    let keys = table.key.len();
    Ok(answer
        .map(move |row| {
            let row = row.map_err(|error| failure::of_call(attempted.clone(), Effect::Read, &error))?;
            let cell =
                |at: usize| row.try_get::<_, Option<String>>(at).map_err(|e| PortError::refused(attempted.clone()).because(e));
            let key = (0..keys).map(|at| cell(at).map(Option::unwrap_or_default)).collect::<Result<_, _>>()?;
            let values = (keys..row.len()).map(cell).collect::<Result<_, _>>()?;
            Ok(Row { key, values })
        })
        .boxed())
}

//! Salvaged rows, put into a server.

use super::SalvageTable;
use super::compare::{Change, Kind, compare, writing_session};
use super::write::{conflict, insert_into};
use crate::postgres::client::{Session, cell};
use crate::postgres::failure::{self, Effect};
use crate::word::{Endpoint, PortError};
use serde::Serialize;
use tokio_postgres::types::Type;

/// What happens where the server has a row of that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// It stays as it is.
    Keep,
    /// It takes the salvaged values.
    Overwrite,
    /// Nothing of the table is applied.
    Stop,
}

/// What was done, or would have been, with one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub missing: u64,
    pub changed: u64,
    /// Of both together, those that were written.
    pub written: u64,
    /// In so many statements, each of a bounded number of rows: no more of them are held in memory.
    pub batches: u64,
    /// False: everything was taken back.
    pub committed: bool,
}

/// Rows that are written by one statement.
const AT_ONCE: usize = 1000;

/// Carries one table's rows to `to`, in one transaction, which is committed only when `commit` says so.
///
/// # Errors
/// `Refused` when a row cannot be put in, and then nothing of this table is; `Uncertain` when the commit's answer was lost.
pub async fn apply(
    table: &SalvageTable,
    damaged: &Endpoint,
    restored: &Endpoint,
    to: &Endpoint,
    on_conflict: OnConflict,
    commit: bool,
) -> Result<Applied, PortError> {
    let target = writing_session(to, "the server that takes the rows").await?;
    target.batch("begin", "BEGIN").await?;
    let types = column_types(&target, table).await?;
    let mut applied = Applied::default();
    let mut batch: Vec<Change> = Vec::new();
    // The server that takes the rows may be the one that they are compared with: what is written is not committed, and not
    // seen by whoever reads.
    let difference = compare(table, damaged, restored, async |change: Change| {
        // What the server has otherwise conflicts by nature: only `Overwrite` has a use for it.
        if change.kind == Kind::Missing || on_conflict == OnConflict::Overwrite {
            batch.push(change);
        }
        if batch.len() >= AT_ONCE {
            applied.written += put(&target, table, &types, &batch, on_conflict).await?;
            applied.batches += 1;
            batch.clear();
        }
        Ok(())
    })
    .await?;
    if !batch.is_empty() {
        applied.written += put(&target, table, &types, &batch, on_conflict).await?;
        applied.batches += 1;
    }
    (applied.missing, applied.changed) = (difference.missing, difference.changed);
    if commit {
        target.batch(&format!("commit the rows of `{}`", table.name), "COMMIT").await?;
        applied.committed = true;
    } else {
        target.batch("take everything back", "ROLLBACK").await?;
    }
    Ok(applied)
}

/// Some rows in one statement: each column's texts as an array, read by the column's own type.
async fn put(
    target: &Session,
    table: &SalvageTable,
    types: &[String],
    rows: &[Change],
    on_conflict: OnConflict,
) -> Result<u64, PortError> {
    let attempted = format!("put {} rows into `{}`", rows.len(), table.name);
    let names: Vec<String> = (0..types.len()).map(|n| format!("c{n}")).collect();
    let casts: Vec<String> = types.iter().zip(&names).map(|(kind, name)| format!("{name}::{kind}")).collect();
    let parameters: Vec<String> = (1..=types.len()).map(|n| format!("${n}")).collect();
    let sql = format!(
        "{} SELECT {} FROM unnest({}) AS rows({}){}",
        insert_into(table),
        casts.join(", "),
        parameters.join(", "),
        names.join(", "),
        conflict(table, on_conflict)
    );
    let columns: Vec<Vec<Option<&str>>> =
        (0..types.len()).map(|at| rows.iter().map(|row| row.values[at].as_deref()).collect()).collect();
    let parameters: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
        columns.iter().map(|column| (column as &(dyn tokio_postgres::types::ToSql + Sync), Type::TEXT_ARRAY)).collect();
    let done = target.client().execute_typed(&sql, &parameters).await;
    done.map_err(|error| failure::of_call(attempted, Effect::Change, &error))
}

async fn column_types(target: &Session, table: &SalvageTable) -> Result<Vec<String>, PortError> {
    let attempted = format!("read the columns of `{}`", table.name);
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a \
               WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = target.read(&attempted, sql, &[(&table.name.sql(), Type::TEXT)]).await?;
    let types: Vec<(String, String)> = rows.iter().map(|row| Ok((cell(row, 0)?, cell(row, 1)?))).collect::<Result<_, _>>()?;
    let of = |name: &String| {
        let found = types.iter().find(|(column, _)| column == name).map(|(_, kind)| kind.clone());
        found.ok_or_else(|| {
            PortError::refused(attempted.clone()).because(format!("the server that takes the rows has no column `{name}`"))
        })
    };
    table.columns.iter().map(of).collect()
}

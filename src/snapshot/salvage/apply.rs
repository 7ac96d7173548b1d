//! Salvaged rows, put into a server.

use super::SalvageTable;
use super::compare::{Change, Kind, Values, compare, session, writing_session};
use super::write::sql;
use crate::postgres::client::Session;
use crate::postgres::failure::{self, Effect};
use crate::postgres::strangers;
use crate::word::{Endpoint, PortError};
use serde::Serialize;

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
    // Nobody gives it another trigger or constraint from here on.
    let lock = format!("BEGIN; LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE", table.name.sql());
    target.batch(&format!("lock `{}`", table.name), &lock).await?;
    refuse_strangers(to, table).await?;
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
            applied.written += put(&target, table, &batch, on_conflict).await?;
            applied.batches += 1;
            batch.clear();
        }
        Ok(())
    })
    .await?;
    if !batch.is_empty() {
        applied.written += put(&target, table, &batch, on_conflict).await?;
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

/// Some rows in one statement, as constants without a type: each is read by its column's own type, and no cast is looked for.
async fn put(target: &Session, table: &SalvageTable, rows: &[Change], on_conflict: OnConflict) -> Result<u64, PortError> {
    let attempted = format!("put {} rows into `{}`", rows.len(), table.name);
    let values: Vec<&Values> = rows.iter().map(|row| &row.values).collect();
    let done = target.client().execute_typed(&sql(table, &values, on_conflict), &[]).await;
    done.map_err(|error| failure::of_call(attempted, Effect::Change, &error))
}

/// # Errors
/// `Refused` where rows are written with a superuser's rights, and what another role made would be called for them.
async fn refuse_strangers(to: &Endpoint, table: &SalvageTable) -> Result<(), PortError> {
    let session = session(to, "the server that takes the rows").await?;
    let strangers = strangers::of_writes(session.client(), &table.name).await?;
    let Some(first) = strangers.first() else { return Ok(()) };
    Err(PortError::refused(format!("put rows into `{}`", table.name))
        .because(format!("{first} would run with the rights of a superuser"))
        .hint("give `--apply-to` the URL of a role that is no superuser, such as the table's owner"))
}

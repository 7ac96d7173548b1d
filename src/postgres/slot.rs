//! Logical replication slots of `pgoutput`.

use super::{
    SlotState,
    client::{Session, cell, one},
    failure::sqlstate,
    server::PgServer,
};
use crate::word::{Failure, Lsn, PortError};
use std::time::Duration;
use tokio_postgres::types::{PgLsn, Type};

/// A new slot waits for every transaction that is running when it is made.
const CREATE_LIMIT: Duration = Duration::from_mins(1);
/// How long a sender may take to end.
const SENDER_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn read(server: &PgServer, name: &str) -> Result<Option<SlotState>, PortError> {
    let sql = "SELECT coalesce(confirmed_flush_lsn, restart_lsn, '0/0'), active, \
                 coalesce(greatest(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                   ELSE pg_current_wal_insert_lsn() END, restart_lsn), 0), 0)::bigint, \
                 coalesce(wal_status = 'lost', false), safe_wal_size \
               FROM pg_replication_slots WHERE slot_name = $1";
    let session = server.outside().await?;
    let rows = session.read(&format!("read slot `{name}`"), sql, &[(&name, Type::NAME)]).await?;
    rows.first()
        .map(|row| {
            Ok(SlotState {
                confirmed_flush: lsn(cell(row, 0)?),
                active: cell(row, 1)?,
                retained_bytes: u64::try_from(cell::<i64>(row, 2)?).unwrap_or(0),
                lost: cell(row, 3)?,
                safe_wal_bytes: cell(row, 4)?,
            })
        })
        .transpose()
}

pub(super) async fn create(server: &PgServer, name: &str) -> Result<Lsn, PortError> {
    let attempted = format!("create slot `{name}`");
    let session = server.own_session(CREATE_LIMIT, CREATE_LIMIT).await?;
    let sql = "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    let error = match session.change(&attempted, sql, &[(&name, Type::NAME)]).await {
        Ok(rows) => return Ok(lsn(cell(one(&rows)?, 0)?)),
        Err(error) => error,
    };
    if sqlstate(&error) != Some("57014") {
        return Err(error);
    }
    // An unfinished slot goes with its statement; what can be helped is whom it waited for.
    let waited_for = oldest_transactions(&*server.outside().await?).await?;
    let hint = if waited_for.is_empty() {
        "a transaction that was running held it up: try again".to_owned()
    } else {
        format!("it waits for every running transaction to end; the oldest are: {waited_for}")
    };
    Err(PortError { failure: Failure::Transient, ..error }.hint(hint))
}

async fn oldest_transactions(session: &Session) -> Result<String, PortError> {
    let sql = "SELECT coalesce(string_agg(format('pid %s (%s, %s s old, %s)', pid, usename, age, state), ', '), '') FROM \
               (SELECT pid, usename, state, extract(epoch FROM now() - xact_start)::int AS age FROM pg_stat_activity \
                WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5) AS oldest";
    let rows = session.read("read the oldest transactions", sql, &[]).await?;
    cell(one(&rows)?, 0)
}

pub(super) async fn advance(server: &PgServer, name: &str, to: Lsn) -> Result<(), PortError> {
    let attempted = format!("advance slot `{name}` to {to}");
    let session = server.session().await?;
    let target = PgLsn::from(to.0);
    let advance = "SELECT pg_replication_slot_advance(slot_name, $2) FROM pg_replication_slots \
                   WHERE slot_name = $1 AND confirmed_flush_lsn < $2";
    let params = [(&name as _, Type::NAME), (&target as _, Type::PG_LSN)];
    if session.change(&attempted, advance, &params).await?.is_empty() && read(server, name).await?.is_none() {
        return Err(PortError::refused(attempted).because("there is no such slot"));
    }
    Ok(())
}

pub(super) async fn ensure_none(server: &PgServer, name: &str) -> Result<(), PortError> {
    let attempted = format!("drop slot `{name}`");
    // From outside, since the run's database may take no connections by now.
    let session = server.outside().await?;
    let params = [(&name as _, Type::NAME)];
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL";
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    let dropped = server
        .poll(SENDER_LIMIT, || async {
            session.change(&format!("end the sender of slot `{name}`"), end, &params).await?;
            match session.change(&attempted, drop, &params).await {
                Ok(_) => Ok(Some(())),
                Err(error) if sqlstate(&error) == Some("55006") => Ok(None),
                // Somebody else was quicker.
                Err(error) if sqlstate(&error) == Some("42704") => Ok(Some(())),
                Err(error) => Err(error),
            }
        })
        .await?;
    dropped.ok_or_else(|| {
        PortError::transient(attempted).because(format!("its sender did not end within {} s", SENDER_LIMIT.as_secs()))
    })
}

pub(super) fn lsn(value: PgLsn) -> Lsn {
    Lsn(value.into())
}

//! Who else is on the server: long transactions, prepared ones, and what is left of earlier coordinators.

use super::{
    LongTransaction,
    client::{Session, cell, one},
    server::PgServer,
};
use crate::plan::ClientSession;
use crate::word::{PortError, RunId, Timestamp, quote_ident, quote_literal};
use std::time::Duration;
use tokio_postgres::types::Type;

/// How long sessions may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Processes `a` of `pg_stat_activity` by which no application can write. Everything else may, also what no version of
/// PostgreSQL knows yet: workers of extensions, of foreign subscriptions, walsenders, which take SQL where they were opened with
/// `replication=database`. One that sends changes takes no statement before it has ended that, and cannot have begun a
/// transaction of its client's before.
pub(super) const HARMLESS: &str = "(backend_type IN ('autovacuum worker', 'autovacuum launcher', 'slotsync worker') \
    OR backend_type = 'walsender' AND backend_xid IS NULL AND EXISTS \
       (SELECT FROM pg_stat_replication s WHERE s.pid = a.pid AND s.state IN ('catchup', 'streaming')))";

/// In whole microseconds, as the server counts.
pub(super) async fn clock(server: &PgServer) -> Result<Timestamp, PortError> {
    let sql = "SELECT pg_catalog.int8(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)";
    let rows = server.outside().await?.read("read the server's clock", sql, &[]).await?;
    Timestamp::from_microsecond(cell(one(&rows)?, 0)?)
        .map_err(|error| PortError::refused("read the server's clock").because(error.to_string()))
}

/// Transactions in the run's database ($1), older than $2 seconds, without those of this run's clients ($3). A parallel worker is
/// its leader's.
fn long() -> String {
    format!(
        "pg_stat_activity AS a WHERE datname = $1 AND xact_start IS NOT NULL AND backend_type <> 'parallel worker' \
         AND NOT {HARMLESS} AND clock_timestamp() - xact_start > make_interval(secs => $2) \
         AND NOT (backend_type = 'client backend' AND starts_with(application_name, $3))"
    )
}

pub(super) async fn long_transactions(server: &PgServer, older_than: Duration) -> Result<Vec<LongTransaction>, PortError> {
    // Without the text of the query, which may hold data.
    let sql = format!(
        "SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8, \
           format('%s, %s%s%s', coalesce(usename, '?'), CASE WHEN backend_type <> 'client backend' THEN backend_type || ', ' END, \
             coalesce(state, 'state not known'), CASE WHEN application_name = '' THEN '' ELSE ', ' || application_name END) \
         FROM {} ORDER BY xact_start",
        long()
    );
    let params = [
        (&server.database() as _, Type::NAME),
        (&older_than.as_secs_f64() as _, Type::FLOAT8),
        (&format!("greenlight/{}/", server.run()) as _, Type::TEXT),
    ];
    let rows = server.outside().await?.read("read the long transactions", &sql, &params).await?;
    rows.iter()
        .map(|row| {
            let age = Duration::try_from_secs_f64(cell(row, 1)?).unwrap_or_default();
            Ok(LongTransaction { pid: cell(row, 0)?, age, who: cell(row, 2)? })
        })
        .collect()
}

/// A statement that runs is cancelled. A session that only sits in its transaction has none, and is ended.
pub(super) async fn cancel_transactions(server: &PgServer, pids: &[i32]) -> Result<(), PortError> {
    let sql = format!(
        "SELECT CASE WHEN state = 'active' AND backend_type IN ('client backend', 'walsender') \
           THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END FROM {} AND pid = ANY ($4)",
        long()
    );
    let params = [
        (&server.database() as _, Type::NAME),
        (&0.0_f64 as _, Type::FLOAT8),
        (&format!("greenlight/{}/", server.run()) as _, Type::TEXT),
        (&pids as _, Type::INT4_ARRAY),
    ];
    server.outside().await?.change("cancel the long transactions", &sql, &params).await.map(drop)
}

/// Every client's session in database $1 but Greenlight's own.
pub const CLIENT_SESSIONS: &str = "SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''), \
    coalesce(pg_catalog.host(client_addr), '') FROM pg_catalog.pg_stat_activity \
    WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() \
      AND NOT pg_catalog.starts_with(coalesce(application_name, ''), 'greenlight')";

/// A row of `CLIENT_SESSIONS`.
///
/// # Errors
/// `Refused` when it is none.
pub fn client_session(row: &tokio_postgres::Row) -> Result<ClientSession, PortError> {
    Ok(ClientSession { pid: cell(row, 0)?, user: cell(row, 1)?, application: cell(row, 2)?, address: cell(row, 3)? })
}

pub(super) async fn client_sessions(server: &PgServer) -> Result<Vec<ClientSession>, PortError> {
    let session = server.outside().await?;
    let rows = session.read("read who is connected", CLIENT_SESSIONS, &[(&server.database(), Type::NAME)]).await?;
    rows.iter().map(client_session).collect()
}

pub(super) async fn prepared_transactions(server: &PgServer) -> Result<Vec<String>, PortError> {
    let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = $1 ORDER BY prepared";
    let session = server.outside().await?;
    let rows = session.read("read the prepared transactions", sql, &[(&server.database(), Type::NAME)]).await?;
    rows.iter().map(|row| cell(row, 0)).collect()
}

/// The epoch of the last coordinator that made itself the only one of this run. It is kept as a setting of the database,
/// which can be read and written from outside too, and which a copy of the server has as well.
pub(super) async fn epoch_on_record(session: &Session, database: &str, run: &RunId) -> Result<Option<u64>, PortError> {
    let sql = "SELECT split_part(setting, '/', 2) FROM pg_db_role_setting, unnest(setconfig) AS setting \
               WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = $1) \
                 AND starts_with(setting, 'greenlight.epoch=' || $2 || '/')";
    let params = [(&database as _, Type::NAME), (&run.as_str() as _, Type::TEXT)];
    let rows = session.read("read which coordinator has the run", sql, &params).await?;
    let text: Option<&str> = rows.first().map(|row| cell(row, 0)).transpose()?;
    Ok(text.and_then(|text| text.parse().ok()))
}

pub(super) async fn ensure_sole_coordinator(server: &PgServer) -> Result<(), PortError> {
    let session = server.outside().await?;
    record_epoch(server, &session).await?;
    end_earlier(server, &session).await
}

async fn record_epoch(server: &PgServer, session: &Session) -> Result<(), PortError> {
    let attempted = "record which coordinator has the run";
    let (epoch, run) = (server.epoch(), server.run());
    let standby = one(&session.read(attempted, "SELECT pg_is_in_recovery()", &[]).await?).and_then(|row| cell(row, 0))?;
    if standby || epoch_on_record(session, server.database(), run).await?.is_some_and(|recorded| recorded >= epoch) {
        return Ok(());
    }
    let (database, value) = (quote_ident(server.database()), quote_literal(&format!("{run}/{epoch}")));
    session.batch(attempted, &format!("ALTER DATABASE {database} SET greenlight.epoch = {value}")).await
}

/// Takes the record away, where there is one.
pub(super) async fn ensure_no_epoch(server: &PgServer) -> Result<(), PortError> {
    let session = server.outside().await?;
    if epoch_on_record(&session, server.database(), server.run()).await?.is_none() {
        return Ok(());
    }
    let sql = format!("ALTER DATABASE {} RESET greenlight.epoch", quote_ident(server.database()));
    session.batch("forget which coordinator had the run", &sql).await
}

async fn end_earlier(server: &PgServer, session: &Session) -> Result<(), PortError> {
    let attempted = "end what earlier sessions of the run have under way";
    let ours = server.own_pids().await;
    let epoch = i64::try_from(server.epoch()).unwrap_or(i64::MAX);
    let prefix = format!("greenlight/{}/", server.run());
    // All of this run's but those of a newer epoch, for whom we are the earlier one. CASE, so that the name's form is looked
    // at before its end is read as a number.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND starts_with(application_name, $1) AND pid <> ALL ($3) \
                 AND CASE WHEN application_name ~ '^greenlight/[a-z0-9]+/[0-9]{1,18}$' \
                          THEN substr(application_name, length($1) + 1)::bigint <= $2 ELSE true END";
    let params = [(&prefix as _, Type::TEXT), (&epoch as _, Type::INT8), (&ours as _, Type::INT4_ARRAY)];
    let ended =
        server.poll(END_LIMIT, || async { Ok(session.change(attempted, sql, &params).await?.is_empty().then_some(())) }).await?;
    ended.ok_or_else(|| PortError::uncertain(attempted).because("one is still there"))
}

//! Subscriptions: made disabled and with their tables known, given their place, enabled, stopped, dropped without a word to
//! the other side.
//!
//! **Invariant:** a worker never runs before its tables are in `pg_subscription_rel`. It would skip the rows of a table that
//! is not there, without an error.

use super::{
    SubscriptionState,
    client::{Session, cell, one},
    failure::sqlstate,
    server::PgServer,
};
use crate::plan::SCHEMA;
use crate::word::{Lsn, PortError, RelationName, Secret, quote_ident, quote_literal};
use std::time::Duration;
use tokio_postgres::types::{PgLsn, Type};

/// How long a worker may take to end.
const WORKER_LIMIT: Duration = Duration::from_secs(10);
/// How long a call may take that talks to the other server.
const REMOTE_LIMIT: Duration = Duration::from_mins(2);

pub(super) async fn read(server: &PgServer, name: &str) -> Result<Option<SubscriptionState>, PortError> {
    let session = server.session().await?;
    // A worker that was only started has heard nothing yet.
    let sql = "SELECT s.subenabled, \
                 EXISTS (SELECT FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL \
                         AND w.pid IS NOT NULL AND w.last_msg_receipt_time IS NOT NULL), \
                 coalesce((SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats t WHERE t.subid = s.oid), 0), \
                 s.oid \
               FROM pg_subscription s \
               WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let attempted = format!("read subscription `{name}`");
    let rows = session.read(&attempted, sql, &[(&name, Type::NAME)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (enabled, streaming): (bool, bool) = (cell(row, 0)?, cell(row, 1)?);
    let apply_errors = u64::try_from(cell::<i64>(row, 2)?).unwrap_or(0);
    let oid: u32 = cell(row, 3)?;
    let last_error = if apply_errors > 0 && !streaming { last_error(&session, oid).await } else { None };
    Ok(Some(SubscriptionState { enabled, streaming, ready: ready(&session, oid).await?, apply_errors, last_error }))
}

async fn ready(session: &Session, oid: u32) -> Result<Vec<RelationName>, PortError> {
    let sql = "SELECT n.nspname, c.relname FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE r.srsubid = $1 AND r.srsubstate = 'r' AND n.nspname <> $2 ORDER BY 1, 2";
    let rows = session.read("read the subscription's tables", sql, &[(&oid, Type::OID), (&SCHEMA, Type::NAME)]).await?;
    rows.iter().map(|row| Ok(RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?))).collect()
}

/// What the server wrote into its log when it last could not apply a change: only where it keeps a log of its own that may
/// be read. A help for people; without it the count of errors says enough.
async fn last_error(session: &Session, oid: u32) -> Option<String> {
    let sql = "WITH log AS (SELECT pg_current_logfile('stderr') AS name), \
               tail AS (SELECT pg_read_file(name, greatest((pg_stat_file(name)).size - 65536, 0), 65536, true) AS text \
                        FROM log WHERE name IS NOT NULL) \
               SELECT text FROM tail";
    let rows = session.read("read the server's log", sql, &[]).await.ok()?;
    error_in_log(&cell::<Option<String>>(rows.first()?, 0).ok()??, oid)
}

/// The error whose context names the subscription's origin, with its detail.
fn error_in_log(log: &str, oid: u32) -> Option<String> {
    let lines: Vec<&str> = log.lines().collect();
    let origin = format!("\"pg_{oid}\"");
    let context = lines.iter().rposition(|line| line.contains("CONTEXT:") && line.contains(&origin))?;
    let after = |line: &str, word: &str| line.split_once(word).map(|(_, text)| text.trim().to_owned());
    let start = lines[..context].iter().rposition(|line| line.contains("ERROR:"))?;
    let error = after(lines[start], "ERROR:")?;
    // A text of several lines goes on in lines that begin with a tab.
    let detail = (start..context).find_map(|at| {
        let first = after(lines[at], "DETAIL:")?;
        let more = lines[at + 1..context].iter().map_while(|line| line.strip_prefix('\t'));
        Some(more.fold(first, |text, line| text + " " + line.trim()))
    });
    Some(detail.map_or(error.clone(), |detail| format!("{error} ({detail})")))
}

/// Settings of one session: whatever would write its statements down, or show them to other sessions, is off. The text of
/// CREATE SUBSCRIPTION holds a password, and is neither a plan nor a parameter, so that the server itself never masks it.
const SAYS_NOTHING: &[(&str, &str)] = &[
    // Statements, however they were chosen; and at the level at which the server tells of each parse and execution.
    ("log_statement", "none"),
    ("log_duration", "off"),
    ("log_min_duration_statement", "-1"),
    ("log_min_duration_sample", "-1"),
    ("log_statement_sample_rate", "0"),
    ("log_transaction_sample_rate", "0"),
    ("log_parameter_max_length", "0"),
    ("log_parameter_max_length_on_error", "0"),
    ("log_min_messages", "warning"),
    ("debug_print_parse", "off"),
    ("debug_print_raw_parse", "off"),
    ("debug_print_rewritten", "off"),
    ("debug_print_plan", "off"),
    // The statement in which an error, or any other line of the log, came up.
    ("log_min_error_statement", "panic"),
    // `pg_stat_activity`; from there also what the log says of a deadlock's other side, and of a session that crashed.
    ("track_activities", "off"),
    // Event triggers that keep `current_query()`: ordinary ones, and those that fire always.
    ("session_replication_role", "replica"),
    ("event_triggers", "off"),
    // Modules that write statements down.
    ("pg_stat_statements.track", "none"),
    ("pg_stat_statements.track_utility", "off"),
    ("auto_explain.log_min_duration", "-1"),
    ("pgaudit.log", "none"),
    ("pgaudit.log_statement", "off"),
    ("pg_stat_monitor.pgsm_track", "none"),
    ("pg_stat_monitor.pgsm_track_utility", "off"),
];

pub(super) async fn ensure(server: &PgServer, name: &str) -> Result<(), PortError> {
    let attempted = format!("create subscription `{name}`");
    let session = server.own_session(REMOTE_LIMIT, Duration::from_secs(2)).await?;
    say_nothing(&session).await?;
    let rows =
        session.read("read the server's version", "SELECT current_setting('server_version_num')::int / 10000", &[]).await?;
    let major = u32::try_from(cell::<i32>(one(&rows)?, 0)?).unwrap_or(0);
    let conninfo = server.options.peer.to_conninfo_for_subscription(name, major);
    // Read and compared here: what is sent can be logged, what is answered cannot.
    let sql = "SELECT subconninfo FROM pg_subscription \
               WHERE subname = $1 AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = session.read(&attempted, sql, &[(&name, Type::NAME)]).await?;
    let there = rows.first().map(|row| cell::<String>(row, 0).map(Secret::new)).transpose()?;
    let (quoted, connection) = (quote_ident(name), Secret::new(quote_literal(conninfo.expose())));
    let statement = match there {
        Some(there) if there == conninfo => return Ok(()),
        Some(_) => Secret::new(format!("ALTER SUBSCRIPTION {quoted} CONNECTION {}", connection.expose())),
        // It connects to the other side, once, to learn its tables. As text, since the types of a column may differ; not
        // streamed, so that one worker does everything in the order of commits.
        None => Secret::new(format!(
            "CREATE SUBSCRIPTION {quoted} CONNECTION {} PUBLICATION {quoted} WITH (enabled = false, create_slot = false, \
             slot_name = {}, copy_data = false, binary = false, streaming = off)",
            connection.expose(),
            quote_literal(name),
        )),
    };
    // Sent as a query and not as a batch, whose text the driver would show to whoever listens to its debug messages.
    let result = session.change(&attempted, statement.expose(), &[]).await;
    result.map(drop).map_err(|error| {
        let unreachable = sqlstate(&error).is_some_and(|code| code.starts_with("08"));
        let error = without_secret(error, server);
        let (side, peer) = (server.options.side, &server.options.peer);
        let hint =
            format!("{side}'s server must reach the other one as `{peer}`; if its way is another one, give that as `peer_url`");
        if unreachable { error.hint(hint) } else { error }
    })
}

/// Without it nothing with a password in it is sent. A setting that this version or the server's modules do not have is
/// left out; one that is there and may not be set is an error.
async fn say_nothing(session: &Session) -> Result<(), PortError> {
    let wanted = SAYS_NOTHING.iter().map(|(name, value)| format!("({}, {})", quote_literal(name), quote_literal(value)));
    let sql = format!(
        "SELECT set_config(s.name, wanted.value, false) FROM pg_settings s JOIN (VALUES {}) AS wanted(name, value) ON s.name = wanted.name",
        wanted.collect::<Vec<_>>().join(", ")
    );
    session.change("keep a connection's password out of the server's log", &sql, &[]).await.map(drop)
}

/// The parser of libpq quotes what it cannot read.
fn without_secret(error: PortError, server: &PgServer) -> PortError {
    let secret = server.options.peer.password.as_ref().filter(|secret| error.chain().contains(secret.expose()));
    match secret {
        Some(_) => PortError { source: Some("the server's answer would show the password".into()), ..error },
        None => error,
    }
}

pub(super) async fn set_origin(server: &PgServer, name: &str, lsn: Lsn) -> Result<(), PortError> {
    let attempted = format!("set where subscription `{name}` begins to {lsn}");
    // The message makes the transaction one that waits for the disk. Otherwise a crash would forget the place, and the
    // changes since the slot's own one would come twice.
    let sql = "SELECT CASE WHEN coalesce(pg_replication_origin_progress('pg_' || oid, true), '0/0') < $2 \
                 THEN pg_replication_origin_advance('pg_' || oid, $2) END, pg_logical_emit_message(true, 'greenlight', 'origin') \
               FROM pg_subscription WHERE subname = $1 AND NOT subenabled \
                 AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let params = [(&name as _, Type::NAME), (&PgLsn::from(lsn.0) as _, Type::PG_LSN)];
    let rows = server.session().await?.change(&attempted, sql, &params).await?;
    if rows.is_empty() {
        return Err(PortError::refused(attempted).because("there is no such subscription, or it is enabled"));
    }
    Ok(())
}

pub(super) async fn ensure_enabled(server: &PgServer, name: &str) -> Result<(), PortError> {
    let quoted = quote_ident(name);
    let session = server.own_session(REMOTE_LIMIT, Duration::from_secs(5)).await?;
    session.batch(&format!("enable subscription `{name}`"), &format!("ALTER SUBSCRIPTION {quoted} ENABLE")).await?;
    let refresh = format!("ALTER SUBSCRIPTION {quoted} REFRESH PUBLICATION WITH (copy_data = false)");
    session.batch(&format!("refresh the tables of subscription `{name}`"), &refresh).await
}

pub(super) async fn ensure_disabled(server: &PgServer, name: &str) -> Result<(), PortError> {
    let session = server.session().await?;
    let sql = format!("ALTER SUBSCRIPTION {} DISABLE", quote_ident(name));
    match session.batch(&format!("disable subscription `{name}`"), &sql).await {
        // There is none: nothing of it runs.
        Err(error) if sqlstate(&error) == Some("42704") => return Ok(()),
        result => result?,
    }
    end_workers(server, &session, name).await
}

/// An idle worker looks only once in a second whether it is still wanted. Ended at once it loses nothing: what it applied is
/// committed together with its place.
async fn end_workers(server: &PgServer, session: &Session, name: &str) -> Result<(), PortError> {
    let attempted = format!("end the workers of subscription `{name}`");
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL";
    let params = [(&name as _, Type::NAME)];
    let ended = server
        .poll(WORKER_LIMIT, || async { Ok(session.change(&attempted, sql, &params).await?.is_empty().then_some(())) })
        .await?;
    ended.ok_or_else(|| PortError::transient(attempted).because(format!("one still runs after {} s", WORKER_LIMIT.as_secs())))
}

pub(super) async fn ensure_none(server: &PgServer, name: &str) -> Result<(), PortError> {
    let attempted = format!("drop subscription `{name}`");
    let session = server.session().await?;
    let sql = "SELECT oid FROM pg_subscription \
               WHERE subname = $1 AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = session.read(&attempted, sql, &[(&name, Type::NAME)]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let oid: u32 = cell(row, 0)?;
    ensure_disabled(server, name).await?;
    let quoted = quote_ident(name);
    session.batch(&attempted, &format!("ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE); DROP SUBSCRIPTION {quoted}")).await?;
    let origin = format!("pg_{oid}");
    let sql = "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = $1";
    session.change(&format!("drop the origin of subscription `{name}`"), sql, &[(&origin, Type::TEXT)]).await.map(drop)
}

pub(super) async fn ensure_inherited_stopped(server: &PgServer, name: &str) -> Result<(), PortError> {
    let attempted = format!("stop the inherited subscription `{name}`");
    let session = server.session().await?;
    let sql = "SELECT count(*) FROM pg_subscription WHERE subname = $1 AND (subenabled OR subslotname IS NOT NULL) \
               AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = session.read(&attempted, sql, &[(&name, Type::NAME)]).await?;
    if cell::<i64>(one(&rows)?, 0)? > 0 {
        let quoted = quote_ident(name);
        let sql = format!("ALTER SUBSCRIPTION {quoted} DISABLE; ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)");
        session.batch(&attempted, &sql).await?;
    }
    end_workers(server, &session, name).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_right_subscription_is_found_in_the_log() {
        let log = "2026 [1] ERROR:  duplicate key value violates unique constraint \"t_pkey\"\n\
                   2026 [1] DETAIL:  Key already exists.\n\tKey (id)=(5).\n\
                   2026 [1] CONTEXT:  processing remote data for replication origin \"pg_16400\" during message type \"INSERT\"\n\
                   2026 [2] ERROR:  something else\n\
                   2026 [2] CONTEXT:  processing remote data for replication origin \"pg_9\" during message type \"INSERT\"\n";
        let found = error_in_log(log, 16400).unwrap();
        assert_eq!(found, "duplicate key value violates unique constraint \"t_pkey\" (Key already exists. Key (id)=(5).)");
        assert_eq!(error_in_log(log, 9).unwrap(), "something else");
        assert_eq!(error_in_log(log, 1), None);
    }
}

//! Who this server is, where its log stands, and how a standby becomes a server of its own.

use super::{
    ForkPoint, Identity, SIGNATURE_SQL,
    client::{Session, cell, one},
    failure::sqlstate,
    server::PgServer,
    slot::lsn,
};
use crate::word::{Lsn, PortError, quote_ident};
use std::time::Duration;
use tokio_postgres::types::{PgLsn, Type};

/// As `pg_promote` counts it: seconds.
const PROMOTE_LIMIT_SECS: i32 = 60;
/// How long the server may take to read its configuration again.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// The timeline that is written to; on a standby the one that is received or replayed.
const TIMELINE: &str = "CASE WHEN pg_is_in_recovery() \
    THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint())) \
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END";

pub(super) async fn identity(server: &PgServer) -> Result<Identity, PortError> {
    let sql = format!("SELECT system_identifier, pg_is_in_recovery(), {TIMELINE} FROM pg_control_system()");
    let rows = any(server).await?.read("read the server's identity", &sql, &[]).await?;
    let row = one(&rows)?;
    Ok(Identity {
        // The server shows the unsigned number as a signed one.
        system_identifier: cell::<i64>(row, 0)?.cast_unsigned(),
        in_recovery: cell(row, 1)?,
        timeline: cell::<i32>(row, 2)?.cast_unsigned(),
    })
}

/// What concerns the whole server is read from outside too, when the run's database takes no connections.
pub(super) async fn any(server: &PgServer) -> Result<std::sync::Arc<Session>, PortError> {
    match server.session_if_open().await {
        Some(session) => Ok(session),
        None => server.outside().await,
    }
}

pub(super) async fn signature(server: &PgServer) -> Result<String, PortError> {
    let rows = any(server).await?.read("read the server's start time", SIGNATURE_SQL, &[]).await?;
    cell(one(&rows)?, 0)
}

pub(super) async fn create_restore_point(server: &PgServer, name: &str) -> Result<Lsn, PortError> {
    let attempted = format!("create restore point `{name}`");
    let rows = server.session().await?.change(&attempted, "SELECT pg_create_restore_point($1)", &[(&name, Type::TEXT)]).await?;
    Ok(lsn(cell(one(&rows)?, 0)?))
}

/// Where the next record goes, whether or not what is before it has been written out: an apply worker's commits, which do
/// not wait for that, lie before it in any case.
/// Apply workers commit without waiting for the disk: what they applied could be seen here and still be lost in a crash,
/// after the other side was told that it has arrived.
pub(super) async fn flush_wal(server: &PgServer) -> Result<Lsn, PortError> {
    let attempted = "make everything durable";
    let sql = "SELECT pg_current_wal_insert_lsn(), pg_logical_emit_message(true, 'greenlight', 'flush')";
    let rows = server.session().await?.change(attempted, sql, &[]).await?;
    cell(one(&rows)?, 0).map(lsn)
}

pub(super) async fn wal_lsn(server: &PgServer) -> Result<Lsn, PortError> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END";
    position(server, "read the log's position", sql).await
}

pub(super) async fn replay_lsn(server: &PgServer) -> Result<Lsn, PortError> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END";
    position(server, "read how far the log is replayed", sql).await
}

async fn position(server: &PgServer, attempted: &str, sql: &str) -> Result<Lsn, PortError> {
    let rows = any(server).await?.read(attempted, sql, &[]).await?;
    let position: Option<PgLsn> = cell(one(&rows)?, 0)?;
    position
        .map(lsn)
        .ok_or_else(|| PortError::transient(format!("{attempted} on {}", server.options.side)).because("it has none yet"))
}

/// Sessions that are open take it over too, except where they or their role say otherwise.
pub(super) async fn ensure_read_only_default(server: &PgServer, on: bool) -> Result<(), PortError> {
    let attempted = "set the default for new transactions";
    let session = any(server).await?;
    let sql = "SELECT EXISTS (SELECT FROM pg_file_settings WHERE name = 'default_transaction_read_only' \
               AND sourcefile LIKE '%postgresql.auto.conf' AND setting = 'on')";
    let rows = session.read(attempted, sql, &[]).await?;
    if cell::<bool>(one(&rows)?, 0)? == on {
        return Ok(());
    }
    let sql = if on {
        "ALTER SYSTEM SET default_transaction_read_only = on"
    } else {
        "ALTER SYSTEM RESET default_transaction_read_only"
    };
    session.batch(attempted, sql).await?;
    reload(server, &session).await
}

/// The server reads its configuration again, and our session too.
pub(super) async fn reload(server: &PgServer, session: &Session) -> Result<(), PortError> {
    let attempted = "read the configuration again";
    let loaded = "SELECT extract(epoch FROM pg_conf_load_time())::float8";
    let before: f64 = cell(one(&session.read(attempted, loaded, &[]).await?)?, 0)?;
    session.change(attempted, "SELECT pg_reload_conf()", &[]).await?;
    // The server tells its sessions after it has read the files itself.
    let reloaded = server
        .poll(RELOAD_LIMIT, || async {
            let now: f64 = cell(one(&session.read(attempted, loaded, &[]).await?)?, 0)?;
            Ok((now > before).then_some(()))
        })
        .await?;
    reloaded.ok_or_else(|| PortError::uncertain(attempted).because("the server has not read its configuration again"))
}

pub(super) async fn promote(server: &PgServer) -> Result<(), PortError> {
    let attempted = "promote";
    let session = server.own_session(Duration::from_secs(90), Duration::from_secs(2)).await?;
    let sql = "SELECT NOT pg_is_in_recovery()";
    if cell(one(&session.read("read whether it is a standby", sql, &[]).await?)?, 0)? {
        return Ok(());
    }
    let rows = session.change(attempted, "SELECT pg_promote(true, $1)", &[(&PROMOTE_LIMIT_SECS, Type::INT4)]).await;
    match rows {
        Ok(rows) if cell(one(&rows)?, 0)? => Ok(()),
        Ok(_) => Err(PortError::uncertain(format!("promote {}", server.options.side))
            .because(format!("it was still a standby after {PROMOTE_LIMIT_SECS} s"))),
        // Somebody else promoted it in between: it is what was wanted.
        Err(error) => {
            let rows = session.read("read whether it is a standby", sql, &[]).await.unwrap_or_default();
            if rows.first().is_some_and(|row| cell(row, 0).unwrap_or(false)) { Ok(()) } else { Err(error) }
        }
    }
}

pub(super) async fn fork_point(server: &PgServer) -> Result<ForkPoint, PortError> {
    let attempted = format!("read where {} left the history of its upstream", server.options.side);
    let identity = identity(server).await?;
    if identity.in_recovery {
        return Err(PortError::refused(attempted).because("it is still a standby"));
    }
    let file = format!("pg_wal/{:08X}.history", identity.timeline);
    // Read to the end of the file, and nothing when it is not there. No other word is taken: what was replayed last is the same
    // place only until a restart, and after a crash it is far behind.
    let rows = any(server).await?.read(&attempted, "SELECT pg_read_file($1, 0, 1048576, true)", &[(&file, Type::TEXT)]).await;
    let history: Option<String> = match rows {
        Ok(rows) => cell(one(&rows)?, 0)?,
        Err(error) if sqlstate(&error) == Some("42501") => {
            let user = quote_ident(&server.options.endpoint.user);
            return Err(error.hint(format!(
                "its timeline's history must be read: GRANT EXECUTE ON FUNCTION \
                 pg_catalog.pg_read_file(text, bigint, bigint, boolean) TO {user}"
            )));
        }
        Err(error) => return Err(error),
    };
    let Some(history) = history else {
        return Err(PortError::refused(attempted)
            .because(format!("there is no `{file}`: it was never promoted, or the file was removed"))
            .hint("only a server that was a standby of the other one can be attached: rebuild it as one"));
    };
    let (parent, lsn) =
        switch_point(&history).ok_or_else(|| PortError::refused(attempted).because(format!("`{file}` is not readable")))?;
    Ok(ForkPoint { lsn, timeline: identity.timeline, parent })
}

/// The timeline that was left last, and where: the lines are parent, place, reason.
fn switch_point(history: &str) -> Option<(u32, Lsn)> {
    let last = history.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut words = last.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_point_is_that_of_the_last_line() {
        let history = "1\t0/3000060\tno recovery target specified\n\n2\t16/B374D848\tno recovery target specified\n";
        let (parent, lsn) = switch_point(history).unwrap();
        assert_eq!((parent, lsn.to_string().as_str()), (2, "16/B374D848"));
        assert_eq!(switch_point("# nothing\n"), None);
    }
}

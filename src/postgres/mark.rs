//! The mark of a run in green's own configuration. The fence's function, made on blue and open there, refuses where the mark is in
//! force: so green is closed from the very moment of its promotion, with nothing to be done in it.
//!
//! The parameter is one that only a file can set, no session, role or database; that takes any number; and that means nothing on
//! a server that is no standby.
//!
//! **Invariant:** a server that serves never bears the mark.

use super::{
    client::{Session, cell, one},
    health::HARMLESS,
    promotion::{any, reload},
    server::PgServer,
};
use crate::word::{PortError, RunId, Side, quote_literal};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio_postgres::types::Type;

pub(super) const PARAMETER: &str = "max_standby_archive_delay";

/// How long it may take until the mark is in force, or no more, and until a session is ended.
const LIMIT: Duration = Duration::from_secs(10);

/// In milliseconds: between 100 s and 1,000 s, so that it is a delay that a standby can have meanwhile. Odd, so that it is shown as
/// it was set.
fn value(run: &RunId) -> u32 {
    let digest = Sha256::digest(run.as_str());
    100_001 + 2 * (u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % 450_000)
}

/// As a session reads it.
pub(super) fn shown(run: &RunId) -> String {
    format!("{}ms", value(run))
}

async fn is_in_force(server: &PgServer, session: &Session) -> Result<bool, PortError> {
    let sql = "SELECT current_setting($1) = $2";
    let params = [(&PARAMETER as _, Type::TEXT), (&shown(server.run()) as _, Type::TEXT)];
    cell(one(&session.read("read whether the run's mark is in force", sql, &params).await?)?, 0)
}

/// What the file that `ALTER SYSTEM` writes says.
async fn in_file(session: &Session) -> Result<Option<String>, PortError> {
    let sql = "SELECT setting FROM pg_file_settings WHERE name = $1 AND sourcefile LIKE '%postgresql.auto.conf' \
               ORDER BY seqno DESC LIMIT 1";
    let rows = session.read("read what ALTER SYSTEM has set", sql, &[(&PARAMETER as _, Type::TEXT)]).await?;
    rows.first().map(|row| cell(row, 0)).transpose()
}

/// Whether the run's mark is in the file.
pub(super) async fn is_set(session: &Session, run: &RunId) -> Result<bool, PortError> {
    Ok(in_file(session).await? == Some(value(run).to_string()))
}

pub(super) async fn own_setting(server: &PgServer) -> Result<Option<String>, PortError> {
    let mark = value(server.run()).to_string();
    Ok(in_file(&*any(server).await?).await?.filter(|set| *set != mark))
}

/// Green bears it on purpose, also where its fence is made on it and not on blue, as on a server that was restored.
///
/// # Errors
/// `Refused` where it is in force on blue: the fence made there would close it.
pub(super) async fn ensure_absent(server: &PgServer, session: &Session) -> Result<(), PortError> {
    if server.options.side == Side::Green || !is_in_force(server, session).await? {
        return Ok(());
    }
    Err(PortError::refused(format!("make a fence on {}", server.options.side))
        .because(format!(
            "its own configuration has {PARAMETER} = {}, by which the run's fence closes green",
            shown(server.run())
        ))
        .hint(format!("set it otherwise there: ALTER SYSTEM RESET {PARAMETER}; SELECT pg_reload_conf()")))
}

pub(super) async fn ensure(server: &PgServer) -> Result<(), PortError> {
    let attempted = "close green ahead of its promotion by the run's mark";
    let session = any(server).await?;
    let mark = value(server.run()).to_string();
    if in_file(&session).await?.as_ref() != Some(&mark) {
        session.batch(attempted, &format!("ALTER SYSTEM SET {PARAMETER} = {mark}")).await?;
    }
    if !is_in_force(server, &session).await? {
        reload(server, &session).await?;
        if !is_in_force(server, &session).await? {
            return Err(PortError::refused(attempted)
                .because(format!("ALTER SYSTEM has set {PARAMETER}, and it is not in force on {}", server.options.side))
                .hint(format!(
                    "it is set on the server's command line, or its files have an error: \
                     SELECT source, setting FROM pg_settings WHERE name = {}; \
                     SELECT * FROM pg_file_settings WHERE error IS NOT NULL",
                    quote_literal(PARAMETER)
                )));
        }
    }
    end_older_commands(server, attempted).await
}

/// A session reads its configuration between two of its client's messages: whoever is in a command that began before, such as a
/// procedure that commits and goes on, does not see the mark before it has ended. A new session is let in only after the others
/// were told, so what began after it sees the mark.
async fn end_older_commands(server: &PgServer, attempted: &str) -> Result<(), PortError> {
    let fresh = server.own_session(LIMIT, LIMIT).await?;
    if !is_in_force(server, &fresh).await? {
        return Err(PortError::uncertain(attempted).because("a new session does not see it"));
    }
    let kept = server.own_pids().await;
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity AS a \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL ($1) AND NOT {HARMLESS} \
           AND coalesce(state, '') NOT LIKE 'idle%' \
           AND (query_start IS NULL \
                OR query_start < (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()))"
    );
    let ended = server
        .poll(LIMIT, || async {
            Ok(fresh.change(attempted, &sql, &[(&kept as _, Type::INT4_ARRAY)]).await?.is_empty().then_some(()))
        })
        .await?;
    ended.ok_or_else(|| PortError::transient(attempted).because("a session that is older than the mark does not end"))
}

pub(super) async fn ensure_none(server: &PgServer, own: Option<&str>) -> Result<(), PortError> {
    let attempted = "take the run's mark away";
    let session = any(server).await?;
    if is_set(&session, server.run()).await? {
        let sql = match own {
            Some(own) => format!("ALTER SYSTEM SET {PARAMETER} = {}", quote_literal(own)),
            None => format!("ALTER SYSTEM RESET {PARAMETER}"),
        };
        session.batch(attempted, &sql).await?;
    }
    if !is_in_force(server, &session).await? {
        return Ok(());
    }
    reload(server, &session).await?;
    if is_in_force(server, &session).await? {
        return Err(PortError::refused(attempted)
            .because(format!("{PARAMETER} is {} on {} still", shown(server.run()), server.options.side))
            .hint(format!(
                "set it otherwise where it is set: SELECT sourcefile FROM pg_settings WHERE name = {}",
                quote_literal(PARAMETER)
            )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_shown_as_it_is_set_and_differs_from_run_to_run() {
        let marks: Vec<u32> = ["r0000001", "r0000002", "r1234567"].map(|run| value(&run.parse().unwrap())).to_vec();
        assert!(marks.iter().all(|mark| mark % 2 == 1 && (100_001..1_000_001).contains(mark)), "{marks:?}");
        assert!(marks[0] != marks[1] && marks[1] != marks[2], "{marks:?}");
    }
}

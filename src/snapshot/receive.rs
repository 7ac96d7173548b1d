//! The `pg_receivewal` that Greenlight keeps: a small shell beside it starts it again whenever it ends, both live on when
//! Greenlight ends, and each look sees whether they still run.
//!
//! Its slot keeps WAL on the server from the moment it is made: nothing is missing after a pause, and a receiver that is
//! gone for good fills the server's disk. So whoever looks at the store is told how much the slot keeps.

use super::basebackup::Basebackup;
use super::host::{Version, text};
use crate::postgres::client::{Session, cell};
use crate::word::PortError;
use std::{path::PathBuf, time::Duration};
use tokio_postgres::types::Type;

/// Until a receiver that was just started is connected.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Runs `"$@"` again and again, until the folder holds a word to stop. The first argument is that folder, the second a path
/// that only this is started with, the third the size of a segment. A segment is filled with zeros before anything is
/// written into it; one whose receiver was killed meanwhile would be refused for ever, and is begun anew.
const KEEPER: &str = r#"folder=$1 bytes=$3; shift 3
while [ ! -e "$folder/greenlight.stop" ]; do
    find "$folder" -name '*.partial' -size +0c ! -size "${bytes}c" -exec truncate -s 0 {} +
    "$@" >>"$folder/greenlight.log" 2>&1
    [ -e "$folder/greenlight.stop" ] || sleep 2
done"#;

/// Starts it where it does not run, and returns once it streams.
pub(super) async fn ensure_running(store: &Basebackup) -> Result<(), PortError> {
    let session = store.source.session().await?;
    let created = "SELECT pg_create_physical_replication_slot($1, true) \
                   WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    let slot = (&store.slot as &(dyn tokio_postgres::types::ToSql + Sync), Type::NAME);
    session.change(&format!("create the slot `{}`", store.slot), created, &[slot]).await?;
    if pids(store).await?.is_empty() {
        start(store).await?;
    }
    let until = store.clock.monotonic() + CONNECT_LIMIT;
    while !streams(store, &session).await? {
        if store.clock.monotonic() > until {
            let log = text(&store.wal_folder().join("greenlight.log"));
            let said = store.notes.host.sh("read the receiver's log", r#"tail -n 3 "$1""#, &[&log]).await.unwrap_or_default();
            return Err(PortError::transient("see `pg_receivewal` receive").because(said.trim().replace('\n', "; ")));
        }
        store.clock.sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn start(store: &Basebackup) -> Result<(), PortError> {
    let host = &store.notes.host;
    let wal = text(&store.wal_folder());
    let facts = store.source.facts().await?;
    let program = host.program("pg_receivewal", facts.major, Version::SameOrNewer).await?;
    // It is needed again at each reconnection, so it stays, readable for its user alone.
    let upstream = store.upstream(&store.slot, &store.wal_folder().join("greenlight.pass"), facts.major).await?;
    let script = r#"rm -f "$1/greenlight.stop"; keeper=$2; shift 2
        setsid sh -c "$keeper" greenlight-receive "$@" </dev/null >/dev/null 2>&1 &"#;
    let keeper = text(&keeper(store));
    let bytes = facts.segment_bytes.to_string();
    let mut words = vec![wal.as_str(), KEEPER, &wal, &keeper, &bytes, &program, "--directory", &wal, "--slot", &store.slot];
    words.extend(["--dbname", &upstream, "--no-password", "--no-loop"]);
    host.sh("start `pg_receivewal`", script, &words).await.map(drop)
}

/// What the keeper is recognised by.
fn keeper(store: &Basebackup) -> PathBuf {
    store.wal_folder().join("greenlight.keeper")
}

async fn pids(store: &Basebackup) -> Result<Vec<u32>, PortError> {
    store.notes.host.started_with("sh", &keeper(store)).await
}

async fn streams(store: &Basebackup, session: &Session) -> Result<bool, PortError> {
    let sql = "SELECT active FROM pg_replication_slots WHERE slot_name = $1";
    let rows = session.read("look at the receiver's slot", sql, &[(&store.slot, Type::NAME)]).await?;
    rows.first().map_or(Ok(false), |row| cell(row, 0))
}

/// The slot and the receiver, with what the slot keeps.
pub(super) async fn made(store: &Basebackup) -> Result<Vec<String>, PortError> {
    let session = store.source.session().await?;
    let sql = "SELECT active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status \
               FROM pg_replication_slots WHERE slot_name = $1";
    let rows = session.read("look at the receiver's slot", sql, &[(&store.slot, Type::NAME)]).await?;
    let running = pids(store).await?;
    let mut made = Vec::new();
    if let Some(row) = rows.first() {
        let (active, kept): (bool, Option<i64>) = (cell(row, 0)?, cell(row, 1)?);
        let state = if active { "in use" } else { "not in use: the server keeps WAL for it until it is removed" };
        let kept = kept.map_or("an unknown amount".to_owned(), |bytes| format!("{} MB", bytes >> 20));
        made.push(format!("slot {} on the server, {state}; keeps {kept} of WAL", store.slot));
    }
    match running.as_slice() {
        [] if !made.is_empty() => made.push("no pg_receivewal runs: `greenlight snapshot take` starts it again".to_owned()),
        [] => (),
        pids => {
            let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
            made.push(format!("pg_receivewal kept running on {} (process {})", store.notes.host.spec, pids.join(", ")));
        }
    }
    Ok(made)
}

/// Ends the receiver for good, then drops its slot. What it received stays.
pub(super) async fn remove(store: &Basebackup) -> Result<(), PortError> {
    let host = &store.notes.host;
    let wal = store.wal_folder();
    let script = r#"[ ! -d "$1" ] || { : >"$1/greenlight.stop"; rm -f "$1/greenlight.pass"; }"#;
    host.sh("end `pg_receivewal`", script, &[&text(&wal)]).await?;
    let until = store.clock.monotonic() + CONNECT_LIMIT;
    loop {
        let mut running = pids(store).await?;
        running.extend(host.started_with("pg_receivewal", &wal).await?);
        if running.is_empty() {
            break;
        }
        if store.clock.monotonic() > until {
            return Err(PortError::uncertain("see `pg_receivewal` end"));
        }
        let pids: Vec<String> = running.iter().map(ToString::to_string).collect();
        // Each was recognised by its arguments just now; one that has ended meanwhile is no fault.
        let words: Vec<&str> = pids.iter().map(String::as_str).collect();
        host.sh("end `pg_receivewal`", r#"kill "$@" 2>/dev/null; true"#, &words).await?;
        store.clock.sleep(Duration::from_millis(50)).await;
    }
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    let session = store.source.session().await?;
    session.change(&format!("drop the slot `{}`", store.slot), sql, &[(&store.slot, Type::NAME)]).await.map(drop)
}

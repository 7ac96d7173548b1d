//! Copy, start, replay up to the target.

use super::check::search;
use super::configure::{configure, raise};
use super::place::{Content, Marker, State};
use super::{RestorePlan, Target};
use crate::postgres::client::{Session, cell, one};
use crate::snapshot::host::text;
use crate::snapshot::{Estimate, Progress, Segment, SnapshotStore, tablespaces};
use crate::word::{Clock, Endpoint, Failure, Lsn, PortError, Timestamp};
use std::{collections::BTreeMap, time::Duration};
use tokio::join;
use tokio_postgres::types::PgLsn;

/// Without a sign of life from the server for so long, something else is wrong.
const SILENCE_MAX: Duration = Duration::from_mins(30);

/// A restored server that stands at its target, open for reading.
#[derive(Clone, Debug)]
pub struct Restored {
    pub endpoint: Endpoint,
    /// Everything before this is there.
    pub replayed: Lsn,
    /// When the last transaction that it has committed.
    pub last_commit: Option<Timestamp>,
    pub timeline: u32,
    pub measured: Estimate,
}

/// Carries a checked plan out, or goes on with it. `like`: how the server is reached whose copy this is.
///
/// # Errors
/// `Refused` when the plan has problems, or the target was not found in the log; what is in the folder then can be looked at,
/// gone on with, or discarded.
pub async fn recover(
    store: &dyn SnapshotStore,
    plan: &RestorePlan,
    like: &Endpoint,
    throwaway: bool,
    clock: &dyn Clock,
    progress: Progress<'_>,
) -> Result<Restored, PortError> {
    let place = &plan.place;
    let attempted = format!("restore into `{}`", place.data_dir.display());
    let Some(backup) = plan.backup.as_ref().filter(|_| plan.problems.is_empty()) else {
        return Err(PortError::refused(attempted).because(plan.problems.join("; ")));
    };
    let mut marker = Marker {
        state: State::Fetching,
        target: plan.target.clone(),
        timeline: plan.timeline,
        backup: backup.id.clone(),
        major: backup.major,
        port: place.port,
        begun_at: clock.now(),
        throwaway,
    };
    let begun = clock.monotonic();
    let ready = match place.content().await? {
        Content::Ours(found) if found.target == marker.target && found.port == marker.port => found.state == State::Ready,
        Content::Nothing => {
            place.claim(&marker).await?;
            false
        }
        _ => return Err(PortError::refused(attempted).because("the folder is no longer as it was when the plan was made")),
    };
    crate::failpoint!("restore-claimed");
    if !ready {
        if !plan.tablespaces.is_empty() {
            place.claim_beside().await?;
        }
        // What an interrupted copy left is of no use.
        place.empty().await?;
        // To its end also when the other fails: a copy that is left alone would go on.
        let mut searching = plan.clone();
        let (fetched, searched) =
            join!(store.fetch(backup, &place.host, &place.data_dir, progress), search(store, &mut searching));
        fetched?;
        searched?;
        if !searching.problems.is_empty() {
            return Err(PortError::refused(attempted).because(searching.problems.join("; ")));
        }
        tablespaces::relink(&place.host, &place.data_dir).await?;
        configure(place, &searching, &store.restore_command_at(&place.host, &place.data_dir), backup).await?;
        marker.state = State::Ready;
        place.mark(&marker).await?;
    }
    crate::failpoint!("restore-fetched");
    let fetched = clock.monotonic();
    if place.postmaster().await?.is_none() {
        place.start(backup.major).await?;
    }
    crate::failpoint!("restore-started");
    let watch = Watch { plan, like, clock, progress, from: backup.start, segment_bytes: backup.segment_bytes };
    let (session, replayed) = watch.until_the_target(backup.major).await?;
    let rows = session.read("read what was replayed", "SELECT pg_last_xact_replay_timestamp()", &[]).await?;
    let ms = |from: Duration, to: Duration| u64::try_from(to.saturating_sub(from).as_millis()).unwrap_or(u64::MAX);
    Ok(Restored {
        endpoint: place.endpoint(like),
        replayed,
        last_commit: cell(one(&rows)?, 0)?,
        timeline: plan.timeline,
        measured: Estimate {
            measured_at: clock.now(),
            copied_bytes: backup.bytes,
            copy_ms: ms(begun, fetched),
            replayed_bytes: replayed.bytes_since(backup.start),
            replay_ms: ms(fetched, clock.monotonic()),
        },
    })
}

struct Watch<'a> {
    plan: &'a RestorePlan,
    like: &'a Endpoint,
    clock: &'a dyn Clock,
    progress: Progress<'a>,
    from: Lsn,
    segment_bytes: u64,
}

const STANDING: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_get_wal_replay_pause_state(), \
    EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval')";

impl Watch<'_> {
    /// Returns when replay has reached the target. Settings that the log needs are raised on the way.
    async fn until_the_target(&self, major: u32) -> Result<(Session, Lsn), PortError> {
        let (place, mut raised) = (&self.plan.place, BTreeMap::new());
        let (session, replayed) = loop {
            let stands = self.until_there().await;
            let lower = self.lower_settings().await?;
            if lower.iter().all(|(name, value)| raised.get(name).is_some_and(|now| now >= value)) {
                break stands?;
            }
            // Not at its target: the log comes from a server that had more of something.
            raised.extend(lower);
            drop(stands);
            place.stop(major).await?;
            raise(place, &raised).await?;
            place.start(major).await?;
        };
        self.is_the_target(replayed).await?;
        Ok((session, replayed))
    }

    /// Returns when replay stands still.
    async fn until_there(&self) -> Result<(Session, Lsn), PortError> {
        let mut session: Option<Session> = None;
        let mut seen = (Lsn(0), self.clock.monotonic());
        loop {
            if session.as_ref().is_none_or(Session::is_closed) {
                session = self.plan.place.session(self.like).await.ok();
            }
            let at = match &session {
                Some(open) => match self.standing(open).await {
                    Ok((at, true)) => return session.map(|open| (open, at)).ok_or_else(|| self.died("")),
                    Ok((at, false)) => Some(at),
                    Err(error) if error.failure == Failure::Refused => return Err(error),
                    Err(_) => None,
                },
                None => self.in_log().await?,
            };
            if let Some(at) = at.filter(|at| *at > seen.0) {
                seen = (at, self.clock.monotonic());
                (self.progress)("replaying", at.bytes_since(self.from), self.plan.replay_bytes());
            }
            if session.is_none() && self.plan.place.postmaster().await?.is_none() {
                return Err(self.died(&self.log_tail().await));
            }
            if self.clock.monotonic().saturating_sub(seen.1) > SILENCE_MAX {
                let why = format!("nothing was replayed for {} min, past {}", SILENCE_MAX.as_secs() / 60, seen.0);
                return Err(PortError::uncertain(self.attempted()).because(why));
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    /// How far it is, and whether it stands at the target.
    async fn standing(&self, session: &Session) -> Result<(Lsn, bool), PortError> {
        let rows = session.read("look how far it is", STANDING, &[]).await?;
        let row = rows.first().ok_or_else(|| PortError::transient("look how far it is"))?;
        if !cell::<bool>(row, 0)? {
            return Err(PortError::refused(self.attempted()).because("somebody promoted it meanwhile"));
        }
        let at = cell::<Option<PgLsn>>(row, 1)?.map_or(Lsn(0), |lsn| Lsn(lsn.into()));
        let paused = cell::<&str>(row, 2)? == "paused";
        let at_the_end = self.plan.target == Target::Latest && cell::<bool>(row, 3)?;
        if at_the_end && !paused {
            // It would go on as soon as more is archived.
            session.change("hold replay where it is", "SELECT pg_wal_replay_pause()", &[]).await?;
        }
        Ok((at, paused))
    }

    /// Before it is consistent a server lets nobody in, but it says which segments it takes.
    async fn in_log(&self) -> Result<Option<Lsn>, PortError> {
        let log = text(&self.plan.place.data_dir.join("greenlight.log"));
        let script = r#"[ ! -f "$1" ] || tail -c 20000 "$1" | grep 'restored log file' | tail -n 1"#;
        let said = self.plan.place.host.sh("read the server's log", script, &[&log]).await?;
        let name = said.split('"').nth(1).unwrap_or_default();
        Ok(Segment::parse(name, self.segment_bytes).map(|segment| Lsn(segment.number * self.segment_bytes)))
    }

    /// Settings that are lower than the log needs, as the server's own log says, with what they must be.
    async fn lower_settings(&self) -> Result<BTreeMap<String, u64>, PortError> {
        let log = text(&self.plan.place.data_dir.join("greenlight.log"));
        let script = r#"grep 'is a lower setting than on the primary server, where its value was' "$1" || true"#;
        let said = self.plan.place.host.sh("read the server's log", script, &[&log]).await?;
        Ok(said.lines().filter_map(lower_setting).collect())
    }

    /// A standby stands still for other reasons, too: it has reached its target only where its log says so, and the end of the archive
    /// only where it has come into the last segment.
    async fn is_the_target(&self, replayed: Lsn) -> Result<(), PortError> {
        let log = text(&self.plan.place.data_dir.join("greenlight.log"));
        let failed = |why: String| PortError::refused(self.attempted()).because(why);
        if self.plan.target != Target::Latest {
            let script = r#"grep -c 'recovery stopping' "$1" || true"#;
            let said = self.plan.place.host.sh("read the server's log", script, &[&log]).await?;
            return if said.trim() == "0" {
                let hint = "its log is `greenlight.log` in the folder; `greenlight restore --discard` removes it";
                Err(failed(format!("replay stands still at {replayed}, and not at its target: {}", self.log_tail().await))
                    .hint(hint))
            } else {
                Ok(())
            };
        }
        let Some(reach) = self.plan.reach else { return Ok(()) };
        if replayed.0 + self.segment_bytes >= reach.end.0 {
            return Ok(());
        }
        let segment = Segment::of(replayed, self.plan.timeline, self.segment_bytes).name(self.segment_bytes);
        let script = r#"grep -E 'invalid|incorrect|unexpected|contrecord|checksum|out-of-sequence' "$1" | tail -n 2"#;
        let said = self.plan.place.host.sh("read the server's log", script, &[&log]).await?;
        let why = format!(
            "replay ends at {replayed}, in segment {segment}, and the archive goes on to {}: that segment is damaged; {}",
            reach.end,
            said.trim().replace('\n', "; ")
        );
        let hint = format!(
            "what lies before it can be had: `--to {replayed}`. For what lies behind it, put a whole copy of the segment into the archive, or \
             restore from a later backup"
        );
        Err(failed(why).hint(hint))
    }

    async fn log_tail(&self) -> String {
        let log = text(&self.plan.place.data_dir.join("greenlight.log"));
        let script = r#"said=$(grep -v 'is starting up\|external PID file' "$1" | grep -E 'FATAL|PANIC|could not' | tail -n 3)
            if [ -n "$said" ]; then echo "$said"; else tail -n 5 "$1"; fi"#;
        let said = self.plan.place.host.sh("read the server's log", script, &[&log]).await;
        said.unwrap_or_else(|error| error.chain())
    }

    fn died(&self, log: &str) -> PortError {
        let why = log.trim().replace('\n', "; ");
        let why = if why.is_empty() { "it left no word in its log".to_owned() } else { why };
        let hint = if why.contains("before configured recovery target was reached") {
            "the archive ends before the target: name an earlier one, or `latest`"
        } else {
            "its log is `greenlight.log` in the folder; the same command goes on, `greenlight restore --discard` removes it"
        };
        PortError::refused(self.attempted()).because(format!("the restored server ended: {why}")).hint(hint)
    }

    fn attempted(&self) -> String {
        format!("replay up to {} in `{}`", self.plan.target, self.plan.place.data_dir.display())
    }
}

/// Of a line such as `DETAIL:  max_connections = 100 is a lower setting than on the primary server, where its value was 200.`
fn lower_setting(line: &str) -> Option<(String, u64)> {
    let (_, said) = line.split_once("DETAIL:")?;
    let name = said.split_whitespace().next()?;
    let known =
        ["max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"];
    let value = said.trim().trim_end_matches('.').rsplit(' ').next()?.parse().ok()?;
    known.contains(&name).then(|| (name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::lower_setting;

    #[test]
    fn what_the_log_asks_for_is_read() {
        let line = "2026-01-05 10:00:00.000 UTC [7] DETAIL:  max_connections = 100 is a lower setting than on the primary server, where \
                    its value was 200.";
        assert_eq!(lower_setting(line), Some(("max_connections".to_owned(), 200)));
        assert_eq!(lower_setting("DETAIL:  something = 1 is a lower setting, where its value was 2."), None);
    }
}

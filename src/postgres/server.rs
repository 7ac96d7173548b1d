//! `PgServer`: one side of a run on a real PostgreSQL server. Here are its sessions; what is done in them stands in one file
//! for each topic.
//!
//! Two sessions are kept: one in the run's database, one outside of it, for what is done while that database takes no
//! connections. Calls share them, so that no call leaves a transaction or a changed setting behind: several statements that
//! belong together go as one batch. **Invariant:** a kept session is replaced before something is sent, never after.

use super::{
    Fence, FenceProbe, ForkPoint, Identity, LongTransaction, PublishedTable, Server, SlotState, SubscriptionState, access, alter,
    claim,
    client::{Session, SessionOptions},
    failure::sqlstate,
    fence, health, mark, probe, promotion, publication,
    sequences::{self, SequenceValue},
    slot, subscription, triggers, trust, warm,
};
use crate::plan::{Access, HistorySpec, SyncTrigger};
use crate::schema::Fingerprint;
use crate::word::{Clock, Endpoint, Lsn, PortError, RelationName, RunId, Secret, Side, Timestamp};
use async_trait::async_trait;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// How long one statement of a kept session may take.
const STATEMENT_LIMIT: Duration = Duration::from_mins(1);
/// How long a statement may wait for a lock: whoever comes after it waits as long.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// What a `PgServer` is made with.
#[derive(Clone, Debug)]
pub struct PgServerOptions {
    pub side: Side,
    /// How this process reaches the server, and the run's database there.
    pub endpoint: Endpoint,
    /// How *this server* reaches the other one: what its subscriptions follow.
    pub peer: Endpoint,
    /// The database for what is done from outside; `postgres`, or else `template1`, when absent.
    pub maintenance_database: Option<String>,
    pub run: RunId,
    /// The epoch of the lease that this process holds; 0 for a process that holds none and only looks.
    pub epoch: Arc<AtomicU64>,
    pub history: HistorySpec,
    /// What lets our own sessions through the fence of this side: a secret, another one for each side.
    pub pass: Secret,
    pub clock: Arc<dyn Clock>,
}

/// One side of a run on a real PostgreSQL server.
pub struct PgServer {
    pub(super) options: PgServerOptions,
    inside: Mutex<Option<Kept>>,
    outside: Mutex<Option<Kept>>,
    /// The triggers were seen on every table by this process.
    pub(super) triggers_seen: AtomicBool,
}

#[derive(Clone)]
struct Kept {
    session: Arc<Session>,
    epoch: u64,
}

impl PgServer {
    pub fn new(options: PgServerOptions) -> PgServer {
        PgServer { options, inside: Mutex::default(), outside: Mutex::default(), triggers_seen: AtomicBool::new(false) }
    }

    pub(super) fn database(&self) -> &str {
        &self.options.endpoint.database
    }

    pub(super) fn run(&self) -> &RunId {
        &self.options.run
    }

    /// The kept session in the run's database, opened if there is none.
    pub(super) async fn session(&self) -> Result<Arc<Session>, PortError> {
        let mut kept = self.inside.lock().await;
        if let Some(session) = self.still_open(&mut kept).await? {
            return Ok(session);
        }
        self.keep(&mut kept, &self.options.endpoint).await
    }

    /// The kept session in the run's database, if it is there and open.
    pub(super) async fn session_if_open(&self) -> Option<Arc<Session>> {
        let kept = self.inside.lock().await;
        kept.as_ref().map(|kept| kept.session.clone()).filter(|session| !session.is_closed())
    }

    /// The kept session in another database of the same server, opened if there is none.
    pub(super) async fn outside(&self) -> Result<Arc<Session>, PortError> {
        let mut kept = self.outside.lock().await;
        if let Some(session) = self.still_open(&mut kept).await? {
            return Ok(session);
        }
        let given = self.options.maintenance_database.as_deref();
        let candidates = given.into_iter().chain(["postgres", "template1"]).filter(|name| *name != self.database());
        let mut last = None;
        for database in candidates {
            match self.keep(&mut kept, &self.options.endpoint.with_database(database)).await {
                Err(error) if sqlstate(&error) == Some("3D000") => last = Some(error),
                opened => return opened,
            }
        }
        Err(last.unwrap_or_else(|| PortError::refused(format!("find a second database on {}", self.options.side))))
    }

    /// A session of its own for what lasts, up to `limit`: in a kept one every other call would wait for it.
    pub(super) async fn own_session(&self, limit: Duration, lock_limit: Duration) -> Result<Session, PortError> {
        self.open(&self.options.endpoint, self.epoch(), limit, lock_limit).await
    }

    /// # Errors
    /// `Refused` when another coordinator has taken the run over. Its word is looked for in the new session: whoever has
    /// connected before it was given is ended by the one who gave it.
    async fn open(&self, endpoint: &Endpoint, epoch: u64, limit: Duration, lock_limit: Duration) -> Result<Session, PortError> {
        let options = SessionOptions::ours(self.application_name(epoch), limit, lock_limit).with_pass(&self.options.pass);
        let session = Session::open(endpoint, &options, self.options.side.to_string()).await?;
        if endpoint.database == self.database() {
            // Nothing of a stranger's schema of our name is ever read, replaced or believed.
            trust::own_schema(session.client()).await?;
        }
        match health::epoch_on_record(&session, self.database(), self.run()).await? {
            Some(newer) if newer > epoch && epoch > 0 => Err(PortError::refused(format!("use {}", self.options.side))
                .because(format!("another coordinator has taken run `{}` over (epoch {newer}, ours is {epoch})", self.run()))),
            _ => Ok(session),
        }
    }

    /// The processes of the kept sessions on the server.
    pub(super) async fn own_pids(&self) -> Vec<i32> {
        let kept = [self.inside.lock().await.clone(), self.outside.lock().await.clone()];
        kept.into_iter().flatten().map(|kept| kept.session.pid()).collect()
    }

    async fn still_open(&self, kept: &mut Option<Kept>) -> Result<Option<Arc<Session>>, PortError> {
        let Some(open) = kept.as_mut().filter(|kept| !kept.session.is_closed()) else { return Ok(None) };
        let epoch = self.epoch();
        if open.epoch != epoch {
            let sql = format!("SET application_name = '{}'", self.application_name(epoch));
            open.session.batch("name the session after the new epoch", &sql).await?;
            open.epoch = epoch;
        }
        Ok(Some(open.session.clone()))
    }

    async fn keep(&self, kept: &mut Option<Kept>, endpoint: &Endpoint) -> Result<Arc<Session>, PortError> {
        let epoch = self.epoch();
        let session = Arc::new(self.open(endpoint, epoch, STATEMENT_LIMIT, LOCK_LIMIT).await?);
        *kept = Some(Kept { session: session.clone(), epoch });
        Ok(session)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.options.epoch.load(Ordering::SeqCst)
    }

    fn application_name(&self, epoch: u64) -> String {
        format!("greenlight/{}/{epoch}", self.run())
    }

    /// Looks again and again, without a pause at first, until `look` says so or `limit` is over: `None` then.
    pub(super) async fn poll<T, F>(&self, limit: Duration, mut look: impl FnMut() -> F) -> Result<Option<T>, PortError>
    where
        F: Future<Output = Result<Option<T>, PortError>>,
    {
        let clock = &self.options.clock;
        let started = clock.monotonic();
        loop {
            if let Some(seen) = look().await? {
                return Ok(Some(seen));
            }
            let waited = clock.monotonic().saturating_sub(started);
            if waited >= limit {
                return Ok(None);
            }
            if waited > Duration::from_millis(2) {
                clock
                    .sleep(if waited < Duration::from_millis(100) { Duration::from_millis(1) } else { Duration::from_millis(20) })
                    .await;
            }
        }
    }
}

impl fmt::Debug for PgServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgServer").field("side", &self.options.side).field("run", self.run()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Server for PgServer {
    async fn connect(&self) -> Result<(), PortError> {
        self.session().await?;
        self.outside().await.map(drop)
    }

    async fn identity(&self) -> Result<Identity, PortError> {
        promotion::identity(self).await
    }

    async fn signature(&self) -> Result<String, PortError> {
        promotion::signature(self).await
    }

    async fn clock(&self) -> Result<Timestamp, PortError> {
        health::clock(self).await
    }

    async fn access(&self, roles: &[String], salt: &str) -> Result<Access, PortError> {
        access::read(&*self.session().await?, roles, salt).await
    }

    async fn claim(&self) -> Result<Option<String>, PortError> {
        claim::read(self).await
    }

    async fn ensure_claimed(&self) -> Result<(), PortError> {
        claim::ensure(self).await
    }

    async fn ensure_unclaimed(&self) -> Result<(), PortError> {
        claim::ensure_none(self).await
    }

    async fn create_restore_point(&self, name: &str) -> Result<Lsn, PortError> {
        promotion::create_restore_point(self, name).await
    }

    async fn write_marker(&self, value: i64) -> Result<(), PortError> {
        claim::write_marker(self, value).await
    }

    async fn read_marker(&self) -> Result<Option<i64>, PortError> {
        claim::read_marker(self).await
    }

    async fn publication(&self, name: &str) -> Result<Option<Vec<PublishedTable>>, PortError> {
        publication::read(self, name).await
    }

    async fn ensure_publication(&self, name: &str, tables: &[PublishedTable]) -> Result<(), PortError> {
        publication::ensure(self, name, tables).await
    }

    async fn ensure_no_publication(&self, name: &str) -> Result<(), PortError> {
        publication::ensure_none(self, name).await
    }

    async fn slot(&self, name: &str) -> Result<Option<SlotState>, PortError> {
        slot::read(self, name).await
    }

    async fn create_slot(&self, name: &str) -> Result<Lsn, PortError> {
        slot::create(self, name).await
    }

    async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), PortError> {
        slot::advance(self, name, to).await
    }

    async fn ensure_no_slot(&self, name: &str) -> Result<(), PortError> {
        slot::ensure_none(self, name).await
    }

    async fn subscription(&self, name: &str) -> Result<Option<SubscriptionState>, PortError> {
        subscription::read(self, name).await
    }

    async fn ensure_subscription(&self, name: &str) -> Result<(), PortError> {
        subscription::ensure(self, name).await
    }

    async fn set_origin(&self, subscription: &str, lsn: Lsn) -> Result<(), PortError> {
        subscription::set_origin(self, subscription, lsn).await
    }

    async fn ensure_subscribed(&self, subscription: &str) -> Result<(), PortError> {
        subscription::ensure_enabled(self, subscription).await
    }

    async fn ensure_unsubscribed(&self, subscription: &str) -> Result<(), PortError> {
        subscription::ensure_disabled(self, subscription).await
    }

    async fn ensure_no_subscription(&self, name: &str) -> Result<(), PortError> {
        subscription::ensure_none(self, name).await
    }

    async fn ensure_inherited_stopped(&self, subscription: &str) -> Result<(), PortError> {
        subscription::ensure_inherited_stopped(self, subscription).await
    }

    async fn flush_wal(&self) -> Result<Lsn, PortError> {
        promotion::flush_wal(self).await
    }

    async fn wal_lsn(&self) -> Result<Lsn, PortError> {
        promotion::wal_lsn(self).await
    }

    async fn replay_lsn(&self) -> Result<Lsn, PortError> {
        promotion::replay_lsn(self).await
    }

    async fn ensure_read_only_default(&self, on: bool) -> Result<(), PortError> {
        promotion::ensure_read_only_default(self, on).await
    }

    async fn ensure_marked(&self) -> Result<(), PortError> {
        mark::ensure(self).await
    }

    async fn ensure_unmarked(&self, own: Option<&str>) -> Result<(), PortError> {
        mark::ensure_none(self, own).await
    }

    async fn setting_under_mark(&self) -> Result<Option<String>, PortError> {
        mark::own_setting(self).await
    }

    async fn promote(&self) -> Result<(), PortError> {
        promotion::promote(self).await
    }

    async fn fork_point(&self) -> Result<ForkPoint, PortError> {
        promotion::fork_point(self).await
    }

    async fn fence(&self) -> Result<Fence, PortError> {
        fence::read(self).await
    }

    async fn ensure_fence_installed(&self) -> Result<(), PortError> {
        triggers::ensure_installed(self).await
    }

    async fn unfenced_tables(&self) -> Result<Vec<RelationName>, PortError> {
        triggers::missing(&*self.session().await?).await
    }

    async fn ensure_fence(&self, fence: Fence) -> Result<(), PortError> {
        fence::ensure(self, fence).await
    }

    async fn fence_damage(&self) -> Result<Vec<String>, PortError> {
        fence::damage(self).await
    }

    async fn probe_fence(&self) -> Result<FenceProbe, PortError> {
        probe::probe(self).await
    }

    async fn ensure_sole_coordinator(&self) -> Result<(), PortError> {
        health::ensure_sole_coordinator(self).await
    }

    async fn schema_fingerprint(&self) -> Result<Fingerprint, PortError> {
        alter::schema_fingerprint(self).await
    }

    async fn has_large_objects(&self) -> Result<bool, PortError> {
        alter::has_large_objects(self).await
    }

    async fn ensure_not_null(&self, table: &RelationName, columns: &[String], on: bool) -> Result<(), PortError> {
        alter::ensure_not_null(self, table, columns, on).await
    }

    async fn ensure_sync_triggers(&self, triggers: &[SyncTrigger], always: bool) -> Result<bool, PortError> {
        alter::ensure_sync_triggers(self, triggers, always).await
    }

    async fn analyze(&self, table: &RelationName) -> Result<(), PortError> {
        warm::analyze(self, table).await
    }

    async fn warm(&self, tables: &[RelationName], progress: crate::validate::Progress<'_>) -> Result<(), PortError> {
        warm::warm(self, tables, progress).await
    }

    async fn sequences(&self) -> Result<Vec<SequenceValue>, PortError> {
        sequences::read(self).await
    }

    async fn set_sequences(&self, values: &[SequenceValue], margin: u64) -> Result<(), PortError> {
        sequences::set(self, values, margin).await
    }

    async fn long_transactions(&self, older_than: Duration) -> Result<Vec<LongTransaction>, PortError> {
        health::long_transactions(self, older_than).await
    }

    async fn cancel_transactions(&self, pids: &[i32]) -> Result<(), PortError> {
        health::cancel_transactions(self, pids).await
    }

    async fn client_sessions(&self) -> Result<Vec<crate::plan::ClientSession>, PortError> {
        health::client_sessions(self).await
    }

    async fn prepared_transactions(&self) -> Result<Vec<String>, PortError> {
        health::prepared_transactions(self).await
    }

    async fn ensure_history_without(&self, versions: &[String]) -> Result<(), PortError> {
        alter::ensure_history_without(self, versions).await
    }
}

use crate::plan::SchemaWork;
use crate::schema::Fingerprint;
use crate::word::{Lsn, RelationName, Side, Timestamp};
use serde::{Deserialize, Serialize};

/// A named part of the window, in milliseconds, in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowPhase {
    pub name: String,
    pub ms: f64,
}

/// What the run has learned. Closed and typed: the only way one step hands a value to a later one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A backup that is whole and verified, and WAL that was seen to reach the archive. `restore_ms`: what a restore of it would
    /// take, by the last one that was measured.
    BackedUp {
        backup: String,
        ended_at: Timestamp,
        place: String,
        archived_ms: u64,
        restore_ms: Option<u64>,
    },
    /// Green was backed up after it began to serve, and its WAL reaches an archive: from `since` on it can be recovered to any
    /// moment.
    Recoverable {
        backup: String,
        since: Timestamp,
        place: String,
    },
    /// Blue was backed up a last time, before it is retired.
    BlueKept {
        backup: String,
        ended_at: Timestamp,
        place: String,
    },
    /// The run's restore point on blue.
    RestorePoint {
        name: String,
        lsn: Lsn,
    },
    /// Blue's backup was restored, up to the run's restore point: a server stands there, still in recovery.
    Restored {
        place: String,
        replayed: Lsn,
        last_commit: Option<Timestamp>,
    },
    /// A standby was made from blue by this run.
    StandbyMade {
        data_dir: String,
        slot: String,
    },
    /// A logical slot exists on `on`; `lsn` is its consistent point.
    SlotMade {
        on: Side,
        name: String,
        lsn: Lsn,
    },
    /// Green's configuration is about to bear the run's mark, by which it is closed from its promotion on. `own`: what
    /// `ALTER SYSTEM` had set there before.
    GreenMarked {
        own: Option<String>,
    },
    /// Green left blue's history at `fork`: the switch point of its new timeline.
    Promoted {
        fork: Lsn,
        timeline: u32,
    },
    /// Something that green had copied from blue and must not run was stopped.
    InheritedStopped {
        what: String,
    },
    /// The slot through which green followed blue physically is gone.
    PhysicalSlotDropped {
        name: String,
    },
    /// `subscriber` follows the other side from `origin` on.
    FlowStarted {
        subscriber: Side,
        origin: Lsn,
    },
    /// The migrations were tried on green: from here on this takes the place of what the plan held provisionally.
    Judged {
        work: Box<SchemaWork>,
    },
    Migrated {
        version: String,
        name: String,
        took_ms: u64,
    },
    Validated {
        at: Timestamp,
        tables: u64,
        rows: u64,
        took_ms: u64,
    },
    /// Blue's schema as the run left it itself; another one from here on is drift.
    BlueFingerprint {
        fingerprint: Fingerprint,
    },
    /// Sessions on this side that come by no route, in words, as the last look before a window saw them: it ends them.
    DirectSessions {
        on: Side,
        sessions: Vec<String>,
    },
    /// A window is about to be opened towards `to`. From here until the commit point the way is back.
    WindowOpened {
        to: Side,
        attempt: u32,
        at: Timestamp,
    },
    /// **The commit point.** From here the way is forward: `serving` serves, and the other side follows it from `follow_from`.
    WindowCommitted {
        serving: Side,
        follow_from: Lsn,
    },
    /// Clients were given back, and the window is open still: a part of what closes it fails, and is tried again.
    ClientsResumed {
        at: Timestamp,
    },
    /// The routes are resumed. `moved` is whether the writer changed.
    WindowClosed {
        serving: Side,
        moved: bool,
        by_guard: bool,
        pause_ms: f64,
        phases: Vec<WindowPhase>,
        /// The longest that a client of our own waited for an answer through a route, in milliseconds.
        #[serde(default)]
        client_wait_ms: Option<f64>,
        reason: Option<String>,
    },
    /// The side that no longer serves follows the serving one, and a marker came back.
    FollowsBack {
        follower: Side,
    },
    /// While blue followed green its fence was not as it must be: who wrote there meanwhile is not known.
    FenceBroken {
        seen_at: Timestamp,
        how: String,
    },
    /// The slot that kept the way back was given up, since it endangered the serving side: rollback would lose writes.
    WayBackGivenUp {
        reason: String,
    },
    /// Statistics were gathered of a table of green's, after the window; `failed`: or why not, and then autovacuum does it.
    Analyzed {
        table: RelationName,
        failed: Option<String>,
    },
    /// Seen while it should lead to the serving side: why a route does not, or does not serve its clients. `None`: it does again.
    RouteSeen {
        route: String,
        trouble: Option<String>,
    },
    /// What a run could not take away, and why: listed by `status` and `sweep`.
    LeftBehind {
        on: Side,
        what: String,
        why: String,
    },
}

//! One PostgreSQL server over SQL. The port is `Server`, one object for each side of a run; `PgServer` is the real one.
//!
//! Every `ensure_*` names a wanted state, looks first, and can be repeated; what it wanted to be so is so when it returns
//! Ok. `create_*` is not repeatable and has a reading counterpart. Every error answers what may have happened
//! (`Failure`). Sessions say who they are: `application_name` is `greenlight/<run>/<epoch>`.

pub mod access;
pub mod catalog;
pub mod client;
pub mod content;
pub mod failure;
pub mod programs;
pub mod rights;
pub mod strangers;
pub mod survey;
pub mod sweep;

mod alter;
mod auth;
mod claim;
pub(crate) mod conninfo;
mod fence;
mod health;
pub(crate) mod locks;
mod managers;
mod mark;
pub(crate) mod passfile;
mod probe;
mod promotion;
mod publication;
mod sequences;
mod server;
mod slot;
mod subscription;
mod tls;
mod triggers;
pub(crate) mod trust;
mod warm;

pub use health::{CLIENT_SESSIONS, client_session};
pub use sequences::{SequencePlace, SequenceValue, sequences_behind, sequences_unreadable};
pub use server::{PgServer, PgServerOptions};
pub use triggers::MAKE_TRIAL;

use crate::plan::SyncTrigger;
use crate::schema::{SharedColumns, TableFlow};
use crate::word::{Lsn, PortError, RelationName, Timestamp};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Asked through a route or directly, tells which of two servers with one system identifier answers: its start and port.
/// Qualified, operators too, since through a route names resolve as they do for applications.
pub const SIGNATURE_SQL: &str = "SELECT pg_catalog.concat( \
    pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
    ' on port ', pg_catalog.current_setting('port'))";

/// What keeps applications from writing to a server's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fence {
    /// Applications may write.
    Open,
    /// As `Triggers`, and by the mark in this server's configuration alone: so green is closed when it is promoted, by what is
    /// open on blue.
    Marked,
    /// A statement trigger on every table refuses every write but those of apply workers and of Greenlight's sessions.
    Triggers,
    /// The database takes no new connection and every client was disconnected; the triggers refuse too. Nothing passes;
    /// apply workers cannot start.
    Connections,
}

/// What a probe of the fence saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceProbe {
    /// Every path that was tried was refused.
    Holds,
    /// A write, or a connection that should have been refused, got through: which.
    Leaks { how: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub confirmed_flush: Lsn,
    pub active: bool,
    /// Bytes of WAL that the slot keeps.
    pub retained_bytes: u64,
    /// `lost` in `wal_status`: the slot is of no more use.
    pub lost: bool,
    pub safe_wal_bytes: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionState {
    pub enabled: bool,
    /// A worker is connected and applies.
    pub streaming: bool,
    /// Tables in `pg_subscription_rel` in state `r` (ready), without the marker.
    pub ready: Vec<RelationName>,
    pub apply_errors: u64,
    /// The last error text that the server remembers or logs, if it can be had.
    pub last_error: Option<String>,
}

/// Where green left blue's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkPoint {
    pub lsn: Lsn,
    pub timeline: u32,
    /// The timeline that was left there.
    pub parent: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongTransaction {
    pub pid: i32,
    pub age: Duration,
    pub who: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub system_identifier: u64,
    pub in_recovery: bool,
    pub timeline: u32,
}

/// One server of a run, and in it the one database that the run is about.
#[async_trait]
pub trait Server: Send + Sync + fmt::Debug {
    /// Opens, or finds open, the sessions that the window needs: one in the run's database, one in another database of
    /// the same server, for what is done while the run's database takes no connections.
    async fn connect(&self) -> Result<(), PortError>;
    async fn identity(&self) -> Result<Identity, PortError>;
    /// Tells two servers with one system identifier apart: start time and port, read from the server.
    async fn signature(&self) -> Result<String, PortError>;
    /// What the server's own clock says now.
    async fn clock(&self) -> Result<Timestamp, PortError>;

    /// What decides here who of these roles gets in. `salt`: the same for servers that are compared, and never used again.
    async fn access(&self, roles: &[String], salt: &str) -> Result<crate::plan::Access, PortError>;

    // --- claim and marker -------------------------------------------------------------------------------------------
    /// The run that has claimed this database, if any.
    async fn claim(&self) -> Result<Option<String>, PortError>;
    /// Schema `greenlight` with marker table, claim row and the fence's function, which is open here, and refuses on a copy of this
    /// server that bears the run's mark. Refused if another run has the claim, and where this server bears the mark itself.
    async fn ensure_claimed(&self) -> Result<(), PortError>;
    /// Everything in the database that `ensure_claimed` and the fences made, removed.
    async fn ensure_unclaimed(&self) -> Result<(), PortError>;
    /// `pg_create_restore_point`.
    async fn create_restore_point(&self, name: &str) -> Result<Lsn, PortError>;
    /// Upserts the marker row: committed when this returns.
    async fn write_marker(&self, value: i64) -> Result<(), PortError>;
    async fn read_marker(&self) -> Result<Option<i64>, PortError>;

    // --- publications, slots, subscriptions ----------------------------------------------------------------------------
    /// The tables of the publication with their column lists, without the marker; `None` when there is no such publication.
    async fn publication(&self, name: &str) -> Result<Option<Vec<PublishedTable>>, PortError>;
    /// Creates the publication or sets its tables, always with `publish_via_partition_root`, always with the marker table.
    async fn ensure_publication(&self, name: &str, tables: &[PublishedTable]) -> Result<(), PortError>;
    async fn ensure_no_publication(&self, name: &str) -> Result<(), PortError>;
    async fn slot(&self, name: &str) -> Result<Option<SlotState>, PortError>;
    /// Not repeatable. Its consistent point.
    async fn create_slot(&self, name: &str) -> Result<Lsn, PortError>;
    /// Advances a slot that is not in use; to an earlier place than it has: nothing. So that less is read and kept, and for
    /// nothing else: the server may forget it in a crash. Where a flow begins is `set_origin`'s.
    async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), PortError>;
    /// A slot in use has its sender ended first.
    async fn ensure_no_slot(&self, name: &str) -> Result<(), PortError>;
    async fn subscription(&self, name: &str) -> Result<Option<SubscriptionState>, PortError>;
    /// Creates it, disabled, for the slot and publication of the same name on the other side, which it asks for its tables:
    /// a worker that started before they are known would skip their rows without an error.
    async fn ensure_subscription(&self, name: &str) -> Result<(), PortError>;
    /// Sets where the subscription begins, durably; only while it is disabled, and never back.
    async fn set_origin(&self, subscription: &str, lsn: Lsn) -> Result<(), PortError>;
    /// Enables it and refreshes its tables without copying.
    async fn ensure_subscribed(&self, subscription: &str) -> Result<(), PortError>;
    /// Disables it and waits until no worker of it runs.
    async fn ensure_unsubscribed(&self, subscription: &str) -> Result<(), PortError>;
    /// Drops it without touching its slot on the other side.
    async fn ensure_no_subscription(&self, name: &str) -> Result<(), PortError>;
    /// Disables a subscription that was copied from blue and takes its slot's name from it.
    async fn ensure_inherited_stopped(&self, subscription: &str) -> Result<(), PortError>;

    // --- WAL and promotion ---------------------------------------------------------------------------------------------
    /// Makes durable all that is committed so far, also what an apply worker committed without waiting for the disk. The place
    /// after it.
    async fn flush_wal(&self) -> Result<Lsn, PortError>;
    /// Where the next record goes, or how far a standby has replayed.
    async fn wal_lsn(&self) -> Result<Lsn, PortError>;
    async fn replay_lsn(&self) -> Result<Lsn, PortError>;
    /// New sessions of every role are read-only by default, or no longer so. Works on a standby.
    async fn ensure_read_only_default(&self, on: bool) -> Result<(), PortError>;
    /// Puts the run's mark into this server's own configuration, and sees it in force in every session: where it is, the fence
    /// that `ensure_claimed` makes refuses. Works on a standby, and only there: a server that serves would close itself.
    async fn ensure_marked(&self) -> Result<(), PortError>;
    /// Takes the mark away, and puts back what `ALTER SYSTEM` had set before: `own`.
    async fn ensure_unmarked(&self, own: Option<&str>) -> Result<(), PortError>;
    /// What `ALTER SYSTEM` has set here of the parameter that bears the mark, other than the mark.
    async fn setting_under_mark(&self) -> Result<Option<String>, PortError>;
    /// `pg_promote`, waited for. True at once on a server that is no standby.
    async fn promote(&self) -> Result<(), PortError>;
    /// From the newest timeline's history. Refused where that cannot be read: nothing else tells the place exactly.
    async fn fork_point(&self) -> Result<ForkPoint, PortError>;

    // --- fence ---------------------------------------------------------------------------------------------------------
    async fn fence(&self) -> Result<Fence, PortError>;
    /// The triggers of `Fence::Triggers` are on every table; whether they refuse is left as it is. Done ahead of the window,
    /// on a serving blue too, so that the window only has to close the function: a crash may then cost us the session
    /// inside a database that takes no connections, and connections can be allowed again without opening it for writes.
    async fn ensure_fence_installed(&self) -> Result<(), PortError>;
    /// Tables of this side without a trigger of the fence that fires. On a standby, by what it has replayed.
    async fn unfenced_tables(&self) -> Result<Vec<RelationName>, PortError>;
    /// `Triggers`: installed and closed, and connections allowed. `Connections`: refuses connections, ends every client
    /// session but our own, waits until none is left, closes the installed triggers. `Open`: connections allowed, then the
    /// triggers opened; they stay until `ensure_unclaimed`.
    async fn ensure_fence(&self, fence: Fence) -> Result<(), PortError>;
    /// What is not as a closed fence of triggers must be, by looking alone: a table without its trigger, a function that is gone, was
    /// changed or is somebody else's. Empty: it is whole, or the database takes no connections.
    async fn fence_damage(&self) -> Result<Vec<String>, PortError>;
    /// Tries to write through every path (new session, read-write transaction, superuser) and rolls back what got through.
    async fn probe_fence(&self) -> Result<FenceProbe, PortError>;
    /// Ends the sessions of this run's other coordinators, those with an older epoch in their `application_name`, and
    /// those of this one that are not its present ones: of a connection that broke, the statement may be running still.
    /// None of them is left when this returns, and they cannot open new ones.
    async fn ensure_sole_coordinator(&self) -> Result<(), PortError>;

    // --- schema, sequences, health ---------------------------------------------------------------------------------------
    /// SHA-256 of the catalogue's canonical text, without Greenlight's own objects.
    async fn schema_fingerprint(&self) -> Result<crate::schema::Fingerprint, PortError>;
    /// Whether the database has any: logical replication does not carry them.
    async fn has_large_objects(&self) -> Result<bool, PortError>;
    /// `DROP NOT NULL` or `SET NOT NULL` on these columns.
    async fn ensure_not_null(&self, table: &RelationName, columns: &[String], on: bool) -> Result<(), PortError>;
    /// `ENABLE ALWAYS TRIGGER` or plain `ENABLE TRIGGER` of those that are there. False: one is not.
    async fn ensure_sync_triggers(&self, triggers: &[SyncTrigger], always: bool) -> Result<bool, PortError>;
    /// ANALYZE of this table. Can be repeated.
    async fn analyze(&self, table: &RelationName) -> Result<(), PortError>;
    /// ANALYZE of these tables, REFRESH of populated materialized views, prewarming where `pg_prewarm` is installed.
    async fn warm(&self, tables: &[RelationName], progress: crate::validate::Progress<'_>) -> Result<(), PortError>;
    /// Where each sequence stands, or that we may not know.
    async fn sequences(&self) -> Result<Vec<SequenceValue>, PortError>;
    /// Sets each sequence that exists here, never back, and within its bounds: one that was used to at least the value given, plus
    /// `margin` steps in its direction; one that was reset and not used since to the same place. One that begins again at its end
    /// (`CYCLE`) has no back: it is set to exactly the same place.
    async fn set_sequences(&self, values: &[SequenceValue], margin: u64) -> Result<(), PortError>;
    async fn long_transactions(&self, older_than: Duration) -> Result<Vec<LongTransaction>, PortError>;
    async fn cancel_transactions(&self, pids: &[i32]) -> Result<(), PortError>;
    /// Every client's session in the run's database but Greenlight's own.
    async fn client_sessions(&self) -> Result<Vec<crate::plan::ClientSession>, PortError>;
    async fn prepared_transactions(&self) -> Result<Vec<String>, PortError>;
    /// Removes this run's migrations from the history table, or none where there is no such table: blue stays unmigrated.
    async fn ensure_history_without(&self, versions: &[String]) -> Result<(), PortError>;
}

/// A table of a publication, with its column list if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedTable {
    pub table: RelationName,
    pub columns: Option<Vec<String>>,
}

/// What blue publishes before the flow is narrowed: every flowing table whole.
pub fn published_whole(tables: &[TableFlow]) -> Vec<PublishedTable> {
    flowing(tables).map(|(table, _)| PublishedTable { table: table.clone(), columns: None }).collect()
}

/// What blue publishes to a migrated green.
pub fn published_forward(tables: &[TableFlow]) -> Vec<PublishedTable> {
    flowing(tables).map(|(table, shared)| PublishedTable { table: table.clone(), columns: shared.forward.clone() }).collect()
}

/// What a migrated green publishes to blue.
pub fn published_reverse(tables: &[TableFlow]) -> Vec<PublishedTable> {
    let sent = flowing(tables).filter(|(_, shared)| shared.reverse.as_ref().is_none_or(|columns| !columns.is_empty()));
    sent.map(|(table, shared)| PublishedTable { table: table.clone(), columns: shared.reverse.clone() }).collect()
}

fn flowing(tables: &[TableFlow]) -> impl Iterator<Item = (&RelationName, &SharedColumns)> {
    tables.iter().filter_map(|flow| match &flow.flow {
        crate::schema::Flow::Both(shared) => Some((&flow.table, shared)),
        crate::schema::Flow::Out { .. } => None,
    })
}

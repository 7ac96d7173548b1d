//! Where a run's truth is kept. The port is `Journal`; `sqlite` is the embedded default, `memory` serves the simulation.

mod holder;
mod memory;
mod sqlite;

pub use holder::HolderProcess;
pub use memory::MemoryJournal;
pub use sqlite::{FILE, SqliteJournal};

use crate::run::{Event, Record, Request, RequestKind};
use crate::word::{RunId, Timestamp};
use async_trait::async_trait;
use std::{fmt, time::Duration};

/// Why the journal did not do what was asked. None of these is the run's fault.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has taken the run over: its epoch is newer, or it wrote meanwhile. Stop at once.
    #[error("append after record {expected}: another coordinator holds this run")]
    Superseded { expected: u64 },
    /// The lease is held by somebody else, who is alive as far as can be seen.
    #[error("take the run over: it is held by {holder}")]
    Held { holder: String },
    #[error("find run `{0}` in this state directory")]
    UnknownRun(String),
    /// The state directory was written by a newer Greenlight.
    #[error("use a state directory of format {found}: this version reads up to {ours}")]
    NewerFormat { found: u32, ours: u32 },
    /// The store refused before it wrote anything: it is certain that nothing has changed.
    #[error("{attempted}")]
    NotWritten {
        attempted: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is no longer where it was opened: what is written into it, nobody will find. Nothing was written.
    #[error("use the journal `{path}`: it was removed, or another file stands in its place")]
    Vanished { path: String },
    /// The store did not answer, or not surely: whether the record is there is not known.
    #[error("{attempted}")]
    Unreachable {
        attempted: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl JournalError {
    /// Whether it is certain that nothing was written, and that nobody else has the run for all that is known.
    pub fn wrote_nothing(&self) -> bool {
        matches!(self, JournalError::NotWritten { .. } | JournalError::Vanished { .. })
    }

    /// Whether nothing was written because somebody else keeps the journal to himself: by and by it can be.
    pub fn is_locked(&self) -> bool {
        matches!(self, JournalError::NotWritten { source, .. } if source.is::<Locked>())
    }
}

/// Why a change did not begin.
#[derive(Debug, thiserror::Error)]
#[error("another process holds the journal's lock (a coordinator does while its window is open)")]
pub struct Locked;

/// Who holds a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub epoch: u64,
    /// Such as `pid 4711 on db-admin-1`.
    pub holder: String,
    /// By the wall clock of its holder.
    pub expires_at: Timestamp,
    /// What is left of it by a clock that nobody sets, where this process and the holder have one in common.
    pub left: Option<Duration>,
    /// Let go in good order, or its process is known to be gone.
    pub free: bool,
}

impl Lease {
    /// Whether nobody else may take the run. A wall clock that jumps gives no run away on the machine of its holder.
    pub fn is_held(&self, now: Timestamp) -> bool {
        !self.free && self.left.map_or(self.expires_at > now, |left| !left.is_zero())
    }
}

/// One row of the list of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEntry {
    pub run: RunId,
    pub name: String,
    pub created_at: Timestamp,
}

#[async_trait]
pub trait Journal: Send + Sync + fmt::Debug {
    /// All runs, newest first.
    async fn runs(&self) -> Result<Vec<RunEntry>, JournalError>;
    /// Creates the run with its first record, which must be `RunCreated`.
    /// Err `Superseded` when there is such a run already.
    async fn create(&self, event: &Event, at: Timestamp) -> Result<(), JournalError>;
    async fn read(&self, run: &RunId) -> Result<Vec<Record>, JournalError>;
    /// Durable when it returns: only if the last record is `expected` and `epoch` is the lease's, which was not let go.
    async fn append(&self, run: &RunId, expected: u64, epoch: u64, event: &Event, at: Timestamp) -> Result<(), JournalError>;

    /// Before a window: proves that there is room for its records, by writing as much and taking it back, and keeps everybody
    /// else from writing until `let_go`. Others read meanwhile. The lock ends with this process.
    /// Err when either cannot be had; the window must stay shut then.
    async fn hold(&self, run: &RunId) -> Result<(), JournalError>;
    /// Others may write again. Nothing happens where nothing is held.
    async fn let_go(&self);

    /// Whether clients wait with this process: then a change waits for no other process's transaction for long. It does not last
    /// beyond a window that is recorded as closed.
    async fn hurry(&self, _clients_wait: bool) {}

    async fn lease(&self, run: &RunId) -> Result<Option<Lease>, JournalError>;
    /// Takes the lease with the next epoch if it is free or expired, or, with `force`, in any case. The new epoch.
    async fn take_lease(
        &self,
        run: &RunId,
        holder: &str,
        ttl: Duration,
        force: bool,
        now: Timestamp,
    ) -> Result<u64, JournalError>;
    /// Err `Superseded` when the epoch is no longer ours, or was let go.
    async fn renew_lease(&self, run: &RunId, epoch: u64, ttl: Duration, now: Timestamp) -> Result<(), JournalError>;
    /// Nothing happens when the epoch is no longer ours.
    async fn release_lease(&self, run: &RunId, epoch: u64) -> Result<(), JournalError>;

    /// Files a person's request; its number.
    async fn file_request(
        &self,
        run: &RunId,
        by: &str,
        reason: Option<&str>,
        kind: &RequestKind,
        at: Timestamp,
    ) -> Result<i64, JournalError>;
    /// Requests that no engine has answered, oldest first.
    async fn open_requests(&self, run: &RunId) -> Result<Vec<Request>, JournalError>;
    /// Marks a request answered; `answer` says what came of it. The first answer stays.
    async fn answer_request(&self, run: &RunId, id: i64, answer: &str) -> Result<(), JournalError>;
    async fn request_answer(&self, run: &RunId, id: i64) -> Result<Option<String>, JournalError>;

    /// What the present step is doing, for `status` of another process. Not part of the truth, overwritten in place.
    async fn set_progress(&self, run: &RunId, text: &str) -> Result<(), JournalError>;
    async fn progress(&self, run: &RunId) -> Result<Option<String>, JournalError>;
}

/// The epoch of whoever takes the lease now. Err `Held` while another holds it.
fn next_epoch(lease: Option<&Lease>, force: bool, now: Timestamp) -> Result<u64, JournalError> {
    match lease {
        None => Ok(1),
        Some(lease) if force || !lease.is_held(now) => Ok(lease.epoch + 1),
        Some(lease) => Err(JournalError::Held { holder: lease.holder.clone() }),
    }
}

//! The loop, the lease, the guard's act. Nothing else in the product awaits a step.
//!
//! The loop appends the intent, calls `observe`, `advance` or `revert`, appends the outcome. **Invariant:** memory changes
//! only after the append returned; on losing the lease it stops at once.

mod drive;
mod guard;
mod heartbeat;
mod records;
mod safe;

pub use drive::{Engine, Listener, Patience, STANDS_STILL, Stop, Tell};
pub use guard::ProcessGuard;
pub use safe::{Rescue, Rescued};

use crate::journal::JournalError;
use std::time::Duration;

/// How long a lease lasts without being renewed. Longer than any window's grace; a dead process of the same machine is
/// noticed at once anyway.
pub const LEASE_TTL: Duration = Duration::from_secs(15);

/// Why the engine stopped, other than for a reason of the run's own.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("keep the run's journal")]
    Journal(#[source] JournalError),
    /// The run's records were written by a newer version, or the run has none.
    #[error("read the run's journal: {why}")]
    Unreadable { why: String },
}

/// An error of the journal with its causes.
fn in_full(error: &JournalError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl From<JournalError> for EngineError {
    fn from(error: JournalError) -> EngineError {
        EngineError::Journal(error)
    }
}

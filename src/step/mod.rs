//! The steps, one file each: `observe` reads what is so, `advance` and `revert` move.
//!
//! **Invariant:** steps know ports, never an implementation and never the engine.

mod context;

pub use context::{Guard, Ports, Records, Route, StepContext};

use crate::word::PortError;
use async_trait::async_trait;
use std::time::Duration;

/// What an observation says of a step's effect on the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    Absent,
    Partial,
    Complete,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// Begun, and to be called again after this time. `note` says what is waited for, without numbers that change: a
    /// changed note is a record in the journal.
    Pending {
        poll_after: Duration,
        note: String,
    },
    /// Nothing has been changed, and the step cannot begin yet: back before its gate.
    NotYet {
        poll_after: Duration,
        note: String,
    },
}

#[async_trait]
pub trait Step: Send + Sync {
    /// Reads the world and changes nothing. Settles what a lost call came to.
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError>;
    /// Moves the world towards done. Called again after `Pending`, after a failure, and after a crash.
    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError>;
    /// Takes back whatever `advance` did, in whole or in part.
    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError>;
}

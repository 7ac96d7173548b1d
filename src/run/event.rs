use super::Fact;
use crate::plan::Plan;
use crate::word::{Failure, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The format of journals and plans. Reading older is always possible, writing into a newer one is refused.
pub const FORMAT: u32 = 1;

/// The place of a step in the plan's line, from 0. People see it counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepNo(pub usize);

impl fmt::Display for StepNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 + 1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Forward,
    Backward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed,
    RolledBack,
}

impl Outcome {
    pub fn in_words(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::RolledBack => "rolled back",
        }
    }
}

/// One entry of a run's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    pub at: Timestamp,
    /// The lease under which it was written; 0 for the record that creates the run.
    pub epoch: u64,
    pub event: Event,
}

/// Everything that can happen to a run. Append-only; a change to a variant goes through the three questions: old reader
/// with new data, new reader with old data, old writer with new data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    RunCreated {
        plan: Box<Plan>,
        by: String,
    },
    /// A process took the lease of this run: whatever was open is now unsure.
    LeaseTaken {
        holder: String,
    },
    /// Durable intent: the step is about to change the world.
    StepStarted {
        step: StepNo,
        attempt: u32,
        direction: Direction,
    },
    FactLearned {
        step: StepNo,
        fact: Fact,
    },
    /// The step waits for something with its work begun; it is polled without further records while the note stays.
    StepParked {
        step: StepNo,
        until: Timestamp,
        note: String,
    },
    /// The step could not begin yet and has changed nothing: back before its gates.
    StepWaiting {
        step: StepNo,
        until: Timestamp,
        note: String,
    },
    StepFailed {
        step: StepNo,
        failure: Failure,
        error: String,
        hint: Option<String>,
        retry_at: Option<Timestamp>,
    },
    StepUnsure {
        step: StepNo,
        error: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        look_at: Timestamp,
    },
    StepDone {
        step: StepNo,
    },
    StepReverted {
        step: StepNo,
    },
    GateReached {
        step: StepNo,
        waits_for: String,
    },
    GateApproved {
        step: StepNo,
        by: String,
        reason: Option<String>,
    },
    /// Backward from here, through every touched step from the last down to `until`.
    RollbackBegun {
        until: StepNo,
        by: String,
        reason: String,
        without_green: bool,
        /// A change in place is taken back by a server that is restored to just before it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_restore: bool,
    },
    /// Forward again, where the writer has not moved: what was taken back is done anew.
    RollbackCalledOff {
        by: String,
        reason: Option<String>,
    },
    /// Everything from `until` on is taken back; forward again, and `until` waits for a person.
    RollbackHalted {
        until: StepNo,
    },
    /// Escape hatches, each with a name and a reason.
    RetryOrdered {
        step: StepNo,
        by: String,
        reason: Option<String>,
    },
    MarkedDone {
        step: StepNo,
        by: String,
        reason: String,
    },
    FinishOrdered {
        by: String,
        reason: Option<String>,
    },
    /// Something seen that a person should know of, and that changed nothing about the run.
    Noticed {
        what: String,
    },
    RunClosed {
        outcome: Outcome,
    },
    /// An event of a newer version: shown, never acted on.
    #[serde(other)]
    Unknown,
}

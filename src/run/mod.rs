//! The pure core: what happened (`event`, `fact`), what is so (`state`, the fold), what to do next (`decide`).
//!
//! **Invariant:** no clock, no I/O, no logging. The same journal always gives the same run, and there is no second copy
//! of the state and no cursor beside it.

mod asked;
mod decide;
mod event;
mod fact;
mod request;
mod state;

pub use asked::Asked;
pub use decide::{Decision, can_roll_back, cannot_be_taken_back, decide, waits_for};
pub use event::{Direction, Event, FORMAT, Outcome, Record, StepNo};
pub use fact::{Fact, WindowPhase};
pub use request::{Refusal, Request, RequestKind, answer, offers};
pub use state::{OpenWindow, Run, StepState, replay};

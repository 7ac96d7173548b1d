//! The window: the short pause in which the writer changes. Forward from blue to green, back from green to blue; one code
//! for both.
//!
//! It is one step, because each durable record inside it is a pause that every client feels. It has exactly one inside the
//! pause, the commit point: before it every way leads back, after it forward, whoever drives on.

mod attempt;
mod freeze;
mod prepare;
mod restored;
mod routes;
mod safety;
mod settle;

pub use prepare::changes_of_green;
pub use safety::{By, let_clients_read, make_safe};

use super::{Observed, Progress, Step, StepContext, place, routes::tidy, validate_green};
use crate::plan::Strategy;
use crate::run::{Direction, Fact, StepNo};
use crate::word::{Failure, PortError, Side};
use async_trait::async_trait;
use std::time::Duration;

/// Between two rehearsals: each is a change of the routes' files.
const REHEARSAL: Duration = Duration::from_secs(5);

/// Between two counts of what no apply worker checks: each reads whole tables.
const RECOUNT: Duration = Duration::from_secs(10);

/// Why such a window was closed.
const LEFT_OPEN: &str = "the window was left open and was made safe";

#[derive(Debug)]
pub(super) struct Window;

#[async_trait]
impl Step for Window {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        let run = cx.run();
        if run.open_window().is_some() {
            return Ok(Observed::Partial);
        }
        Ok(match (run.direction, run.serving()) {
            (Direction::Forward, Side::Green) if run.follows_back() => Observed::Complete,
            (Direction::Forward, Side::Blue) => Observed::Absent,
            (Direction::Backward, Side::Blue) if run.follows_back() || !has_moved(cx) => Observed::Absent,
            (Direction::Forward | Direction::Backward, _) => Observed::Partial,
        })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let result = go(cx, Side::Green).await;
        unsure_inside_a_window(cx, result)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if cx.run().open_window().is_none() && cx.run().serving() == Side::Blue && !has_moved(cx) {
            return Ok(Progress::Done);
        }
        if cx.run().open_window().is_some() && !cx.run().without_green {
            // Clients may be waiting: safety first, before green is asked where this leads.
            let safe = make_safe(cx, LEFT_OPEN, By::Coordinator).await;
            unsure_inside_a_window(cx, safe.map(|()| Progress::Done))?;
        }
        if cx.run().without_green || (cx.run().until == StepNo(0) && place::leaves_green(cx).await?) {
            return leave_green(cx).await;
        }
        let result = go(cx, Side::Blue).await;
        unsure_inside_a_window(cx, result)
    }
}

/// Windows that were opened since the writer last moved: each of them went back, and each was a pause for every client.
fn failed_in_a_row(cx: &StepContext<'_>) -> u32 {
    let facts = &cx.run().facts;
    let since = facts.iter().rposition(|fact| matches!(fact, Fact::WindowCommitted { .. })).unwrap_or(0);
    facts[since..].iter().map(|fact| u32::from(matches!(fact, Fact::WindowOpened { .. }))).sum()
}

/// Between two tries: 5 s at first, twice as long each time, a quarter of an hour at most. What fails again and again must
/// not cost the clients a pause every few seconds.
fn pause_between(failed: u32) -> Duration {
    Duration::from_secs(5 << failed.saturating_sub(1).min(10)).min(Duration::from_mins(15))
}

/// Whether any window of this run ever passed its commit point.
fn has_moved(cx: &StepContext<'_>) -> bool {
    cx.run().follow_from().is_some()
}

/// How the side that is to serve comes by what the other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It follows, row by row.
    Follows,
    /// It is the other's standby still, and is migrated in the pause.
    Freezes,
    /// It does not: it is what a backup was restored to.
    Restored,
}

fn way(cx: &StepContext<'_>, to: Side) -> Way {
    match (cx.plan.strategy, to) {
        (Strategy::Sync, _) | (Strategy::Freeze, Side::Blue) => Way::Follows,
        (Strategy::Freeze, Side::Green) => Way::Freezes,
        (Strategy::InPlace | Strategy::Restored, _) => Way::Restored,
    }
}

/// Puts on record how somebody could write to blue since it follows green.
pub(super) async fn note_broken_fence(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    prepare::note_broken_fence(cx).await
}

/// Moves the writer to a restored green, and leaves blue closed for writes.
pub(super) async fn to_restored(cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
    let result = go(cx, Side::Green).await;
    unsure_inside_a_window(cx, result)
}

/// Blue serves again without asking green, by a person's word.
pub(super) async fn leave_green(cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
    let result = safety::leave_green(cx).await;
    if matches!(result, Ok(Progress::Done)) {
        tidy(cx).await?;
    }
    unsure_inside_a_window(cx, result)
}

/// Whatever an error inside an open window says of itself, clients may be waiting: the next call, soon, makes it safe.
fn unsure_inside_a_window(cx: &StepContext<'_>, result: Result<Progress, PortError>) -> Result<Progress, PortError> {
    match result {
        Err(error) if cx.run().open_window().is_some() => Err(PortError { failure: Failure::Uncertain, ..error }),
        result => result,
    }
}

async fn go(cx: &mut StepContext<'_>, to: Side) -> Result<Progress, PortError> {
    // Left open by a crash or a lost answer: safety first, whatever this call was meant to do.
    make_safe(cx, LEFT_OPEN, By::Coordinator).await?;
    if cx.run().serving() != to {
        if has_moved(cx) && !cx.run().follows_back() {
            // Turned back before the last window was settled: `to` has to follow first.
            let progress = settle::follow_back(cx, to.other()).await?;
            if progress != Progress::Done {
                return Ok(progress);
            }
        }
        let why_not = match way(cx, to) {
            Way::Follows => prepare::look(cx, to).await?,
            Way::Freezes => prepare::look_before_freeze(cx).await?,
            Way::Restored => restored::look(cx).await?,
        };
        if let Some(why_not) = why_not {
            return Ok(Progress::NotYet { poll_after: Duration::from_secs(1), note: why_not });
        }
        let looks = cx.ports.last_looks.iter().filter(|(at, _)| *at == to).map(|(_, look)| look);
        if let Some(differences) = validate_green::asked(cx, looks).await?.differences {
            return Ok(Progress::NotYet { poll_after: RECOUNT, note: format!("no difference on {to}: {differences}") });
        }
        prepare::say_who_is_cut_off(cx, to.other()).await?;
        if let Some(why_not) = routes::rehearsed(cx, to).await? {
            return Ok(Progress::NotYet { poll_after: REHEARSAL, note: why_not });
        }
        if let Err(why_not) = cx.records.hold().await {
            return Ok(Progress::NotYet { poll_after: Duration::from_secs(1), note: why_not.chain() });
        }
        if let Some(why_back) = attempt::open(cx, to).await? {
            let note = format!("another window, since the last went back: {why_back}");
            return Ok(Progress::NotYet { poll_after: pause_between(failed_in_a_row(cx)), note });
        }
    }
    match cx.plan.strategy {
        // Green, which follows blue no more, goes with the step that is taken back next.
        Strategy::Freeze if to == Side::Blue => settle::leave_fenced(cx, Side::Green).await,
        Strategy::Sync | Strategy::Freeze => settle::follow_back(cx, to).await,
        Strategy::InPlace | Strategy::Restored => settle::leave_fenced(cx, to.other()).await,
    }
}

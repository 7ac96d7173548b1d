//! Whether each server is still what the run takes it for. Somebody else, such as a manager of high availability, may demote
//! one, promote another in its place, or lead its address elsewhere; none of these is waited for.

use super::StepContext;
use crate::plan::{StepName, Strategy};
use crate::run::{Fact, StepState};
use crate::word::{PortError, Side};
use tokio::{join, try_join};

/// A server that is not what it was, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub why: String,
    pub hint: String,
}

impl Lost {
    pub(super) fn refusal(self, attempted: &str) -> PortError {
        PortError::refused(attempted).because(self.why).hint(self.hint)
    }
}

/// `None`: both are as they must be.
pub(super) async fn lost(cx: &StepContext<'_>) -> Result<Option<Lost>, PortError> {
    let (blue, green) = try_join!(blue_is_lost(cx), green_is_lost(cx))?;
    Ok(blue.or(green))
}

pub(super) async fn is_lost(cx: &StepContext<'_>, side: Side) -> Result<Option<Lost>, PortError> {
    match side {
        Side::Blue => blue_is_lost(cx).await,
        Side::Green => green_is_lost(cx).await,
    }
}

async fn blue_is_lost(cx: &StepContext<'_>) -> Result<Option<Lost>, PortError> {
    let finish = cx.plan.step_no(StepName::Finish);
    if finish.is_some_and(|step| !matches!(cx.run().steps[step.0], StepState::Idle | StepState::Gated { .. })) {
        return Ok(None);
    }
    let Some(why) = not_blue(cx).await? else { return Ok(None) };
    let run = &cx.plan.run;
    let hint = match cx.run().serving() {
        Side::Blue => format!(
            "stop what manages blue's high availability; `greenlight abandon {run}` takes the run back once a primary answers at \
             blue's address"
        ),
        Side::Green => format!(
            "green serves and stays, and there is no lossless way back to blue any more: `greenlight finish {run}`, once blue is a primary \
             as before, or without it `greenlight mark-done {run} --step {} --reason \"blue is lost\"`; then make a new standby of green",
            cx.plan.step_no(StepName::Soak).map(|step| step.to_string()).unwrap_or_default()
        ),
    };
    Ok(Some(Lost { why, hint }))
}

async fn green_is_lost(cx: &StepContext<'_>) -> Result<Option<Lost>, PortError> {
    let Some(why) = not_green(cx).await? else { return Ok(None) };
    let run = &cx.plan.run;
    let hint = match cx.run().serving() {
        Side::Blue => format!(
            "`greenlight abandon {run}` takes the run back; take green out of what manages its high availability, rebuild it as a standby, \
             and start a new run"
        ),
        Side::Green => format!(
            "APPLICATIONS CANNOT WRITE. Make green a primary again (pause what manages it, then `SELECT pg_promote()`), or move back \
             without it, which loses what green took and blue has not: `greenlight abandon {run} --without-green`"
        ),
    };
    Ok(Some(Lost { why, hint }))
}

/// `Some`: what answers at blue's address is not blue as it was planned with. It may be green itself, to which somebody has led
/// blue's name: it is neither opened nor closed.
pub(super) async fn not_blue(cx: &StepContext<'_>) -> Result<Option<String>, PortError> {
    let (now, timeline) = (cx.ports.blue.identity().await?, cx.plan.blue_timeline);
    Ok(if let Some(why) = another_cluster(cx, now.system_identifier, Side::Blue) {
        Some(why)
    } else if now.in_recovery {
        Some("blue is a standby now: somebody else demoted it, or another server answers at its address".to_owned())
    } else if timeline != 0 && now.timeline != timeline {
        Some(format!(
            "blue writes timeline {}, and wrote {timeline} when planned: it failed over to another server",
            now.timeline
        ))
    } else {
        None
    })
}

/// The same of green, from its promotion on.
pub(super) async fn not_green(cx: &StepContext<'_>) -> Result<Option<String>, PortError> {
    let promoted = cx.run().facts.iter().rev().find_map(|fact| match fact {
        Fact::Promoted { timeline, .. } => Some(*timeline),
        _ => None,
    });
    let follows = matches!(cx.plan.strategy, Strategy::Sync | Strategy::Freeze);
    let Some(timeline) = promoted.filter(|_| follows && !cx.run().without_green) else { return Ok(None) };
    let now = cx.ports.green.identity().await?;
    Ok(if let Some(why) = another_cluster(cx, now.system_identifier, Side::Green) {
        Some(why)
    } else if now.in_recovery {
        Some("green is a standby again: somebody else, such as Patroni, demoted it after the run had promoted it".to_owned())
    } else if now.timeline != timeline {
        Some(format!("green writes timeline {}, and wrote {timeline} when the run promoted it: it failed over", now.timeline))
    } else {
        None
    })
}

/// Whether both addresses lead to the same server now: somebody has led the one's name to the other. One that does not answer is
/// not the other.
pub(super) async fn are_one(cx: &StepContext<'_>) -> bool {
    matches!(join!(cx.ports.blue.signature(), cx.ports.green.signature()), (Ok(blue), Ok(green)) if blue == green)
}

/// `Some`: a server with this system identifier is neither blue nor a copy of it.
pub(super) fn another_cluster(cx: &StepContext<'_>, identifier: u64, at: Side) -> Option<String> {
    let planned = cx.plan.system_identifier;
    (planned != 0 && identifier != planned).then(|| {
        format!(
            "another cluster answers at {at}'s address: its system identifier is {identifier}, and {planned} was planned with"
        )
    })
}

/// Whether the run is taken back without touching green: by a person's word, or since what answers there is not the green that the
/// run promoted, and does not serve. What the run made cannot be taken away then.
pub(super) async fn leaves_green(cx: &StepContext<'_>) -> Result<bool, PortError> {
    let run = cx.run();
    if run.without_green || run.serving() == Side::Green || run.fork_point().is_none() {
        return Ok(run.without_green);
    }
    Ok(not_green(cx).await?.is_some())
}

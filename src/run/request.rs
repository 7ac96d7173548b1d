use super::state::was_touched;
use super::{Direction, Event, Run, StepNo, StepState};
use crate::plan::{Plan, Reversal, StepName, Strategy};
use crate::word::{Side, Timestamp};
use serde::{Deserialize, Serialize};

/// What a person asked for. The command line and the web page file requests; the engine turns them into events that
/// carry the person's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Given by the journal when filed; ordered.
    pub id: i64,
    pub at: Timestamp,
    pub by: String,
    pub reason: Option<String>,
    pub kind: RequestKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestKind {
    /// Open the gate that the run waits at.
    Approve,
    /// Try the stuck step again.
    Retry,
    /// A person did the stuck step by hand.
    MarkDone { step: StepNo },
    /// Move back to blue; the run then waits before its window. After a freeze everything is taken back.
    Rollback,
    /// End the soak and take replication down.
    Finish,
    /// Take everything back and leave blue serving. `without_green`: do not try to reach green. `by_restore`: take a change in
    /// place back by a server that is restored to just before it, which then serves.
    Abandon {
        without_green: bool,
        #[serde(default)]
        by_restore: bool,
    },
}

/// What a request comes to: the event that carries it, or why it cannot be done, for the person. Pure.
pub fn answer(plan: &Plan, run: &Run, request: &Request) -> Result<Event, String> {
    if run.outcome.is_some() {
        return Err("the run is over".to_owned());
    }
    let (by, reason) = (request.by.clone(), request.reason.clone());
    let present = run.present_step().map(|step| (step, &run.steps[step.0]));
    match &request.kind {
        RequestKind::Approve => match present {
            Some((step, StepState::Gated { approved: false, .. })) => Ok(Event::GateApproved { step, by, reason }),
            _ => Err("the run waits at no gate".to_owned()),
        },
        RequestKind::Retry => match present {
            Some((step, StepState::Stuck { .. } | StepState::Retrying { .. } | StepState::Unsure { .. })) => {
                Ok(Event::RetryOrdered { step, by, reason })
            }
            _ => Err("no step of the run has failed".to_owned()),
        },
        RequestKind::MarkDone { step } => match present {
            Some((stuck, StepState::Stuck { .. })) if stuck == *step => {
                // On the way back it leaves nothing but a scratch database.
                if plan.steps[step.0].name == StepName::ShadowGreen && run.direction == Direction::Forward && !run.is_judged() {
                    return Err("nobody can do it by hand: what it learns decides the steps after it".to_owned());
                }
                let reason = reason.ok_or("say why: `--reason \"...\"`")?;
                Ok(Event::MarkedDone { step: *step, by, reason })
            }
            _ => Err(format!("step {step} is not stuck")),
        },
        RequestKind::Rollback => rollback(plan, run, by, reason),
        RequestKind::Finish => {
            match present {
                Some((step, _)) if run.direction == Direction::Forward && plan.steps[step.0].name == StepName::Soak => {
                    if plan.green_snapshot.is_some() && run.recoverable_since().is_none() {
                        return Err("green cannot be recovered to a point in time yet: its first backup is not there, and after `finish` \
                                blue is no way back any more; `greenlight status` shows when it is"
                        .to_owned());
                    }
                    Ok(Event::FinishOrdered { by, reason })
                }
                _ => Err("the run does not soak: there is nothing to finish yet".to_owned()),
            }
        }
        RequestKind::Abandon { without_green, by_restore } => {
            if past_return(plan, run) {
                return Err(gone(plan).to_owned());
            }
            if *by_restore && plan.step_no(StepName::ArmRestore).is_none() {
                return Err(
                    "the playbook names no place for a restored server (`green.restore`), or the change is not in place; \
                            `greenlight restore` makes one by hand"
                        .to_owned(),
                );
            }
            if plan.strategy == Strategy::Restored && run.serving() == Side::Green && !without_green {
                return Err(ON_ITS_OWN.to_owned());
            }
            let reason = reason.unwrap_or_else(|| "abandoned".to_owned());
            Ok(Event::RollbackBegun { until: StepNo(0), by, reason, without_green: *without_green, by_restore: *by_restore })
        }
    }
}

fn rollback(plan: &Plan, run: &Run, by: String, reason: Option<String>) -> Result<Event, String> {
    if past_return(plan, run) {
        return Err(gone(plan).to_owned());
    }
    if run.direction == Direction::Backward {
        return Err("the run is on its way back already".to_owned());
    }
    if run.serving() == Side::Blue && run.open_window().is_none_or(|window| window.committed.is_none()) {
        return Err("blue serves: there is nothing to roll back; `greenlight abandon` takes the whole run back".to_owned());
    }
    if let Some(why) = run.way_back_given_up() {
        return Err(format!("a rollback would lose writes: {why}"));
    }
    if plan.strategy == Strategy::Restored {
        return Err(ON_ITS_OWN.to_owned());
    }
    let until = match plan.strategy {
        // Back to before the last look at whether the sides are equal, so that another window begins with a new one.
        Strategy::Sync => plan.step_no(StepName::ValidateGreen).ok_or("the plan has no window")?,
        // Green does not follow blue again: it was a standby, and would be one only if it were built anew.
        Strategy::Freeze | Strategy::InPlace | Strategy::Restored => StepNo(0),
    };
    let reason = reason.unwrap_or_else(|| "rolled back".to_owned());
    Ok(Event::RollbackBegun { until, by, reason, without_green: false, by_restore: false })
}

/// Of a restored green that serves.
const ON_ITS_OWN: &str = "blue does not follow a restored green: what green took would be lost. If that is what you want: \
                          `greenlight abandon --without-green`";

fn gone(plan: &Plan) -> &'static str {
    match plan.strategy {
        Strategy::Sync | Strategy::Freeze | Strategy::Restored => "`finish` has begun: the ways back are gone",
        Strategy::InPlace => "the change is done, and the run gives blue up: only a restore leads back",
    }
}

fn past_return(plan: &Plan, run: &Run) -> bool {
    plan.steps.iter().zip(&run.steps).any(|(planned, state)| planned.reversal == Reversal::PointOfNoReturn && was_touched(state))
}

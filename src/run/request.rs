use super::state::was_touched;
use super::{Direction, Event, Run, StepNo, StepState};
use crate::plan::{Plan, Reversal, StepName, Strategy};
use crate::word::{Side, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    /// A way back on which the writer has not moved is left, and green goes on serving.
    CallOff,
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

/// Why a request cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs; it stays the same where the words change.
    pub code: &'static str,
    /// For the person.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

fn refusal<T>(code: &'static str, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, why: why.into() })
}

/// What can be asked of the run now, the least first: each of these is answered with an event.
pub fn offers(plan: &Plan, run: &Run) -> Vec<RequestKind> {
    let present = run.present_step().unwrap_or(StepNo(0));
    let abandon = |without_green, by_restore| RequestKind::Abandon { without_green, by_restore };
    let all = [
        RequestKind::Approve,
        RequestKind::Retry,
        RequestKind::MarkDone { step: present },
        RequestKind::Finish,
        RequestKind::Rollback,
        RequestKind::CallOff,
        abandon(false, false),
        abandon(false, true),
        abandon(true, false),
    ];
    let is_taken = |kind: &RequestKind| {
        let reason = Some("asked".to_owned());
        answer(plan, run, &Request { id: 0, at: Timestamp::UNIX_EPOCH, by: String::new(), reason, kind: kind.clone() }).is_ok()
    };
    all.into_iter().filter(is_taken).collect()
}

/// What a request comes to: the event that carries it, or why it cannot be done, for the person. Pure.
pub fn answer(plan: &Plan, run: &Run, request: &Request) -> Result<Event, Refusal> {
    if run.outcome.is_some() {
        return refusal("run_is_over", "the run is over");
    }
    let (by, reason) = (request.by.clone(), request.reason.clone());
    let present = run.present_step().map(|step| (step, &run.steps[step.0]));
    match &request.kind {
        RequestKind::Approve => match present {
            Some((step, StepState::Gated { approved: false, .. })) => Ok(Event::GateApproved { step, by, reason }),
            Some((step, StepState::Gated { approved: true, .. })) => {
                let title = plan.steps[step.0].name;
                refusal(
                    "approved_already",
                    format!("step {step}, {title}, is approved already: the run waits for something else"),
                )
            }
            _ => refusal("no_gate", "the run waits at no gate"),
        },
        RequestKind::Retry => match present {
            Some((step, StepState::Stuck { .. } | StepState::Retrying { .. } | StepState::Unsure { .. })) => {
                Ok(Event::RetryOrdered { step, by, reason })
            }
            _ => refusal("nothing_failed", "no step of the run has failed"),
        },
        RequestKind::MarkDone { step } => match present {
            Some((stuck, StepState::Stuck { .. })) if stuck == *step => {
                // On the way back it leaves nothing but a scratch database.
                if plan.steps[step.0].name == StepName::ShadowGreen && run.direction == Direction::Forward && !run.is_judged() {
                    return refusal("not_by_hand", "nobody can do it by hand: what it learns decides the steps after it");
                }
                match reason {
                    Some(reason) => Ok(Event::MarkedDone { step: *step, by, reason }),
                    None => refusal("no_reason", "say why: `--reason \"...\"`"),
                }
            }
            _ => refusal("not_stuck", format!("step {step} is not stuck")),
        },
        RequestKind::Rollback => rollback(plan, run, by, reason),
        RequestKind::CallOff => call_off(plan, run, by, reason),
        RequestKind::Finish => finish(plan, run, by, reason),
        RequestKind::Abandon { without_green, by_restore } => {
            if past_return(plan, run) {
                return refusal("past_return", gone(plan));
            }
            if *by_restore && plan.step_no(StepName::ArmRestore).is_none() {
                return refusal(
                    "no_place_to_restore",
                    "the playbook names no place for a restored server (`green.restore`), or the change is not in place; \
                     `greenlight restore` makes one by hand",
                );
            }
            if plan.strategy == Strategy::Restored && run.serving() == Side::Green && !without_green {
                return refusal("would_lose", ON_ITS_OWN);
            }
            if let (Some(why), Side::Green, false) = (run.way_back_given_up(), run.serving(), *without_green) {
                return refusal("would_lose", would_lose(why));
            }
            let reason = reason.unwrap_or_else(|| "abandoned".to_owned());
            Ok(Event::RollbackBegun { until: StepNo(0), by, reason, without_green: *without_green, by_restore: *by_restore })
        }
    }
}

fn call_off(plan: &Plan, run: &Run, by: String, reason: Option<String>) -> Result<Event, Refusal> {
    if run.direction == Direction::Forward {
        return refusal("not_on_its_way_back", "the run is not on its way back");
    }
    let follows = matches!(plan.strategy, Strategy::Sync | Strategy::Freeze);
    let stays = run.serving() == Side::Green && run.open_window().is_none() && !run.without_green;
    if !follows || !stays {
        return refusal("moved_already", "the applications are on blue, or about to be: the way back goes on");
    }
    Ok(Event::RollbackCalledOff { by, reason })
}

fn finish(plan: &Plan, run: &Run, by: String, reason: Option<String>) -> Result<Event, Refusal> {
    let soak = run.present_step().filter(|step| run.direction == Direction::Forward && plan.steps[step.0].name == StepName::Soak);
    let Some(soak) = soak else {
        return refusal("no_soak", "the run does not soak: there is nothing to finish yet");
    };
    if matches!(run.steps[soak.0], StepState::Stuck { .. }) {
        let why = run.reason.as_deref().unwrap_or("a step failed");
        return refusal("held", format!("the run is held: {why}; once that is mended, `greenlight retry` goes on with the soak"));
    }
    if plan.green_snapshot.is_some() && run.recoverable_since().is_none() {
        return refusal(
            "no_backup",
            "green cannot be recovered to a point in time yet: its first backup is not there, and after `finish` blue is no way \
             back any more; `greenlight status` shows when it is",
        );
    }
    Ok(Event::FinishOrdered { by, reason })
}

fn rollback(plan: &Plan, run: &Run, by: String, reason: Option<String>) -> Result<Event, Refusal> {
    if past_return(plan, run) {
        return refusal("past_return", gone(plan));
    }
    if run.direction == Direction::Backward {
        return refusal("on_its_way_back", "the run is on its way back already");
    }
    if run.serving() == Side::Blue && run.open_window().is_none_or(|window| window.committed.is_none()) {
        let why = "blue serves: there is nothing to roll back; `greenlight abandon` takes the whole run back";
        return refusal("blue_serves", why);
    }
    if let Some(why) = run.way_back_given_up() {
        return refusal("would_lose", would_lose(why));
    }
    if plan.strategy == Strategy::Restored {
        return refusal("would_lose", ON_ITS_OWN);
    }
    if let (None, Some((at, how))) = (&reason, run.fence_broken().next()) {
        let why = format!(
            "{how}, seen {at}: somebody may have written to blue since, and nobody knows what; after a rollback that is what \
             applications find. See what is on blue and not on green; to go back all the same, say why: `--reason \"...\"`"
        );
        return refusal("fence_broken", why);
    }
    let until = match plan.strategy {
        // Back to before the last look at whether the sides are equal, so that another window begins with a new one.
        Strategy::Sync => match plan.step_no(StepName::ValidateGreen) {
            Some(step) => step,
            None => return refusal("no_window", "the plan has no window"),
        },
        // Green does not follow blue again: it was a standby, and would be one only if it were built anew.
        Strategy::Freeze | Strategy::InPlace | Strategy::Restored => StepNo(0),
    };
    let reason = reason.unwrap_or_else(|| "rolled back".to_owned());
    Ok(Event::RollbackBegun { until, by, reason, without_green: false, by_restore: false })
}

fn would_lose(why: &str) -> String {
    format!(
        "moving back would lose writes: {why}. `greenlight finish` keeps green; `greenlight abandon --without-green` moves back to \
         blue, and loses what green took and blue has not"
    )
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

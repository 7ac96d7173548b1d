use super::state::was_touched;
use super::{Direction, Fact, Outcome, Run, StepNo, StepState};
use crate::plan::{OnFailure, Plan, Reversal, Strategy};
use crate::word::{Side, Timestamp};

/// What the engine is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Read the world to settle what an open call came to. Changes nothing.
    Observe {
        step: StepNo,
    },
    /// Call `advance` or `revert`, by the run's direction. `poll`: the intent is recorded already.
    Act {
        step: StepNo,
        attempt: u32,
        poll: bool,
    },
    /// Record that the run has come to a gate.
    ReachGate {
        step: StepNo,
        waits_for: String,
    },
    BeginRollback {
        stuck: StepNo,
        by_restore: bool,
    },
    HaltRollback {
        until: StepNo,
    },
    WaitUntil {
        step: StepNo,
        until: Timestamp,
    },
    /// Only a request of a person moves the run on.
    WaitForPerson {
        step: StepNo,
    },
    Close(Outcome),
    /// The journal holds what this version cannot read.
    Refuse,
}

/// What to do next. Total, synchronous, no clock, no I/O.
pub fn decide(plan: &Plan, run: &Run, now: Timestamp) -> Decision {
    use Direction::{Backward, Forward};
    use StepState as S;
    if run.unreadable {
        return Decision::Refuse;
    }
    if let Some(outcome) = run.outcome {
        return Decision::Close(outcome);
    }
    let Some(step) = run.present_step() else {
        return match run.direction {
            Forward => Decision::Close(Outcome::Completed),
            Backward if run.until == StepNo(0) => Decision::Close(Outcome::RolledBack),
            Backward => Decision::HaltRollback { until: run.until },
        };
    };
    match (run.direction, &run.steps[step.0]) {
        (_, S::Parked { until, .. } | S::Retrying { until, .. } | S::Unsure { look_at: Some(until), .. }) if now < *until => {
            Decision::WaitUntil { step, until: *until }
        }
        (_, S::Unsure { .. }) => Decision::Observe { step },
        (_, S::Parked { attempt, .. }) => Decision::Act { step, attempt: *attempt, poll: true },
        (_, S::Retrying { attempt, .. }) => Decision::Act { step, attempt: *attempt, poll: false },
        (Forward, S::Idle) => match plan.steps[step.0].gate.waits_for(now, false) {
            Some(waits_for) => Decision::ReachGate { step, waits_for },
            None => Decision::Act { step, attempt: 1, poll: false },
        },
        (Forward, S::Gated { approved: false, held: true, .. }) => Decision::WaitForPerson { step },
        (Forward, S::Gated { approved, until, .. }) => decide_at_gate(plan, step, *approved, *until, now),
        (Forward, S::Stuck { .. }) => match on_failure(plan, step) {
            OnFailure::Rollback if can_roll_back(plan, run) => Decision::BeginRollback { stuck: step, by_restore: false },
            OnFailure::Restore if may_turn_back(plan, run) => Decision::BeginRollback { stuck: step, by_restore: true },
            OnFailure::Rollback | OnFailure::Restore | OnFailure::Hold => Decision::WaitForPerson { step },
        },
        (Backward, S::Done | S::Stuck { while_going: Forward }) => Decision::Act { step, attempt: 1, poll: false },
        (Backward, S::Stuck { .. }) => Decision::WaitForPerson { step },
        // An open call without a takeover is this process's own lost answer: look before anything else.
        (_, S::Running { .. }) => Decision::Observe { step },
        // `present_step` never names these.
        (Forward, S::Done | S::Reverted) | (Backward, S::Idle | S::Gated { .. } | S::Reverted) => Decision::Refuse,
    }
}

/// What the run waits for now, for a person: its hours with the time at which they open, or what the present step said.
pub fn waits_for(plan: &Plan, run: &Run, now: Timestamp) -> Option<String> {
    if run.outcome.is_some() {
        return None;
    }
    let step = run.present_step()?;
    let gate = &plan.steps[step.0].gate;
    match (&run.steps[step.0], gate.hours_in_words(now)) {
        (StepState::Gated { approved: true, .. }, Some(hours)) => Some(hours),
        (StepState::Gated { approved: false, held, .. }, Some(hours)) if *held || gate.approval => {
            Some(format!("{}; {hours}", run.note.as_deref().unwrap_or("an approval")))
        }
        (StepState::Gated { .. }, Some(hours)) => Some(hours),
        _ => run.note.clone(),
    }
}

fn on_failure(plan: &Plan, step: StepNo) -> OnFailure {
    plan.steps[step.0].on_failure.unwrap_or(plan.on_failure)
}

fn decide_at_gate(plan: &Plan, step: StepNo, approved: bool, until: Option<Timestamp>, now: Timestamp) -> Decision {
    let gate = &plan.steps[step.0].gate;
    if gate.approval && !approved {
        return Decision::WaitForPerson { step };
    }
    // Hours that never come, or a zone that this machine does not know, are no open gate.
    let Some(opens_at) = gate.opens_at(now) else {
        return Decision::WaitForPerson { step };
    };
    match until.into_iter().chain([opens_at]).max().filter(|until| now < *until) {
        Some(until) => Decision::WaitUntil { step, until },
        None => Decision::Act { step, attempt: 1, poll: false },
    }
}

/// In place every migration that blue has must have a way back.
pub fn can_roll_back(plan: &Plan, run: &Run) -> bool {
    may_turn_back(plan, run) && cannot_be_taken_back(plan, run).is_none()
}

/// An automatic way back exists only while nothing past a point of no return was touched, and while blue serves: once
/// green has served, a person decides.
fn may_turn_back(plan: &Plan, run: &Run) -> bool {
    let past_return = plan
        .steps
        .iter()
        .zip(&run.steps)
        .any(|(planned, state)| planned.reversal == Reversal::PointOfNoReturn && was_touched(state));
    let in_window = run.open_window().is_some_and(|window| window.committed.is_some());
    !past_return && run.serving() == Side::Blue && !in_window
}

/// The first migration of a change in place that blue has, or may have in part, and that has no way back, by its file's name.
pub fn cannot_be_taken_back(plan: &Plan, run: &Run) -> Option<String> {
    let is_applied = |version: &str| {
        run.facts.iter().any(|fact| matches!(fact, Fact::Migrated { version: applied, .. } if applied == version))
    };
    let in_place = plan.strategy == Strategy::InPlace;
    let mut migrations = plan.migrations.iter().filter(|_| in_place);
    // The first that is not applied may have been begun, and in batches that is a part of it.
    let was_begun = run.facts.iter().any(|fact| matches!(fact, Fact::BlueFingerprint { .. }));
    let next = plan.migrations.iter().find(|migration| !is_applied(&migration.version)).filter(|_| was_begun);
    let is_half_done = |version: &str| next.is_some_and(|next| next.version == version && next.batch_rows().is_some());
    let lacking = migrations
        .find(|migration| migration.down.is_none() && (is_applied(&migration.version) || is_half_done(&migration.version)));
    Some(lacking?.file_name())
}

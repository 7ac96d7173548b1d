use super::{Direction, Outcome, RequestKind, Run, StepNo, StepState};
use crate::plan::{Plan, StepName};
use crate::word::Side;

/// What somebody asked of a run, and where the run stood then: tells whether it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    kind: RequestKind,
    /// The step that stood in the way.
    step: Option<StepNo>,
    /// The run was not on its way back.
    forward: bool,
}

impl Asked {
    /// `run`: as it stands before the request is answered.
    pub fn new(run: &Run, kind: RequestKind) -> Asked {
        Asked { kind, step: run.present_step(), forward: run.direction == Direction::Forward }
    }

    pub fn kind(&self) -> &RequestKind {
        &self.kind
    }

    /// The step that stood in the way when it was asked.
    pub fn step(&self) -> Option<StepNo> {
        self.step
    }

    /// Whether what was asked for is so. Of a step that was let through, or tried again: it is done.
    pub fn is_so(&self, plan: &Plan, run: &Run) -> bool {
        match &self.kind {
            // The run was taken back instead, by itself or by somebody else.
            RequestKind::Approve | RequestKind::Retry | RequestKind::MarkDone { .. }
                if self.forward && (run.direction == Direction::Backward || run.outcome == Some(Outcome::RolledBack)) =>
            {
                false
            }
            RequestKind::Approve | RequestKind::Retry | RequestKind::MarkDone { .. } => {
                let done = |step: StepNo| match run.steps.get(step.0) {
                    Some(StepState::Done | StepState::Reverted) => true,
                    // It lasts, and is tried again by being looked at.
                    Some(StepState::Parked { .. }) => lasts(plan, step),
                    _ => false,
                };
                // At a further gate it waits as planned; waiting for anything else, what was let through did not go through.
                let waits_as_planned =
                    |step: StepNo| matches!(run.steps[step.0], StepState::Gated { approved: false, .. }) || lasts(plan, step);
                run.outcome == Some(Outcome::Completed)
                    || (self.step.is_none_or(done) && run.present_step().is_none_or(waits_as_planned))
            }
            RequestKind::Rollback => run.serving() == Side::Blue && run.open_window().is_none(),
            RequestKind::CallOff => run.direction == Direction::Forward && run.serving() == Side::Green,
            RequestKind::Finish => run.outcome == Some(Outcome::Completed),
            RequestKind::Abandon { .. } => run.outcome == Some(Outcome::RolledBack),
        }
    }

    /// Whether it is so, and the run has come to rest: what waits for it can go.
    pub fn is_settled(&self, plan: &Plan, run: &Run) -> bool {
        let rests = run.direction == Direction::Forward && run.present_step().is_some_and(|step| lasts(plan, step));
        self.is_so(plan, run)
            && match &self.kind {
                _ if run.outcome.is_some() => true,
                RequestKind::Approve | RequestKind::Retry | RequestKind::MarkDone { .. } | RequestKind::CallOff => rests,
                // Once green follows blue again.
                RequestKind::Rollback => run.direction == Direction::Forward,
                RequestKind::Finish | RequestKind::Abandon { .. } => false,
            }
    }
}

/// The one step that is over when a person or the clock says so.
fn lasts(plan: &Plan, step: StepNo) -> bool {
    plan.steps.get(step.0).is_some_and(|planned| planned.name == StepName::Soak)
}

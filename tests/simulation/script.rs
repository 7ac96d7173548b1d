//! The person at the run: opens gates, asks for a rollback or the finish, tries again what is stuck, abandons.

use crate::world::{SECOND, World};
use greenlight::{
    plan::StepName,
    run::{Decision, Direction, RequestKind, StepState, decide},
};
use std::sync::atomic::Ordering;

/// What the person asks for at a soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Rollback,
    Finish,
}

/// How a person acts, and what this one has said so far.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// At the first soak, the second...
    pub(crate) soaks: &'static [Wish],
    /// Abandons at this waiting place, from 1.
    pub(crate) abandon_at: Option<u32>,
    pub(crate) without_green: bool,
    /// Green goes down when the person is about to abandon.
    pub(crate) green_goes_down: bool,
    /// A read that fails for ever from the moment when the window waits for its approval.
    pub(crate) breaks: Option<&'static str>,
    /// How often a stuck step is tried again before the person leaves it as it is.
    pub(crate) retries: u32,
    /// Seconds without any progress before the person abandons.
    pub(crate) patience_secs: u64,
    /// Waiting places so far.
    pub(crate) waits: u32,
    place: Option<Place>,
    since: u64,
    abandoned: u32,
    pub(crate) gave_up: bool,
}

/// Where the run stands, as far as a person sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    step: usize,
    direction: Direction,
    windows: u32,
    waits_for_person: bool,
}

pub(crate) const FORTH_BACK_FORTH: &[Wish] = &[Wish::Rollback, Wish::Finish];

impl Default for Script {
    fn default() -> Script {
        Script {
            soaks: FORTH_BACK_FORTH,
            abandon_at: None,
            without_green: false,
            green_goes_down: false,
            breaks: None,
            retries: 5,
            patience_secs: 600,
            waits: 0,
            place: None,
            since: 0,
            abandoned: 0,
            gave_up: false,
        }
    }
}

impl World {
    /// What the person files now. Asked each time the engine listens.
    pub(crate) fn person_says(&mut self) -> Option<RequestKind> {
        let step = self.run.present_step()?;
        let soaks = matches!(self.run.steps[step.0], StepState::Parked { .. }) && self.plan.steps[step.0].name == StepName::Soak;
        let waits_for_person = soaks || matches!(decide(&self.plan, &self.run, self.timestamp()), Decision::WaitForPerson { .. });
        let place = Place { step: step.0, direction: self.run.direction, windows: self.windows_opened, waits_for_person };
        if self.script.place != Some(place) {
            (self.script.place, self.script.since) = (Some(place), self.now);
            self.script.waits += u32::from(waits_for_person);
        }
        if !waits_for_person {
            return self.loses_patience();
        }
        self.check_rest();
        if self.script.abandon_at.is_some_and(|at| at <= self.script.waits) && self.script.abandoned == 0 {
            return Some(self.abandons());
        }
        let said = match &self.run.steps[step.0] {
            StepState::Gated { .. } => {
                self.last_read = None;
                self.broken = self.script.breaks;
                RequestKind::Approve
            }
            StepState::Stuck { .. } => {
                self.was_stuck = true;
                if self.script.retries == 0 {
                    self.gives_up();
                    return None;
                }
                self.script.retries -= 1;
                RequestKind::Retry
            }
            _ => match self.script.soaks.get(self.moves_to_green().saturating_sub(1)) {
                Some(Wish::Rollback) => RequestKind::Rollback,
                Some(Wish::Finish) | None => RequestKind::Finish,
            },
        };
        self.tell(|| format!("the person says {said:?}"));
        Some(said)
    }

    fn loses_patience(&mut self) -> Option<RequestKind> {
        if self.now - self.script.since < self.script.patience_secs * SECOND {
            return None;
        }
        if self.script.abandoned > 1 {
            self.gives_up();
            return None;
        }
        self.script.since = self.now;
        Some(self.abandons())
    }

    /// The person leaves the run as it stands: held.
    fn gives_up(&mut self) {
        self.tell(|| "the person stops the coordinator".to_owned());
        self.script.gave_up = true;
        self.interrupted.store(true, Ordering::SeqCst);
    }

    fn abandons(&mut self) -> RequestKind {
        self.script.abandoned += 1;
        self.node_goes_down();
        self.tell(|| "the person abandons the run".to_owned());
        RequestKind::Abandon { without_green: self.script.without_green }
    }

    fn node_goes_down(&mut self) {
        if self.script.green_goes_down {
            self.nodes[1].up = false;
            self.tell(|| "green goes down".to_owned());
        }
    }
}

//! The person at the run: opens gates, asks for a rollback or the finish, tries again what is stuck, abandons.

use crate::world::{SECOND, World};
use greenlight::{
    plan::StepName,
    run::{Decision, Direction, RequestKind, StepState, decide},
    word::Side,
};
use std::sync::atomic::Ordering;

/// What the person asks for at a soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Rollback,
    Finish,
}

/// What lasts, and must keep the writer where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// This side's fences do not keep everybody out.
    Leak(Side),
    /// Somebody has changed this side's schema.
    Drift(Side),
    /// A session on green writes as soon as it can, whatever the read-only default says.
    Dishonest,
    /// A transaction is prepared on the old side just as the window opens.
    PreparedInWindow,
    /// A route says that it was repointed, and was not.
    StubbornRoute,
    /// A route takes no change, and says so.
    UnmovableRoute,
    /// In the soak somebody leads a route back to blue, and leaves it there.
    RouteAstray,
    /// This side does not know the role by which the applications come.
    LockedOut(Side),
    /// This side's sequences do not take the values that are set.
    StubbornSequences(Side),
    /// A trigger of this side's fence is switched off.
    BrokenFence(Side),
    /// We may not read where this side's sequences stand.
    HiddenSequences(Side),
    /// This side refuses this change, whenever it is asked for.
    Refuses(Side, &'static str),
    /// Another cluster answers at this side's address.
    Stranger(Side),
    /// The clock of the machine that coordinates is days ahead.
    ClockAhead,
}

/// How a person acts.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent habits of a person")]
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
    /// What is wrong from the moment when the window waits for its approval.
    pub(crate) trouble: Option<Trouble>,
    /// What is wrong from the soak on. The person then looks on for a while, and does nothing.
    pub(crate) trouble_in_soak: Option<Trouble>,
    /// Never opens a gate.
    pub(crate) opens_no_gate: bool,
    /// In the soak blue's apply worker fails, and the person waits until the way back is given up.
    pub(crate) blue_stops_following: bool,
    /// Says of a stuck step that it is done.
    pub(crate) marks_done: bool,
    /// How often a stuck step is tried again before the person leaves it as it is.
    pub(crate) retries: u32,
    /// Seconds before a stuck step is tried again.
    pub(crate) retry_after_secs: u64,
    /// Seconds without any progress before the person abandons.
    pub(crate) patience_secs: u64,
}

/// For how long the finish is asked for, again and again.
const PERSISTS: u64 = 120 * SECOND;

pub(crate) const FORTH_BACK_FORTH: &[Wish] = &[Wish::Rollback, Wish::Finish];

impl Default for Script {
    fn default() -> Script {
        Script {
            soaks: FORTH_BACK_FORTH,
            abandon_at: None,
            without_green: false,
            green_goes_down: false,
            breaks: None,
            trouble: None,
            trouble_in_soak: None,
            opens_no_gate: false,
            blue_stops_following: false,
            marks_done: false,
            retries: 5,
            retry_after_secs: 10,
            patience_secs: 600,
        }
    }
}

/// A person, and what was seen and said so far.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) script: Script,
    /// Waiting places so far.
    waits: u32,
    place: Option<Place>,
    /// When the run came to this place, or the person last did something about it.
    since: u64,
    retries: u32,
    abandoned: u32,
    was_refused: bool,
}

impl Person {
    pub(crate) fn new(script: Script) -> Person {
        Person { script, waits: 0, place: None, since: 0, retries: 0, abandoned: 0, was_refused: false }
    }
}

/// Where the run stands, as far as a person sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    step: usize,
    direction: Direction,
    moves: usize,
    waits_for_person: bool,
}

impl World {
    /// What the person files now. Asked each time the engine listens.
    pub(crate) fn person_says(&mut self) -> Option<RequestKind> {
        let step = self.run.present_step()?;
        let soaks = matches!(self.run.steps[step.0], StepState::Parked { .. }) && self.plan.steps[step.0].name == StepName::Soak;
        let waits_for_person = soaks || matches!(decide(&self.plan, &self.run, self.timestamp()), Decision::WaitForPerson { .. });
        let place = Place { step: step.0, direction: self.run.direction, moves: self.moves_to_green(), waits_for_person };
        if self.person.place != Some(place) {
            (self.person.place, self.person.since) = (Some(place), self.now);
            self.person.waits += u32::from(waits_for_person);
        }
        if !waits_for_person {
            return self.loses_patience();
        }
        self.check_rest();
        if self.person.script.abandon_at.is_some_and(|at| at <= self.person.waits) && self.person.abandoned == 0 {
            return Some(self.abandons());
        }
        let said = match &self.run.steps[step.0] {
            StepState::Gated { .. } => self.at_gate(),
            StepState::Stuck { .. } => self.at_stuck_step(),
            _ => self.at_soak(),
        };
        if let Some(said) = &said {
            self.tell(|| format!("the person says {said:?}"));
        }
        said
    }

    fn at_gate(&mut self) -> Option<RequestKind> {
        if self.person.script.opens_no_gate {
            return self.loses_patience();
        }
        self.broken = self.person.script.breaks.or(self.broken);
        self.make_trouble(self.person.script.trouble);
        Some(RequestKind::Approve)
    }

    fn make_trouble(&mut self, trouble: Option<Trouble>) {
        match trouble {
            Some(Trouble::Leak(side)) => self.node(side).leaks = true,
            Some(Trouble::Drift(side)) => self.node(side).drifted = true,
            Some(Trouble::BrokenFence(side)) => self.node(side).fence_damaged = true,
            Some(Trouble::StubbornRoute) => self.routes[0].is_stubborn = true,
            Some(Trouble::UnmovableRoute) => self.routes[0].is_unmovable = true,
            Some(Trouble::LockedOut(side)) => self.node(side).locks_out = true,
            Some(Trouble::StubbornSequences(side)) => self.node(side).has_stubborn_sequences = true,
            Some(Trouble::HiddenSequences(side)) => self.node(side).hides_sequences = true,
            Some(Trouble::Refuses(side, change)) => self.refuses = Some((side, change)),
            Some(Trouble::Stranger(side)) => self.node(side).is_stranger = true,
            Some(Trouble::ClockAhead) => self.clock_ahead_secs = 100 * 3600,
            Some(Trouble::PreparedInWindow | Trouble::Dishonest | Trouble::RouteAstray) | None => {}
        }
    }

    fn at_stuck_step(&mut self) -> Option<RequestKind> {
        self.was_stuck = true;
        if self.person.script.marks_done {
            return self.run.present_step().map(|step| RequestKind::MarkDone { step });
        }
        let Script { retries, retry_after_secs, .. } = self.person.script;
        if self.person.retries == retries {
            self.gives_up();
            return None;
        }
        if self.now - self.person.since < retry_after_secs * SECOND {
            return None;
        }
        self.person.since = self.now;
        self.person.retries += 1;
        Some(RequestKind::Retry)
    }

    fn at_soak(&mut self) -> Option<RequestKind> {
        let Script { blue_stops_following, soaks, .. } = self.person.script;
        if blue_stops_following && !self.person.was_refused {
            self.nodes[0].subscriptions[1].iter_mut().for_each(|found| found.stuck = Some("a row does not fit"));
            self.run.way_back_given_up()?;
            self.person.was_refused = true;
            return Some(RequestKind::Rollback);
        }
        if self.person.script.trouble == Some(Trouble::RouteAstray) {
            self.routes[0].points_at = Side::Blue;
            if self.now - self.person.since >= PERSISTS {
                self.gives_up();
                return None;
            }
        }
        if self.person.script.trouble_in_soak.is_some() {
            self.make_trouble(self.person.script.trouble_in_soak);
            if self.now - self.person.since >= PERSISTS {
                self.gives_up();
                return None;
            }
            if !matches!(self.person.script.trouble_in_soak, Some(Trouble::Stranger(_) | Trouble::Refuses(..))) {
                self.run.fence_broken().next()?;
            }
        }
        Some(match soaks.get(self.moves_to_green().saturating_sub(1)) {
            Some(Wish::Rollback) if self.run.way_back_given_up().is_none() => RequestKind::Rollback,
            _ => RequestKind::Finish,
        })
    }

    fn loses_patience(&mut self) -> Option<RequestKind> {
        if self.now - self.person.since < self.person.script.patience_secs * SECOND {
            return None;
        }
        if self.person.abandoned > 1 {
            self.gives_up();
            return None;
        }
        self.person.since = self.now;
        Some(self.abandons())
    }

    fn abandons(&mut self) -> RequestKind {
        self.person.abandoned += 1;
        if self.person.script.green_goes_down {
            (self.nodes[1].up, self.nodes[1].back_at) = (false, None);
            self.tell(|| "green goes down".to_owned());
        }
        self.tell(|| "the person abandons the run".to_owned());
        RequestKind::Abandon { without_green: self.person.script.without_green, by_restore: false }
    }

    /// The person leaves the run as it stands: held.
    fn gives_up(&mut self) {
        self.tell(|| "the person stops the coordinator".to_owned());
        self.interrupted.store(true, Ordering::SeqCst);
    }
}

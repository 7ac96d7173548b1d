use super::{Direction, Event, Fact, Outcome, StepNo};
use crate::plan::Plan;
use crate::word::{Lsn, Side, Timestamp};

/// Where one step stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Nothing done.
    Idle,
    /// Nothing done; waits for its gates, not before `until`. `held`: a person must approve whatever the plan says, since
    /// the run came back here from a rollback.
    Gated {
        approved: bool,
        held: bool,
        until: Option<Timestamp>,
    },
    /// An act is under way: its intent is in the journal.
    Running {
        attempt: u32,
    },
    /// Begun, and polled.
    Parked {
        attempt: u32,
        until: Timestamp,
    },
    /// Failed without having happened; to be tried again.
    Retrying {
        attempt: u32,
        until: Timestamp,
    },
    /// An act's outcome is unknown. Observe before anything else.
    Unsure {
        attempt: u32,
        look_at: Option<Timestamp>,
    },
    /// Failed for good while going in this direction; a person or the way back decides.
    Stuck {
        while_going: Direction,
    },
    Done,
    Reverted,
}

/// A window that was opened and not yet closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenWindow {
    pub to: Side,
    pub attempt: u32,
    /// When it was opened, by the wall clock. Clients are paused a moment later.
    pub at: Timestamp,
    /// When clients were given back, though not all was done that closes the window.
    pub resumed: Option<Timestamp>,
    /// After the commit point: where the other side follows from.
    pub committed: Option<Lsn>,
}

/// A run as its journal tells it: the fold of its events and nothing else.
#[expect(clippy::struct_excessive_bools, reason = "what a journal says of a run, each of them a word of its own")]
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The last record's number; the next append expects it.
    pub seq: u64,
    pub direction: Direction,
    /// Backward: the first step that is taken back too.
    pub until: StepNo,
    pub without_green: bool,
    /// Backward: a change in place is taken back by a restore.
    pub by_restore: bool,
    pub steps: Vec<StepState>,
    pub facts: Vec<Fact>,
    pub finish_ordered: bool,
    pub outcome: Option<Outcome>,
    /// Why the run last turned back or failed, for a person.
    pub reason: Option<String>,
    /// What the present step waits for, for a person.
    pub note: Option<String>,
    /// What was last seen that a person should know of.
    pub noticed: Option<String>,
    /// A record of a newer version was seen: the run may be shown and not acted on.
    pub unreadable: bool,
}

/// The plan as it holds now, and the run, as the journal tells them: the one place that reads a journal. `None`: it does not
/// begin with a plan.
pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<(Plan, Run)> {
    let mut events = events.into_iter();
    let first @ Event::RunCreated { plan, .. } = events.next()? else { return None };
    let (mut plan, mut run) = (plan.as_ref().clone(), Run::new(plan.steps.len()));
    run.apply(first);
    for event in events {
        run.apply(event);
        if let Event::FactLearned { fact: Fact::Judged { work }, .. } = event {
            plan = plan.judged(work);
        }
    }
    Some((plan, run))
}

impl Run {
    /// A run of `steps` steps of which nothing has happened.
    pub fn new(steps: usize) -> Run {
        Run {
            seq: 0,
            direction: Direction::Forward,
            until: StepNo(0),
            without_green: false,
            by_restore: false,
            steps: vec![StepState::Idle; steps],
            facts: Vec::new(),
            finish_ordered: false,
            outcome: None,
            reason: None,
            note: None,
            noticed: None,
            unreadable: false,
        }
    }

    /// Folds one event. Total: an event that names a step the plan has not is kept from doing harm by `unreadable`.
    pub fn apply(&mut self, event: &Event) {
        self.seq += 1;
        match event {
            Event::RunCreated { plan, .. } => self.steps = vec![StepState::Idle; plan.steps.len()],
            Event::LeaseTaken { .. } => self.make_open_steps_unsure(),
            Event::FactLearned { fact, .. } => self.facts.push(fact.clone()),
            Event::RollbackBegun { until, reason, without_green, by_restore, .. } => {
                self.direction = Direction::Backward;
                self.until = *until;
                self.without_green |= *without_green;
                self.by_restore = *by_restore;
                self.reason = Some(reason.clone());
                self.note = None;
                self.finish_ordered = false;
                self.unstick();
            }
            Event::RollbackCalledOff { .. } => {
                self.direction = Direction::Forward;
                self.note = None;
                for state in &mut self.steps {
                    *state = match state {
                        StepState::Idle | StepState::Gated { .. } | StepState::Done => continue,
                        StepState::Reverted => StepState::Idle,
                        // Looked at first: the window, which is as it was.
                        _ => StepState::Unsure { attempt: 1, look_at: None },
                    };
                }
            }
            Event::RollbackHalted { until } => {
                self.direction = Direction::Forward;
                for state in self.steps.iter_mut().skip(until.0) {
                    *state = StepState::Idle;
                }
                if let Some(state) = self.steps.get_mut(until.0) {
                    *state = StepState::Gated { approved: false, held: true, until: None };
                }
                self.note = Some("an approval, since the run was rolled back to here".to_owned());
            }
            Event::FinishOrdered { .. } => self.finish_ordered = true,
            Event::Noticed { what } => self.noticed = Some(what.clone()),
            Event::RunClosed { outcome } => self.outcome = Some(*outcome),
            Event::Unknown => self.unreadable = true,
            Event::StepStarted { step, .. }
            | Event::StepParked { step, .. }
            | Event::StepWaiting { step, .. }
            | Event::StepFailed { step, .. }
            | Event::StepUnsure { step, .. }
            | Event::StepDone { step }
            | Event::StepReverted { step }
            | Event::GateReached { step, .. }
            | Event::GateApproved { step, .. }
            | Event::RetryOrdered { step, .. }
            | Event::MarkedDone { step, .. } => self.apply_to_step(*step, event),
        }
    }

    fn apply_to_step(&mut self, step: StepNo, event: &Event) {
        use StepState as S;
        let Some(now) = self.steps.get(step.0).cloned() else {
            self.unreadable = true;
            return;
        };
        let attempt = attempt_of(&now);
        let approved = matches!(now, S::Gated { approved: true, .. });
        let next = match event {
            Event::StepStarted { attempt, .. } => {
                self.note = None;
                S::Running { attempt: *attempt }
            }
            Event::StepParked { until, note, .. } => {
                self.note = Some(note.clone()).filter(|note| !note.is_empty());
                S::Parked { attempt, until: *until }
            }
            // The gate stays approved: the step was let through, and only then could not begin.
            Event::StepWaiting { until, note, .. } => {
                self.note = Some(note.clone());
                S::Gated { approved: true, held: false, until: Some(*until) }
            }
            Event::StepUnsure { look_at, error, .. } => {
                self.reason = Some(error.clone());
                S::Unsure { attempt, look_at: Some(*look_at) }
            }
            Event::StepFailed { retry_at, error, .. } => {
                self.reason = Some(error.clone());
                match retry_at {
                    Some(until) => S::Retrying { attempt: attempt + 1, until: *until },
                    None => S::Stuck { while_going: self.direction },
                }
            }
            Event::GateReached { waits_for, .. } => {
                self.note = Some(waits_for.clone());
                S::Gated { approved, held: false, until: None }
            }
            Event::GateApproved { .. } => {
                self.note = None;
                S::Gated { approved: true, held: false, until: None }
            }
            Event::RetryOrdered { .. } => S::Unsure { attempt: 1, look_at: None },
            Event::StepDone { .. } => self.settled(S::Done),
            Event::StepReverted { .. } => self.settled(S::Reverted),
            // A person vouches for the step in the direction in which the run goes.
            Event::MarkedDone { .. } if self.direction == Direction::Backward => self.settled(S::Reverted),
            _ => self.settled(S::Done),
        };
        self.steps[step.0] = next;
    }

    fn settled(&mut self, state: StepState) -> StepState {
        self.note = None;
        state
    }

    /// A way back that was stuck is tried again when it is ordered anew.
    fn unstick(&mut self) {
        for state in &mut self.steps {
            if matches!(state, StepState::Stuck { while_going: Direction::Backward }) {
                *state = StepState::Unsure { attempt: 1, look_at: None };
            }
        }
    }

    /// A parked step is polled without records, so it may have been in the middle of an act as well.
    fn make_open_steps_unsure(&mut self) {
        for state in &mut self.steps {
            if let StepState::Running { attempt } | StepState::Parked { attempt, .. } = *state {
                *state = StepState::Unsure { attempt, look_at: None };
            }
        }
    }

    /// The step's present attempt, from 1.
    pub fn attempt(&self, step: StepNo) -> u32 {
        attempt_of(&self.steps[step.0])
    }

    /// The side that applications write to, by the journal: the last commit point decides.
    pub fn serving(&self) -> Side {
        self.facts
            .iter()
            .rev()
            .find_map(|fact| match fact {
                Fact::WindowCommitted { serving, .. } => Some(*serving),
                _ => None,
            })
            .unwrap_or(Side::Blue)
    }

    /// The window that was opened and not closed, if any.
    pub fn open_window(&self) -> Option<OpenWindow> {
        let mut open = None;
        for fact in &self.facts {
            match fact {
                Fact::WindowOpened { to, attempt, at } => {
                    open = Some(OpenWindow { to: *to, attempt: *attempt, at: *at, resumed: None, committed: None });
                }
                Fact::ClientsResumed { at } => {
                    if let Some(window) = &mut open {
                        window.resumed.get_or_insert(*at);
                    }
                }
                Fact::WindowCommitted { follow_from, .. } => {
                    if let Some(window) = &mut open {
                        window.committed = Some(*follow_from);
                    }
                }
                Fact::WindowClosed { .. } => open = None,
                _ => {}
            }
        }
        open
    }

    /// Since when clients are paused, for all that the journal tells: the window is open, and nobody gave them back.
    pub fn clients_paused_since(&self) -> Option<Timestamp> {
        self.open_window().filter(|window| window.resumed.is_none()).map(|window| window.at)
    }

    /// How many windows were opened so far.
    pub fn windows_opened(&self) -> u32 {
        self.facts.iter().map(|fact| u32::from(matches!(fact, Fact::WindowOpened { .. }))).sum()
    }

    /// Where the follower of the serving side begins, by the last commit point.
    pub fn follow_from(&self) -> Option<Lsn> {
        self.facts.iter().rev().find_map(|fact| match fact {
            Fact::WindowCommitted { follow_from, .. } => Some(*follow_from),
            _ => None,
        })
    }

    /// From when on green can be recovered to any moment; `None`: it was not seen to be so since it began to serve.
    pub fn recoverable_since(&self) -> Option<Timestamp> {
        let committed = self.facts.iter().rposition(|fact| matches!(fact, Fact::WindowCommitted { .. }))?;
        self.facts[committed..].iter().find_map(|fact| match fact {
            Fact::Recoverable { since, .. } => Some(*since),
            _ => None,
        })
    }

    /// Whether the side that does not serve was seen to follow the serving one since the last commit point.
    pub fn follows_back(&self) -> bool {
        let last = self.facts.iter().rposition(|fact| matches!(fact, Fact::WindowCommitted { .. }));
        last.is_some_and(|at| self.facts[at..].iter().any(|fact| matches!(fact, Fact::FollowsBack { .. })))
    }

    /// Why a rollback can no longer be lossless, if the run gave the way back up.
    pub fn route_trouble(&self, name: &str) -> Option<&str> {
        self.facts.iter().rev().find_map(|fact| match fact {
            Fact::RouteSeen { route, trouble } if route == name => Some(trouble.as_deref()),
            _ => None,
        })?
    }

    pub fn way_back_given_up(&self) -> Option<&str> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::WayBackGivenUp { reason } => Some(reason.as_str()),
            _ => None,
        })
    }

    /// What could not be taken away, and why, for a person.
    pub fn left_behind(&self) -> impl Iterator<Item = String> {
        self.facts.iter().filter_map(|fact| match fact {
            Fact::LeftBehind { on, what, why } => Some(format!("on {on}: {what} ({why})")),
            _ => None,
        })
    }

    /// Whether what a provisional plan left open is known.
    pub fn is_judged(&self) -> bool {
        self.facts.iter().any(|fact| matches!(fact, Fact::Judged { .. }))
    }

    /// Whether blue's backup was restored by this run, and stands as a server.
    pub fn has_restored(&self) -> bool {
        self.facts.iter().any(|fact| matches!(fact, Fact::Restored { .. }))
    }

    /// What is known of the mark in green's configuration, once it was about to be set.
    pub fn green_marked(&self) -> Option<&Fact> {
        self.facts.iter().find(|fact| matches!(fact, Fact::GreenMarked { .. }))
    }

    /// How blue's fence was broken since green serves, and when that was first seen.
    pub fn fence_broken(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        let since = self.facts.iter().rposition(|fact| matches!(fact, Fact::WindowCommitted { .. })).unwrap_or(0);
        let serves = self.serving() == Side::Green;
        self.facts[since..].iter().filter(move |_| serves).filter_map(|fact| match fact {
            Fact::FenceBroken { seen_at, how } => Some((*seen_at, how.as_str())),
            _ => None,
        })
    }

    /// Where green left blue's history, once it has.
    pub fn fork_point(&self) -> Option<Lsn> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::Promoted { fork, .. } => Some(*fork),
            _ => None,
        })
    }

    /// The consistent point of the run's slot on this side, once it is made.
    pub fn slot_lsn(&self, side: Side) -> Option<Lsn> {
        self.facts.iter().rev().find_map(|fact| match fact {
            Fact::SlotMade { on, lsn, .. } if *on == side => Some(*lsn),
            _ => None,
        })
    }

    /// When green last began to serve: the moment its window was opened.
    pub fn green_serves_since(&self) -> Option<Timestamp> {
        self.facts.iter().rev().find_map(|fact| match fact {
            Fact::WindowOpened { to: Side::Green, at, .. } => Some(*at),
            _ => None,
        })
    }

    /// The first step that is neither done nor, going back, untouched: where the run stands.
    pub fn present_step(&self) -> Option<StepNo> {
        let place = match self.direction {
            Direction::Forward => self.steps.iter().position(|state| *state != StepState::Done),
            Direction::Backward => {
                self.steps.iter().enumerate().rposition(|(at, state)| at >= self.until.0 && was_touched(state))
            }
        };
        place.map(StepNo)
    }

    /// The step that needs a person, if any.
    pub fn stuck_step(&self) -> Option<StepNo> {
        self.steps.iter().position(|state| matches!(state, StepState::Stuck { .. })).map(StepNo)
    }
}

/// Whether the step may have changed the world.
pub(super) fn was_touched(state: &StepState) -> bool {
    !matches!(state, StepState::Idle | StepState::Gated { .. } | StepState::Reverted)
}

fn attempt_of(state: &StepState) -> u32 {
    match state {
        StepState::Running { attempt }
        | StepState::Parked { attempt, .. }
        | StepState::Retrying { attempt, .. }
        | StepState::Unsure { attempt, .. } => *attempt,
        StepState::Idle | StepState::Gated { .. } | StepState::Stuck { .. } | StepState::Done | StepState::Reverted => 1,
    }
}

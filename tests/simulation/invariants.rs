//! What must be so: at every moment, at every append, whenever the run rests, and at its end.

use crate::{
    fault::Call,
    plan::MAX_PAUSE,
    script::Trouble,
    world::{MS, Node, SECOND, What, World},
};
use greenlight::{
    plan::{PlannedStep, Reversal, StepName, Strategy},
    provider::StandbyState,
    run::{Event, Fact, Outcome, StepState},
    word::Side,
};
use std::sync::Arc;

/// What a pause may last beyond the window's limit, whatever fails.
const GRACE: u64 = 2 * SECOND;
const CALLS_MAX: usize = 50_000;
const HOURS_MAX: u64 = 3;

impl World {
    // --- at every moment ----------------------------------------------------------------------------------------------

    /// Applications can never write to both sides.
    pub(crate) fn check_effect(&mut self) {
        if self.nodes.iter().all(Node::accepts_writes) && !self.outcast_green {
            self.violated("both sides accept applications' writes");
        }
    }

    /// Whoever says READ WRITE to green from the moment of its promotion on is refused.
    pub(crate) fn check_born(&mut self, was_standby: bool) {
        let green = &self.nodes[Side::Green as usize];
        if was_standby && !green.triggers_refuse() {
            self.violated("green is open when it is promoted");
        }
    }

    /// What an application saw committed is there wherever it is let write.
    pub(crate) fn check_before_write(&mut self, side: Side) {
        let missing = self.acknowledged - self.given_up[side as usize] - self.nodes[side as usize].rows.count;
        if missing > 0 {
            self.violated(format!("{side} is open for writes, and {missing} acknowledged rows are not there"));
        }
    }

    /// No route stays paused longer than the limit and two seconds, whatever fails. Only a call that is slow, one after another,
    /// adds its own time: nothing else happens in this world while it lasts.
    pub(crate) fn check_pauses(&mut self) {
        let limit = u64::try_from(MAX_PAUSE.as_micros()).unwrap() + GRACE;
        let limit = limit + u64::from(self.slow.saturating_sub(1)) * 6 * SECOND;
        // One that refuses to be resumed, or does not come back from it, for as long as it does: nobody can resume it then.
        let lasts = |at: usize| self.routes[at].resume_lasts_until.is_some_and(|until| self.now < until.saturating_add(GRACE));
        let may_rest = |at: usize| (at == 0 && self.now < self.unresumable_until + GRACE) || lasts(at);
        let paused = self.routes.iter().enumerate().filter(|(at, _)| !may_rest(*at));
        if let Some(since) = paused.filter_map(|(_, route)| route.paused_since).min()
            && self.now - since > limit
        {
            self.violated(format!("a route is paused for {} ms", (self.now - since) / MS));
        }
    }

    // --- at every call --------------------------------------------------------------------------------------------------

    /// Nothing is changed without a durable intent, nor by a process that may not record what it does.
    pub(crate) fn check_intent(&mut self, call: Call) {
        let process = self.processes[call.process];
        let window = self.run.open_window();
        let under_way = |state: &StepState| matches!(state, StepState::Running { .. } | StepState::Parked { .. });
        let present = self.run.present_step().map(|step| &self.run.steps[step.0]);
        // Whoever gives clients back does what the window's opening has announced, and looks as it goes.
        let gives_back = window.is_some() && (process.is_guard || process.lost_journal);
        // A guard that cannot read how things stand, or that finds another at work, lets clients go on all the same, and opens nothing.
        let is_shut = call.on.is_some_and(|on| !self.nodes[on as usize].allow_connections);
        if process.is_guard && (call.name == "route: resume" || (call.name == "ensure_fence(triggers)" && is_shut)) {
            return;
        }
        // A setting of the pooler's, by whoever watches over a run that has begun; it ends with the run.
        let prepared = self.plan.step_no(StepName::PrepareBlue).is_some_and(|step| self.run.steps[step.0] == StepState::Done);
        let helps = call.name == "route: hasten" && !process.is_guard && prepared;
        let intended = gives_back || helps || (!process.is_guard && present.is_some_and(under_way));
        if self.must_observe && !gives_back && !helps {
            self.violated(format!("{} before anybody looked how far the run came", call.name));
        }
        if process.is_superseded {
            self.violated(format!("{} by a process whose run another has", call.name));
        } else if process.lost_journal && window.is_none() {
            self.violated(format!("{} by a process that has lost its journal", call.name));
        } else if !intended || self.run.outcome.is_some() {
            self.violated(format!("{} without an intent in the journal", call.name));
        }
        let serving = self.run.serving();
        let closes_serving =
            call.name == "ensure_fence(connections)" && call.on == Some(serving) && window.is_none_or(|w| w.committed.is_some());
        if closes_serving {
            self.violated(format!("{serving} serves and is closed, with no window open"));
        }
        if call.name == "ensure_fence(open)" && call.on != Some(serving) {
            self.violated(format!("{serving} serves by the journal, and the other side is opened"));
        }
    }

    pub(crate) fn check_pause(&mut self, process: usize, route: usize) {
        if !self.processes[process].holds_journal {
            self.violated("a route is paused by a process that has not the journal in hand");
        }
        if !self.routes[route].settled {
            self.violated("a route is paused that was not settled");
        }
        if self.guard.is_none_or(|guard| guard.died_at.is_some_and(|at| self.now - at > 3 * MS)) {
            self.violated("a route is paused with no guard standing by");
        }
        if self.run.open_window().is_none_or(|window| window.committed.is_some()) {
            self.violated("a route is paused with no window open in the journal");
        }
    }

    /// The guard says that it is done.
    pub(crate) fn check_rescue(&mut self) {
        if self.run.open_window().is_some() {
            self.violated("the guard ended while a window is open");
        }
    }

    pub(crate) fn check_stand_down(&mut self) {
        if self.run.open_window().is_some() {
            self.violated("the guard is stood down while a window is open");
        }
    }

    /// The standby is not thrown away with rows that only it has.
    pub(crate) fn check_removal(&mut self) {
        if self.nodes[Side::Blue as usize].rows.count + self.given_up[Side::Blue as usize] < self.acknowledged {
            self.violated("green is removed with rows that blue has not");
        }
    }

    pub(crate) fn check_endless(&mut self, call: Call) {
        self.calls += 1;
        if self.calls > CALLS_MAX || self.now > HOURS_MAX * 3_600 * SECOND {
            let step = self.run.present_step().map(|step| self.run.steps[step.0].clone());
            self.violated(format!("the run goes on without end: {step:?}, {}", call.name));
        }
    }

    // --- at every append --------------------------------------------------------------------------------------------------

    /// Sees a record that has just become durable.
    pub(crate) fn witness(&mut self, event: &Event) {
        self.tell(|| format!("        {}", serde_json::to_string(event).unwrap()));
        if self.run.outcome.is_some() {
            self.violated("a record after the run's end");
        }
        match event {
            Event::LeaseTaken { .. } => {
                let open = |state: &StepState| {
                    matches!(state, StepState::Running { .. } | StepState::Parked { .. } | StepState::Unsure { .. })
                };
                self.must_observe = self.run.present_step().is_some_and(|step| open(&self.run.steps[step.0]));
            }
            Event::StepParked { .. } | Event::StepDone { .. } | Event::StepReverted { .. } | Event::MarkedDone { .. } => {
                self.must_observe = false;
            }
            Event::StepUnsure { hint, .. } => {
                self.unsure_records += 1;
                self.says_no_writes |= hint.as_deref().is_some_and(|hint| hint.contains("APPLICATIONS CANNOT WRITE"));
            }
            Event::RollbackBegun { by, .. } => self.check_way_back(by),
            Event::StepStarted { step, .. } if matches!(self.run.steps[step.0], StepState::Unsure { .. }) => {
                self.violated(format!("step {step} is repeated without having been observed"));
            }
            Event::FactLearned { fact: Fact::WindowOpened { to, .. }, .. } => {
                self.windows_opened += 1;
                self.nodes[to.other() as usize].has_prepared |= self.person.script.trouble == Some(Trouble::PreparedInWindow);
                if self.differs && self.plan.strategy == Strategy::Sync {
                    self.violated("a window is opened though the sides differ");
                }
                if self.run.open_window().is_some() {
                    self.violated("a window is opened inside another");
                }
            }
            Event::FactLearned { fact: Fact::WindowCommitted { serving, .. }, .. } => self.check_commit(*serving),
            Event::FactLearned { fact: Fact::Judged { work }, .. } => {
                if self.run.is_judged() || self.nodes[Side::Green as usize].has_scratch {
                    self.violated("a plan is judged twice, or with its scratch database still there");
                }
                self.plan = Arc::new(self.plan.as_ref().clone().judged(work));
            }
            Event::FactLearned { fact: Fact::Migrated { version, .. }, .. } => {
                if self.plan.provisional {
                    self.violated("green is migrated by a plan that is provisional still");
                }
                let again = |fact: &Fact| matches!(fact, Fact::Migrated { version: other, .. } if other == version);
                if self.run.facts.iter().any(again) {
                    self.violated(format!("migration {version} is recorded twice"));
                }
            }
            _ => {}
        }
        self.run.apply(event);
    }

    /// Nobody goes back past the point of no return, and once green serves only a person decides.
    fn check_way_back(&mut self, by: &str) {
        let is_past = |(planned, state): (&PlannedStep, &StepState)| {
            planned.reversal == Reversal::PointOfNoReturn && !matches!(state, StepState::Idle | StepState::Gated { .. })
        };
        if self.plan.steps.iter().zip(&self.run.steps).any(is_past) {
            self.violated("a way back past the point of no return");
        }
        if self.run.serving() == Side::Green && by != "ana" {
            self.violated("green serves, and nobody asked for the way back");
        }
    }

    fn check_commit(&mut self, to: Side) {
        if self.run.open_window().is_none_or(|window| window.committed.is_some()) {
            self.violated("a second commit point of one window, or one outside any");
        }
        if self.guard.and_then(|guard| guard.died_at).is_some_and(|at| self.now - at > 3 * MS) && !self.run.without_green {
            self.violated("a commit point though the guard is dead");
        }
        if self.run.without_green {
            self.given_up[Side::Blue as usize] = self.acknowledged - self.nodes[Side::Blue as usize].rows.count;
            self.outcast_green = true;
            return;
        }
        let restored = matches!(self.plan.strategy, Strategy::InPlace | Strategy::Restored);
        if restored {
            self.check_restored();
        }
        let [old, new] = [to.other(), to].map(|side| &self.nodes[side as usize]);
        let problem = if old.has_prepared {
            Some("a prepared transaction is left on the old side at the commit point")
        } else if old.drifted || new.drifted {
            Some("a schema is not what was planned at the commit point")
        } else if old.accepts_writes() || new.accepts_writes() {
            Some("applications can write at the commit point")
        } else if !restored && new.rows.count < self.acknowledged {
            Some("not everything has arrived at the commit point")
        } else if new.sequence < old.sequence || (new.sequence == old.sequence && self.plan.strategy == Strategy::Sync) {
            Some("a sequence is behind at the commit point")
        } else if self.differs && self.plan.strategy != Strategy::InPlace {
            Some("the sides differ at the commit point")
        } else if to == Side::Green && !restored && (new.migrated != 0b11 || new.inherited_runs) {
            Some("green is not ready at the commit point")
        } else if old.marked || new.marked {
            Some("a server bears the mark at the commit point")
        } else if old.read_only_default || new.read_only_default {
            Some("a server is read-only by default at the commit point")
        } else {
            None
        };
        if let Some(problem) = problem {
            self.violated(problem);
        }
    }

    /// The writer moves to a restored green, which has everything up to the point, and nothing later.
    fn check_restored(&mut self) {
        let [blue, green] = &self.nodes;
        let until = blue.restore_point.filter(|_| self.plan.strategy == Strategy::InPlace).unwrap_or(3);
        let rows = blue.log[..until].iter().filter(|entry| matches!(entry.what, What::Row { .. })).count();
        let fence_stands = green.triggers_refuse();
        if green.rows.count as usize != rows || green.migrated != 0 {
            self.violated("green is not what blue was at the point");
        } else if !fence_stands || green.read_only_default {
            self.violated("green is open, or read-only by default, at the commit point");
        }
        let green = self.node(Side::Green);
        green.is_unknown = false;
        self.given_up[Side::Green as usize] = self.acknowledged - self.nodes[Side::Green as usize].rows.count;
    }

    /// How many windows have moved the writer to green.
    pub(crate) fn moves_to_green(&self) -> usize {
        let moved = |fact: &&Fact| matches!(fact, Fact::WindowCommitted { serving: Side::Green, .. });
        self.run.facts.iter().filter(moved).count()
    }

    /// Which migrations blue has, a bit for each.
    pub(crate) fn migrated_on_blue(&self) -> u8 {
        self.nodes[Side::Blue as usize].migrated
    }

    /// Which migrations green has, a bit for each.
    pub(crate) fn migrated_on_green(&self) -> u8 {
        self.nodes[Side::Green as usize].migrated
    }

    // --- at rest and at the end -------------------------------------------------------------------------------------------

    /// The run waits for a person: applications work meanwhile, and the reason is on record.
    pub(crate) fn check_rest(&mut self) {
        if self.run.open_window().is_some() {
            self.violated("the run rests with a window open");
        }
        if self.run.note.is_none() && self.run.reason.is_none() && self.interrupted_at.is_none() {
            self.violated("the run rests without a reason on record");
        }
        // One that somebody leads elsewhere is not the run's doing; a run may not end with it.
        if self.late.is_empty() && !matches!(self.person.script.trouble, Some(Trouble::RouteAstray)) {
            self.check_serves(self.run.serving());
        }
    }

    fn check_serves(&mut self, serving: Side) {
        let node = &self.nodes[serving as usize];
        if node.up && !node.accepts_writes() {
            self.violated(format!("{serving} serves by the journal, and accepts no writes"));
        }
        if let Some(route) = self.routes.iter().find(|route| route.paused_since.is_some() || route.points_at != serving) {
            self.violated(format!("{serving} serves by the journal, and a route says {route:?}"));
        }
    }

    pub(crate) fn check_end(&mut self, outcome: Outcome) {
        let in_place = self.plan.strategy == Strategy::InPlace;
        let moved_by_restore = in_place && self.moves_to_green() > 0 && !self.run.without_green;
        let by_restore = self.plan.strategy == Strategy::Restored || moved_by_restore;
        let moved = moved_by_restore || (outcome == Outcome::Completed && !in_place);
        let serving = if moved { Side::Green } else { Side::Blue };
        if self.run.serving() != serving {
            self.violated(format!("the run ended {outcome:?} and does not serve from {serving}"));
        }
        self.check_serves(serving);
        if let Some(route) = self.routes.iter().find(|route| route.rehearses || route.is_hasty || route.settled) {
            self.violated(format!("the run ended, and has left something set in a route: {route:?}"));
        }
        self.check_before_write(serving);
        let without_green = self.run.without_green;
        // A damaged blue is kept, closed.
        let mut left = if by_restore && serving == Side::Green { Vec::new() } else { self.left_on(Side::Blue) };
        if !without_green {
            left.extend(self.left_on(Side::Green));
        }
        let [blue, green] = &self.nodes;
        let problem = match outcome {
            _ if !left.is_empty() => Some(format!("left behind: {}", left.join(", "))),
            _ if by_restore && serving == Side::Green => self.unlike_a_damaged_blue(),
            Outcome::Completed if in_place && blue.migrated != 0b11 => Some("blue is not migrated".to_owned()),
            _ if [blue, green][serving as usize].half != 0 => Some("a migration is left half done".to_owned()),
            Outcome::RolledBack if blue.migrated != 0 => Some("blue is left migrated".to_owned()),
            Outcome::Completed if in_place => None,
            Outcome::Completed if green.migrated != 0b11 || green.inherited_runs => Some("green is not whole".to_owned()),
            Outcome::Completed if blue.allow_connections => Some("blue is not retired".to_owned()),
            Outcome::RolledBack if !without_green && self.green_could_be_taken_for_a_primary() => {
                Some("green is left open, as a second primary".to_owned())
            }
            Outcome::RolledBack if blue.fence_installed => Some("blue keeps the fence's triggers".to_owned()),
            Outcome::RolledBack if blue.relaxed && !self.says_left_behind(Side::Blue) => {
                Some("blue's column is left without NOT NULL, and nobody says so".to_owned())
            }
            _ if (blue.marked || green.marked) && !without_green && green.up => Some("a server is left with the mark".to_owned()),
            _ if green.read_only_default && !without_green && green.up => Some("green is left read-only by default".to_owned()),
            _ => None,
        };
        if let Some(problem) = problem {
            self.violated(problem);
        }
    }

    fn unlike_a_damaged_blue(&self) -> Option<String> {
        let blue = &self.nodes[Side::Blue as usize];
        if !(blue.allow_connections && blue.fence_installed && blue.fence_closed) {
            return Some("blue is not readable, or not closed for writes".to_owned());
        }
        (!self.says_left_behind(Side::Blue)).then(|| "nobody says that blue is kept".to_owned())
    }

    fn green_could_be_taken_for_a_primary(&self) -> bool {
        self.standby == StandbyState::Running && self.nodes[Side::Green as usize].accepts_writes()
    }

    pub(crate) fn says_left_behind(&self, side: Side) -> bool {
        self.run.facts.iter().any(|fact| matches!(fact, Fact::LeftBehind { on, .. } if *on == side))
    }

    /// What of the run's making is still on this side.
    pub(crate) fn left_on(&self, side: Side) -> Vec<String> {
        let node = &self.nodes[side as usize];
        if side == Side::Green && (self.standby != StandbyState::Running || node.in_recovery) {
            return Vec::new();
        }
        let mut left = Vec::new();
        let mut note = |is_left: bool, what: &str| {
            if is_left {
                left.push(format!("{what} on {side}"));
            }
        };
        note(node.slots.iter().any(Option::is_some), "a slot");
        note(self.is_slot_without_standby(node) && !self.says_left_behind(side), "a slot that nobody reads");
        note(node.has_scratch, "a scratch database");
        // Inside a closed database nobody can look: it is said instead.
        if node.allow_connections || !self.says_left_behind(side) {
            note(node.subscriptions.iter().any(Option::is_some), "a subscription");
            note(node.publications.iter().any(Option::is_some), "a publication");
            note(node.claimed, "the claim");
        }
        left
    }

    /// A physical slot keeps blue's log for ever, once green is a server of its own or is gone.
    fn is_slot_without_standby(&self, blue: &Node) -> bool {
        let green = &self.nodes[Side::Green as usize];
        blue.side == Side::Blue && blue.physical_slot && (!green.in_recovery || self.standby != StandbyState::Running)
    }
}

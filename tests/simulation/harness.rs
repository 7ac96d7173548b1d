//! One simulated run, from its first record to its end: coordinators one after another, the guard when it is due.

use crate::{
    fault::{Fault, Kind},
    journal::WatchedJournal,
    lasting::{Lasting, Renewals},
    plan::PlanKind,
    ports::ports,
    script::{Script, Trouble},
    seeds::Chaos,
    world::{Shared, World},
};
use greenlight::{
    engine::{Engine, EngineError, Patience, Rescue, Rescued, Stop, Tell},
    journal::{Journal, MemoryJournal},
    run::{Event, Outcome},
    word::RunId,
};
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    task::{Context, Poll, Waker},
};

/// Coordinators of one run, at most.
const COORDINATORS_MAX: usize = 40;

/// One run to simulate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) kind: PlanKind,
    pub(crate) script: Script,
    pub(crate) faults: Vec<(usize, Fault)>,
    /// Milliseconds that a change takes to the other side.
    pub(crate) lag_ms: Option<u64>,
    /// Somebody else promotes green at this call.
    pub(crate) promoted_by_others_at: Option<usize>,
    pub(crate) green_dies_at: Option<usize>,
    /// Somebody else makes the promoted green a standby again at this call.
    pub(crate) green_demoted_at: Option<usize>,
    /// Faults by chance, and the seed that they came from.
    pub(crate) chaos: Option<Chaos>,
    pub(crate) seed: u64,
    /// What is wrong from green's promotion on.
    pub(crate) trouble_at_promotion: Option<Trouble>,
    /// The validator finds a difference, always.
    pub(crate) differs: bool,
    /// A read that never succeeds.
    pub(crate) broken: Option<&'static str>,
    pub(crate) guard_dies_at: Option<usize>,
    pub(crate) interrupted_at: Option<usize>,
    /// The first route cannot be pointed at green, or not be resumed, for so many seconds of the run.
    pub(crate) unmovable_secs: u64,
    pub(crate) unresumable_secs: u64,
    /// A call that lasts, with a rival who wants the run meanwhile.
    pub(crate) lasting: Option<Lasting>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    /// `None`: held for a person.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) points: Vec<Kind>,
    pub(crate) world: World,
}

impl Setup {
    pub(crate) fn with(&self, faults: &[(usize, Fault)]) -> Setup {
        Setup { faults: faults.to_vec(), ..self.clone() }
    }

    /// Runs it and checks everything.
    ///
    /// # Panics
    /// When an invariant is broken, with the trace of the run.
    pub(crate) fn run(&self) -> Report {
        let report = self.simulate(false);
        if let Some(violation) = &report.world.violation {
            panic!("{}\n{violation}\nwith {:?}", self.trace(), self.faults);
        }
        report
    }

    /// The last of what happened, line by line.
    pub(crate) fn trace(&self) -> String {
        let lines = self.simulate(true).world.trace.unwrap_or_default();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Runs it; a broken invariant is in the report's world.
    pub(crate) fn simulate(&self, trace: bool) -> Report {
        let mut world = World::new(self.kind, self.script, &self.faults);
        world.trace = trace.then(Vec::new);
        world.promoted_by_others_at = self.promoted_by_others_at;
        world.green_dies_at = self.green_dies_at;
        world.green_demoted_at = self.green_demoted_at;
        world.broken = self.broken;
        world.lasting = self.lasting;
        world.guard_dies_at = self.guard_dies_at;
        world.interrupted_at = self.interrupted_at;
        world.unmovable_until = self.unmovable_secs * crate::world::SECOND;
        world.unresumable_until = self.unresumable_secs * crate::world::SECOND;
        world.differs = self.differs;
        world.trouble_at_promotion = self.trouble_at_promotion;
        world.chaos.clone_from(&self.chaos);
        if let Some(lag) = self.lag_ms {
            world.lag = lag * crate::world::MS;
        }
        let (plan, at) = (world.plan.clone(), world.timestamp());
        let created = Event::RunCreated { plan: Box::new(plan.as_ref().clone()), by: "ana".to_owned() };
        world.run.apply(&created);
        let journal = MemoryJournal::new();
        world.rival = self.lasting.map(|_| journal.clone());
        let world = Shared::new(world);
        poll_once(journal.create(&created, at)).unwrap().unwrap();
        let outcome = drive_to_the_end(&world, &journal, &plan.run);
        let mut world = std::mem::replace(&mut *world.lock(), World::new(self.kind, Script::default(), &[]));
        match outcome {
            Some(outcome) => world.check_end(outcome),
            None => world.check_rest(),
        }
        Report { outcome, points: std::mem::take(&mut world.points), world }
    }
}

/// How many lines of a trace are shown.
const LINES: usize = 200;

fn drive_to_the_end(world: &Shared, journal: &MemoryJournal, run: &RunId) -> Option<Outcome> {
    let mut started = 0;
    while started < COORDINATORS_MAX {
        let end = coordinate(world, journal, run);
        if world.lock().violation.is_some() {
            return None;
        }
        // The guard sees its coordinator end, whether by death or at a person's word.
        let standing = world.lock().guard.take();
        if standing.is_some_and(|guard| guard.died_at.is_none()) {
            guard(world, journal, run);
        }
        match end {
            Some(Ok(Stop::Closed(outcome))) => return Some(outcome),
            Some(Ok(Stop::Interrupted)) => return None,
            // Whoever starts the next one sees after a while that it cannot work yet. Such a one does not count: how many there are
            // is a matter of how long the journal is full.
            Some(Err(EngineError::Journal(_))) if world.lock().journal_is_full() => {
                world.lock().pass(5 * crate::world::SECOND);
            }
            // Another one, with ports for the plan as it holds now.
            None | Some(Ok(Stop::Replanned) | Err(EngineError::Journal(_))) => started += 1,
            Some(other) => world.lock().violated(format!("the engine came back with {other:?}")),
        }
        if world.lock().violation.is_some() {
            return None;
        }
    }
    world.lock().violated("the run needs coordinators without end");
    None
}

/// One coordinator's life. `None`: it was killed.
fn coordinate(world: &Shared, journal: &MemoryJournal, run: &RunId) -> Option<Result<Stop, EngineError>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let process = {
        let mut world = world.lock();
        world.interrupted = interrupted.clone();
        world.renewals = Renewals::Work;
        world.tell(|| "a coordinator starts".to_owned());
        world.start_process(false)
    };
    let engine = Engine {
        journal: Arc::new(WatchedJournal { inner: journal.clone(), world: world.clone(), process }),
        ports: ports(world, process),
        run: run.clone(),
        holder: format!("coordinator {process}"),
        epoch: Arc::new(AtomicU64::new(0)),
        interrupted,
        patience: Patience::Stays,
        tell: {
            let world = world.clone();
            Arc::new(move |_, _, tell| {
                if let Tell::Alarm(text) = tell {
                    let mut world = world.lock();
                    world.alarms += u32::from(text.contains("CLIENTS ARE PAUSED"));
                    world.tell(|| format!("the coordinator says: {text}"));
                }
            })
        },
    };
    let end = poll_once(engine.drive());
    world.lock().end_process(process);
    journal.holder_died(run).unwrap();
    end
}

fn guard(world: &Shared, journal: &MemoryJournal, run: &RunId) {
    let process = {
        let mut world = world.lock();
        world.tell(|| "the guard acts".to_owned());
        world.start_process(true)
    };
    let watched = Arc::new(WatchedJournal { inner: journal.clone(), world: world.clone(), process });
    let ports = ports(world, process);
    let plan = world.lock().plan.clone();
    let rescue = Rescue {
        journal: watched,
        ports: &ports,
        run: run.clone(),
        plan: &plan,
        holder: "the guard".to_owned(),
        epoch: Arc::default(),
        why: "its coordinator is gone",
        is_gone: &|| true,
        tell: &|text| world.lock().tell(|| format!("the guard says: {text}")),
    };
    if poll_once(rescue.make_safe()) == Some(Rescued::Closed) {
        world.lock().check_rescue();
    }
    world.lock().end_process(process);
    journal.holder_died(run).unwrap();
}

/// Nothing in the simulated world ever waits, except what was killed: then this is `None`, and the future is dropped
/// where it stands, which is how a killed process looks from outside.
pub(crate) fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

//! Calls that last longer than many leases, while another coordinator tries all the time to take the run over.

use crate::{
    fault::{Call, Part},
    harness::{Setup, poll_once},
    sweep::Tally,
    world::{SECOND, Shared, World},
};
use greenlight::{journal::Journal, run::Outcome, word::PortError};
use std::{future::poll_fn, marker::PhantomData, task::Poll, time::Duration};

/// One call that lasts, and what becomes of the lease meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lasting {
    /// The call's number.
    pub(crate) at: usize,
    pub(crate) secs: u64,
    pub(crate) renewals: Renewals,
}

/// What renewals of the lease come to while the call lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Renewals {
    #[default]
    Work,
    /// The first so many are not answered.
    FailAtFirst(u32),
    /// Another process has taken the lease.
    AreSuperseded,
}

/// A statement of a call that lasts: it goes on when the call is dropped.
struct UnderWay<T, E: FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static> {
    world: Shared,
    call: Call,
    effect: Option<E>,
    result: PhantomData<fn() -> T>,
}

impl<T, E: FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static> Drop for UnderWay<T, E> {
    fn drop(&mut self) {
        if let Some(effect) = self.effect.take() {
            self.world.lock().leave_under_way(self.call, effect, 1);
        }
    }
}

impl Shared {
    /// Takes its time, if this is the call that lasts.
    pub(crate) async fn lasts(&self) {
        let until = {
            let mut world = self.lock();
            let Some(lasting) = world.lasting.filter(|_| world.next_call_lasts()) else { return };
            world.tell(|| "     LASTS".to_owned());
            (world.lasting, world.renewals) = (None, lasting.renewals);
            world.now + lasting.secs * SECOND
        };
        poll_fn(|_| if self.lock().now >= until { Poll::Ready(()) } else { Poll::Pending }).await;
        self.lock().renewals = Renewals::Work;
    }

    /// The same for a change.
    pub(crate) async fn change_lasts<T, E>(&self, call: Call, effect: E) -> E
    where
        E: FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static,
    {
        let mut under_way = UnderWay { world: self.clone(), call, effect: Some(effect), result: PhantomData };
        self.lasts().await;
        under_way.effect.take().unwrap()
    }
}

impl World {
    /// The next call is the one that lasts.
    pub(crate) fn next_call_lasts(&self) -> bool {
        self.lasting.is_some_and(|lasting| lasting.at == self.points.len())
    }

    /// Another coordinator asks for the run, whose own one lives. It cannot write into a full journal either, and whoever gives
    /// clients back without the journal, a guard or a coordinator, has no lease.
    pub(crate) fn rival_tries(&mut self, process: usize) {
        let Some(journal) = &self.rival else { return };
        let asked = self.processes[process];
        if self.journal_is_full() || asked.lost_journal {
            return;
        }
        let (run, ttl) = (self.plan.run.clone(), Duration::from_secs(15));
        if poll_once(journal.take_lease(&run, "a rival", ttl, false, self.timestamp())).unwrap().is_ok() {
            self.violated("a rival has taken the run over from a coordinator that lives");
        }
    }
}

/// Every call in turn lasts four leases. The reports of those runs in which no guard had to act.
fn every_call_lasts(what: &str, renewals: Renewals, mut look: impl FnMut(usize, &crate::harness::Report)) {
    let points = Setup::default().run().points.len();
    let mut tally = Tally::default();
    for at in 0..points {
        let report = tally.run(Setup { lasting: Some(Lasting { at, secs: 60, renewals }), ..Setup::default() });
        if !report.world.processes.iter().any(|process| process.is_guard) {
            assert_eq!(report.outcome, Some(Outcome::Completed), "{what}: call {at}");
            look(at, &report);
        }
    }
    tally.conclude(what, points);
    tally.none_held();
}

#[test]
fn a_call_that_lasts_many_leases_keeps_the_run_against_others() {
    every_call_lasts("calls that last", Renewals::Work, |at, report| {
        assert_eq!(report.world.processes.len(), 1, "the call {at} cost the coordinator its run");
    });
}

#[test]
fn a_lease_that_is_lost_in_a_call_ends_the_coordinator_and_the_next_one_looks_first() {
    let mut taken_over = 0;
    every_call_lasts("leases lost in a call", Renewals::AreSuperseded, |_, report| {
        taken_over += usize::from(report.world.processes.len() == 2);
    });
    assert!(taken_over > 100, "only {taken_over} calls lost their lease");
}

#[test]
fn a_renewal_without_an_answer_is_tried_again_while_the_lease_lasts() {
    every_call_lasts("renewals without an answer", Renewals::FailAtFirst(2), |at, report| {
        assert_eq!(report.world.processes.len(), 1, "the call {at} cost the coordinator its run");
    });
}

#[test]
fn a_coordinator_without_its_journal_stops_before_its_lease_ends() {
    let mut stopped = 0;
    every_call_lasts("no renewal is answered", Renewals::FailAtFirst(u32::MAX), |_, report| {
        stopped += usize::from(report.world.processes.len() == 2);
    });
    assert!(stopped > 100, "only {stopped} coordinators stopped");
}

#[test]
fn what_a_long_call_says_is_stored_for_other_processes() {
    let mut stored = 0;
    every_call_lasts("progress", Renewals::Work, |_, report| stored += report.world.progress_stored);
    assert!(stored > 0, "nothing was stored");
}

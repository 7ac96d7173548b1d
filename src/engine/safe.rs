//! The guard's act: it takes the run over and makes an open window safe, and it never gives up. Without the journal it does what
//! can be done without: clients go on, and what was done is recorded when the journal can be kept again. A coordinator that comes
//! to an open window does the same, by `give_back`.
//!
//! **Invariant:** who acts without the lease knows that the coordinator is gone, works under its epoch, so that whoever takes the
//! lease shuts it out at the servers, and acts by what the journal says.

use super::{EngineError, LEASE_TTL, heartbeat::Heartbeat, in_full, records::Book};
use crate::journal::{Journal, JournalError, Lease};
use crate::plan::{Plan, StepName};
use crate::run::{self, Fact, Run};
use crate::step::{self, Ports, Records, StepContext};
use crate::word::{PortError, RunId, Timestamp};
use async_trait::async_trait;
use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Between two tries: at first, and when it has lasted long.
pub(super) const TRY_EVERY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// Tries until it has lasted long.
pub(super) const LONG: u32 = 50;

/// How long another process that has the run may let clients wait. Then the run is taken from it: its lease says that it lives,
/// not that it works.
const RIVAL_LIMIT: Duration = Duration::from_millis(500);

/// How long clients wait for the journal's answer. A disk that hangs must not hold them as well.
const JOURNAL_LIMIT: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescued {
    /// The window is closed, by this process or by another that took the run over.
    Closed,
    /// A person asks for something that a coordinator has to answer: the lease is free for one. To be called again.
    HandedOver,
    /// Clients go on, and there is no journal any more in which to say so.
    WithoutJournal,
}

/// What the guard works with.
pub struct Rescue<'a> {
    pub journal: Arc<dyn Journal>,
    pub ports: &'a Ports,
    pub run: RunId,
    /// As it was when the window was opened: what is done where nothing can be read.
    pub plan: &'a Plan,
    /// Who drives, for others who ask.
    pub holder: String,
    /// Shared with the ports: sessions carry the lease's epoch.
    pub epoch: Arc<AtomicU64>,
    pub why: &'a str,
    /// Ends the coordinator where it lives, and tells whether it is surely gone.
    pub is_gone: &'a (dyn Fn() -> bool + Sync),
    /// Told of each error, and how things stand.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl fmt::Debug for Rescue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rescue").field("run", &self.run).finish_non_exhaustive()
    }
}

impl Rescue<'_> {
    /// Tries until the window is closed.
    pub async fn make_safe(&self) -> Rescued {
        // When clients went on, by what was done without the journal.
        let mut back: Option<Timestamp> = None;
        let mut rival = None;
        for round in 0_u32.. {
            // At first from the coordinator, whose time is over; later from nobody who works.
            let too_long = back.is_none() && round > 0 && self.may_force(&mut rival).await;
            let force = round == 0 || too_long;
            let error = match self.with_journal(force, back).await {
                Ok(rescued) => return rescued,
                Err(error) => error,
            };
            if back.is_none() {
                (self.tell)(&format!("CLIENTS ARE PAUSED; {}; they are given back without it", in_words(&error)));
                match self.without_journal(too_long).await {
                    Ok(closed) if closed => return Rescued::Closed,
                    Ok(_) => {
                        back = Some(self.ports.clock.now());
                        (self.tell)("clients go on; this is recorded as soon as the journal can be written");
                    }
                    Err(error) => (self.tell)(&format!("not everything is as it must be yet, trying again: {}", error.chain())),
                }
            } else if self.is_closed().await {
                return Rescued::Closed;
            }
            if back.is_some() && matches!(error, EngineError::Journal(JournalError::Vanished { .. })) {
                return Rescued::WithoutJournal;
            }
            self.ports.clock.sleep(TRY_EVERY[usize::from(back.is_some() || round > LONG)]).await;
        }
        Rescued::Closed
    }

    /// Whether the run is taken though somebody has it. It is when that is this guard, whose last record failed, and when another
    /// has let clients wait for too long. `rival`: who has which window in hand, and since when that is seen.
    async fn may_force(&self, rival: &mut Option<(u64, Timestamp, Duration)>) -> bool {
        let Ok(Known { run, lease: Some(lease), .. }) = self.read().await else { return false };
        let (Some(window), false) = (run.open_window().filter(|window| window.resumed.is_none()), lease.free) else {
            return false;
        };
        if lease.epoch == self.epoch.load(Ordering::SeqCst) {
            return true;
        }
        let now = self.ports.clock.monotonic();
        let seen = rival.filter(|(epoch, at, _)| (*epoch, *at) == (lease.epoch, window.at));
        let (.., since) = *rival.insert(seen.unwrap_or((lease.epoch, window.at, now)));
        now.saturating_sub(since) >= RIVAL_LIMIT
    }

    /// Under the lease, as every driver does.
    async fn with_journal(&self, force: bool, back: Option<Timestamp>) -> Result<Rescued, EngineError> {
        let clock = self.ports.clock.clone();
        let opening = Book::open(self.journal.clone(), clock.clone(), &self.run, &self.holder, &self.epoch, force);
        let (opened, back) = self.while_clients_wait(opening, back).await;
        let (mut book, plan) = opened?;
        record_that_clients_go_on(&mut book, &plan, back).await?;
        let (quiet, said) = (|_: &str| {}, Mutex::new(None));
        let mut tries = 0;
        while book.run.open_window().is_some() {
            let heartbeat = Heartbeat::new(&book, &said);
            let interrupted = Arc::default();
            let mut cx = StepContext { plan: &plan, ports: self.ports, records: &mut book, interrupted, progress: &quiet };
            let (made, renewed) = heartbeat.beside(step::make_safe(&mut cx, self.why, step::By::Guard)).await?;
            book.renewed = renewed;
            if let Err(error) = made {
                if let Some(lost) = book.lost.take() {
                    return Err(lost.into());
                }
                // A person asks for something, such as to leave a lost green: a coordinator answers, and makes it safe first.
                if !book.journal.open_requests(&self.run).await?.is_empty() {
                    book.journal.release_lease(&self.run, book.epoch).await?;
                    return Ok(Rescued::HandedOver);
                }
                if tries % LONG == 0 {
                    let paused = if book.run.clients_paused_since().is_some() { "CLIENTS ARE PAUSED; " } else { "" };
                    (self.tell)(&format!("{paused}the window is not closed yet, trying again: {}", error.chain()));
                }
                clock.sleep(TRY_EVERY[usize::from(tries > LONG)]).await;
                tries += 1;
            }
            book.keep_lease().await?;
        }
        book.journal.release_lease(&self.run, book.epoch).await?;
        Ok(Rescued::Closed)
    }

    /// Waits for the journal for as long as it takes, and for no longer than `JOURNAL_LIMIT` while clients wait: then they go on as
    /// where nothing can be read. Since when they do, with the journal's answer.
    async fn while_clients_wait<T>(&self, opening: impl Future<Output = T>, back: Option<Timestamp>) -> (T, Option<Timestamp>) {
        let (mut opening, mut back, mut waits) = (pin!(opening), back, JOURNAL_LIMIT);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return (opened, back),
                () = self.ports.clock.sleep(waits) => waits = TRY_EVERY[usize::from(back.is_some())],
            }
            if back.is_none() {
                (self.tell)("CLIENTS ARE PAUSED; the journal does not answer; they go on without it, and get errors meanwhile");
                match self.let_clients_read().await {
                    Ok(()) => back = Some(self.ports.clock.now()),
                    Err(error) => (self.tell)(&format!("not every client goes on yet, trying again: {}", error.chain())),
                }
            }
        }
    }

    /// Nobody may say which side serves, and neither is opened.
    async fn let_clients_read(&self) -> Result<(), PortError> {
        let mut unkept = Unkept(Run::new(self.plan.steps.len()));
        let interrupted = Arc::default();
        let cx = StepContext { plan: self.plan, ports: self.ports, records: &mut unkept, interrupted, progress: &|_| {} };
        step::let_clients_read(&cx).await
    }

    /// Reads what is so, and does it. True: there is nothing to do any more. `too_long`: whoever has the run has let clients wait, and
    /// it cannot be taken from him.
    async fn without_journal(&self, too_long: bool) -> Result<bool, PortError> {
        let known = if (self.is_gone)() { self.read().await.ok() } else { None };
        let Some(Known { plan, run, lease }) = known else {
            self.let_clients_read().await?;
            return Err(PortError::uncertain("read which side serves: clients get errors meanwhile"));
        };
        if run.open_window().is_none() {
            return Ok(true);
        }
        let given_back = give_back(self.ports, &self.epoch, Known { plan, run, lease }, self.why).await;
        if given_back.is_err() && too_long {
            self.let_clients_read().await?;
        }
        given_back.map(|()| false)
    }

    async fn read(&self) -> Result<Known, JournalError> {
        tokio::select! {
            biased;
            known = read(self.journal.as_ref(), &self.run) => known,
            () = self.ports.clock.sleep(JOURNAL_LIMIT) => Err(JournalError::Unreachable {
                attempted: "read the journal".to_owned(),
                source: "no answer".into(),
            }),
        }
    }

    async fn is_closed(&self) -> bool {
        self.read().await.is_ok_and(|known| known.run.open_window().is_none())
    }
}

/// What the journal says of a run.
pub(super) struct Known {
    pub(super) plan: Plan,
    pub(super) run: Run,
    pub(super) lease: Option<Lease>,
}

pub(super) async fn read(journal: &dyn Journal, id: &RunId) -> Result<Known, JournalError> {
    let lease = journal.lease(id).await?;
    let records = journal.read(id).await?;
    let unknown = || JournalError::UnknownRun(id.to_string());
    let (plan, run) = run::replay(records.iter().map(|record| &record.event)).ok_or_else(unknown)?;
    Ok(Known { plan, run, lease })
}

/// Makes an open window safe by what the journal says, without writing into it: under the epoch of a lease that nobody has any
/// more, or that is this process's own.
pub(super) async fn give_back(ports: &Ports, epoch: &AtomicU64, known: Known, why: &str) -> Result<(), PortError> {
    let Known { plan, run, lease } = known;
    if let Some(lease) = lease {
        // The coordinator's own is free, since it is gone.
        if !lease.free && lease.epoch != epoch.load(Ordering::SeqCst) {
            return Err(PortError::transient("go on").because(format!("{} has the run", lease.holder)));
        }
        epoch.store(lease.epoch, Ordering::SeqCst);
    }
    let mut unkept = Unkept(run);
    let interrupted = Arc::default();
    let mut cx = StepContext { plan: &plan, ports, records: &mut unkept, interrupted, progress: &|_| {} };
    step::make_safe(&mut cx, why, step::By::Guard).await
}

/// What was done without the journal, in it. `back`: when clients went on, if it was so.
pub(super) async fn record_that_clients_go_on(book: &mut Book, plan: &Plan, back: Option<Timestamp>) -> Result<(), JournalError> {
    // A change in place moves the writer only when it is taken back.
    if let Some(step) = plan.step_no(StepName::Window).or_else(|| plan.step_no(StepName::MigrateBlue)) {
        book.step = step;
    }
    let Some(at) = back.filter(|_| book.run.clients_paused_since().is_some()) else { return Ok(()) };
    let _ = book.learn(Fact::ClientsResumed { at }).await;
    // Another may have the run, and then nothing more is done here.
    book.lost.take().map_or(Ok(()), Err)
}

pub(super) fn in_words(error: &EngineError) -> String {
    match error {
        EngineError::Journal(journal) => format!("could not {}", in_full(journal)),
        EngineError::Unreadable { .. } => format!("could not {error}"),
    }
}

/// A run whose journal cannot be kept: what is learned is remembered here, and recorded by what is done again later.
struct Unkept(Run);

#[async_trait]
impl Records for Unkept {
    async fn learn(&mut self, fact: Fact) -> Result<(), PortError> {
        self.0.facts.push(fact);
        Ok(())
    }

    async fn commit(&mut self, _: Fact) -> Result<Option<String>, PortError> {
        Err(PortError::refused("commit without the journal"))
    }

    async fn hold(&mut self) -> Result<(), PortError> {
        Err(PortError::refused("open a window without the journal"))
    }

    fn run(&self) -> &Run {
        &self.0
    }

    fn is_superseded(&self) -> bool {
        false
    }
}

/// A guard's lease outlives its longest sleep.
const _: () = assert!(TRY_EVERY[1].as_secs() * 3 < LEASE_TTL.as_secs());

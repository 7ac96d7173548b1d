//! The journal of the simulated world: the product's own in memory, with faults, and with a witness at every append.

use crate::{
    fault::{Call, Fault, Kind, answer},
    lasting::Renewals,
    world::{SECOND, Shared},
};
use async_trait::async_trait;
use greenlight::{
    journal::{Journal, JournalError, Lease, MemoryJournal, RunEntry},
    run::{Event, Fact, Record, Request, RequestKind},
    word::{RunId, Timestamp},
};
use std::{future::poll_fn, task::Poll, time::Duration};

#[derive(Debug)]
pub(crate) struct WatchedJournal {
    pub(crate) inner: MemoryJournal,
    pub(crate) world: Shared,
    pub(crate) process: usize,
}

fn unreachable(attempted: &str) -> JournalError {
    JournalError::Unreachable { attempted: attempted.to_owned(), source: "no answer".into() }
}

fn not_written(attempted: &str) -> JournalError {
    JournalError::NotWritten { attempted: attempted.to_owned(), source: "no space left".into() }
}

/// What an append is called in a trace.
fn name(event: &Event) -> &'static str {
    match event {
        Event::FactLearned { fact: Fact::WindowOpened { .. }, .. } => "append the window's opening",
        Event::FactLearned { fact: Fact::WindowCommitted { .. }, .. } => "append the commit point",
        Event::FactLearned { fact: Fact::WindowClosed { .. }, .. } => "append the window's close",
        Event::FactLearned { .. } => "append a fact",
        Event::StepStarted { .. } => "append an intent",
        _ => "append an outcome",
    }
}

impl WatchedJournal {
    async fn begin(&self, name: &'static str, kind: Kind) -> Option<Fault> {
        let fault = self.world.lock().begin(Call { process: self.process, name, on: None, kind });
        let Some(fault) = fault else { return answer(None).await };
        if fault == Some(Fault::CrashBefore) {
            return self.die().await;
        }
        fault
    }

    async fn die<T>(&self) -> T {
        self.world.lock().end_process(self.process);
        answer(None).await
    }

    /// Longer than the longest pause. Whoever is killed meanwhile never comes back from it.
    async fn lasts(&self, event: &Event) {
        let beside = {
            let mut world = self.world.lock();
            let beside = world.processes[self.process].is_guard && matches!(event, Event::LeaseTaken { .. });
            // The guard does what it can beside it, so it adds no time of its own.
            world.slow -= u32::from(beside);
            beside.then_some(world.now + 6 * SECOND)
        };
        if let Some(until) = beside {
            return poll_fn(|_| if self.world.lock().now >= until { Poll::Ready(()) } else { Poll::Pending }).await;
        }
        let alive = {
            let mut world = self.world.lock();
            world.pass(6 * SECOND);
            world.processes[self.process].alive
        };
        if !alive {
            answer::<()>(None).await;
        }
    }

    fn lose(&self) {
        self.world.lock().processes[self.process].lost_journal = true;
    }

    /// Err when nothing is written, whether by this fault or by what lasts.
    fn writes(&self, attempted: &str, fault: Option<Fault>) -> Result<(), JournalError> {
        let full = {
            let mut world = self.world.lock();
            if fault == Some(Fault::Full) {
                world.journal_full_until = world.now + 60 * SECOND;
            }
            world.now < world.journal_full_until
        };
        let error = match fault {
            _ if full => not_written(attempted),
            Some(Fault::NotWritten) => not_written(attempted),
            Some(Fault::UnreachableUnwritten) => unreachable(attempted),
            _ => return Ok(()),
        };
        self.lose();
        Err(error)
    }

    fn superseded<T>(&self, result: Result<T, JournalError>) -> Result<T, JournalError> {
        if matches!(result, Err(JournalError::Superseded { .. })) {
            self.world.lock().processes[self.process].is_superseded = true;
        }
        result
    }
}

#[async_trait]
impl Journal for WatchedJournal {
    async fn append(&self, run: &RunId, expected: u64, epoch: u64, event: &Event, at: Timestamp) -> Result<(), JournalError> {
        let fault = self.begin(name(event), Kind::Append).await;
        self.writes("append a record", fault)?;
        if fault == Some(Fault::Slow) {
            self.lasts(event).await;
        }
        if fault == Some(Fault::Usurped) {
            self.inner.take_lease(run, "another", Duration::from_secs(15), true, at).await?;
        }
        let result = self.superseded(self.inner.append(run, expected, epoch, event, at).await);
        match &result {
            Ok(()) => {
                // It can be kept again.
                self.world.lock().processes[self.process].lost_journal = false;
                self.world.lock().witness(event);
            }
            Err(_) => self.lose(),
        }
        match fault {
            Some(Fault::CrashAfter) => self.die().await,
            Some(Fault::WrittenSlowly) => {
                self.lasts(event).await;
                result
            }
            Some(Fault::UnreachableWritten) => {
                self.lose();
                Err(unreachable("append a record"))
            }
            _ => result,
        }
    }

    async fn read(&self, run: &RunId) -> Result<Vec<Record>, JournalError> {
        self.inner.read(run).await
    }

    async fn take_lease(
        &self,
        run: &RunId,
        holder: &str,
        ttl: Duration,
        force: bool,
        now: Timestamp,
    ) -> Result<u64, JournalError> {
        let fault = self.begin("take the lease", Kind::Journal).await;
        self.writes("take the lease", fault)?;
        let epoch = self.inner.take_lease(run, holder, ttl, force, now).await?;
        // Whoever had it has it no more.
        self.world.lock().processes[self.process].is_superseded = false;
        if fault == Some(Fault::CrashAfter) { self.die().await } else { Ok(epoch) }
    }

    async fn renew_lease(&self, run: &RunId, epoch: u64, ttl: Duration, now: Timestamp) -> Result<(), JournalError> {
        let renewals = self.world.lock().renewals;
        match renewals {
            Renewals::Work => {}
            Renewals::FailAtFirst(0) => self.world.lock().renewals = Renewals::Work,
            Renewals::FailAtFirst(left) => {
                self.world.lock().renewals = Renewals::FailAtFirst(left - 1);
                return Err(unreachable("renew the lease"));
            }
            Renewals::AreSuperseded => {
                self.inner.take_lease(run, "another", ttl, true, now).await?;
            }
        }
        self.writes("renew the lease", None)?;
        self.superseded(self.inner.renew_lease(run, epoch, ttl, now).await)
    }

    async fn hold(&self, run: &RunId) -> Result<(), JournalError> {
        let fault = self.begin("hold the journal", Kind::Journal).await;
        let lost = self.world.lock().processes[self.process].lost_journal;
        let held = self.writes("hold the journal", fault);
        // The window stays shut, and nothing else is lost.
        self.world.lock().processes[self.process].lost_journal = lost;
        held?;
        self.inner.hold(run).await?;
        self.world.lock().processes[self.process].holds_journal = true;
        if fault == Some(Fault::CrashAfter) { self.die().await } else { Ok(()) }
    }

    async fn let_go(&self) {
        let mut world = self.world.lock();
        world.processes[self.process].holds_journal = false;
        if world.run.open_window().is_some_and(|window| window.committed.is_none()) && world.processes[self.process].alive {
            // The coordinator comes back from a window that it could not close: it ends.
            world.processes[self.process].lost_journal = true;
        }
    }

    async fn release_lease(&self, run: &RunId, epoch: u64) -> Result<(), JournalError> {
        self.writes("release the lease", None)?;
        self.inner.release_lease(run, epoch).await
    }

    async fn open_requests(&self, run: &RunId) -> Result<Vec<Request>, JournalError> {
        let (said, at) = {
            let mut world = self.world.lock();
            (world.person_says(), world.timestamp())
        };
        if let Some(kind) = said {
            let reason = matches!(kind, RequestKind::MarkDone { .. }).then_some("done by hand");
            self.inner.file_request(run, "ana", reason, &kind, at).await?;
        }
        self.inner.open_requests(run).await
    }

    async fn answer_request(&self, run: &RunId, id: i64, text: &str) -> Result<(), JournalError> {
        let fault = self.begin("answer a request", Kind::Journal).await;
        self.writes("answer a request", fault)?;
        self.inner.answer_request(run, id, text).await?;
        if fault == Some(Fault::CrashAfter) { self.die().await } else { Ok(()) }
    }

    // --- nothing of the engine's ------------------------------------------------------------------------------------------

    async fn runs(&self) -> Result<Vec<RunEntry>, JournalError> {
        self.inner.runs().await
    }

    async fn create(&self, event: &Event, at: Timestamp) -> Result<(), JournalError> {
        self.inner.create(event, at).await
    }

    async fn lease(&self, run: &RunId) -> Result<Option<Lease>, JournalError> {
        self.inner.lease(run).await
    }

    async fn file_request(
        &self,
        run: &RunId,
        by: &str,
        reason: Option<&str>,
        kind: &RequestKind,
        at: Timestamp,
    ) -> Result<i64, JournalError> {
        self.inner.file_request(run, by, reason, kind, at).await
    }

    async fn request_answer(&self, run: &RunId, id: i64) -> Result<Option<String>, JournalError> {
        self.inner.request_answer(run, id).await
    }

    async fn set_progress(&self, run: &RunId, text: &str) -> Result<(), JournalError> {
        {
            let mut world = self.world.lock();
            world.progress_stored += u32::from(!text.is_empty());
            if world.run.open_window().is_some() {
                world.violated("progress is stored while a window is open");
            }
        }
        self.inner.set_progress(run, text).await
    }

    async fn progress(&self, run: &RunId) -> Result<Option<String>, JournalError> {
        self.inner.progress(run).await
    }
}

use super::{EngineError, LEASE_TTL, in_full};
use crate::journal::{Journal, JournalError};
use crate::plan::Plan;
use crate::run::{self, Event, Fact, Run, StepNo};
use crate::step::Records;
use crate::word::{Clock, PortError, RunId};
use async_trait::async_trait;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The run and its journal, kept in step: append first, believe after.
pub(super) struct Book {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) id: RunId,
    pub(super) epoch: u64,
    pub(super) run: Run,
    /// The step whose facts are being learned.
    pub(super) step: StepNo,
    /// The lease was lost or the journal was, in the middle of a step.
    pub(super) lost: Option<JournalError>,
    /// When the lease was last renewed.
    pub(super) renewed: Duration,
    /// The journal keeps others from writing.
    holds: bool,
    /// For the heartbeat, which runs while the run is lent to a step.
    pub(super) window_open: Arc<AtomicBool>,
    /// What the run has been waiting for, and since when.
    waits: (Option<StepNo>, Option<String>),
    since: Duration,
}

impl Book {
    /// Takes the lease and reads the run. `epoch` tells the ports' sessions who they are.
    pub(super) async fn open(
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        id: &RunId,
        holder: &str,
        epoch_out: &AtomicU64,
        force: bool,
    ) -> Result<(Book, Plan), EngineError> {
        let epoch = journal.take_lease(id, holder, LEASE_TTL, force, clock.now()).await?;
        epoch_out.store(epoch, Ordering::SeqCst);
        let records = journal.read(id).await?;
        let Some((plan, run)) = run::replay(records.iter().map(|record| &record.event)) else {
            return Err(EngineError::Unreadable { why: "it does not begin with a plan".to_owned() });
        };
        let renewed = clock.monotonic();
        let mut book = Book {
            journal,
            clock,
            id: id.clone(),
            epoch,
            run,
            step: StepNo(0),
            lost: None,
            renewed,
            holds: false,
            window_open: Arc::default(),
            waits: (None, None),
            since: renewed,
        };
        book.look_at_window();
        if book.run.unreadable {
            return Err(EngineError::Unreadable { why: "it holds events of a newer version".to_owned() });
        }
        if book.run.outcome.is_none() {
            book.record(Event::LeaseTaken { holder: holder.to_owned() }).await?;
        }
        Ok((book, plan))
    }

    /// Durable first, then believed.
    pub(super) async fn record(&mut self, event: Event) -> Result<(), JournalError> {
        crate::failpoint!(&format!("record-before#{}", self.run.seq + 1));
        self.journal.append(&self.id, self.run.seq, self.epoch, &event, self.clock.now()).await?;
        self.run.apply(&event);
        self.look_at_window();
        self.note_what_is_waited_for();
        if matches!(event, Event::FactLearned { fact: Fact::WindowClosed { .. }, .. }) {
            self.let_go().await;
            self.journal.hurry(false).await;
        }
        crate::failpoint!(&format!("record-after#{}", self.run.seq));
        Ok(())
    }

    /// Others may write into the journal again.
    pub(super) async fn let_go(&mut self) {
        if std::mem::take(&mut self.holds) {
            self.journal.let_go().await;
        }
    }

    /// Reads back what became of an append whose answer was lost, until it is known. True: it is on record.
    async fn read_back(&mut self, event: &Event) -> Result<bool, JournalError> {
        loop {
            match self.journal.read(&self.id).await {
                Ok(records) => {
                    let seq = usize::try_from(self.run.seq).unwrap_or(usize::MAX);
                    let Some(record) = records.get(seq) else { return Ok(false) };
                    if record.epoch != self.epoch || record.event != *event {
                        return Err(JournalError::Superseded { expected: self.run.seq });
                    }
                    self.run.apply(event);
                    return Ok(true);
                }
                Err(error) => {
                    tracing::warn!(%error, "not known whether the commit point is on record; clients are paused; reading again");
                    self.clock.sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn look_at_window(&self) {
        self.window_open.store(self.run.open_window().is_some(), Ordering::SeqCst);
    }

    /// A try says nothing of what is waited for: it is the same until another note, or another step, says otherwise.
    fn note_what_is_waited_for(&mut self) {
        let step = self.run.present_step();
        if self.waits.0 != step || (self.run.note.is_some() && self.waits.1 != self.run.note) {
            self.waits = (step, self.run.note.clone());
            self.since = self.clock.monotonic();
        }
    }

    /// Whether it waited for just this before the present try.
    pub(super) fn waited_for(&self, note: &str) -> bool {
        self.waits.1.as_deref() == Some(note)
    }

    /// How long the run has been at the same step, waiting for the same thing, under this coordinator.
    pub(super) fn stood(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.since)
    }

    /// Renews the lease when a third of its life is gone.
    pub(super) async fn keep_lease(&mut self) -> Result<(), JournalError> {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.renewed) >= LEASE_TTL / 3 {
            self.journal.renew_lease(&self.id, self.epoch, LEASE_TTL, self.clock.now()).await?;
            self.renewed = now;
        }
        Ok(())
    }
}

#[async_trait]
impl Records for Book {
    async fn learn(&mut self, fact: Fact) -> Result<(), PortError> {
        let step = self.step;
        if let Err(error) = self.record(Event::FactLearned { step, fact }).await {
            let port_error = PortError::uncertain("record what was done").because(in_full(&error));
            self.lost = Some(error);
            return Err(port_error);
        }
        Ok(())
    }

    async fn commit(&mut self, fact: Fact) -> Result<Option<String>, PortError> {
        let event = Event::FactLearned { step: self.step, fact };
        let error = match self.record(event.clone()).await {
            Ok(()) => return Ok(None),
            Err(error) => error,
        };
        let why = in_full(&error);
        let known = match error {
            error if error.wrote_nothing() => return Ok(Some(why)),
            JournalError::Unreachable { .. } => self.read_back(&event).await,
            error => Err(error),
        };
        match known {
            Ok(on_record) => Ok((!on_record).then_some(why)),
            Err(error) => {
                let port_error = PortError::uncertain("record the commit point").because(why);
                self.lost = Some(error);
                Err(port_error)
            }
        }
    }

    async fn hold(&mut self) -> Result<(), PortError> {
        match self.journal.hold(&self.id).await {
            Ok(()) => {
                self.holds = true;
                Ok(())
            }
            Err(error) => Err(PortError::transient("open the window").because(format!("could not {}", in_full(&error)))),
        }
    }

    fn run(&self) -> &Run {
        &self.run
    }

    fn is_superseded(&self) -> bool {
        matches!(self.lost, Some(JournalError::Superseded { .. } | JournalError::Held { .. }))
    }
}

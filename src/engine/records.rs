use super::{EngineError, LEASE_TTL, heartbeat::Heartbeat};
use crate::journal::{Journal, JournalError};
use crate::plan::{Plan, StepName};
use crate::run::{self, Event, Fact, Run, StepNo};
use crate::step::{self, Ports, Records, StepContext};
use crate::word::{Clock, PortError, RunId};
use async_trait::async_trait;
use std::{
    sync::{
        Arc, Mutex,
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
        crate::failpoint!(&format!("record-after#{}", self.run.seq));
        Ok(())
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
            let port_error = PortError::uncertain("record what was done").because(error.to_string());
            self.lost = Some(error);
            return Err(port_error);
        }
        Ok(())
    }

    fn run(&self) -> &Run {
        &self.run
    }

    fn is_lost(&self) -> bool {
        self.lost.is_some()
    }
}

/// The guard's act: takes the run over whoever holds it, and makes an open window safe, trying again until it is.
///
/// # Errors
/// When the journal cannot be kept; then nothing more is done.
pub async fn make_safe(
    journal: Arc<dyn Journal>,
    ports: &Ports,
    id: &RunId,
    holder: &str,
    epoch_out: &AtomicU64,
    why: &str,
) -> Result<(), EngineError> {
    let clock = ports.clock.clone();
    let (mut book, plan) = Book::open(journal, clock.clone(), id, holder, epoch_out, true).await?;
    // A change in place moves the writer only when it is taken back.
    if let Some(step) = plan.step_no(StepName::Window).or_else(|| plan.step_no(StepName::MigrateBlue)) {
        book.step = step;
    }
    let (quiet, said) = (|_: &str| {}, Mutex::new(None));
    while book.run.open_window().is_some() {
        let heartbeat = Heartbeat::new(&book, &said);
        let mut cx = StepContext { plan: &plan, ports, records: &mut book, progress: &quiet };
        let (made, renewed) = heartbeat.beside(step::make_safe(&mut cx, why, step::By::Guard)).await?;
        book.renewed = renewed;
        if let Err(error) = made {
            if let Some(lost) = book.lost.take() {
                return Err(lost.into());
            }
            // A person asks for something, such as to leave a lost green: a coordinator answers, and makes it safe first.
            if !book.journal.open_requests(id).await?.is_empty() {
                break;
            }
            tracing::warn!(error = %error.chain(), "the window is not safe yet, trying again");
            clock.sleep(Duration::from_millis(100)).await;
        }
        book.keep_lease().await?;
    }
    book.journal.release_lease(id, book.epoch).await?;
    Ok(())
}

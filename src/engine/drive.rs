use super::records::Book;
use super::{EngineError, LEASE_TTL};
use crate::journal::Journal;
use crate::plan::Plan;
use crate::run::{self, Decision, Direction, Event, Outcome, Run, StepNo};
use crate::step::{self, Observed, Ports, Progress, Records, Sight, StepContext};
use crate::word::{Failure, PortError, RunId, Timestamp};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often the watch looks while the run waits.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// The longest sleep between two looks at the requests of people.
const LISTEN_EVERY: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_mins(1);

/// Why the engine came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    Closed(Outcome),
    /// Only a person moves the run on.
    WaitsForPerson {
        step: StepNo,
    },
    /// The run waits for something else, and the caller did not want to wait with it.
    Waits {
        step: StepNo,
    },
    /// The caller asked to stop. The run can be resumed.
    Interrupted,
}

/// Drives one run. Everything it needs comes in; it holds no truth of its own.
pub struct Engine {
    pub journal: Arc<dyn Journal>,
    pub ports: Ports,
    pub run: RunId,
    /// Who drives, for others who ask: `pid 4711 on db-admin-1`.
    pub holder: String,
    /// Shared with the ports: sessions carry the lease's epoch.
    pub epoch: Arc<AtomicU64>,
    /// Set by Ctrl-C: take no further decision.
    pub interrupted: Arc<AtomicBool>,
    /// Come back instead of waiting for a person or for hours.
    pub stop_at_waits: bool,
    /// Told of each record and of progress, for the screen.
    pub tell: Listener,
}

/// Who is told.
pub type Listener = Arc<dyn Fn(&Plan, &Run, Tell<'_>) + Send + Sync>;

/// What the engine tells its caller while it works.
#[derive(Clone, Copy, Debug)]
pub enum Tell<'a> {
    Record(&'a Event),
    Progress(&'a str),
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("run", &self.run).field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes the run over and drives it until it is closed, needs a person, or is interrupted.
    ///
    /// # Errors
    /// When the journal cannot be kept: the run stands where its last record says, and can be driven on later.
    pub async fn drive(&self) -> Result<Stop, EngineError> {
        let clock = self.ports.clock.clone();
        let (mut book, plan) = Book::open(self.journal.clone(), clock, &self.run, &self.holder, &self.epoch, false).await?;
        let stop = self.turn_until_stop(&plan, &mut book).await?;
        self.journal.release_lease(&self.run, book.epoch).await?;
        Ok(stop)
    }

    async fn turn_until_stop(&self, plan: &Plan, book: &mut Book) -> Result<Stop, EngineError> {
        // When a parked step is to be polled next; not a record, since nothing is lost with it.
        let mut poll_at: Option<Timestamp> = None;
        let mut watched = Duration::ZERO;
        loop {
            book.keep_lease().await?;
            if self.interrupted.load(Ordering::SeqCst) {
                return Ok(Stop::Interrupted);
            }
            if self.answer_requests(plan, book).await? {
                poll_at = None;
            }
            let now = book.clock.now();
            match run::decide(plan, &book.run, now) {
                Decision::Close(outcome) => {
                    if book.run.outcome.is_none() {
                        self.note(plan, book, Event::RunClosed { outcome }).await?;
                    }
                    return Ok(Stop::Closed(outcome));
                }
                Decision::Refuse => {
                    return Err(EngineError::Unreadable { why: "it holds what this version cannot act on".to_owned() });
                }
                Decision::WaitForPerson { step } if self.stop_at_waits => return Ok(Stop::WaitsForPerson { step }),
                Decision::WaitForPerson { .. } => self.wait(plan, book, LISTEN_EVERY, &mut watched).await?,
                Decision::WaitUntil { step, .. } if self.stop_at_waits && is_gated(&book.run, step) => {
                    return Ok(Stop::Waits { step });
                }
                Decision::WaitUntil { until, .. } => self.wait(plan, book, until_or(now, until), &mut watched).await?,
                Decision::Act { step, poll: true, .. } if poll_at.is_some_and(|at| now < at) => {
                    if self.stop_at_waits && plan.steps[step.0].name == crate::plan::StepName::Soak {
                        return Ok(Stop::Waits { step });
                    }
                    self.wait(plan, book, until_or(now, poll_at.unwrap_or(now)), &mut watched).await?;
                }
                decision => poll_at = self.carry_out(plan, book, decision, now).await?,
            }
        }
    }

    /// The decisions that change something. When a parked step is to be polled next.
    async fn carry_out(
        &self,
        plan: &Plan,
        book: &mut Book,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, EngineError> {
        match decision {
            Decision::Observe { step } => {
                let event = self.observe(plan, book, step, now).await?;
                self.note(plan, book, event).await?;
            }
            Decision::Act { step, attempt, poll } => {
                if !poll {
                    let direction = book.run.direction;
                    self.note(plan, book, Event::StepStarted { step, attempt, direction }).await?;
                }
                return self.act(plan, book, step).await;
            }
            Decision::ReachGate { step, waits_for } => self.note(plan, book, Event::GateReached { step, waits_for }).await?,
            Decision::BeginRollback { stuck } => {
                let reason = format!(
                    "step {stuck}, {}, failed: {}",
                    plan.steps[stuck.0].name,
                    book.run.reason.clone().unwrap_or_default()
                );
                let event = Event::RollbackBegun { until: StepNo(0), by: "greenlight".to_owned(), reason, without_green: false };
                self.note(plan, book, event).await?;
            }
            Decision::HaltRollback { until } => self.note(plan, book, Event::RollbackHalted { until }).await?,
            // The loop keeps these to itself.
            Decision::WaitUntil { .. } | Decision::WaitForPerson { .. } | Decision::Close(_) | Decision::Refuse => {}
        }
        Ok(None)
    }

    async fn note(&self, plan: &Plan, book: &mut Book, event: Event) -> Result<(), EngineError> {
        book.record(event.clone()).await?;
        (self.tell)(plan, &book.run, Tell::Record(&event));
        Ok(())
    }

    async fn observe(&self, plan: &Plan, book: &mut Book, step: StepNo, now: Timestamp) -> Result<Event, EngineError> {
        let direction = book.run.direction;
        let seen = self.with_context(plan, book, step, Call::Observe).await?;
        Ok(match (seen, direction) {
            (Ok(Answer::Seen(Observed::Complete)), Direction::Forward) => Event::StepDone { step },
            (Ok(Answer::Seen(Observed::Absent)), Direction::Backward) => Event::StepReverted { step },
            // Without a note: it waits for nothing, and is called again at once.
            (Ok(_), _) => Event::StepParked { step, until: now, note: String::new() },
            (Err(error), _) => unsure(&book.run, step, &error, now),
        })
    }

    async fn act(&self, plan: &Plan, book: &mut Book, step: StepNo) -> Result<Option<Timestamp>, EngineError> {
        let (direction, attempt) = (book.run.direction, book.run.attempt(step));
        let call = if direction == Direction::Forward { Call::Advance } else { Call::Revert };
        let result = self.with_context(plan, book, step, call).await?;
        let now = book.clock.now();
        let event = match result {
            Ok(Answer::Moved(Progress::Done)) if direction == Direction::Forward => Event::StepDone { step },
            Ok(Answer::Moved(Progress::Done)) => Event::StepReverted { step },
            Ok(Answer::Moved(Progress::Pending { poll_after, note })) => {
                return self.park(plan, book, step, poll_after, note).await;
            }
            Ok(Answer::Moved(Progress::NotYet { poll_after, note })) if direction == Direction::Backward => {
                return self.park(plan, book, step, poll_after, note).await;
            }
            Ok(Answer::Moved(Progress::NotYet { poll_after, note })) => {
                Event::StepWaiting { step, until: later(now, poll_after), note }
            }
            Ok(Answer::Seen(_)) => return Ok(None),
            Err(error) if error.failure == Failure::Uncertain => unsure(&book.run, step, &error, now),
            Err(error) => {
                let again = error.failure == Failure::Transient && attempt < plan.steps[step.0].attempts_max;
                let retry_at = again.then(|| later(now, backoff(plan.steps[step.0].backoff_ms, attempt)));
                Event::StepFailed { step, failure: error.failure, error: error.chain(), hint: error.hint, retry_at }
            }
        };
        self.note(plan, book, event).await?;
        Ok(None)
    }

    /// Records a wait once, and again only when what is waited for has changed.
    async fn park(
        &self,
        plan: &Plan,
        book: &mut Book,
        step: StepNo,
        poll_after: Duration,
        note: String,
    ) -> Result<Option<Timestamp>, EngineError> {
        let until = later(book.clock.now(), poll_after);
        let parked = matches!(book.run.steps[step.0], run::StepState::Parked { .. });
        if !parked || book.run.note.as_deref() != Some(note.as_str()) {
            self.note(plan, book, Event::StepParked { step, until, note }).await?;
        }
        Ok(Some(until))
    }

    /// The one place that awaits a step.
    async fn with_context(
        &self,
        plan: &Plan,
        book: &mut Book,
        step: StepNo,
        call: Call,
    ) -> Result<Result<Answer, PortError>, EngineError> {
        book.step = step;
        let (journal, id) = (self.journal.clone(), self.run.clone());
        let shown = book.run.clone();
        let progress = |text: &str| {
            (self.tell)(plan, &shown, Tell::Progress(text));
            let _ = (&journal, &id);
        };
        let behaviour = step::named(plan.steps[step.0].name);
        let known = book.run.facts.len();
        let mut cx = StepContext { plan, ports: &self.ports, records: book as &mut dyn Records, progress: &progress };
        let result = match call {
            Call::Observe => match step::end_older_sessions(&cx, step).await {
                Ok(()) => behaviour.observe(&mut cx).await.map(Answer::Seen),
                Err(error) => Err(error),
            },
            Call::Advance => behaviour.advance(&mut cx).await.map(Answer::Moved),
            Call::Revert => behaviour.revert(&mut cx).await.map(Answer::Moved),
        };
        for fact in &book.run.facts[known..] {
            (self.tell)(plan, &book.run, Tell::Record(&Event::FactLearned { step, fact: fact.clone() }));
        }
        match book.lost.take() {
            // Not even the outcome may be recorded: somebody else may be driving already.
            Some(lost) => Err(lost.into()),
            None => Ok(result),
        }
    }

    /// Turns what people asked for into events. True when something changed.
    async fn answer_requests(&self, plan: &Plan, book: &mut Book) -> Result<bool, EngineError> {
        let mut changed = false;
        for request in self.journal.open_requests(&self.run).await? {
            let answer = match run::answer(plan, &book.run, &request) {
                Ok(event) => {
                    self.note(plan, book, event).await?;
                    changed = true;
                    "done".to_owned()
                }
                Err(why_not) => format!("refused: {why_not}"),
            };
            self.journal.answer_request(&self.run, request.id, &answer).await?;
        }
        Ok(changed)
    }

    async fn wait(&self, plan: &Plan, book: &mut Book, at_most: Duration, watched: &mut Duration) -> Result<(), EngineError> {
        let now = book.clock.monotonic();
        if now.saturating_sub(*watched) >= WATCH_EVERY && book.run.direction == Direction::Forward {
            *watched = now;
            self.watch(plan, book).await?;
        }
        book.clock.sleep(at_most.clamp(Duration::from_millis(1), LISTEN_EVERY.min(LEASE_TTL / 3))).await;
        Ok(())
    }

    async fn watch(&self, plan: &Plan, book: &mut Book) -> Result<(), EngineError> {
        let quiet = |_: &str| {};
        let cx = StepContext { plan, ports: &self.ports, records: book as &mut dyn Records, progress: &quiet };
        match step::look(&cx).await {
            Ok(Sight::Fine) => {}
            Ok(Sight::GiveUp { reason }) => {
                let event = Event::RollbackBegun { until: StepNo(0), by: "greenlight".to_owned(), reason, without_green: false };
                self.note(plan, book, event).await?;
            }
            // Not knowing changes nothing by itself: whatever comes next looks again, and unknown keeps the window shut.
            Err(error) => tracing::warn!(error = %error.chain(), "the watch could not look"),
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Call {
    Observe,
    Advance,
    Revert,
}

enum Answer {
    Seen(Observed),
    Moved(Progress),
}

fn is_gated(run: &Run, step: StepNo) -> bool {
    matches!(run.steps[step.0], run::StepState::Gated { .. })
}

/// Looked at again soon at first, and ever more seldom while the answer stays away.
fn unsure(run: &Run, step: StepNo, error: &PortError, now: Timestamp) -> Event {
    let again = matches!(run.steps[step.0], run::StepState::Unsure { look_at: Some(_), .. });
    let look_at = if again { later(now, Duration::from_secs(5)) } else { now };
    Event::StepUnsure { step, error: error.chain(), look_at }
}

fn backoff(base_ms: u64, attempt: u32) -> Duration {
    Duration::from_millis(base_ms.saturating_mul(1 << attempt.saturating_sub(1).min(10))).min(BACKOFF_MAX)
}

fn later(now: Timestamp, after: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(after).ok().and_then(|after| now.checked_add(after).ok()).unwrap_or(Timestamp::MAX)
}

fn until_or(now: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

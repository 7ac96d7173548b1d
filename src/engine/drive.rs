use super::safe::{self, Known, in_words};
use super::{EngineError, LEASE_TTL, heartbeat::Heartbeat, records::Book};
use crate::journal::{Journal, JournalError, Lease};
use crate::plan::Plan;
use crate::run::{self, Decision, Direction, Event, Outcome, Run, StepNo};
use crate::step::{self, Observed, Ports, Progress, Records, Sight, StepContext};
use crate::word::{Failure, PortError, RunId, Side, Timestamp};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often the watch looks while the run waits.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// How often a step is looked at, or tried, whose calls come to nothing that is known.
const OUTAGE_POLL: Duration = Duration::from_secs(5);
/// The same while clients may be waiting in an open window.
const OUTAGE_POLL_IN_WINDOW: Duration = Duration::from_millis(100);
/// The longest sleep between two looks at the requests of people.
const LISTEN_EVERY: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// What has not changed for so long is not waited for by a caller who does not want to wait.
pub const STANDS_STILL: Duration = Duration::from_secs(10);
/// The longest between two tries of a step that cannot begin yet.
const TRY_EVERY_MAX: Duration = Duration::from_secs(15);

/// Why such a window was closed.
const WITHOUT_JOURNAL: &str = "the window was left open, and the journal could not be written";

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
    /// The plan is no longer the provisional one for which the ports were made: the caller makes them anew, and drives on.
    Replanned,
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
    /// What the caller waits for.
    pub patience: Patience,
    /// Told of each record and of progress, for the screen.
    pub tell: Listener,
}

/// How long the engine stays where the run waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until the run is over.
    Stays,
    /// Until only a person moves the run on. What comes by itself is waited for.
    UntilPerson,
    /// The same until this side serves, and from then on as `UntilWait`.
    UntilServes(Side),
    /// Comes back instead of waiting for a person, for hours, for the soak's end, or for anything that stands still.
    UntilWait,
}

/// Who is told.
pub type Listener = Arc<dyn Fn(&Plan, &Run, Tell<'_>) + Send + Sync>;

/// What the engine tells its caller while it works.
#[derive(Clone, Copy, Debug)]
pub enum Tell<'a> {
    Record(&'a Event),
    Progress(&'a str),
    /// What a person must know at once, and no record says: the journal cannot be written.
    Alarm(&'a str),
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
    /// When the journal cannot be kept: the run stands where its last record says, and can be driven on later. Where that is an
    /// open window, clients are given back first, and the journal is waited for.
    pub async fn drive(&self) -> Result<Stop, EngineError> {
        // When clients went on, by what was done without the journal.
        let mut back: Option<Timestamp> = None;
        for round in 0_u32.. {
            let error = match self.drive_with_journal(back).await {
                Err(error) if self.may_wait_for_journal(&error).await => error,
                end => return end,
            };
            let Some(known) = self.window_left_open().await else { return Err(self.or_held(error).await) };
            if back.is_some() {
                if self.interrupted.load(Ordering::SeqCst) {
                    return Err(error);
                }
            } else {
                back = self.give_back(known, &error).await;
            }
            self.ports.clock.sleep(safe::TRY_EVERY[usize::from(back.is_some() || round > safe::LONG)]).await;
        }
        Ok(Stop::Interrupted)
    }

    /// Whether the journal may be written again by and by, and nobody else has the window in hand: a guard that stands by acts as
    /// soon as this process ends.
    async fn may_wait_for_journal(&self, error: &EngineError) -> bool {
        let waits = matches!(error, EngineError::Journal(JournalError::NotWritten { .. } | JournalError::Unreachable { .. }));
        waits && !self.ports.guard.is_standing().await
    }

    /// Whoever keeps the journal locked is most likely the one who has the run.
    async fn or_held(&self, error: EngineError) -> EngineError {
        if !matches!(&error, EngineError::Journal(journal) if journal.is_locked()) {
            return error;
        }
        let ours = self.epoch.load(Ordering::SeqCst);
        match self.journal.lease(&self.run).await {
            Ok(Some(Lease { holder, free: false, epoch, .. })) if epoch != ours => JournalError::Held { holder }.into(),
            _ => error,
        }
    }

    /// A window in which clients wait for all that the journal tells, and which nobody has in hand who lives.
    async fn window_left_open(&self) -> Option<Known> {
        let known = safe::read(self.journal.as_ref(), &self.run).await.ok()?;
        let ours = self.epoch.load(Ordering::SeqCst);
        let is_free = known.lease.as_ref().is_none_or(|lease| lease.free || lease.epoch == ours);
        (is_free && !known.run.unreadable && known.run.clients_paused_since().is_some()).then_some(known)
    }

    /// Without the journal. When clients went on, if they did.
    async fn give_back(&self, known: Known, error: &EngineError) -> Option<Timestamp> {
        let (plan, run) = (known.plan.clone(), known.run.clone());
        let tell = |text: &str| (self.tell)(&plan, &run, Tell::Alarm(text));
        tell(&format!("CLIENTS ARE PAUSED; {}; they are given back without it", in_words(error)));
        match safe::give_back(&self.ports, &self.epoch, known, WITHOUT_JOURNAL).await {
            Ok(()) => {
                tell("clients go on; the run goes on as soon as the journal can be written");
                Some(self.ports.clock.now())
            }
            Err(error) => {
                tell(&format!("not everything is as it must be yet, trying again: {}", error.chain()));
                None
            }
        }
    }

    async fn drive_with_journal(&self, back: Option<Timestamp>) -> Result<Stop, EngineError> {
        let clock = self.ports.clock.clone();
        let left_open = self.window_left_open().await;
        // Clients wait with it. What was taken here and not recorded is taken once more.
        self.journal.hurry(left_open.is_some() && back.is_none()).await;
        let ours = self.epoch.load(Ordering::SeqCst);
        let force = left_open.and_then(|known| known.lease).is_some_and(|lease| !lease.free && lease.epoch == ours);
        let (mut book, plan) = Book::open(self.journal.clone(), clock, &self.run, &self.holder, &self.epoch, force).await?;
        safe::record_that_clients_go_on(&mut book, &plan, back).await?;
        if book.run.open_window().is_none() {
            // Of a coordinator that was killed.
            self.journal.set_progress(&self.run, "").await?;
        }
        let stop = self.turn_until_stop(&plan, &mut book).await;
        book.let_go().await;
        let stop = stop?;
        self.journal.release_lease(&self.run, book.epoch).await?;
        Ok(stop)
    }

    async fn turn_until_stop(&self, plan: &Plan, book: &mut Book) -> Result<Stop, EngineError> {
        let (mut pace, mut watched) = (Pace::default(), Duration::ZERO);
        loop {
            book.keep_lease().await?;
            if self.interrupted.load(Ordering::SeqCst) {
                return Ok(Stop::Interrupted);
            }
            if self.ports.provisional && book.run.is_judged() {
                return Ok(Stop::Replanned);
            }
            if self.answer_requests(plan, book).await? {
                pace = Pace::default();
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
                Decision::WaitForPerson { step } if self.patience != Patience::Stays => return Ok(Stop::WaitsForPerson { step }),
                Decision::WaitForPerson { .. } => self.wait(plan, book, LISTEN_EVERY, &mut watched).await?,
                Decision::WaitUntil { step, until } if self.comes_back(book, step, until_or(now, until)) => {
                    return Ok(Stop::Waits { step });
                }
                Decision::WaitUntil { until, .. } => self.wait(plan, book, until_or(now, until), &mut watched).await?,
                Decision::Act { step, poll: true, .. } | Decision::Observe { step } if pace.poll_at > Some(now) => {
                    let soaks = plan.steps[step.0].name == crate::plan::StepName::Soak && !book.run.finish_ordered;
                    if (self.comes_at_waits(&book.run) && soaks) || self.comes_back(book, step, Duration::ZERO) {
                        return Ok(Stop::Waits { step });
                    }
                    self.wait(plan, book, until_or(now, pace.poll_at.unwrap_or(now)), &mut watched).await?;
                }
                decision => self.carry_out(plan, book, decision, now, &mut pace).await?,
            }
        }
    }

    /// The decisions that change something.
    async fn carry_out(
        &self,
        plan: &Plan,
        book: &mut Book,
        decision: Decision,
        now: Timestamp,
        pace: &mut Pace,
    ) -> Result<(), EngineError> {
        pace.poll_at = None;
        match decision {
            Decision::Observe { step } => return self.observe(plan, book, step, now, pace).await,
            Decision::Act { step, attempt, poll } => {
                if !poll {
                    let direction = book.run.direction;
                    self.note(plan, book, Event::StepStarted { step, attempt, direction }).await?;
                } else if pace.unsure == Some(step) {
                    // Its last call was lost, without another record. It is looked at before it is repeated all the same.
                    self.observe(plan, book, step, now, pace).await?;
                    if pace.poll_at.is_some() || !is_parked(&book.run, step) {
                        return Ok(());
                    }
                }
                return self.act(plan, book, step, pace).await;
            }
            Decision::ReachGate { step, waits_for } => self.note(plan, book, Event::GateReached { step, waits_for }).await?,
            Decision::BeginRollback { stuck, by_restore } => {
                let reason = format!(
                    "step {stuck}, {}, failed: {}",
                    plan.steps[stuck.0].name,
                    book.run.reason.clone().unwrap_or_default()
                );
                self.note(plan, book, taken_back(reason, by_restore)).await?;
            }
            Decision::HaltRollback { until } => self.note(plan, book, Event::RollbackHalted { until }).await?,
            // The loop keeps these to itself.
            Decision::WaitUntil { .. } | Decision::WaitForPerson { .. } | Decision::Close(_) | Decision::Refuse => {}
        }
        Ok(())
    }

    async fn note(&self, plan: &Plan, book: &mut Book, event: Event) -> Result<(), EngineError> {
        book.record(event.clone()).await?;
        (self.tell)(plan, &book.run, Tell::Record(&event));
        Ok(())
    }

    async fn observe(
        &self,
        plan: &Plan,
        book: &mut Book,
        step: StepNo,
        now: Timestamp,
        pace: &mut Pace,
    ) -> Result<(), EngineError> {
        let direction = book.run.direction;
        let seen = self.with_context(plan, book, step, Call::Observe).await?;
        let event = match (seen, direction) {
            (Ok(Answer::Seen(Observed::Complete)), Direction::Forward) => Event::StepDone { step },
            (Ok(Answer::Seen(Observed::Absent)), Direction::Backward) => Event::StepReverted { step },
            (Ok(_), _) if is_parked(&book.run, step) => return Ok(()),
            (Ok(_), _) => Event::StepParked { step, until: now, note: "the rest of a step that was interrupted".to_owned() },
            (Err(error), _) => return self.unsure(plan, book, step, &error, pace).await,
        };
        self.note(plan, book, event).await
    }

    /// What a lost call came to is not known. On record once in an outage, however long that lasts: the record says that
    /// the step is to be looked at, and is as true after the tenth try.
    async fn unsure(
        &self,
        plan: &Plan,
        book: &mut Book,
        step: StepNo,
        error: &PortError,
        pace: &mut Pace,
    ) -> Result<(), EngineError> {
        let look_at = book.clock.now();
        let on_record = match book.run.steps[step.0] {
            run::StepState::Unsure { look_at, .. } => look_at.is_some(),
            // To whoever takes the run over, a parked step is as unsure as one that says so.
            run::StepState::Parked { .. } => pace.unsure == Some(step),
            _ => false,
        };
        pace.unsure = Some(step);
        if !on_record {
            // Looked at at once for the first time.
            return self
                .note(plan, book, Event::StepUnsure { step, error: error.chain(), hint: error.hint.clone(), look_at })
                .await;
        }
        let in_window = book.run.open_window().is_some();
        pace.poll_at = Some(later(look_at, if in_window { OUTAGE_POLL_IN_WINDOW } else { OUTAGE_POLL }));
        (self.tell)(plan, &book.run, Tell::Progress(&format!("trying again: {}", error.chain())));
        Ok(())
    }

    async fn act(&self, plan: &Plan, book: &mut Book, step: StepNo, pace: &mut Pace) -> Result<(), EngineError> {
        let (direction, attempt) = (book.run.direction, book.run.attempt(step));
        let call = if direction == Direction::Forward { Call::Advance } else { Call::Revert };
        let result = self.with_context(plan, book, step, call).await?;
        let now = book.clock.now();
        if let Err(error) = &result
            && error.failure == Failure::Uncertain
        {
            return self.unsure(plan, book, step, error, pace).await;
        }
        pace.unsure = None;
        let event = match result {
            Ok(Answer::Moved(Progress::Done)) if direction == Direction::Forward => Event::StepDone { step },
            Ok(Answer::Moved(Progress::Done)) => Event::StepReverted { step },
            Ok(Answer::Moved(Progress::Pending { poll_after, note })) => {
                return self.park(plan, book, step, poll_after, note, pace).await;
            }
            Ok(Answer::Moved(Progress::NotYet { poll_after, note })) if direction == Direction::Backward => {
                return self.park(plan, book, step, poll_after, note, pace).await;
            }
            Ok(Answer::Moved(Progress::NotYet { poll_after, note })) => {
                // Each try is on record, so the longer the same thing is waited for, the less often it is tried.
                let again = book.waited_for(&note);
                let longer = if again { (book.stood() / 2).min(TRY_EVERY_MAX) } else { Duration::ZERO };
                Event::StepWaiting { step, until: later(now, poll_after.max(longer)), note }
            }
            Ok(Answer::Seen(_)) => return Ok(()),
            Err(error) => {
                let again = error.failure == Failure::Transient && attempt < plan.steps[step.0].attempts_max;
                let retry_at = again.then(|| later(now, backoff(plan.steps[step.0].backoff_ms, attempt)));
                Event::StepFailed { step, failure: error.failure, error: error.chain(), hint: error.hint, retry_at }
            }
        };
        self.note(plan, book, event).await
    }

    /// Records a wait once, and again only when what is waited for has changed.
    async fn park(
        &self,
        plan: &Plan,
        book: &mut Book,
        step: StepNo,
        poll_after: Duration,
        note: String,
        pace: &mut Pace,
    ) -> Result<(), EngineError> {
        let until = later(book.clock.now(), poll_after);
        if !is_parked(&book.run, step) || book.run.note.as_deref() != Some(note.as_str()) {
            self.note(plan, book, Event::StepParked { step, until, note }).await?;
        }
        pace.poll_at = Some(until);
        Ok(())
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
        let (shown, said) = (book.run.clone(), Mutex::new(None));
        let progress = |text: &str| {
            (self.tell)(plan, &shown, Tell::Progress(text));
            *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
        };
        let behaviour = step::named(plan.steps[step.0].name);
        let known = book.run.facts.len();
        let heartbeat = Heartbeat::new(book, &said);
        let interrupted = self.interrupted.clone();
        let mut cx =
            StepContext { plan, ports: &self.ports, records: book as &mut dyn Records, interrupted, progress: &progress };
        let answering = async {
            match call {
                Call::Observe => match step::end_older_sessions(&cx, step).await {
                    Ok(()) => behaviour.observe(&mut cx).await.map(Answer::Seen),
                    Err(error) => Err(error),
                },
                Call::Advance => match step::clocks::keep_shut(&cx, step).await {
                    Some(note) => Ok(Answer::Moved(Progress::NotYet { poll_after: OUTAGE_POLL, note })),
                    None => behaviour.advance(&mut cx).await.map(Answer::Moved),
                },
                Call::Revert => behaviour.revert(&mut cx).await.map(Answer::Moved),
            }
        };
        let (result, renewed) = heartbeat.beside(answering).await?;
        book.renewed = renewed;
        if book.run.open_window().is_none() {
            // Of a window that was not opened after all.
            book.let_go().await;
        }
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

    /// Whether the caller, who does not want to wait, is not made to: this takes long, or nothing has moved for a while.
    fn comes_back(&self, book: &Book, step: StepNo, wait: Duration) -> bool {
        use run::StepState as S;
        let waits = matches!(book.run.steps[step.0], S::Gated { .. } | S::Parked { .. } | S::Unsure { .. });
        self.comes_at_waits(&book.run) && waits && wait.max(book.stood()) > STANDS_STILL
    }

    fn comes_at_waits(&self, run: &Run) -> bool {
        match self.patience {
            Patience::Stays | Patience::UntilPerson => false,
            Patience::UntilServes(side) => run.serving() == side && run.open_window().is_none(),
            Patience::UntilWait => true,
        }
    }

    async fn wait(&self, plan: &Plan, book: &mut Book, at_most: Duration, watched: &mut Duration) -> Result<(), EngineError> {
        let now = book.clock.monotonic();
        if now.saturating_sub(*watched) >= WATCH_EVERY {
            *watched = now;
            self.watch(plan, book).await?;
        }
        book.clock.sleep(at_most.clamp(Duration::from_millis(1), LISTEN_EVERY.min(LEASE_TTL / 3))).await;
        Ok(())
    }

    /// A server is lost: what is under way has failed. A step that nobody has let through its gate stays there, with a word.
    async fn hold(&self, plan: &Plan, book: &mut Book, lost: step::Lost) -> Result<(), EngineError> {
        let Some(step) = book.run.present_step() else { return Ok(()) };
        if matches!(book.run.steps[step.0], run::StepState::Stuck { .. }) {
            return Ok(());
        }
        if is_before_its_gate(&book.run, step) {
            let what = format!("{}; {}", lost.why, lost.hint);
            if book.run.noticed.as_ref() != Some(&what) {
                self.note(plan, book, Event::Noticed { what }).await?;
            }
            return Ok(());
        }
        let error = format!("go on with the run: {}", lost.why);
        let event = Event::StepFailed { step, failure: Failure::Refused, error, hint: Some(lost.hint), retry_at: None };
        self.note(plan, book, event).await
    }

    async fn watch(&self, plan: &Plan, book: &mut Book) -> Result<(), EngineError> {
        let quiet = |_: &str| {};
        let said = Mutex::new(None);
        let heartbeat = Heartbeat::new(book, &said);
        let interrupted = self.interrupted.clone();
        let cx = StepContext { plan, ports: &self.ports, records: book as &mut dyn Records, interrupted, progress: &quiet };
        // A server or a pooler that hangs must not cost the lease.
        let (sight, renewed) = heartbeat.beside(step::look(&cx)).await?;
        book.renewed = renewed;
        match sight {
            Ok(Sight::Fine) => {}
            Ok(Sight::GiveUp { reason }) => {
                self.note(plan, book, taken_back(reason, false)).await?;
                // Going back takes its time, and needs green for much of it; blue's disk does not wait.
                return Box::pin(self.watch(plan, book)).await;
            }
            Ok(Sight::Lost(lost)) => return self.hold(plan, book, lost).await,
            // Not knowing changes nothing by itself: whatever comes next looks again, and unknown keeps the window shut.
            Err(error) => tracing::warn!(error = %error.chain(), "the watch could not look"),
        }
        Ok(())
    }
}

/// Whether a step that is failed here would be let through its gate by another try.
fn is_before_its_gate(run: &Run, step: StepNo) -> bool {
    matches!(run.steps[step.0], run::StepState::Idle | run::StepState::Gated { approved: false, .. })
}

/// What the loop keeps between two decisions. Not on record, since nothing is lost with it.
#[derive(Default)]
struct Pace {
    /// When the present step is to be polled or looked at next.
    poll_at: Option<Timestamp>,
    /// The last call of this step was lost, and that is on record.
    unsure: Option<StepNo>,
}

/// All of the run, by itself.
fn taken_back(reason: String, by_restore: bool) -> Event {
    Event::RollbackBegun { until: StepNo(0), by: "greenlight".to_owned(), reason, without_green: false, by_restore }
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

fn is_parked(run: &Run, step: StepNo) -> bool {
    matches!(run.steps[step.0], run::StepState::Parked { .. })
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

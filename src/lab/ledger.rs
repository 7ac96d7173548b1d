//! Applications that write through the routes and remember what the servers acknowledged: the measure of whether a cutover
//! lost anything, and of how long anybody waited.

use super::session;
use super::workload::{self, Sizes};
use crate::word::{Clock, Endpoint, PortError, SystemClock, Timestamp};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How long a client waits after a failure before it tries again.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How long a client waits for an answer before it gives up and connects anew.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct LedgerOptions {
    pub clients: u32,
    /// Requests in a second, of all clients together. A client that had to wait does not catch up.
    pub rate: f64,
}

/// What a client knows of a request that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed, and the client was told.
    Acknowledged,
    /// The client saw an error, and nothing was committed.
    Failed,
    /// The connection was lost after the commit was sent: it may be committed or not.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub client: i32,
    pub seq: i64,
    pub started: Timestamp,
    pub latency: Duration,
    pub outcome: Outcome,
}

/// What the clients saw, in the order of the requests' ends.
#[derive(Clone, Debug, Default)]
pub struct LedgerReport {
    pub requests: Vec<Request>,
    /// Error texts that clients saw, and how often.
    pub errors: BTreeMap<String, u64>,
}

/// Clients at work.
pub struct Ledger {
    report: Arc<Mutex<LedgerReport>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    clock: Arc<dyn Clock>,
}

impl Ledger {
    /// Starts the clients, spread over the routes. Their numbers are random, so that several ledgers can write to one world.
    pub fn start(routes: &[Endpoint], options: LedgerOptions) -> Ledger {
        let (stop, stopped) = watch::channel(false);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let report = Arc::<Mutex<LedgerReport>>::default();
        let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
        let first = i32::from(u16::from_be_bytes([a, b])) * 1000;
        let mut clients = JoinSet::new();
        for (number, route) in (0..options.clients).zip(routes.iter().cycle()) {
            let writer = Writer {
                number: first + i32::try_from(number).unwrap_or(0),
                turn: number,
                turns: options.clients,
                route: route.clone(),
                session: None,
                seq: 0,
                report: report.clone(),
                clock: clock.clone(),
            };
            let period = Duration::from_secs_f64(f64::from(options.clients) / options.rate);
            clients.spawn(writer.work(period, stopped.clone()));
        }
        Ledger { report, stop, clients, clock }
    }

    /// What was seen so far. A request under way is not in it.
    pub fn report(&self) -> LedgerReport {
        lock(&self.report).clone()
    }

    /// How many requests were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.report).count(Outcome::Acknowledged)
    }

    /// Returns when so many more requests were acknowledged.
    ///
    /// # Errors
    /// `Transient` when that did not happen within `limit`; the errors that clients saw are in the cause.
    pub async fn wait_for(&self, more: usize, limit: Duration) -> Result<(), PortError> {
        let until = self.clock.monotonic() + limit;
        let wanted = self.acknowledged() + more;
        while self.acknowledged() < wanted {
            if self.clock.monotonic() > until {
                let seen = format!("clients saw {:?}", lock(&self.report).errors);
                return Err(PortError::transient(format!("see {more} more requests acknowledged")).because(seen));
            }
            self.clock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Lets each client finish its request, and ends.
    pub async fn stop(mut self) -> LedgerReport {
        // Without a receiver every client has ended already.
        let _ = self.stop.send(true);
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut lock(&self.report))
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

impl LedgerReport {
    pub fn count(&self, outcome: Outcome) -> usize {
        self.requests.iter().filter(|request| request.outcome == outcome).count()
    }

    /// The longest that a client waited for an answer, whatever the answer was; zero without requests.
    pub fn longest_wait(&self) -> Duration {
        self.requests.iter().map(|request| request.latency).max().unwrap_or_default()
    }

    /// The same among the requests that were under way at some time between `from` and `to`.
    pub fn longest_wait_between(&self, from: Timestamp, to: Timestamp) -> Duration {
        let during = |request: &&Request| {
            let ended = jiff::SignedDuration::try_from(request.latency).map_or(Timestamp::MAX, |took| request.started + took);
            request.started <= to && ended >= from
        };
        self.requests.iter().filter(during).map(|request| request.latency).max().unwrap_or_default()
    }

    /// The latency that this share of the acknowledged requests (0 to 1) stayed within; zero without requests.
    pub fn latency_at(&self, share: f64) -> Duration {
        let acknowledged = self.requests.iter().filter(|request| request.outcome == Outcome::Acknowledged);
        let mut latencies: Vec<Duration> = acknowledged.map(|request| request.latency).collect();
        latencies.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index: not negative, and no ledger is long enough to lose digits"
        )]
        let index = (latencies.len().saturating_sub(1) as f64 * share) as usize;
        latencies.get(index).copied().unwrap_or_default()
    }

    /// The acknowledged requests, by client and number, that the server does not have: lost writes.
    ///
    /// # Errors
    /// The server could not be asked.
    pub async fn lost(&self, on: &Endpoint) -> Result<Vec<(i32, i64)>, PortError> {
        let rows = session::ask(on, "SELECT client, seq FROM ledger").await?;
        let there: HashSet<(i32, i64)> =
            rows.iter().filter_map(|row| Some((row.first()?.parse().ok()?, row.get(1)?.parse().ok()?))).collect();
        let acknowledged = self.requests.iter().filter(|request| request.outcome == Outcome::Acknowledged);
        Ok(acknowledged.map(|request| (request.client, request.seq)).filter(|row| !there.contains(row)).collect())
    }
}

/// One client.
struct Writer {
    number: i32,
    turn: u32,
    turns: u32,
    route: Endpoint,
    session: Option<(Client, Sizes)>,
    seq: i64,
    report: Arc<Mutex<LedgerReport>>,
    clock: Arc<dyn Clock>,
}

impl Writer {
    async fn work(mut self, period: Duration, mut stopped: watch::Receiver<bool>) {
        // The clients begin one after the other, so that they do not come in step.
        let offset = period.mul_f64(f64::from(self.turn) / f64::from(self.turns));
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Closed: the ledger was dropped.
                _ = stopped.wait_for(|stopped| *stopped) => return,
                _ = ticks.tick() => (),
            }
            self.seq += 1;
            let (started, began) = (self.clock.now(), self.clock.monotonic());
            let (outcome, error) = self.request().await;
            let latency = self.clock.monotonic().saturating_sub(began);
            {
                let mut report = lock(&self.report);
                report.requests.push(Request { client: self.number, seq: self.seq, started, latency, outcome });
                if let Some(error) = error {
                    *report.errors.entry(error).or_default() += 1;
                }
            }
            if outcome != Outcome::Acknowledged {
                self.clock.sleep(AFTER_FAILURE).await;
            }
        }
    }

    /// One request, and the error that the client saw if it saw one.
    async fn request(&mut self) -> (Outcome, Option<String>) {
        #[expect(clippy::disallowed_methods, reason = "the patience of a client is what is played here")]
        let answered = tokio::time::timeout(PATIENCE, self.answered()).await;
        let outcome = answered.unwrap_or_else(|_| Err((Outcome::Unknown, "no answer within 30 s".to_owned())));
        match outcome {
            Ok(()) => (Outcome::Acknowledged, None),
            Err((outcome, error)) => {
                // Whatever state the session is in, a new one is in a good one.
                self.session = None;
                (outcome, Some(error))
            }
        }
    }

    async fn answered(&mut self) -> Result<(), (Outcome, String)> {
        if self.session.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            let failed = |error: &dyn fmt::Display| (Outcome::Failed, error.to_string());
            let client = session::connect(&self.route).await.map_err(|e| failed(&told(&e)))?;
            let sizes = read_sizes(&client).await.map_err(|e| failed(&told(&e)))?;
            self.session = Some((client, sizes));
        }
        let Some((client, sizes)) = &self.session else { return Err((Outcome::Failed, "no session".to_owned())) };
        let (turn, turns) = (i64::from(self.turn), i64::from(self.turns));
        send(client, &workload::Request { client: self.number, seq: self.seq, turn, turns, sizes: *sizes }).await
    }
}

/// Without prepared statements, which not every PgBouncer can carry from one server connection to another.
async fn send(client: &Client, request: &workload::Request) -> Result<(), (Outcome, String)> {
    let statements = request.statements();
    if request.is_step_by_step() {
        client.batch_execute("BEGIN").await.map_err(|e| (Outcome::Failed, told(&e)))?;
        for statement in &statements {
            // Nothing is committed yet: when the session ends here the server takes it back.
            client.batch_execute(statement).await.map_err(|e| (Outcome::Failed, told(&e)))?;
        }
        return client.batch_execute("COMMIT").await.map_err(|e| (after_commit(&e), told(&e)));
    }
    // One message of several statements is one transaction.
    client.batch_execute(&statements.join("; ")).await.map_err(|e| (after_commit(&e), told(&e)))
}

/// What an error means that came after the server was told to commit. A session that is being ended may have committed.
fn after_commit(error: &tokio_postgres::Error) -> Outcome {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some(code) if !code.starts_with("08") && !code.starts_with("57P") => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

async fn read_sizes(client: &Client) -> Result<Sizes, tokio_postgres::Error> {
    let messages = client.simple_query(Sizes::SQL).await?;
    let numbers = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some([0, 1, 2].map(|n| row.get(n).and_then(|text| text.parse().ok()).unwrap_or(1))),
        _ => None,
    });
    let [customers, products, orders] = numbers.unwrap_or([1; 3]);
    Ok(Sizes { customers, products, orders })
}

/// An error and its causes on one line.
fn told(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn lock(report: &Mutex<LedgerReport>) -> MutexGuard<'_, LedgerReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

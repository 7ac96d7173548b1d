//! Runs migrations on one database and keeps its history: both or neither, and never twice.
//!
//! **Invariant:** a row in the history table stands for a migration that took effect whole. A migration that has its row
//! is not run again, whoever asks.

use super::batches::{self, Left, Range, Target, Unfinished};
use super::session::{Around, Session, failure, is_locked, line_of, said};
use super::statements::{self, Batch, Statement, StatementKind};
use super::{Applied, Migration, Migrator, Progress, files::checksum, history};
use crate::plan::HistorySpec;
use crate::postgres::trust;
use crate::word::{Clock, Endpoint, Failure, PortError, RunId, Secret, Side, quote_ident};
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_postgres::{Client, Error};

/// The real `Migrator`.
pub struct PgMigrator {
    endpoint: Endpoint,
    history: HistorySpec,
    run: RunId,
    epoch: Arc<AtomicU64>,
    on: Side,
    /// Lets its sessions through green's fence.
    pass: Option<Secret>,
    clock: Arc<dyn Clock>,
}

impl PgMigrator {
    /// Migrates green, under the lease's epoch, so that its sessions end with it. Connects at each call only.
    pub fn new(endpoint: Endpoint, run: RunId, epoch: Arc<AtomicU64>, history: HistorySpec, clock: Arc<dyn Clock>) -> PgMigrator {
        PgMigrator { endpoint, run, epoch, history, on: Side::Green, pass: None, clock }
    }

    /// The same for this side's server, which serves where it is blue's.
    #[must_use]
    pub fn on(self, side: Side) -> PgMigrator {
        PgMigrator { on: side, ..self }
    }

    /// Through the fence of the run whose secret this is.
    #[must_use]
    pub fn passing(self, pass: Secret) -> PgMigrator {
        PgMigrator { pass: Some(pass), ..self }
    }

    async fn session(&self) -> Result<Session, PortError> {
        let application_name = format!("greenlight/{}/{}", self.run, self.epoch.load(Ordering::SeqCst));
        match (self.on, &self.pass) {
            (Side::Blue, _) => Session::open_where_it_serves(&self.endpoint, &application_name).await,
            (Side::Green, Some(pass)) => Session::open_behind_the_fence(&self.endpoint, &application_name, pass).await,
            (Side::Green, None) => Session::open(&self.endpoint, &application_name, "green").await,
        }
    }

    async fn go(&self, migration: &Migration, way: Way, progress: Progress<'_>) -> Result<u64, PortError> {
        let session = self.session().await?;
        self.lock(&session.client).await?;
        let done = self.locked(&session.client, migration, way, progress).await;
        // The lock goes with the session; given back by hand, the next migration need not wait for the server to notice.
        let _ = session.client.execute("SELECT pg_catalog.pg_advisory_unlock_all()", &[]).await;
        done
    }

    /// Waits for the lock as long as for any other.
    async fn lock(&self, client: &Client) -> Result<(), PortError> {
        let attempted = || format!("get the lock that keeps a second migration away from {}", self.on);
        let settings = format!("SET lock_timeout = {}", self.history.lock_timeout_ms);
        let error = |error: Error| PortError::new(failure(&error, Around::Transaction), attempted()).because(said(&error));
        client.batch_execute(&settings).await.map_err(error)?;
        match client.execute("SELECT pg_catalog.pg_advisory_lock($1)", &[&history::lock_key(&self.history.schema)]).await {
            Ok(_) => Ok(()),
            Err(e) if is_locked(&e) => {
                let holder = history::holder(client, history::lock_key(&self.history.schema)).await.map_err(error)?;
                Err(PortError::transient(attempted())
                    .because(format!("another migration is running there: {holder}"))
                    .hint("wait until it ends, or end its session with pg_terminate_backend"))
            }
            Err(e) => Err(error(e)),
        }
    }

    async fn locked(&self, client: &Client, migration: &Migration, way: Way, progress: Progress<'_>) -> Result<u64, PortError> {
        let recorded = self.recorded(client, migration).await?;
        let left = self.left(client, migration).await?;
        match (recorded, way) {
            (_, Way::Up) if left.down.is_some() => return Err(self.half_taken_back(migration, &left)),
            (Some(done), Way::Up) => return Ok(done),
            (None, Way::Down) if left.up.is_none() => return Ok(0),
            (None, _) | (Some(_), Way::Down) => {}
        }
        let (file, text) = match (way, &migration.down) {
            (Way::Up, _) => (migration.file_name(), &migration.up),
            (Way::Down, Some(text)) => (migration.down_file_name(), text),
            (Way::Down, None) => {
                let attempted = format!("take `{}` back on {}", migration.file_name(), self.on);
                return Err(PortError::refused(attempted).because(format!("there is no `{}`", migration.down_file_name())));
            }
        };
        let contents = statements::read(text);
        if let Some((line, problem)) = contents.problems.first() {
            return Err(PortError::refused(format!("run `{file}` line {line}")).because(problem.clone()));
        }
        let run = Run {
            migration,
            way,
            file,
            text,
            statements: &contents.statements,
            history: &self.history,
            on: self.on,
            clock: &*self.clock,
            started: self.clock.monotonic(),
        };
        if let Some(batch) = &contents.batch {
            run.in_batches(client, batch, &left, progress).await?;
        } else if statements::is_transactional(text) {
            run.patiently(client, Part::Whole).await?;
        } else {
            for at in 0..contents.statements.len() {
                run.patiently(client, Part::Statement(at)).await?;
            }
            run.record(client).await.map_err(|broken| broken.error)?;
        }
        Ok(run.took_ms())
    }

    /// What a batch before has left of it.
    async fn left(&self, client: &Client, migration: &Migration) -> Result<Left, PortError> {
        let attempted = || format!("see how far `{}` has come on {}", migration.file_name(), self.on);
        batches::left(client, &migration.version, &attempted()).await
    }

    fn half_taken_back(&self, migration: &Migration, left: &Left) -> PortError {
        let reached = left.down.as_ref().map(ToString::to_string).unwrap_or_default();
        PortError::refused(format!("apply `{}` on {}", migration.file_name(), self.on))
            .because(format!("it was being taken back, and `{}` is done with {reached}", migration.down_file_name()))
            .hint("take it back whole first, by the run that began to")
    }

    /// Milliseconds that this migration took when it was applied.
    async fn recorded(&self, client: &Client, migration: &Migration) -> Result<Option<u64>, PortError> {
        let applied = history::read(client, &self.history, &self.on.to_string()).await?;
        let Some(row) = applied.into_iter().find(|row| migration.is_version(&row.version)) else { return Ok(None) };
        if row.checksum != checksum(&migration.up) {
            return Err(PortError::refused(format!("apply `{}` on {}", migration.file_name(), self.on))
                .because(format!("another text was applied as version {} at {}", row.version, row.applied_at))
                .hint("put the file back as it was, and write what is new into a new migration"));
        }
        Ok(Some(u64::try_from(row.execution_time_ms).unwrap_or(0)))
    }
}

#[async_trait]
impl Migrator for PgMigrator {
    async fn applied(&self) -> Result<Vec<Applied>, PortError> {
        history::read(&self.session().await?.client, &self.history, &self.on.to_string()).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, PortError> {
        batches::unfinished(&self.session().await?.client, &format!("see what stopped half-way on {}", self.on)).await
    }

    async fn apply(&self, migration: &Migration, progress: Progress<'_>) -> Result<u64, PortError> {
        self.go(migration, Way::Up, progress).await
    }

    async fn revert(&self, migration: &Migration, progress: Progress<'_>) -> Result<(), PortError> {
        self.go(migration, Way::Down, progress).await.map(drop)
    }
}

impl fmt::Debug for PgMigrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgMigrator").field("endpoint", &self.endpoint.to_string()).finish_non_exhaustive()
    }
}

/// A try that failed.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) error: PortError,
    /// Somebody held a lock, nothing happened, and another try may do.
    pub(super) locked: bool,
}

/// What is tried at once, and again when somebody holds a lock.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// All of it, in one transaction.
    Whole,
    /// One statement, by itself.
    Statement(usize),
    /// The one statement for some rows, in a transaction.
    Batch { batch: &'a Batch, target: &'a Target, range: &'a Range, is_last: bool },
}

/// Which of a migration's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// One file of a migration, read.
pub(super) struct Run<'a> {
    pub(super) migration: &'a Migration,
    pub(super) way: Way,
    pub(super) file: String,
    pub(super) text: &'a str,
    pub(super) statements: &'a [Statement],
    history: &'a HistorySpec,
    pub(super) on: Side,
    pub(super) clock: &'a dyn Clock,
    started: Duration,
}

impl Run<'_> {
    fn took_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().saturating_sub(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Tries again while somebody holds a lock, and lets those behind us through in between. How long the try took that
    /// went through.
    pub(super) async fn patiently(&self, client: &Client, part: Part<'_>) -> Result<Duration, PortError> {
        let delays = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(10))
            .with_max_times(self.history.lock_retries as usize);
        let mut delays = delays.build();
        loop {
            let started = self.clock.monotonic();
            let done = match part {
                Part::Statement(at) => self.alone(client, at).await,
                Part::Whole | Part::Batch { .. } => self.in_transaction(client, part).await,
            };
            let Err(broken) = done else { return Ok(self.clock.monotonic().saturating_sub(started)) };
            match delays.next().filter(|_| broken.locked) {
                Some(delay) => self.clock.sleep(delay).await,
                None => return Err(broken.error),
            }
        }
    }

    async fn in_transaction(&self, client: &Client, part: Part<'_>) -> Result<(), Broken> {
        let done = self.until_commit(client, part).await;
        if let Err(broken) = done {
            // A session that is lost has no transaction left either.
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(broken);
        }
        client.batch_execute("COMMIT").await.map_err(|e| {
            let attempted = format!("commit `{}` on {}", self.file, self.on);
            self.broken(attempted, &e, Around::Nothing)
        })
    }

    async fn until_commit(&self, client: &Client, part: Part<'_>) -> Result<(), Broken> {
        let file = &self.file;
        let fail = |e: Error| self.broken(format!("run `{file}` on {}", self.on), &e, Around::Transaction);
        client.batch_execute("BEGIN").await.map_err(fail)?;
        self.become_role(client).await.map_err(fail)?;
        if let Part::Batch { batch, target, range, is_last } = part {
            return self.batch(client, (batch, target), range, is_last).await;
        }
        let begun = transaction(client).await.map_err(fail)?;
        for at in 0..self.statements.len() {
            self.statement(client, at, Around::Transaction).await?;
        }
        become_ourselves(client).await.map_err(fail)?;
        if transaction(client).await.map_err(fail)? != begun {
            let error = PortError::refused(format!("run `{file}` on {} in one transaction", self.on))
                .because("it ended the transaction itself")
                .hint("take BEGIN, COMMIT and ROLLBACK out of the file; what it committed has to be taken back by hand");
            return Err(Broken { error, locked: false });
        }
        self.note(client).await
    }

    /// One statement of a migration that runs without a transaction.
    async fn alone(&self, client: &Client, at: usize) -> Result<(), Broken> {
        // Waiting for its turn, it is in nobody's way; given up half-way, it would leave an invalid index behind.
        let waits_long = self.statements[at].kind == StatementKind::Concurrent;
        let timeout = if waits_long { 0 } else { self.history.lock_timeout_ms };
        let attempted = format!("run `{}` on {}", self.file, self.on);
        let set = client.batch_execute(&format!("SET lock_timeout = {timeout}")).await;
        let became = if at == 0 { self.become_role(client).await } else { Ok(()) };
        set.and(became).map_err(|e| self.broken(attempted, &e, Around::Transaction))?;
        self.statement(client, at, Around::Nothing).await
    }

    /// From here on the migration's own statements run, as the playbook's role where it names one. That is no wall against
    /// what others wrote: a function that a migration calls can go back to the session's user. It says to whom things belong.
    async fn become_role(&self, client: &Client) -> Result<(), Error> {
        match &self.history.role {
            Some(role) => client.batch_execute(&format!("SET ROLE {}", quote_ident(role))).await,
            None => Ok(()),
        }
    }

    async fn statement(&self, client: &Client, at: usize, around: Around) -> Result<(), Broken> {
        let statement = &self.statements[at];
        client.batch_execute(&statement.text).await.map_err(|e| {
            let attempted = format!(
                "run `{}` line {} (statement {} of {}) on {}: {}",
                self.file,
                line_of(statement, &e),
                at + 1,
                self.statements.len(),
                self.on,
                statements::short(&statement.text)
            );
            let mut broken = self.broken(attempted, &e, around);
            if around == Around::Nothing && statement.kind == StatementKind::Concurrent {
                broken.locked = false;
            }
            if around == Around::Nothing && at > 0 {
                broken.error.hint = Some(format!(
                    "statements 1 to {at} took effect, and nothing is recorded: take them back by hand, or make them \
                     repeatable (IF NOT EXISTS), since the next try begins at the first"
                ));
            }
            broken
        })
    }

    pub(super) fn broken(&self, attempted: String, error: &Error, around: Around) -> Broken {
        let mut port = PortError::new(failure(error, around), attempted).because(said(error));
        let locked = is_locked(error) && port.failure == Failure::Transient;
        if locked {
            port.hint = Some(format!(
                "somebody holds a lock that it needs, see pg_locks; it was tried {} times, {} ms each",
                self.history.lock_retries + 1,
                self.history.lock_timeout_ms
            ));
        }
        Broken { error: port, locked }
    }

    /// The row of a migration that ran without a transaction.
    async fn record(&self, client: &Client) -> Result<(), Broken> {
        let attempted = || format!("record `{}` in the history of {}", self.file, self.on);
        let fail = |around| move |e: Error| self.broken(attempted(), &e, around);
        become_ourselves(client).await.map_err(fail(Around::Transaction))?;
        client.batch_execute("BEGIN").await.map_err(fail(Around::Transaction))?;
        if let Err(broken) = self.note(client).await {
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(broken);
        }
        client.batch_execute("COMMIT").await.map_err(fail(Around::Nothing))
    }

    /// The history's row, made or removed, and the end of what stood for a half.
    pub(super) async fn note(&self, client: &Client) -> Result<(), Broken> {
        let attempted = || format!("record `{}` in the history of {}", self.file, self.on);
        let fail = |e: Error| self.broken(attempted(), &e, Around::Transaction);
        let refused = |error: PortError| Broken { error, locked: false };
        let (name, version) = (history::table(self.history), &self.migration.version);
        let table = name.sql();
        batches::forget(client, version, &attempted()).await.map_err(refused)?;
        let there = trust::plain_table(client, &name).await.map_err(refused)?;
        if there {
            // From here to the commit it stays what it is, and so it is looked at again.
            let lock = format!("LOCK TABLE ONLY {table} IN SHARE ROW EXCLUSIVE MODE");
            client.batch_execute(&lock).await.map_err(fail)?;
            trust::plain_table(client, &name).await.map_err(refused)?;
        }
        if self.way == Way::Down {
            // There may be none yet, when the very first migration stopped half-way.
            if there {
                let sql = format!("DELETE FROM ONLY {table} WHERE version OPERATOR(pg_catalog.=) $1");
                client.execute(&sql, &[version]).await.map_err(fail)?;
            }
            return Ok(());
        }
        history::create(client, self.history).await.map_err(fail)?;
        let sql = format!("INSERT INTO {table} (version, checksum, execution_time_ms) VALUES ($1, $2, $3)");
        let took_ms = i32::try_from(self.took_ms()).unwrap_or(i32::MAX);
        client.execute(&sql, &[version, &checksum(&self.migration.up), &took_ms]).await.map(drop).map_err(fail)
    }
}

/// Whatever role or user the migration left.
pub(super) async fn become_ourselves(client: &Client) -> Result<(), Error> {
    client.batch_execute("RESET SESSION AUTHORIZATION; SET ROLE NONE").await
}

/// The number of the transaction that is open.
async fn transaction(client: &Client) -> Result<String, Error> {
    client.query_one("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text", &[]).await?.try_get(0)
}

//! Runs migrations on one database and keeps its history: both or neither, and never twice.
//!
//! **Invariant:** a row in the history table stands for a migration that took effect whole. A migration that has its row
//! is not run again, whoever asks.

use super::session::{Around, Session, failure, is_locked, line_of, said};
use super::statements::{self, Statement, StatementKind};
use super::{Applied, Migration, Migrator, files::checksum};
use crate::plan::HistorySpec;
use crate::word::{Clock, Endpoint, Failure, PortError, RelationName, RunId, Side, quote_ident};
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

/// The history table is always called so; its schema is the playbook's.
const TABLE: &str = "schema_migrations";

/// The real `Migrator`.
pub struct PgMigrator {
    endpoint: Endpoint,
    history: HistorySpec,
    run: RunId,
    epoch: Arc<AtomicU64>,
    on: Side,
    clock: Arc<dyn Clock>,
}

impl PgMigrator {
    /// Migrates green, under the lease's epoch, so that its sessions end with it. Connects at each call only.
    pub fn new(endpoint: Endpoint, run: RunId, epoch: Arc<AtomicU64>, history: HistorySpec, clock: Arc<dyn Clock>) -> PgMigrator {
        PgMigrator { endpoint, run, epoch, history, on: Side::Green, clock }
    }

    /// The same for this side's server, which serves where it is blue's.
    #[must_use]
    pub fn on(self, side: Side) -> PgMigrator {
        PgMigrator { on: side, ..self }
    }

    async fn session(&self) -> Result<Session, PortError> {
        let application_name = format!("greenlight/{}/{}", self.run, self.epoch.load(Ordering::SeqCst));
        match self.on {
            Side::Blue => Session::open_where_it_serves(&self.endpoint, &application_name).await,
            Side::Green => Session::open(&self.endpoint, &application_name, "green").await,
        }
    }

    async fn go(&self, migration: &Migration, way: Way) -> Result<u64, PortError> {
        let session = self.session().await?;
        self.lock(&session.client).await?;
        let done = self.locked(&session.client, migration, way).await;
        // The lock goes with the session; given back by hand, the next migration need not wait for the server to notice.
        let _ = session.client.execute("SELECT pg_advisory_unlock_all()", &[]).await;
        done
    }

    /// Waits for the lock as long as for any other.
    async fn lock(&self, client: &Client) -> Result<(), PortError> {
        let attempted = || format!("get the lock that keeps a second migration away from {}", self.on);
        let settings = format!("SET lock_timeout = {}", self.history.lock_timeout_ms);
        let error = |error: Error| PortError::new(failure(&error, Around::Transaction), attempted()).because(said(&error));
        client.batch_execute(&settings).await.map_err(error)?;
        match client.execute("SELECT pg_advisory_lock($1)", &[&lock_key(&self.history.schema)]).await {
            Ok(_) => Ok(()),
            Err(e) if is_locked(&e) => {
                let holder = holder(client, lock_key(&self.history.schema)).await.map_err(error)?;
                Err(PortError::transient(attempted())
                    .because(format!("another migration is running there: {holder}"))
                    .hint("wait until it ends, or end its session with pg_terminate_backend"))
            }
            Err(e) => Err(error(e)),
        }
    }

    async fn locked(&self, client: &Client, migration: &Migration, way: Way) -> Result<u64, PortError> {
        match (self.recorded(client, migration).await?, way) {
            (Some(done), Way::Up) => return Ok(done),
            (None, Way::Down) => return Ok(0),
            (None, Way::Up) | (Some(_), Way::Down) => {}
        }
        let (file, text, transactional) = match (way, &migration.down) {
            (Way::Up, _) => (migration.file_name(), &migration.up, migration.transactional),
            (Way::Down, Some(text)) => (migration.down_file_name(), text, statements::is_transactional(text)),
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
            statements: &contents.statements,
            history: &self.history,
            on: self.on,
            clock: &*self.clock,
            started: self.clock.monotonic(),
        };
        if transactional {
            run.patiently(client, Part::Whole).await?;
        } else {
            for at in 0..contents.statements.len() {
                run.patiently(client, Part::Statement(at)).await?;
            }
            run.record(client).await.map_err(|broken| broken.error)?;
        }
        Ok(run.took_ms())
    }

    /// Milliseconds that this migration took when it was applied.
    async fn recorded(&self, client: &Client, migration: &Migration) -> Result<Option<u64>, PortError> {
        let applied = read_history(client, &self.history, &self.on.to_string()).await?;
        let Some(row) = applied.into_iter().find(|row| row.version == migration.version) else { return Ok(None) };
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
        read_history(&self.session().await?.client, &self.history, &self.on.to_string()).await
    }

    async fn apply(&self, migration: &Migration) -> Result<u64, PortError> {
        self.go(migration, Way::Up).await
    }

    async fn revert(&self, migration: &Migration) -> Result<(), PortError> {
        self.go(migration, Way::Down).await.map(drop)
    }
}

impl fmt::Debug for PgMigrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgMigrator").field("endpoint", &self.endpoint.to_string()).finish_non_exhaustive()
    }
}

/// A try that failed.
#[derive(Debug)]
struct Broken {
    error: PortError,
    /// Somebody held a lock, nothing happened, and another try may do.
    locked: bool,
}

/// What is tried at once, and again when somebody holds a lock.
#[derive(Clone, Copy)]
enum Part {
    /// All of it, in one transaction.
    Whole,
    /// One statement, by itself.
    Statement(usize),
}

/// Which of a migration's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// One file of a migration, read.
struct Run<'a> {
    migration: &'a Migration,
    way: Way,
    file: String,
    statements: &'a [Statement],
    history: &'a HistorySpec,
    on: Side,
    clock: &'a dyn Clock,
    started: Duration,
}

impl Run<'_> {
    fn took_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().saturating_sub(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Tries again while somebody holds a lock, and lets those behind us through in between.
    async fn patiently(&self, client: &Client, part: Part) -> Result<(), PortError> {
        let delays = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(10))
            .with_max_times(self.history.lock_retries as usize);
        let mut delays = delays.build();
        loop {
            let done = match part {
                Part::Whole => self.in_transaction(client).await,
                Part::Statement(at) => self.alone(client, at).await,
            };
            let Err(broken) = done else { return Ok(()) };
            match delays.next().filter(|_| broken.locked) {
                Some(delay) => self.clock.sleep(delay).await,
                None => return Err(broken.error),
            }
        }
    }

    async fn in_transaction(&self, client: &Client) -> Result<(), Broken> {
        let done = self.until_commit(client).await;
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

    async fn until_commit(&self, client: &Client) -> Result<(), Broken> {
        let file = &self.file;
        let fail = |e: Error| self.broken(format!("run `{file}` on {}", self.on), &e, Around::Transaction);
        client.batch_execute("BEGIN").await.map_err(fail)?;
        let begun = transaction(client).await.map_err(fail)?;
        for at in 0..self.statements.len() {
            self.statement(client, at, Around::Transaction).await?;
        }
        // Whatever role or user the migration left.
        client.batch_execute("RESET SESSION AUTHORIZATION; RESET ROLE").await.map_err(fail)?;
        if transaction(client).await.map_err(fail)? != begun {
            let error = PortError::refused(format!("run `{file}` on {} in one transaction", self.on))
                .because("it ended the transaction itself")
                .hint("take BEGIN, COMMIT and ROLLBACK out of the file; what it committed has to be taken back by hand");
            return Err(Broken { error, locked: false });
        }
        self.note(client).await.map_err(fail)
    }

    /// One statement of a migration that runs without a transaction.
    async fn alone(&self, client: &Client, at: usize) -> Result<(), Broken> {
        // Waiting for its turn, it is in nobody's way; given up half-way, it would leave an invalid index behind.
        let waits_long = self.statements[at].kind == StatementKind::Concurrent;
        let timeout = if waits_long { 0 } else { self.history.lock_timeout_ms };
        let attempted = format!("run `{}` on {}", self.file, self.on);
        let set = client.batch_execute(&format!("SET lock_timeout = {timeout}")).await;
        set.map_err(|e| self.broken(attempted, &e, Around::Transaction))?;
        self.statement(client, at, Around::Nothing).await
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

    fn broken(&self, attempted: String, error: &Error, around: Around) -> Broken {
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
        let reset = "RESET SESSION AUTHORIZATION; RESET ROLE; BEGIN";
        client.batch_execute(reset).await.map_err(fail(Around::Transaction))?;
        if let Err(e) = self.note(client).await {
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(fail(Around::Transaction)(e));
        }
        client.batch_execute("COMMIT").await.map_err(fail(Around::Nothing))
    }

    /// The history's row, made or removed.
    async fn note(&self, client: &Client) -> Result<(), Error> {
        if self.way == Way::Down {
            let sql = format!("DELETE FROM {} WHERE version = $1", table(self.history).sql());
            return client.execute(&sql, &[&self.migration.version]).await.map(|_| ());
        }
        create_history(client, self.history).await?;
        let sql = format!("INSERT INTO {} (version, checksum, execution_time_ms) VALUES ($1, $2, $3)", table(self.history).sql());
        let took_ms = i32::try_from(self.took_ms()).unwrap_or(i32::MAX);
        client.execute(&sql, &[&self.migration.version, &checksum(&self.migration.up), &took_ms]).await.map(|_| ())
    }
}

/// The history table of a database.
pub(super) fn table(history: &HistorySpec) -> RelationName {
    RelationName::new(history.schema.clone(), TABLE)
}

/// Makes the history table where there is none.
pub(super) async fn create_history(client: &Client, history: &HistorySpec) -> Result<(), Error> {
    let (name, schema) = (table(history).sql(), quote_ident(&history.schema));
    let row = client.query_one("SELECT to_regclass($1) IS NULL, to_regnamespace($2) IS NULL", &[&name, &schema]).await?;
    let (no_table, no_schema): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if no_schema {
        client.batch_execute(&format!("CREATE SCHEMA {}", quote_ident(&history.schema))).await?;
    }
    if no_table {
        let columns = "version varchar(50) PRIMARY KEY, applied_at timestamp NOT NULL DEFAULT now(), \
                       checksum varchar(64) NOT NULL, execution_time_ms integer";
        client.batch_execute(&format!("CREATE TABLE {} ({columns})", table(history).sql())).await?;
    }
    Ok(())
}

/// What the history table of a database holds; empty when there is no such table.
///
/// # Errors
/// As connecting and reading; `Refused` when another tool's table has the name.
pub async fn applied(endpoint: &Endpoint, history: &HistorySpec) -> Result<Vec<Applied>, PortError> {
    let on = format!("`{}`", endpoint.database);
    let session = Session::open(endpoint, "greenlight/plan", &on).await?;
    read_history(&session.client, history, &on).await
}

async fn read_history(client: &Client, history: &HistorySpec, on: &str) -> Result<Vec<Applied>, PortError> {
    let name = table(history);
    let fail = |e: Error| {
        let error = PortError::new(failure(&e, Around::Transaction), format!("read the history table {name} on {on}"));
        // Columns that are not there: a table of the same name and another tool's.
        let other = e.code().is_some_and(|code| code.code() == "42703" || code.code() == "42883");
        let error = error.because(said(&e));
        if other { error.hint("another tool's table has that name; name another schema for the history") } else { error }
    };
    let exists = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name.sql()]).await.map_err(fail)?;
    if !exists.try_get::<_, bool>(0).map_err(fail)? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT version::text, checksum::text, applied_at AT TIME ZONE current_setting('TimeZone'), \
             coalesce(execution_time_ms, 0)::bigint FROM {} ORDER BY length(version), version",
        name.sql()
    );
    let rows = client.query(&sql, &[]).await.map_err(fail)?;
    let row = |row: &tokio_postgres::Row| {
        Ok(Applied {
            version: row.try_get(0)?,
            checksum: row.try_get(1)?,
            applied_at: row.try_get(2)?,
            execution_time_ms: row.try_get(3)?,
        })
    };
    rows.iter().map(row).collect::<Result<_, Error>>().map_err(fail)
}

/// The number of the transaction that is open.
async fn transaction(client: &Client) -> Result<String, Error> {
    client.query_one("SELECT pg_current_xact_id()::text", &[]).await?.try_get(0)
}

/// One lock for each history: migrations of different histories do not keep each other away.
fn lock_key(schema: &str) -> i64 {
    let digest = checksum(&format!("greenlight {TABLE} {schema}"));
    digest.as_bytes()[..16].iter().fold(0_i64, |key, byte| key << 4 | i64::from((*byte as char).to_digit(16).unwrap_or(0)))
}

async fn holder(client: &Client, key: i64) -> Result<String, Error> {
    let sql = "SELECT format('process %s, user %s, %s, from %s, since %s', a.pid, a.usename, \
                   coalesce(nullif(a.application_name, ''), 'without a name'), coalesce(host(a.client_addr), 'the machine itself'), \
                   a.backend_start::timestamptz(0)) \
               FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                   AND l.classid::bigint = ($1::bigint >> 32) & 4294967295 AND l.objid::bigint = $1::bigint & 4294967295 \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = client.query(sql, &[&key]).await?;
    match rows.first() {
        Some(row) => row.try_get(0),
        None => Ok("it has just ended".to_owned()),
    }
}

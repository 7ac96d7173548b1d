//! The embedded journal: one SQLite file in the state directory. Its rows can be read with any SQLite tool; the tables
//! are in `tables.sql`.
//!
//! **Invariant:** an append that returned is on the disk (WAL with `synchronous=FULL`), and what it checks and what it
//! writes are one transaction.

mod fault;

use super::{HolderProcess, Journal, JournalError, Lease, RunEntry, holder::uptime};
use crate::run::{Event, FORMAT, Record, Request, RequestKind};
use crate::word::{RunId, Timestamp};
use async_trait::async_trait;
use fault::{Fault, NO_ROOM, in_words, lacks_room};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, named_params, params};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The file in the state directory.
pub const FILE: &str = "journal.db";

/// How long a call waits for another process's transaction. Ours last about a millisecond.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same while the window is open and the lock was to be in hand: clients wait with it.
const BUSY_TIMEOUT_IN_WINDOW: Duration = Duration::from_millis(250);

/// What a window may write: its commit point, and what a freeze learns on its way, with room to spare.
const ROOM: i64 = 512 * 1024;

#[derive(Clone)]
pub struct SqliteJournal {
    kept: Arc<Mutex<Kept>>,
    path: PathBuf,
}

impl std::fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteJournal").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteJournal {
    /// Opens the journal of a state directory, and makes both where they are not there, readable by this user only.
    /// A journal of a newer format opens too: it can be read, and every change is refused.
    ///
    /// # Errors
    /// `Unreachable` when the directory or the file cannot be made or read.
    pub fn open(state_dir: &Path) -> Result<SqliteJournal, JournalError> {
        let path = state_dir.join(FILE);
        let opened = open(state_dir, &path).and_then(|(connection, alone)| Kept::new(connection, alone, &path));
        let kept = opened.map_err(|fault| fault.into_error(|| format!("open the journal `{}`", path.display())))?;
        Ok(SqliteJournal { kept: Arc::new(Mutex::new(kept)), path })
    }

    /// The same journal, that waits no longer for another process's transaction than this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> SqliteJournal {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).patience = patience;
        self
    }

    /// Runs `work` on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        attempted: String,
        work: impl FnOnce(&mut Kept) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, JournalError> {
        let kept = self.kept.clone();
        let done = tokio::task::spawn_blocking(move || {
            // A panic inside `work` leaves a transaction that the next change rolls back.
            work(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or_else(|panic| Err(Fault::Unsure(panic.into()))).map_err(|fault| fault.into_error(|| attempted))
    }

    /// One transaction that takes the right to write at its beginning, so that what it reads stays true until it ends.
    async fn change<T: Send + 'static>(
        &self,
        attempted: String,
        run: &RunId,
        work: impl FnOnce(&Connection, &str) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, JournalError> {
        let run = run.to_string();
        self.with(attempted, move |kept| {
            kept.change(|connection| work(connection, &run)).map_err(|fault| match fault {
                Fault::Store(source) => Fault::Unwritten(source),
                other => other,
            })
        })
        .await
    }
}

/// The connection, and what is kept in hand of it.
struct Kept {
    connection: Connection,
    /// No other process can open the file meanwhile.
    alone: bool,
    path: PathBuf,
    /// Device and inode of the file that is open.
    file: (u64, u64),
    patience: Duration,
    /// Clients wait with this process.
    hurries: bool,
    /// Others are to be kept from writing.
    holds: bool,
}

impl Kept {
    fn new(connection: Connection, alone: bool, path: &Path) -> Result<Kept, Fault> {
        let at = fs::metadata(path)?;
        let (path, file) = (path.to_owned(), (at.dev(), at.ino()));
        Ok(Kept { connection, alone, path, file, patience: BUSY_TIMEOUT, hurries: false, holds: false })
    }

    /// Err unless the open file is the one that others will find. What was asked for was not begun then.
    fn is_at_its_place(&self) -> Result<(), Fault> {
        let vanished = || JournalError::Vanished { path: self.path.display().to_string() };
        match fs::metadata(&self.path) {
            Ok(at) if (at.dev(), at.ino()) == self.file => Ok(()),
            Ok(_) => Err(vanished().into()),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Err(vanished().into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Err `Store`: it is certain that nothing was written. Err `Unsure`: it is not known.
    fn change<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        self.is_at_its_place()?;
        self.share()?;
        self.begin()?;
        let done = self.begun(work);
        if done.is_err() && !self.connection.is_autocommit() {
            // What cannot be rolled back now is so by the next change, or with the connection.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        if self.holds {
            self.take_in_hand();
        }
        done
    }

    /// Nothing is written before others can open the file too.
    fn share(&mut self) -> Result<(), Fault> {
        if self.alone {
            // Its lock goes with the connection.
            self.connection = Connection::open_in_memory()?;
            (self.connection, self.alone) = connect(&self.path)?;
        }
        if self.alone { Err(Fault::from(NO_ROOM)) } else { Ok(()) }
    }

    fn begin(&mut self) -> Result<(), Fault> {
        if !self.connection.is_autocommit() {
            if self.holds {
                return Ok(());
            }
            self.connection.execute_batch("ROLLBACK")?;
        }
        let in_window = self.holds || self.hurries;
        self.connection.busy_timeout(if in_window { self.patience.min(BUSY_TIMEOUT_IN_WINDOW) } else { self.patience })?;
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    fn begun<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        // Read each time: a newer Greenlight may have taken the directory over since we opened it.
        let found = format_of(&self.connection)?;
        if found > FORMAT {
            return Err(JournalError::NewerFormat { found, ours: FORMAT }.into());
        }
        let value = work(&self.connection)?;
        match self.connection.execute_batch("COMMIT") {
            Ok(()) => Ok(value),
            // The last page was not written, or nothing was begun.
            Err(error) if matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy)) => {
                Err(error.into())
            }
            Err(error) => Err(Fault::Unsure(in_words(error))),
        }
    }

    /// Takes the right to write again at once. Where another process was quicker, the next change waits for it a little, and is
    /// refused before it writes anything.
    fn take_in_hand(&mut self) {
        let _ = self.connection.busy_timeout(Duration::ZERO);
        if self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("BEGIN IMMEDIATE")
        {
            tracing::warn!(%error, "another process writes into the journal while the window is open");
        }
    }

    /// Room in both files: as many pages are written and freed again in the journal, and its log, which is written from its
    /// beginning after a checkpoint, is as long.
    fn make_room(&mut self) -> Result<(), Fault> {
        self.change(|connection| {
            connection.execute_batch("CREATE TABLE IF NOT EXISTS room (padding BLOB NOT NULL) STRICT")?;
            Ok(connection.execute("INSERT INTO room VALUES (zeroblob(?1))", [ROOM])?)
        })?;
        self.change(|connection| Ok(connection.execute("DELETE FROM room", ())?))?;
        self.connection.busy_timeout(self.patience)?;
        let busy: bool = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", (), |row| row.get(0))?;
        if busy { Err(Fault::from("another process reads it all the time")) } else { Ok(()) }
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn runs(&self) -> Result<Vec<RunEntry>, JournalError> {
        self.with("list the runs".to_owned(), |Kept { connection, .. }| {
            let mut statement = connection.prepare_cached("SELECT id, name, created_at FROM run ORDER BY number DESC")?;
            let rows = statement.query_map((), |row| {
                Ok(RunEntry { run: parsed(row, "id")?, name: row.get("name")?, created_at: parsed(row, "created_at")? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn create(&self, event: &Event, at: Timestamp) -> Result<(), JournalError> {
        let Event::RunCreated { plan, .. } = event else {
            return Err(Fault::from("the first record of a run must hold its plan").into_error(|| "create a run".to_owned()));
        };
        let (name, text) = (plan.name.clone(), serde_json::to_string(event));
        self.change(format!("create run `{}`", plan.run), &plan.run, move |tx, run| {
            if last_seq(tx, run).is_ok() {
                return Err(JournalError::Superseded { expected: 0 }.into());
            }
            let insert = "INSERT INTO run (id, name, created_at) VALUES (?1, ?2, ?3)";
            tx.execute(insert, params![run, name, at.to_string()])?;
            insert_record(tx, run, &NewRecord { seq: 1, at, epoch: 0, event: text? })
        })
        .await
    }

    async fn read(&self, run: &RunId) -> Result<Vec<Record>, JournalError> {
        let id = run.to_string();
        self.with(format!("read run `{run}`"), move |kept| read(&kept.connection, &id)).await
    }

    async fn append(&self, run: &RunId, expected: u64, epoch: u64, event: &Event, at: Timestamp) -> Result<(), JournalError> {
        let text = serde_json::to_string(event);
        self.change(format!("append record {} to run `{run}`", expected + 1), run, move |tx, run| {
            if last_seq(tx, run)? != expected || !holds(tx, run, epoch)? {
                return Err(JournalError::Superseded { expected }.into());
            }
            insert_record(tx, run, &NewRecord { seq: expected + 1, at, epoch, event: text? })
        })
        .await
    }

    async fn hold(&self, run: &RunId) -> Result<(), JournalError> {
        let attempted = format!("make room in the journal for the window of run `{run}`, and keep others from writing");
        self.with(attempted, |kept| {
            let held = kept.make_room().and_then(|()| kept.begin());
            kept.holds = held.is_ok();
            held.map_err(|fault| match fault {
                Fault::Store(source) => Fault::Unwritten(source),
                other => other,
            })
        })
        .await
    }

    async fn let_go(&self) {
        let let_go = self.with("let others write".to_owned(), |kept| {
            if std::mem::take(&mut kept.holds) && !kept.connection.is_autocommit() {
                kept.connection.execute_batch("ROLLBACK")?;
            }
            Ok(())
        });
        if let Err(error) = let_go.await {
            tracing::warn!(%error, "the journal could not be let go");
        }
    }

    async fn hurry(&self, clients_wait: bool) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).hurries = clients_wait;
    }

    async fn lease(&self, run: &RunId) -> Result<Option<Lease>, JournalError> {
        let id = run.to_string();
        self.with(format!("read who holds run `{run}`"), move |Kept { connection, .. }| {
            last_seq(connection, &id)?;
            lease_of(connection, &id)
        })
        .await
    }

    async fn take_lease(
        &self,
        run: &RunId,
        holder: &str,
        ttl: Duration,
        force: bool,
        now: Timestamp,
    ) -> Result<u64, JournalError> {
        let holder = holder.to_owned();
        // Whoever has it may keep others from writing just now: asked by a read first.
        super::next_epoch(self.lease(run).await?.as_ref(), force, now)?;
        self.change(format!("take run `{run}`"), run, move |tx, run| {
            last_seq(tx, run)?;
            let epoch = super::next_epoch(lease_of(tx, run)?.as_ref(), force, now)?;
            let this = HolderProcess::this();
            tx.prepare_cached(include_str!("take_lease.sql"))?.execute(named_params! {
                ":run": run,
                ":epoch": epoch.cast_signed(),
                ":holder": holder,
                ":pid": this.pid,
                ":host": this.host,
                ":boot_id": this.boot_id,
                ":pid_namespace": this.pid_namespace,
                ":process_started": this.started.cast_signed(),
                ":expires_at": expiry(now, ttl)?,
                ":expires_uptime_ms": uptime_at_expiry(ttl),
            })?;
            Ok(epoch)
        })
        .await
    }

    async fn renew_lease(&self, run: &RunId, epoch: u64, ttl: Duration, now: Timestamp) -> Result<(), JournalError> {
        self.change(format!("renew the lease of run `{run}`"), run, move |tx, run| {
            let expected = last_seq(tx, run)?;
            if !holds(tx, run, epoch)? {
                return Err(JournalError::Superseded { expected }.into());
            }
            let update = "UPDATE lease SET expires_at = ?2, expires_uptime_ms = ?3 WHERE run = ?1";
            tx.prepare_cached(update)?.execute(params![run, expiry(now, ttl)?, uptime_at_expiry(ttl)])?;
            Ok(())
        })
        .await
    }

    async fn release_lease(&self, run: &RunId, epoch: u64) -> Result<(), JournalError> {
        self.change(format!("release run `{run}`"), run, move |tx, run| {
            last_seq(tx, run)?;
            tx.execute("UPDATE lease SET released = 1 WHERE run = ?1 AND epoch = ?2", params![run, epoch.cast_signed()])?;
            Ok(())
        })
        .await
    }

    async fn file_request(
        &self,
        run: &RunId,
        by: &str,
        reason: Option<&str>,
        kind: &RequestKind,
        at: Timestamp,
    ) -> Result<i64, JournalError> {
        let (by, reason, kind) = (by.to_owned(), reason.map(str::to_owned), serde_json::to_string(kind));
        self.change(format!("file a request to run `{run}`"), run, move |tx, run| {
            last_seq(tx, run)?;
            let insert = "INSERT INTO request (run, at, filed_by, reason, kind) VALUES (?1, ?2, ?3, ?4, ?5)";
            tx.execute(insert, params![run, at.to_string(), by, reason, kind?])?;
            Ok(tx.last_insert_rowid())
        })
        .await
    }

    async fn open_requests(&self, run: &RunId) -> Result<Vec<Request>, JournalError> {
        let id = run.to_string();
        self.with(format!("read the requests to run `{run}`"), move |Kept { connection, .. }| {
            last_seq(connection, &id)?;
            let select = "SELECT id, at, filed_by, reason, kind FROM request WHERE run = ?1 AND answer IS NULL ORDER BY id";
            let mut statement = connection.prepare_cached(select)?;
            let mut rows = statement.query([&id])?;
            let mut requests = Vec::new();
            while let Some(row) = rows.next()? {
                requests.push(Request {
                    id: row.get("id")?,
                    at: parsed(row, "at")?,
                    by: row.get("filed_by")?,
                    reason: row.get("reason")?,
                    kind: serde_json::from_str(&row.get::<_, String>("kind")?)?,
                });
            }
            Ok(requests)
        })
        .await
    }

    async fn answer_request(&self, run: &RunId, id: i64, answer: &str) -> Result<(), JournalError> {
        let answer = answer.to_owned();
        self.change(format!("answer request {id} to run `{run}`"), run, move |tx, run| {
            answer_of(tx, run, id)?;
            let update = "UPDATE request SET answer = ?3 WHERE run = ?1 AND id = ?2 AND answer IS NULL";
            tx.execute(update, params![run, id, answer])?;
            Ok(())
        })
        .await
    }

    async fn request_answer(&self, run: &RunId, id: i64) -> Result<Option<String>, JournalError> {
        let run = run.to_string();
        let attempted = format!("read the answer to request {id} to run `{run}`");
        self.with(attempted, move |kept| answer_of(&kept.connection, &run, id)).await
    }

    async fn set_progress(&self, run: &RunId, text: &str) -> Result<(), JournalError> {
        let text = text.to_owned();
        self.change(format!("note the progress of run `{run}`"), run, move |tx, run| {
            last_seq(tx, run)?;
            tx.prepare_cached("UPDATE run SET progress = ?2 WHERE id = ?1")?.execute(params![run, text])?;
            Ok(())
        })
        .await
    }

    async fn progress(&self, run: &RunId) -> Result<Option<String>, JournalError> {
        let id = run.to_string();
        self.with(format!("read the progress of run `{run}`"), move |Kept { connection, .. }| {
            let found = connection.query_row("SELECT progress FROM run WHERE id = ?1", [&id], |row| row.get(0)).optional()?;
            found.ok_or_else(|| JournalError::UnknownRun(id).into())
        })
        .await
    }
}

fn open(state_dir: &Path, path: &Path) -> Result<(Connection, bool), Fault> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    // Two processes that make the same journal at once would fail each other: one after the other, by a lock that ends
    // with this function or with the process.
    let directory = File::open(state_dir)?;
    directory.lock()?;
    let (mut connection, alone) = connect(path)?;
    if !alone && format_of(&connection)? == 0 {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(include_str!("tables.sql"))?;
        tx.pragma_update(None, "user_version", FORMAT)?;
        tx.commit()?;
        // The new directory's own entry; SQLite takes care of the files in it.
        if let Some(parent) = state_dir.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok((connection, alone))
}

/// The file as every process of it has it open; or alone, by this process only, where the disk has no room for the file that they
/// would share. It can be read then.
fn connect(path: &Path) -> Result<(Connection, bool), Fault> {
    for alone in [false, true] {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        if alone {
            // What they would share is in memory then.
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        }
        match format_of(&connection) {
            Err(error) if !alone && error.sqlite_error().copied().is_some_and(lacks_room) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                connection.pragma_update(None, "synchronous", "FULL")?;
                return Ok((connection, alone));
            }
        }
    }
    Err(Fault::from(NO_ROOM))
}

fn format_of(connection: &Connection) -> Result<u32, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Err `UnknownRun` when there is no such run: every run has its first record.
fn last_seq(connection: &Connection, run: &str) -> Result<u64, Fault> {
    let mut statement = connection.prepare_cached("SELECT max(seq) FROM record WHERE run = ?1")?;
    let last: Option<i64> = statement.query_row([run], |row| row.get(0))?;
    Ok(last.ok_or_else(|| JournalError::UnknownRun(run.to_owned()))?.cast_unsigned())
}

/// In milliseconds of this machine's uptime. `None` where that is not known.
fn uptime_at_expiry(ttl: Duration) -> Option<i64> {
    i64::try_from(uptime()?.saturating_add(ttl).as_millis()).ok()
}

/// Whether the lease of this epoch is the present one, and was not let go.
fn holds(connection: &Connection, run: &str, epoch: u64) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached("SELECT epoch FROM lease WHERE run = ?1 AND NOT released")?;
    let held: Option<i64> = statement.query_row([run], |row| row.get(0)).optional()?;
    Ok(held == Some(epoch.cast_signed()))
}

fn lease_of(connection: &Connection, run: &str) -> Result<Option<Lease>, Fault> {
    let mut statement = connection.prepare_cached("SELECT * FROM lease WHERE run = ?1")?;
    let read = |row: &Row<'_>| {
        let process = HolderProcess {
            pid: row.get("pid")?,
            host: row.get("host")?,
            boot_id: row.get("boot_id")?,
            pid_namespace: row.get("pid_namespace")?,
            started: row.get::<_, i64>("process_started")?.cast_unsigned(),
        };
        let this = HolderProcess::this();
        let uptime_ms: Option<i64> = row.get("expires_uptime_ms")?;
        let until = uptime_ms.filter(|_| this.shares_uptime(&process)).map(|ms| Duration::from_millis(ms.unsigned_abs()));
        Ok(Lease {
            epoch: row.get::<_, i64>("epoch")?.cast_unsigned(),
            holder: row.get("holder")?,
            expires_at: parsed(row, "expires_at")?,
            left: until.and_then(|until| Some(until.saturating_sub(uptime()?))),
            free: row.get("released")? || this.sees_gone(&process),
        })
    };
    Ok(statement.query_row([run], read).optional()?)
}

fn read(connection: &Connection, run: &str) -> Result<Vec<Record>, Fault> {
    let newer = format_of(connection)? > FORMAT;
    let mut statement = connection.prepare_cached("SELECT seq, at, epoch, event FROM record WHERE run = ?1 ORDER BY seq")?;
    let mut rows = statement.query([run])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>("seq")?.cast_unsigned();
        let event = match serde_json::from_str(&row.get::<_, String>("event")?) {
            // What a newer version wrote is shown as far as it can be understood.
            Err(_) if newer => Event::Unknown,
            other => other?,
        };
        if seq != records.len() as u64 + 1 {
            return Err(Fault::from(format!("record {} is missing", records.len() + 1)));
        }
        records.push(Record { seq, at: parsed(row, "at")?, epoch: row.get::<_, i64>("epoch")?.cast_unsigned(), event });
    }
    if records.is_empty() { Err(JournalError::UnknownRun(run.to_owned()).into()) } else { Ok(records) }
}

/// A record as it is stored.
struct NewRecord {
    seq: u64,
    at: Timestamp,
    epoch: u64,
    event: String,
}

fn insert_record(tx: &Connection, run: &str, row: &NewRecord) -> Result<(), Fault> {
    let insert = "INSERT INTO record (run, seq, at, epoch, event) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = params![run, row.seq.cast_signed(), row.at.to_string(), row.epoch.cast_signed(), row.event];
    tx.prepare_cached(insert)?.execute(values)?;
    Ok(())
}

fn answer_of(connection: &Connection, run: &str, id: i64) -> Result<Option<String>, Fault> {
    last_seq(connection, run)?;
    let select = "SELECT answer FROM request WHERE run = ?1 AND id = ?2";
    let found = connection.query_row(select, params![run, id], |row| row.get(0)).optional()?;
    found.ok_or_else(|| Fault::from("there is no such request"))
}

fn expiry(now: Timestamp, ttl: Duration) -> Result<String, Fault> {
    Ok(now.checked_add(ttl).map_err(|e| Fault::Store(e.into()))?.to_string())
}

fn parsed<T: FromStr>(row: &Row<'_>, column: &str) -> Result<T, rusqlite::Error>
where
    T::Err: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let text: String = row.get(column)?;
    let at = row.as_ref().column_index(column)?;
    text.parse().map_err(|e: T::Err| rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, e.into()))
}

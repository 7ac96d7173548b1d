//! One migration after the other, statement by statement, with what each of them does.
//!
//! A statement that writes rows runs three times: to see by its locks which tables it writes; with a watch on these tables,
//! to see what it does there; and, with both taken back, to take effect.

use super::super::batches;
use super::super::session::{Around, Session, failure, line_of, said};
use super::super::statements::{self, Statement, StatementKind, Touch, WrittenName};
use super::super::{Migration, StatementReport, TableLock, TableWrite};
use super::bodies::{self, Bodies, Whole};
use super::known::{self, Known};
use super::scratch::{Scratch, refused};
use super::watch::{self, Noted};
use super::{MigrationError, Said, SchemaDump, ShadowError};
use crate::schema::Moves;
use crate::word::{Failure, PortError, RelationName};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, Error};

/// What writing takes.
const WRITE_LOCK: &str = "RowExclusiveLock";
/// What TRUNCATE takes, and most changes of definitions.
const WHOLE_LOCK: &str = "AccessExclusiveLock";

/// It cannot run inside a transaction, or tried to end the one that it ran in.
const WANTS_NO_TRANSACTION: [&str; 2] = ["[25001]", "[2D000]"];

pub(super) struct Trial<'a> {
    /// In which a migration runs, with the application's search path. Each has its own, as on a server: what one sets is gone for the
    /// next.
    session: Session,
    /// In which everything is looked at that can be seen from outside.
    look: &'a Client,
    /// The process of `session`.
    pid: i32,
    scratch: &'a mut Scratch,
    dump: &'a SchemaDump,
    /// What was there before the migrations, by object id.
    known: BTreeMap<u32, Known>,
    bodies: Bodies,
    sequences: BTreeMap<String, (String, bool)>,
    /// A statement called `setval`.
    sets: bool,
}

type Locks = BTreeSet<(u32, String)>;

impl<'a> Trial<'a> {
    pub(super) async fn begin(look: &'a Client, scratch: &'a mut Scratch, dump: &'a SchemaDump) -> Result<Trial<'a>, PortError> {
        let error = |e: Error| refused("prepare the shadow", &e);
        look.batch_execute(watch::WATCH).await.map_err(error)?;
        look.batch_execute(bodies::BODIES).await.map_err(error)?;
        let known = known::read(look).await.map_err(error)?;
        let sequences = bodies::sequences(look).await?;
        let (session, pid) = opened(scratch, dump).await?;
        Ok(Trial { session, look, pid, scratch, dump, known, bodies: Bodies::default(), sequences, sets: false })
    }

    async fn sql(&self, sql: &str) -> Result<(), PortError> {
        self.session.client.batch_execute(sql).await.map_err(|e| trying(&e))
    }

    /// Runs one migration for good.
    pub(super) async fn migration(&mut self, migration: &Migration) -> Result<Vec<StatementReport>, ShadowError> {
        (self.session, self.pid) = opened(self.scratch, self.dump).await?;
        let contents = statements::read(&migration.up);
        let file = migration.file_name();
        if let Some((line, problem)) = contents.problems.first() {
            let (line, source) = (*line, Said(problem.clone()));
            return Err(MigrationError { file, line, statement: String::new(), source }.into());
        }
        if let Some(batch) = &contents.batch {
            // Green and blue have the same tables and keys, so what cannot be gone through is known now.
            let mut batch = batch.clone();
            if let Some((_, found)) = bodies::resolve(&self.session.client, &batch.table).await? {
                batch.table = WrittenName { schema: Some(found.schema), name: found.name };
            }
            let target = batches::target(self.look, &batch).await.map_err(|e| trying(&e))?;
            if let Err(why) = target {
                let statement = &contents.statements[0];
                let (line, text) = (statement.line, statements::short(&statement.text));
                return Err(MigrationError { file, line, statement: text, source: Said(why) }.into());
            }
        }
        let mut reports = Vec::new();
        if migration.transactional {
            self.sql("BEGIN").await?;
            let begun = self.transaction().await?;
            for statement in &contents.statements {
                reports.push(self.inside(migration, statement, Outcome::Kept).await?);
            }
            if self.transaction().await? != begun {
                let source =
                    Said("it ends the transaction that Greenlight opened; take BEGIN and COMMIT out of the file".to_owned());
                return Err(MigrationError { file, line: 1, statement: String::new(), source }.into());
            }
            self.session.client.batch_execute("COMMIT").await.map_err(|e| {
                let statement = "COMMIT".to_owned();
                MigrationError { file, line: 1, statement, source: Said(said(&e)) }
            })?;
        } else {
            for statement in &contents.statements {
                reports.push(self.outside(migration, statement).await?);
            }
        }
        Ok(reports)
    }

    async fn transaction(&self) -> Result<String, PortError> {
        let row = self.session.client.query_one("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text", &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|e| trying(&e))
    }

    /// One statement inside the transaction that is open.
    async fn inside(
        &mut self,
        migration: &Migration,
        statement: &Statement,
        outcome: Outcome,
    ) -> Result<StatementReport, ShadowError> {
        let whole = self.bodies.whole(&self.session.client, statement).await?;
        self.sql("SAVEPOINT greenlight_shadow").await?;
        let held_before = self.locks().await?;
        let took = self.first_run(migration, statement).await?;
        let held = self.locks().await?;
        let mut report = Self::report(migration, statement, took);
        report.locks = self.table_locks(held.difference(&held_before));
        let written = self.perhaps_written(statement, &held_before, &held);
        let noted = if written.is_empty() {
            Noted::new()
        } else {
            self.sql("ROLLBACK TO greenlight_shadow").await?;
            let noted = self.watched(statement, &written).await?;
            self.run(migration, statement).await?;
            noted
        };
        let touched = self.touched(statement, &whole, held.difference(&held_before)).await?;
        report.writes = self.writes(&noted, touched, whole.unread.is_some());
        report.unread.clone_from(&whole.unread);
        self.sets |= whole.effects.calls.iter().any(|call| call.name == "setval");
        self.bodies.forget(statement, &whole);
        report.rewrites = self.rewrites().await?;
        let end = match outcome {
            Outcome::Kept => "RELEASE SAVEPOINT greenlight_shadow",
            Outcome::TakenBack => "ROLLBACK TO greenlight_shadow",
        };
        self.sql(end).await?;
        Ok(report)
    }

    /// The first run of a statement, which may show that roles are missing.
    async fn first_run(&mut self, migration: &Migration, statement: &Statement) -> Result<f64, ShadowError> {
        loop {
            #[expect(clippy::disallowed_methods, reason = "a measurement for people, of a run in a database without rows")]
            let started = std::time::Instant::now();
            let Err(e) = self.session.client.batch_execute(&statement.text).await else {
                return Ok(started.elapsed().as_secs_f64() * 1_000.0);
            };
            if !self.scratch.made_missing_role(&e).await? && !self.scratch.gave_lent_roles_rights().await? {
                return Err(failed(migration, statement, &e));
            }
            // A session learns of new roles when it takes a lock that it does not hold.
            self.sql("ROLLBACK TO greenlight_shadow; LOCK TABLE greenlight.noted IN ACCESS SHARE MODE").await?;
            self.sql("ROLLBACK TO greenlight_shadow").await?;
        }
    }

    async fn run(&self, migration: &Migration, statement: &Statement) -> Result<(), ShadowError> {
        let run = self.session.client.batch_execute(&statement.text).await;
        run.map_err(|e| failed(migration, statement, &e))
    }

    /// The tables that were there before and that the statement may write: by the locks that it took, and by those that
    /// were held already, which would hide its own.
    fn perhaps_written(&self, statement: &Statement, before: &Locks, held: &Locks) -> BTreeSet<u32> {
        let may_write = matches!(statement.kind, StatementKind::MayWrite | StatementKind::Unread);
        let writes = |lock: &&(u32, String)| {
            let is_new = !before.contains(*lock);
            (lock.1 == WRITE_LOCK && (may_write || is_new)) || (lock.1 == WHOLE_LOCK && may_write)
        };
        let is_table = |oid: &u32| self.known.get(oid).is_some_and(Known::is_table);
        held.iter().filter(writes).map(|(oid, _)| *oid).filter(is_table).collect()
    }

    /// Runs the statement with a watch on the tables and takes both back.
    async fn watched(&mut self, statement: &Statement, tables: &BTreeSet<u32>) -> Result<Noted, PortError> {
        // Where the triggers for columns are in the statement's way, without them.
        let mut tries = vec![false, true];
        while let Some(columns) = tries.pop() {
            let watched = async {
                watch::watch(&self.session, tables, columns).await?;
                self.session.client.batch_execute(&statement.text).await?;
                watch::noted(&self.session).await
            };
            let noted = watched.await;
            self.sql("ROLLBACK TO greenlight_shadow").await?;
            match noted {
                Ok(noted) => return Ok(noted),
                // A role that was lent may write the table, and not watch it.
                Err(_) if self.scratch.gave_lent_roles_rights().await? => tries.push(columns),
                Err(_) => (),
            }
        }
        // Something is written, and what cannot be told.
        Ok(tables.iter().map(|oid| ((*oid, "update".to_owned()), (BTreeSet::new(), BTreeSet::new()))).collect())
    }

    /// One statement of a migration that runs without a transaction: tried in one first, if it can be.
    async fn outside(&mut self, migration: &Migration, statement: &Statement) -> Result<StatementReport, ShadowError> {
        let mut report = Self::report(migration, statement, 0.0);
        let mut tried = false;
        if statement.kind != StatementKind::Concurrent {
            self.sql("BEGIN").await?;
            let trial = self.inside(migration, statement, Outcome::TakenBack).await;
            self.sql("ROLLBACK").await?;
            match trial {
                Ok(trial) => (report, tried) = (trial, true),
                Err(ShadowError::Migration(error)) if error.wants_no_transaction() => {}
                Err(error) => return Err(error),
            }
        }
        let whole = self.bodies.whole(&self.session.client, statement).await?;
        let watch = !tried && matches!(statement.kind, StatementKind::MayWrite | StatementKind::Unread);
        if watch {
            watch::watch_all(&self.session, &self.tables()).await.map_err(|e| trying(&e))?;
        }
        #[expect(clippy::disallowed_methods, reason = "a measurement for people, of a run in a database without rows")]
        let started = std::time::Instant::now();
        self.run(migration, statement).await?;
        report.took_ms = started.elapsed().as_secs_f64() * 1_000.0;
        if watch {
            let noted = watch::noted(&self.session).await.map_err(|e| trying(&e))?;
            watch::unwatch_all(&self.session, &self.tables()).await.map_err(|e| trying(&e))?;
            let touched = self.touched(statement, &whole, [].iter()).await?;
            report.writes = self.writes(&noted, touched, whole.unread.is_some());
            report.unread.clone_from(&whole.unread);
        }
        self.sets |= whole.effects.calls.iter().any(|call| call.name == "setval");
        self.bodies.forget(statement, &whole);
        report.rewrites = self.rewrites().await?;
        Ok(report)
    }

    fn tables(&self) -> Vec<u32> {
        self.known.iter().filter(|(_, known)| known.is_table()).map(|(oid, _)| *oid).collect()
    }

    /// Sequences that were there before and that the migrations have set; drawing numbers from one does not.
    pub(super) async fn sequences_set(&self) -> Result<Vec<String>, PortError> {
        let now = bodies::sequences(self.look).await?;
        let set = now.into_iter().filter(|(name, (stands, called))| {
            self.sequences.get(name).is_some_and(|(stood, _)| stood != stands) && (self.sets || !called)
        });
        Ok(set.map(|(name, (stands, _))| format!("{name} to {stands}")).collect())
    }

    /// What has become of the tables and columns that were there before.
    pub(super) async fn moves(&self) -> Result<Moves, PortError> {
        known::moves(self.look, &self.known).await
    }

    fn report(migration: &Migration, statement: &Statement, took_ms: f64) -> StatementReport {
        StatementReport {
            version: migration.version.clone(),
            sql: statements::short(&statement.text),
            line: statement.line,
            locks: Vec::new(),
            rewrites: Vec::new(),
            writes: Vec::new(),
            unread: None,
            took_ms,
        }
    }

    async fn locks(&self) -> Result<Locks, PortError> {
        let sql = "SELECT relation, mode FROM pg_locks WHERE pid = $1 AND locktype = 'relation' AND granted \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let rows = self.look.query(sql, &[&self.pid]).await;
        let locks = rows.and_then(|rows| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect());
        locks.map_err(|e| refused("read the locks that a statement took", &e))
    }

    fn table_locks<'l>(&self, locks: impl Iterator<Item = &'l (u32, String)>) -> Vec<TableLock> {
        let of_table = |(oid, mode): &(u32, String)| {
            let known = self.known.get(oid).filter(|known| known.is_table())?;
            Some(TableLock { table: known.name.clone(), mode: mode.clone() })
        };
        locks.filter_map(of_table).collect()
    }

    /// Tables and indexes that have another file than when this was asked last.
    async fn rewrites(&mut self) -> Result<Vec<RelationName>, PortError> {
        // Inside of the migration's transaction: nobody else sees its new files.
        let rows = self.session.client.query("SELECT relation, file FROM greenlight.files()", &[]).await;
        let files = rows.and_then(|rows| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect());
        let files: Vec<(u32, u32)> = files.map_err(|e| refused("read what a statement rewrote", &e))?;
        let mut rewrites = Vec::new();
        for (oid, file) in files {
            if let Some(known) = self.known.get_mut(&oid)
                && known.file != file
            {
                known.file = file;
                rewrites.push(known.name.clone());
            }
        }
        Ok(rewrites)
    }

    /// What the text says that the statement, and what it calls, does to tables that were there before. `took`: the locks that it
    /// took.
    async fn touched(
        &mut self,
        statement: &Statement,
        whole: &Whole,
        took: impl Iterator<Item = &(u32, String)>,
    ) -> Result<Vec<TableWrite>, PortError> {
        let session = &self.session.client;
        let mut writes = Vec::new();
        for touch in &whole.effects.touches {
            let (named, kind, columns) = match touch {
                Touch::Write { table, kind, columns } => (table, *kind, columns.clone()),
                Touch::Convert { table, column } => (table, "convert", vec![column.clone()]),
                Touch::Make { .. } => continue,
            };
            let known = bodies::resolve(session, named).await?.and_then(|(oid, _)| self.known.get(&oid));
            writes.extend(known.filter(|known| known.is_table()).map(|known| TableWrite {
                table: known.name.clone(),
                kind: kind.to_owned(),
                columns,
                fires: Vec::new(),
            }));
        }
        if matches!(statement.kind, StatementKind::MayWrite | StatementKind::Unread) {
            let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
            for (oid, mode) in took {
                match mode.as_str() {
                    "AccessShareLock" => read.insert(*oid),
                    WRITE_LOCK => written.insert(*oid),
                    // What it makes by statements of its own, it may also fill.
                    WHOLE_LOCK if whole.unread.is_some() => written.insert(*oid),
                    _ => false,
                };
            }
            writes.extend(self.bodies.copies(session, &self.known, whole, &read, &written).await?);
        }
        Ok(writes)
    }

    /// What was seen and what the text says, one entry for a table and kind of write.
    fn writes(&self, noted: &Noted, touched: Vec<TableWrite>, unread: bool) -> Vec<TableWrite> {
        let mut writes: Vec<TableWrite> = Vec::new();
        let seen = noted.iter().filter_map(|((oid, kind), (columns, fires))| {
            Some(TableWrite {
                table: self.known.get(oid)?.name.clone(),
                kind: kind.clone(),
                columns: columns.iter().cloned().collect(),
                fires: fires.iter().cloned().collect(),
            })
        });
        for write in seen.chain(touched) {
            match writes.iter_mut().find(|other| other.table == write.table && other.kind == write.kind) {
                // Columns that cannot be told may be others than those that are named.
                Some(other) if unread && write.kind == "update" && other.columns.is_empty() => {}
                Some(other) => {
                    let new = |text: &String, known: &[String]| !known.contains(text);
                    let columns: Vec<String> = write.columns.into_iter().filter(|text| new(text, &other.columns)).collect();
                    other.columns.extend(columns);
                    let fires: Vec<String> = write.fires.into_iter().filter(|text| new(text, &other.fires)).collect();
                    other.fires.extend(fires);
                }
                None => writes.push(write),
            }
        }
        writes
    }
}

/// A session for one migration, and its process.
async fn opened(scratch: &Scratch, dump: &SchemaDump) -> Result<(Session, i32), PortError> {
    let session = scratch.session(dump).await?;
    let row = session.client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
    let pid = row.and_then(|row| row.try_get(0)).map_err(|e| refused("prepare the shadow", &e))?;
    Ok((session, pid))
}

/// Whether a statement's trial takes effect.
#[derive(Clone, Copy)]
enum Outcome {
    Kept,
    TakenBack,
}

fn trying(error: &Error) -> PortError {
    refused("try the migrations in the shadow", error)
}

fn failed(migration: &Migration, statement: &Statement, error: &Error) -> ShadowError {
    if failure(error, Around::Nothing) == Failure::Uncertain {
        return trying(error).into();
    }
    let mut text = said(error);
    if migration.transactional && text.ends_with(WANTS_NO_TRANSACTION[0]) {
        text = format!(
            "{text}; a file that begins, in its first line, with the comment `-- greenlight: no-transaction` runs without a transaction"
        );
    }
    let source = Said(text);
    let (file, line) = (migration.file_name(), line_of(statement, error));
    MigrationError { file, line, statement: statements::short(&statement.text), source }.into()
}

impl MigrationError {
    /// It says that it cannot run inside a transaction, or tried to end the one that it ran in.
    fn wants_no_transaction(&self) -> bool {
        WANTS_NO_TRANSACTION.iter().any(|code| self.source.0.ends_with(code))
    }
}

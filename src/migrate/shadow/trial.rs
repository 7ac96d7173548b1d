//! One migration after the other, statement by statement, with what each of them does.
//!
//! A statement that writes rows runs three times: to see by its locks which tables it writes; with a watch on these tables,
//! to see what it does there; and, with both taken back, to take effect.

use super::super::session::{Session, line_of, said};
use super::super::statements::{self, Statement, StatementKind, Touch, WrittenName};
use super::super::{Migration, StatementReport, TableLock, TableWrite};
use super::scratch::{Scratch, refused};
use super::{MigrationError, Said, ShadowError};
use crate::schema::{MovedColumn, Moves, Renamed};
use crate::word::{PortError, RelationName, quote_ident, quote_literal};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Error;

/// What writing takes.
const WRITE_LOCK: &str = "RowExclusiveLock";
/// What TRUNCATE takes, and most changes of definitions.
const WHOLE_LOCK: &str = "AccessExclusiveLock";

pub(super) struct Trial<'a> {
    session: &'a Session,
    scratch: &'a mut Scratch,
    /// What was there before the migrations, by object id.
    known: BTreeMap<u32, Known>,
}

struct Known {
    name: RelationName,
    /// `r`, `p`, `i`, `I`, `m` as in `relkind`.
    kind: String,
    file: u32,
    columns: BTreeMap<i16, String>,
}

impl Known {
    fn is_table(&self) -> bool {
        self.kind == "r" || self.kind == "p"
    }
}

type Locks = BTreeSet<(u32, String)>;

/// What was noted of one table: by kind of write, the columns that are set and the row triggers that fire.
type Noted = BTreeMap<(u32, String), (BTreeSet<String>, BTreeSet<String>)>;

const WATCH: &str = "
    CREATE SCHEMA greenlight;
    CREATE TABLE greenlight.noted (relation oid, kind text, column_name text, fires text[]);
    GRANT USAGE ON SCHEMA greenlight TO PUBLIC;
    CREATE FUNCTION greenlight.note_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        INSERT INTO greenlight.noted SELECT TG_RELID, lower(TG_OP), TG_ARGV[0], array(
            SELECT t.tgname::text FROM pg_trigger t
            WHERE t.tgrelid = TG_RELID AND NOT t.tgisinternal AND t.tgtype & 1 = 1
                AND t.tgtype & CASE TG_OP WHEN 'INSERT' THEN 4 WHEN 'DELETE' THEN 8 WHEN 'UPDATE' THEN 16 ELSE 32 END <> 0
                AND t.tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
                AND (t.tgattr::text = '' OR coalesce((SELECT a.attnum FROM pg_attribute a
                    WHERE a.attrelid = TG_RELID AND a.attname = TG_ARGV[0]) = ANY (t.tgattr::int2[]), true)));
        RETURN NULL;
    END $$";

impl<'a> Trial<'a> {
    pub(super) async fn begin(session: &'a Session, scratch: &'a mut Scratch) -> Result<Trial<'a>, PortError> {
        let error = |e: Error| refused("prepare the shadow", &e);
        session.client.batch_execute(WATCH).await.map_err(error)?;
        let known = known(session).await.map_err(error)?;
        Ok(Trial { session, scratch, known })
    }

    async fn sql(&self, sql: &str) -> Result<(), PortError> {
        self.session.client.batch_execute(sql).await.map_err(|e| refused("try the migrations in the shadow", &e))
    }

    /// Runs one migration for good.
    pub(super) async fn migration(&mut self, migration: &Migration) -> Result<Vec<StatementReport>, ShadowError> {
        let contents = statements::read(&migration.up);
        let file = migration.file_name();
        if let Some((line, problem)) = contents.problems.first() {
            let (line, source) = (*line, Said(problem.clone()));
            return Err(MigrationError { file, line, statement: String::new(), source }.into());
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
        self.sql("RESET SESSION AUTHORIZATION; RESET ROLE").await?;
        Ok(reports)
    }

    async fn transaction(&self) -> Result<String, PortError> {
        let row = self.session.client.query_one("SELECT pg_current_xact_id()::text", &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|e| refused("try the migrations in the shadow", &e))
    }

    /// One statement inside the transaction that is open.
    async fn inside(
        &mut self,
        migration: &Migration,
        statement: &Statement,
        outcome: Outcome,
    ) -> Result<StatementReport, ShadowError> {
        self.sql("SAVEPOINT greenlight_shadow").await?;
        let held_before = self.locks().await?;
        let took = self.first_run(migration, statement).await?;
        let held = self.locks().await?;
        let mut report = self.report(migration, statement, took);
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
        report.writes = self.writes(&noted, self.touched(statement).await?);
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
            if !self.scratch.made_missing_role(&e).await? {
                return Err(failed(migration, statement, &e).into());
            }
            // A session learns of new roles when it takes a lock that it does not hold.
            self.sql("ROLLBACK TO greenlight_shadow; LOCK TABLE greenlight.noted IN ACCESS SHARE MODE").await?;
            self.sql("ROLLBACK TO greenlight_shadow").await?;
        }
    }

    async fn run(&self, migration: &Migration, statement: &Statement) -> Result<(), ShadowError> {
        let run = self.session.client.batch_execute(&statement.text).await;
        run.map_err(|e| failed(migration, statement, &e).into())
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
    async fn watched(&self, statement: &Statement, tables: &BTreeSet<u32>) -> Result<Noted, PortError> {
        // A trigger for a column keeps the statement from changing that column's type or dropping it.
        for columns in [true, false] {
            let watched = async {
                self.session.client.batch_execute(&self.watches(tables, columns).await?).await?;
                self.session.client.batch_execute(&statement.text).await?;
                self.noted().await
            };
            let noted = watched.await;
            self.sql("ROLLBACK TO greenlight_shadow").await?;
            if let Ok(noted) = noted {
                return Ok(noted);
            }
        }
        // Something is written, and what cannot be told.
        Ok(tables.iter().map(|oid| ((*oid, "update".to_owned()), (BTreeSet::new(), BTreeSet::new()))).collect())
    }

    /// The statements that put the watch on these tables. They fire whatever the session's replication role is.
    async fn watches(&self, tables: &BTreeSet<u32>, columns: bool) -> Result<String, Error> {
        let sql = "SELECT c.oid, n.nspname::text, c.relname::text, coalesce(array_agg(a.attname::text) FILTER (WHERE a.attnum > 0 \
                       AND NOT a.attisdropped AND a.attgenerated = ''), '{}') \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
                   WHERE c.oid = ANY ($1) GROUP BY c.oid, n.nspname, c.relname";
        let oids: Vec<u32> = tables.iter().copied().collect();
        let mut watches = String::new();
        for row in self.session.client.query(sql, &[&oids]).await? {
            let table = RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?).sql();
            let mut events: Vec<(String, String)> =
                ["INSERT", "DELETE", "TRUNCATE"].map(|event| (event.to_owned(), String::new())).to_vec();
            if columns {
                let names: Vec<String> = row.try_get(3)?;
                let event = |name: &String| (format!("UPDATE OF {}", quote_ident(name)), quote_literal(name));
                events.extend(names.iter().map(event));
            } else {
                events.push(("UPDATE".to_owned(), String::new()));
            }
            for (no, (event, argument)) in events.iter().enumerate() {
                let name = quote_ident(&format!("greenlight_watch_{no}"));
                watches.push_str(&format!(
                    "CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH STATEMENT \
                     EXECUTE FUNCTION greenlight.note_write({argument}); ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};"
                ));
            }
        }
        Ok(watches)
    }

    async fn noted(&self) -> Result<Noted, Error> {
        // The statement may have left the session another role or search path.
        self.session.client.batch_execute("RESET SESSION AUTHORIZATION; RESET ROLE").await?;
        let sql = "SELECT relation, kind, column_name, fires FROM greenlight.noted";
        let mut noted = Noted::new();
        for row in self.session.client.query(sql, &[]).await? {
            let (columns, fires) = noted.entry((row.try_get(0)?, row.try_get(1)?)).or_default();
            columns.extend(row.try_get::<_, Option<String>>(2)?);
            fires.extend(row.try_get::<_, Vec<String>>(3)?);
        }
        Ok(noted)
    }

    /// One statement of a migration that runs without a transaction: tried in one first, if it can be.
    async fn outside(&mut self, migration: &Migration, statement: &Statement) -> Result<StatementReport, ShadowError> {
        let mut report = self.report(migration, statement, 0.0);
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
        let watch = !tried && matches!(statement.kind, StatementKind::MayWrite | StatementKind::Unread);
        if watch {
            self.watch_all("CREATE").await?;
        }
        #[expect(clippy::disallowed_methods, reason = "a measurement for people, of a run in a database without rows")]
        let started = std::time::Instant::now();
        self.run(migration, statement).await?;
        report.took_ms = started.elapsed().as_secs_f64() * 1_000.0;
        if watch {
            let noted = self.noted().await.map_err(|e| refused("try the migrations in the shadow", &e))?;
            self.watch_all("DROP").await?;
            report.writes = self.writes(&noted, self.touched(statement).await?);
        }
        report.rewrites = self.rewrites().await?;
        Ok(report)
    }

    /// A watch on every table, for a statement that ends transactions itself; or its end.
    async fn watch_all(&self, what: &str) -> Result<(), PortError> {
        let tables: Vec<u32> = self.known.iter().filter(|(_, known)| known.is_table()).map(|(oid, _)| *oid).collect();
        // A few at once: each takes a lock until the end of its transaction.
        for some in tables.chunks(100) {
            let watches = self.watches(&some.iter().copied().collect(), false).await;
            let watches = watches.map_err(|e| refused("watch the tables of the shadow", &e))?;
            let sql: String = if what == "CREATE" {
                watches
            } else {
                let creates = watches.split(';').filter_map(|one| one.trim().strip_prefix("CREATE TRIGGER "));
                let drops = creates.filter_map(|one| {
                    let (name, rest) = one.split_once(" BEFORE ")?;
                    let table = rest.split_once(" ON ")?.1.split_once(" FOR EACH ")?.0;
                    Some(format!("DROP TRIGGER {name} ON {table};"))
                });
                drops.collect()
            };
            self.sql(&sql).await?;
        }
        if what == "CREATE" { Ok(()) } else { self.sql("TRUNCATE greenlight.noted").await }
    }

    fn report(&self, migration: &Migration, statement: &Statement, took_ms: f64) -> StatementReport {
        StatementReport {
            version: migration.version.clone(),
            sql: statements::short(&statement.text),
            line: statement.line,
            locks: Vec::new(),
            rewrites: Vec::new(),
            writes: Vec::new(),
            took_ms,
        }
    }

    async fn locks(&self) -> Result<Locks, PortError> {
        let sql = "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let rows = self.session.client.query(sql, &[]).await;
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
        let rows = self.session.client.query("SELECT oid, relfilenode FROM pg_class WHERE relkind IN ('r', 'i', 'm')", &[]).await;
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

    /// What the text says that the statement does to tables that were there before.
    async fn touched(&self, statement: &Statement) -> Result<Vec<TableWrite>, PortError> {
        let mut writes = Vec::new();
        for touch in &statement.touches {
            let (named, kind, columns) = match touch {
                Touch::Write { table, kind, columns } => (table, *kind, columns.clone()),
                Touch::Convert { table, column } => (table, "convert", vec![column.clone()]),
                Touch::Copy { from, into } => {
                    let into = self.resolve(into).await?.filter(|(oid, _)| !self.known.contains_key(oid));
                    let Some((_, into)) = into else { continue };
                    (from, "copy", vec![into])
                }
            };
            let known = self.resolve(named).await?.and_then(|(oid, _)| self.known.get(&oid)).filter(|known| known.is_table());
            writes.extend(known.map(|known| TableWrite {
                table: known.name.clone(),
                kind: kind.to_owned(),
                columns,
                fires: Vec::new(),
            }));
        }
        Ok(writes)
    }

    /// The relation that a name stands for now.
    async fn resolve(&self, name: &WrittenName) -> Result<Option<(u32, String)>, PortError> {
        let text = match &name.schema {
            Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&name.name)),
            None => quote_ident(&name.name),
        };
        let sql = "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.oid = to_regclass($1)";
        let rows = self.session.client.query(sql, &[&text]).await;
        let found = rows.and_then(|rows| {
            rows.first()
                .map(|row| {
                    Ok((
                        row.try_get(0)?,
                        RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?).to_string(),
                    ))
                })
                .transpose()
        });
        found.map_err(|e| refused("find what a statement names", &e))
    }

    /// What was seen and what the text says, one entry for a table and kind of write.
    fn writes(&self, noted: &Noted, touched: Vec<TableWrite>) -> Vec<TableWrite> {
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

    /// What has become of the tables and columns that were there before.
    pub(super) async fn moves(&self) -> Result<Moves, PortError> {
        let now = known(self.session).await.map_err(|e| refused("read what became of the tables", &e))?;
        let names: BTreeMap<&RelationName, u32> =
            now.iter().filter(|(_, known)| known.is_table()).map(|(oid, known)| (&known.name, *oid)).collect();
        let mut moves = Moves::default();
        for (oid, before) in self.known.iter().filter(|(_, known)| known.is_table()) {
            if names.get(&before.name).is_some_and(|now| now != oid) {
                moves.replaced.push(before.name.clone());
            }
            let Some(after) = now.get(oid) else { continue };
            if after.name != before.name {
                moves.renamed.push(Renamed { from: before.name.clone(), to: after.name.clone() });
            }
            moves.columns.extend(moved_columns(before, after));
        }
        Ok(moves)
    }
}

/// Whether a statement's trial takes effect.
#[derive(Clone, Copy)]
enum Outcome {
    Kept,
    TakenBack,
}

fn failed(migration: &Migration, statement: &Statement, error: &Error) -> MigrationError {
    MigrationError {
        file: migration.file_name(),
        line: line_of(statement, error),
        statement: statements::short(&statement.text),
        source: Said(said(error)),
    }
}

impl MigrationError {
    /// It says that it cannot run inside a transaction, or tried to end the one that it ran in.
    fn wants_no_transaction(&self) -> bool {
        ["[25001]", "[2D000]"].iter().any(|code| self.source.0.ends_with(code))
    }
}

fn moved_columns(before: &Known, after: &Known) -> Vec<MovedColumn> {
    let mut moved = Vec::new();
    for (no, name) in &before.columns {
        let to = match after.columns.get(no) {
            Some(now) if now == name => continue,
            Some(now) => Some(now.clone()),
            None if after.columns.values().any(|now| now == name) => None,
            None => continue,
        };
        moved.push(MovedColumn { table: before.name.clone(), from: name.clone(), to });
    }
    moved
}

/// Every relation of the user's with a file or columns.
async fn known(session: &Session) -> Result<BTreeMap<u32, Known>, Error> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relfilenode, \
                   coalesce(array_agg(a.attnum) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped), '{}'), \
                   coalesce(array_agg(a.attname::text) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped), '{}') \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE c.relkind IN ('r', 'p', 'i', 'm') AND n.nspname !~ '^pg_' \
                   AND n.nspname NOT IN ('information_schema', 'greenlight') \
               GROUP BY c.oid, n.nspname, c.relname, c.relkind, c.relfilenode";
    let mut known = BTreeMap::new();
    for row in session.client.query(sql, &[]).await? {
        let (numbers, names): (Vec<i16>, Vec<String>) = (row.try_get(5)?, row.try_get(6)?);
        let one = Known {
            name: RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
            kind: row.try_get(3)?,
            file: row.try_get(4)?,
            columns: numbers.into_iter().zip(names).collect(),
        };
        known.insert(row.try_get(0)?, one);
    }
    Ok(known)
}

//! A migration in batches: its one statement again and again, each time for the next rows in the order of the table's key.
//!
//! **Invariant:** a batch and the place that it reached are one transaction, and so are the last batch, the history's row and
//! the end of this record. Whatever dies, no row is written twice and none is passed over.
//!
//! The record is in schema `greenlight`, which the run has claimed: it ends with the run's claim, and no copy of the schema
//! and no comparison sees it.

use super::runner::{Broken, Part, Run, Way, become_ourselves};
use super::session::{Around, failure, said};
use super::statements::{Batch, Statement};
use super::{Migration, Progress, files::checksum};
use crate::plan::SCHEMA;
use crate::postgres::content::Order;
use crate::postgres::trust;
use crate::word::{PortError, Side, quote_ident, quote_literal};
use std::{fmt, time::Duration};
use tokio_postgres::{Client, Error};

const TABLE: &str = "greenlight.batches";
const NAME: &str = "batches";

/// The server that serves rests for no longer between two batches.
const REST_MAX: Duration = Duration::from_secs(2);

/// How values are written, so that any session reads them as they are; and every name but those of the migration is PostgreSQL's.
const UNAMBIGUOUS: &str = "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL DateStyle = 'ISO, YMD'; \
    SET LOCAL IntervalStyle = 'postgres'; SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3";

/// A migration that stopped between two batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub version: String,
    /// It is the way back that stopped.
    pub down: bool,
    /// The table, as the server writes it, and the key of the last row that is done.
    pub reached: String,
}

/// How far a file has come.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    checksum: String,
    relation: u32,
    key: Vec<String>,
    /// The key of the last row that is done.
    reached: Vec<String>,
    /// Rows that were there when they were passed.
    passed: u64,
    table: String,
}

/// What a migration has left of itself: by its own statement and by its way back.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    pub(super) up: Option<Begun>,
    pub(super) down: Option<Begun>,
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} up to ({}) = ({})", self.table, self.key.join(", "), self.reached.join(", "))
    }
}

/// A table that can be gone through.
#[derive(Debug)]
pub(super) struct Target {
    relation: u32,
    /// As the server writes it, for SQL and for people.
    name: String,
    /// Its columns, in order.
    key: Vec<String>,
    order: Order,
    /// By the statistics.
    rows: u64,
}

/// One batch: the rows whose key is past `after`, up to and with `until`.
#[derive(Debug)]
pub(super) struct Range {
    after: Option<Vec<String>>,
    /// `None`: all that there are, and the migration is done with them.
    until: Option<Vec<String>>,
    passed: u64,
}

/// The table of a batch, with its key.
///
/// # Errors
/// The inner one says why it cannot be gone through.
pub(super) async fn target(client: &Client, batch: &Batch) -> Result<Result<Target, String>, Error> {
    let written = match &batch.table.schema {
        Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&batch.table.name)),
        None => quote_ident(&batch.table.name),
    };
    // By name as the migration's author means it, and everything else as PostgreSQL does.
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    let found: Option<u32> = client.query_one(sql, &[&written]).await?.try_get(0)?;
    let Some(relation) = found else { return Ok(Err(format!("there is no table {written}"))) };
    client.batch_execute(UNAMBIGUOUS).await?;
    let target = look(client, batch, relation, &written).await;
    client.batch_execute("ROLLBACK").await?;
    target
}

async fn look(client: &Client, batch: &Batch, relation: u32, written: &str) -> Result<Result<Target, String>, Error> {
    let sql = "SELECT c.oid::regclass::text, greatest(c.reltuples, (SELECT sum(greatest(leaf.reltuples, 0)) \
                   FROM pg_partition_tree(c.oid) AS t JOIN pg_class AS leaf ON leaf.oid = t.relid WHERE t.isleaf), 0)::bigint \
               FROM pg_class AS c WHERE c.oid = $1 AND c.relkind IN ('r', 'p')";
    let rows = client.query(sql, &[&relation]).await?;
    let Some(row) = rows.first() else { return Ok(Err(format!("there is no table {written}"))) };
    let (name, rows): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    let sql = "SELECT array_agg(a.attname::text ORDER BY k.no) \
               FROM pg_index AS i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, no) \
               JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
               WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
                   AND k.no <= i.indnkeyatts \
               GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts HAVING bool_and(a.attnotnull) \
               ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1";
    let keys = client.query(sql, &[&relation]).await?;
    let key: Vec<String> = keys.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    let order = Order::read(client, relation, &key, false).await?.filter(|_| !key.is_empty());
    let Some(order) = order else {
        return Ok(Err(format!(
            "{name} has no primary key, and no unique index on columns that are NOT NULL, by which it could be gone through; give \
             it one, or write its rows in a migration that is not in batches"
        )));
    };
    if let Some(column) = key.iter().find(|name| batch.sets.contains(name)) {
        return Ok(Err(format!(
            "it sets `{column}`, a column of the key by which {name} is gone through: rows would be met again, or passed over"
        )));
    }
    Ok(Ok(Target { relation, name, key, order, rows: u64::try_from(rows).unwrap_or(0) }))
}

impl Target {
    fn columns(&self) -> Vec<String> {
        self.key.clone()
    }

    /// A condition that holds for the rows of a range of the table, which the statement calls so.
    fn within(&self, called: &str, after: Option<&[String]>, until: Option<&[String]>) -> String {
        self.order.range(&format!("{called}."), after, until)
    }

    /// The rows of a range for people, in whose session the operators need no schema.
    fn described(&self, range: &Range) -> String {
        let columns: Vec<String> = self.key.iter().map(|name| quote_ident(name)).collect();
        let bound = |sign: &str, values: &[String]| {
            let values: Vec<String> = values.iter().map(|value| quote_literal(value).trim_start().to_owned()).collect();
            format!("({}) {sign} ({})", columns.join(", "), values.join(", "))
        };
        let bounds = [range.after.as_deref().map(|key| bound(">", key)), range.until.as_deref().map(|key| bound("<=", key))];
        let bounds: Vec<String> = bounds.into_iter().flatten().collect();
        if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") }
    }

    /// The key of the last of so many rows past `after`, and not past `limit`; `None` when there are fewer.
    async fn end(
        &self,
        client: &Client,
        rows: u32,
        after: Option<&[String]>,
        limit: Option<&[String]>,
    ) -> Result<Option<Vec<String>>, Error> {
        let (within, texts, sorted) = (self.within("t", after, limit), self.order.texts("t."), self.order.sorted("t."));
        let sql = format!(
            "SELECT {} FROM {} AS t WHERE {within} ORDER BY {sorted} OFFSET {} LIMIT 1",
            texts.join(", "),
            self.name,
            rows - 1
        );
        client.batch_execute(UNAMBIGUOUS).await?;
        let found = client.query(&sql, &[]).await;
        // An error has ended the transaction as well.
        client.batch_execute("ROLLBACK").await?;
        let found = found?;
        found.first().map(|row| (0..self.key.len()).map(|at| row.try_get(at)).collect()).transpose()
    }
}

/// Everything that stopped between two batches on this server.
pub(super) async fn unfinished(client: &Client, attempted: &str) -> Result<Vec<Unfinished>, PortError> {
    let found = read(client, None, attempted).await?;
    Ok(found.into_iter().map(|(version, down, begun)| Unfinished { version, down, reached: begun.to_string() }).collect())
}

/// What one migration has left of itself.
pub(super) async fn left(client: &Client, version: &str, attempted: &str) -> Result<Left, PortError> {
    let mut left = Left::default();
    for (_, down, begun) in read(client, Some(version), attempted).await? {
        if down { left.down = Some(begun) } else { left.up = Some(begun) }
    }
    Ok(left)
}

async fn there_is_a_table(client: &Client) -> Result<bool, PortError> {
    Ok(trust::own_schema(client).await?.is_some_and(|tables| tables.iter().any(|table| table == NAME)))
}

fn error(attempted: &str) -> impl Fn(Error) -> PortError {
    move |e| PortError::new(failure(&e, Around::Transaction), attempted).because(said(&e))
}

async fn read(client: &Client, version: Option<&str>, attempted: &str) -> Result<Vec<(String, bool, Begun)>, PortError> {
    // Asked first, since a query for a table that is not there leaves an error in the server's log.
    if !there_is_a_table(client).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT version, is_down, checksum, relation, key, reached, passed, relation::pg_catalog.regclass::pg_catalog.text \
         FROM {TABLE} WHERE $1::pg_catalog.text IS NULL OR version OPERATOR(pg_catalog.=) $1 ORDER BY version, is_down"
    );
    let rows = client.query(&sql, &[&version]).await.map_err(error(attempted))?;
    let begun = |row: &tokio_postgres::Row| {
        let passed: i64 = row.try_get(6)?;
        let begun = Begun {
            checksum: row.try_get(2)?,
            relation: row.try_get(3)?,
            key: row.try_get(4)?,
            reached: row.try_get(5)?,
            passed: u64::try_from(passed).unwrap_or(0),
            table: row.try_get(7)?,
        };
        Ok((row.try_get(0)?, row.try_get(1)?, begun))
    };
    rows.iter().map(begun).collect::<Result<_, _>>().map_err(error(attempted))
}

/// Nothing of the migration's is half done any more: in the transaction that makes it so.
pub(super) async fn forget(client: &Client, version: &str, attempted: &str) -> Result<(), PortError> {
    if there_is_a_table(client).await? {
        let sql = format!("DELETE FROM {TABLE} WHERE version OPERATOR(pg_catalog.=) $1");
        client.execute(&sql, &[&version]).await.map_err(error(attempted))?;
    }
    Ok(())
}

async fn ensure_table(client: &Client, attempted: &str) -> Result<(), PortError> {
    let there = trust::own_schema(client).await?;
    if there.iter().flatten().any(|table| table == NAME) {
        return Ok(());
    }
    let schema = if there.is_none() { format!("CREATE SCHEMA {SCHEMA};") } else { String::new() };
    let columns = "version pg_catalog.text, is_down boolean, checksum pg_catalog.text NOT NULL, relation pg_catalog.oid NOT NULL, \
                   key pg_catalog.text[] NOT NULL, reached pg_catalog.text[] NOT NULL, passed bigint NOT NULL, \
                   PRIMARY KEY (version, is_down)";
    client.batch_execute(&format!("{schema} CREATE TABLE {TABLE} ({columns})")).await.map_err(error(attempted))
}

/// What a way back finds of a migration that never came to its end: nothing is to be taken back past that row.
fn limit_of<'l>(left: &'l Left, target: &Target) -> Result<Option<&'l [String]>, String> {
    match &left.up {
        Some(up) if (up.relation, &up.key) != (target.relation, &target.columns()) => {
            Err(format!("the migration stopped in {up}, and this is another table, or its key is another"))
        }
        up => Ok(up.as_ref().map(|up| up.reached.as_slice())),
    }
}

impl Run<'_> {
    /// The whole way, from where it stopped.
    pub(super) async fn in_batches(
        &self,
        client: &Client,
        batch: &Batch,
        left: &Left,
        progress: Progress<'_>,
    ) -> Result<(), PortError> {
        let attempted = || format!("run `{}` in batches on {}", self.file, self.on);
        let fail = |e: Error| PortError::new(failure(&e, Around::Transaction), attempted()).because(said(&e));
        let refuse = |why: String| PortError::refused(attempted()).because(why);
        let target = target(client, batch).await.map_err(fail)?.map_err(refuse)?;
        let begun = if self.way == Way::Down { &left.down } else { &left.up };
        if let Some(begun) = begun {
            self.is_the_same(begun, &target).map_err(refuse)?;
        }
        let limit = if self.way == Way::Down { limit_of(left, &target).map_err(refuse)? } else { None };
        ensure_table(client, &attempted()).await?;
        let mut range = Range {
            after: begun.as_ref().map(|begun| begun.reached.clone()),
            until: None,
            passed: begun.as_ref().map_or(0, |begun| begun.passed),
        };
        let rows = left.up.as_ref().filter(|_| limit.is_some()).map_or(target.rows, |up| up.passed);
        loop {
            progress(range.passed, rows);
            let end = target.end(client, batch.rows, range.after.as_deref(), limit).await.map_err(fail)?;
            let is_last = end.is_none();
            range.until = end.or_else(|| limit.map(<[String]>::to_vec));
            range.passed += u64::from(batch.rows);
            let part = Part::Batch { batch, target: &target, range: &range, is_last };
            let took = self.patiently(client, part).await?;
            crate::failpoint!(if is_last { "batches-last" } else { "batch-done" });
            if is_last {
                return Ok(());
            }
            range.after = range.until.take();
            if self.on == Side::Blue {
                // It serves: half of the time is the applications'.
                self.clock.sleep(took.min(REST_MAX)).await;
            }
        }
    }

    fn is_the_same(&self, begun: &Begun, target: &Target) -> Result<(), String> {
        if begun.checksum != checksum(self.text) {
            return Err(format!("another text of it is done with {begun}; put the file back as it was"));
        }
        if (begun.relation, &begun.key) != (target.relation, &target.columns()) {
            return Err(format!("it is done with {begun}, and now the table or its key is another"));
        }
        Ok(())
    }

    /// One batch with its record, inside the transaction that is open.
    pub(super) async fn batch(
        &self,
        client: &Client,
        (batch, target): (&Batch, &Target),
        range: &Range,
        is_last: bool,
    ) -> Result<(), Broken> {
        let condition = target.within(&batch.called, range.after.as_deref(), range.until.as_deref());
        let statement = &self.statements[0];
        let cut = Statement { text: batch.sql(statement, &condition), ..statement.clone() };
        client.batch_execute(&cut.text).await.map_err(|e| {
            let rows = target.described(range);
            let line = super::session::line_of(&cut, &e);
            let mut broken = self.broken(
                format!("run `{}` line {line} on {}, rows where {rows}", self.file, self.on),
                &e,
                Around::Transaction,
            );
            if let (Some(after), false) = (&range.after, broken.locked) {
                broken.error.hint = Some(format!(
                    "{} up to ({}) = ({}) is done and stays so; the next try goes on from there",
                    target.name,
                    target.columns().join(", "),
                    after.join(", ")
                ));
            }
            broken
        })?;
        let attempted = || format!("note how far `{}` has come on {}", self.file, self.on);
        become_ourselves(client).await.map_err(|e| self.broken(attempted(), &e, Around::Transaction))?;
        if is_last {
            return self.note(client).await;
        }
        match self.reach(client, target, range).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let error = PortError::transient(attempted()).because("somebody else has brought it further meanwhile");
                Err(Broken { error, locked: false })
            }
            Err(e) => Err(self.broken(attempted(), &e, Around::Transaction)),
        }
    }

    /// Whether the record stood where this batch began.
    async fn reach(&self, client: &Client, target: &Target, range: &Range) -> Result<bool, Error> {
        let Migration { version, .. } = self.migration;
        let is_down = self.way == Way::Down;
        let passed = i64::try_from(range.passed).unwrap_or(i64::MAX);
        let changed = if let Some(after) = &range.after {
            let sql = format!(
                "UPDATE {TABLE} SET reached = $1, passed = $2 WHERE version OPERATOR(pg_catalog.=) $3 \
                     AND is_down OPERATOR(pg_catalog.=) $4 AND reached OPERATOR(pg_catalog.=) $5"
            );
            client.execute(&sql, &[&range.until, &passed, version, &is_down, after]).await?
        } else {
            let sql = format!(
                "INSERT INTO {TABLE} (version, is_down, checksum, relation, key, reached, passed) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
            );
            let (text, columns) = (checksum(self.text), target.columns());
            client.execute(&sql, &[version, &is_down, &text, &target.relation, &columns, &range.until, &passed]).await?
        };
        Ok(changed == 1)
    }
}

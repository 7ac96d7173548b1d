//! The content of every flowing table, in chunks by key, hashed in the servers and compared under live writes.
//!
//! A chunk that differs is looked at row by row. A row that differs is looked at again after a marker, written after it was
//! read on blue, has arrived on green: what still differs while blue's row stood still is a difference; a row that moves is
//! looked at again. Each statement is short, so that no snapshot is held for long on blue.

use super::{Difference, Findings, Progress, Validator, crossing::Crossing, query::Comparison};
use crate::plan::ValidateSpec;
use crate::postgres::client::{Session, SessionOptions};
use crate::postgres::content::{self, Content, Key};
use crate::schema::{Flow, SharedColumns, TableFlow};
use crate::word::{Endpoint, PortError, RelationName};
use async_trait::async_trait;
use futures_util::{
    StreamExt, TryStreamExt,
    future::{BoxFuture, try_join},
    stream,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Row;

/// Differences of one table that are shown by key.
const SHOWN_MAX: usize = 20;
/// Looks at a row that moves before it is given up as not settled.
const LOOKS_MAX: u32 = 30;
/// Keys in one look.
const KEYS_MAX: usize = 500;
const STATEMENT_LIMIT: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub(super) struct Rows {
    pub(super) blue: Endpoint,
    pub(super) green: Endpoint,
    /// For the names of its sessions: `greenlight/<run>/validate`.
    pub(super) application_name: String,
    pub(super) spec: ValidateSpec,
    pub(super) tables: Vec<TableFlow>,
    pub(super) crossing: Arc<Crossing>,
}

/// One table, on both sides.
struct Pair<'a> {
    blue: One,
    green: One,
    crossing: &'a Crossing,
    table: &'a RelationName,
    /// The names of its columns.
    key: &'a [String],
    chunk_rows: u64,
}

/// The table on one of them.
struct One {
    session: Session,
    compare: Comparison,
}

#[async_trait]
impl Validator for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    async fn check(&self, progress: Progress<'_>) -> Result<Findings, PortError> {
        if !self.spec.rows {
            return Ok(Findings::default());
        }
        let tables: Vec<(&RelationName, &SharedColumns)> = self.tables.iter().filter_map(|flow| self.compared(flow)).collect();
        let total = tables.len() as u64;
        let mut checks: Vec<BoxFuture<'_, Result<Findings, PortError>>> = Vec::new();
        for (at, (table, shared)) in tables.into_iter().enumerate() {
            checks.push(Box::pin(async move {
                progress(&table.to_string(), at as u64, total);
                self.check_table(table, shared).await
            }));
        }
        let all: Vec<Findings> = stream::iter(checks).buffer_unordered(self.spec.parallel.max(1) as usize).try_collect().await?;
        let mut findings = Findings { tables: total, ..Findings::default() };
        for of_table in all {
            findings.rows += of_table.rows;
            findings.differences.extend(of_table.differences);
        }
        Ok(findings)
    }
}

impl Rows {
    fn compared<'a>(&self, flow: &'a TableFlow) -> Option<(&'a RelationName, &'a SharedColumns)> {
        match &flow.flow {
            Flow::Both(shared) if !shared.rewritten && !self.spec.exclude.contains(&flow.table) => Some((&flow.table, shared)),
            Flow::Both(_) | Flow::Out { .. } => None,
        }
    }

    async fn check_table(&self, table: &RelationName, shared: &SharedColumns) -> Result<Findings, PortError> {
        let (blue, green) =
            try_join(self.one((&self.blue, "blue"), table, shared, true), self.one((&self.green, "green"), table, shared, false))
                .await?;
        let chunk_rows = self.spec.chunk_rows.max(1);
        let pair = Pair { blue, green, crossing: &self.crossing, table, key: &shared.key, chunk_rows };
        if shared.key.is_empty() { pair.compare_whole().await } else { pair.compare_by_key().await }
    }

    async fn one(
        &self,
        (at, name): (&Endpoint, &str),
        table: &RelationName,
        shared: &SharedColumns,
        cast: bool,
    ) -> Result<One, PortError> {
        let options = SessionOptions::ours(&self.application_name, STATEMENT_LIMIT, Duration::from_secs(30));
        let session = content::open(at, options, name).await?;
        let content = Content::look(&session, table, &shared.key).await?;
        Ok(One { session, compare: Comparison::new(content, shared, cast) })
    }
}

impl Pair<'_> {
    async fn compare_by_key(&self) -> Result<Findings, PortError> {
        let mut findings = Findings { tables: 1, ..Findings::default() };
        let (mut after, mut found) = (None::<Key>, 0_usize);
        loop {
            let blue = self.chunk_on_blue(after.as_ref()).await?;
            let until = if blue.rows < self.chunk_rows { None } else { blue.last.clone() };
            let green = self.sum(&self.green, after.as_ref(), until.as_ref()).await?;
            findings.rows += blue.rows;
            if (blue.rows, &blue.hash) != (green.rows, &green.hash) {
                for (key, what) in self.differing_rows(after.as_ref(), until.as_ref()).await? {
                    found += 1;
                    if findings.differences.len() < SHOWN_MAX {
                        let key = Some(self.key_text(&key));
                        findings.differences.push(Difference { object: self.table.to_string(), key, what });
                    }
                }
            }
            match until {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        if found > findings.differences.len() {
            let what = format!("{} more rows differ", found - findings.differences.len());
            findings.differences.push(Difference { object: self.table.to_string(), key: None, what });
        }
        Ok(findings)
    }

    /// Tables that are identified by the whole row have no order to go by: one hash over everything, looked at again while
    /// blue moves.
    async fn compare_whole(&self) -> Result<Findings, PortError> {
        let mut seen = self.sum(&self.blue, None, None).await?;
        for _ in 0..LOOKS_MAX {
            self.crossing.cross().await?;
            let green = self.sum(&self.green, None, None).await?;
            let again = self.sum(&self.blue, None, None).await?;
            let findings = Findings { tables: 1, rows: again.rows, differences: Vec::new() };
            if green == again || green == seen {
                return Ok(findings);
            }
            if again == seen {
                let what = format!("{} rows on blue, {} on green, or other content", again.rows, green.rows);
                let difference = Difference { object: self.table.to_string(), key: None, what };
                return Ok(Findings { differences: vec![difference], ..findings });
            }
            seen = again;
        }
        let what = "it changes so fast that it could not be compared; give it a primary key, or exclude it".to_owned();
        Ok(Findings {
            tables: 1,
            rows: seen.rows,
            differences: vec![Difference { object: self.table.to_string(), key: None, what }],
        })
    }

    async fn chunk_on_blue(&self, after: Option<&Key>) -> Result<Chunk, PortError> {
        let rows = self.rows(&self.blue, &self.blue.compare.chunk(after, self.chunk_rows)).await?;
        let row = rows.first().ok_or_else(|| self.no_answer())?;
        let keys = 2..2 + self.key.len();
        let last = keys.map(|at| row.get::<_, Option<String>>(at)).collect::<Option<Key>>();
        Ok(Chunk { rows: count(row.get(0)), hash: row.get(1), last })
    }

    async fn sum(&self, on: &One, after: Option<&Key>, until: Option<&Key>) -> Result<Chunk, PortError> {
        let rows = self.rows(on, &on.compare.range(after, until)).await?;
        let row = rows.first().ok_or_else(|| self.no_answer())?;
        Ok(Chunk { rows: count(row.get(0)), hash: row.get(1), last: None })
    }

    async fn rows(&self, on: &One, sql: &str) -> Result<Vec<Row>, PortError> {
        on.compare.content().read(&on.session, &format!("compare table `{}`", self.table), sql).await
    }

    /// The rows of a range that really differ, each with what is wrong.
    async fn differing_rows(&self, after: Option<&Key>, until: Option<&Key>) -> Result<Vec<(Key, String)>, PortError> {
        let blue = self.hashes(&self.blue, &self.blue.compare.hashes(after, until)).await?;
        let green = self.hashes(&self.green, &self.green.compare.hashes(after, until)).await?;
        let keys = blue.keys().chain(green.keys().filter(|key| !blue.contains_key(*key)));
        let suspects: Vec<Key> = keys.filter(|key| blue.get(*key) != green.get(*key)).cloned().collect();
        let mut differing = Vec::new();
        for part in suspects.chunks(KEYS_MAX) {
            differing.extend(self.settle(part.to_vec()).await?);
        }
        Ok(differing)
    }

    async fn settle(&self, mut suspects: Vec<Key>) -> Result<Vec<(Key, String)>, PortError> {
        let mut differing = Vec::new();
        let mut confirmed: BTreeMap<Key, u32> = BTreeMap::new();
        for _ in 0..LOOKS_MAX {
            if suspects.is_empty() {
                return Ok(differing);
            }
            let before = self.hashes(&self.blue, &self.blue.compare.keys(&suspects)).await?;
            self.crossing.cross().await?;
            let green = self.hashes(&self.green, &self.green.compare.keys(&suspects)).await?;
            let after = self.hashes(&self.blue, &self.blue.compare.keys(&suspects)).await?;
            suspects.retain(|key| {
                let (was, now, there) = (before.get(key), after.get(key), green.get(key));
                if there == was || there == now {
                    return false;
                }
                // Blue stood still, twice: a row that went away and came back between two looks would look like it once.
                let times = confirmed.entry(key.clone()).or_insert(0);
                *times = if was == now { *times + 1 } else { 0 };
                if *times < 2 {
                    return true;
                }
                let what = match (now, there) {
                    (Some(_), None) => "missing on green",
                    (None, Some(_)) => "on green only",
                    _ => "other values on green",
                };
                differing.push((key.clone(), what.to_owned()));
                false
            });
        }
        differing.extend(suspects.into_iter().map(|key| (key, "changes so fast that it could not be compared".to_owned())));
        Ok(differing)
    }

    async fn hashes(&self, on: &One, sql: &str) -> Result<BTreeMap<Key, String>, PortError> {
        let rows = self.rows(on, sql).await?;
        let keys = self.key.len();
        Ok(rows.iter().map(|row| ((0..keys).map(|at| row.get::<_, String>(at)).collect(), row.get(keys))).collect())
    }

    /// A key for people.
    fn key_text(&self, key: &Key) -> String {
        let parts = self.key.iter().zip(key).map(|(name, value)| format!("{name}={value}"));
        parts.collect::<Vec<_>>().join(", ")
    }

    fn no_answer(&self) -> PortError {
        PortError::transient(format!("compare table `{}`", self.table)).because("a sum had no row")
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Chunk {
    rows: u64,
    hash: String,
    last: Option<Key>,
}

fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

//! Migrations: where they come from, what they will do (the shadow), and running them.
//!
//! The ports are `Migrator`, which brings one database from one version to the next, and `Shadow`, which tries that on green.

mod batches;
pub mod files;
mod history;
mod runner;
mod session;
pub mod shadow;
pub mod statements;

pub use batches::Unfinished;
pub use files::{checksum, differs_in_line_ends, order as version_order, pending};
pub use history::applied;
pub use runner::PgMigrator;
pub use statements::{
    BodyEffects, Statement, StatementKind, Touch, WrittenName, body_effects, body_writes, reaches_beyond, read as statements_of,
    short as shortened,
};

use crate::plan::{Plan, SchemaWork};
use crate::schema::{Catalog, Moves};
use crate::word::{PortError, RelationName, Timestamp};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One migration, whole: its text is frozen into the plan, so that a later change of the file cannot change a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Sorted as text of equal length or as a number: `0001`, `20261123103000`.
    pub version: String,
    pub name: String,
    pub up: String,
    pub down: Option<String>,
    /// SHA-256 of `up`, in hex.
    pub checksum: String,
    /// Runs in one transaction, unless the file's first comment says `greenlight: no-transaction` or `greenlight: batches of`.
    pub transactional: bool,
}

impl Migration {
    /// How many rows are written at once, where it works in batches.
    pub fn batch_rows(&self) -> Option<u32> {
        match statements::manner(&self.up) {
            Ok(statements::Manner::Batches(rows)) => Some(rows),
            _ => None,
        }
    }
}

/// A row of the history table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub version: String,
    pub checksum: String,
    pub applied_at: Timestamp,
    pub execution_time_ms: i64,
}

/// What running the migrations in the shadow showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowReport {
    /// The schema before: blue's, as the shadow holds it.
    pub before: Catalog,
    /// The schema after all pending migrations.
    pub after: Catalog,
    pub statements: Vec<StatementReport>,
    /// Renames and exchanges, which the two schemas do not show.
    #[serde(default)]
    pub moves: Moves,
    /// `None`: no migration has a way back.
    #[serde(default)]
    pub down: Option<DownReport>,
    /// Tables, views, materialized views and sequences that the migrations make.
    #[serde(default)]
    pub made: Vec<MadeObject>,
    /// The migrations leave large objects.
    #[serde(default)]
    pub large_objects: bool,
    /// Sequences of blue's that the migrations set, each with the value.
    #[serde(default)]
    pub sequences_set: Vec<String>,
    /// Functions that find names by a search path, by their own names with the schema: which names, and where.
    #[serde(default)]
    pub blind: BTreeMap<String, Vec<String>>,
    /// Where the shadow stood, for a person.
    pub stood_on: String,
}

/// Something that the migrations make, and who may use it by what they themselves say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeObject {
    /// `table`, `view`, `materialized view` or `sequence`.
    pub kind: String,
    pub name: RelationName,
    /// `None`: whoever runs the migrations.
    pub owner: Option<String>,
    /// Roles that the migrations grant something on it; `public` for everybody.
    pub granted: Vec<String>,
}

/// Whether the down migrations lead back to the schema before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownReport {
    pub restores: bool,
    /// Why not, or that they do.
    pub says: String,
}

/// What one statement of a migration did in the shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatementReport {
    pub version: String,
    /// The statement's text, shortened for people.
    pub sql: String,
    /// First line of the statement in its file, from 1.
    pub line: u32,
    /// Locks that it took on tables that existed before it, such as `AccessExclusiveLock`.
    pub locks: Vec<TableLock>,
    /// Tables and indexes that got a new file: they are rewritten.
    pub rewrites: Vec<RelationName>,
    /// Rows that it writes in tables that existed before the migrations: which columns, or `None` for whole rows
    /// (INSERT, DELETE, TRUNCATE).
    pub writes: Vec<TableWrite>,
    /// Why it may write more, such as "calls `f`, which makes statements of its own, or cannot be read".
    #[serde(default)]
    pub unread: Option<String>,
    pub took_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLock {
    pub table: RelationName,
    pub mode: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWrite {
    pub table: RelationName,
    /// `insert`, `update`, `delete` or `truncate`; `convert`: a column's type is changed by an expression; `copy`: rows of
    /// the table are read into tables that only green has.
    pub kind: String,
    /// The columns that an UPDATE sets (empty: cannot be told) or that are converted; the tables that are copied into.
    pub columns: Vec<String>,
    /// Row triggers of the table that fire for it.
    #[serde(default)]
    pub fires: Vec<String>,
}

/// Told of a migration in batches: rows that it has passed, of about how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Brings one database's schema to the next version.
#[async_trait]
pub trait Migrator: Send + Sync {
    /// What the history table of that database holds; empty when there is no such table.
    async fn applied(&self) -> Result<Vec<Applied>, PortError>;

    /// The migrations in batches of which a part is done, forth or back. They have no row in the history table, or still have it.
    async fn unfinished(&self) -> Result<Vec<Unfinished>, PortError>;

    /// Applies `migration` and records it in the history table: both or neither where it is transactional. One in batches goes
    /// on where it stopped. Takes the advisory lock, passes Greenlight's own fence, and tries again on a lock time-out as often
    /// as the history's spec says. Milliseconds that the statements took.
    async fn apply(&self, migration: &Migration, progress: Progress<'_>) -> Result<u64, PortError>;

    /// Runs the way back of `migration` and removes its row from the history table, as carefully as `apply`. Of a migration
    /// that stopped half-way, what it had done; in batches, no row that it had not reached. Nothing to do when there is neither.
    ///
    /// # Errors
    /// `Refused` when it has no way back.
    async fn revert(&self, migration: &Migration, progress: Progress<'_>) -> Result<(), PortError>;
}

/// Tries the migrations in a scratch database on green, for a plan that was made without a shadow.
#[async_trait]
pub trait Shadow: Send + Sync {
    /// What follows for the provisional plan. The scratch database is gone when it returns, but where that failed.
    ///
    /// # Errors
    /// `Refused` when a migration fails, or changed what is not the scratch database's own.
    async fn judge(&self, plan: &Plan) -> Result<SchemaWork, PortError>;

    /// No scratch database of this run is left.
    async fn ensure_gone(&self) -> Result<(), PortError>;
}

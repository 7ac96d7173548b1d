//! The catalogue as data, the difference of two catalogues, and what it means for each table's rows in each direction.
//!
//! **Invariant:** no I/O. A catalogue is read by `postgres::catalog`; everything here is a function of data.

mod canonical;
mod carry;
mod catalog;
mod columns;
mod difference;
mod fingerprint;
mod flow;
#[cfg(test)]
mod flow_tests;
mod identity;
mod moves;
mod rules;
mod triggers;

pub use catalog::*;
pub use difference::{Change, difference};
pub use fingerprint::{Fingerprint, fingerprint};
pub use flow::{FlowOptions, Seen, SeenWrite, flows};
pub use moves::{MovedColumn, Moves, Renamed};
pub use triggers::sync_triggers;

use crate::word::RelationName;
use serde::{Deserialize, Serialize};

/// How one table's rows flow between the sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFlow {
    pub table: RelationName,
    /// Whether the table is published at all, and why not if not.
    pub flow: Flow,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// In both publications.
    Both(SharedColumns),
    /// Not published: partition (its root is), the history table, an unlogged table, dropped by the migration...
    Out { because: String },
}

/// What both sides have of a table, and how the publications name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedColumns {
    /// Column list of the publication on blue; `None`: whole table.
    pub forward: Option<Vec<String>>,
    /// Column list of the publication on green; `None`: whole table. An empty list: not sent back at all.
    pub reverse: Option<Vec<String>>,
    /// Key columns, in the order of the replica identity; empty when rows are told apart only as wholes.
    pub key: Vec<String>,
    /// The columns compared by validation.
    pub compare: Vec<ComparedColumn>,
    /// The migration adds or removes rows, or changes some of which the columns cannot be told: they are not compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewritten: bool,
    /// Set on green before the flow is narrowed: columns that the migration drops and that are NOT NULL without a default.
    pub relax_on_green: Vec<String>,
    /// Relaxed on the fenced blue after the window, and put back at rollback: the same columns, for rows that come back, and
    /// those that green computes.
    pub relax_on_blue: Vec<String>,
    /// A table with replica identity FULL or an index other than the primary key's.
    pub identity: ReplicaIdentity,
}

/// A column that both sides have. `cast`: the type to which blue's value is cast before its text is compared, where the
/// migration changed the type and blue knows the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedColumn {
    pub name: String,
    pub cast: Option<String>,
}

/// What rollback would mean for a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Lossless both ways.
    Lossless,
    /// Lossless with the shims that are named.
    LosslessWithShim { shims: Vec<String> },
    /// Rollback would lose what is said; `accepted` when the playbook says so by name.
    RollbackWouldLose { what: Vec<String>, accepted: bool },
    /// Greenlight cannot carry this change yet.
    Refused { reasons: Vec<String> },
    /// Only one side has the table; nothing flows.
    NotSent { why: String },
}

//! What came after the point that a server was restored to is not thrown away: rows that the damaged server has and the
//! restored one has not, or has with other values, found by primary key, written down, and applied to a server of choice.
//!
//! **Invariant:** the two servers are only read. What is applied is applied table by table, each in one transaction, and
//! unless it is asked for otherwise every such transaction is taken back.

mod apply;
mod compare;
mod write;

pub use apply::{Applied, OnConflict, apply};
pub use compare::{Change, Kind, TableDifference, Uncompared, compare, tables};
pub use write::{csv, sql};

use crate::word::RelationName;

/// A table that both servers have, as far as rows can be carried from one to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvageTable {
    pub name: RelationName,
    /// In the order of the primary key.
    pub key: Vec<String>,
    /// Every column that can be written, in order; those of the key among them.
    pub columns: Vec<String>,
    /// A column of the table is `GENERATED ALWAYS AS IDENTITY`.
    pub overriding: bool,
}

//! Is green what blue is? Each validator is one file; the port is `Validator`. A difference keeps the window shut.

use crate::word::PortError;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What one validator found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Empty: what this validator looks at is equal.
    pub differences: Vec<Difference>,
    /// Figures for the report.
    pub tables: u64,
    pub rows: u64,
}

/// One thing in which green is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The table, sequence or assertion.
    pub object: String,
    /// The row's key as `column=value, ...`, where it is about a row.
    pub key: Option<String>,
    /// What differs, for a person; never more of the data than is needed to find it.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{} [{}]: {}", self.object, key, self.what),
            None => write!(f, "{}: {}", self.object, self.what),
        }
    }
}

/// Told how far a long comparison has come.
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

#[async_trait]
pub trait Validator: Send + Sync + fmt::Debug {
    /// Such as `schema`, `membership`, `rows`, `sequences`, `apply errors`, `assertions`.
    fn name(&self) -> &'static str;

    /// Compares, under live writes, converging: what still differs after everything in flight has arrived is a
    /// difference. Changes nothing. Err: could not look, which is never good.
    async fn check(&self, progress: Progress<'_>) -> Result<Findings, PortError>;
}

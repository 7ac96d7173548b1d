use super::StepNo;
use crate::word::Timestamp;
use serde::{Deserialize, Serialize};

/// What a person asked for. The command line and the web page file requests; the engine turns them into events that
/// carry the person's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Given by the journal when filed; ordered.
    pub id: i64,
    pub at: Timestamp,
    pub by: String,
    pub reason: Option<String>,
    pub kind: RequestKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestKind {
    /// Open the gate that the run waits at.
    Approve,
    /// Try the stuck step again.
    Retry,
    /// A person did the stuck step by hand.
    MarkDone { step: StepNo },
    /// Move back to blue; the run then waits before its window.
    Rollback,
    /// End the soak and take replication down.
    Finish,
    /// Take everything back and leave blue serving. `without_green`: do not try to reach green.
    Abandon { without_green: bool },
}

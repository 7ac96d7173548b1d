use super::StepName;
use serde::{Deserialize, Serialize};

/// One thing that preflight looked at, and what it means for the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name such as `large-objects`; the word that `accept:` takes, with `:object` where it is about one object.
    pub code: String,
    /// What was seen, in one or two sentences.
    pub seen: String,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Nothing to do.
    Fine,
    /// A step of the plan takes care of it.
    Handled { by: StepName, how: String },
    /// The run is refused until the remedy is done.
    Refused { remedy: String },
    /// The operator must say `accept: [code]` in the playbook.
    NeedsAccept { consequence: String },
    /// The playbook accepts it.
    Accepted { consequence: String },
}

//! Is green what blue is? Each validator is one file; the port is `Validator`. A difference keeps the window shut.
//!
//! **Invariant:** they are called while blue serves and green follows, and only then, which is why each of them has that one
//! direction: before every window to green, also after a rollback, which takes the run back to before the validation with
//! blue serving again and the flow to green running. Before a rollback no rows are compared. It is there for trouble, a
//! comparison of all rows would hold it up for minutes, and rows that could not go back are seen without it: blue's apply
//! worker stops at the first of them, the marker does not cross, and the window back does not open. Only what no apply worker
//! checks is counted then: `last_looks`.

mod apply_errors;
mod assertions;
mod crossing;
mod membership;
mod orphans;
mod query;
mod rows;
mod schema;
mod violations;

use apply_errors::APPLY_ERRORS;

use crate::plan::{AssertionSpec, Plan, Strategy};
use crate::postgres::Server;
use crate::word::{Clock, Endpoint, PortError, Side};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, atomic::AtomicU64};
use tokio::sync::Mutex;

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

/// The validators of a plan, the quick ones first.
pub fn all(plan: &Plan, at: [&Endpoint; 2], servers: [&Arc<dyn Server>; 2], clock: &Arc<dyn Clock>) -> Vec<Arc<dyn Validator>> {
    let [blue, green] = servers;
    let application_name = format!("greenlight/{}/validate", plan.run);
    let all: Vec<Arc<dyn Validator>> = vec![
        Arc::new(schema::Schema { of: "green", server: green.clone(), planned: plan.green_fingerprint.clone(), before: None }),
        apply_errors(plan, at, servers, clock, Side::Green),
        Arc::new(membership::Membership {
            blue: blue.clone(),
            green: green.clone(),
            flow: plan.names.forward.clone(),
            tables: plan.tables.clone(),
        }),
        Arc::new(rows::Rows {
            blue: at[0].clone(),
            green: at[1].clone(),
            application_name: application_name.clone(),
            spec: plan.validate.clone(),
            tables: plan.tables.clone(),
            crossing: Arc::new(crossing::Crossing::new(blue, green, clock)),
        }),
        orphans(plan, at, Side::Green),
        Arc::new(assertions::Assertions {
            on: "green",
            at: at[1].clone(),
            application_name,
            list: plan.validate.assertions.clone(),
        }),
    ];
    // Nothing is compared with anything: blue itself is to be what was planned.
    if plan.strategy == Strategy::InPlace {
        return vec![
            Arc::new(schema::Schema {
                of: "blue",
                server: blue.clone(),
                planned: plan.green_fingerprint.clone(),
                before: Some(plan.blue_fingerprint.clone()),
            }),
            assertions("blue", at[0], &plan.validate.assertions),
        ];
    }
    // In a freeze nothing flows, and there is no flow to be a member of.
    let of_a_flow = [APPLY_ERRORS, membership::NAME, orphans::NAME];
    all.into_iter().filter(|validator| plan.strategy == Strategy::Sync || !of_a_flow.contains(&validator.name())).collect()
}

/// What is asked once more right before each window to a side: it may have changed since, and no apply worker stops at it.
pub fn last_looks(plan: &Plan, at: [&Endpoint; 2]) -> Vec<(Side, Arc<dyn Validator>)> {
    if plan.strategy != Strategy::Sync {
        return Vec::new();
    }
    [Side::Blue, Side::Green].into_iter().map(|on| (on, orphans(plan, at, on))).collect()
}

/// Why the side that follows takes no rows: by that side.
pub fn refusals(
    plan: &Plan,
    at: [&Endpoint; 2],
    servers: [&Arc<dyn Server>; 2],
    clock: &Arc<dyn Clock>,
) -> Vec<(Side, Arc<dyn Validator>)> {
    [Side::Blue, Side::Green].into_iter().map(|to| (to, apply_errors(plan, at, servers, clock, to))).collect()
}

fn apply_errors(
    plan: &Plan,
    at: [&Endpoint; 2],
    servers: [&Arc<dyn Server>; 2],
    clock: &Arc<dyn Clock>,
    to: Side,
) -> Arc<dyn Validator> {
    Arc::new(apply_errors::ApplyErrors {
        to,
        follower: servers[to as usize].clone(),
        at: [at[to.other() as usize].clone(), at[to as usize].clone()],
        application_name: format!("greenlight/{}/validate", plan.run),
        clock: clock.clone(),
        flow: plan.names.flow_from(to.other()).to_owned(),
        tables: plan.tables.clone(),
        seen: AtomicU64::new(0),
        searched: Mutex::default(),
    })
}

fn orphans(plan: &Plan, [blue, green]: [&Endpoint; 2], on: Side) -> Arc<dyn Validator> {
    let application_name = format!("greenlight/{}/validate", plan.run);
    Arc::new(orphans::Orphans { blue: blue.clone(), green: green.clone(), on, application_name })
}

/// The playbook's assertions hold on this restored server.
///
/// # Errors
/// `Refused` with those that do not.
pub async fn hold(at: &Endpoint, list: &[AssertionSpec]) -> Result<(), PortError> {
    let findings = assertions("the restored server", at, list).check(&|_, _, _| ()).await?;
    if findings.differences.is_empty() {
        return Ok(());
    }
    let found: Vec<String> = findings.differences.iter().map(ToString::to_string).collect();
    Err(PortError::refused("see the assertions hold on the restored server").because(found.join("; ")))
}

/// The playbook's assertions alone, on a server that belongs to no run.
pub fn assertions(on: &'static str, at: &Endpoint, list: &[AssertionSpec]) -> Arc<dyn Validator> {
    Arc::new(assertions::Assertions {
        on,
        at: at.clone(),
        application_name: "greenlight/validate".to_owned(),
        list: list.to_vec(),
    })
}

//! Is green what blue is? A difference keeps the window shut, and is shown by key.
//!
//! Blue serves here, always: the step comes before the window, and a rollback comes back to before the step only once the
//! writer is on blue again.

use super::{Observed, Progress, Step, StepContext, marker};
use crate::run::Fact;
use crate::validate::Validator;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

/// How many differences of one look are written into the note.
const SHOWN_MAX: usize = 10;

#[derive(Debug)]
pub(super) struct ValidateGreen;

#[async_trait]
impl Step for ValidateGreen {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Looking changes nothing, so there is nothing to find; what was equal once is looked at anew.
        Ok(Observed::Absent)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if cx.run().serving() != Side::Blue {
            return Err(PortError::refused("compare green with blue").because("blue does not serve"));
        }
        let started = cx.ports.clock.monotonic();
        let wait = |note: &str| Ok(Progress::Pending { poll_after: Duration::from_secs(2), note: note.to_owned() });
        if !marker::crosses(cx, Side::Blue, Duration::from_secs(5)).await? {
            return wait("green to catch up with blue");
        }
        match compare(cx, started).await? {
            None => Ok(Progress::Done),
            Some(differences) => wait(&format!("the sides to be equal: {differences}")),
        }
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

/// Asks every validator. `None`: no difference, on record since `started`. Otherwise the first of them, for a person.
pub(super) async fn compare(cx: &mut StepContext<'_>, started: Duration) -> Result<Option<String>, PortError> {
    let findings = asked(cx, cx.ports.validators.iter()).await?;
    if let Some(differences) = findings.differences {
        return Ok(Some(differences));
    }
    let took = cx.ports.clock.monotonic().saturating_sub(started);
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    cx.learn(Fact::Validated { at: cx.ports.clock.now(), tables: findings.tables, rows: findings.rows, took_ms }).await?;
    Ok(None)
}

/// What several validators found.
pub(super) struct Found {
    /// The first of them, for a person.
    pub(super) differences: Option<String>,
    tables: u64,
    rows: u64,
}

pub(super) async fn asked(
    cx: &StepContext<'_>,
    validators: impl Iterator<Item = &Arc<dyn Validator>>,
) -> Result<Found, PortError> {
    let (mut found, mut shown) = (Found { differences: None, tables: 0, rows: 0 }, Vec::new());
    for validator in validators {
        let told = cx.progress;
        let progress = move |what: &str, done: u64, total: u64| told(&format!("{}: {what}, {done} of {total}", validator.name()));
        let findings = validator.check(&progress).await?;
        found.tables = found.tables.max(findings.tables);
        found.rows += findings.rows;
        shown.extend(findings.differences.iter().map(|difference| format!("{}: {difference}", validator.name())));
    }
    let more = if shown.len() > SHOWN_MAX { format!("; and {} more", shown.len() - SHOWN_MAX) } else { String::new() };
    found.differences = (!shown.is_empty()).then(|| format!("{}{more}", shown[..shown.len().min(SHOWN_MAX)].join("; ")));
    Ok(found)
}

//! Is green what blue is? A difference keeps the window shut, and is shown by key.
//!
//! Blue serves here, always: the step comes before the window, and a rollback comes back to before the step only once the
//! writer is on blue again.

use super::{Observed, Progress, Step, StepContext, marker};
use crate::run::Fact;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::time::Duration;

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
    let (mut tables, mut rows, mut shown, mut differences) = (0, 0, Vec::new(), 0);
    for validator in &cx.ports.validators {
        let told = cx.progress;
        let progress = move |what: &str, done: u64, total: u64| told(&format!("{}: {what}, {done} of {total}", validator.name()));
        let findings = validator.check(&progress).await?;
        tables = tables.max(findings.tables);
        rows += findings.rows;
        differences += findings.differences.len();
        shown.extend(findings.differences.iter().map(|difference| format!("{}: {difference}", validator.name())));
    }
    if differences > 0 {
        let more = if differences > SHOWN_MAX { format!("; and {} more", differences - SHOWN_MAX) } else { String::new() };
        return Ok(Some(format!("{}{more}", shown[..differences.min(SHOWN_MAX)].join("; "))));
    }
    let took = cx.ports.clock.monotonic().saturating_sub(started);
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    cx.learn(Fact::Validated { at: cx.ports.clock.now(), tables, rows, took_ms }).await?;
    Ok(None)
}

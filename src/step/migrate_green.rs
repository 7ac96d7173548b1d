//! Run the migrations on green, while changes keep streaming in. Green is fenced, so no application sees it half done.

use super::{Observed, Progress, Step, StepContext};
use crate::migrate::Migration;
use crate::run::{Direction, Fact};
use crate::word::PortError;
use async_trait::async_trait;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct MigrateGreen;

#[async_trait]
impl Step for MigrateGreen {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        if cx.run().without_green {
            return Ok(Observed::Absent);
        }
        // Going back, nothing is undone on green, which is given up whole.
        if cx.run().direction == Direction::Backward {
            return Ok(Observed::Absent);
        }
        let missing = missing(cx).await?;
        // The trigger modes that come after the migrations are set again, which costs nothing.
        Ok(if missing.len() == cx.plan.migrations.len() { Observed::Absent } else { Observed::Partial })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        hold_the_flow(cx).await?;
        migrate(cx).await?;
        if !let_it_flow(cx).await? {
            return Err(PortError::refused("set the migrations' triggers to fire for rows from blue")
                .because("one of those that are in the plan is not there")
                .hint("did somebody drop it on green?"));
        }
        Ok(Progress::Done)
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

/// Rows from blue wait, as long as there are triggers that they need: a trigger does not fire for applied rows until it is told to,
/// which can only be once it is there, and rows that a migration has copied or filled before it made its trigger would miss it.
async fn hold_the_flow(cx: &StepContext<'_>) -> Result<(), PortError> {
    if fire(cx).await? { Ok(()) } else { cx.ports.green.ensure_unsubscribed(&cx.plan.names.forward).await }
}

/// After each migration: rows flow again as soon as each trigger is there. False: one is not.
async fn let_it_flow(cx: &StepContext<'_>) -> Result<bool, PortError> {
    let fire = fire(cx).await?;
    if fire && !cx.plan.sync_triggers.is_empty() {
        cx.ports.green.ensure_subscribed(&cx.plan.names.forward).await?;
    }
    Ok(fire)
}

/// Sets the migrations' triggers to fire for rows from blue. False: one of them is not there yet.
async fn fire(cx: &StepContext<'_>) -> Result<bool, PortError> {
    if cx.plan.sync_triggers.is_empty() {
        return Ok(true);
    }
    cx.ports.green.ensure_sync_triggers(&cx.plan.sync_triggers, true).await
}

/// Applies what green has not.
pub(super) async fn migrate(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let total = cx.plan.migrations.len();
    let missing = missing(cx).await?;
    if !missing.is_empty() {
        // It lets us pass also where the run's secret had to be made anew.
        cx.ports.green.ensure_fence_installed().await?;
    }
    for (at, migration) in missing.iter().enumerate() {
        let what = format!("migration {} of {total}: {} {}", total - missing.len() + at + 1, migration.version, migration.name);
        (cx.progress)(&what);
        let took_ms = cx.ports.migrator.apply(migration, &percent(cx.progress, what)).await?;
        // A table that the migration made has no trigger of the fence yet.
        cx.ports.green.ensure_fence_installed().await?;
        let_it_flow(cx).await?;
        cx.learn(Fact::Migrated { version: migration.version.clone(), name: migration.name.clone(), took_ms }).await?;
    }
    Ok(())
}

/// Tells of a migration in batches, at each hundredth of it.
pub(super) fn percent(told: &(dyn Fn(&str) + Send + Sync), what: String) -> impl Fn(u64, u64) + Send + Sync {
    let last = AtomicU64::new(0);
    move |done: u64, all: u64| {
        // The whole is an estimate.
        let percent = (done * 100 / all.max(1)).min(99);
        if last.swap(percent, Ordering::Relaxed) != percent {
            told(&format!("{what}, {percent} %"));
        }
    }
}

async fn missing(cx: &StepContext<'_>) -> Result<Vec<Migration>, PortError> {
    let applied = cx.ports.migrator.applied().await?;
    let is_missing = |migration: &&Migration| !applied.iter().any(|done| migration.is_version(&done.version));
    Ok(cx.plan.migrations.iter().filter(is_missing).cloned().collect())
}

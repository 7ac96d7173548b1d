//! The end of the soak: everything that Greenlight made is taken down, and blue is retired. No way back from here.

use super::attach_green::leave_behind;
use super::{Observed, Progress, Step, StepContext, place, restored, routes};
use crate::plan::Strategy;
use crate::postgres::Fence;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Finish;

#[async_trait]
impl Step for Finish {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Every part is an `ensure_no_...`, looked for by name.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        // Asked once more where the first thing that cannot be taken back is done.
        let is_restored = cx.plan.strategy == Strategy::Restored;
        let is_retired = !is_restored && matches!(cx.ports.blue.fence().await, Ok(Fence::Connections));
        if !is_retired && let Some(astray) = routes::watch(cx, Side::Green).await? {
            let note = format!("every route to lead to green; ALARM: {astray}");
            return Ok(Progress::Pending { poll_after: Duration::from_secs(2), note });
        }
        // What `routes::hasten` has set is taken back where nobody looks any more.
        let routes = routes::tidy(cx).await;
        if is_restored {
            PortError::all([routes, restored::conclude(cx).await])?;
            return Ok(Progress::Done);
        }
        // A blue that does not answer must not leave green with a slot that keeps its WAL for nobody.
        let (blue, green) = (retire_blue(cx).await, tidy_green(cx).await);
        // After the last change: without a journal nothing is changed any more.
        if let Ok(Some((what, why))) = &blue {
            leave_behind(cx, Side::Blue, what, why).await?;
        }
        PortError::all([routes, blue.map(drop), green])?;
        Ok(Progress::Done)
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Err(PortError::refused("take `finish` back")
            .because("the ways back are gone")
            .hint("restore from a backup, or start a new run"))
    }
}

async fn tidy_green(cx: &StepContext<'_>) -> Result<(), PortError> {
    let (green, names) = (cx.server(Side::Green), &cx.plan.names);
    PortError::all([
        green.ensure_no_slot(&names.reverse).await,
        green.ensure_no_publication(&names.reverse).await,
        // A copy of blue's, which came with the standby.
        green.ensure_no_publication(&names.forward).await,
        green.ensure_no_subscription(&names.forward).await,
        green.ensure_sync_triggers(&cx.plan.sync_triggers, false).await.map(drop),
        green.ensure_unclaimed().await,
    ])
}

/// Blue keeps its data and takes no connections, so that nobody writes to it by mistake. `Some`: what is left there, and why.
async fn retire_blue(cx: &StepContext<'_>) -> Result<Option<(&'static str, String)>, PortError> {
    let (blue, names) = (cx.server(Side::Blue), cx.plan.names.clone());
    if let Some(why) = place::not_blue(cx).await? {
        return Ok(Some(("everything of this run", why)));
    }
    if blue.fence().await? == Fence::Connections {
        // A crash came between. To look inside would be to open it, so what is left inside is only said.
        blue.ensure_no_slot(&names.forward).await?;
        let what = "schema greenlight, a subscription or a publication, inside the closed database";
        return Ok(Some((what, "finish was interrupted; `greenlight sweep` lists them once it is opened".to_owned())));
    }
    let versions: Vec<String> = cx.plan.migrations.iter().map(|migration| migration.version.clone()).collect();
    // Nobody can look inside once it is closed.
    PortError::all([
        blue.ensure_no_slot(&names.forward).await,
        // It lets us pass also where the run's secret had to be made anew.
        blue.ensure_fence_installed().await,
        blue.ensure_no_subscription(&names.reverse).await,
        blue.ensure_no_publication(&names.forward).await,
        blue.ensure_history_without(&versions).await,
    ])?;
    blue.connect().await?;
    blue.ensure_fence(Fence::Connections).await?;
    blue.ensure_unclaimed().await?;
    Ok(None)
}

//! Claim blue for this run: schema `greenlight` with the marker, the fence, and the restore point. The fence is open here. It comes
//! before everything from which green is made or promoted, since green gets it by replay, and is closed by it from its first
//! moment: see `attach_green::close_ahead`.

use super::{Observed, Progress, Step, StepContext, attach_green::leave_behind, place, routes};
use crate::plan::Strategy;
use crate::postgres::Fence;
use crate::run::Fact;
use crate::word::{PortError, Side};
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct PrepareBlue;

#[async_trait]
impl Step for PrepareBlue {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        let claimed = cx.ports.blue.claim().await?.is_some_and(|run| run == cx.plan.run.as_str());
        Ok(match (claimed, restore_point_made(cx)) {
            (true, true) if cx.ports.snapshots.is_none() => Observed::Complete,
            (true, _) => Observed::Partial,
            (false, _) => Observed::Absent,
        })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        cx.ports.blue.ensure_claimed().await?;
        if cx.plan.strategy != Strategy::InPlace || cx.plan.restore_into.is_some() {
            cx.ports.blue.ensure_fence_installed().await?;
        }
        if !restore_point_made(cx) {
            // After a crash between the two there are two points of one name; recovery stops at the first, which is as good.
            let name = cx.plan.names.restore_point.clone();
            let lsn = cx.ports.blue.create_restore_point(&name).await?;
            cx.learn(Fact::RestorePoint { name, lsn }).await?;
        }
        if let Some(snapshots) = &cx.ports.snapshots {
            // The point is of use only once it is in the archive.
            snapshots.ensure_archived().await?;
        }
        routes::hasten(cx).await;
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let routes = routes::tidy(cx).await;
        if cx.run().serving() == Side::Green {
            // Taken back by a restore: blue stays closed, for what is to be looked for there.
            routes?;
            return Ok(Progress::Done);
        }
        if let Some(why) = place::not_blue(cx).await? {
            // It may be green, under blue's name: nothing is opened there.
            leave_behind(cx, Side::Blue, "schema greenlight with the fence, and the claim", &why).await?;
            routes?;
            return Ok(Progress::Done);
        }
        PortError::all([routes, cx.ports.blue.ensure_fence(Fence::Open).await])?;
        // By the claim it is seen that something is left.
        cx.ports.blue.ensure_unclaimed().await?;
        Ok(Progress::Done)
    }
}

fn restore_point_made(cx: &StepContext<'_>) -> bool {
    cx.run().facts.iter().any(|fact| matches!(fact, Fact::RestorePoint { .. }))
}

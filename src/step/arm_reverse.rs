//! Everything for the way back, made ahead of the window: publication and slot on green, the subscription on blue (not yet
//! enabled), and blue's fence triggers (not yet closed). The window then only closes the fence.

use super::{Observed, Progress, Step, StepContext, place};
use crate::postgres::published_reverse;
use crate::run::Fact;
use crate::word::{PortError, Side};
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct ArmReverse;

#[async_trait]
impl Step for ArmReverse {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Every part of it is an `ensure`, and going back each part is looked for by name.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        arm(cx).await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        disarm(cx).await?;
        Ok(Progress::Done)
    }
}

/// Makes all of it that is not there.
pub(super) async fn arm(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let (green, name) = (cx.server(Side::Green), cx.plan.names.reverse.clone());
    green.ensure_publication(&name, &published_reverse(&cx.plan.tables)).await?;
    if cx.run().slot_lsn(Side::Green).is_none() {
        let lsn = match green.slot(&name).await? {
            Some(slot) => slot.confirmed_flush,
            None => green.create_slot(&name).await?,
        };
        cx.learn(Fact::SlotMade { on: Side::Green, name: name.clone(), lsn }).await?;
    }
    cx.ports.blue.ensure_subscription(&name).await?;
    cx.ports.blue.ensure_fence_installed().await
}

/// Takes it away, but for the fence.
pub(super) async fn disarm(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let name = &cx.plan.names.reverse;
    let on_green = async {
        if place::leaves_green(cx).await? {
            return Ok(());
        }
        PortError::all([cx.ports.green.ensure_no_slot(name).await, cx.ports.green.ensure_no_publication(name).await])
    };
    PortError::all([cx.ports.blue.ensure_no_subscription(name).await, on_green.await])
}

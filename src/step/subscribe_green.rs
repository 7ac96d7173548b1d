//! Green follows blue logically from the fork point on: nothing twice, nothing missing, no row copied.

use super::{Observed, Progress, Step, StepContext, attach_green::drop_physical_slot, marker, place};
use crate::run::Fact;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct SubscribeGreen;

#[async_trait]
impl Step for SubscribeGreen {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        if cx.run().without_green {
            return Ok(Observed::Absent);
        }
        // Whether the first marker came through is not remembered, so a subscription is never more than partial here.
        let subscription = cx.ports.green.subscription(&cx.plan.names.forward).await?;
        Ok(if subscription.is_some() { Observed::Partial } else { Observed::Absent })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let green = cx.server(Side::Green);
        let name = cx.plan.names.forward.clone();
        let origin =
            cx.run().fork_point().ok_or_else(|| PortError::refused("subscribe green").because("its fork point is not known"))?;
        green.ensure_subscription(&name).await?;
        let started = cx.run().facts.iter().any(|fact| matches!(fact, Fact::FlowStarted { .. }));
        if !started {
            // Recorded before the subscription is enabled: setting the origin again after rows have flowed would repeat them.
            green.set_origin(&name, origin).await?;
            cx.learn(Fact::FlowStarted { subscriber: Side::Green, origin }).await?;
        }
        green.ensure_subscribed(&name).await?;
        drop_physical_slot(cx).await?;
        marker::awaited(cx, Side::Blue, Duration::from_secs(5), "the first marker from blue to arrive on green").await
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if !place::leaves_green(cx).await? {
            cx.ports.green.ensure_no_subscription(&cx.plan.names.forward).await?;
        }
        Ok(Progress::Done)
    }
}

//! Ahead of the freeze: blue's fence is in place, still open, and green has it too, since a standby gets it by replay alone.
//! In the pause the fence is then closed by one statement, and green comes up with it closed.

use super::{Observed, Progress, Step, StepContext, arm_reverse, attach_green, marker};
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct ArmFreeze;

#[async_trait]
impl Step for ArmFreeze {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Every part of it is an `ensure`, and going back each part is looked for by name.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let (blue, green) = (cx.server(Side::Blue), cx.server(Side::Green));
        if !green.identity().await?.in_recovery {
            return Err(PortError::refused("freeze blue for green")
                .because("green is no standby any more: somebody promoted it")
                .hint("rebuild green as a standby of blue, and start a new run"));
        }
        blue.ensure_fence_installed().await?;
        let fenced = blue.flush_wal().await?;
        if !marker::replays(cx, fenced, Duration::from_secs(5)).await? {
            let note = "green to replay blue's log".to_owned();
            return Ok(Progress::Pending { poll_after: Duration::from_secs(1), note });
        }
        // The pause will close the fence itself; this holds also when green is promoted otherwise.
        attach_green::close_ahead(cx).await?;
        Ok(Progress::Done)
    }

    /// Also what the freeze made, which is the window's to take back only as far as the writer goes.
    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if !cx.run().without_green {
            // A freeze that failed may have left a promotion under way there, which would come after it was looked for.
            cx.ports.green.ensure_sole_coordinator().await?;
        }
        let promoted = !cx.run().without_green && !cx.ports.green.identity().await?.in_recovery;
        if promoted {
            let follows = cx.ports.green.ensure_no_subscription(&cx.plan.names.forward).await;
            PortError::all([arm_reverse::disarm(cx).await, follows])?;
        } else {
            cx.ports.blue.ensure_no_subscription(&cx.plan.names.reverse).await?;
        }
        attach_green::give_green_up(cx).await?;
        Ok(Progress::Done)
    }
}

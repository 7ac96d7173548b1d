//! Publication and logical slot on blue. The slot's consistent point is where green's replay must have come to before it
//! may be promoted.

use super::{Observed, Progress, Step, StepContext};
use crate::postgres::published_whole;
use crate::run::Fact;
use crate::word::{PortError, Side};
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct PublishBlue;

#[async_trait]
impl Step for PublishBlue {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        let publication = cx.ports.blue.publication(&cx.plan.names.forward).await?;
        let slot = cx.ports.blue.slot(&cx.plan.names.forward).await?;
        Ok(match (publication, slot) {
            (None, None) => Observed::Absent,
            (Some(_), Some(_)) if cx.run().slot_lsn(Side::Blue).is_some() => Observed::Complete,
            _ => Observed::Partial,
        })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let name = cx.plan.names.forward.clone();
        cx.ports.blue.ensure_publication(&name, &published_whole(&cx.plan.tables)).await?;
        if cx.run().slot_lsn(Side::Blue).is_none() {
            // A slot that is there without the fact was made by a call whose answer was lost; nobody has used it since, so
            // it still stands at its consistent point.
            let lsn = match cx.ports.blue.slot(&name).await? {
                Some(slot) => slot.confirmed_flush,
                None => cx.ports.blue.create_slot(&name).await?,
            };
            cx.learn(Fact::SlotMade { on: Side::Blue, name, lsn }).await?;
        }
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let (blue, name) = (&cx.ports.blue, &cx.plan.names.forward);
        PortError::all([blue.ensure_no_slot(name).await, blue.ensure_no_publication(name).await])?;
        Ok(Progress::Done)
    }
}

//! Narrow the publication to what the migrated green can take, and see the change arrive before green is migrated: a
//! column list that comes after the `DROP COLUMN` does not help a transaction that is stuck already.

use super::{Observed, Progress, Step, StepContext, marker};
use crate::plan::StepName;
use crate::postgres::{published_forward, published_whole};
use crate::schema::Flow;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct NarrowFlow;

#[async_trait]
impl Step for NarrowFlow {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Whether the marker crossed after the change is not remembered; doing it again costs two statements.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let narrowed = published_forward(&cx.plan.tables);
        // A plan that was provisional has published what it now knows of as gone from green, too.
        let tried = cx.plan.step_no(StepName::ShadowGreen).is_some();
        if !tried && narrowed == published_whole(&cx.plan.tables) {
            return Ok(Progress::Done);
        }
        for flow in &cx.plan.tables {
            let Flow::Both(shared) = &flow.flow else { continue };
            if !shared.relax_on_green.is_empty() {
                // Rows that come without these columns would be refused until the migration has dropped them.
                cx.ports.green.ensure_not_null(&flow.table, &shared.relax_on_green, false).await?;
            }
        }
        cx.ports.blue.ensure_publication(&cx.plan.names.forward, &narrowed).await?;
        if tried {
            cx.ports.green.ensure_subscribed(&cx.plan.names.forward).await?;
        }
        marker::awaited(cx, Side::Blue, Duration::from_secs(5), "the narrowed flow to arrive on green").await
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        // Publication and subscription go with the steps that made them.
        Ok(Progress::Done)
    }
}

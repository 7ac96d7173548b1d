//! Statistics, materialized views and caches: a cold green is a slow green.

use super::{Observed, Progress, Step, StepContext};
use crate::schema::Flow;
use crate::word::{PortError, RelationName};
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct WarmGreen;

#[async_trait]
impl Step for WarmGreen {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        Ok(Observed::Absent)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let flowing = cx.plan.tables.iter().filter(|flow| matches!(flow.flow, Flow::Both(_)));
        let tables: Vec<RelationName> = flowing.map(|flow| flow.table.clone()).collect();
        let told = cx.progress;
        let progress = move |what: &str, done: u64, total: u64| told(&format!("{what}: {done} of {total}"));
        cx.ports.green.warm(&tables, &progress).await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

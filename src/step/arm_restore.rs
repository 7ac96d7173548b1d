//! Ahead of a change in place: blue can be restored to just before it, into the place that the playbook names. What would be in
//! the way is said now, and not when the restore is needed.

use super::snapshot::snapshots;
use super::{Observed, Progress, Step, StepContext};
use crate::run::Fact;
use crate::word::PortError;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct ArmRestore;

#[async_trait]
impl Step for ArmRestore {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Looking changes nothing, so there is nothing to find.
        Ok(Observed::Absent)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let point = cx.run().facts.iter().find_map(|fact| match fact {
            Fact::RestorePoint { name, lsn } => Some((name.clone(), *lsn)),
            _ => None,
        });
        let attempted = || PortError::refused("see that blue can be restored");
        let (name, lsn) = point.ok_or_else(|| attempted().because("the run has no restore point"))?;
        (cx.progress)("looking whether blue can be restored to here");
        snapshots(cx)?.ensure_restorable(&name, lsn).await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

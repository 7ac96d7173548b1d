//! Is blue what the migrations were to make of it? Its schema is the shadow's, and the playbook's assertions hold.

use super::{Observed, Progress, Step, StepContext, validate_green};
use crate::word::PortError;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct ValidateBlue;

#[async_trait]
impl Step for ValidateBlue {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Looking changes nothing, so there is nothing to find.
        Ok(Observed::Absent)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let started = cx.ports.clock.monotonic();
        match validate_green::compare(cx, started).await? {
            None => Ok(Progress::Done),
            // Applications work on it already: waiting would mend nothing.
            Some(differences) => Err(PortError::refused("see blue as the migrations were to make it").because(differences)),
        }
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

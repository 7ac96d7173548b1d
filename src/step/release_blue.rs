//! The end of a change in place: blue serves on, migrated, and nothing of the run's is left on it. From here on only the backup
//! leads back.

use super::{Observed, Progress, Step, StepContext, routes};
use crate::word::PortError;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct ReleaseBlue;

#[async_trait]
impl Step for ReleaseBlue {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // What there is to remove is looked for by name.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        PortError::all([cx.ports.blue.ensure_unclaimed().await, routes::tidy(cx).await])?;
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Err(PortError::refused("take the release of blue back")
            .because("the change is done and the run gave blue up")
            .hint(format!("`greenlight restore --to run:{}` makes a server as it was before", cx.plan.run)))
    }
}

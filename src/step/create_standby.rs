//! Make a physical standby of blue on this machine, where the playbook asks for it.

use super::{Observed, Progress, Step, StepContext};
use crate::provider::{Provider, StandbyState};
use crate::run::{Direction, Fact};
use crate::word::PortError;
use async_trait::async_trait;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct CreateStandby;

#[async_trait]
impl Step for CreateStandby {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        if cx.run().direction == Direction::Backward {
            // With the folder gone its slot may still be there.
            return Ok(Observed::Partial);
        }
        Ok(match provider(cx)?.standby().await? {
            StandbyState::Absent | StandbyState::NotOurs => Observed::Absent,
            StandbyState::Partial | StandbyState::Stopped => Observed::Partial,
            StandbyState::Running => Observed::Complete,
        })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let provider = provider(cx)?;
        let spec = cx.plan.standby.clone().ok_or_else(not_planned)?;
        match provider.standby().await? {
            StandbyState::NotOurs => {
                return Err(PortError::refused(format!("make a standby in `{}`", spec.data_dir.display()))
                    .because("the folder holds files that this run did not put there")
                    .hint("name an empty folder in `green.create.data_dir`, or empty this one"));
            }
            StandbyState::Running => {}
            StandbyState::Stopped => provider.start_standby().await?,
            StandbyState::Absent | StandbyState::Partial => {
                let told = cx.progress;
                provider.make_standby(&move |done, all| told(&copied(done, all))).await?;
            }
        }
        let (data_dir, slot) = (spec.data_dir.display().to_string(), cx.plan.names.standby_slot.clone());
        cx.learn(Fact::StandbyMade { data_dir, slot }).await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        // A standby that could not be removed must not make blue keep its WAL.
        let removed = provider(cx)?.remove_standby().await;
        PortError::all([removed, cx.ports.blue.ensure_no_slot(&cx.plan.names.standby_slot).await])?;
        Ok(Progress::Done)
    }
}

fn provider(cx: &StepContext<'_>) -> Result<Arc<dyn Provider>, PortError> {
    cx.ports.provider.clone().ok_or_else(not_planned)
}

/// The whole is what the server estimated at the beginning, and may be passed.
fn copied(done_bytes: u64, all_bytes: u64) -> String {
    let percent = (done_bytes.saturating_mul(100)).checked_div(all_bytes).unwrap_or(0).min(100);
    format!("copying blue: {} of {} MB, {percent} %", done_bytes >> 20, all_bytes >> 20)
}

fn not_planned() -> PortError {
    PortError::refused("make a standby").because("the plan does not say where")
}

//! Try the migrations in a scratch database on green, where they could not be tried before the run, and learn what follows.
//! The subscription and the fence are another database's, and are not concerned.

use super::{Observed, Progress, Step, StepContext, place};
use crate::run::{Direction, Fact};
use crate::word::PortError;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct ShadowGreen;

#[async_trait]
impl Step for ShadowGreen {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        if cx.run().without_green {
            return Ok(Observed::Absent);
        }
        // What was learned was learned after the scratch database was gone. Otherwise it may be there, and is made anew.
        let complete = cx.run().direction == Direction::Forward && cx.run().is_judged();
        Ok(if complete { Observed::Complete } else { Observed::Partial })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if cx.run().is_judged() {
            return Ok(Progress::Done);
        }
        (cx.progress)("trying the migrations in a scratch database on green");
        let tried = cx.ports.shadow.judge(cx.plan).await;
        // Whatever came of it.
        let gone = cx.ports.shadow.ensure_gone().await;
        let work = tried?;
        gone?;
        let refused: Vec<_> = work.refused().collect();
        if !refused.is_empty() {
            let seen: Vec<String> = refused.iter().map(|(finding, _)| format!("{}: {}", finding.code, finding.seen)).collect();
            let remedies: Vec<&str> = refused.iter().map(|(_, remedy)| *remedy).collect();
            return Err(PortError::refused("go on with the migrations as they are")
                .because(seen.join("; "))
                .hint(format!("{}; then begin a new run", remedies.join("; "))));
        }
        cx.learn(Fact::Judged { work: Box::new(work) }).await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if !place::leaves_green(cx).await? {
            cx.ports.shadow.ensure_gone().await?;
        }
        Ok(Progress::Done)
    }
}

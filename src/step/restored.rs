//! A server that was restored from blue's backup takes blue's place. What blue took since that point is not on it, and no row
//! flows from one to the other: blue is left closed for writes, and readable, for `greenlight salvage`.

use super::attach_green::{close_ahead, give_green_up, leave_behind, put_configuration_back};
use super::snapshot::{copied, snapshots};
use super::{Observed, Progress, Step, StepContext, fenced, validate_green, window};
use crate::postgres::Fence;
use crate::run::Fact;
use crate::schema::Fingerprint;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use tokio::try_join;

/// A green that was there before the run.
#[derive(Debug)]
pub(super) struct AttachRestored;

#[async_trait]
impl Step for AttachRestored {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Every part is an `ensure`, looked for by name.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        attach(cx).await?;
        let started = cx.ports.clock.monotonic();
        match validate_green::compare(cx, started).await? {
            None => Ok(Progress::Done),
            // Nothing flows to it: waiting would mend nothing.
            Some(differences) => Err(PortError::refused("see the restored green as it must be").because(differences)),
        }
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if cx.run().without_green {
            give_green_up(cx).await?;
            return Ok(Progress::Done);
        }
        // With the claim go the fence's triggers: it is as it was, and nobody is led there.
        cx.ports.green.ensure_unclaimed().await?;
        Ok(Progress::Done)
    }
}

/// Makes a restored server the run's green: seen to be a copy of blue on a timeline of its own, claimed, and closed for writes.
async fn attach(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let (blue, green) = (cx.server(Side::Blue), cx.server(Side::Green));
    let (old, new) = try_join!(blue.identity(), green.identity())?;
    let why_not = if new.system_identifier != old.system_identifier {
        Some(("it is no copy of blue: their system identifiers differ", "name the restored server in `green.url`"))
    } else if new.in_recovery {
        Some(("it is still in recovery", "look at it, and open it with `greenlight restore --promote`"))
    } else if new.timeline == old.timeline {
        Some(("it writes the same timeline as blue", "a restored server has one of its own: see which server `green.url` names"))
    } else {
        None
    };
    if let Some((why, hint)) = why_not {
        return Err(PortError::refused("take green for a restored server").because(why).hint(hint));
    }
    if cx.run().fork_point().is_none() {
        let fork = green.fork_point().await?;
        cx.learn(Fact::Promoted { fork: fork.lsn, timeline: fork.timeline }).await?;
    }
    // The claim before the fence: with it comes the fence's function, open.
    green.ensure_claimed().await?;
    green.ensure_fence(Fence::Triggers).await?;
    put_configuration_back(cx).await?;
    fenced(&green, Side::Green).await
}

/// Takes a change in place back: blue's backup is restored to the run's restore point, and the writer moves there. Called again
/// until it says `Done`; whatever was done already is not done again.
pub(super) async fn take_back(cx: &mut StepContext<'_>, before: &Fingerprint) -> Result<Progress, PortError> {
    if cx.run().serving() == Side::Blue && cx.run().open_window().is_none() {
        bring_up(cx).await?;
        let differs = before.changes(&cx.ports.green.schema_fingerprint().await?);
        if !differs.is_empty() {
            return Err(PortError::refused("see the restored server as blue was before the migrations").because(differs));
        }
    }
    let progress = window::to_restored(cx).await?;
    if progress == Progress::Done {
        conclude(cx).await?;
        let what = "archiving, subscriptions and pg_cron jobs, turned off by the restore";
        let why = "set `archive_mode`, `max_logical_replication_workers` and `cron.launch_active_jobs` to what they are to be, and \
                   take a backup: until then it cannot be recovered to a point in time";
        leave_behind(cx, Side::Green, what, why).await?;
    }
    Ok(progress)
}

async fn bring_up(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    if cx.run().fork_point().is_none() {
        let snapshots = snapshots(cx)?;
        let told = cx.progress;
        let progress = move |what: &str, done: u64, all: u64| told(&copied(what, done, all));
        let restored = snapshots.restore(&cx.plan.names.restore_point, &progress).await?;
        if let Some(restored) = restored.filter(|_| !cx.run().has_restored()) {
            let fact = Fact::Restored { place: restored.place, replayed: restored.replayed, last_commit: restored.last_commit };
            cx.learn(fact).await?;
        }
        crate::failpoint!("restored");
        let green = cx.server(Side::Green);
        if green.identity().await?.in_recovery {
            // Nobody is led there; this keeps those out who find it. It has blue's fence, which was made before the restore point.
            close_ahead(cx).await?;
        }
        snapshots.promote_restored().await?;
        crate::failpoint!("restored-promoted");
    }
    attach(cx).await
}

/// Of a restore that is not gone on with: the server takes no connections, and is left for a person to look at.
pub(super) async fn give_up(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    give_green_up(cx).await?;
    let place = cx.run().facts.iter().find_map(|fact| match fact {
        Fact::Restored { place, .. } => Some(place.clone()),
        _ => None,
    });
    leave_behind(cx, Side::Green, &format!("the restored server in {}", place.unwrap_or_default()), "stop and remove it by hand")
        .await
}

/// Green serves: nothing of the run's is left on it, and what is left on blue is said.
pub(super) async fn conclude(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    cx.ports.green.ensure_unclaimed().await?;
    let what = "all of its data, readable and closed for writes by schema greenlight";
    let why = "`greenlight salvage` finds there what green has not; `greenlight sweep --remove` takes the fence away";
    leave_behind(cx, Side::Blue, what, why).await
}

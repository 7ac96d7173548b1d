//! Turn the physical standby into a server of its own, at a known place in blue's history, closed from its first moment.

use super::{Observed, Progress, Step, StepContext, fenced, place};
use crate::postgres::{Fence, Server};
use crate::run::{Direction, Fact};
use crate::word::{Failure, Lsn, PortError, Side};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

#[derive(Debug)]
pub(super) struct AttachGreen;

#[async_trait]
impl Step for AttachGreen {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        if cx.run().without_green {
            // What is left behind is still to be said.
            return Ok(Observed::Partial);
        }
        // What was inherited may run still, and the read-only default may be on: doing all of it again costs little.
        Ok(match (cx.run().direction, cx.ports.green.identity().await?.in_recovery) {
            (Direction::Forward, true) => Observed::Absent,
            (Direction::Forward, false) | (Direction::Backward, _) => Observed::Partial,
        })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let green = cx.server(Side::Green);
        let start = cx
            .run()
            .slot_lsn(Side::Blue)
            .ok_or_else(|| PortError::refused("attach green").because("blue's slot has no known start"))?;
        if green.identity().await?.in_recovery {
            let wait = |note: String| Ok(Progress::Pending { poll_after: Duration::from_millis(200), note });
            if green.replay_lsn().await? < start {
                return wait(format!("green to replay blue's log up to {start}"));
            }
            // A table that came since blue was prepared has no fence yet, and green would come up with it open.
            cx.ports.blue.ensure_fence_installed().await?;
            if let Some(table) = green.unfenced_tables().await?.first() {
                return wait(format!("green to replay blue's fence of {table}"));
            }
            close_ahead(cx).await?;
            green.promote().await?;
        }
        become_a_server(cx, start).await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        give_green_up(cx).await?;
        Ok(Progress::Done)
    }
}

/// Closes a green that is a standby still: whoever says READ WRITE to it is refused from the moment in which it is promoted. It has
/// blue's fence by replay, which is open on blue, and refuses where the run's mark is in the server's configuration.
pub(super) async fn close_ahead(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let green = cx.server(Side::Green);
    if cx.run().green_marked().is_none() {
        let own = green.setting_under_mark().await?;
        cx.learn(Fact::GreenMarked { own }).await?;
    }
    green.ensure_marked().await?;
    // The honest ones are kept from what a fence leaves open, too.
    green.ensure_read_only_default(true).await?;
    match green.fence().await? {
        Fence::Marked | Fence::Triggers | Fence::Connections => Ok(()),
        Fence::Open => Err(PortError::transient("see green closed ahead of its promotion").because("it has no fence of blue's")),
    }
}

/// What `close_ahead` set in green's configuration, as it was. Only once another fence stands, or none is needed.
pub(super) async fn put_configuration_back(cx: &StepContext<'_>) -> Result<(), PortError> {
    let own = match cx.run().green_marked() {
        Some(Fact::GreenMarked { own }) => own.as_deref(),
        _ => None,
    };
    PortError::all([cx.ports.green.ensure_unmarked(own).await, cx.ports.green.ensure_read_only_default(false).await])
}

/// A green that was promoted is closed and left to be rebuilt; one that was not is a standby as before.
pub(super) async fn give_green_up(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    if cx.run().without_green {
        return leave_green(cx, "the run was abandoned without green").await;
    }
    let green = cx.server(Side::Green);
    let now = green.identity().await?;
    let mut stranger = place::another_cluster(cx, now.system_identifier, Side::Green);
    if stranger.is_none() && !now.in_recovery {
        stranger = place::not_green(cx).await?;
        if stranger.is_none() && green.signature().await? == cx.ports.blue.signature().await? {
            stranger = Some("blue itself answers at green's address".to_owned());
        }
    }
    if let Some(why) = stranger {
        return leave_green(cx, &why).await;
    }
    if now.in_recovery {
        put_configuration_back(cx).await?;
        if cx.run().fork_point().is_none() {
            return Ok(());
        }
        // It may stream by its slot on blue again, which is left alone therefore.
        let why = "green was made a standby again by somebody else; it goes when green is rebuilt from blue";
        return leave_behind(cx, Side::Green, "everything that the run made there", why).await;
    }
    // A promoted server cannot become a standby again; left open, it would be a second primary. It takes no
    // connections from here on.
    let closed = async {
        if green.fence().await? != Fence::Connections {
            green.connect().await?;
            green.ensure_fence(Fence::Connections).await?;
            green.ensure_unclaimed().await?;
        }
        put_configuration_back(cx).await
    }
    .await;
    PortError::all([closed, drop_physical_slot(cx).await])?;
    let what = "a promoted copy of blue that takes no connections";
    leave_behind(cx, Side::Green, what, "rebuild it as a standby before the next run").await
}

/// Takes away on blue what only green needed, and nothing on green.
async fn leave_green(cx: &mut StepContext<'_>, why: &str) -> Result<(), PortError> {
    if cx.run().fork_point().is_some() {
        drop_physical_slot(cx).await?;
    } else if let Some(slot) = physical_slot(cx) {
        let why = "whether green was promoted is not known; drop it if green does not come back as a standby";
        leave_behind(cx, Side::Blue, &format!("physical slot {slot}"), why).await?;
    }
    leave_behind(cx, Side::Green, "everything that the run made there", why).await
}

/// What follows a promotion, once blue's log was replayed up to `start`: the place is on record, and green is fenced.
pub(super) async fn become_a_server(cx: &mut StepContext<'_>, start: Lsn) -> Result<(), PortError> {
    let fork = cx.ports.green.fork_point().await?;
    if fork.lsn < start {
        // Somebody else promoted it earlier: what blue committed in between is neither on green nor in the slot.
        return Err(PortError::refused("attach green")
            .because(format!("green left blue's history at {}, before {start}, to which it must have come", fork.lsn))
            .hint("rebuild green as a standby of blue, and start a new run"));
    }
    if cx.run().fork_point().is_none() {
        let blues = cx.ports.blue.identity().await?.timeline;
        if fork.parent != blues {
            return Err(PortError::refused("attach green")
                .because(format!("green left timeline {} at {}, and blue is on timeline {blues}", fork.parent, fork.lsn))
                .hint("rebuild green as a standby of blue, and start a new run"));
        }
        cx.learn(Fact::Promoted { fork: fork.lsn, timeline: fork.timeline }).await?;
    }
    stop_what_was_inherited(cx).await
}

/// While nobody can enter, no apply worker can start: what was inherited is stopped before green takes connections again.
/// Only a coordinator that died in between, and its session inside with it, leaves it to be stopped a moment after.
async fn stop_what_was_inherited(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let green = cx.server(Side::Green);
    let fence = green.fence().await?;
    if fence != Fence::Triggers && is_let_in(&green, fence).await? {
        if fence != Fence::Connections {
            green.ensure_fence(Fence::Connections).await?;
        }
        stop_subscriptions(cx, &green).await?;
    }
    green.ensure_fence(Fence::Triggers).await?;
    stop_subscriptions(cx, &green).await?;
    put_configuration_back(cx).await?;
    fenced(&green, Side::Green).await
}

/// Whether this process has a session inside, opened now if the door is open.
async fn is_let_in(green: &Arc<dyn Server>, fence: Fence) -> Result<bool, PortError> {
    match green.connect().await {
        Ok(()) => Ok(true),
        Err(error) if fence == Fence::Connections && error.failure == Failure::Refused => Ok(false),
        Err(error) => Err(error),
    }
}

async fn stop_subscriptions(cx: &mut StepContext<'_>, green: &Arc<dyn Server>) -> Result<(), PortError> {
    for subscription in &cx.plan.inherited_subscriptions {
        green.ensure_inherited_stopped(subscription).await?;
        let fact = Fact::InheritedStopped { what: format!("subscription {subscription}") };
        if !cx.run().facts.contains(&fact) {
            cx.learn(fact).await?;
        }
    }
    Ok(())
}

/// A promoted green reads its physical slot on blue no more: left there, it would make blue keep its WAL for ever.
pub(super) async fn drop_physical_slot(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let Some(name) = physical_slot(cx) else { return Ok(()) };
    cx.ports.blue.ensure_no_slot(&name).await?;
    let fact = Fact::PhysicalSlotDropped { name };
    if cx.run().facts.contains(&fact) { Ok(()) } else { cx.learn(fact).await }
}

fn physical_slot(cx: &StepContext<'_>) -> Option<String> {
    let made_by_us = cx.plan.standby.as_ref().map(|_| cx.plan.names.standby_slot.clone());
    made_by_us.or_else(|| cx.plan.green_physical_slot.clone())
}

pub(super) async fn leave_behind(cx: &mut StepContext<'_>, on: Side, what: &str, why: &str) -> Result<(), PortError> {
    let fact = Fact::LeftBehind { on, what: what.to_owned(), why: why.to_owned() };
    if cx.run().facts.contains(&fact) { Ok(()) } else { cx.learn(fact).await }
}

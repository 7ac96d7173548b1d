//! What must be so before anybody is paused. Unknown is never good: whatever cannot be read keeps the window shut.

use super::routes;
use crate::plan::{LongTransactions, Plan, Strategy, direct_sessions};
use crate::postgres::{Fence, FenceProbe, SequenceValue, Server, SubscriptionState, sequences_unreadable};
use crate::run::Fact;
use crate::schema::Fingerprint;
use crate::step::{StepContext, marker, place, stuck};
use crate::word::{PortError, Side};
use std::{sync::Arc, time::Duration};

/// `Some`: why the window does not open now. What it changes is harmless and for both outcomes: sequences moved on,
/// the waiting slot moved up, connections opened.
pub(super) async fn look(cx: &mut StepContext<'_>, to: Side) -> Result<Option<String>, PortError> {
    let from = to.other();
    if let (Side::Blue, Some(reason)) = (to, cx.run().way_back_given_up()) {
        return Err(PortError::refused("move back to blue").because(format!("the way back was given up: {reason}")));
    }
    connect(cx).await?;
    if let Some(lost) = place::lost(cx).await? {
        return Err(lost.refusal(&format!("move to {to}")));
    }
    if to == Side::Blue {
        // Before it is mended.
        note_broken_fence(cx).await?;
    }
    if let Some(why) = routes::ready(cx, from).await? {
        return Ok(Some(why));
    }
    if let Some(why) = fences_ready(cx, from, to).await? {
        return Ok(Some(why));
    }
    if let Some(why) = drift(cx, to).await? {
        return Ok(Some(why));
    }
    if let Some(why) = transactions(cx, from).await? {
        return Ok(Some(why));
    }
    // The slot that `from` will follow has kept everything since the last window; moved up now, it has little to read in
    // the pause. Sequences likewise.
    let (old, new) = (cx.server(from), cx.server(to));
    if cx.plan.strategy == Strategy::Sync {
        let at = new.flush_wal().await?;
        new.advance_slot(cx.plan.names.flow_from(to), at).await?;
    }
    let sequences = old.sequences().await?;
    if let Some(why) = sequences_known(&sequences, from) {
        return Ok(Some(why));
    }
    new.set_sequences(&sequences, cx.plan.window.sequence_margin).await?;
    flow_is_close(cx, from).await
}

/// The same for a freeze: green is blue's standby, close behind, and stays one until the pause.
pub(super) async fn look_before_freeze(cx: &mut StepContext<'_>) -> Result<Option<String>, PortError> {
    let (blue, green) = (cx.server(Side::Blue), cx.server(Side::Green));
    connect(cx).await?;
    // The promotion of an earlier try may be under way still.
    green.ensure_sole_coordinator().await?;
    if !green.identity().await?.in_recovery {
        return Err(PortError::refused("freeze blue for green")
            .because("green was promoted already, by a freeze that did not come to its end or by somebody else")
            .hint("rebuild green as a standby of blue, and start a new run"));
    }
    if let Some(lost) = place::lost(cx).await? {
        return Err(lost.refusal("freeze blue for green"));
    }
    if let Some(why) = routes::ready(cx, Side::Blue).await? {
        return Ok(Some(why));
    }
    blue.ensure_fence_installed().await?;
    if blue.fence().await? != Fence::Open {
        return Ok(Some("blue is fenced, though it serves".to_owned()));
    }
    if let Some(why) = blue_drift(cx).await? {
        return Ok(Some(why));
    }
    if let Some(why) = transactions(cx, Side::Blue).await? {
        return Ok(Some(why));
    }
    let behind = blue.wal_lsn().await?.bytes_since(green.replay_lsn().await?);
    let most = cx.plan.window.max_lag_bytes;
    Ok((behind > most).then(|| format!("green's replay to come within {most} bytes of blue")))
}

pub(super) async fn connect(cx: &StepContext<'_>) -> Result<(), PortError> {
    cx.ports.blue.connect().await?;
    cx.ports.green.connect().await?;
    futures_util::future::try_join_all(cx.ports.routes.iter().map(|route| route.router.connect())).await?;
    Ok(())
}

/// Those on this side who come by no route. The routes are asked before and after, since they open and close sessions meanwhile.
pub(super) async fn say_who_is_cut_off(cx: &mut StepContext<'_>, from: Side) -> Result<(), PortError> {
    let Some(mut by_routes) = by_routes(cx).await? else { return Ok(()) };
    let seen = cx.server(from).client_sessions().await?;
    by_routes.extend(self::by_routes(cx).await?.unwrap_or_default());
    let sessions = direct_sessions(&seen, &by_routes);
    let last = cx.run().facts.iter().rev().find_map(|fact| match fact {
        Fact::DirectSessions { on, sessions } if *on == from => Some(sessions),
        _ => None,
    });
    if last.map_or(sessions.is_empty(), |last| *last == sessions) {
        return Ok(());
    }
    cx.learn(Fact::DirectSessions { on: from, sessions }).await
}

/// `None`: there is no route, or one that cannot tell.
async fn by_routes(cx: &StepContext<'_>) -> Result<Option<Vec<i32>>, PortError> {
    let mut pids = Vec::new();
    for route in &cx.ports.routes {
        match route.router.server_pids().await? {
            Some(of_route) => pids.extend(of_route),
            None => return Ok(None),
        }
    }
    Ok((!cx.ports.routes.is_empty()).then_some(pids))
}

pub(super) async fn fences_ready(cx: &StepContext<'_>, from: Side, to: Side) -> Result<Option<String>, PortError> {
    let (old, new) = (cx.server(from), cx.server(to));
    old.ensure_fence_installed().await?;
    new.ensure_fence_installed().await?;
    if old.fence().await? != Fence::Open {
        return Ok(Some(format!("{from} is fenced, though it serves")));
    }
    if new.fence().await? != Fence::Triggers {
        return Ok(Some(format!("{to} is not fenced")));
    }
    Ok(match new.probe_fence().await? {
        FenceProbe::Holds => None,
        FenceProbe::Leaks { how } => Some(format!("{to}'s fence leaks: {how}")),
    })
}

/// DDL by others since planning. It would stop the flow, or be lost. Going back, blue is not compared: the run itself
/// relaxed its columns, and whether rows fit there is seen by what arrives.
async fn drift(cx: &StepContext<'_>, to: Side) -> Result<Option<String>, PortError> {
    if to == Side::Green
        && let Some(why) = blue_drift(cx).await?
    {
        return Ok(Some(why));
    }
    let why = |changes| format!("green's schema to be as it was planned: somebody changed it since ({changes})");
    Ok(changes_of_green(cx.plan, &cx.ports.green).await?.map(why))
}

/// What is otherwise than the migrations left it.
pub async fn changes_of_green(plan: &Plan, green: &Arc<dyn Server>) -> Result<Option<String>, PortError> {
    let Some(planned) = &plan.green_fingerprint else { return Ok(None) };
    changes(plan, planned, green).await
}

/// Large objects, which do not flow, are a change where there were none.
async fn changes(plan: &Plan, planned: &Fingerprint, server: &Arc<dyn Server>) -> Result<Option<String>, PortError> {
    let now = server.schema_fingerprint().await?;
    let mut changes = Vec::from_iter((now != *planned).then(|| planned.changes(&now)));
    if plan.strategy == Strategy::Sync && plan.is_without_large_objects() && server.has_large_objects().await? {
        changes.push("large objects added".to_owned());
    }
    Ok((!changes.is_empty()).then(|| changes.join(", ")))
}

async fn blue_drift(cx: &StepContext<'_>) -> Result<Option<String>, PortError> {
    let why = |changes| format!("blue's schema to be as it was planned again: somebody changed it since ({changes})");
    Ok(changes_of_blue(cx).await?.map(why))
}

/// Looks whether somebody could write to blue since it follows green, and puts on record what is seen the first time. DDL, which
/// passes a fence of triggers, is seen by what it changed.
pub(super) async fn note_broken_fence(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let mut seen = cx.ports.blue.fence_damage().await?;
    seen.extend(changes_of_blue(cx).await?.map(|changes| format!("blue's schema was changed ({changes})")));
    for how in seen {
        if !cx.run().fence_broken().any(|(_, known)| known == how) {
            cx.learn(Fact::FenceBroken { seen_at: cx.ports.clock.now(), how }).await?;
        }
    }
    Ok(())
}

async fn changes_of_blue(cx: &StepContext<'_>) -> Result<Option<String>, PortError> {
    let learned = cx.run().facts.iter().rev().find_map(|fact| match fact {
        Fact::BlueFingerprint { fingerprint } => Some(fingerprint.clone()),
        _ => None,
    });
    let planned = learned.unwrap_or_else(|| cx.plan.blue_fingerprint.clone());
    changes(cx.plan, &planned, &cx.ports.blue).await
}

pub(super) async fn transactions(cx: &StepContext<'_>, from: Side) -> Result<Option<String>, PortError> {
    let server = cx.server(from);
    let prepared = server.prepared_transactions().await?;
    if !prepared.is_empty() {
        return Ok(Some(format!("the prepared transactions on {from} to be committed or rolled back: {}", prepared.join(", "))));
    }
    let long = server.long_transactions(Duration::from_millis(cx.plan.window.transaction_age_max_ms)).await?;
    if long.is_empty() {
        return Ok(None);
    }
    match cx.plan.window.long_transactions {
        LongTransactions::Wait => {
            let who: Vec<String> =
                long.iter().map(|transaction| format!("pid {} ({})", transaction.pid, transaction.who)).collect();
            Ok(Some(format!("long transactions on {from} to end: {}", who.join(", "))))
        }
        LongTransactions::Cancel => {
            let pids: Vec<i32> = long.iter().map(|transaction| transaction.pid).collect();
            server.cancel_transactions(&pids).await?;
            Ok(None)
        }
    }
}

/// Not to be allowed to read where a sequence stands is not to know it: carried over as unused, it would give the same values again.
pub(super) fn sequences_known(sequences: &[SequenceValue], on: Side) -> Option<String> {
    let unreadable = sequences_unreadable(sequences);
    let first = unreadable.first()?;
    Some(format!(
        "the right to read where {} of {on}'s sequences stand: GRANT SELECT ON SEQUENCE {} TO <greenlight's role> there",
        unreadable.len(),
        first.sql()
    ))
}

async fn flow_is_close(cx: &StepContext<'_>, from: Side) -> Result<Option<String>, PortError> {
    let (old, new) = (cx.server(from), cx.server(from.other()));
    let name = cx.plan.names.flow_from(from);
    let Some(subscription) = new.subscription(name).await? else {
        return Ok(Some(format!("{} does not follow {from}: its subscription is gone", from.other())));
    };
    if !subscription.enabled {
        // A window that went back may have left it so.
        new.ensure_subscribed(name).await?;
    }
    let followed = SubscriptionState { enabled: true, ..subscription };
    if let Some(stuck) = stuck(cx.ports, from.other(), &followed).await {
        return Ok(Some(format!("{} to follow {from}: {}", from.other(), stuck.why())));
    }
    if !marker::crosses(cx, from, cx.plan.window.max_pause() / 2).await? {
        return Ok(Some(format!("{} to catch up with {from}", from.other())));
    }
    let Some(slot) = old.slot(name).await? else {
        return Ok(Some(format!("{from}'s slot is gone")));
    };
    let lag = old.wal_lsn().await?.bytes_since(slot.confirmed_flush);
    Ok((lag > cx.plan.window.max_lag_bytes)
        .then(|| format!("{}'s lag to come under {} bytes", from.other(), cx.plan.window.max_lag_bytes)))
}

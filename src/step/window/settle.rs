//! After the pause: the side that no longer serves is fenced in the way that lets changes in, follows the serving one, and
//! every route is read through.

use crate::plan::{StepName, Strategy};
use crate::postgres::{Fence, FenceProbe};
use crate::run::Fact;
use crate::schema::Flow;
use crate::step::{Progress, StepContext, attach_green, marker, routes};
use crate::word::{Failure, PortError, Side};
use std::time::Duration;

pub(super) async fn follow_back(cx: &mut StepContext<'_>, serving: Side) -> Result<Progress, PortError> {
    let follower = serving.other();
    let server = cx.server(follower);
    server.ensure_fence(Fence::Triggers).await?;
    crate::failpoint!("settle-fenced");
    if cx.plan.strategy == Strategy::Freeze {
        attach_green::drop_physical_slot(cx).await?;
    }
    match serving {
        Side::Green => relax_blue(cx).await?,
        Side::Blue => restore_blue(cx).await?,
    }
    // It begins where the commit point says: after the changes that came from the follower itself. The place is the
    // subscription's, which is durable; that of a slot may go back in a crash, and the follower would get its own rows again.
    let name = cx.plan.names.flow_from(serving);
    if !server.subscription(name).await?.is_some_and(|subscription| subscription.enabled) {
        let follow_from = cx.run().follow_from().expect("the writer moved at a commit point");
        server.set_origin(name, follow_from).await?;
    }
    server.ensure_subscribed(name).await?;
    crate::failpoint!("settle-subscribed");
    if let FenceProbe::Leaks { how } = server.probe_fence().await? {
        return Err(PortError::transient(format!("keep {follower} fenced")).because(how));
    }
    routes_answer(cx, serving).await?;
    if !marker::crosses(cx, serving, Duration::from_secs(5)).await? {
        let note = format!("the first marker from {serving} to arrive on {follower}");
        return Ok(Progress::Pending { poll_after: Duration::from_secs(1), note });
    }
    if !cx.run().follows_back() {
        cx.learn(Fact::FollowsBack { follower }).await?;
    }
    pools_are_served(cx, serving).await?;
    Ok(Progress::Done)
}

/// No soak watches the routes on the way back: their pools are looked at for a moment, and what is wrong is said.
async fn pools_are_served(cx: &mut StepContext<'_>, serving: Side) -> Result<(), PortError> {
    if serving == Side::Green && cx.plan.step_no(StepName::Soak).is_some() {
        return Ok(());
    }
    for _ in 0..3 {
        cx.ports.clock.sleep(Duration::from_millis(700)).await;
        routes::watch(cx, serving).await?;
    }
    Ok(())
}

/// The side that no longer serves follows nobody: it is kept as it is, for reading.
pub(super) async fn leave_fenced(cx: &mut StepContext<'_>, left: Side) -> Result<Progress, PortError> {
    let server = cx.server(left);
    server.ensure_fence(Fence::Triggers).await?;
    crate::failpoint!("settle-fenced");
    if left == Side::Green {
        restore_blue(cx).await?;
    }
    if let FenceProbe::Leaks { how } = server.probe_fence().await? {
        return Err(PortError::transient(format!("keep {left} fenced")).because(how));
    }
    routes_answer(cx, left.other()).await?;
    pools_are_served(cx, left.other()).await?;
    Ok(Progress::Done)
}

/// Rows that come back from green have no value for the columns that the migration dropped.
async fn relax_blue(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let mut relaxed = false;
    for flow in &cx.plan.tables {
        let Flow::Both(shared) = &flow.flow else { continue };
        if !shared.relax_on_blue.is_empty() {
            cx.ports.blue.ensure_not_null(&flow.table, &shared.relax_on_blue, false).await?;
            relaxed = true;
        }
    }
    // Once a window: what is another's doing later is to be seen.
    let since = cx.run().facts.iter().rposition(|fact| matches!(fact, Fact::WindowCommitted { .. })).unwrap_or(0);
    if relaxed && !cx.run().facts[since..].iter().any(|fact| matches!(fact, Fact::BlueFingerprint { .. })) {
        let fingerprint = cx.ports.blue.schema_fingerprint().await?;
        cx.learn(Fact::BlueFingerprint { fingerprint }).await?;
    }
    Ok(())
}

/// Blue serves again: NOT NULL is put back where all rows have a value, and said where they have not.
pub(super) async fn restore_blue(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    let mut relaxed = false;
    for flow in &cx.plan.tables {
        let Flow::Both(shared) = &flow.flow else { continue };
        if shared.relax_on_blue.is_empty() {
            continue;
        }
        relaxed = true;
        match cx.ports.blue.ensure_not_null(&flow.table, &shared.relax_on_blue, true).await {
            Ok(()) => {}
            Err(error) if error.failure == Failure::Refused => {
                let fact = Fact::LeftBehind {
                    on: Side::Blue,
                    what: format!("{} ({}) without NOT NULL", flow.table, shared.relax_on_blue.join(", ")),
                    why: "rows written on green have no value there".to_owned(),
                };
                if !cx.run().facts.contains(&fact) {
                    cx.learn(fact).await?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    if relaxed {
        let fingerprint = cx.ports.blue.schema_fingerprint().await?;
        cx.learn(Fact::BlueFingerprint { fingerprint }).await?;
    }
    Ok(())
}

/// Read through each route which server answers, before the run believes it.
async fn routes_answer(cx: &StepContext<'_>, serving: Side) -> Result<(), PortError> {
    routes::help(cx).await;
    let expected = cx.ports.server(serving).signature().await?;
    for route in &cx.ports.routes {
        let answer = route.router.who_answers().await?;
        if answer != expected {
            return Err(PortError::transient(format!("see {serving} answer through route `{}`", route.router.name()))
                .because(format!("the server that answered was started at {answer}, {serving} at {expected}")));
        }
    }
    Ok(())
}

//! An open window is made safe: before the commit point back, after it forward. Used by the coordinator when a try fails,
//! by one that takes the run over, and by the guard. Every call in here can be repeated.
//!
//! **Invariant:** clients are given back whatever else fails, and no part that fails keeps another from being tried.

use super::{Way, settle};
use crate::postgres::Fence;
use crate::run::{Fact, OpenWindow};
use crate::step::{Progress, StepContext, place};
use crate::word::{PortError, Side};
use futures_util::future::join_all;
use std::{pin::pin, time::Duration};
use tokio::join;

/// How long clients wait for the server that they are to go on with. What takes longer goes on beside them: an error serves a
/// client better than a wait without end.
const OPEN_LIMIT: Duration = Duration::from_secs(1);

/// How long is waited for a word of the side that must be closed. One that does not answer takes no writes of ours.
const OTHER_LIMIT: Duration = Duration::from_millis(500);

/// Who makes it safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Coordinator,
    Guard,
}

/// When the pause that ends here began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// In another process, or in an earlier call: at the latest when the window was opened, by the wall clock.
    WithTheWindow,
    /// In this very call, by the monotonic clock. `None`: nobody was paused.
    Since(Option<Duration>),
}

/// Drives an open window to where applications can work: back to the side that served, or forward past the commit point.
/// Nothing to do when no window is open.
///
/// # Errors
/// Everything that failed, told together. Clients are given back all the same: where a route could not be moved they go on
/// where it stands, and a server there that may take no writes answers their reads, and their writes with an error.
pub async fn make_safe(cx: &mut StepContext<'_>, why: &str, by: By) -> Result<(), PortError> {
    end(cx, why, by, Pause::WithTheWindow).await
}

/// The same, for whoever knows when the pause began.
pub(super) async fn end(cx: &mut StepContext<'_>, why: &str, by: By, pause: Pause) -> Result<(), PortError> {
    let Some(window) = cx.run().open_window() else { return Ok(()) };
    let moved = window.committed.is_some();
    let serving = if moved { window.to } else { window.to.other() };
    let mut failed = give_back(cx, serving, moved).await;
    let pause_ms = pause_ms(cx, window, pause);
    if !moved && super::way(cx, window.to) == Way::Follows {
        // A side that is lost must not keep the window open; before the next one its flow is looked at anyway.
        if let Err(error) = cx.ports.server(window.to).ensure_subscribed(cx.plan.names.flow_from(serving)).await {
            tracing::warn!(error = %error.chain(), "{} does not follow {serving} yet", window.to);
        }
    }
    let waits = join_all(cx.ports.routes.iter().map(|route| route.router.client_wait())).await;
    let closed = Fact::WindowClosed {
        serving,
        moved,
        by_guard: by == By::Guard,
        pause_ms,
        phases: Vec::new(),
        client_wait_ms: waits.into_iter().flatten().max().map(|wait| wait.as_secs_f64() * 1000.0),
        reason: Some(why.to_owned()),
    };
    if failed.0.is_empty() {
        cx.learn(closed).await?;
        return if by == By::Coordinator { cx.ports.guard.stand_down().await } else { Ok(()) };
    }
    if failed.1 && window.resumed.is_none() {
        // The window stays open until all is done, and clients do not wait for that.
        failed.0.extend(cx.learn(Fact::ClientsResumed { at: cx.ports.clock.now() }).await.err());
    }
    // What no new try mends, and what a person can do about it. Looked at once nobody waits.
    if failed.1
        && let Ok(Some(lost)) = place::is_lost(cx, serving).await
    {
        failed.0.insert(0, lost.refusal("end the window"));
    }
    PortError::all(failed.0.into_iter().map(Err))
}

/// Opens the serving side, moves the routes there, and lets the clients go on: in this order where it goes quickly, and all the
/// same where it does not. What failed, and whether every route was resumed.
async fn give_back(cx: &StepContext<'_>, serving: Side, moved: bool) -> (Vec<PortError>, bool) {
    let opening = async {
        let (opened, pointed) = join!(open(cx, serving, moved), point(cx, serving));
        let mut failed = Vec::from_iter(opened.err());
        let stuck: Vec<PortError> = pointed.into_iter().filter_map(Result::err).collect();
        // Where a route stands that could not be moved, or where nobody may write, there is somebody at least who answers.
        let closed = if moved { (!stuck.is_empty()).then(|| serving.other()) } else { (!failed.is_empty()).then_some(serving) };
        if let Some(side) = closed {
            failed.extend(cx.ports.server(side).ensure_fence(Fence::Triggers).await.err());
        }
        failed.extend(stuck);
        failed
    };
    let mut opening = pin!(opening);
    let in_time = tokio::select! {
        biased;
        failed = &mut opening => Some(failed),
        () = cx.ports.clock.sleep(OPEN_LIMIT) => None,
    };
    let (mut failed, resumed) = if let Some(failed) = in_time { (failed, resume(cx).await) } else { join!(opening, resume(cx)) };
    let all_resumed = resumed.iter().all(Result::is_ok);
    failed.extend(resumed.into_iter().filter_map(Result::err));
    (failed, all_resumed)
}

/// Ends what others have under way there, and opens it for applications.
async fn open(cx: &StepContext<'_>, serving: Side, moved: bool) -> Result<(), PortError> {
    let (alone, closed) = join!(cx.ports.server(serving).ensure_sole_coordinator(), stays_closed(cx, serving.other(), moved));
    closed?;
    let opened = cx.ports.server(serving).ensure_fence(Fence::Open).await;
    PortError::all([alone, opened])
}

async fn point(cx: &StepContext<'_>, serving: Side) -> Vec<Result<(), PortError>> {
    join_all(cx.ports.routes.iter().map(|route| route.router.point_at(route.target(serving)))).await
}

async fn resume(cx: &StepContext<'_>) -> Vec<Result<(), PortError>> {
    join_all(cx.ports.routes.iter().map(|route| route.router.resume())).await
}

/// Nobody knows which side is to serve: both stay closed for writes. Clients go on where the routes stand, and are answered.
pub async fn let_clients_read(cx: &StepContext<'_>) -> Result<(), PortError> {
    let [blue, green] = [Side::Blue, Side::Green].map(|side| async move {
        let server = cx.ports.server(side);
        // One that is open serves, or never was closed.
        if server.fence().await? == Fence::Connections { server.ensure_fence(Fence::Triggers).await } else { Ok(()) }
    });
    let mut answering = pin!(async { join!(blue, green) });
    let in_time = tokio::select! {
        biased;
        _ = &mut answering => true,
        () = cx.ports.clock.sleep(OPEN_LIMIT) => false,
    };
    let resumed = if in_time { resume(cx).await } else { join!(answering, resume(cx)).1 };
    PortError::all(resumed)
}

/// From the pause to here, where clients are given back.
fn pause_ms(cx: &StepContext<'_>, window: OpenWindow, pause: Pause) -> f64 {
    let clock = &cx.ports.clock;
    let lasted = match (pause, window.resumed) {
        (Pause::Since(None), _) => Duration::ZERO,
        (Pause::Since(Some(began)), _) => clock.monotonic().saturating_sub(began),
        (Pause::WithTheWindow, resumed) => {
            let until = resumed.unwrap_or_else(|| clock.now());
            Duration::try_from(until.duration_since(window.at)).unwrap_or_default()
        }
    };
    lasted.as_secs_f64() * 1000.0
}

/// The side that does not serve is never found open. Before the commit point it may hold writes that nobody else has, after it
/// somebody has gone back: opening the other would split the data. A side that cannot be read was not opened by us.
async fn stays_closed(cx: &StepContext<'_>, other: Side, moved: bool) -> Result<(), PortError> {
    if cx.run().without_green {
        return Ok(());
    }
    let server = cx.server(other);
    // A standby has blue's fence, and takes no writes whatever that is.
    let serving = other.other();
    let is_open = async {
        matches!(server.fence().await, Ok(Fence::Open)) && !matches!(server.identity().await, Ok(who) if who.in_recovery)
    };
    // Each by itself: what one server says is not lost where the other does not answer.
    let (is_open, are_one) = join!(soon(cx, is_open), soon(cx, place::are_one(cx)));
    if are_one {
        return Err(PortError::refused(format!("open {serving} for the applications"))
            .because(format!("the addresses of {serving} and {other} lead to the same server"))
            .hint(format!("lead {serving}'s address to {serving} again; nothing was opened")));
    }
    if !is_open {
        return Ok(());
    }
    let why = if moved {
        format!("though the journal says that {serving} serves")
    } else {
        "though the journal has no commit point".to_owned()
    };
    Err(PortError::refused(format!("open {serving} for the applications"))
        .because(format!("{other} is open for writes, {why}"))
        .hint("find out who opened it before going on; nothing was opened"))
}

/// What is not seen soon is not so.
async fn soon(cx: &StepContext<'_>, look: impl Future<Output = bool>) -> bool {
    tokio::select! {
        biased;
        seen = look => seen,
        () = cx.ports.clock.sleep(OTHER_LIMIT) => false,
    }
}

/// Blue serves again though green cannot be reached: a person's own word, since what green took and blue has not is lost.
pub(super) async fn leave_green(cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
    let why = "green was left by a person's word";
    if cx.run().serving() == Side::Green {
        let mut at = cx.ports.clock.now();
        if let Some(window) = cx.run().open_window().filter(|window| window.to == Side::Green) {
            // Clients who wait since then go on waiting.
            at = if window.resumed.is_none() { window.at } else { at };
            // Past its commit point and not to be finished: ended as it stands, by the window that leaves green.
            let reason = Some(why.to_owned());
            cx.learn(Fact::WindowClosed {
                serving: Side::Green,
                moved: true,
                by_guard: false,
                pause_ms: 0.0,
                phases: Vec::new(),
                client_wait_ms: None,
                reason,
            })
            .await?;
        }
        if cx.run().open_window().is_none() {
            let attempt = cx.run().windows_opened() + 1;
            cx.learn(Fact::WindowOpened { to: Side::Blue, attempt, at }).await?;
        }
        let follow_from = cx.run().follow_from().unwrap_or_default();
        cx.learn(Fact::WindowCommitted { serving: Side::Blue, follow_from }).await?;
    }
    make_safe(cx, why, By::Coordinator).await?;
    settle::restore_blue(cx).await?;
    Ok(Progress::Done)
}

//! An open window is made safe: before the commit point back, after it forward. Used by the coordinator when a try fails,
//! by one that takes the run over, and by the guard. Every call in here can be repeated.

use super::{Way, settle};
use crate::postgres::Fence;
use crate::run::Fact;
use crate::step::{Progress, StepContext};
use crate::word::{PortError, Side};
use futures_util::future::join_all;

/// Who makes it safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Coordinator,
    Guard,
}

/// Drives an open window to where applications can work: back to the side that served, or forward past the commit point.
/// Nothing to do when no window is open. Whatever can be done is done, also when another part fails: a route is resumed even
/// though its server does not answer, since an error serves a client better than a wait without end. The first error is
/// for the caller to come back with.
pub async fn make_safe(cx: &mut StepContext<'_>, why: &str, by: By) -> Result<(), PortError> {
    let Some(window) = cx.run().open_window() else { return Ok(()) };
    let started = cx.ports.clock.monotonic();
    let moved = window.committed.is_some();
    let serving = if moved { window.to } else { window.to.other() };
    let mut results = vec![cx.ports.server(serving).ensure_sole_coordinator().await];
    if !moved {
        stays_closed(cx, window.to).await?;
    }
    results.push(cx.ports.server(serving).ensure_fence(Fence::Open).await);
    let routes = cx.ports.routes.iter().map(|route| async {
        route.router.point_at(route.target(serving)).await?;
        route.router.resume().await
    });
    results.extend(join_all(routes).await);
    if !moved && super::way(cx, window.to) == Way::Follows {
        // A side that is lost must not keep the window open; before the next one its flow is looked at anyway.
        if let Err(error) = cx.ports.server(window.to).ensure_subscribed(cx.plan.names.flow_from(serving)).await {
            tracing::warn!(error = %error.chain(), "{} does not follow {serving} yet", window.to);
        }
    }
    results.into_iter().collect::<Result<Vec<()>, PortError>>()?;
    let pause_ms = cx.ports.clock.monotonic().saturating_sub(started).as_secs_f64() * 1000.0;
    let reason = Some(why.to_owned());
    cx.learn(Fact::WindowClosed {
        serving,
        moved,
        by_guard: by == By::Guard,
        pause_ms,
        phases: Vec::new(),
        client_wait_ms: None,
        reason,
    })
    .await?;
    if by == By::Coordinator { cx.ports.guard.stand_down().await } else { Ok(()) }
}

/// The side that was to serve is opened after the commit point only. Found open without one, it may hold writes that nobody
/// else has, and opening the other would split the data. A side that cannot be read was not opened by us.
async fn stays_closed(cx: &StepContext<'_>, to: Side) -> Result<(), PortError> {
    let server = cx.server(to);
    // A standby has blue's fence, and takes no writes whatever that is.
    if matches!(server.fence().await, Ok(Fence::Open)) && !matches!(server.identity().await, Ok(who) if who.in_recovery) {
        return Err(PortError::refused(format!("go back to {}", to.other()))
            .because(format!("{to} is open for writes, though the journal has no commit point"))
            .hint("find out who opened it before going on; nothing was changed"));
    }
    Ok(())
}

/// Blue serves again though green cannot be reached: a person's own word, since what green took and blue has not is lost.
pub(super) async fn leave_green(cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
    let why = "green was left by a person's word";
    if cx.run().serving() == Side::Green {
        if cx.run().open_window().is_some_and(|window| window.to == Side::Green) {
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
            cx.learn(Fact::WindowOpened { to: Side::Blue, attempt, at: cx.ports.clock.now() }).await?;
        }
        let follow_from = cx.run().follow_from().unwrap_or_default();
        cx.learn(Fact::WindowCommitted { serving: Side::Blue, follow_from }).await?;
    }
    make_safe(cx, why, By::Coordinator).await?;
    settle::restore_blue(cx).await?;
    Ok(Progress::Done)
}

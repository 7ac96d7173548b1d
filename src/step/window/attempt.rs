//! One try: pause, fence, marker, sequences, the waiting slot, the commit point, open, repoint, resume.

use super::safety::{self, By};
use crate::postgres::{Fence, FenceProbe};
use crate::run::{Fact, WindowPhase};
use crate::step::{StepContext, marker};
use crate::word::{Failure, Lsn, PortError, Side};
use futures_util::future::try_join_all;
use std::time::Duration;

/// The guard acts this much after the limit, so that a coordinator that is alive goes back by itself first.
const GUARD_GRACE: Duration = Duration::from_millis(250);

/// `None`: the writer moved to `to`. `Some`: everything is as before, and why. Err after the commit point, or when it is not
/// known whether that was recorded: the next call goes on by what the journal says.
pub(super) async fn open(cx: &mut StepContext<'_>, to: Side) -> Result<Option<String>, PortError> {
    let max_pause = cx.plan.window.max_pause();
    cx.ports.guard.stand_by(max_pause + GUARD_GRACE).await?;
    let opened = Fact::WindowOpened { to, attempt: cx.run().windows_opened() + 1, at: cx.ports.clock.now() };
    cx.learn(opened).await?;
    let mut watch = StopWatch::new(cx);
    crate::failpoint!("window-opened");
    let follow_from = match until_commit(cx, to, &mut watch).await {
        Ok(lsn) => lsn,
        Err(error) => {
            let reason = error.chain();
            safety::make_safe(cx, &reason, By::Coordinator).await?;
            return Ok(Some(reason));
        }
    };
    // From the answer of this call on the way is forward. Without an answer nobody knows, and only the journal may say.
    cx.learn(Fact::WindowCommitted { serving: to, follow_from }).await?;
    watch.lap(cx, "commit point");
    crate::failpoint!("window-committed");
    finish(cx, to, watch).await?;
    Ok(None)
}

async fn until_commit(cx: &mut StepContext<'_>, to: Side, watch: &mut StopWatch) -> Result<Lsn, PortError> {
    let (old, new) = (cx.server(to.other()), cx.server(to));
    try_join_all(cx.ports.routes.iter().map(|route| route.router.settle())).await?;
    watch.begin(cx);
    let left = watch.left(cx)?;
    try_join_all(cx.ports.routes.iter().map(|route| route.router.pause(left))).await?;
    watch.lap(cx, "pause");
    crate::failpoint!("window-paused");

    old.ensure_fence(Fence::Connections).await?;
    let prepared = old.prepared_transactions().await?;
    if !prepared.is_empty() {
        return Err(
            PortError::transient("close the window").because(format!("a prepared transaction appeared: {}", prepared.join(", ")))
        );
    }
    if let FenceProbe::Leaks { how } = old.probe_fence().await? {
        return Err(PortError::transient(format!("fence {}", to.other())).because(how));
    }
    watch.lap(cx, "fence");
    crate::failpoint!("window-fenced");

    let value = marker::next_value(cx, &old).await?;
    old.write_marker(value).await?;
    if !marker::arrives(cx, &new, value, watch.left(cx)?).await? {
        return Err(PortError::transient(format!("see everything arrive on {to}")).because("the limit of the pause was reached"));
    }
    watch.lap(cx, "marker");
    crate::failpoint!("window-drained");

    new.set_sequences(&old.sequences().await?, cx.plan.window.sequence_margin).await?;
    watch.lap(cx, "sequences");

    // Nothing more can come from `old`. Its own waiting flow begins after all that came from it.
    new.ensure_unsubscribed(cx.plan.names.flow_from(to.other())).await?;
    let follow_from = new.wal_lsn().await?;
    new.advance_slot(cx.plan.names.flow_from(to), follow_from).await?;
    watch.lap(cx, "reverse slot");
    crate::failpoint!("window-before-commit");
    watch.left(cx)?;
    Ok(follow_from)
}

async fn finish(cx: &mut StepContext<'_>, to: Side, mut watch: StopWatch) -> Result<(), PortError> {
    cx.ports.server(to).ensure_fence(Fence::Open).await?;
    watch.lap(cx, "open");
    crate::failpoint!("window-open");
    try_join_all(cx.ports.routes.iter().map(|route| route.router.point_at(route.target(to)))).await?;
    watch.lap(cx, "repoint");
    crate::failpoint!("window-repointed");
    try_join_all(cx.ports.routes.iter().map(|route| route.router.resume())).await?;
    watch.lap(cx, "resume");
    crate::failpoint!("window-resumed");
    let pause_ms = watch.total_ms(cx);
    let closed = Fact::WindowClosed { serving: to, moved: true, by_guard: false, pause_ms, phases: watch.phases, reason: None };
    cx.learn(closed).await?;
    cx.ports.guard.stand_down().await
}

/// Measures the pause and its parts, and keeps its limit.
struct StopWatch {
    began: Duration,
    last: Duration,
    limit: Duration,
    phases: Vec<WindowPhase>,
}

impl StopWatch {
    fn new(cx: &StepContext<'_>) -> StopWatch {
        let now = cx.ports.clock.monotonic();
        StopWatch { began: now, last: now, limit: cx.plan.window.max_pause(), phases: Vec::new() }
    }

    fn begin(&mut self, cx: &StepContext<'_>) {
        self.began = cx.ports.clock.monotonic();
        self.last = self.began;
    }

    fn lap(&mut self, cx: &StepContext<'_>, name: &str) {
        let now = cx.ports.clock.monotonic();
        self.phases.push(WindowPhase { name: name.to_owned(), ms: ms(now.saturating_sub(self.last)) });
        self.last = now;
    }

    fn total_ms(&self, cx: &StepContext<'_>) -> f64 {
        ms(cx.ports.clock.monotonic().saturating_sub(self.began))
    }

    /// What is left of the pause's limit. Err when nothing is.
    fn left(&self, cx: &StepContext<'_>) -> Result<Duration, PortError> {
        let gone = cx.ports.clock.monotonic().saturating_sub(self.began);
        self.limit.checked_sub(gone).filter(|left| !left.is_zero()).ok_or_else(|| {
            PortError::new(Failure::Transient, "finish the window")
                .because(format!("its limit of {} ms was reached", self.limit.as_millis()))
        })
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

//! One try: pause, fence, marker and sequences side by side, flush, the commit point, open, repoint, resume.

use super::safety::{self, By, Pause};
use super::{Way, freeze, restored};
use crate::postgres::{Fence, FenceProbe, Server, sequences_behind};
use crate::run::{Fact, WindowPhase};
use crate::step::{Guard, StepContext, marker};
use crate::word::{Clock, Failure, Lsn, PortError, Side};
use futures_util::future::{join_all, try_join_all};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::join;

/// The guard acts this much after the limit, so that a coordinator that is alive goes back by itself first.
const GUARD_GRACE: Duration = Duration::from_millis(250);

/// Between the last preparation and the pause: the looks, the guard's start and its logins take the machine from the clients
/// for a moment, and a pause that begins while they catch up waits for more of them.
const CALM: Duration = Duration::from_millis(100);

/// How often is looked whether the window must be given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the window has to end by itself when this process is asked to end. Whoever asks kills later what has not ended.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// `None`: the writer moved to `to`. `Some`: everything is as before, and why. Err after the commit point, or when it is not
/// known whether that was recorded: the next call goes on by what the journal says.
pub(super) async fn open(cx: &mut StepContext<'_>, to: Side) -> Result<Option<String>, PortError> {
    let max_pause = cx.plan.window.max_pause();
    cx.ports.guard.stand_by(CALM + max_pause + GUARD_GRACE).await?;
    let opened = Fact::WindowOpened { to, attempt: cx.run().windows_opened() + 1, at: cx.ports.clock.now() };
    cx.learn(opened).await?;
    let mut watch = StopWatch::new(cx);
    crate::failpoint!("window-opened");
    let way = super::way(cx, to);
    let mut tried = tried(cx, to, way, &mut watch).await;
    if let Ok(follow_from) = tried {
        tried = commit(cx, to, follow_from).await.map(|()| follow_from);
    }
    match tried {
        Ok(_) => {}
        // Whoever has the run makes it safe.
        Err(error) if cx.records.is_superseded() => return Err(error),
        Err(error) => {
            let reason = error.chain();
            safety::end(cx, &reason, By::Coordinator, watch.pause()).await?;
            if way == Way::Freezes && (cx.run().fork_point().is_some() || error.failure == Failure::Refused) {
                // Blue serves again. Green has left its history, or will be refused again.
                return Err(PortError { failure: Failure::Refused, ..error });
            }
            return Ok(Some(reason));
        }
    }
    watch.lap(cx, "commit point");
    crate::failpoint!("window-committed");
    let pause = watch.pause();
    if let Err(error) = give_over(cx, to, &mut watch).await {
        safety::end(cx, &error.chain(), By::Coordinator, pause).await?;
        return Ok(None);
    }
    finish(cx, to, watch).await?;
    Ok(None)
}

/// Up to the commit point, or until it must be given up: then the call that is under way is dropped where it stands, as if this
/// process had been killed, and making the window safe ends what it has under way on the servers.
async fn tried(cx: &mut StepContext<'_>, to: Side, way: Way, watch: &mut StopWatch) -> Result<Lsn, PortError> {
    let mut alarm = Alarm::new(cx);
    let mut trying = pin!(async {
        match way {
            Way::Follows => until_commit(cx, to, watch).await,
            Way::Freezes => freeze::until_commit(cx, watch).await,
            Way::Restored => restored::until_commit(cx, watch).await,
        }
    });
    loop {
        tokio::select! {
            biased;
            tried = &mut trying => return tried,
            looked = alarm.look() => looked?,
        }
    }
}

/// What makes a window be given up that would go on by itself.
struct Alarm {
    guard: Arc<dyn Guard>,
    clock: Arc<dyn Clock>,
    interrupted: Arc<AtomicBool>,
    /// When the word to end was first seen.
    asked_at: Option<Duration>,
}

impl Alarm {
    fn new(cx: &StepContext<'_>) -> Alarm {
        let (guard, clock) = (cx.ports.guard.clone(), cx.ports.clock.clone());
        Alarm { guard, clock, interrupted: cx.interrupted.clone(), asked_at: None }
    }

    async fn look(&mut self) -> Result<(), PortError> {
        self.clock.sleep(LOOK_EVERY).await;
        stands(&self.guard).await?;
        if !self.interrupted.load(Ordering::SeqCst) {
            return Ok(());
        }
        let now = self.clock.monotonic();
        if now.saturating_sub(*self.asked_at.get_or_insert(now)) < STOP_LIMIT {
            return Ok(());
        }
        Err(PortError::transient("finish the window").because("this process was asked to end, and it would have lasted longer"))
    }
}

async fn stands(guard: &Arc<dyn Guard>) -> Result<(), PortError> {
    if guard.is_standing().await {
        return Ok(());
    }
    Err(PortError::transient("keep the window open")
        .because("its guard died, and nobody would end the pause in this process's place"))
}

/// From the answer of this call on the way is forward.
async fn commit(cx: &mut StepContext<'_>, to: Side, follow_from: Lsn) -> Result<(), PortError> {
    stands(&cx.ports.guard).await?;
    match cx.records.commit(Fact::WindowCommitted { serving: to, follow_from }).await? {
        None => Ok(()),
        Some(why) => Err(PortError::transient("record the commit point").because(why)),
    }
}

async fn until_commit(cx: &mut StepContext<'_>, to: Side, watch: &mut StopWatch) -> Result<Lsn, PortError> {
    let (old, new) = (cx.server(to.other()), cx.server(to));
    let value = marker::next_value(cx, &old).await?;
    close(cx, watch, &old).await?;
    watch.lap(cx, "fence");
    crate::failpoint!("window-fenced");

    // Side by side, since each needs the fence and none the others: has everything arrived, is the fence tight, do the
    // sequences stand where they must. Each is awaited to its end, also when another has failed: a call that is dropped is
    // one of which nobody knows what it came to. All three are known before anything more is done.
    let marked = Marked { from: to.other(), value, limit: watch.left(cx)? };
    let (drained, tight, counted) =
        join!(drained(cx, &old, &new, &marked), is_tight(&old, marked.from), sequences_moved(cx, &old, &new));
    tight?;
    drained?;
    counted?;
    watch.lap(cx, "drain");
    crate::failpoint!("window-drained");

    // All that came from `old` is before this place: `old` will follow from here.
    let follow_from = new.flush_wal().await?;
    watch.lap(cx, "flush");
    crate::failpoint!("window-before-commit");
    watch.left(cx)?;
    Ok(follow_from)
}

/// Every client waits from here on, and nobody new gets in to the side that served.
pub(super) async fn close(cx: &StepContext<'_>, watch: &mut StopWatch, old: &Arc<dyn Server>) -> Result<(), PortError> {
    pause(cx, watch).await?;
    watch.lap(cx, "pause");
    crate::failpoint!("window-paused");
    old.ensure_fence(Fence::Connections).await
}

/// Every client waits from here on. The watch begins where it had not.
pub(super) async fn pause(cx: &StepContext<'_>, watch: &mut StopWatch) -> Result<(), PortError> {
    try_join_all(cx.ports.routes.iter().map(|route| route.router.settle())).await?;
    if !watch.running {
        cx.ports.clock.sleep(CALM).await;
        stands(&cx.ports.guard).await?;
        watch.begin(cx);
    }
    let left = watch.left(cx)?;
    try_join_all(cx.ports.routes.iter().map(|route| route.router.pause(left))).await.map(drop)
}

pub(super) async fn resume(cx: &StepContext<'_>) -> Result<(), PortError> {
    try_join_all(cx.ports.routes.iter().map(|route| route.router.resume())).await.map(drop)
}

/// The last marker of the side that served.
struct Marked {
    from: Side,
    value: i64,
    limit: Duration,
}

/// Sees on `new` all that was committed on `old`, and ends the flow: nothing more can come.
async fn drained(cx: &StepContext<'_>, old: &Arc<dyn Server>, new: &Arc<dyn Server>, marked: &Marked) -> Result<(), PortError> {
    old.write_marker(marked.value).await?;
    if !marker::arrives(cx, new, marked.value, marked.limit).await? {
        let attempted = format!("see everything arrive on {}", marked.from.other());
        return Err(PortError::transient(attempted).because("the limit of the pause was reached"));
    }
    new.ensure_unsubscribed(cx.plan.names.flow_from(marked.from)).await
}

/// Nobody can write to `old` any more, now or by a transaction that was prepared before.
pub(super) async fn is_tight(old: &Arc<dyn Server>, from: Side) -> Result<(), PortError> {
    let (prepared, probed) = join!(old.prepared_transactions(), old.probe_fence());
    let prepared = prepared?;
    if !prepared.is_empty() {
        return Err(
            PortError::transient("close the window").because(format!("a prepared transaction appeared: {}", prepared.join(", ")))
        );
    }
    match probed? {
        FenceProbe::Holds => Ok(()),
        FenceProbe::Leaks { how } => Err(PortError::transient(format!("fence {from}")).because(how)),
    }
}

/// Sets the sequences of `new`, and reads them back: one that is behind would give numbers that rows have already. One that may
/// not be read is refused.
pub(super) async fn sequences_moved(cx: &StepContext<'_>, old: &Arc<dyn Server>, new: &Arc<dyn Server>) -> Result<(), PortError> {
    let wanted = old.sequences().await?;
    new.set_sequences(&wanted, cx.plan.window.sequence_margin).await?;
    let behind = sequences_behind(&wanted, &new.sequences().await?);
    if behind.is_empty() {
        return Ok(());
    }
    Err(PortError::transient("set the sequences").because(format!("these are behind: {}", behind.join(", "))))
}

/// Past the commit point: `to` is opened, and the clients go on there.
async fn give_over(cx: &StepContext<'_>, to: Side, watch: &mut StopWatch) -> Result<(), PortError> {
    cx.ports.server(to).ensure_fence(Fence::Open).await?;
    watch.lap(cx, "open");
    crate::failpoint!("window-open");
    try_join_all(cx.ports.routes.iter().map(|route| route.router.point_at(route.target(to)))).await?;
    watch.lap(cx, "repoint");
    crate::failpoint!("window-repointed");
    resume(cx).await?;
    watch.lap(cx, "resume");
    crate::failpoint!("window-resumed");
    Ok(())
}

async fn finish(cx: &mut StepContext<'_>, to: Side, watch: StopWatch) -> Result<(), PortError> {
    let pause_ms = watch.total_ms(cx);
    let waits = join_all(cx.ports.routes.iter().map(|route| route.router.client_wait())).await;
    let closed = Fact::WindowClosed {
        serving: to,
        moved: true,
        by_guard: false,
        pause_ms,
        phases: watch.phases,
        client_wait_ms: waits.into_iter().flatten().max().map(ms),
        reason: None,
    };
    cx.learn(closed).await?;
    cx.ports.guard.stand_down().await
}

/// Measures the pause and its parts, and keeps its limit.
pub(super) struct StopWatch {
    running: bool,
    began: Duration,
    last: Duration,
    limit: Duration,
    phases: Vec<WindowPhase>,
}

impl StopWatch {
    fn new(cx: &StepContext<'_>) -> StopWatch {
        let now = cx.ports.clock.monotonic();
        StopWatch { running: false, began: now, last: now, limit: cx.plan.window.max_pause(), phases: Vec::new() }
    }

    fn begin(&mut self, cx: &StepContext<'_>) {
        self.running = true;
        self.began = cx.ports.clock.monotonic();
        self.last = self.began;
    }

    pub(super) fn lap(&mut self, cx: &StepContext<'_>, name: &str) {
        let now = cx.ports.clock.monotonic();
        self.phases.push(WindowPhase { name: name.to_owned(), ms: ms(now.saturating_sub(self.last)) });
        self.last = now;
    }

    fn pause(&self) -> Pause {
        Pause::Since(self.running.then_some(self.began))
    }

    fn total_ms(&self, cx: &StepContext<'_>) -> f64 {
        ms(cx.ports.clock.monotonic().saturating_sub(self.began))
    }

    /// What is left of the pause's limit. Err when nothing is.
    pub(super) fn left(&self, cx: &StepContext<'_>) -> Result<Duration, PortError> {
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

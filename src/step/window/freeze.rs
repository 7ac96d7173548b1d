//! The first window of the strategy `freeze`, up to its commit point: blue stands still, its standby is promoted where blue
//! ended, migrated, and compared with it exactly.
//!
//! Before the promotion nothing has happened to green, and the next window may try again. From the promotion on green is of
//! no use to another try: the step fails, blue serves, and the playbook says what then.

use super::attempt::{StopWatch, close, is_tight, pause, resume};
use crate::postgres::Fence;
use crate::step::{StepContext, arm_reverse, attach_green, fenced, marker, migrate_green, validate_green};
use crate::word::{Lsn, PortError, Side};
use std::time::Duration;
use tokio::try_join;

pub(super) async fn until_commit(cx: &mut StepContext<'_>, watch: &mut StopWatch) -> Result<Lsn, PortError> {
    let (blue, green) = (cx.server(Side::Blue), cx.server(Side::Green));
    close(cx, watch, &blue).await?;
    is_tight(&blue, Side::Blue).await?;
    // Nobody is left who could write. Closed by its triggers blue answers reads: those of the comparison, and those of clients
    // where the playbook says so. Green gets this fence by replay and comes up with it.
    blue.ensure_fence(Fence::Triggers).await?;
    let end = blue.flush_wal().await?;
    watch.lap(cx, "fence");
    crate::failpoint!("window-fenced");
    if cx.plan.window.reads_on_blue {
        resume(cx).await?;
    }

    try_join!(replayed(cx, end, watch.left(cx)?), fenced(&blue, Side::Blue))?;
    watch.lap(cx, "replay");
    crate::failpoint!("freeze-replayed");
    (cx.progress)("promoting green");
    green.promote().await?;
    crate::failpoint!("freeze-promoted");
    attach_green::become_a_server(cx, end).await?;
    watch.lap(cx, "promote");

    migrate_green::migrate(cx).await?;
    watch.lap(cx, "migrate");
    watch.left(cx)?;
    crate::failpoint!("freeze-migrated");
    let started = cx.ports.clock.monotonic();
    if let Some(differences) = validate_green::compare(cx, started).await? {
        return Err(PortError::refused("see green equal to the frozen blue").because(differences));
    }
    watch.lap(cx, "compare");
    watch.left(cx)?;
    crate::failpoint!("freeze-compared");
    arm_reverse::arm(cx).await?;
    watch.lap(cx, "arm the way back");

    if cx.plan.window.reads_on_blue {
        pause(cx, watch).await?;
        watch.lap(cx, "second pause");
    }
    let follow_from = green.flush_wal().await?;
    watch.lap(cx, "flush");
    crate::failpoint!("window-before-commit");
    watch.left(cx)?;
    Ok(follow_from)
}

/// Everything that blue wrote before it stood still is on green.
async fn replayed(cx: &StepContext<'_>, end: Lsn, limit: Duration) -> Result<(), PortError> {
    if marker::replays(cx, end, limit).await? {
        return Ok(());
    }
    Err(PortError::transient("see green replay all of blue's log").because("the limit of the pause was reached"))
}

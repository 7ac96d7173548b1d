//! The proof that everything before it has arrived: a row written on one side and awaited on the other.

use super::StepContext;
use crate::postgres::Server;
use crate::word::{Lsn, PortError, Side};
use std::{sync::Arc, time::Duration};

/// Writes a marker on `from` and awaits it on the other side. `false`: it did not come within `limit`.
pub(super) async fn crosses(cx: &StepContext<'_>, from: Side, limit: Duration) -> Result<bool, PortError> {
    let (writer, reader) = (cx.server(from), cx.server(from.other()));
    let value = next_value(cx, &writer).await?;
    writer.write_marker(value).await?;
    arrives(cx, &reader, value, limit).await
}

/// Greater than every marker before, also when the clock was set back.
pub(super) async fn next_value(cx: &StepContext<'_>, writer: &Arc<dyn Server>) -> Result<i64, PortError> {
    let last = writer.read_marker().await?.unwrap_or(0);
    Ok(cx.ports.clock.now().as_microsecond().max(last + 1))
}

/// Polls without a pause at first, since in the window each millisecond is a client's, and more seldom later.
pub(super) async fn arrives(
    cx: &StepContext<'_>,
    reader: &Arc<dyn Server>,
    value: i64,
    limit: Duration,
) -> Result<bool, PortError> {
    let clock = &cx.ports.clock;
    let started = clock.monotonic();
    loop {
        if reader.read_marker().await?.is_some_and(|seen| seen >= value) {
            return Ok(true);
        }
        let waited = clock.monotonic().saturating_sub(started);
        if waited >= limit {
            return Ok(false);
        }
        let pause = if waited < Duration::from_millis(100) { Duration::from_micros(300) } else { Duration::from_millis(20) };
        clock.sleep(pause).await;
    }
}

/// Awaits on green, a physical standby, that blue's log is replayed up to `end`. `false`: not within `limit`.
pub(super) async fn replays(cx: &StepContext<'_>, end: Lsn, limit: Duration) -> Result<bool, PortError> {
    let (green, clock) = (cx.server(Side::Green), &cx.ports.clock);
    let started = clock.monotonic();
    while green.replay_lsn().await? < end {
        if clock.monotonic().saturating_sub(started) >= limit {
            return Ok(false);
        }
        clock.sleep(Duration::from_millis(1)).await;
    }
    Ok(true)
}

/// For a step that ends with a marker: done when it has crossed, to be called again when not.
pub(super) async fn awaited(cx: &StepContext<'_>, from: Side, limit: Duration, note: &str) -> Result<super::Progress, PortError> {
    Ok(if crosses(cx, from, limit).await? {
        super::Progress::Done
    } else {
        super::Progress::Pending { poll_after: Duration::from_secs(1), note: note.to_owned() }
    })
}

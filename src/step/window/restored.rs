//! The window to a green that was restored. Nothing flows: blue is closed, its sequences are carried over so that no number is
//! given twice, and the writer moves.

use super::attempt::{StopWatch, close, is_tight, sequences_moved};
use super::{prepare, routes};
use crate::step::StepContext;
use crate::word::{Lsn, PortError, Side};
use tokio::join;

/// `Some`: why the window does not open now.
pub(super) async fn look(cx: &mut StepContext<'_>) -> Result<Option<String>, PortError> {
    prepare::connect(cx).await?;
    if let Some(why) = routes::ready(cx, Side::Blue).await? {
        return Ok(Some(why));
    }
    if let Some(why) = prepare::fences_ready(cx, Side::Blue, Side::Green).await? {
        return Ok(Some(why));
    }
    if let Some(why) = prepare::sequences_known(&cx.ports.blue.sequences().await?, Side::Blue) {
        return Ok(Some(why));
    }
    prepare::transactions(cx, Side::Blue).await
}

pub(super) async fn until_commit(cx: &mut StepContext<'_>, watch: &mut StopWatch) -> Result<Lsn, PortError> {
    let (blue, green) = (cx.server(Side::Blue), cx.server(Side::Green));
    close(cx, watch, &blue).await?;
    watch.lap(cx, "fence");
    crate::failpoint!("window-fenced");
    let (tight, counted) = join!(is_tight(&blue, Side::Blue), sequences_moved(cx, &blue, &green));
    tight?;
    counted?;
    watch.lap(cx, "sequences");
    let place = green.flush_wal().await?;
    watch.lap(cx, "flush");
    crate::failpoint!("window-before-commit");
    watch.left(cx)?;
    Ok(place)
}

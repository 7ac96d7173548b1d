//! The guard's process. It holds a deadline over one window and acts only when the coordinator cannot: it died (the pipe to
//! it breaks), or the deadline passed.

use super::arguments::{GuardArgs, Shared};
use super::{Exit, print, state};
use crate::engine;
use crate::word::RunId;
use crate::{process, wire};
use std::sync::{Arc, atomic::AtomicU64};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Until it acts, the guard only looks; it works under the epoch of the lease that it takes then.
const LOOKING: u64 = 0;

pub(super) async fn run(shared: &Shared, args: &GuardArgs) -> anyhow::Result<Exit> {
    let id: RunId = args.run.parse().map_err(anyhow::Error::msg)?;
    let journal = state::open(shared)?;
    let stored = state::load(journal.as_ref(), &id).await?;
    let epoch = Arc::new(AtomicU64::new(LOOKING));
    let ports = wire::ports(&stored.plan, &epoch, &shared.state).await?;
    // Opened ahead, as the coordinator's are: logging in takes longer than the whole window.
    ports.blue.connect().await?;
    ports.green.connect().await?;
    for route in &ports.routes {
        route.router.connect().await?;
    }
    print::data("ready");
    // The coordinator opens the window only after it has read `ready`, so counting from here on is never too short.
    let why = match word_from_parent(Duration::from_millis(args.within_ms)).await {
        Word::StandDown => return Ok(Exit::Completed),
        Word::Gone => "the coordinator died inside the window",
        Word::Silence => {
            // Alive, and stuck: it may wake up in the middle of an act at any time, so it must not.
            process::kill(args.parent)?;
            "the coordinator stalled inside the window, and its guard ended it"
        }
    };
    let holder = format!("the guard, {}", crate::journal::HolderProcess::this());
    engine::make_safe(journal, &ports, &id, &holder, &epoch, why).await?;
    Ok(Exit::Completed)
}

enum Word {
    StandDown,
    Gone,
    Silence,
}

async fn word_from_parent(within: Duration) -> Word {
    let mut line = String::new();
    let mut input = BufReader::new(tokio::io::stdin());
    #[expect(clippy::disallowed_methods, reason = "the guard's deadline itself; only a read is dropped")]
    let heard = tokio::time::timeout(within, input.read_line(&mut line)).await;
    match heard {
        Ok(Ok(_)) if line.trim() == "stand down" => Word::StandDown,
        Ok(_) => Word::Gone,
        Err(_) => Word::Silence,
    }
}

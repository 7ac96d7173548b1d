//! The guard's process. It holds a deadline over one window and acts only when the coordinator cannot: it died (the pipe to
//! it breaks), or the deadline passed. Then it goes on until the window is closed, whatever fails.

use super::arguments::{GuardArgs, Shared};
use super::{Exit, print, state};
use crate::engine::{Rescue, Rescued};
use crate::journal::{HolderProcess, Journal};
use crate::word::{Clock, RunId, SystemClock};
use crate::{process, wire};
use std::sync::{
    Arc,
    atomic::AtomicU64,
    mpsc::{Sender, channel},
};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Until it acts, the guard only looks; it works under the epoch of the lease that it takes then.
const LOOKING: u64 = 0;

/// How long the guard waits for another process's transaction in the journal: clients wait with it.
const PATIENCE: Duration = Duration::from_millis(150);

/// What a coordinator that closed its pipe may take to end by itself, with its last words.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How often it looks whether a coordinator has answered what a person asked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) async fn run(shared: &Shared, args: &GuardArgs) -> anyhow::Result<Exit> {
    process::ignore_signals()?;
    let parent = HolderProcess::of(args.parent);
    let id: RunId = args.run.parse().map_err(anyhow::Error::msg)?;
    let journal: Arc<dyn Journal> = Arc::new(state::open(shared)?.as_ref().clone().with_patience(PATIENCE));
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
    let word = word_from_parent(Duration::from_millis(args.within_ms)).await;
    let why = match word {
        Word::StandDown => return Ok(Exit::Completed),
        Word::Gone => "the coordinator died inside the window",
        // Alive, and busy or stuck: it may go on in the middle of an act at any time, so it must not.
        Word::Silence => "the window came to its limit, and its guard ended the coordinator",
    };
    let is_gone = || {
        // One that has gone already cannot be ended.
        let _ = process::kill(parent.pid);
        HolderProcess::this().sees_gone(&parent)
    };
    if word == Word::Gone {
        await_end(&parent).await;
    } else {
        is_gone();
    }
    let talk = talk();
    let tell = |text: &str| drop(talk.send(text.to_owned()));
    tell(&format!("guard of run {id}: {why}"));
    let holder = format!("the guard, {}", HolderProcess::this());
    let rescue = Rescue {
        journal: journal.clone(),
        ports: &ports,
        run: id.clone(),
        plan: &stored.plan,
        holder,
        epoch,
        why,
        is_gone: &is_gone,
        tell: &tell,
    };
    loop {
        match rescue.make_safe().await {
            Rescued::Closed => tell("guard: the window is closed"),
            Rescued::WithoutJournal => tell("guard: clients go on; the journal is gone, and nothing more can be recorded"),
            Rescued::HandedOver => {
                tell("CLIENTS MAY BE PAUSED: a person's request waits for a coordinator; run `greenlight run` now");
                while is_driven(journal.as_ref(), &id).await {
                    SystemClock::new().sleep(LOOK_EVERY).await;
                }
                continue;
            }
        }
        return Ok(Exit::Completed);
    }
}

/// A coordinator gets its time to come; then, whether one lives that has the run.
async fn is_driven(journal: &dyn Journal, id: &RunId) -> bool {
    SystemClock::new().sleep(LOOK_EVERY).await;
    matches!(journal.lease(id).await, Ok(Some(lease)) if !lease.free)
}

async fn await_end(parent: &HolderProcess) {
    let clock = SystemClock::new();
    while clock.monotonic() < LAST_WORDS && !HolderProcess::this().sees_gone(parent) {
        clock.sleep(Duration::from_millis(10)).await;
    }
}

/// Says what is sent to it, beside the work: nobody may read it any more, and then it would wait for ever.
fn talk() -> Sender<String> {
    let (sender, lines) = channel::<String>();
    std::thread::spawn(move || lines.iter().for_each(|line| print::say(&line)));
    sender
}

#[derive(Clone, Copy, PartialEq, Eq)]
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

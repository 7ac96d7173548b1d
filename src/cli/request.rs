//! What people ask of a run. A request is filed in the journal; a coordinator that drives the run carries it out, and
//! where none is alive, this process drives.

use super::arguments::{AbandonArgs, MarkDoneArgs, RequestArgs, Shared};
use super::{Exit, print, run, screen, state};
use crate::engine::Stop;
use crate::journal::{HolderProcess, Journal};
use crate::process;
use crate::run::{Decision, RequestKind, decide};
use crate::word::{Clock, RunId, SystemClock, shown};
use std::{path::Path, sync::Arc, time::Duration};

pub(super) async fn approve(shared: &Shared, args: &RequestArgs) -> anyhow::Result<Exit> {
    ask(shared, args, RequestKind::Approve).await
}

pub(super) async fn retry(shared: &Shared, args: &RequestArgs) -> anyhow::Result<Exit> {
    ask(shared, args, RequestKind::Retry).await
}

pub(super) async fn mark_done(shared: &Shared, args: &MarkDoneArgs) -> anyhow::Result<Exit> {
    ask(shared, &args.request, RequestKind::MarkDone { step: args.step }).await
}

pub(super) async fn rollback(shared: &Shared, args: &RequestArgs) -> anyhow::Result<Exit> {
    ask(shared, args, RequestKind::Rollback).await
}

pub(super) async fn finish(shared: &Shared, args: &RequestArgs) -> anyhow::Result<Exit> {
    ask(shared, args, RequestKind::Finish).await
}

pub(super) async fn abandon(shared: &Shared, args: &AbandonArgs) -> anyhow::Result<Exit> {
    let kind = RequestKind::Abandon { without_green: args.without_green, by_restore: args.restore };
    ask(shared, &args.request, kind).await
}

async fn ask(shared: &Shared, args: &RequestArgs, kind: RequestKind) -> anyhow::Result<Exit> {
    let journal = state::open(shared)?;
    let stored = state::choose(shared, journal.as_ref(), &args.which, true).await?;
    let clock = SystemClock::new();
    let by = match &args.by {
        Some(claimed) => format!("{claimed} (as claimed by {})", this_person().await),
        None => this_person().await,
    };
    let request = crate::run::Request { id: 0, at: clock.now(), by, reason: args.reason.clone(), kind };
    // Said here where it is plain already; the coordinator judges again when it comes to it.
    if let Err(why_not) = crate::run::answer(&stored.plan, &stored.run, &request) {
        print::complain(&format!("error: refused: {why_not}; nothing was changed"));
        print::say(&screen::standing(&stored.plan, &stored.run));
        return Ok(Exit::Usage);
    }
    let id = journal.file_request(&stored.id, &request.by, request.reason.as_deref(), &request.kind, request.at).await?;
    let held = journal.lease(&stored.id).await?.filter(|lease| !lease.free && lease.expires_at > clock.now());
    match held {
        Some(lease) => {
            print::say(&format!("asked the coordinator, {}", shown(&lease.holder)));
            follow(shared, journal, &stored.id, id, stored.run.seq, args.no_wait).await
        }
        None => run::drive(shared, journal, &stored.plan, args.no_wait).await,
    }
}

/// Who types: the user of this process, which nobody can claim; and who became that user, by the system's record of the login,
/// or as `sudo` says.
async fn this_person() -> String {
    let user = rustix::process::getuid().as_raw();
    let logged_in = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse::<u32>().ok());
    // The largest number: nobody has logged in.
    let logged_in = logged_in.filter(|id| *id != u32::MAX && *id != user);
    let claimed = crate::wire::environment("SUDO_UID").and_then(|id| id.parse::<u32>().ok()).filter(|id| *id != user);
    let name = name_of(user).await;
    let name = match (logged_in, claimed) {
        (Some(id), _) => format!("{name} (logged in as {})", name_of(id).await),
        (None, Some(id)) => format!("{name} (sudo by {}, as the environment claims)", name_of(id).await),
        (None, None) => name,
    };
    format!("{name} on {}", HolderProcess::this().host)
}

/// The name of a user's number, where the system knows one.
async fn name_of(user: u32) -> String {
    let mut command = process::new_command(Path::new("getent"));
    let known = process::run(command.args(["passwd", &user.to_string()]), Duration::from_secs(10)).await;
    let line = known.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match line.split(':').next().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => format!("user {user}"),
    }
}

/// Shows what another coordinator does until it has carried the request out and waits, or is over.
async fn follow(
    shared: &Shared,
    journal: Arc<dyn Journal>,
    run: &RunId,
    request: i64,
    seen: u64,
    no_wait: bool,
) -> anyhow::Result<Exit> {
    let clock = SystemClock::new();
    let mut seen = seen;
    loop {
        let answer = journal.request_answer(run, request).await?;
        let stored = state::load(journal.as_ref(), run).await?;
        for record in stored.records.iter().filter(|record| record.seq > seen) {
            if let Some(line) = screen::line(&stored.plan, &record.event) {
                print::say(&line);
            }
        }
        seen = stored.run.seq;
        if let Some(refused) = answer.as_ref().filter(|answer| answer.starts_with("refused")) {
            print::complain(&format!("error: {}", shown(refused)));
            print::say(&screen::standing(&stored.plan, &stored.run));
            return Ok(Exit::Usage);
        }
        let stop = match decide(&stored.plan, &stored.run, clock.now()) {
            _ if answer.is_none() => None,
            Decision::Close(outcome) if stored.run.outcome.is_some() => Some(Stop::Closed(outcome)),
            Decision::WaitForPerson { step } => Some(Stop::WaitsForPerson { step }),
            Decision::WaitUntil { step, .. } | Decision::Act { step, poll: true, .. } if no_wait || soaks(&stored, step) => {
                Some(Stop::Waits { step })
            }
            _ => None,
        };
        if let Some(stop) = stop {
            return run::conclude(shared, journal.as_ref(), run, &stop).await;
        }
        let lease = journal.lease(run).await?;
        if lease.is_none_or(|lease| lease.free || lease.expires_at <= clock.now()) {
            print::say("the coordinator is gone; driving on from here");
            return run::drive(shared, journal, &stored.plan, no_wait).await;
        }
        clock.sleep(Duration::from_millis(200)).await;
    }
}

fn soaks(stored: &state::Stored, step: crate::run::StepNo) -> bool {
    stored.plan.steps[step.0].name == crate::plan::StepName::Soak
}

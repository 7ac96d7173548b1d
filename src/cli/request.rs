//! What people ask of a run. A request is filed in the journal; a coordinator that drives the run carries it out, and
//! where none is alive, this process drives.

use super::arguments::{AbandonArgs, MarkDoneArgs, Output, RequestArgs, RollbackArgs, Shared};
use super::screen::Screen;
use super::{Exit, print, run, screen, state, status};
use crate::engine::{Patience, STANDS_STILL, Stop, Tell};
use crate::journal::{HolderProcess, Journal};
use crate::process;
use crate::run::{Asked, Decision, Event, Fact, RequestKind, Run, StepNo, StepState, decide, waits_for};
use crate::word::{Clock, RunId, Side, SystemClock, Timestamp, shown};
use std::{path::Path, time::Duration};

pub(super) async fn approve(shared: &Shared, args: &RequestArgs) -> anyhow::Result<Exit> {
    ask(shared, args, RequestKind::Approve).await
}

pub(super) async fn retry(shared: &Shared, args: &RequestArgs) -> anyhow::Result<Exit> {
    ask(shared, args, RequestKind::Retry).await
}

pub(super) async fn mark_done(shared: &Shared, args: &MarkDoneArgs) -> anyhow::Result<Exit> {
    ask(shared, &args.request, RequestKind::MarkDone { step: args.step }).await
}

pub(super) async fn rollback(shared: &Shared, args: &RollbackArgs) -> anyhow::Result<Exit> {
    ask(shared, &args.request, if args.stop { RequestKind::CallOff } else { RequestKind::Rollback }).await
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
    let mut stored = state::choose(shared, journal.as_ref(), &args.which, true).await?;
    let clock = SystemClock::new();
    let by = match &args.by {
        Some(claimed) => format!("{claimed} (as claimed by {})", this_person().await),
        None => this_person().await,
    };
    let request = crate::run::Request { id: 0, at: clock.now(), by, reason: args.reason.clone(), kind };
    let mut waits = None;
    let (asked, id) = loop {
        // Said here where it is plain already; the coordinator judges again when it comes to it.
        if let Err(refusal) = crate::run::answer(&stored.plan, &stored.run, &request) {
            return Ok(refuse(shared, &stored, refusal.code, &format!("refused: {refusal}; nothing was changed")));
        }
        let moves_back = matches!(request.kind, RequestKind::Rollback | RequestKind::Abandon { without_green: false, .. });
        if moves_back && let Some(why) = status::bar(&stored, shared).await {
            let error =
                format!("refused: {why}, or lose what green took with `greenlight abandon --without-green`; nothing was changed");
            return Ok(refuse(shared, &stored, "barred", &error));
        }
        let asked = Asked::new(&stored.run, request.kind.clone());
        let by = (request.by.as_str(), request.reason.as_deref());
        match journal.file_request(&stored.id, by.0, by.1, &request.kind, request.at).await {
            Ok(id) => break (asked, id),
            Err(error) if error.is_locked() && may_wait(journal.as_ref(), &mut waits).await => {}
            Err(error) => return Err(error.into()),
        }
        // What was waited for may have changed what is asked for.
        stored = state::load(journal.as_ref(), &stored.id).await?;
    };
    let held = journal.lease(&stored.id).await?.filter(|lease| lease.is_held(clock.now()));
    let patience = patience(&request.kind, args.no_wait);
    let Some(lease) = held else {
        return run::drive(shared, journal, &stored.plan, patience, Some(asked)).await;
    };
    print::say(&format!("asked the coordinator, {}", shown(&lease.holder)));
    let run = stored.id.clone();
    let followed = Followed { shared, journal: journal.as_ref(), run, asked: &asked, request: id, patience };
    let end = tokio::select! {
        end = followed.until_so(stored.run.seq) => end?,
        _ = tokio::signal::ctrl_c() => {
            print::say(&format!(
                "interrupted. What you asked for is not taken back: the coordinator, {}, goes on with it.\n\
                 Next: `greenlight status {}` shows how far it is.",
                shown(&lease.holder),
                stored.id
            ));
            return Ok(Exit::Interrupted);
        }
    };
    match end {
        End::Stopped(stop) => run::conclude(shared, journal.as_ref(), &stored.id, &stop, Some(&asked)).await,
        End::Refused(words) => {
            let stored = state::load(journal.as_ref(), &stored.id).await?;
            // The same judgement once more, for its code.
            let code = crate::run::answer(&stored.plan, &stored.run, &request).err().map_or("refused", |refusal| refusal.code);
            Ok(refuse(shared, &stored, code, &words))
        }
        End::Driverless => {
            print::say("the coordinator is gone; driving on from here");
            run::drive(shared, journal, &stored.plan, patience, Some(asked)).await
        }
    }
}

/// Whether the journal's lock is waited for once more: as long as there is somebody who has it in hand, which is as long as a
/// window lasts. Said once for each of them.
async fn may_wait(journal: &dyn Journal, waits: &mut Option<String>) -> bool {
    let Some(who) = who_holds(journal).await else {
        // It has just let go: once more, and no longer.
        return waits.take().is_some();
    };
    if waits.as_ref() != Some(&who) {
        print::say(&format!(
            "waiting: the journal is held by {who}. What you ask for is put on record as soon as it is let go; until then nothing is, and \
             Ctrl-C takes it back."
        ));
        *waits = Some(who);
    }
    true
}

/// Of all runs in the journal: the one whose window is open, or is about to be.
async fn who_holds(journal: &dyn Journal) -> Option<String> {
    let mut driven = None;
    for entry in journal.runs().await.ok()? {
        let stored = state::load(journal, &entry.run).await.ok()?;
        if stored.run.outcome.is_some() {
            continue;
        }
        if let Some(window) = stored.run.open_window() {
            let (since, limit) = (window.at, stored.plan.window.max_pause());
            return Some(format!("the open window of run {} (since {since:.0}, for {limit:?} at most)", entry.run));
        }
        let lease = journal.lease(&entry.run).await.ok()?.filter(|lease| !lease.free);
        driven = driven.or_else(|| lease.map(|lease| format!("the coordinator of run {}, {}", entry.run, shown(&lease.holder))));
    }
    driven
}

/// How long a process that drives the run for a request stays with it.
fn patience(kind: &RequestKind, no_wait: bool) -> Patience {
    match kind {
        _ if no_wait => Patience::UntilWait,
        RequestKind::Approve | RequestKind::Retry | RequestKind::MarkDone { .. } | RequestKind::CallOff => Patience::UntilWait,
        // Blue serves: whether green follows it again is not what was asked.
        RequestKind::Rollback => Patience::UntilServes(Side::Blue),
        RequestKind::Finish | RequestKind::Abandon { .. } => Patience::UntilPerson,
    }
}

/// Refused without having been filed, or by the coordinator.
fn refuse(shared: &Shared, stored: &state::Stored, code: &str, error: &str) -> Exit {
    let standing = screen::standing(&stored.plan, &stored.run);
    if shared.output == Output::Json {
        print::json(&serde_json::json!({
            "error": error, "code": code, "run": stored.id, "serving": stored.run.serving(), "hint": standing,
            "exit_code": Exit::Usage as i32,
        }));
    }
    print::complain(&format!("error: {}", shown(error)));
    print::say(&standing);
    Exit::Usage
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

/// A request that another coordinator carries out.
struct Followed<'a> {
    shared: &'a Shared,
    journal: &'a dyn Journal,
    run: RunId,
    asked: &'a Asked,
    request: i64,
    patience: Patience,
}

enum End {
    Stopped(Stop),
    /// By the coordinator, with its words.
    Refused(String),
    /// Nobody drives the run any more.
    Driverless,
}

impl Followed<'_> {
    /// Shows what the coordinator does until what was asked for is so, or cannot be for now.
    async fn until_so(&self, mut seen: u64) -> anyhow::Result<End> {
        let (clock, screen) = (SystemClock::new(), Screen::new(self.shared.output, false));
        let mut stood = Stood::default();
        loop {
            let answer = self.journal.request_answer(&self.run, self.request).await?;
            let stored = state::load(self.journal, &self.run).await?;
            for record in stored.records.iter().filter(|record| record.seq > seen) {
                screen.tell(&stored.plan, &stored.run, Tell::Record(&record.event));
            }
            seen = stored.run.seq;
            let now = clock.now();
            let end = match answer {
                Some(refused) if refused.starts_with("refused") => Some(End::Refused(refused)),
                Some(_) => self.stop(&stored, now, stood.look(&stored.run, clock.monotonic())).map(End::Stopped),
                None => None,
            };
            let lease = self.journal.lease(&self.run).await?;
            let gone = lease.is_none_or(|lease| !lease.is_held(now));
            if let Some(end) = end.or_else(|| gone.then_some(End::Driverless)) {
                screen.clear();
                return Ok(end);
            }
            let doing = self.journal.progress(&self.run).await?.filter(|text| !text.is_empty());
            if let Some(text) = doing.or_else(|| waits_for(&stored.plan, &stored.run, now)) {
                screen.tell(&stored.plan, &stored.run, Tell::Progress(&text));
            }
            clock.sleep(Duration::from_millis(200)).await;
        }
    }

    fn stop(&self, stored: &state::Stored, now: Timestamp, stood: Duration) -> Option<Stop> {
        let (plan, run) = (&stored.plan, &stored.run);
        if let Some(outcome) = run.outcome {
            return Some(Stop::Closed(outcome));
        }
        let step = run.present_step()?;
        if self.asked.is_settled(plan, run) {
            return Some(Stop::Waits { step });
        }
        let may_leave = match self.patience {
            Patience::UntilWait => true,
            Patience::UntilServes(_) => self.asked.is_so(plan, run),
            Patience::UntilPerson | Patience::Stays => false,
        };
        match decide(plan, run, now) {
            Decision::WaitForPerson { step } => Some(Stop::WaitsForPerson { step }),
            Decision::WaitUntil { until, .. } if may_leave && until.duration_since(now) > STANDS_STILL.try_into().ok()? => {
                Some(Stop::Waits { step })
            }
            _ => (may_leave && stood > STANDS_STILL).then_some(Stop::Waits { step }),
        }
    }
}

/// Since when the run waits for the same thing.
#[derive(Default)]
struct Stood {
    what: Option<(StepNo, Option<String>)>,
    since: Duration,
}

impl Stood {
    /// How long the run has stood still, as far as this process has seen.
    fn look(&mut self, run: &Run, now: Duration) -> Duration {
        let waits = |step: &StepNo| {
            matches!(run.steps[step.0], StepState::Gated { .. } | StepState::Parked { .. } | StepState::Unsure { .. })
        };
        let what = run.present_step().filter(waits).map(|step| (step, run.note.clone()));
        if what.is_none() || what != self.what {
            (self.what, self.since) = (what, now);
        }
        now.saturating_sub(self.since)
    }
}

/// What was asked for is so: since when, after which pause, and what was lost.
pub(super) fn so(stored: &state::Stored, asked: &Asked) -> String {
    let (plan, run) = (&stored.plan, &stored.run);
    let moved = stored.records.iter().rev().find_map(|record| match &record.event {
        Event::FactLearned { fact: Fact::WindowClosed { serving, moved: true, pause_ms, .. }, .. } => {
            let since = record.at.to_zoned(jiff::tz::TimeZone::system());
            Some(format!("{serving} serves since {} after a pause of {pause_ms:.0} ms", since.strftime("%H:%M:%S %Z")))
        }
        _ => None,
    });
    let serves = moved.clone().unwrap_or_else(|| format!("{} served all the time", run.serving()));
    match asked.kind() {
        RequestKind::Rollback | RequestKind::Abandon { .. } => format!("{serves}, {}", lost(run, moved.is_some())),
        RequestKind::Finish => format!("{serves}, nothing lost; blue is retired"),
        RequestKind::CallOff => format!("{serves}, as before: the way back was called off"),
        RequestKind::Approve | RequestKind::Retry | RequestKind::MarkDone { .. } => match asked.step() {
            _ if asked.is_settled(plan, run) && moved.is_some() => format!("{serves}, nothing lost"),
            Some(step) => format!("step {step}, {}, is done", plan.steps[step.0].name),
            None => serves,
        },
    }
}

fn lost(run: &Run, moved: bool) -> &'static str {
    if run.by_restore && run.serving() == Side::Green {
        "and what blue took since the moment that was restored is not there: blue has it, `greenlight salvage` finds it"
    } else if run.without_green && moved {
        "and what green took and had not yet sent to blue is lost: only green has it"
    } else if moved && run.serving() == Side::Blue && fence_was_broken(run) {
        "nothing lost; but blue's fence was broken in the soak, and blue may hold writes that green never had"
    } else {
        "nothing lost"
    }
}

/// In the soak that a rollback has ended.
fn fence_was_broken(run: &Run) -> bool {
    let mut soak = run.facts.rsplit(|fact| matches!(fact, Fact::WindowCommitted { .. })).skip(1);
    soak.next().is_some_and(|facts| facts.iter().any(|fact| matches!(fact, Fact::FenceBroken { .. })))
}

//! `greenlight run`: carry out a playbook, or go on with an open run.

use super::arguments::{Output, RunArgs, Shared, WhichRun};
use super::screen::{self, Screen};
use super::{Exit, dry_run, edited, plan as plan_command, print, request, state};
use crate::engine::{Engine, Patience, Stop};
use crate::journal::{HolderProcess, Journal};
use crate::plan::{Plan, StepName};
use crate::playbook::Playbook;
use crate::run::{Asked, Direction, Event, Outcome, Run, waits_for};
use crate::wire;
use crate::word::{Clock, RunId, Side, SystemClock};
use std::path::Path;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

pub(super) async fn run(shared: &Shared, args: &RunArgs) -> anyhow::Result<Exit> {
    let Some(path) = &args.playbook else {
        let journal = state::open(shared)?;
        let stored = state::choose(shared, journal.as_ref(), &WhichRun { run: None }, true).await?;
        return go_on(shared, args, journal, stored).await;
    };
    if let (Ok(false), Some(name)) = (path.try_exists(), path.to_str())
        && let Some(journal) = state::find(shared)?
        && state::is_named(journal.as_ref(), name).await?
    {
        let stored = state::choose(shared, journal.as_ref(), &WhichRun { run: Some(name.to_owned()) }, true).await?;
        return go_on(shared, args, journal, stored).await;
    }
    let Some(playbook) = super::playbook::load_or_say(shared, path) else { return Ok(Exit::Playbook) };
    if let Some(journal) = state::find(shared)?
        && let Some(open) = state::open_run_of(journal.as_ref(), &playbook.name).await?
    {
        say_edits(&playbook, &open);
        return go_on(shared, args, journal, open).await;
    }
    begin(shared, args, path, &playbook).await
}

/// Says what of the playbook and its files a run that is open goes on without.
pub(super) fn say_edits(playbook: &Playbook, open: &state::Stored) {
    let edits = edited::edits(playbook, &open.plan);
    if edits.is_empty() {
        return;
    }
    let (id, path) = (&open.id, playbook.path.display());
    print::say(&format!(
        "NOTE: `{path}` or its migrations were changed since run {id} was created, and the run does NOT use the changes:\n    {}\n  \
         try: to use them, `greenlight abandon {id}` (or `finish` it) first, then `greenlight plan {path}`",
        edits.join("\n    ")
    ));
}

async fn go_on(shared: &Shared, args: &RunArgs, journal: Arc<dyn Journal>, open: state::Stored) -> anyhow::Result<Exit> {
    print::say(&format!("going on with run {} of `{}`, by the plan that it was created with", open.id, open.plan.name));
    if let Some(wanted) = &args.plan
        && !state::approved(&open.plan, &open.records).digest().starts_with(wanted.as_str())
    {
        let (id, digest) = (&open.id, short(state::approved(&open.plan, &open.records)));
        let hint = format!("`greenlight run` goes on with it, `greenlight abandon {id}` takes it back; nothing was changed");
        return Err(OtherPlan { why: format!("the open run {id} has plan {digest}, not {wanted}"), hint }.into());
    }
    if args.dry_run {
        return dry_run::run(shared, &open.plan, open.run).await;
    }
    drive(shared, journal, &open.plan, patience(args), None).await
}

async fn begin(shared: &Shared, args: &RunArgs, path: &Path, playbook: &Playbook) -> anyhow::Result<Exit> {
    let Some(plan) = plan_command::make(playbook).await? else { return Ok(Exit::Interrupted) };
    if !plan_command::may_run(&plan) {
        if shared.output == Output::Json {
            print::json(&serde_json::json!({ "obstacles": plan.obstacles().collect::<Vec<_>>() }));
        }
        plan_command::say_obstacles(&plan);
        return Ok(Exit::Refused);
    }
    if let Some(wanted) = &args.plan
        && !plan.digest().starts_with(wanted.as_str())
    {
        let why = format!(
            "the plan is now {}, not {wanted}: the playbook, the migrations or the servers have changed since it was approved",
            short(&plan)
        );
        let hint = format!("read `greenlight plan {}` again, and approve the new digest; nothing was changed", path.display());
        return Err(OtherPlan { why, hint }.into());
    }
    if args.dry_run {
        return dry_run::run(shared, &plan, Run::new(plan.steps.len())).await;
    }
    let journal = state::make(shared)?;
    let by = HolderProcess::this().to_string();
    journal.create(&Event::RunCreated { plan: Box::new(plan.clone()), by }, SystemClock::new().now()).await?;
    print::say(&format!("run {} of `{}`, plan {}", plan.run, plan.name, short(&plan)));
    drive(shared, journal, &plan, patience(args), None).await
}

/// The plan is not the one that `--plan` names.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct OtherPlan {
    why: String,
    pub(super) hint: String,
}

/// A digest as `plan` suggests it for `--plan`.
fn short(plan: &Plan) -> String {
    plan.digest()[..12].to_owned()
}

fn patience(args: &RunArgs) -> Patience {
    if args.no_wait { Patience::UntilWait } else { Patience::Stays }
}

/// Drives a run in this process until it is over, is interrupted, or comes to where the caller's patience ends. `asked`: what
/// it is driven for.
pub(super) async fn drive(
    shared: &Shared,
    journal: Arc<dyn Journal>,
    plan: &Plan,
    patience: Patience,
    asked: Option<Asked>,
) -> anyhow::Result<Exit> {
    let epoch = Arc::new(AtomicU64::new(0));
    let interrupted = Arc::new(AtomicBool::new(false));
    listen_for_interrupts(&interrupted)?;
    let screen = Arc::new(Screen::new(shared.output, patience == Patience::Stays));
    let told = screen.clone();
    let mut engine = Engine {
        journal: journal.clone(),
        ports: wire::ports(plan, &epoch, &shared.state).await?,
        run: plan.run.clone(),
        holder: HolderProcess::this().to_string(),
        epoch,
        interrupted,
        patience,
        tell: Arc::new(move |plan, run, tell| told.tell(plan, run, tell)),
    };
    let stop = drive_on(&mut engine, &shared.state).await;
    screen.clear();
    conclude(shared, journal.as_ref(), &plan.run, &stop?, asked.as_ref()).await
}

/// Drives, with new ports whenever the plan has become another one.
pub(super) async fn drive_on(engine: &mut Engine, state_dir: &Path) -> anyhow::Result<Stop> {
    loop {
        let stop = engine.drive().await?;
        if stop != Stop::Replanned {
            return Ok(stop);
        }
        let stored = state::load(engine.journal.as_ref(), &engine.run).await?;
        engine.ports = wire::ports(&stored.plan, &engine.epoch, state_dir).await?;
    }
}

/// Several signals within this time are one word: `timeout` sends its own to the child and then to the whole group.
const ONE_WORD: Duration = Duration::from_secs(1);

/// Ctrl-C and a service manager's word to stop: the first ends the present act in good order, the second ends the process,
/// which is safe too. A terminal that goes away ends nothing.
fn listen_for_interrupts(interrupted: &Arc<AtomicBool>) -> anyhow::Result<()> {
    // Heard, and no more: the run goes on without the terminal.
    drop(signal(SignalKind::hangup())?);
    let first: Arc<Mutex<Option<Duration>>> = Arc::default();
    let clock = Arc::new(SystemClock::new());
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind)?;
        let (interrupted, first, clock) = (interrupted.clone(), first.clone(), clock.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let (now, again) = (clock.monotonic(), interrupted.swap(true, Ordering::SeqCst));
                let since = *first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
                if again && now.saturating_sub(since) < ONE_WORD {
                    continue;
                }
                if again {
                    print::say(
                        "stopped at once, inside an act. If the window was open, its guard closes it now.\n\
                         Next: `greenlight status` shows what is so; `greenlight run` looks what came of that act, and goes on.",
                    );
                    #[expect(clippy::exit, reason = "a person's second Ctrl-C; as safe as kill -9, which every step survives")]
                    std::process::exit(Exit::Interrupted as i32);
                }
                print::say("stopping after the present act; once more stops at once, and the run can be gone on with either way");
            }
        });
    }
    Ok(())
}

/// The last words of a command that drove or followed a run, and its exit code. `asked`: what it was done for; whether that is
/// so decides the code.
pub(super) async fn conclude(
    shared: &Shared,
    journal: &dyn Journal,
    id: &RunId,
    stop: &Stop,
    asked: Option<&Asked>,
) -> anyhow::Result<Exit> {
    let stored = state::load(journal, id).await?;
    let (plan, run) = (&stored.plan, &stored.run);
    let is_so = asked.filter(|asked| asked.is_so(plan, run));
    let exit = match stop {
        _ if is_so.is_some() => Exit::Completed,
        Stop::Closed(Outcome::Completed) => Exit::Completed,
        Stop::Closed(Outcome::RolledBack) => Exit::RolledBack,
        Stop::WaitsForPerson { .. } if run.stuck_step().is_some() => Exit::Held,
        Stop::WaitsForPerson { .. } | Stop::Waits { .. } => Exit::Waiting,
        // Whoever drives goes on at once there.
        Stop::Replanned | Stop::Interrupted => Exit::Interrupted,
    };
    let said = is_so.map(|asked| request::so(&stored, asked));
    if shared.output == Output::Json {
        let at = run.present_step().filter(|_| run.outcome.is_none()).map(|step| step.0 + 1);
        let end = serde_json::json!({
            "run": id, "serving": run.serving(), "outcome": run.outcome, "step": at, "is_so": asked.map(|_| is_so.is_some()),
            "said": said, "waits_for": waits_for(plan, run, SystemClock::new().now()), "exit_code": exit as i32,
        });
        // One line, as the records before it are.
        print::json_line(&end);
    }
    if *stop == Stop::Interrupted {
        print::say("interrupted, in good order: no act is under way");
        if asked.is_some() && is_so.is_none() {
            print::say(&format!("What you asked for is on record and is not taken back: `greenlight run {id}` goes on with it."));
        }
    }
    match (said, asked, exit) {
        (Some(said), _, _) => print::say(&said),
        (None, Some(_), Exit::Waiting) => print::say(&format!("not yet: {}", not_yet(&stored))),
        _ => {}
    }
    print::say(&screen::standing(plan, run));
    let driven = journal.lease(id).await?.is_some_and(|lease| !lease.free);
    if run.outcome.is_none() && !driven {
        print::say(
            "Nobody drives the run now: nothing watches its limits, its fence and its routes, and its hours and its soak are not kept. \
             Start `greenlight run` again.",
        );
    }
    Ok(exit)
}

/// Why what was asked for is not so.
fn not_yet(stored: &state::Stored) -> String {
    let waits = waits_for(&stored.plan, &stored.run, SystemClock::new().now());
    let what = waits.or_else(|| stored.run.reason.clone()).unwrap_or_else(|| "the run has not come so far".to_owned());
    match stored.run.present_step() {
        Some(step) if stored.plan.steps[step.0].name != StepName::Window => {
            format!("step {step}, {}, waits for {what}", stored.plan.steps[step.0].name)
        }
        Some(_) if stored.run.direction == Direction::Forward && stored.run.serving() == Side::Green => {
            format!("green serves, and blue does not follow it yet; that waits for {what}")
        }
        Some(_) => format!("the window is not open; it waits for {what}"),
        None => what,
    }
}

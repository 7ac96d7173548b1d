//! `greenlight run`: carry out a playbook, or go on with its open run.

use super::arguments::{Output, RunArgs, Shared};
use super::screen::{self, Screen};
use super::{Exit, plan as plan_command, print, state};
use crate::engine::{Engine, Stop};
use crate::journal::{HolderProcess, Journal};
use crate::plan::Plan;
use crate::run::{Event, Outcome};
use crate::wire;
use crate::word::{Clock, RunId, SystemClock};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

pub(super) async fn run(shared: &Shared, args: &RunArgs) -> anyhow::Result<Exit> {
    let Some(playbook) = super::playbook::load_or_say(shared, &args.playbook)? else { return Ok(Exit::Playbook) };
    let journal = state::open(shared)?;
    let name = playbook.name.clone();
    if let Some(open) = state::open_run_of(journal.as_ref(), &name).await? {
        print::say(&format!("going on with run {} of `{name}`, by the plan that it was created with", open.id));
        if let Some(wanted) = &args.plan
            && !open.plan.digest().starts_with(wanted.as_str())
        {
            print::say(&format!("error: run {} has plan {}, not {wanted}", open.id, open.plan.digest()));
            return Ok(Exit::Refused);
        }
        return drive(shared, journal, &open.plan, args.no_wait).await;
    }
    let plan = wire::make_plan(&playbook).await?;
    if !plan_command::may_run(&plan) {
        plan_command::say_obstacles(&plan);
        return Ok(Exit::Refused);
    }
    if let Some(wanted) = &args.plan
        && !plan.digest().starts_with(wanted.as_str())
    {
        print::say(&format!("error: the plan is now {}, not {wanted}", plan.digest()));
        print::say("  because: the playbook, the migrations or the servers have changed since it was approved");
        print::say("  try: read `greenlight plan` again, and approve the new digest");
        return Ok(Exit::Refused);
    }
    if args.dry_run {
        print::data(&crate::plan::render::text(&plan, false));
        print::say("nothing was changed");
        return Ok(Exit::Completed);
    }
    let by = HolderProcess::this().to_string();
    journal.create(&Event::RunCreated { plan: Box::new(plan.clone()), by }, SystemClock::new().now()).await?;
    print::say(&format!("run {} of `{name}`, plan {}", plan.run, &plan.digest()[..12]));
    drive(shared, journal, &plan, args.no_wait).await
}

/// Drives a run in this process until it is over, needs a person, or is interrupted.
pub(super) async fn drive(shared: &Shared, journal: Arc<dyn Journal>, plan: &Plan, no_wait: bool) -> anyhow::Result<Exit> {
    let epoch = Arc::new(AtomicU64::new(0));
    let ports = wire::ports(plan, &epoch, &shared.state).await?;
    let interrupted = Arc::new(AtomicBool::new(false));
    listen_for_interrupts(interrupted.clone());
    let screen = Arc::new(Screen::new(shared.output));
    let told = screen.clone();
    let engine = Engine {
        journal: journal.clone(),
        ports,
        run: plan.run.clone(),
        holder: HolderProcess::this().to_string(),
        epoch,
        interrupted,
        stop_at_waits: no_wait,
        tell: Arc::new(move |plan, _, tell| told.tell(plan, tell)),
    };
    let stop = engine.drive().await;
    screen.clear();
    let stop = stop?;
    conclude(shared, journal.as_ref(), &plan.run, &stop).await
}

/// The first Ctrl-C ends the present act in good order; the second ends the process, which is safe too.
fn listen_for_interrupts(interrupted: Arc<AtomicBool>) {
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if interrupted.swap(true, Ordering::SeqCst) {
                print::say("stopped in the middle; the run can be resumed");
                #[expect(clippy::exit, reason = "a person's second Ctrl-C; as safe as kill -9, which every step survives")]
                std::process::exit(Exit::Interrupted as i32);
            }
            print::say("stopping after the present act; once more to stop at once (the run can be resumed either way)");
        }
    });
}

/// The last words of a command that drove or followed a run, and its exit code.
pub(super) async fn conclude(shared: &Shared, journal: &dyn Journal, id: &RunId, stop: &Stop) -> anyhow::Result<Exit> {
    let stored = state::load(journal, id).await?;
    if shared.output == Output::Text {
        print::say(&screen::standing(&stored.plan, &stored.run));
    }
    Ok(match stop {
        Stop::Closed(Outcome::Completed) => Exit::Completed,
        Stop::Closed(Outcome::RolledBack) => Exit::RolledBack,
        Stop::WaitsForPerson { .. } if stored.run.stuck_step().is_some() => Exit::Held,
        Stop::WaitsForPerson { .. } | Stop::Waits { .. } => Exit::Waiting,
        Stop::Interrupted => Exit::Interrupted,
    })
}

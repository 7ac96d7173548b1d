//! A run in the lab, driven by a script instead of a person.

use crate::cli::plan as plan_command;
use crate::cli::print;
use crate::cli::screen;
use crate::engine::{Engine, Patience, Stop, Tell};
use crate::journal::{HolderProcess, Journal, SqliteJournal};
use crate::plan::Plan;
use crate::playbook;
use crate::run::{Event, Fact, RequestKind, WindowPhase};
use crate::step::Ports;
use crate::wire;
use crate::word::{Clock, Side, SystemClock, Timestamp};
use anyhow::{anyhow, bail};
use std::path::{Path, PathBuf};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
};

/// A run and what drives it.
pub(super) struct Drill {
    pub plan: Plan,
    pub ports: Ports,
    journal: Arc<SqliteJournal>,
    epoch: Arc<AtomicU64>,
    quiet: bool,
    state: PathBuf,
}

/// One window that moved the writer.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    pub to: Side,
    pub opened_at: Timestamp,
    pub closed_at: Timestamp,
    pub pause_ms: f64,
    pub phases: Vec<WindowPhase>,
}

impl Drill {
    /// Plans the playbook and creates its run, with a journal below `state`.
    pub(super) async fn begin(playbook: &Path, state: &Path, quiet: bool) -> anyhow::Result<Drill> {
        let playbook = playbook::load(playbook, &wire::environment).map_err(|problems| anyhow!("{}", problems.render(false)))?;
        let plan = wire::make_plan(&playbook).await?;
        if !plan_command::may_run(&plan) {
            plan_command::say_obstacles(&plan);
            bail!("the lab's own plan was refused");
        }
        let journal = Arc::new(SqliteJournal::open(state)?);
        let event = Event::RunCreated { plan: Box::new(plan.clone()), by: "the lab".to_owned() };
        journal.create(&event, SystemClock::new().now()).await?;
        Drill::drive(plan, journal, state, quiet).await
    }

    /// Goes on with the newest run below `state`, which another process has begun. Quiet.
    pub(super) async fn adopt(state: &Path) -> anyhow::Result<Drill> {
        let journal = Arc::new(SqliteJournal::open(state)?);
        let entry = journal.runs().await?.into_iter().next().ok_or_else(|| anyhow!("there is no run to go on with"))?;
        let plan = crate::cli::state::load(journal.as_ref(), &entry.run).await?.plan;
        Drill::drive(plan, journal, state, true).await
    }

    async fn drive(plan: Plan, journal: Arc<SqliteJournal>, state: &Path, quiet: bool) -> anyhow::Result<Drill> {
        let epoch = Arc::new(AtomicU64::new(0));
        let ports = wire::ports(&plan, &epoch, state).await?;
        Ok(Drill { plan, ports, journal, epoch, quiet, state: state.to_owned() })
    }

    /// Drives until the run waits or is over, after filing `request` if there is one. The engine's own words are said.
    pub(super) async fn go(&self, request: Option<RequestKind>) -> anyhow::Result<Stop> {
        if let Some(kind) = request {
            self.journal
                .file_request(&self.plan.run, "the lab", Some("as the script says"), &kind, SystemClock::new().now())
                .await?;
        }
        let quiet = self.quiet;
        let mut engine = Engine {
            journal: self.journal.clone(),
            ports: self.ports.clone(),
            run: self.plan.run.clone(),
            holder: HolderProcess::this().to_string(),
            epoch: self.epoch.clone(),
            interrupted: Arc::new(AtomicBool::new(false)),
            patience: Patience::UntilWait,
            tell: Arc::new(move |plan, _, tell| {
                if let (Tell::Record(event), false) = (tell, quiet)
                    && let Some(line) = screen::line(plan, event)
                {
                    print::say(&line);
                }
            }),
        };
        crate::cli::run::drive_on(&mut engine, &self.state).await
    }

    /// Drives until the soak, or back to before the window; anything else is an error of the lab's.
    pub(super) async fn go_to_wait(&self, request: Option<RequestKind>) -> anyhow::Result<()> {
        match self.go(request).await? {
            Stop::Waits { .. } => Ok(()),
            Stop::WaitsForPerson { .. } => match self.stuck().await? {
                None => Ok(()),
                Some(why) => bail!("the run is stuck: {why}"),
            },
            stop @ (Stop::Closed(_) | Stop::Interrupted | Stop::Replanned) => bail!("the run ended early: {stop:?}"),
        }
    }

    async fn stuck(&self) -> anyhow::Result<Option<String>> {
        let stored = crate::cli::state::load(self.journal.as_ref(), &self.plan.run).await?;
        Ok(stored.run.stuck_step().map(|step| format!("step {step}: {}", stored.run.reason.unwrap_or_default())))
    }

    /// The windows that moved the writer, in order.
    pub(super) async fn moved(&self) -> anyhow::Result<Vec<Moved>> {
        let (mut moved, mut opened) = (Vec::new(), None);
        for record in self.journal.read(&self.plan.run).await? {
            match record.event {
                Event::FactLearned { fact: Fact::WindowOpened { to, at, .. }, .. } => opened = Some((to, at)),
                Event::FactLearned { fact: Fact::WindowClosed { moved: true, pause_ms, phases, .. }, .. } => {
                    if let Some((to, opened_at)) = opened {
                        moved.push(Moved { to, opened_at, closed_at: record.at, pause_ms, phases });
                    }
                }
                _ => {}
            }
        }
        Ok(moved)
    }

    /// How long each step took from its first intent to its end, in milliseconds.
    pub(super) async fn step_ms(&self) -> anyhow::Result<Vec<(crate::plan::StepName, f64)>> {
        let (mut took, mut begun) = (Vec::new(), None);
        for record in self.journal.read(&self.plan.run).await? {
            match record.event {
                Event::StepStarted { step, attempt: 1, .. } => begun = Some((step, record.at)),
                Event::StepDone { step } => {
                    if let Some((_, at)) = begun.filter(|(of, _)| *of == step) {
                        took.push((self.plan.steps[step.0].name, record.at.duration_since(at).as_secs_f64() * 1000.0));
                    }
                }
                _ => {}
            }
        }
        Ok(took)
    }
}

//! `greenlight lab campaign`: many windows, and in each of them something is killed, stopped or taken away at a random
//! moment, from outside, while applications write and remember what was acknowledged.
//!
//! What must be so: no acknowledged write is lost, the run goes on by itself, and where only Greenlight's own processes,
//! its journal or its routes' files were hit, no client waits longer than the window's limit and two seconds.

mod dice;
mod strike;

use super::demo::{pooler_version, versions, write};
use super::{Soak, options, write_playbook};
use crate::cli::arguments::{CampaignArgs, Output, Shared};
use crate::cli::{Exit, print, state};
use crate::journal::{Journal, SqliteJournal};
use crate::lab::{Ledger, LedgerOptions, Outcome, World};
use crate::process;
use crate::run::{Decision, Event, Fact, RequestKind, Run, decide};
use crate::word::{Clock, RunId, Side, SystemClock, Timestamp};
use anyhow::{Context, bail};
use dice::Dice;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strike::{Scene, Strike, Victim};

const CLIENTS: u32 = 8;
/// The playbook's `max_pause`.
const LIMIT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a round may take until the writer has moved and the other side follows.
const ROUND_LIMIT: Duration = Duration::from_mins(5);
/// Between two looks at whether all acknowledged writes are there.
const ROUNDS_BETWEEN_COUNTS: u32 = 20;
/// Rows of the shop: the comparison before each window to green is to be short.
const SCALE: f64 = 0.03;

#[derive(Debug, Default, Serialize)]
struct Summary {
    seed: u64,
    windows: usize,
    moved: usize,
    strikes: BTreeMap<&'static str, u32>,
    acknowledged_writes: usize,
    lost_writes: usize,
    failed_requests: usize,
    unknown_requests: usize,
    /// Where a server or PgBouncer was killed, that is in it.
    longest_client_wait_ms: f64,
    /// Where neither was.
    longest_client_wait_of_ours_ms: f64,
    limit_ms: u64,
    held: Vec<String>,
    /// What was not as it must be, each with the round, which the seed repeats.
    violations: Vec<String>,
    not_tried: Vec<String>,
    postgres: String,
    pgbouncer: String,
}

pub(super) async fn run(shared: &Shared, args: &CampaignArgs) -> anyhow::Result<Exit> {
    let world_options = crate::lab::Options { scale: SCALE, ..options(&args.lab, "shop").await? };
    let world = World::up(&world_options, &print::say).await?;
    let mut campaign = Campaign::begin(&world, args).await?;
    let fought = campaign.fight().await;
    if let Err(error) = &fought {
        campaign.summary.violations.push(format!("round {}: {error:#}", campaign.round));
    }
    let keep = !campaign.summary.violations.is_empty() && args.keep;
    let summary = campaign.end().await?;
    let path = write(&summary, "campaign")?;
    match shared.output {
        Output::Json => print::json(&summary),
        Output::Text => print::data(&text(&summary)),
    }
    print::say(&format!("written to {}", path.display()));
    if keep {
        let mut world = world;
        world.keep();
        print::say(&format!("the world stays in {}; `greenlight lab down` removes it", args.lab.dir.display()));
    } else {
        world.down()?;
    }
    Ok(if summary.lost_writes == 0 && summary.violations.is_empty() { Exit::Completed } else { Exit::Fault })
}

/// One run of many windows, and what befalls it.
struct Campaign<'a> {
    world: &'a World,
    args: &'a CampaignArgs,
    state: PathBuf,
    journal: Arc<SqliteJournal>,
    id: RunId,
    coordinator: Coordinator,
    ledger: Ledger,
    dice: Dice,
    clock: SystemClock,
    round: u32,
    summary: Summary,
    /// Ends with the campaign; after what was mounted there is out of use.
    disk: Option<strike::SmallDisk>,
}

impl<'a> Campaign<'a> {
    async fn begin(world: &'a World, args: &'a CampaignArgs) -> anyhow::Result<Campaign<'a>> {
        let state = world.dir().join("state");
        std::fs::create_dir(&state)?;
        let mut summary =
            Summary { seed: args.seed, limit_ms: u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX), ..Summary::default() };
        let disk = match strike::SmallDisk::over(&state).await {
            Ok(disk) => Some(disk),
            Err(error) => {
                summary.not_tried.push(format!("a full disk of the state folder: {error:#}"));
                None
            }
        };
        let playbook = write_playbook(world, &Soak { secs: 24 * 3600, gated: true, on_failure: "hold" })?;
        let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: CLIENTS, rate: f64::from(args.rate) });
        ledger.wait_for(500, PATIENCE).await?;
        let mut coordinator = Coordinator { state: state.clone(), log: world.dir().join("coordinator.log"), child: None };
        coordinator.start(Some(&playbook))?;
        let clock = SystemClock::new();
        let (journal, id) = first_run(&state, &mut coordinator, &clock).await?;
        print::say(&format!("run {id}: {} windows with the seed {}", args.windows, args.seed));
        Ok(Campaign {
            world,
            args,
            state,
            journal,
            id,
            coordinator,
            ledger,
            dice: Dice::of(args.seed),
            clock,
            round: 0,
            summary,
            disk,
        })
    }

    async fn fight(&mut self) -> anyhow::Result<()> {
        self.settle(Side::Blue).await?;
        while self.summary.windows < args_windows(self.args) {
            self.round += 1;
            self.one_round().await.with_context(|| format!("round {}", self.round))?;
        }
        if self.run_now().await?.serving() == Side::Blue {
            self.file(&RequestKind::Approve).await?;
            self.settle(Side::Green).await?;
        }
        self.file(&RequestKind::Finish).await?;
        self.until("the run to be over", false, |run, _| run.outcome.is_some()).await?;
        Ok(())
    }

    /// Asks for the next move, strikes at a random moment, and sees the writer moved all the same.
    async fn one_round(&mut self) -> anyhow::Result<()> {
        let to = self.run_now().await?.serving().other();
        let strikes = self.draw();
        let asked = self.clock.now();
        self.file(&if to == Side::Green { RequestKind::Approve } else { RequestKind::Rollback }).await?;
        let scene = Scene {
            world: self.world,
            state: &self.state,
            coordinator: self.coordinator.pid(),
            disk: self.disk.as_ref(),
            clock: &self.clock,
        };
        let struck = futures_util::future::join_all(strikes.iter().map(|strike| strike.carry_out(&scene))).await;
        for result in struck {
            result?;
        }
        self.settle(to).await?;
        let names: Vec<String> = strikes.iter().map(ToString::to_string).collect();
        self.measure(asked, &strikes, &names.join(" and ")).await
    }

    fn draw(&mut self) -> Vec<Strike> {
        let count = if self.dice.one_in(3) { 2 } else { 1 };
        let has_disk = self.disk.is_some();
        let mut strikes: Vec<Strike> = Vec::new();
        while strikes.len() < count {
            let strike = Strike::draw(&mut self.dice);
            let again = strikes.iter().any(|other| other.victim == strike.victim);
            if !again && (has_disk || strike.victim != Victim::Disk) {
                strikes.push(strike);
            }
        }
        strikes
    }

    async fn measure(&mut self, asked: Timestamp, strikes: &[Strike], names: &str) -> anyhow::Result<()> {
        for strike in strikes {
            *self.summary.strikes.entry(strike.victim.name()).or_default() += 1;
        }
        let wait = self.ledger.report().longest_wait_between(asked, self.clock.now());
        let wait_ms = wait.as_secs_f64() * 1000.0;
        self.summary.longest_client_wait_ms = self.summary.longest_client_wait_ms.max(wait_ms);
        if strikes.iter().all(|strike| strike.victim.is_ours()) {
            self.summary.longest_client_wait_of_ours_ms = self.summary.longest_client_wait_of_ours_ms.max(wait_ms);
            if wait > LIMIT + Duration::from_secs(2) {
                self.summary.violations.push(format!("round {}: a client waited {wait_ms:.0} ms ({names})", self.round));
            }
        }
        let (windows, moved) = self.windows().await?;
        (self.summary.windows, self.summary.moved) = (windows, moved);
        print::say(&format!("{windows} windows, {moved} moved; round {}: {names}; waited {wait_ms:.0} ms", self.round));
        if self.round.is_multiple_of(ROUNDS_BETWEEN_COUNTS) {
            self.count().await?;
        }
        Ok(())
    }

    /// Whether every acknowledged write is on the side that serves.
    async fn count(&mut self) -> anyhow::Result<()> {
        let serving = self.run_now().await?.serving();
        let lost = self.ledger.report().lost(&self.world.endpoint(serving)).await?;
        self.summary.lost_writes = lost.len();
        if let Some(first) = lost.first() {
            bail!("{} acknowledged writes are not on {serving}, the first of them {first:?}", lost.len());
        }
        Ok(())
    }

    /// Until this side serves, clients work, and the run waits for the next word. A person's part is played: a coordinator
    /// that is gone is started again after a while, and a step that is held is tried again.
    async fn settle(&mut self, to: Side) -> anyhow::Result<()> {
        self.until(&format!("{to} to serve and the run to wait"), to == Side::Green, |run, decision| {
            let waits = match to {
                Side::Blue => matches!(decision, Decision::WaitForPerson { .. }) && run.stuck_step().is_none(),
                Side::Green => {
                    matches!(decision, Decision::Act { poll: true, .. } | Decision::WaitUntil { .. }) && run.follows_back()
                }
            };
            run.serving() == to && run.open_window().is_none() && waits
        })
        .await?;
        self.ledger.wait_for(20, PATIENCE).await.context("clients do not work")
    }

    /// `approves`: whoever waits for a person's word on the way is given it.
    async fn until(&mut self, what: &str, approves: bool, is_so: impl Fn(&Run, &Decision) -> bool) -> anyhow::Result<()> {
        let began = self.clock.monotonic();
        loop {
            self.clock.sleep(Duration::from_millis(100)).await;
            // A full or locked journal may not be readable for a moment.
            if let Ok(stored) = state::load(self.journal.as_ref(), &self.id).await {
                let decision = decide(&stored.plan, &stored.run, self.clock.now());
                let answered = self.journal.open_requests(&self.id).await.is_ok_and(|open| open.is_empty());
                if answered && is_so(&stored.run, &decision) {
                    return Ok(());
                }
                let waits = matches!(decision, Decision::WaitForPerson { .. }) && stored.run.stuck_step().is_none();
                if answered && approves && waits {
                    self.file(&RequestKind::Approve).await?;
                }
                if let Some(step) = stored.run.stuck_step() {
                    let reason = stored.run.reason.clone().unwrap_or_default();
                    self.summary.held.push(format!("round {}: step {step}: {reason}", self.round));
                    self.file(&RequestKind::Retry).await?;
                    self.clock.sleep(Duration::from_secs(1)).await;
                } else if stored.run.outcome.is_some() {
                    bail!("the run is over ({:?}) while waiting for {what}", stored.run.outcome);
                }
            }
            if self.coordinator.is_gone() {
                // A person, or a service manager, comes only after the guard has had its time.
                self.clock.sleep(Duration::from_millis(self.dice.below(4000))).await;
                self.coordinator.start(None)?;
            }
            if self.clock.monotonic().saturating_sub(began) > ROUND_LIMIT {
                bail!("waited {} s for {what}", ROUND_LIMIT.as_secs());
            }
        }
    }

    async fn file(&self, kind: &RequestKind) -> anyhow::Result<()> {
        let mut tries = 0;
        while let Err(error) =
            self.journal.file_request(&self.id, "the campaign", Some("as the dice say"), kind, self.clock.now()).await
        {
            tries += 1;
            if tries == 30 {
                return Err(error.into());
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn run_now(&self) -> anyhow::Result<Run> {
        Ok(state::load(self.journal.as_ref(), &self.id).await?.run)
    }

    /// Windows that were opened, and those that moved the writer.
    async fn windows(&self) -> anyhow::Result<(usize, usize)> {
        let records = self.journal.read(&self.id).await?;
        let count = |fits: fn(&Fact) -> bool| {
            records.iter().filter(|record| matches!(&record.event, Event::FactLearned { fact, .. } if fits(fact))).count()
        };
        let opened = count(|fact| matches!(fact, Fact::WindowOpened { .. }));
        Ok((opened, count(|fact| matches!(fact, Fact::WindowCommitted { .. }))))
    }

    async fn end(mut self) -> anyhow::Result<Summary> {
        self.coordinator.stop().await;
        let report = self.ledger.stop().await;
        let (windows, moved) = self.journal.read(&self.id).await.map_or((0, 0), |_| (self.summary.windows, self.summary.moved));
        let run = state::load(self.journal.as_ref(), &self.id).await?.run;
        let serving = if run.outcome.is_some() { Side::Green } else { run.serving() };
        match report.lost(&self.world.endpoint(serving)).await {
            Ok(lost) => self.summary.lost_writes = lost.len(),
            Err(error) => self.summary.violations.push(format!("{serving} could not be counted: {}", error.chain())),
        }
        let summary = Summary {
            windows,
            moved,
            acknowledged_writes: report.count(Outcome::Acknowledged),
            failed_requests: report.count(Outcome::Failed),
            unknown_requests: report.count(Outcome::Unknown),
            postgres: versions(self.world, serving).await.unwrap_or_default(),
            pgbouncer: pooler_version(self.world).await.unwrap_or_default(),
            ..self.summary
        };
        Ok(summary)
    }
}

fn args_windows(args: &CampaignArgs) -> usize {
    usize::try_from(args.windows).unwrap_or(usize::MAX)
}

/// The run that the coordinator has begun.
async fn first_run(
    state: &Path,
    coordinator: &mut Coordinator,
    clock: &SystemClock,
) -> anyhow::Result<(Arc<SqliteJournal>, RunId)> {
    let began = clock.monotonic();
    loop {
        clock.sleep(Duration::from_millis(200)).await;
        if state.join(crate::journal::FILE).exists() {
            let journal = Arc::new(SqliteJournal::open(state)?);
            if let Some(entry) = journal.runs().await?.into_iter().next() {
                return Ok((journal, entry.run));
            }
        }
        if coordinator.is_gone() || clock.monotonic().saturating_sub(began) > PATIENCE {
            bail!("the run did not begin; see {}", coordinator.log.display());
        }
    }
}

/// `greenlight run` in a process of its own, as a service manager starts it.
struct Coordinator {
    state: PathBuf,
    log: PathBuf,
    child: Option<tokio::process::Child>,
}

impl Coordinator {
    fn start(&mut self, playbook: Option<&Path>) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = process::new_command(&std::env::current_exe()?);
        command.arg("--state").arg(&self.state).arg("run").args(playbook);
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(command.spawn().context("could not start the coordinator")?);
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(tokio::process::Child::id)
    }

    fn is_gone(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    async fn stop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill().await;
        }
    }
}

fn text(summary: &Summary) -> String {
    use std::fmt::Write;
    let strikes: Vec<String> = summary.strikes.iter().map(|(victim, count)| format!("{victim} {count}")).collect();
    let mut text = format!(
        "\nseed {}: {} windows, {} moved the writer\nstruck: {}\n\
         acknowledged writes: {}; lost: {}; failed: {}; not known: {}\n\
         longest wait of a client: {:.0} ms; where no server and no PgBouncer was killed: {:.0} ms (the limit is {} ms and 2 s)\n",
        summary.seed,
        summary.windows,
        summary.moved,
        strikes.join(", "),
        summary.acknowledged_writes,
        summary.lost_writes,
        summary.failed_requests,
        summary.unknown_requests,
        summary.longest_client_wait_ms,
        summary.longest_client_wait_of_ours_ms,
        summary.limit_ms,
    );
    for line in summary.held.iter().map(|held| format!("held, and tried again: {held}")) {
        let _ = writeln!(text, "{line}");
    }
    for line in summary.violations.iter().map(|violation| format!("NOT AS IT MUST BE: {violation}")) {
        let _ = writeln!(text, "{line}");
    }
    for line in summary.not_tried.iter().map(|part| format!("NOT TRIED: {part}")) {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "PostgreSQL {}, {}", summary.postgres, summary.pgbouncer);
    text
}

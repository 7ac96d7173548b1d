//! `greenlight lab bench`: many cutovers and rollbacks under load, and beside them, in the same run, the floor: PAUSE, one
//! marker's way, RESUME.

use super::demo::{direction, pooler_version, versions, write};
use super::drill::{Drill, Moved};
use super::{Soak, options, write_playbook};
use crate::cli::arguments::{BenchArgs, LabArgs, Output, Shared};
use crate::cli::{Exit, print};
use crate::lab::{Ledger, LedgerOptions, LedgerReport, Outcome, World};
use crate::plan::StepName;
use crate::postgres::client::{Session, SessionOptions};
use crate::run::RequestKind;
use crate::step::Ports;
use crate::word::{Clock, Endpoint, Side, SystemClock};
use crate::{playbook, wire};
use anyhow::{Context, anyhow, ensure};
use futures_util::future::try_join_all;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

const CLIENTS: u32 = 8;
const FREEZES: u32 = 7;
const FLOORS_A_ROUND: u32 = 2;
/// A PAUSE closes the pool's connections. The next one is a floor only for a pool that is as full as a window finds it.
const POOL_FILLS: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug, Serialize)]
struct Summary {
    machine: String,
    postgres: String,
    pgbouncer: String,
    windows: usize,
    transactions_per_second: f64,
    window_ms: Spread,
    floor_ms: Spread,
    /// The median window as a multiple of the median floor.
    window_to_floor: f64,
    phases_ms: BTreeMap<String, Spread>,
    longest_client_wait_ms: f64,
    acknowledged_writes: usize,
    lost_writes: usize,
    failed_requests: usize,
    attach_ms: f64,
    attach_wal_bytes: u64,
    coordinator_memory_bytes: u64,
    plan_tables: u32,
    plan_secs: f64,
    freeze: super::bench_freeze::FreezeTimes,
    restore: super::bench_restore::RestoreTimes,
    stalls_ms: super::bench_stall::Stalls,
    /// The phases, in the order in which they come.
    #[serde(skip)]
    order: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

pub(super) async fn run(shared: &Shared, args: &BenchArgs) -> anyhow::Result<Exit> {
    let stalls = Box::pin(super::bench_stall::measure(&args.lab, f64::from(args.rate))).await;
    let stalls = stalls.context("could not measure how long writers stand still outside the window")?;
    if args.only_stalls {
        match shared.output {
            Output::Json => print::json(&stalls),
            Output::Text => print::data(&stalls.text()),
        }
        return Ok(Exit::Completed);
    }
    let restore = super::bench_restore::measure(&args.lab, args.restore_mib).await.context("could not time a restore")?;
    let (plan_secs, _) = Box::pin(time_plan(args)).await.context("could not time the plan of many tables")?;
    let freeze = Box::pin(super::bench_freeze::measure(&args.lab, FREEZES, f64::from(args.rate))).await;
    let freeze = freeze.context("could not time freezes")?;
    let world = World::up(&options(&args.lab, "shop").await?, &print::say).await?;
    let playbook = write_playbook(&world, &Soak { secs: 3600, gated: false, on_failure: "rollback" })?;
    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: CLIENTS, rate: f64::from(args.rate) });
    ledger.wait_for(1000, PATIENCE).await?;
    let (drill, attach_wal_bytes, memory) = Box::pin(attach(&world, &playbook)).await?;
    let mut floor = Vec::new();
    for round in 1..=args.rounds {
        print::say(&format!("round {round} of {}", args.rounds));
        drill.go_to_wait(Some(RequestKind::Rollback)).await?;
        for _ in 0..FLOORS_A_ROUND {
            floor.push(measure_floor(&drill.ports).await?);
        }
        drill.go_to_wait(Some(RequestKind::Approve)).await?;
    }
    let report = ledger.stop().await;
    let lost = report.lost(&world.endpoint(Side::Green)).await?;
    let moved = drill.moved().await?;
    let summary = Summary {
        machine: machine(),
        postgres: versions(&world, Side::Green).await?,
        pgbouncer: pooler_version(&world).await?,
        windows: moved.len(),
        transactions_per_second: rate(&report),
        window_ms: spread(moved.iter().map(|moved| moved.pause_ms)),
        floor_ms: spread(floor.iter().copied()),
        window_to_floor: spread(moved.iter().map(|moved| moved.pause_ms)).median / spread(floor.iter().copied()).median,
        phases_ms: phases(&moved),
        longest_client_wait_ms: longest_wait(&moved, &report),
        acknowledged_writes: report.count(Outcome::Acknowledged),
        lost_writes: lost.len(),
        failed_requests: report.count(Outcome::Failed) + report.count(Outcome::Unknown),
        attach_ms: attach_ms(&drill).await?,
        attach_wal_bytes,
        coordinator_memory_bytes: memory,
        plan_tables: args.tables,
        plan_secs,
        freeze,
        restore,
        stalls_ms: stalls,
        order: moved.first().map(|moved| moved.phases.iter().map(|phase| phase.name.clone()).collect()).unwrap_or_default(),
    };
    let path = write(&summary, "bench")?;
    match shared.output {
        Output::Json => print::json(&summary),
        Output::Text => print::data(&table(&summary)),
    }
    for (error, count) in &report.errors {
        print::say(&format!("{count} times: {error}"));
    }
    print::say(&format!("written to {}", path.display()));
    world.down()?;
    Ok(if summary.lost_writes + summary.freeze.lost_writes == 0 { Exit::Completed } else { Exit::Fault })
}

/// Attaches green and moves to it for the first time, with a coordinator of its own. The run, the WAL that blue keeps for
/// green after it, and the coordinator's peak memory, both in bytes.
async fn attach(world: &World, playbook: &std::path::Path) -> anyhow::Result<(Drill, u64, u64)> {
    let state = world.dir().join("state");
    let memory = coordinator_memory(&state, playbook).await?;
    let drill = Drill::adopt(&state).await?;
    ensure!(drill.moved().await?.len() == 1, "the first window did not open");
    let slot = drill.ports.blue.slot(&drill.plan.names.forward).await?;
    Ok((drill, slot.map_or(0, |slot| slot.retained_bytes), memory))
}

/// From the publication on blue to the first marker on green, in milliseconds.
async fn attach_ms(drill: &Drill) -> anyhow::Result<f64> {
    let attaching = [StepName::PublishBlue, StepName::AttachGreen, StepName::SubscribeGreen];
    Ok(drill.step_ms().await?.iter().filter(|(name, _)| attaching.contains(name)).map(|(_, ms)| ms).sum())
}

/// PAUSE, a marker from blue to green, RESUME, in milliseconds; while blue serves and green follows.
async fn measure_floor(ports: &Ports) -> anyhow::Result<f64> {
    let clock = SystemClock::new();
    clock.sleep(POOL_FILLS).await;
    try_join_all(ports.routes.iter().map(|route| route.router.settle())).await?;
    let started = clock.monotonic();
    try_join_all(ports.routes.iter().map(|route| route.router.pause(Duration::from_secs(5)))).await?;
    let value = clock.now().as_microsecond();
    ports.blue.write_marker(value).await?;
    while ports.green.read_marker().await? != Some(value) {
        ensure!(clock.monotonic().saturating_sub(started) < Duration::from_secs(10), "the marker did not arrive");
    }
    try_join_all(ports.routes.iter().map(|route| route.router.resume())).await?;
    Ok(clock.monotonic().saturating_sub(started).as_secs_f64() * 1000.0)
}

/// The peak memory of a coordinator, as the system accounts it, from the playbook to the soak: in bytes.
async fn coordinator_memory(state: &std::path::Path, playbook: &std::path::Path) -> anyhow::Result<u64> {
    let program = std::env::current_exe()?;
    let mut command = crate::process::own_command(&program, &[]);
    command.arg("--state").arg(state).arg("run").arg(playbook).arg("--no-wait");
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id().unwrap_or_default());
    let (clock, mut peak) = (SystemClock::new(), 0);
    while child.try_wait()?.is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        clock.sleep(Duration::from_millis(2)).await;
    }
    Ok(peak)
}

/// Seconds that survey, preflight, shadow and plan take for a database of many tables.
async fn time_plan(args: &BenchArgs) -> anyhow::Result<(f64, usize)> {
    let lab = LabArgs { dir: args.lab.dir.with_extension("many"), ..args.lab.clone() };
    let mut options = options(&lab, "shop").await?;
    options.scale = 0.01;
    options.fsync = false;
    options.settings.push(("max_locks_per_transaction".to_owned(), "20000".to_owned()));
    let world = World::up(&options, &|_| {}).await?;
    print::say(&format!("making {} tables", args.tables));
    let sql = format!(
        "DO $$ BEGIN FOR n IN 1..{} LOOP EXECUTE format('CREATE TABLE public.many_%s (id bigint PRIMARY KEY, a text NOT NULL, b int)', n); END LOOP; END $$",
        args.tables
    );
    let blue: Endpoint = world.endpoint(Side::Blue);
    let limit = Duration::from_mins(5);
    let session = Session::open(&blue, &SessionOptions::ours("greenlight/lab", limit, limit), "blue").await?;
    session.batch("make many tables", &sql).await?;
    let playbook = write_playbook(&world, &Soak { secs: 3600, gated: false, on_failure: "rollback" })?;
    let playbook = playbook::load(&playbook, &wire::environment).map_err(|problems| anyhow!("{}", problems.render(false)))?;
    let clock = SystemClock::new();
    let started = clock.monotonic();
    let plan = wire::make_plan(&playbook).await?;
    let took = clock.monotonic().saturating_sub(started).as_secs_f64();
    world.down()?;
    Ok((took, plan.tables.len()))
}

fn phases(moved: &[Moved]) -> BTreeMap<String, Spread> {
    let mut by_name: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for phase in moved.iter().flat_map(|moved| &moved.phases) {
        by_name.entry(phase.name.clone()).or_default().push(phase.ms);
    }
    by_name.into_iter().map(|(name, values)| (name, spread(values.into_iter()))).collect()
}

fn longest_wait(moved: &[Moved], report: &LedgerReport) -> f64 {
    let waits = moved.iter().map(|moved| report.longest_wait_between(moved.opened_at, moved.closed_at));
    waits.max().unwrap_or_default().as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a count of requests")]
fn rate(report: &LedgerReport) -> f64 {
    let (Some(first), Some(last)) = (report.requests.first(), report.requests.last()) else { return 0.0 };
    report.count(Outcome::Acknowledged) as f64 / last.started.duration_since(first.started).as_secs_f64().max(0.001)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among few values"
)]
pub(super) fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let at =
        |share: f64| values.get((values.len().saturating_sub(1) as f64 * share).round() as usize).copied().unwrap_or(f64::NAN);
    Spread { median: at(0.5), p99: at(0.99), max: at(1.0) }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores ({model})")
}

fn table(summary: &Summary) -> String {
    let mut table = comfy_table::Table::new();
    // A table that can be put into the README as it is.
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(["", "median", "p99", "max"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    let mut row = |name: &str, spread: &Spread| {
        table.add_row([
            name.to_owned(),
            format!("{:.1} ms", spread.median),
            format!("{:.1} ms", spread.p99),
            format!("{:.1} ms", spread.max),
        ]);
    };
    row("window", &summary.window_ms);
    for name in &summary.order {
        row(&format!("  {name}"), &summary.phases_ms[name]);
    }
    row("floor", &summary.floor_ms);
    row("freeze", &summary.freeze.pause_ms);
    row("  migrations", &summary.freeze.migrations_ms);
    row("  comparison", &summary.freeze.comparison_ms);
    row("  the rest", &summary.freeze.rest_ms);
    let lines = [
        format!(
            "{} windows ({} and {}), {:.0} transactions a second",
            summary.windows,
            direction(Side::Green),
            direction(Side::Blue),
            summary.transactions_per_second
        ),
        format!("window to floor: {:.1}", summary.window_to_floor),
        format!("longest client wait: {:.0} ms; failed requests: {}", summary.longest_client_wait_ms, summary.failed_requests),
        summary.stalls_ms.text(),
        format!("acknowledged writes: {}; lost: {}", summary.acknowledged_writes, summary.lost_writes),
        format!(
            "{} freezes: acknowledged writes {}; lost {}; failed requests {}",
            summary.freeze.freezes,
            summary.freeze.acknowledged_writes,
            summary.freeze.lost_writes,
            summary.freeze.failed_requests
        ),
        format!("attachment: {:.0} ms, {} bytes of WAL kept for green", summary.attach_ms, summary.attach_wal_bytes),
        format!("coordinator's memory: {} MiB", summary.coordinator_memory_bytes / 1_048_576),
        format!("preflight and plan of {} tables: {:.1} s", summary.plan_tables, summary.plan_secs),
        format!(
            "restore of {} MiB and {} MiB of WAL: {:.0} ms, {:.0} ms of it verifying; copy and recovery by hand {:.0} ms; ratio {:.2}",
            summary.restore.data_mib,
            summary.restore.wal_mib,
            summary.restore.restore_ms,
            summary.restore.verify_ms,
            summary.restore.by_hand_ms,
            summary.restore.to_by_hand
        ),
        format!("PostgreSQL {}, {}; {}", summary.postgres, summary.pgbouncer, summary.machine),
    ];
    format!("{table}\n{}", lines.join("\n"))
}

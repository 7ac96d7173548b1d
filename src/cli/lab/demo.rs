//! `greenlight lab demo`: cutover, rollback, cutover, finish, under writers that remember what was acknowledged.

use super::drill::{Drill, Moved};
use super::{Soak, options, write_playbook};
use crate::cli::arguments::{LabArgs, Output, Shared};
use crate::cli::{Exit, print};
use crate::engine::Stop;
use crate::lab::{Ledger, LedgerOptions, LedgerReport, Outcome, World};
use crate::run::RequestKind;
use crate::word::Side;
use anyhow::ensure;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CLIENTS: u32 = 8;
const RATE: f64 = 300.0;
/// Writes that must be acknowledged between two moves.
const BETWEEN: usize = 1000;
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug, Serialize)]
struct Summary {
    cutovers: Vec<Cutover>,
    acknowledged_writes: usize,
    lost_writes: usize,
    failed_requests: usize,
    rollback_lossless: bool,
    postgres: String,
    pgbouncer: String,
}

#[derive(Debug, Serialize)]
struct Cutover {
    direction: String,
    window_ms: f64,
    phases_ms: BTreeMap<String, f64>,
    longest_client_wait_ms: f64,
}

pub(super) async fn run(shared: &Shared, args: &LabArgs) -> anyhow::Result<Exit> {
    let world = World::up(&options(args, "shop").await?, &print::say).await?;
    let playbook = write_playbook(&world, &Soak { secs: 3600, gated: false, on_failure: "rollback" })?;
    print::say(&format!("{CLIENTS} clients write through PgBouncer and remember every acknowledged row"));
    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: CLIENTS, rate: RATE });
    ledger.wait_for(BETWEEN, PATIENCE).await?;

    print::say("\n== planning, and moving to green");
    let drill = Box::pin(Drill::begin(&playbook, &world.dir().join("state"), false)).await?;
    drill.go_to_wait(None).await?;
    ledger.wait_for(BETWEEN, PATIENCE).await?;
    print::say("\n== moving back to blue");
    drill.go_to_wait(Some(RequestKind::Rollback)).await?;
    // Blue serves again: whatever green took since the cutover must be there.
    let lost_on_blue = ledger.report().lost(&world.endpoint(Side::Blue)).await?;
    ledger.wait_for(BETWEEN, PATIENCE).await?;
    print::say("\n== moving to green again");
    drill.go_to_wait(Some(RequestKind::Approve)).await?;
    ledger.wait_for(BETWEEN, PATIENCE).await?;
    print::say("\n== finishing");
    let stop = drill.go(Some(RequestKind::Finish)).await?;
    ensure!(matches!(stop, Stop::Closed(crate::run::Outcome::Completed)), "the run did not complete: {stop:?}");

    let report = ledger.stop().await;
    let lost = report.lost(&world.endpoint(Side::Green)).await?;
    let summary = Summary {
        cutovers: drill.moved().await?.iter().map(|moved| cutover(moved, &report)).collect(),
        acknowledged_writes: report.count(Outcome::Acknowledged),
        lost_writes: lost.len(),
        failed_requests: report.count(Outcome::Failed) + report.count(Outcome::Unknown),
        rollback_lossless: lost_on_blue.is_empty(),
        postgres: versions(&world, Side::Green).await?,
        pgbouncer: pooler_version(&world).await?,
    };
    let path = write(&summary, "demo")?;
    match shared.output {
        Output::Json => print::json(&summary),
        Output::Text => print::data(&text(&summary, &report)),
    }
    print::say(&format!("written to {}; the throwaway servers are removed", path.display()));
    world.down()?;
    Ok(if summary.lost_writes == 0 && summary.rollback_lossless { Exit::Completed } else { Exit::Fault })
}

fn cutover(moved: &Moved, report: &LedgerReport) -> Cutover {
    Cutover {
        direction: direction(moved.to).to_owned(),
        window_ms: moved.pause_ms,
        phases_ms: moved.phases.iter().map(|phase| (phase.name.clone(), phase.ms)).collect(),
        longest_client_wait_ms: report.longest_wait_between(moved.opened_at, moved.closed_at).as_secs_f64() * 1000.0,
    }
}

pub(super) fn direction(to: Side) -> &'static str {
    match to {
        Side::Green => "blue to green",
        Side::Blue => "green to blue",
    }
}

/// Writes `target/<kind>/summary.json` below the present folder.
pub(super) fn write(summary: &impl Serialize, kind: &str) -> anyhow::Result<PathBuf> {
    let folder = Path::new("target").join(kind);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("summary.json");
    std::fs::write(&path, serde_json::to_vec_pretty(summary)?)?;
    Ok(path)
}

pub(super) async fn versions(world: &World, side: Side) -> anyhow::Result<String> {
    let session = crate::postgres::client::Session::open(
        &world.endpoint(side),
        &crate::postgres::client::SessionOptions::reading("greenlight/lab"),
        side.to_string(),
    )
    .await?;
    let rows = session.read("read the version", "SELECT current_setting('server_version')", &[]).await?;
    Ok(crate::postgres::client::cell(crate::postgres::client::one(&rows)?, 0)?)
}

pub(super) async fn pooler_version(world: &World) -> anyhow::Result<String> {
    let playbook = world.dir().join("shop.yaml");
    let playbook =
        crate::playbook::load(&playbook, &crate::wire::environment).map_err(|p| anyhow::anyhow!("{}", p.render(false)))?;
    Ok(crate::wire::route_versions(&playbook).await?.into_iter().next().unwrap_or_default())
}

fn text(summary: &Summary, report: &LedgerReport) -> String {
    use std::fmt::Write;
    let mut text = String::from("\n");
    for cutover in &summary.cutovers {
        let phases: Vec<String> = cutover.phases_ms.iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        let _ = writeln!(
            text,
            "{}: pause {:.1} ms ({}); the longest that a client waited: {:.0} ms",
            cutover.direction,
            cutover.window_ms,
            phases.join(", "),
            cutover.longest_client_wait_ms
        );
    }
    let _ = writeln!(text, "acknowledged writes: {}; lost: {}", summary.acknowledged_writes, summary.lost_writes);
    let _ = writeln!(text, "failed requests: {}", summary.failed_requests);
    for (error, count) in &report.errors {
        let _ = writeln!(text, "  {count} times: {error}");
    }
    let _ = writeln!(text, "rollback without loss: {}", if summary.rollback_lossless { "yes" } else { "NO" });
    let _ = writeln!(text, "PostgreSQL {}, {}", summary.postgres, summary.pgbouncer);
    text
}

//! How long blue stands still in a freeze: several of them under load, each with a standby that its own run makes, each
//! taken back.

use super::bench::{Spread, spread};
use super::drill::{Drill, Moved};
use super::{Soak, options, write_playbook};
use crate::cli::arguments::LabArgs;
use crate::cli::print;
use crate::engine::Stop;
use crate::lab::{Ledger, LedgerOptions, Outcome, World};
use crate::run::RequestKind;
use crate::word::Side;
use anyhow::ensure;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(2);
const CLIENTS: u32 = 8;

#[derive(Debug, Serialize)]
pub(super) struct FreezeTimes {
    pub(super) freezes: u32,
    pub(super) pause_ms: Spread,
    pub(super) migrations_ms: Spread,
    pub(super) comparison_ms: Spread,
    /// The pause without these two, which are as long as the data is large.
    pub(super) rest_ms: Spread,
    pub(super) acknowledged_writes: usize,
    pub(super) lost_writes: usize,
    pub(super) failed_requests: usize,
}

pub(super) async fn measure(args: &LabArgs, rounds: u32, rate: f64) -> anyhow::Result<FreezeTimes> {
    let lab = LabArgs { dir: args.dir.with_extension("freeze"), ..args.clone() };
    let mut options = options(&lab, "shop").await?;
    options.with_green = false;
    let world = World::up(&options, &|_| {}).await?;
    let playbook = freeze_playbook(&world)?;
    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: CLIENTS, rate });
    ledger.wait_for(1000, PATIENCE).await?;
    let mut moved = Vec::new();
    for round in 1..=rounds {
        print::say(&format!("freeze {round} of {rounds}"));
        let drill = Box::pin(Drill::begin(&playbook, &world.dir().join("state"), true)).await?;
        drill.go_to_wait(None).await?;
        ledger.wait_for(500, PATIENCE).await?;
        moved.extend(drill.moved().await?);
        let end = drill.go(Some(RequestKind::Abandon { without_green: false, by_restore: false })).await?;
        ensure!(matches!(end, Stop::Closed(_)), "a freeze was not taken back: {end:?}");
    }
    let report = ledger.stop().await;
    let lost = report.lost(&world.endpoint(Side::Blue)).await?;
    world.down()?;
    let part =
        |moved: &Moved, name: &str| -> f64 { moved.phases.iter().filter(|phase| phase.name == name).map(|phase| phase.ms).sum() };
    let rest = |moved: &Moved| moved.pause_ms - part(moved, "migrate") - part(moved, "compare");
    Ok(FreezeTimes {
        freezes: rounds,
        pause_ms: spread(moved.iter().map(|moved| moved.pause_ms)),
        migrations_ms: spread(moved.iter().map(|moved| part(moved, "migrate"))),
        comparison_ms: spread(moved.iter().map(|moved| part(moved, "compare"))),
        rest_ms: spread(moved.iter().map(rest)),
        acknowledged_writes: report.count(Outcome::Acknowledged),
        lost_writes: lost.len(),
        failed_requests: report.count(Outcome::Failed) + report.count(Outcome::Unknown),
    })
}

fn freeze_playbook(world: &World) -> anyhow::Result<PathBuf> {
    let path = playbook_that_makes_green(world, false)?;
    let text = std::fs::read_to_string(&path)?.replacen("strategy: sync", "strategy: freeze", 1).replacen(
        "max_pause: 5s",
        "max_pause: 2m",
        1,
    );
    std::fs::write(&path, text)?;
    Ok(path)
}

/// A playbook whose runs make green, and take it away when they are abandoned.
pub(super) fn playbook_that_makes_green(world: &World, gated: bool) -> anyhow::Result<PathBuf> {
    let path: PathBuf = write_playbook(world, &Soak { secs: 3600, gated, on_failure: "rollback" })?;
    let green = world.endpoint(Side::Green);
    let folder = serde_json::Value::from(world.dir().join("green").display().to_string());
    let create = format!("  create: {{host: local, data_dir: {folder}, port: {}}}\nmigrations:\n", green.port);
    let text = std::fs::read_to_string(&path)?.replacen("migrations:\n", &create, 1);
    std::fs::write(&path, text)?;
    Ok(path)
}

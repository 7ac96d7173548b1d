//! How long writers stand still outside the window: runs from the plan to the window's gate and back, each with somebody at
//! the hottest table whom the fence has to wait for.

use super::bench_freeze::playbook_that_makes_green;
use super::drill::Drill;
use super::options;
use crate::cli::arguments::LabArgs;
use crate::cli::print;
use crate::engine::Stop;
use crate::lab::{Ledger, LedgerOptions, World};
use crate::postgres::client::{Session, SessionOptions};
use crate::run::RequestKind;
use crate::word::{Clock, Endpoint, PortError, Side, SystemClock};
use anyhow::ensure;
use serde::Serialize;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(2);
const CLIENTS: u32 = 8;
/// How long somebody is in the way, at the beginning of the run and again while it is taken back: through several tries.
const IN_THE_WAY: Duration = Duration::from_secs(20);

/// The longest wait of a writer, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Stalls {
    /// Without a run, for as long as somebody is in the way otherwise.
    without_a_run: f64,
    /// In a run with nobody in the way.
    alone: f64,
    /// With a transaction that has read the table and stays open.
    long_reader: f64,
    /// With a VACUUM of the table.
    vacuum: f64,
}

#[derive(Clone, Copy, Debug)]
enum InTheWay {
    Nobody,
    Reader,
    Vacuum,
}

pub(super) async fn measure(args: &LabArgs, rate: f64) -> anyhow::Result<Stalls> {
    let lab = LabArgs { dir: args.dir.with_extension("stall"), ..args.clone() };
    let mut options = options(&lab, "shop").await?;
    options.with_green = false;
    let world = World::up(&options, &|_| {}).await?;
    let playbook = playbook_that_makes_green(&world, true)?;
    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: CLIENTS, rate });
    ledger.wait_for(1000, PATIENCE).await?;
    let clock = SystemClock::new();
    let mut spans = Vec::new();
    let quiet = clock.now();
    clock.sleep(IN_THE_WAY).await;
    spans.push((quiet, clock.now()));
    for who in [InTheWay::Nobody, InTheWay::Reader, InTheWay::Vacuum] {
        print::say(&format!("a run to the window and back; in the way: {who:?}"));
        let began = clock.now();
        let drill = Box::pin(Drill::begin(&playbook, &world.dir().join("state"), true)).await?;
        let blue = world.endpoint(Side::Blue);
        let (forth, held) = tokio::join!(drill.go_to_wait(None), stand_in_the_way(who, &blue));
        forth?;
        held?;
        let back = drill.go(Some(RequestKind::Abandon { without_green: false, by_restore: false }));
        let (back, held) = tokio::join!(back, stand_in_the_way(who, &blue));
        held?;
        let end = back?;
        ensure!(matches!(end, Stop::Closed(_)), "a run was not taken back: {end:?}");
        spans.push((began, clock.now()));
    }
    let report = ledger.stop().await;
    let mut longest = spans.iter().map(|(from, to)| report.longest_wait_between(*from, *to).as_secs_f64() * 1000.0);
    let mut next = || longest.next().unwrap_or(f64::NAN);
    let stalls = Stalls { without_a_run: next(), alone: next(), long_reader: next(), vacuum: next() };
    world.down()?;
    Ok(stalls)
}

impl Stalls {
    pub(super) fn text(&self) -> String {
        format!(
            "longest wait of a writer outside the window, from plan to abandon: {:.0} ms; with a long reader of the hottest table {:.0} ms, \
             with a VACUUM of it {:.0} ms; without a run {:.0} ms",
            self.alone, self.long_reader, self.vacuum, self.without_a_run
        )
    }
}

async fn stand_in_the_way(who: InTheWay, blue: &Endpoint) -> Result<(), PortError> {
    let limit = IN_THE_WAY * 2;
    let options = SessionOptions::ours("reports", limit, limit);
    match who {
        InTheWay::Nobody => Ok(()),
        InTheWay::Reader => {
            let session = Session::open(blue, &options, "blue").await?;
            session.batch("read", "BEGIN; SELECT FROM public.ledger LIMIT 1").await?;
            SystemClock::new().sleep(IN_THE_WAY).await;
            session.batch("end", "COMMIT").await
        }
        InTheWay::Vacuum => {
            let session = Session::open(blue, &options, "blue").await?;
            session.batch("slow the vacuum down", "SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1").await?;
            let clock = SystemClock::new();
            let began = clock.monotonic();
            loop {
                let left = IN_THE_WAY.saturating_sub(clock.monotonic().saturating_sub(began));
                if left < Duration::from_millis(100) {
                    return Ok(());
                }
                session.batch("bound the vacuum", &format!("SET statement_timeout = {}", left.as_millis())).await?;
                match session.batch("vacuum", "VACUUM (TRUNCATE false) public.ledger").await {
                    Err(error) if error.chain().contains("statement timeout") => return Ok(()),
                    ended => ended?,
                }
            }
        }
    }
}

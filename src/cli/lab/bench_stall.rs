//! How long writers stand still outside the window: runs from the plan to the window's gate and back, each with somebody at
//! the hottest table whom the fence has to wait for.

use super::bench_freeze::playbook_that_makes_green;
use super::drill::Drill;
use super::options;
use crate::cli::arguments::LabArgs;
use crate::cli::print;
use crate::engine::Stop;
use crate::lab::{Ledger, LedgerOptions, World};
use crate::postgres::client::{Session, SessionOptions, cell, one};
use crate::run::RequestKind;
use crate::word::{Clock, Endpoint, PortError, Side, SystemClock};
use anyhow::ensure;
use serde::Serialize;
use std::{path::Path, time::Duration};

const PATIENCE: Duration = Duration::from_mins(2);
const CLIENTS: u32 = 8;
const ROUNDS: u32 = 3;
/// How long somebody is in the way, at the beginning of the run and again while it is taken back: through several tries.
const IN_THE_WAY: Duration = Duration::from_secs(12);
/// Just before the end of that.
const LOOKED_AT: Duration = Duration::from_millis(11_500);
/// About as long as a run takes, with nobody in the way.
const WITHOUT_A_RUN: Duration = Duration::from_secs(20);
const FENCED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger \
    WHERE tgrelid = 'public.ledger'::pg_catalog.regclass AND tgname = 'greenlight_fence')";

/// The longest wait of a writer over all rounds, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Stalls {
    rounds: u32,
    without_a_run: f64,
    /// In a run with nobody in the way.
    alone: f64,
    /// With a transaction that has read the table and stays open. It holds up the fence's removal only.
    long_reader: f64,
    /// With a VACUUM of the table, which holds up installation and removal.
    vacuum: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum InTheWay {
    NoRun,
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
    for round in 1..=ROUNDS {
        print::say(&format!("runs to the window and back, {round} of {ROUNDS}"));
        for who in [InTheWay::NoRun, InTheWay::Nobody, InTheWay::Reader, InTheWay::Vacuum] {
            let began = clock.now();
            match who {
                InTheWay::NoRun => clock.sleep(WITHOUT_A_RUN).await,
                _ => there_and_back(&world, &playbook, who).await?,
            }
            spans.push((who, began, clock.now()));
        }
    }
    let report = ledger.stop().await;
    let longest = |who: InTheWay| {
        let waits = spans.iter().filter(|(was, ..)| *was == who).map(|(_, from, to)| report.longest_wait_between(*from, *to));
        waits.max().unwrap_or_default().as_secs_f64() * 1000.0
    };
    let stalls = Stalls {
        rounds: ROUNDS,
        without_a_run: longest(InTheWay::NoRun),
        alone: longest(InTheWay::Nobody),
        long_reader: longest(InTheWay::Reader),
        vacuum: longest(InTheWay::Vacuum),
    };
    world.down()?;
    Ok(stalls)
}

/// A run from its plan to the window's gate, and abandoned there.
///
/// # Errors
/// Also when it was not held up by whoever is in the way, so that nothing was measured.
async fn there_and_back(world: &World, playbook: &Path, who: InTheWay) -> anyhow::Result<()> {
    let drill = Box::pin(Drill::begin(playbook, &world.dir().join("state"), true)).await?;
    let blue = world.endpoint(Side::Blue);
    let abandon = Some(RequestKind::Abandon { without_green: false, by_restore: false });

    let holder = Holder::begin(who, &blue).await?;
    let (forth, fenced) = tokio::join!(drill.go_to_wait(None), holder.see_it_out(&blue));
    forth?;
    ensure!(who != InTheWay::Vacuum || fenced? == Some(false), "the VACUUM held up no installation of the fence");

    let holder = Holder::begin(who, &blue).await?;
    let (back, fenced) = tokio::join!(drill.go(abandon), holder.see_it_out(&blue));
    let back = back?;
    ensure!(matches!(back, Stop::Closed(_)), "a run was not taken back: {back:?}");
    ensure!(fenced? != Some(false), "{who:?} held up no removal of the fence");
    Ok(())
}

impl Stalls {
    pub(super) fn text(&self) -> String {
        let one = |wait: f64| format!("{wait:.0} ms ({:.1} times)", wait / self.without_a_run);
        format!(
            "longest wait of a writer outside the window, in {} runs from plan to abandon: {}; with a long reader of the hottest table {}; \
             with a VACUUM of it {}; without a run {:.0} ms",
            self.rounds,
            one(self.alone),
            one(self.long_reader),
            one(self.vacuum),
            self.without_a_run
        )
    }
}

/// Who has the table, from before the run acts.
enum Holder {
    Nobody,
    Reader(Session),
    Vacuum(Session),
}

impl Holder {
    async fn begin(who: InTheWay, blue: &Endpoint) -> Result<Holder, PortError> {
        if matches!(who, InTheWay::NoRun | InTheWay::Nobody) {
            return Ok(Holder::Nobody);
        }
        let session = open(blue).await?;
        if who == InTheWay::Reader {
            session.batch("read", "BEGIN; SELECT FROM public.ledger LIMIT 1").await?;
            return Ok(Holder::Reader(session));
        }
        // As slow as it can be made, so that it lasts.
        let slow = format!(
            "SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1; SET statement_timeout = {}",
            IN_THE_WAY.as_millis()
        );
        session.batch("slow the vacuum down", &slow).await?;
        Ok(Holder::Vacuum(session))
    }

    /// To the end of its time. Whether the fence's trigger was on the table just before; `None`: nobody was there.
    async fn see_it_out(self, blue: &Endpoint) -> anyhow::Result<Option<bool>> {
        let clock = SystemClock::new();
        let looks = open(blue).await?;
        let just_before = async {
            clock.sleep(LOOKED_AT).await;
            let rows = looks.read("look for the fence", FENCED, &[]).await?;
            cell::<bool>(one(&rows)?, 0)
        };
        match self {
            Holder::Nobody => Ok(None),
            Holder::Reader(session) => {
                let fenced = just_before.await?;
                session.batch("end", "COMMIT").await?;
                Ok(Some(fenced))
            }
            Holder::Vacuum(session) => {
                let (vacuum, fenced) = tokio::join!(
                    session.batch("vacuum", "VACUUM (TRUNCATE false, DISABLE_PAGE_SKIPPING) public.ledger"),
                    just_before
                );
                ensure!(
                    vacuum.is_err_and(|error| error.chain().contains("statement timeout")),
                    "the VACUUM came to its end before its time"
                );
                Ok(Some(fenced?))
            }
        }
    }
}

async fn open(blue: &Endpoint) -> Result<Session, PortError> {
    let limit = IN_THE_WAY * 2;
    Session::open(blue, &SessionOptions::ours("reports", limit, limit), "blue").await
}

//! `greenlight status`: where a run stands, and whether a rollback would be lossless now, by looking.

use super::arguments::{Output, Shared, StatusArgs};
use super::{Exit, print, screen, state};
use crate::journal::{HolderProcess, Journal};
use crate::plan::{Plan, Strategy};
use crate::postgres::Fence;
use crate::run::{Event, Record, Run, StepState, waits_for};
use crate::step::{Lead, LeadsTo, Ports, Stuck, changes_of_green, leads, stuck};
use crate::wire;
use crate::word::{Clock, PortError, Side, SystemClock, Timestamp, shown};
use serde::Serialize;
use std::sync::{Arc, atomic::AtomicU64};
use std::{fmt::Write, time::Duration};

/// How long an error waits for what the routes say.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// What `status --output json` gives.
#[derive(Debug, Serialize)]
struct Status {
    run: String,
    name: String,
    serving: Side,
    /// Since when clients are paused, for all that the journal and the routes tell.
    clients_paused_since: Option<Timestamp>,
    /// A window is open in the journal only: clients were given back, and nobody could write it down yet.
    given_back: bool,
    outcome: Option<crate::run::Outcome>,
    steps: Vec<StepLine>,
    waits_for: Option<String>,
    /// Since when it waits for that.
    since: Option<Timestamp>,
    /// Where each route leads now. Empty where nobody was asked.
    routes: Vec<RouteLine>,
    /// What was seen that a person should know of.
    noticed: Vec<Noticed>,
    doing: Option<String>,
    held_by: Option<String>,
    way_back: WayBack,
    /// What could not be taken away, and why.
    left_behind: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RouteLine {
    name: String,
    leads: String,
    /// Why that is not as it must be.
    wrong: Option<String>,
}

#[derive(Debug, Serialize)]
struct StepLine {
    number: usize,
    name: String,
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct Noticed {
    at: Timestamp,
    what: String,
}

/// Whether moving back to blue would lose anything, now.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum WayBack {
    /// Blue serves; nothing is to be moved back.
    NotNeeded,
    Lossless {
        lag_bytes: u64,
    },
    /// Blue does not follow now; the changes are kept for it until it does.
    Delayed {
        why: String,
    },
    /// A rollback would not go through now.
    Barred {
        why: String,
    },
    WouldLose {
        why: String,
    },
    /// Not known is not good.
    Unknown {
        why: String,
    },
}

pub(super) async fn run(shared: &Shared, args: &StatusArgs) -> anyhow::Result<Exit> {
    let journal = state::open(shared)?;
    let clock = SystemClock::new();
    let mut shown = String::new();
    loop {
        let stored = state::choose(shared, journal.as_ref(), &args.which, false).await?;
        let status = look(journal.as_ref(), &stored, shared, args.offline).await?;
        let page = text(&status);
        // Again and again the same would hide what changes.
        if page != shown {
            match shared.output {
                // While watching, one line for each change.
                Output::Json if args.watch => print::json_line(&status),
                Output::Json => print::json(&status),
                Output::Text => print::data(&page),
            }
            if !status.given_back {
                print::say(&screen::standing(&stored.plan, &stored.run));
            }
            shown = page;
        }
        if !args.watch || stored.run.outcome.is_some() {
            return Ok(Exit::Completed);
        }
        clock.sleep(Duration::from_secs(2)).await;
    }
}

async fn look(journal: &dyn Journal, stored: &state::Stored, shared: &Shared, offline: bool) -> anyhow::Result<Status> {
    let (plan, run) = (&stored.plan, &stored.run);
    let now = SystemClock::new().now();
    let lease = journal.lease(&stored.id).await?.filter(|lease| lease.is_held(now));
    let asks = !offline && run.outcome.is_none();
    let ports = if asks {
        wire::ports(plan, &Arc::new(AtomicU64::new(0)), &shared.state).await.map_err(|error| format!("{error:#}"))
    } else {
        Err("not looked".to_owned())
    };
    let way_back = if run.serving() == Side::Blue || run.outcome.is_some() {
        WayBack::NotNeeded
    } else if matches!(plan.strategy, Strategy::InPlace | Strategy::Restored) {
        WayBack::WouldLose { why: "blue does not follow a restored green".to_owned() }
    } else {
        match &ports {
            Ok(ports) => {
                let looked = way_back(plan, run, ports).await;
                looked.unwrap_or_else(|error| WayBack::Unknown { why: error.chain() })
            }
            Err(why) => WayBack::Unknown { why: why.clone() },
        }
    };
    let line = |lead: Lead| RouteLine { leads: lead.to.to_string(), wrong: lead.wrong(run.serving()), name: lead.route };
    let leads = match &ports {
        Ok(ports) => leads(ports).await,
        Err(_) => Vec::new(),
    };
    let given_back = match &ports {
        Ok(ports) if lease.is_none() && run.clients_paused_since().is_some() => nobody_waits(ports, run, &leads).await,
        _ => false,
    };
    let steps = plan.steps.iter().zip(&run.steps).enumerate();
    Ok(Status {
        run: plan.run.to_string(),
        name: plan.name.clone(),
        serving: run.serving(),
        clients_paused_since: run.clients_paused_since().filter(|_| !given_back),
        given_back,
        outcome: run.outcome,
        steps: steps
            .map(|(at, (step, state))| StepLine {
                number: at + 1,
                name: step.name.to_string(),
                state: word(state, run.outcome.is_some()),
            })
            .collect(),
        waits_for: waits_for(plan, run, now),
        since: since(&stored.records),
        routes: leads.into_iter().map(line).collect(),
        noticed: stored.records.iter().filter_map(noticed).collect(),
        doing: if lease.is_some() { journal.progress(&stored.id).await?.filter(|text| !text.is_empty()) } else { None },
        held_by: lease.map(|lease| lease.holder),
        way_back,
        left_behind: run.left_behind().collect(),
    })
}

/// Each route is seen to let its clients through, and the side that serves to take their writes.
async fn nobody_waits(ports: &Ports, run: &Run, leads: &[Lead]) -> bool {
    let let_through = |lead: &Lead| matches!(lead.to, LeadsTo::Side(side) if side == run.serving());
    !leads.is_empty() && leads.iter().all(let_through) && matches!(ports.server(run.serving()).fence().await, Ok(Fence::Open))
}

/// Whether clients were given back in a window that is open in the journal still. What cannot be seen soon is not so.
pub(super) async fn is_given_back(journal: &dyn Journal, stored: &state::Stored, shared: &Shared) -> bool {
    // This process says it as its last word.
    let ours = HolderProcess::this().to_string();
    match journal.lease(&stored.id).await {
        Ok(Some(lease)) if lease.free || lease.holder == ours => {}
        Ok(None) => {}
        _ => return false,
    }
    let looked = async {
        let ports = wire::ports(&stored.plan, &Arc::new(AtomicU64::new(0)), &shared.state).await.ok()?;
        Some(nobody_waits(&ports, &stored.run, &leads(&ports).await).await)
    };
    let clock = SystemClock::new();
    tokio::select! {
        seen = looked => seen == Some(true),
        () = clock.sleep(LOOK_LIMIT) => false,
    }
}

fn noticed(record: &Record) -> Option<Noticed> {
    match &record.event {
        Event::Noticed { what } => Some(Noticed { at: record.at, what: what.clone() }),
        _ => None,
    }
}

/// Since when the run waits for what it waits for now: the first of its last records that say the same.
fn since(records: &[Record]) -> Option<Timestamp> {
    let said = |record: &&Record| match &record.event {
        Event::StepParked { note, .. } | Event::StepWaiting { note, .. } if !note.is_empty() => Some(note.clone()),
        Event::GateReached { waits_for, .. } => Some(waits_for.clone()),
        Event::RollbackHalted { .. } => Some("halted".to_owned()),
        Event::GateApproved { .. } => Some("approved".to_owned()),
        Event::StepFailed { .. } => Some("failed".to_owned()),
        _ => None,
    };
    let moves = |record: &&&Record| {
        !matches!(
            record.event,
            Event::LeaseTaken { .. } | Event::StepStarted { .. } | Event::Noticed { .. } | Event::StepUnsure { .. }
        )
    };
    let mut last: Vec<&Record> = records.iter().rev().filter(|record| moves(&record)).collect();
    let what = last.first().and_then(said)?;
    let same = last.iter().take_while(|record| said(record).as_ref() == Some(&what)).count();
    last.truncate(same);
    last.last().map(|record| record.at)
}

/// Why a move back to blue would not go through now, where that can be seen.
pub(super) async fn bar(stored: &state::Stored, shared: &Shared) -> Option<String> {
    let (plan, run) = (&stored.plan, &stored.run);
    if run.serving() == Side::Blue || !matches!(plan.strategy, Strategy::Sync | Strategy::Freeze) {
        return None;
    }
    // What cannot be looked at is left to the coordinator, who waits for it.
    let ports = wire::ports(plan, &Arc::new(AtomicU64::new(0)), &shared.state).await.ok()?;
    match way_back(plan, run, &ports).await {
        Ok(WayBack::Barred { why }) => Some(why),
        _ => None,
    }
}

async fn way_back(plan: &Plan, run: &Run, ports: &Ports) -> Result<WayBack, PortError> {
    let (blue, green) = (&ports.blue, &ports.green);
    if let Some(why) = run.way_back_given_up() {
        return Ok(WayBack::WouldLose { why: why.to_owned() });
    }
    if let Some(changes) = changes_of_green(plan, green).await? {
        let why = format!(
            "green's schema was changed since the migrations ({changes}). Blue has not got that, and rows of it cannot come back. Take the \
             change back on green, or keep green with `greenlight finish`"
        );
        return Ok(WayBack::Barred { why });
    }
    let name = &plan.names.reverse;
    let Some(slot) = green.slot(name).await?.filter(|slot| !slot.lost) else {
        return Ok(WayBack::WouldLose { why: "green's slot for blue is gone".to_owned() });
    };
    let Some(flow) = blue.subscription(name).await? else {
        return Ok(WayBack::WouldLose { why: "blue's subscription is gone".to_owned() });
    };
    match stuck(ports, Side::Blue, &flow).await {
        Some(Stuck::Rows(rows)) => {
            let why =
                format!("blue cannot take what green has ({rows}). Make it fit on blue, or keep green with `greenlight finish`");
            return Ok(WayBack::Barred { why });
        }
        Some(Stuck::Fails(why)) => return Ok(WayBack::Unknown { why: format!("blue does not follow green now: {why}") }),
        Some(Stuck::Rests(why)) => return Ok(WayBack::Delayed { why }),
        None => {}
    }
    let mut broken: Vec<String> = run.fence_broken().map(|(at, how)| format!("{how}, seen {at}")).collect();
    broken.extend(blue.fence_damage().await?);
    if !broken.is_empty() {
        let why = format!("blue's fence was broken ({}): what was written there since, nobody knows", broken.join("; "));
        return Ok(WayBack::Unknown { why });
    }
    let lag_bytes = green.wal_lsn().await?.bytes_since(slot.confirmed_flush);
    Ok(WayBack::Lossless { lag_bytes })
}

/// `over`: the run is, so that nothing waits any more.
pub(super) fn word(state: &StepState, over: bool) -> &'static str {
    match state {
        StepState::Idle | StepState::Gated { .. } if over => "never begun",
        StepState::Idle => "to do",
        StepState::Gated { .. } => "at its gate",
        StepState::Running { .. } | StepState::Parked { .. } => "under way",
        StepState::Retrying { .. } => "trying again",
        StepState::Unsure { .. } => "not known, looking",
        StepState::Stuck { .. } => "stuck",
        StepState::Done => "done",
        StepState::Reverted => "taken back",
    }
}

/// For people. Names, notes and errors are of others.
fn text(status: &Status) -> String {
    let outcome = status.outcome.map_or("open", crate::run::Outcome::in_words);
    let paused = status.clients_paused_since.map(|since| format!("{}\n", screen::paused(since))).unwrap_or_default();
    let given_back = if status.given_back { format!("{}\n", screen::GIVEN_BACK) } else { String::new() };
    let serves = if status.clients_paused_since.is_some() { String::new() } else { format!("; {} serves", status.serving) };
    let mut text = format!("{paused}{given_back}run {} of `{}`: {outcome}{serves}\n", status.run, shown(&status.name));
    for step in &status.steps {
        let _ = writeln!(text, "  {:>2}  {:<18} {}", step.number, step.name, step.state);
    }
    for route in &status.routes {
        let wrong = route.wrong.as_ref().map(|wrong| format!("; ALARM: it {}", shown(wrong))).unwrap_or_default();
        let _ = writeln!(text, "route {} {}{wrong}", shown(&route.name), shown(&route.leads));
    }
    for noticed in &status.noticed {
        let _ = writeln!(text, "noticed at {:.0}: {}", noticed.at, shown(&noticed.what));
    }
    if let Some(waits_for) = &status.waits_for {
        let since = status.since.map(|since| format!(" (since {since:.0})")).unwrap_or_default();
        let _ = writeln!(text, "waits for {}{since}", shown(waits_for));
    }
    if let Some(doing) = &status.doing {
        let _ = writeln!(text, "now: {}", shown(doing));
    }
    if status.outcome.is_none() {
        let holder = status
            .held_by
            .as_deref()
            .unwrap_or("nobody: nothing watches its limits, its fence and its routes. Start `greenlight run`");
        let _ = writeln!(text, "driven by {}", shown(holder));
    }
    for left in &status.left_behind {
        let _ = writeln!(text, "left behind {}", shown(left));
    }
    let _ = match &status.way_back {
        WayBack::NotNeeded => Ok(()),
        WayBack::Lossless { lag_bytes } => writeln!(text, "a rollback now would lose nothing (blue is {lag_bytes} bytes behind)"),
        WayBack::Delayed { why } => writeln!(text, "a rollback has to wait, and would then lose nothing: {}", shown(why)),
        WayBack::Barred { why } => writeln!(text, "a rollback is NOT POSSIBLE now: {}", shown(why)),
        WayBack::WouldLose { why } => writeln!(text, "a rollback would LOSE writes: {}", shown(why)),
        WayBack::Unknown { why } => writeln!(text, "whether a rollback would be lossless is not known: {}", shown(why)),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_said_is_text() {
        let hostile = || "x\u{1b}[2J\nError: fake\u{202e}".to_owned();
        let status = Status {
            run: "r1".to_owned(),
            name: hostile(),
            serving: Side::Blue,
            clients_paused_since: None,
            given_back: false,
            since: None,
            routes: Vec::new(),
            noticed: Vec::new(),
            outcome: None,
            steps: Vec::new(),
            waits_for: Some(hostile()),
            doing: Some(hostile()),
            held_by: Some(hostile()),
            way_back: WayBack::Unknown { why: hostile() },
            left_behind: vec![hostile()],
        };
        let page = text(&status);
        assert!(!page.replace('\n', "").contains(crate::word::is_hidden), "{page:?}");
        assert!(page.matches("Error: fake").count() == 6 && !page.contains("\nError"), "{page}");
    }
}

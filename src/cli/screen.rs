//! What a person sees while a run goes on: a line for each record that matters, and what is being done now.

use super::arguments::Output;
use super::print::{self, Spinner};
use crate::engine::Tell;
use crate::plan::{Answer, Plan, SchemaWork, StepName, Strategy};
use crate::run::{Decision, Direction, Event, Fact, Outcome, Run, StepNo, StepState};
use crate::run::{cannot_be_taken_back, decide};
use crate::word::{Clock, Side, SystemClock, Timestamp, shown};

/// Prints records and progress; to standard error, so that standard output stays data.
#[derive(Debug)]
pub(super) struct Screen {
    bar: Spinner,
    output: Output,
    /// The command waits with the run, so that nobody else says what it waits for.
    waits: bool,
}

impl Screen {
    pub(super) fn new(output: Output, waits: bool) -> Screen {
        Screen { bar: Spinner::new(), output, waits }
    }

    pub(super) fn tell(&self, plan: &Plan, run: &Run, tell: Tell<'_>) {
        match tell {
            Tell::Record(event) => {
                self.bar.say("");
                if let Some(line) = line(plan, event) {
                    self.bar.aside(|| print::say(&line));
                }
                if self.output == Output::Json {
                    self.bar.aside(|| print::json_line(event));
                }
                if self.waits && begins_to_wait(plan, run, event) {
                    self.bar.aside(|| print::say(&standing(plan, run)));
                }
            }
            Tell::Progress(text) => {
                self.bar.turn();
                self.bar.say(text);
            }
        }
    }

    pub(super) fn clear(&self) {
        self.bar.clear();
    }
}

/// Whether only a person or the end of the soak moves the run on from here.
fn begins_to_wait(plan: &Plan, run: &Run, event: &Event) -> bool {
    let soaks = |step: &StepNo| plan.steps.get(step.0).is_some_and(|planned| planned.name == StepName::Soak);
    match event {
        Event::StepParked { step, note, .. } => soaks(step) && !note.is_empty(),
        Event::GateReached { .. } | Event::StepFailed { .. } | Event::RollbackHalted { .. } => {
            matches!(decide(plan, run, SystemClock::new().now()), Decision::WaitForPerson { .. })
        }
        _ => false,
    }
}

/// One record as lines for people, the second of them what to try; `None` for those that only machines need.
pub(super) fn line(plan: &Plan, event: &Event) -> Option<String> {
    let hint = match event {
        Event::StepFailed { hint: Some(hint), .. } => format!("\n        try: {}", shown(hint)),
        _ => String::new(),
    };
    Some(shown(&words(plan, event)?) + &hint)
}

fn words(plan: &Plan, event: &Event) -> Option<String> {
    let title = |step: &StepNo| plan.steps.get(step.0).map_or_else(String::new, |planned| planned.name.to_string());
    Some(match event {
        Event::RunCreated { plan, by } => format!("run {} of `{}` created by {by}", plan.run, plan.name),
        Event::StepStarted { step, attempt, direction } => {
            let again = if *attempt > 1 { format!(" (try {attempt})") } else { String::new() };
            let verb = if *direction == Direction::Forward { "" } else { "taking back: " };
            format!("[{step:>2}/{}] {verb}{}{again}", plan.steps.len(), title(step))
        }
        Event::FactLearned { fact, .. } => format!("        {}", fact_line(fact)?),
        Event::StepParked { note, .. } if note.is_empty() => "        looked how far it came, and goes on from there".to_owned(),
        Event::StepParked { note, .. } | Event::StepWaiting { note, .. } => format!("        waiting for {note}"),
        Event::StepFailed { error, retry_at, .. } => {
            let next = if retry_at.is_some() { "; trying again" } else { "" };
            format!("        failed: {error}{next}")
        }
        Event::StepUnsure { error, hint, .. } => {
            let hint = hint.as_ref().map(|hint| format!("\n        try: {hint}")).unwrap_or_default();
            format!("        not known whether it happened, looking: {error}{hint}")
        }
        Event::StepReverted { step } => format!("        taken back: {}", title(step)),
        Event::GateReached { step, waits_for } => {
            format!("[{step:>2}/{}] {} waits for {waits_for}", plan.steps.len(), title(step))
        }
        Event::GateApproved { by, reason, .. } => format!("        approved by {by}{}", because(reason.as_deref())),
        Event::RollbackBegun { by, reason, .. } => format!("going back, by {by}: {reason}"),
        Event::RollbackHalted { until } => {
            format!("back before step {until}, {}: the run waits there for an approval", title(until))
        }
        Event::RetryOrdered { by, reason, .. } => format!("        another try, by {by}{}", because(reason.as_deref())),
        Event::MarkedDone { step, by, reason } => format!("        {} marked as done by {by}: {reason}", title(step)),
        Event::FinishOrdered { by, reason } => format!("        finish, by {by}{}", because(reason.as_deref())),
        Event::Noticed { what } => format!("        noticed: {what}"),
        Event::RunClosed { outcome: Outcome::Completed } => format!("run {} is completed", plan.run),
        Event::RunClosed { outcome: Outcome::RolledBack } => format!("run {} is rolled back", plan.run),
        Event::Unknown => "a record of a newer version".to_owned(),
        Event::LeaseTaken { .. } | Event::StepDone { .. } => return None,
    })
}

/// Such as `1 run` and `2 runs`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

fn fact_line(fact: &Fact) -> Option<String> {
    Some(match fact {
        Fact::BackedUp { backup, ended_at, place, archived_ms, restore_ms } => {
            let restore = restore_ms.map(|ms| format!("; a restore would take about {} s", ms.div_ceil(1000)));
            format!(
                "backup {backup} of {ended_at} in {place} is whole and verified; WAL reaches the archive in {archived_ms} ms{}",
                restore.unwrap_or_default()
            )
        }
        Fact::Recoverable { backup, since, place } => {
            format!("green can be recovered to any moment from {since} on: backup {backup} in {place}")
        }
        Fact::BlueKept { backup, ended_at, place } => format!("blue's last backup: {backup} of {ended_at} in {place}"),
        Fact::RestorePoint { name, lsn } => format!("restore point {name} at {lsn}"),
        Fact::Restored { place, replayed, last_commit } => {
            let last = last_commit.map_or("none since the backup".to_owned(), |at| at.to_string());
            format!("restored into {place}, up to {replayed} (last commit: {last})")
        }
        Fact::StandbyMade { data_dir, .. } => format!("standby made in {data_dir}"),
        Fact::SlotMade { on, name, lsn } => format!("slot {name} on {on}, from {lsn}"),
        Fact::GreenMarked { .. } => "green closed ahead of its promotion".to_owned(),
        Fact::Promoted { fork, timeline } => format!("green promoted: timeline {timeline}, from {fork}"),
        Fact::InheritedStopped { what } => format!("stopped on green: {what}"),
        Fact::PhysicalSlotDropped { name } => format!("physical slot {name} dropped on blue"),
        Fact::FlowStarted { subscriber, origin } => format!("{subscriber} follows {} from {origin}", subscriber.other()),
        Fact::Judged { work } => format!("tried on green: {} tables judged, {}", work.tables.len(), verdicts(work)),
        Fact::Migrated { version, name, took_ms } => format!("migrated {version} {name} in {took_ms} ms"),
        // Nothing is compared with anything in place.
        Fact::Validated { tables: 0, took_ms, .. } => format!("as it must be: seen in {took_ms} ms"),
        Fact::Validated { tables, rows, took_ms, .. } => format!("equal: {tables} tables, {rows} rows, in {took_ms} ms"),
        Fact::WindowOpened { to, attempt, .. } => format!("window {attempt} opened, towards {to}"),
        Fact::WindowClosed { serving, moved: true, pause_ms, phases, by_guard, .. } => {
            let parts: Vec<String> = phases.iter().map(|phase| format!("{} {:.1}", phase.name, phase.ms)).collect();
            let guard = if *by_guard { " by the guard" } else { "" };
            format!("window closed{guard}: {serving} serves; pause {pause_ms:.1} ms ({})", parts.join(", "))
        }
        Fact::WindowClosed { serving, reason, by_guard, .. } => {
            let guard = if *by_guard { " by the guard" } else { "" };
            format!("window went back{guard}: {serving} serves{}", because(reason.as_deref()))
        }
        Fact::FollowsBack { follower: Side::Blue } => "blue follows green: a rollback would be lossless".to_owned(),
        Fact::FollowsBack { follower: Side::Green } => "green follows blue again: it can be moved to once more".to_owned(),
        Fact::WayBackGivenUp { reason } => format!("the way back was given up: {reason}"),
        Fact::Analyzed { table, failed: None } => format!("statistics gathered of {table} on green"),
        Fact::Analyzed { table, failed: Some(why) } => format!("no statistics were gathered of {table} on green: {why}"),
        Fact::RouteSeen { route, trouble: Some(trouble) } => format!("ALARM: route {route} {trouble}"),
        Fact::RouteSeen { route, trouble: None } => format!("route {route} is as it should be again"),
        Fact::LeftBehind { on, what, why } => format!("left on {on}: {what} ({why})"),
        Fact::ClientsResumed { .. } => "clients are no longer paused; what is left of the window is tried again".to_owned(),
        Fact::BlueFingerprint { .. } | Fact::WindowCommitted { .. } => return None,
    })
}

/// What the trial on green leaves open.
fn verdicts(work: &SchemaWork) -> String {
    let asks = work.findings.iter().filter(|finding| matches!(finding.answer, Answer::NeedsAccept { .. })).count();
    if asks == 0 { "nothing that was not approved".to_owned() } else { format!("{} not approved", count(asks, "finding")) }
}

/// Where the run stands, and what can be done next: the last lines of every command.
pub(super) fn standing(plan: &Plan, run: &Run) -> String {
    let name = &plan.run;
    if let Some(outcome) = run.outcome {
        let what = match outcome {
            Outcome::Completed if plan.strategy == Strategy::InPlace => "blue serves, migrated",
            Outcome::Completed if plan.strategy == Strategy::Restored => {
                "green serves; blue is readable, and closed for writes: `greenlight salvage` finds what it has beyond green"
            }
            Outcome::Completed => "green serves; blue is retired and takes no connections",
            Outcome::RolledBack if run.serving() == Side::Green => {
                "green serves, as blue was before the migrations; blue is readable, and closed for writes: `greenlight salvage` finds \
                 what it took since"
            }
            Outcome::RolledBack if run.fork_point().is_some() => {
                "blue serves as before; green was promoted, and must be built anew before another run"
            }
            Outcome::RolledBack => "blue serves as before",
        };
        let left = run.left_behind().count();
        let left = if left > 0 { format!(" What could not be taken away ({left}) stands in the report.") } else { String::new() };
        return format!("{what}. Run {name} is over.{left}\nNext: `greenlight report {name}` tells what happened.");
    }
    if let Some(since) = run.clients_paused_since() {
        return format!("{}\nNext: `greenlight run`, now.", paused(since));
    }
    let serving = run.serving();
    let Some(step) = run.present_step() else {
        return format!("{serving} serves.\nNext: `greenlight run` goes on with run {name}.");
    };
    let title = plan.steps[step.0].name;
    let note = run.note.as_deref().map(|note| format!(", waiting for {}", shown(note))).unwrap_or_default();
    let way = if run.direction == Direction::Backward { "is on its way back, at" } else { "is at" };
    let held = match &run.steps[step.0] {
        StepState::Stuck { .. } => {
            let lacking = cannot_be_taken_back(plan, run).filter(|_| run.direction == Direction::Forward);
            let lacking = lacking.map(|file| {
                format!(
                    ".\nNothing is taken back by itself: `{}` is applied, or a part of it, and has no down migration",
                    shown(&file)
                )
            });
            format!(
                ".\nHeld for a person: {}{}",
                shown(run.reason.as_deref().unwrap_or("a step failed")),
                lacking.unwrap_or_default()
            )
        }
        _ => note,
    };
    format!("{serving} serves; run {name} {way} step {step}, {title}{held}.\nNext: {}.", next(plan, run, step))
}

/// A window is open, and nobody gave the clients back for all that the journal tells.
pub(super) fn paused(since: Timestamp) -> String {
    format!(
        "CLIENTS ARE PAUSED since {since:.0}: a window is open. Where nobody drives the run, `greenlight run` now gives them back."
    )
}

/// What a person can do, the most likely first.
fn next(plan: &Plan, run: &Run, step: StepNo) -> String {
    let name = &plan.run;
    let abandon = match run.serving() {
        Side::Blue if plan.step_no(StepName::ArmRestore).is_some() => format!(
            "`greenlight abandon {name}` takes everything back by the down migrations, with `--restore` by a restore to before them"
        ),
        Side::Blue => format!("`greenlight abandon {name}` takes everything back"),
        Side::Green => format!("`greenlight abandon {name}` moves back to blue and takes everything back"),
    };
    let rollback = match run.way_back_given_up() {
        None => format!("`greenlight rollback {name}` moves back to blue"),
        // Moving back would lose writes.
        Some(_) => {
            return format!(
                "`greenlight finish {name}` ends the soak; the way back was given up, see `greenlight status {name}`"
            );
        }
    };
    let gate = &plan.steps[step.0].gate;
    match &run.steps[step.0] {
        StepState::Gated { approved: false, held, .. } if *held || gate.approval => {
            format!("`greenlight approve {name}` lets it go on, {abandon}")
        }
        StepState::Stuck { .. } if run.serving() == Side::Green && run.direction == Direction::Forward => {
            format!("mend it and `greenlight retry {name}`, or {rollback}")
        }
        StepState::Stuck { .. } => format!(
            "mend it and `greenlight retry {name}`, or do it by hand and `greenlight mark-done {name} --step {step} --reason WHY`, or {abandon}"
        ),
        _ if run.direction == Direction::Backward => "`greenlight run` goes on with it".to_owned(),
        _ if plan.green_snapshot.is_some() && run.serving() == Side::Green && run.recoverable_since().is_none() => {
            format!("`greenlight run` goes on with it, {rollback}; `finish` waits for green's first backup")
        }
        _ if plan.steps[step.0].name == StepName::Soak => format!("`greenlight finish {name}` ends the soak, {rollback}"),
        _ if run.serving() == Side::Green => format!("`greenlight run` goes on with it, {rollback}"),
        _ => format!("`greenlight run` goes on with it, {abandon}"),
    }
}

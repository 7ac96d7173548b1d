//! What a person sees while a run goes on: a line for each record that matters, and what is being done now.

use super::arguments::Output;
use super::print::{self, Spinner};
use crate::engine::Tell;
use crate::plan::{Answer, Plan, SchemaWork, StepName, Strategy};
use crate::run::{Decision, Direction, Event, Fact, Outcome, RequestKind, Run, StepNo, StepState};
use crate::run::{cannot_be_taken_back, decide, offers, waits_for};
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
            Tell::Alarm(text) => {
                self.bar.aside(|| print::complain(text));
                if self.output == Output::Json {
                    self.bar.aside(|| print::json_line(&serde_json::json!({ "alarm": text })));
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
        // Approved, and its hours are shut.
        Event::GateApproved { step, .. } => plan.steps[step.0].gate.hours_in_words(SystemClock::new().now()).is_some(),
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
        Event::RollbackCalledOff { by, reason } => {
            format!("the way back was called off, by {by}{}", because(reason.as_deref()))
        }
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
        Fact::FenceBroken { how, .. } => format!("BLUE'S FENCE WAS BROKEN: {how}"),
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
        Fact::DirectSessions { on, sessions } if sessions.is_empty() => format!("every session on {on} comes by a route now"),
        Fact::DirectSessions { on, sessions } => {
            format!("NOTE: these sessions on {on} come by no route, and the window cuts them off: {}", sessions.join("; "))
        }
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
    let Some(step) = run.present_step() else {
        return format!("{} serves.\nNext: `greenlight run {name}` goes on with run {name}.", run.serving());
    };
    let now = SystemClock::new().now();
    let lacking = match &run.steps[step.0] {
        StepState::Stuck { .. } => cannot_be_taken_back(plan, run).filter(|_| run.direction == Direction::Forward),
        _ => None,
    };
    let lacking = lacking.map(|file| {
        format!(".\nNothing is taken back by itself: `{file}` is applied, or a part of it, and has no down migration")
    });
    let lacking = lacking.unwrap_or_default();
    format!("{} serves; run {name} {}{lacking}.\nNext: {}.", run.serving(), stands(plan, run, now), next(plan, run, step))
}

/// A window is open, and nobody gave the clients back for all that the journal tells.
pub(super) fn paused(since: Timestamp) -> String {
    format!(
        "CLIENTS ARE PAUSED since {since:.0}: a window is open. Where nobody drives the run, `greenlight run` now gives them back."
    )
}

/// The same, and the routes say otherwise.
pub(super) const GIVEN_BACK: &str = "A window is open in the journal, and each route lets its clients through to a side that takes \
    their writes: they were given back, and nobody could write that down. `greenlight run` records it, and goes on.";

/// Where an open run stands, in one line, for a list of several.
pub(super) fn place(plan: &Plan, run: &Run, now: Timestamp) -> String {
    match run.outcome {
        Some(outcome) => outcome.in_words().to_owned(),
        None => format!("{} serves; {}", run.serving(), stands(plan, run, now).replace(".\n", "; ")),
    }
}

/// Such as `is at step 10, window, waiting for an approval`.
fn stands(plan: &Plan, run: &Run, now: Timestamp) -> String {
    let Some(step) = run.present_step() else { return "is about to end".to_owned() };
    let title = plan.steps[step.0].name;
    let way = if run.direction == Direction::Backward { "is on its way back, at" } else { "is at" };
    let what = match &run.steps[step.0] {
        StepState::Stuck { .. } => {
            format!(".\nHeld for a person: {}", shown(run.reason.as_deref().unwrap_or("a step failed")))
        }
        _ => waits_for(plan, run, now).map(|note| format!(", waiting for {}", shown(&note))).unwrap_or_default(),
    };
    format!("{way} step {step}, {title}{what}")
}

/// What a person can do, the most likely first: of what the run would take, and nothing else.
fn next(plan: &Plan, run: &Run, step: StepNo) -> String {
    let name = &plan.run;
    let offers = offers(plan, run);
    let offered = |kind: &RequestKind| offers.contains(kind);
    let abandon = |without_green, by_restore| RequestKind::Abandon { without_green, by_restore };
    let soaks = plan.steps[step.0].name == StepName::Soak && run.direction == Direction::Forward;
    let is_stuck = matches!(run.steps[step.0], StepState::Stuck { .. });
    let mut ways = Vec::new();
    if offered(&RequestKind::Approve) {
        ways.push(format!("`greenlight approve {name}` lets it go on"));
    } else if is_stuck {
        ways.push(format!("mend it and `greenlight retry {name}`"));
        if offered(&RequestKind::MarkDone { step }) && (run.serving() == Side::Blue || run.direction == Direction::Backward) {
            ways.push(format!("or do it by hand and `greenlight mark-done {name} --step {step} --reason WHY`"));
        }
    } else if !(soaks && offered(&RequestKind::Finish)) {
        ways.push(format!("`greenlight run {name}` goes on with it"));
    }
    if offered(&RequestKind::Finish) {
        ways.push(format!("`greenlight finish {name}` ends the soak"));
    } else if soaks && plan.green_snapshot.is_some() && run.recoverable_since().is_none() {
        ways.push("`finish` waits for green's first backup".to_owned());
    }
    let goes_back = run.direction == Direction::Backward;
    if offered(&RequestKind::CallOff) {
        ways.push(format!("`greenlight rollback {name} --stop` leaves the way back, and green goes on serving"));
    }
    if offered(&RequestKind::Rollback) {
        ways.push(format!("{}`greenlight rollback {name}` moves back to blue", if is_stuck { "or " } else { "" }));
    } else if run.serving() == Side::Blue && offered(&abandon(false, false)) && (is_stuck || !goes_back) {
        let restore = if offered(&abandon(false, true)) {
            " by the down migrations, with `--restore` by a restore to before them"
        } else {
            ""
        };
        ways.push(format!("{}`greenlight abandon {name}` takes everything back{restore}", if is_stuck { "or " } else { "" }));
    }
    let cannot_go_back = run.serving() == Side::Green && !goes_back && !offered(&RequestKind::Rollback);
    if offered(&abandon(true, false)) && (cannot_go_back || (is_stuck && goes_back && !run.without_green)) {
        let what = match run.serving() {
            Side::Green => "moves back to blue without green, and loses what green took and blue has not",
            Side::Blue => "takes everything back without asking green, where green is lost or is a standby again",
        };
        ways.push(format!("`greenlight abandon {name} --without-green` {what}"));
    }
    ways.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{FILE, Journal, SqliteJournal};
    use crate::plan::{PlannedStep, Reversal};
    use crate::run::{OpenWindow, Request, answer};
    use crate::word::Lsn;

    /// The plan of a journal that is kept, with a line of steps that has every kind.
    async fn plan() -> Plan {
        let folder = tempfile::tempdir().unwrap();
        let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1").join(FILE);
        std::fs::copy(kept, folder.path().join(FILE)).unwrap();
        let journal = SqliteJournal::open(folder.path()).unwrap();
        let run = journal.runs().await.unwrap().remove(0).run;
        let Event::RunCreated { plan, .. } = journal.read(&run).await.unwrap().remove(0).event else { panic!("no plan") };
        let like = plan.steps[0].clone();
        let step = |name, reversal| PlannedStep { name, reversal, ..like.clone() };
        let steps = vec![
            step(StepName::PublishBlue, Reversal::Revert),
            step(StepName::ValidateGreen, Reversal::Revert),
            step(StepName::Window, Reversal::Revert),
            step(StepName::Soak, Reversal::Revert),
            step(StepName::Finish, Reversal::PointOfNoReturn),
        ];
        Plan { steps, ..*plan }
    }

    fn runs(plan: &Plan) -> Vec<Run> {
        let until = Timestamp::UNIX_EPOCH;
        let states = [
            StepState::Idle,
            StepState::Gated { approved: false, held: true, until: None },
            StepState::Gated { approved: true, held: false, until: None },
            StepState::Running { attempt: 1 },
            StepState::Parked { attempt: 1, until },
            StepState::Retrying { attempt: 2, until },
            StepState::Unsure { attempt: 1, look_at: None },
            StepState::Stuck { while_going: Direction::Forward },
            StepState::Stuck { while_going: Direction::Backward },
        ];
        let committed = |serving| Fact::WindowCommitted { serving, follow_from: Lsn(1) };
        let given_up = Fact::WayBackGivenUp { reason: "its slot is gone".to_owned() };
        let facts = [vec![], vec![committed(Side::Green)], vec![committed(Side::Green), given_up], vec![committed(Side::Blue)]];
        let mut runs = Vec::new();
        for (at, state) in (0..plan.steps.len()).flat_map(|at| states.iter().map(move |state| (at, state))) {
            for (direction, without_green) in
                [(Direction::Forward, false), (Direction::Backward, false), (Direction::Backward, true)]
            {
                for facts in &facts {
                    let mut run = Run { direction, without_green, facts: facts.clone(), ..Run::new(plan.steps.len()) };
                    run.steps[..at].fill(StepState::Done);
                    run.steps[at] = state.clone();
                    runs.push(run);
                }
            }
        }
        runs
    }

    /// What a text says that one could type, as the requests that it would file.
    fn typed(text: &str, step: StepNo) -> Vec<RequestKind> {
        let commands = text.split('`').filter_map(|part| part.strip_prefix("greenlight "));
        let abandon = |without_green, by_restore| RequestKind::Abandon { without_green, by_restore };
        commands
            .filter_map(|command| {
                Some(match command.split(' ').next()? {
                    "approve" => RequestKind::Approve,
                    "retry" => RequestKind::Retry,
                    "mark-done" => RequestKind::MarkDone { step },
                    "finish" => RequestKind::Finish,
                    "rollback" if command.contains("--stop") => RequestKind::CallOff,
                    "rollback" => RequestKind::Rollback,
                    "abandon" => abandon(command.contains("--without-green"), command.contains("--restore")),
                    _ => return None,
                })
            })
            .collect()
    }

    #[tokio::test]
    async fn whatever_is_offered_is_taken_in_every_state_under_every_strategy() {
        let plan = plan().await;
        let mut offered = 0;
        for strategy in [Strategy::Sync, Strategy::Freeze, Strategy::InPlace, Strategy::Restored] {
            let plan = Plan { strategy, ..plan.clone() };
            for run in runs(&plan) {
                let Some(step) = run.present_step() else { continue };
                let text = next(&plan, &run, step);
                assert!(!text.is_empty(), "nothing is offered: {run:?}");
                for kind in typed(&text, step) {
                    let reason = Some("why".to_owned());
                    let request = Request { id: 1, at: Timestamp::UNIX_EPOCH, by: "ana".to_owned(), reason, kind };
                    let answer = answer(&plan, &run, &request);
                    assert!(answer.is_ok(), "`{text}` is offered, and {:?} refused: {answer:?}\n{run:?}", request.kind);
                    offered += 1;
                }
            }
        }
        assert!(offered > 500, "{offered}");
    }

    #[tokio::test]
    async fn a_way_back_is_called_off_only_where_green_still_serves() {
        let plan = plan().await;
        for run in runs(&plan) {
            let stays =
                run.serving() == Side::Green && run.open_window().is_none_or(|window: OpenWindow| window.to == Side::Green);
            let offers = offers(&plan, &run);
            if offers.contains(&RequestKind::CallOff) {
                assert!(stays && run.direction == Direction::Backward, "{run:?}");
                let mut after = run.clone();
                after.apply(&Event::RollbackCalledOff { by: "ana".to_owned(), reason: None });
                assert_eq!((after.direction, after.serving()), (Direction::Forward, Side::Green));
                assert!(!after.steps.contains(&StepState::Reverted), "{after:?}");
            }
        }
    }
}

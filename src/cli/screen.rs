//! What a person sees while a run goes on: a line for each record that matters, and what is being done now.

use super::arguments::Output;
use super::print;
use crate::engine::Tell;
use crate::plan::Plan;
use crate::run::{Direction, Event, Fact, Outcome, Run, StepNo, StepState};
use crate::word::Side;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Prints records and progress; to standard error, so that standard output stays data.
#[derive(Debug)]
pub(super) struct Screen {
    bar: ProgressBar,
    output: Output,
}

impl Screen {
    pub(super) fn new(output: Output) -> Screen {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Screen { bar, output }
    }

    pub(super) fn tell(&self, plan: &Plan, tell: Tell<'_>) {
        match tell {
            Tell::Record(event) => {
                self.bar.set_message("");
                if let Some(line) = line(plan, event) {
                    self.bar.suspend(|| print::say(&line));
                }
                if let (Output::Json, Ok(text)) = (self.output, serde_json::to_string(event)) {
                    self.bar.suspend(|| print::data(&text));
                }
            }
            Tell::Progress(text) => {
                self.bar.enable_steady_tick(Duration::from_millis(120));
                self.bar.set_message(text.to_owned());
            }
        }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// One record as a line for people; `None` for those that only machines need.
pub(super) fn line(plan: &Plan, event: &Event) -> Option<String> {
    let title = |step: &StepNo| plan.steps.get(step.0).map_or_else(String::new, |planned| planned.name.to_string());
    Some(match event {
        Event::RunCreated { plan, by } => format!("run {} of `{}` created by {by}", plan.run, plan.name),
        Event::StepStarted { step, attempt, direction } => {
            let again = if *attempt > 1 { format!(" (try {attempt})") } else { String::new() };
            let verb = if *direction == Direction::Forward { "" } else { "taking back: " };
            format!("[{step:>2}/{}] {verb}{}{again}", plan.steps.len(), title(step))
        }
        Event::FactLearned { fact, .. } => format!("        {}", fact_line(fact)?),
        Event::StepParked { note, .. } | Event::StepWaiting { note, .. } => format!("        waiting for {note}"),
        Event::StepFailed { error, hint, retry_at, .. } => {
            let next = if retry_at.is_some() { "; trying again" } else { "" };
            let hint = hint.as_ref().map(|hint| format!("\n        try: {hint}")).unwrap_or_default();
            format!("        failed: {error}{next}{hint}")
        }
        Event::StepUnsure { error, .. } => format!("        not known whether it happened, looking: {error}"),
        Event::StepReverted { step } => format!("        taken back: {}", title(step)),
        Event::GateReached { step, waits_for } => {
            format!("[{step:>2}/{}] {} waits for {waits_for}", plan.steps.len(), title(step))
        }
        Event::GateApproved { by, reason, .. } => format!("        approved by {by}{}", because(reason.as_deref())),
        Event::RollbackBegun { by, reason, .. } => format!("going back, by {by}: {reason}"),
        Event::RollbackHalted { until } => format!("back before step {until}: the run waits there for an approval"),
        Event::RetryOrdered { by, reason, .. } => format!("        another try, by {by}{}", because(reason.as_deref())),
        Event::MarkedDone { step, by, reason } => format!("        {} marked as done by {by}: {reason}", title(step)),
        Event::FinishOrdered { by, reason } => format!("        finish, by {by}{}", because(reason.as_deref())),
        Event::Noticed { what } => format!("        noticed: {what}"),
        Event::RunClosed { outcome: Outcome::Completed } => format!("run {} is completed", plan.run),
        Event::RunClosed { outcome: Outcome::RolledBack } => format!("run {} is rolled back: blue serves", plan.run),
        Event::Unknown => "a record of a newer version".to_owned(),
        Event::LeaseTaken { .. } | Event::StepDone { .. } => return None,
    })
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

fn fact_line(fact: &Fact) -> Option<String> {
    Some(match fact {
        Fact::RestorePoint { name, lsn } => format!("restore point {name} at {lsn}"),
        Fact::StandbyMade { data_dir, .. } => format!("standby made in {data_dir}"),
        Fact::SlotMade { on, name, lsn } => format!("slot {name} on {on}, from {lsn}"),
        Fact::Promoted { fork, timeline } => format!("green promoted: timeline {timeline}, from {fork}"),
        Fact::InheritedStopped { what } => format!("stopped on green: {what}"),
        Fact::PhysicalSlotDropped { name } => format!("physical slot {name} dropped on blue"),
        Fact::FlowStarted { subscriber, origin } => format!("{subscriber} follows {} from {origin}", subscriber.other()),
        Fact::Migrated { version, name, took_ms } => format!("migrated {version} {name} in {took_ms} ms"),
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
        Fact::FollowsBack { follower } => format!("{follower} follows {}: a rollback would be lossless", follower.other()),
        Fact::WayBackGivenUp { reason } => format!("the way back was given up: {reason}"),
        Fact::LeftBehind { on, what, why } => format!("left on {on}: {what} ({why})"),
        Fact::RouteOriginal { .. } | Fact::BlueFingerprint { .. } | Fact::WindowCommitted { .. } => return None,
    })
}

/// Where the run stands, and what can be done next: the last lines of every command.
pub(super) fn standing(plan: &Plan, run: &Run) -> String {
    let name = &plan.run;
    if let Some(outcome) = run.outcome {
        return match outcome {
            Outcome::Completed => {
                format!("green serves, blue is retired and takes no connections. See `greenlight report {name}`.")
            }
            Outcome::RolledBack => format!("blue serves as before. See `greenlight report {name}`."),
        };
    }
    let serving = run.serving();
    let Some(step) = run.present_step() else { return format!("{serving} serves.") };
    let title = plan.steps[step.0].name;
    let note = run.note.as_deref().map(|note| format!(", waiting for {note}")).unwrap_or_default();
    let place = format!("{serving} serves; run {name} is at step {step}, {title}{note}");
    let next = match &run.steps[step.0] {
        StepState::Gated { .. } => {
            format!("`greenlight approve {name}` lets it go on, `greenlight abandon {name}` takes everything back")
        }
        StepState::Stuck { .. } => {
            let why = run.reason.as_deref().unwrap_or("a step failed");
            return format!(
                "{place}.\nHeld for a person: {why}.\nNext: `greenlight retry {name}`, or `greenlight abandon {name}`."
            );
        }
        _ if serving == Side::Green => {
            format!("`greenlight finish {name}` ends the soak, `greenlight rollback {name}` moves back to blue without loss")
        }
        _ => format!("`greenlight run` goes on with it, `greenlight abandon {name}` takes everything back"),
    };
    format!("{place}.\nNext: {next}.")
}

//! `greenlight report`: what happened, from the journal alone.

use super::arguments::{Output, ReportArgs, Shared};
use super::{Exit, print, screen, state};
use crate::plan::Plan;
use crate::run::{Event, Fact, Outcome, Record, Run, WindowPhase};
use crate::word::{Side, Timestamp, shown};
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, Serialize)]
struct Report {
    run: String,
    name: String,
    plan: String,
    outcome: Option<Outcome>,
    serving: Side,
    created_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    timeline: Vec<Moment>,
    windows: Vec<WindowLine>,
    validations: Vec<ValidationLine>,
    migrations: Vec<MigrationLine>,
    /// What did not go as the plan says.
    deviations: Vec<Moment>,
    left_behind: Vec<String>,
}

impl Report {
    fn outcome_words(&self) -> &'static str {
        self.outcome.map_or("open", Outcome::in_words)
    }
}

#[derive(Debug, Serialize)]
struct Moment {
    at: Timestamp,
    what: String,
}

#[derive(Debug, Serialize)]
struct WindowLine {
    at: Timestamp,
    serving: Side,
    moved: bool,
    by_guard: bool,
    pause_ms: f64,
    phases: Vec<WindowPhase>,
    /// The longest that a client of Greenlight's own waited, where one could ask through the routes.
    client_wait_ms: Option<f64>,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct ValidationLine {
    at: Timestamp,
    tables: u64,
    rows: u64,
    took_ms: u64,
}

#[derive(Debug, Serialize)]
struct MigrationLine {
    version: String,
    name: String,
    took_ms: u64,
}

pub(super) async fn run(shared: &Shared, args: &ReportArgs) -> anyhow::Result<Exit> {
    let journal = state::open(shared)?;
    let stored = state::choose(shared, journal.as_ref(), &args.which, false).await?;
    let report = gather(&stored.plan, &stored.run, &stored.records);
    match (shared.output, args.markdown) {
        (Output::Json, _) => print::json(&report),
        (Output::Text, true) => print::data(&markdown(&report)),
        (Output::Text, false) => print::data(&text(&report)),
    }
    print::say(&screen::standing(&stored.plan, &stored.run));
    Ok(Exit::Completed)
}

fn gather(plan: &Plan, run: &Run, records: &[Record]) -> Report {
    let mut report = Report {
        run: plan.run.to_string(),
        name: plan.name.clone(),
        plan: state::approved(plan, records).digest(),
        outcome: run.outcome,
        serving: run.serving(),
        created_at: records.first().map(|record| record.at),
        ended_at: records.last().filter(|_| run.outcome.is_some()).map(|record| record.at),
        timeline: Vec::new(),
        windows: Vec::new(),
        validations: Vec::new(),
        migrations: Vec::new(),
        deviations: Vec::new(),
        left_behind: run.left_behind().collect(),
    };
    for record in records {
        if let Some(line) = screen::line(plan, &record.event) {
            report.timeline.push(Moment { at: record.at, what: line.trim().to_owned() });
        }
        if let Some(what) = deviation(plan, &record.event) {
            report.deviations.push(Moment { at: record.at, what });
        }
        if let Event::FactLearned { fact, .. } = &record.event {
            gather_fact(&mut report, record.at, fact);
        }
    }
    report
}

fn gather_fact(report: &mut Report, at: Timestamp, fact: &Fact) {
    match fact.clone() {
        Fact::WindowClosed { serving, moved, by_guard, pause_ms, phases, client_wait_ms, reason } => {
            report.windows.push(WindowLine { at, serving, moved, by_guard, pause_ms, phases, client_wait_ms, reason });
        }
        Fact::Validated { at, tables, rows, took_ms } => report.validations.push(ValidationLine { at, tables, rows, took_ms }),
        Fact::Migrated { version, name, took_ms } => report.migrations.push(MigrationLine { version, name, took_ms }),
        _ => {}
    }
}

/// What a plan does not foresee: failures, doubts, takeovers, ways back, people's words.
fn deviation(plan: &Plan, event: &Event) -> Option<String> {
    let unforeseen = matches!(
        event,
        Event::StepFailed { .. }
            | Event::StepUnsure { .. }
            | Event::RollbackBegun { .. }
            | Event::RollbackCalledOff { .. }
            | Event::RetryOrdered { .. }
            | Event::MarkedDone { .. }
            | Event::Noticed { .. }
            | Event::FactLearned {
                fact: Fact::WindowClosed { moved: false, .. }
                    | Fact::WindowClosed { by_guard: true, .. }
                    | Fact::WayBackGivenUp { .. },
                ..
            }
    );
    unforeseen.then(|| screen::line(plan, event)).flatten().map(|line| line.trim().to_owned())
}

fn text(report: &Report) -> String {
    let mut text =
        format!("run {} of `{}`: {}; {} serves\n", report.run, shown(&report.name), report.outcome_words(), report.serving);
    let _ = writeln!(text, "{}\nplan {}", times(report), report.plan);
    for window in &report.windows {
        let _ = writeln!(text, "\nwindow at {:.3}: {}", window.at, window_words(window));
        for phase in &window.phases {
            let _ = writeln!(text, "  {:<14} {:>8.1} ms", shown(&phase.name), phase.ms);
        }
    }
    for (title, lines) in sections(report) {
        let _ = writeln!(text, "\n{title}\n  {}", lines.join("\n  "));
    }
    let lines: Vec<String> = report.timeline.iter().map(line).collect();
    let _ = writeln!(text, "\ntimeline\n  {}", lines.join("\n  "));
    text
}

fn times(report: &Report) -> String {
    let begun = report.created_at.map(|at| format!("begun {at:.0}")).unwrap_or_default();
    match (report.created_at, report.ended_at) {
        (Some(from), Some(to)) => {
            format!("{begun}, over {to:.0}, after {:#}", to.duration_since(from).round(jiff::Unit::Second).unwrap_or_default())
        }
        _ => begun,
    }
}

/// What is the same in text and Markdown. A section without lines says so, so that nobody takes its absence for silence.
fn sections(report: &Report) -> [(&'static str, Vec<String>); 4] {
    let or = |lines: Vec<String>, none: &str| if lines.is_empty() { vec![none.to_owned()] } else { lines };
    let validated = |line: &ValidationLine| {
        if line.tables == 0 {
            return format!("{:.3}  as it must be, seen in {} ms", line.at, line.took_ms);
        }
        format!("{:.3}  {} tables, {} rows equal, in {} ms", line.at, line.tables, line.rows, line.took_ms)
    };
    let migrated = |line: &MigrationLine| shown(&format!("{} {} in {} ms", line.version, line.name, line.took_ms));
    [
        ("validation", or(report.validations.iter().map(validated).collect(), "not yet")),
        ("migrations", or(report.migrations.iter().map(migrated).collect(), "none")),
        ("deviations from the plan", or(report.deviations.iter().map(line).collect(), "none")),
        ("left behind", or(report.left_behind.iter().map(|left| shown(left)).collect(), "nothing")),
    ]
}

fn line(moment: &Moment) -> String {
    format!("{:.3}  {}", moment.at, shown(&moment.what.replace("\n        ", "; ")))
}

fn window_words(window: &WindowLine) -> String {
    let guard = if window.by_guard { ", closed by the guard" } else { "" };
    let reason = window.reason.as_ref().map(|reason| format!(": {}", shown(reason))).unwrap_or_default();
    if window.moved {
        let client = window.client_wait_ms.map(|ms| format!(", a client waited {ms:.1} ms at most")).unwrap_or_default();
        format!("{} serves after a pause of {:.1} ms{client}{guard}{reason}", window.serving, window.pause_ms)
    } else {
        format!("went back{guard}, {} goes on serving{reason}", window.serving)
    }
}

fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# Run {} of {}: {}\n\n{} serves; {}. Plan `{}`.\n\n## Windows\n\n",
        report.run,
        plain(&report.name),
        report.outcome_words(),
        capital(&report.serving.to_string()),
        times(report),
        report.plan
    );
    if report.windows.is_empty() {
        text.push_str("None was opened.\n");
    } else {
        text.push_str("| when | what | phases (ms) |\n| --- | --- | --- |\n");
    }
    for window in &report.windows {
        let phases: Vec<String> = window.phases.iter().map(|phase| format!("{} {:.1}", plain(&phase.name), phase.ms)).collect();
        let _ = writeln!(text, "| {:.3} | {} | {} |", window.at, plain(&window_words(window)), phases.join(", "));
    }
    for (title, lines) in sections(report) {
        let lines: Vec<String> = lines.iter().map(|line| plain(line)).collect();
        let _ = writeln!(text, "\n## {}\n\n- {}", capital(title), lines.join("\n- "));
    }
    text.push_str("\n## Timeline\n\n| when | what |\n| --- | --- |\n");
    for moment in &report.timeline {
        let _ = writeln!(text, "| {:.3} | {} |", moment.at, plain(&moment.what.replace("\n        ", "; ")));
    }
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Text in Markdown that is text, whatever is in it: no link, no picture, no HTML, no other cell.
fn plain(text: &str) -> String {
    let mark = |c: char| match c {
        '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' | '$' => format!("\\{c}"),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        // Neither an address nor somebody's name is made a link of.
        '@' => "&#64;".to_owned(),
        c => c.to_string(),
    };
    let marked: String = shown(text).chars().map(mark).collect();
    marked.replace("://", "&#58;//")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "x\u{1b}[31m|\r\nError: fake\n# Title\u{202e} <img src=x> [a](http://b) `c` @d";

    fn report() -> Report {
        let moment = || Moment { at: Timestamp::UNIX_EPOCH, what: HOSTILE.to_owned() };
        let phases = vec![WindowPhase { name: HOSTILE.to_owned(), ms: 1.0 }];
        let (at, serving, reason) = (Timestamp::UNIX_EPOCH, Side::Blue, Some(HOSTILE.to_owned()));
        Report {
            run: "r1".to_owned(),
            name: HOSTILE.to_owned(),
            plan: "0".to_owned(),
            outcome: None,
            serving,
            created_at: None,
            ended_at: None,
            timeline: vec![moment()],
            windows: vec![WindowLine {
                at,
                serving,
                moved: true,
                by_guard: false,
                pause_ms: 1.0,
                phases,
                client_wait_ms: None,
                reason,
            }],
            validations: Vec::new(),
            migrations: vec![MigrationLine { version: HOSTILE.to_owned(), name: HOSTILE.to_owned(), took_ms: 1 }],
            deviations: vec![moment()],
            left_behind: vec![HOSTILE.to_owned()],
        }
    }

    #[test]
    fn what_others_said_is_text_in_every_form_of_a_report() {
        for page in [text(&report()), markdown(&report())] {
            assert!(!page.replace('\n', "").contains(crate::word::is_hidden), "{page:?}");
            assert!(page.contains("Error: fake"));
            let forged = |line: &&str| line.trim_start().starts_with("Error") || line.trim_start().starts_with("# Title");
            assert_eq!(page.lines().filter(forged).count(), 0, "{page}");
        }
        let page = markdown(&report());
        assert!(!["<img", "[a](", "://", "|\\u", " @d"].iter().any(|markup| page.contains(markup)), "{page}");
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let rows: Vec<usize> = page.lines().filter(|line| line.starts_with('|')).map(cells).collect();
        assert_eq!(rows, [4, 4, 4, 3, 3, 3]);
    }
}

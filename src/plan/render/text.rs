use super::{address, asks_for};
use crate::plan::figures::{bytes, capital, count, few, milliseconds};
use crate::plan::{Answer, Finding, OnFailure, Plan, PlannedStep, Reversal, StepName, Strategy};
use crate::schema::{TableFlow, Verdict};
use crate::word::{shown, shown_lines};
use std::collections::BTreeMap;

/// Columns of text that is wrapped. Statements are not.
const WIDTH: usize = 110;

/// Characters of a line of a statement, and lines of one, unless everything is asked for.
const SQL_CHARS_MAX: usize = 200;
const SQL_LINES_MAX: usize = 12;

/// Findings that differ only in their object, unless everything is asked for.
const OF_A_KIND_MAX: usize = 20;

/// The plan, for a terminal and for a person who is to approve it. `all_tables`: statements and tables are written out
/// whole, however many there are; otherwise long statements are cut, and tables that are lossless both ways are counted.
pub fn text(plan: &Plan, all_tables: bool) -> String {
    let mut page = Page { text: String::new(), all_tables };
    page.line(0, &format!("Plan `{}`, run {}", shown(&plan.name), plan.run));
    page.line(2, &format!("blue   {}", address(&plan.blue)));
    match (plan.strategy, &plan.restore_into) {
        (Strategy::InPlace, None) => {}
        (Strategy::InPlace, Some(_)) => page.line(2, &format!("green  {}, made only by a restore", address(&plan.green))),
        _ => page.line(2, &format!("green  {}", address(&plan.green))),
    }
    page.heading("Steps");
    for (at, step) in plan.steps.iter().enumerate() {
        page.step(at + 1, step);
    }
    if matches!(plan.strategy, Strategy::Sync | Strategy::Freeze) {
        page.heading(if plan.provisional { "Tables, PROVISIONAL" } else { "Tables" });
    }
    if plan.provisional {
        let says = "Judged as if no migration touched them: the migrations cannot be tried before the run. They are tried on green, by the step \
                    `try the migrations`, before anything of it is migrated; the run waits for an approval if that shows worse.";
        page.wrapped(2, 0, says);
    }
    page.tables(&plan.tables);
    page.heading("Preflight");
    page.findings(&plan.findings);
    page.heading("Limits");
    page.limits(plan);
    page.end(plan);
    page.text
}

struct Page {
    text: String,
    all_tables: bool,
}

impl Page {
    fn line(&mut self, indent: usize, text: &str) {
        self.text.push_str(&" ".repeat(indent));
        self.text.push_str(&shown_lines(text).replace('\n', "\\u{a}"));
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.text.push('\n');
        self.line(0, text);
        self.line(0, &"-".repeat(text.len()));
    }

    /// Text in lines of `WIDTH`; every line but the first stands `hang` further in.
    fn wrapped(&mut self, indent: usize, hang: usize, text: &str) {
        let (mut line, mut margin) = (String::new(), indent);
        for word in text.split_whitespace() {
            if !line.is_empty() && margin + line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(margin, &line);
                line.clear();
                margin = indent + hang;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(margin, &line);
    }

    fn step(&mut self, number: usize, step: &PlannedStep) {
        if number > 1 {
            self.text.push('\n');
        }
        self.line(0, &format!("{number:>2}  {}", capital(step.name.title())));
        if let Some(gate) = asks_for(&step.gate) {
            self.wrapped(4, 2, &format!("GATE: waits for {gate}"));
        }
        if step.reversal == Reversal::PointOfNoReturn {
            self.line(4, "POINT OF NO RETURN");
        }
        self.wrapped(4, 0, &step.says);
        for sql in &step.sql {
            self.sql(sql);
        }
        if step.reversal == Reversal::Revert {
            self.wrapped(4, 2, &format!("way back: {}", step.way_back));
        }
    }

    fn sql(&mut self, sql: &str) {
        if let Some(point) = sql.strip_prefix("journal: ") {
            self.line(6, &format!("======== {point}: before it back to blue, after it forward to green ========"));
            return;
        }
        let lines: Vec<&str> = sql.lines().collect();
        let shown = if self.all_tables { lines.len() } else { lines.len().min(SQL_LINES_MAX) };
        for (at, line) in lines[..shown].iter().enumerate() {
            let text = if self.all_tables { (*line).to_owned() } else { shortened(line) };
            self.line(if at == 0 { 6 } else { 10 }, &text);
        }
        if lines.len() > shown {
            self.line(10, &format!("... {} more", count(lines.len() - shown, "line")));
        }
    }

    /// Tables of one verdict for the same reasons stand together.
    fn tables(&mut self, tables: &[TableFlow]) {
        let mut groups: BTreeMap<(Rank, Vec<String>), Vec<String>> = BTreeMap::new();
        for flow in tables {
            groups.entry(verdict(&flow.verdict)).or_default().push(flow.table.to_string());
        }
        for ((rank, reasons), names) in groups {
            let listed = if self.all_tables { names.join(", ") } else { few(&names) };
            let line = match (rank, names.len()) {
                (Rank::Lossless, number) if !self.all_tables => format!("{}: {}", rank.title(), count(number, "table")),
                (_, 1) => format!("{}: {listed}", rank.title()),
                (_, number) => format!("{}: {}: {listed}", rank.title(), count(number, "table")),
            };
            self.wrapped(2, 4, &line);
            for reason in reasons {
                self.wrapped(6, 2, &format!("- {reason}"));
            }
        }
    }

    fn findings(&mut self, findings: &[Finding]) {
        self.group(findings, "Refused, until the remedy is done", |answer| match answer {
            Answer::Refused { remedy } => Some(format!("remedy: {remedy}")),
            _ => None,
        });
        self.group(findings, "In need of your word (`accept:` in the playbook)", |answer| match answer {
            Answer::NeedsAccept { consequence } => Some(format!("means: {consequence}")),
            _ => None,
        });
        self.group(findings, "Accepted by the playbook", |answer| match answer {
            Answer::Accepted { consequence } => Some(format!("means: {consequence}")),
            _ => None,
        });
        self.group(findings, "Handled by the run", |answer| match answer {
            Answer::Handled { by, how } => Some(format!("by `{by}`: {how}")),
            _ => None,
        });
        self.group(findings, "Fine", |answer| (*answer == Answer::Fine).then(String::new));
    }

    /// Findings with one kind of answer; `then` is what stands below each, and `None` for another kind.
    fn group(&mut self, findings: &[Finding], title: &str, then: impl Fn(&Answer) -> Option<String>) {
        let group: Vec<(&Finding, String)> =
            findings.iter().filter_map(|finding| Some((finding, then(&finding.answer)?))).collect();
        if group.is_empty() {
            return;
        }
        self.line(2, &format!("{title}: {}", group.len()));
        let most = if self.all_tables { usize::MAX } else { OF_A_KIND_MAX };
        let mut shown: BTreeMap<String, usize> = BTreeMap::new();
        for (finding, then) in group {
            let kind = finding.code.split_once(':').map_or(finding.code.as_str(), |(kind, _)| kind);
            let number = shown.entry(kind.to_owned()).or_default();
            *number += 1;
            if *number > most {
                continue;
            }
            self.wrapped(4, 2, &format!("{}: {}", finding.code, finding.seen));
            if !then.is_empty() {
                self.wrapped(6, 2, &then);
            }
        }
        for (kind, number) in shown.into_iter().filter(|(_, number)| *number > most) {
            self.line(4, &format!("... {} more of `{kind}`", number - most));
        }
    }

    fn limits(&mut self, plan: &Plan) {
        let on_failure = match plan.on_failure {
            OnFailure::Rollback if plan.strategy == Strategy::InPlace => {
                "runs the down migrations of what it applied, newest first"
            }
            OnFailure::Rollback => "takes everything back while blue serves, and is held for a person otherwise",
            OnFailure::Restore => "restores blue to just before the migrations, and moves the applications there",
            OnFailure::Hold => "is held for a person",
        };
        let mut lines = vec![
            ("restore point", format!("`{}` on blue", plan.names.restore_point)),
            ("on a failure", format!("the run {on_failure}")),
        ];
        if plan.strategy == Strategy::InPlace {
            lines.insert(0, ("pause", "none".to_owned()));
            let history = &plan.history;
            lines.insert(
                1,
                ("lock", format!("waited for {}, {} times more", milliseconds(history.lock_timeout_ms), history.lock_retries)),
            );
        } else if plan.strategy == Strategy::Restored {
            lines.insert(0, ("pause", pause(plan)));
        } else {
            lines.splice(0..0, limits_of_a_window(plan));
        }
        for (name, text) in lines {
            self.wrapped(2, 2, &format!("{name}: {text}"));
        }
    }

    fn end(&mut self, plan: &Plan) {
        let obstacles = plan.obstacles().count();
        let gates = plan.steps.iter().filter(|step| step.gate.approval).map(|step| step.name);
        let gates: Vec<&str> = gates.map(StepName::title).collect();
        let can_run = match obstacles {
            0 if plan.provisional => format!(
                "This plan can run, PROVISIONAL until `{}` is done, and waits for a person after that if it shows worse. Its own gates: {}.",
                StepName::ShadowGreen,
                if gates.is_empty() { "none".to_owned() } else { gates.join(", ") }
            ),
            0 if gates.is_empty() => "This plan can run, and asks nobody on its way.".to_owned(),
            0 => format!("This plan can run. It waits for a person before: {}.", gates.join(", ")),
            number => format!("This plan cannot run: {} in its way, see above.", count(number, "finding")),
        };
        self.text.push('\n');
        self.line(0, &can_run);
        self.line(0, &format!("digest {}", plan.digest()));
    }
}

fn pause(plan: &Plan) -> String {
    let limit = milliseconds(plan.window.max_pause_ms);
    if plan.strategy == Strategy::Freeze {
        format!(
            "what the migrations and the comparison take, {limit} are the limit: then blue is opened again, and green is given up"
        )
    } else {
        format!(
            "tens of milliseconds are to be expected, {limit} are the limit: then blue is opened again, and the run waits for its next \
             chance"
        )
    }
}

/// Of a writer that moves to a server that follows.
fn limits_of_a_window(plan: &Plan) -> [(&'static str, String); 4] {
    let wal = bytes(plan.limits.wal_kept_bytes_max);
    [
        ("pause", pause(plan)),
        ("lag", format!("under {} before the pause begins", bytes(plan.window.max_lag_bytes))),
        ("WAL kept", format!("at most {wal} by the run's slot on the serving side; then the run gives it up")),
        ("soak", milliseconds(plan.soak.for_secs.saturating_mul(1000))),
    ]
}

/// Verdicts, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Refused,
    WouldLose,
    WouldLoseAccepted,
    LosslessWithShim,
    Lossless,
    NotSent,
}

impl Rank {
    fn title(self) -> &'static str {
        match self {
            Rank::Refused => "REFUSED",
            Rank::WouldLose => "ROLLBACK WOULD LOSE",
            Rank::WouldLoseAccepted => "Rollback would lose (accepted by the playbook)",
            Rank::LosslessWithShim => "Lossless both ways with shims",
            Rank::Lossless => "Lossless both ways",
            Rank::NotSent => "Not sent",
        }
    }
}

fn verdict(verdict: &Verdict) -> (Rank, Vec<String>) {
    match verdict {
        Verdict::Refused { reasons } => (Rank::Refused, reasons.clone()),
        Verdict::RollbackWouldLose { what, accepted: false } => (Rank::WouldLose, what.clone()),
        Verdict::RollbackWouldLose { what, accepted: true } => (Rank::WouldLoseAccepted, what.clone()),
        Verdict::LosslessWithShim { shims } => (Rank::LosslessWithShim, shims.clone()),
        Verdict::Lossless => (Rank::Lossless, Vec::new()),
        Verdict::NotSent { why } => (Rank::NotSent, vec![why.clone()]),
    }
}

/// A long list is cut between two of its items.
fn shortened(line: &str) -> String {
    if line.chars().count() <= SQL_CHARS_MAX {
        return line.to_owned();
    }
    let kept: String = line.chars().take(SQL_CHARS_MAX).collect();
    let kept = kept.rsplit_once(", ").map_or(kept.as_str(), |(kept, _)| kept);
    format!("{kept}, ... <{} in all>", count(line.chars().count(), "character"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::preflight::example::World;
    use crate::plan::render::mermaid;

    #[test]
    fn a_plan_reads_well() {
        let plan = World::migrating().plan();
        insta::assert_snapshot!("plan_short", text(&plan, false));
        insta::assert_snapshot!("plan_full", text(&plan, true));
        insta::assert_snapshot!("plan_mermaid", mermaid(&plan));
    }

    #[test]
    fn a_plan_in_place_reads_well() {
        let mut world = World::migrating();
        world.input.strategy = Strategy::InPlace;
        world.survey.green = crate::plan::GreenSurvey::ToBeMade { problems: Vec::new() };
        let locks = |mode: &str| {
            vec![crate::migrate::TableLock { table: crate::word::RelationName::new("public", "orders"), mode: mode.to_owned() }]
        };
        for statement in world.survey.shadow.as_mut().unwrap().statements.iter_mut().filter(|statement| statement.line != 2) {
            statement.locks = locks("AccessExclusiveLock");
        }
        insta::assert_snapshot!("plan_in_place", text(&world.plan(), false));
        insta::assert_snapshot!("plan_in_place_mermaid", mermaid(&world.plan()));
    }

    #[test]
    fn a_plan_in_place_that_may_be_taken_back_by_a_restore_reads_well() {
        let mut world = World::migrating();
        world.input.strategy = Strategy::InPlace;
        world.input.on_failure = OnFailure::Restore;
        world.input.restore_into = Some(crate::plan::RestoreSpec { host: None, data_dir: "/restored".into() });
        world.survey.green = crate::plan::GreenSurvey::ToBeMade { problems: Vec::new() };
        insta::assert_snapshot!("plan_restoring", text(&world.plan(), false));
        insta::assert_snapshot!("plan_restoring_mermaid", mermaid(&world.plan()));
    }

    #[test]
    fn a_plan_that_moves_to_a_restored_server_reads_well() {
        let mut world = World::new();
        world.input.strategy = Strategy::Restored;
        world.input.migrations.clear();
        world.survey.shadow = Err("nothing is migrated".to_owned());
        (world.green().in_recovery, world.green().timeline) = (false, 2);
        insta::assert_snapshot!("plan_restored", text(&world.plan(), false));
        insta::assert_snapshot!("plan_restored_mermaid", mermaid(&world.plan()));
    }

    #[test]
    fn a_plan_with_obstacles_says_what_to_do() {
        let mut world = World::migrating();
        world.blue().wal_level = "replica".to_owned();
        world.blue().large_objects = 3;
        let page = text(&world.plan(), false);
        let from = page.find("Preflight").unwrap();
        let until = page.find("  Handled by the run").unwrap();
        insta::assert_snapshot!("obstacles", format!("{}\n{}", &page[from..until], page.lines().rev().nth(1).unwrap()));
    }

    /// Everything that a role of the database, or of a file, may choose: none of it may look like a line of ours, move the
    /// cursor, paint, or close a label.
    #[test]
    fn a_hostile_name_is_seen_as_what_it_is() {
        let hostile = "x\u{1b}[31mRED\u{1b}]0;t\u{7}\r\nError: fake\u{202e}\u{200b}\"]; s1 --> back";
        let mut world = World::migrating();
        world.input.name = hostile.to_owned();
        world.input.migrations[0].name = hostile.to_owned();
        for server in [&mut world.survey.blue, world.survey.green.standby_mut()] {
            hostile.clone_into(&mut server.database);
            server.event_triggers.push(hostile.to_owned());
            server.prepared_transactions.push(hostile.to_owned());
        }
        world.add_table(hostile);
        world.input.blue.url.0 = format!("postgresql://u@h/{hostile}");
        let plan = world.plan();
        assert!(plan.tables.iter().any(|flow| flow.table.name == hostile), "the table is in the plan");
        for page in [text(&plan, false), text(&plan, true), mermaid(&plan)] {
            let hidden: Vec<&str> = page.lines().filter(|line| line.contains(crate::word::is_hidden)).collect();
            assert!(hidden.is_empty(), "{hidden:?}");
            let forged: Vec<&str> = page.lines().filter(|line| line.trim_start().starts_with("Error")).collect();
            assert!(forged.is_empty(), "{forged:?} in {page}");
            assert!(page.contains("Error: fake"), "it is shown");
        }
        assert!(!mermaid(&plan).contains("\"]; s1"), "no label is closed by it");
    }

    #[test]
    fn a_plan_shows_no_password() {
        let mut world = World::migrating();
        world.input.blue.url.0 = "postgresql://me:hunter2@db1:5432/shop?password=hunter3".to_owned();
        let plan = world.plan();
        for page in [text(&plan, true), mermaid(&plan)] {
            assert!(!page.contains("hunter"), "{page}");
        }
    }

    #[test]
    fn ten_thousand_tables_stay_readable() {
        let mut world = World::new();
        world.add_tables(10_000);
        let plan = world.plan();
        let short = text(&plan, false);
        assert!(short.lines().count() < 270, "{} lines", short.lines().count());
        assert!(short.lines().all(|line| line.chars().count() < 300));
        assert!(text(&plan, true).contains("table_9999"));
        assert!(serde_json::to_string(&plan).unwrap().contains("table_9999"));
    }
}

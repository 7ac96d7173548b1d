use super::{address, asks_for};
use crate::plan::figures::{bytes, capital, count, milliseconds};
use crate::plan::{Answer, Finding, OnFailure, Plan, PlannedStep, Reversal, StepName};
use crate::schema::{TableFlow, Verdict};

/// How much is written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Long statements are cut, and tables that are lossless both ways are counted.
    Short,
    /// Everything.
    Full,
}

/// Columns of text that is wrapped. Statements are not.
const WIDTH: usize = 110;

/// Characters of a line of a statement, and lines of one, in `Short`.
const SQL_CHARS_MAX: usize = 200;
const SQL_LINES_MAX: usize = 12;

/// The plan, for a terminal and for a person who is to approve it.
pub fn text(plan: &Plan, detail: Detail) -> String {
    let mut page = Page { text: String::new(), detail };
    page.line(0, &format!("Plan `{}`, run {}", plan.name, plan.run));
    page.line(2, &format!("blue   {}", address(&plan.blue)));
    page.line(2, &format!("green  {}", address(&plan.green)));
    page.heading("Steps");
    for (at, step) in plan.steps.iter().enumerate() {
        page.step(at + 1, step);
    }
    page.heading("Tables");
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
    detail: Detail,
}

impl Page {
    fn line(&mut self, indent: usize, text: &str) {
        self.text.push_str(&" ".repeat(indent));
        self.text.push_str(text);
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
        self.text.push('\n');
    }

    fn sql(&mut self, sql: &str) {
        if let Some(point) = sql.strip_prefix("journal: ") {
            self.line(6, &format!("======== {point}: before it back to blue, after it forward to green ========"));
            return;
        }
        let lines: Vec<&str> = sql.lines().collect();
        let shown = if self.detail == Detail::Short { lines.len().min(SQL_LINES_MAX) } else { lines.len() };
        for (at, line) in lines[..shown].iter().enumerate() {
            let text = if self.detail == Detail::Short { shortened(line) } else { (*line).to_owned() };
            self.line(if at == 0 { 6 } else { 10 }, &text);
        }
        if lines.len() > shown {
            self.line(10, &format!("... {} more", count(lines.len() - shown, "line")));
        }
    }

    fn tables(&mut self, tables: &[TableFlow]) {
        let lossless: Vec<String> =
            tables.iter().filter(|flow| flow.verdict == Verdict::Lossless).map(|flow| flow.table.to_string()).collect();
        let names = if self.detail == Detail::Full && !lossless.is_empty() { format!(": {}", lossless.join(", ")) } else { String::new() };
        self.wrapped(2, 2, &format!("Lossless both ways: {}{names}", count(lossless.len(), "table")));
        for flow in tables {
            let (word, reasons) = match &flow.verdict {
                Verdict::Lossless => continue,
                Verdict::LosslessWithShim { shims } => ("lossless with shim".to_owned(), shims.clone()),
                Verdict::RollbackWouldLose { what, accepted } => {
                    let accepted = if *accepted { " (accepted)" } else { "" };
                    (format!("ROLLBACK WOULD LOSE{accepted}"), what.clone())
                }
                Verdict::Refused { reasons } => ("REFUSED".to_owned(), reasons.clone()),
                Verdict::NotSent { why } => ("not sent".to_owned(), vec![why.clone()]),
            };
            self.line(2, &format!("{}: {word}", flow.table));
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
        for (finding, then) in group {
            self.wrapped(4, 2, &format!("{}: {}", finding.code, finding.seen));
            if !then.is_empty() {
                self.wrapped(6, 2, &then);
            }
        }
    }

    fn limits(&mut self, plan: &Plan) {
        let wal = bytes(plan.limits.wal_kept_bytes_max);
        let on_failure = match plan.on_failure {
            OnFailure::Rollback => "takes everything back while blue serves, and is held for a person otherwise",
            OnFailure::Hold => "is held for a person",
        };
        let lines = [
            format!("pause          at most {}; then blue is opened again and the run waits for the next chance", milliseconds(plan.window.max_pause_ms)),
            format!("lag            under {} before the pause begins", bytes(plan.window.max_lag_bytes)),
            format!("WAL kept       at most {wal} by the run's slot on the serving side; then the run gives it up"),
            format!("soak           {}", milliseconds(plan.soak.for_secs.saturating_mul(1000))),
            format!("restore point  {}", plan.names.restore_point),
            format!("on a failure   the run {on_failure}"),
        ];
        for line in lines {
            self.wrapped(2, 15, &line);
        }
    }

    fn end(&mut self, plan: &Plan) {
        let obstacles = plan.obstacles().count();
        let gates = plan.steps.iter().filter(|step| step.gate.approval).map(|step| step.name);
        let gates: Vec<&str> = gates.map(StepName::title).collect();
        let can_run = match obstacles {
            0 if gates.is_empty() => "This plan can run, and asks nobody on its way.".to_owned(),
            0 => format!("This plan can run. It waits for a person before: {}.", gates.join(", ")),
            number => format!("This plan cannot run: {} in its way, see above.", count(number, "finding")),
        };
        self.text.push('\n');
        self.line(0, &can_run);
        self.line(0, &format!("digest {}", plan.digest()));
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
        insta::assert_snapshot!("plan_short", text(&plan, Detail::Short));
        insta::assert_snapshot!("plan_full", text(&plan, Detail::Full));
        insta::assert_snapshot!("plan_mermaid", mermaid(&plan));
    }

    #[test]
    fn a_plan_with_obstacles_says_what_to_do() {
        let mut world = World::migrating();
        world.blue().wal_level = "replica".to_owned();
        world.blue().large_objects = 3;
        let page = text(&world.plan(), Detail::Short);
        let from = page.find("Preflight").unwrap();
        let until = page.find("  Handled by the run").unwrap();
        insta::assert_snapshot!("obstacles", format!("{}\n{}", &page[from..until], page.lines().rev().nth(1).unwrap()));
    }

    #[test]
    fn a_plan_shows_no_password() {
        let mut world = World::migrating();
        world.input.blue.url.0 = "postgresql://me:hunter2@db1:5432/shop?password=hunter3".to_owned();
        let plan = world.plan();
        for page in [text(&plan, Detail::Full), mermaid(&plan)] {
            assert!(!page.contains("hunter"), "{page}");
        }
    }

    #[test]
    fn ten_thousand_tables_stay_readable() {
        let mut world = World::new();
        world.add_tables(10_000);
        let plan = world.plan();
        let short = text(&plan, Detail::Short);
        assert!(short.lines().count() < 250, "{} lines", short.lines().count());
        assert!(short.lines().all(|line| line.chars().count() < 300));
        assert!(text(&plan, Detail::Full).contains("table_9999"));
        assert!(serde_json::to_string(&plan).unwrap().contains("table_9999"));
    }
}

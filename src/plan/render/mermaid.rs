use super::{address, asks_for};
use crate::plan::{Plan, PlannedStep, StepName, Strategy};
use crate::word::shown;

/// The steps as a Mermaid flowchart, with gates, commit point, ways back and the point of no return.
pub fn mermaid(plan: &Plan) -> String {
    let mut chart = Chart { follows: plan.strategy != Strategy::Restored, ..Chart::default() };
    chart.node("blue", &format!("([\"blue serves: {}\"])", escaped(address(&plan.blue))));
    chart.nodes.push("subgraph before [blue serves all along]".to_owned());
    for (at, step) in plan.steps.iter().enumerate() {
        if matches!(step.name, StepName::Window | StepName::ReleaseBlue) {
            chart.nodes.push("end".to_owned());
        }
        chart.step(at + 1, step);
    }
    match plan.strategy {
        Strategy::InPlace => chart.node("green", "([\"blue serves, migrated\"])"),
        Strategy::Sync | Strategy::Freeze | Strategy::Restored => {
            chart.node("green", &format!("([\"green serves alone: {}\"])", escaped(address(&plan.green))));
        }
    }
    if plan.restore_into.is_some() {
        let green = escaped(address(&plan.green));
        chart.nodes.push(format!("restored([\"green serves as blue was before the migrations: {green}\"])"));
        chart.edges.push("before -. \"failure with `on_failure: restore`, abandon --restore\" .-> restored".to_owned());
    }
    chart.nodes.push("back([\"blue serves, everything is taken back\"])".to_owned());
    chart.edges.push("before -. \"failure, rollback, abandon\" .-> back".to_owned());
    // Arrows come last: a node belongs to the box in which an arrow names it first.
    let lines = chart.nodes.iter().chain(&chart.edges).map(|line| format!("  {line}\n"));
    format!("flowchart TD\n{}", lines.collect::<String>())
}

#[derive(Default)]
struct Chart {
    nodes: Vec<String>,
    edges: Vec<String>,
    /// Whether the sides follow each other.
    follows: bool,
    /// The node that the next one follows.
    last: Option<String>,
}

impl Chart {
    /// A node, and the arrow to it from the one before.
    fn node(&mut self, id: &str, shape: &str) {
        self.nodes.push(format!("{id}{shape}"));
        if let Some(last) = self.last.replace(id.to_owned()) {
            self.edges.push(format!("{last} --> {id}"));
        }
    }

    fn step(&mut self, number: usize, step: &PlannedStep) {
        let id = format!("s{number}");
        let before = self.last.clone().unwrap_or_default();
        let gate = asks_for(&step.gate);
        if let Some(gate) = &gate {
            self.node(&format!("g{number}"), &format!("{{\"waits for {}\"}}", escaped(gate)));
        }
        let title = format!("{number}. {}", step.name);
        match step.name {
            StepName::Window => {
                let inside = if self.follows { "pause, fence blue, marker, sequences" } else { "pause, fence blue, sequences" };
                self.node(&id, &format!("[\"{title}<br/>{inside}\"]"));
                let again = if gate.is_some() { format!("g{number}") } else { before };
                self.edges.push(format!("{id} -. \"limit reached, or failed: blue goes on\" .-> {again}"));
                self.node("commit", "{{\"COMMIT POINT\"}}");
                let then = if self.follows { "blue follows green" } else { "blue stays closed for writes" };
                self.node("opened", &format!("[\"open green, repoint, resume;<br/>{then}\"]"));
            }
            StepName::Soak => {
                self.node(&id, &format!("[\"{title}\"]"));
                self.edges.push(format!("{id} -. \"rollback: the same window, back to blue\" .-> back"));
            }
            StepName::Finish | StepName::ReleaseBlue => self.node(&id, &format!("[[\"{title}<br/>POINT OF NO RETURN\"]]")),
            StepName::ShadowGreen => {
                self.node(&id, &format!("[\"{title}<br/>verdicts are PROVISIONAL until here\"]"));
                self.edges.push(format!("{id} -. \"worse than approved: waits for an approval, or refused\" .-> back"));
            }
            _ => self.node(&id, &format!("[\"{title}\"]")),
        }
    }
}

/// Text inside a quoted label: plain, whatever is in it.
fn escaped(text: &str) -> String {
    let marks = [('#', "#35;"), ('"', "#quot;"), ('<', "#lt;"), ('>', "#gt;"), ('&', "#amp;"), ('`', "#96;"), ('\\', "#92;")];
    let written =
        |c: char| marks.iter().find(|(mark, _)| *mark == c).map_or_else(|| c.to_string(), |(_, code)| (*code).to_owned());
    shown(text).chars().map(written).collect()
}

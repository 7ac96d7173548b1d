use super::{address, asks_for};
use crate::plan::{Plan, PlannedStep, StepName};
use std::fmt::Write;

/// The steps as a Mermaid flowchart, with gates, commit point, ways back and the point of no return.
pub fn mermaid(plan: &Plan) -> String {
    let mut chart = Chart { text: "flowchart TD\n".to_owned(), last: None };
    chart.node("blue", &format!("([\"blue serves: {}\"])", escaped(address(&plan.blue))));
    let until_window = plan.steps.iter().position(|step| step.name == StepName::Window).unwrap_or(plan.steps.len());
    chart.put("  subgraph before [blue serves all along]");
    for (at, step) in plan.steps[..until_window].iter().enumerate() {
        chart.step(at + 1, step);
    }
    chart.put("  end");
    for (at, step) in plan.steps.iter().enumerate().skip(until_window) {
        chart.step(at + 1, step);
    }
    chart.node("green", &format!("([\"green serves alone: {}\"])", escaped(address(&plan.green))));
    chart.put("  back([\"blue serves, everything is taken back\"])");
    chart.put("  before -. \"failure, rollback, abandon\" .-> back");
    if let Some(soak) = plan.step_no(StepName::Soak) {
        chart.put(&format!("  s{} -. \"rollback: the same window back to blue\" .-> back", soak.0 + 1));
    }
    if let Some(finish) = plan.step_no(StepName::Finish) {
        chart.put(&format!("  class s{} final", finish.0 + 1));
    }
    chart.put("  classDef final stroke-width:4px");
    chart.text
}

struct Chart {
    text: String,
    /// The node that the next one follows.
    last: Option<String>,
}

impl Chart {
    fn put(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A node, and the arrow to it from the one before.
    fn node(&mut self, id: &str, shape: &str) {
        self.put(&format!("  {id}{shape}"));
        if let Some(last) = self.last.replace(id.to_owned()) {
            self.put(&format!("  {last} --> {id}"));
        }
    }

    fn step(&mut self, number: usize, step: &PlannedStep) {
        let id = format!("s{number}");
        if let Some(gate) = asks_for(&step.gate) {
            self.node(&format!("g{number}"), &format!("{{\"waits for {}\"}}", escaped(&gate)));
        }
        let mut label = format!("{number}. {}", step.name);
        if step.name == StepName::Finish {
            let _ = write!(label, "<br/>POINT OF NO RETURN");
        }
        if step.name != StepName::Window {
            self.node(&id, &format!("[\"{label}\"]"));
            return;
        }
        let before = self.last.clone();
        self.node(&id, &format!("[\"{label}<br/>pause, fence blue, marker, sequences\"]"));
        if let Some(before) = before {
            self.put(&format!("  {id} -. \"limit reached or failed: blue goes on\" .-> {before}"));
        }
        self.node("commit", "{{\"COMMIT POINT\"}}");
        self.node("opened", "[\"open green, repoint, resume;<br/>blue follows green\"]");
    }
}

/// Text inside a quoted label.
fn escaped(text: &str) -> String {
    text.replace('"', "#quot;")
}

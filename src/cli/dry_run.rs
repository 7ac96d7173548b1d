//! `greenlight run --dry-run`: the plan's text, and what each step sees of its own work. No second program: the steps'
//! own `observe`, which changes nothing.

use super::arguments::{Output, Shared};
use super::{Exit, print, status};
use crate::plan::{Plan, render};
use crate::run::{Fact, Run};
use crate::step::{self, Observed, Records, StepContext};
use crate::wire;
use crate::word::{PortError, shown};
use async_trait::async_trait;
use serde::Serialize;
use std::fmt::Write;
use std::sync::{Arc, atomic::AtomicU64};

#[derive(Debug, Serialize)]
struct Seen {
    number: usize,
    name: String,
    /// By the journal.
    state: &'static str,
    /// By looking.
    there: &'static str,
    /// Why it could not be looked at.
    why: Option<String>,
}

/// `run`: the fold of the journal, of nothing for a run that does not exist yet.
pub(super) async fn run(shared: &Shared, plan: &Plan, run: Run) -> anyhow::Result<Exit> {
    let seen = observe(shared, plan, run).await?;
    match shared.output {
        Output::Json => print::json(&serde_json::json!({ "digest": plan.digest(), "plan": plan, "seen": seen })),
        Output::Text => print::data(&format!("{}\n{}", render::text(plan, false), text(&seen))),
    }
    print::say("nothing was changed. Next: the same without `--dry-run`");
    Ok(Exit::Completed)
}

async fn observe(shared: &Shared, plan: &Plan, run: Run) -> anyhow::Result<Vec<Seen>> {
    let ports = wire::ports(plan, &Arc::new(AtomicU64::new(0)), &shared.state).await?;
    let mut records = Unwritten(run);
    let mut seen = Vec::new();
    for (at, planned) in plan.steps.iter().enumerate() {
        let mut cx = StepContext { plan, ports: &ports, records: &mut records, interrupted: Arc::default(), progress: &|_| {} };
        let (word, why) = match step::named(planned.name).observe(&mut cx).await {
            Ok(Observed::Absent) => ("nothing of it is there", None),
            Ok(Observed::Partial) => ("some of it may be there", None),
            Ok(Observed::Complete) => ("all of it is there", None),
            // Such as a question to green that only a primary can answer.
            Err(error) => ("cannot be seen now", Some(error.chain())),
        };
        let state = status::word(&records.0.steps[at], false);
        seen.push(Seen { number: at + 1, state, name: planned.name.to_string(), there: word, why });
    }
    Ok(seen)
}

fn text(seen: &[Seen]) -> String {
    let mut text = String::from(
        "What is done by the journal, and what is there by looking\n---------------------------------------------------------\n",
    );
    for step in seen {
        let why = step.why.as_ref().map(|why| format!(": {}", shown(why))).unwrap_or_default();
        let _ = writeln!(text, "  {:>2}  {:<18} {}; {}{why}", step.number, step.name, step.state, step.there);
    }
    text
}

/// Steps read the run here, and nothing that they learn is kept.
struct Unwritten(Run);

#[async_trait]
impl Records for Unwritten {
    async fn learn(&mut self, _: Fact) -> Result<(), PortError> {
        Err(PortError::refused("record something in a dry run"))
    }

    async fn commit(&mut self, _: Fact) -> Result<Option<String>, PortError> {
        Err(PortError::refused("commit something in a dry run"))
    }

    async fn hold(&mut self) -> Result<(), PortError> {
        Err(PortError::refused("open a window in a dry run"))
    }

    fn run(&self) -> &Run {
        &self.0
    }

    fn is_superseded(&self) -> bool {
        false
    }
}

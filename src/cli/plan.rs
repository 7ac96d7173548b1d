//! `greenlight plan`: what a run would do. Changes nothing on any server.

use super::arguments::{Output, PlanArgs, Shared};
use super::{Exit, print, run as run_command, screen, state};
use crate::plan::{Answer, Finding, Plan, render};
use crate::playbook::Playbook;
use crate::wire;
use crate::word::{Clock, SystemClock, shell_word};
use std::fmt::Write;

pub(super) async fn run(shared: &Shared, args: &PlanArgs) -> anyhow::Result<Exit> {
    let Some(playbook) = super::playbook::load_or_say(shared, &args.playbook) else { return Ok(Exit::Playbook) };
    if let Some(journal) = state::find(shared)?
        && let Some(open) = state::open_run_of(journal.as_ref(), &playbook.name).await?
    {
        print::say(&format!(
            "run {0} of `{1}` is open: {2}. `greenlight run {0}` goes on with it, by its own plan; what follows is a plan for after it",
            open.id,
            playbook.name,
            screen::place(&open.plan, &open.run, SystemClock::new().now())
        ));
        run_command::say_edits(&playbook, &open);
    }
    let Some(plan) = make(&playbook).await? else { return Ok(Exit::Interrupted) };
    if args.mermaid {
        print::data(&render::mermaid(&plan));
    } else if shared.output == Output::Json {
        print::json(&serde_json::json!({ "digest": plan.digest(), "plan": plan }));
    } else {
        print::data(&render::text(&plan, args.all_tables));
    }
    if !may_run(&plan) {
        say_obstacles(&plan);
        return Ok(Exit::Refused);
    }
    let digest = &plan.digest()[..12];
    print::say(&format!(
        "nothing was changed. Next: `greenlight run {} --plan {digest}`",
        shell_word(&args.playbook.display().to_string())
    ));
    Ok(Exit::Completed)
}

/// `None`: Ctrl-C. Planning changes nothing, so it can be left anywhere; what it started goes with it.
pub(super) async fn make(playbook: &Playbook) -> anyhow::Result<Option<Plan>> {
    tokio::select! {
        plan = wire::make_plan(playbook) => plan.map(Some),
        _ = tokio::signal::ctrl_c() => {
            print::say("interrupted while planning; nothing was changed");
            Ok(None)
        }
    }
}

/// Whether nothing stands in the way.
pub(super) fn may_run(plan: &Plan) -> bool {
    plan.obstacles().next().is_none()
}

/// What stands in the way, each with its remedy.
pub(super) fn say_obstacles(plan: &Plan) {
    let obstacles: Vec<&Finding> = plan.obstacles().collect();
    print::complain(&format!("error: refused by preflight, {} in the way:\n{}", obstacles.len(), obstacles_text(&obstacles)));
    print::say("nothing was changed. Next: mend these, or accept what can be accepted, and `greenlight plan` again");
}

fn obstacles_text(obstacles: &[&Finding]) -> String {
    let mut text = String::new();
    for finding in obstacles {
        let _ = writeln!(text, "  {}: {}", finding.code, finding.seen);
        let _ = match &finding.answer {
            Answer::Refused { remedy } => writeln!(text, "    try: {remedy}"),
            Answer::NeedsAccept { consequence } => {
                let word = serde_json::Value::from(finding.code.as_str());
                writeln!(text, "    {consequence}\n    try: avoid it, or write `accept: [{word}]` in the playbook")
            }
            Answer::Fine | Answer::Handled { .. } | Answer::Accepted { .. } => Ok(()),
        };
    }
    text
}

//! `greenlight plan`: what a run would do. Changes nothing on any server.

use super::arguments::{Output, PlanArgs, Shared};
use super::{Exit, print};
use crate::plan::{Answer, Finding, Plan, render};
use crate::wire;

pub(super) async fn run(shared: &Shared, args: &PlanArgs) -> anyhow::Result<Exit> {
    let Some(playbook) = super::playbook::load_or_say(shared, &args.playbook)? else { return Ok(Exit::Playbook) };
    let plan = wire::make_plan(&playbook).await?;
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
    print::say(&format!("nothing was changed. Next: `greenlight run {} --plan {digest}`", args.playbook.display()));
    Ok(Exit::Completed)
}

/// Whether nothing stands in the way.
pub(super) fn may_run(plan: &Plan) -> bool {
    plan.obstacles().next().is_none()
}

/// What stands in the way, each with its remedy.
pub(super) fn say_obstacles(plan: &Plan) {
    let obstacles: Vec<&Finding> = plan.obstacles().collect();
    print::say(&format!("error: refused by preflight: {} in the way; nothing was changed", obstacles.len()));
    for finding in obstacles {
        print::say(&format!("  {}: {}", finding.code, finding.seen));
        match &finding.answer {
            Answer::Refused { remedy } => print::say(&format!("    try: {remedy}")),
            Answer::NeedsAccept { consequence } => {
                print::say(&format!("    {consequence}"));
                print::say(&format!("    try: avoid it, or write `accept: [\"{}\"]` in the playbook", finding.code));
            }
            Answer::Fine | Answer::Handled { .. } | Answer::Accepted { .. } => {}
        }
    }
}

//! What a provisional plan, made where no shadow could be had, takes from the shadow that stands on green later.

use super::compile::{PlanInput, settle};
use super::{Answer, Finding, Plan, PlannedStep, StepName, Survey, SyncTrigger};
use crate::migrate::ShadowReport;
use crate::schema::{Fingerprint, TableFlow};
use serde::{Deserialize, Serialize};

/// What was wanted and seen when a provisional plan was made: what its tables are judged by, once they can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    pub input: PlanInput,
    pub survey: Survey,
}

/// What the two schemas mean for a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchemaWork {
    pub tables: Vec<TableFlow>,
    pub sync_triggers: Vec<SyncTrigger>,
    pub green_fingerprint: Option<Fingerprint>,
    pub findings: Vec<Finding>,
    pub steps: Vec<PlannedStep>,
}

impl SchemaWork {
    /// What keeps the run from going on, whatever a person says.
    pub fn refused(&self) -> impl Iterator<Item = (&Finding, &str)> {
        self.findings.iter().filter_map(|finding| match &finding.answer {
            Answer::Refused { remedy } => Some((finding, remedy.as_str())),
            _ => None,
        })
    }
}

impl Plan {
    /// What this provisional plan would have held, had there been this report when it was made; by the same rules. The flow
    /// is not narrowed without an approval where that asks for a word that the playbook does not give. `None`: the plan is
    /// not provisional.
    pub fn judge(&self, report: ShadowReport) -> Option<SchemaWork> {
        let Basis { input, survey } = self.basis.as_deref()?;
        let survey = Survey { shadow: Ok(report), ..survey.clone() };
        let mut plan = self.clone();
        settle(&mut plan, input, &survey);
        let worse = worse(&plan.findings);
        if !worse.is_empty()
            && let Some(step) = plan.steps.iter_mut().find(|step| step.name == StepName::NarrowFlow)
        {
            step.gate.approval = true;
            step.gate.because = Some(format!("the trial on green shows what was not approved: {}", worse.join("; ")));
        }
        let Plan { tables, sync_triggers, green_fingerprint, findings, steps, .. } = plan;
        Some(SchemaWork { tables, sync_triggers, green_fingerprint, findings, steps })
    }

    /// The plan by which the run goes on from there.
    #[must_use]
    pub fn judged(self, work: &SchemaWork) -> Plan {
        let SchemaWork { tables, sync_triggers, green_fingerprint, findings, steps } = work.clone();
        Plan { provisional: false, basis: None, tables, sync_triggers, green_fingerprint, findings, steps, ..self }
    }
}

/// A provisional plan has nothing of the kind, or it would not have been run.
fn worse(findings: &[Finding]) -> Vec<String> {
    let asks = |finding: &&Finding| matches!(finding.answer, Answer::NeedsAccept { .. });
    findings.iter().filter(asks).map(|finding| format!("{}: {}", finding.code, finding.seen)).collect()
}

#[cfg(test)]
mod tests {
    use crate::plan::preflight::example::World;
    use crate::plan::{Answer, Plan, StepName, render};

    /// The same world twice: planned with its shadow, and planned without one.
    fn both(mut world: World) -> (Plan, Plan, crate::migrate::ShadowReport) {
        world.input.accept.push("green-archive".to_owned());
        let whole = world.plan();
        let report = world.survey.shadow.clone().unwrap();
        world.survey.shadow = Err("no programs of PostgreSQL 15 were found".to_owned());
        (whole, world.plan(), report)
    }

    #[test]
    fn a_judged_plan_is_the_plan_that_a_shadow_would_have_given_with_its_trial_in_the_line() {
        let (whole, provisional, report) = both(World::migrating());
        assert!(provisional.provisional && provisional.obstacles().next().is_none());
        let judged = provisional.clone().judged(&provisional.judge(report).unwrap());
        let without_trial: Vec<_> = judged.steps.iter().filter(|step| step.name != StepName::ShadowGreen).cloned().collect();
        assert_eq!(judged.steps.len(), whole.steps.len() + 1);
        assert_eq!(Plan { steps: without_trial, ..judged }, whole);
    }

    #[test]
    fn a_plan_with_a_shadow_is_not_provisional_and_cannot_be_judged() {
        let (whole, _, report) = both(World::migrating());
        assert!(!whole.provisional && whole.step_no(StepName::ShadowGreen).is_none());
        assert!(whole.judge(report).is_none());
    }

    #[test]
    fn what_the_playbook_does_not_accept_shuts_a_gate_that_names_it() {
        let mut world = World::migrating();
        world.input.accept.retain(|word| !word.starts_with("backfill"));
        let (_, provisional, report) = both(world);
        assert!(provisional.obstacles().next().is_none());
        let judged = provisional.clone().judged(&provisional.judge(report).unwrap());
        let narrow = &judged.steps[judged.step_no(StepName::NarrowFlow).unwrap().0];
        let waits = narrow.gate.waits_for(judged.made_at, false).unwrap();
        assert!(narrow.gate.approval && waits.contains("backfill:public.orders"), "{waits}");
    }

    #[test]
    fn what_the_playbook_accepts_opens_no_gate_and_a_shadow_of_another_schema_is_refused() {
        let (_, provisional, mut report) = both(World::migrating());
        let narrow = |plan: &Plan| plan.steps[plan.step_no(StepName::NarrowFlow).unwrap().0].clone();
        assert!(!narrow(&provisional.clone().judged(&provisional.judge(report.clone()).unwrap())).gate.approval);
        report.before.tables.remove("public.orders");
        assert!(provisional.judge(report).unwrap().refused().any(|(finding, _)| finding.code == "shadow-differs"));
    }

    #[test]
    fn a_provisional_plan_says_so_wherever_it_is_shown() {
        let (_, provisional, _) = both(World::migrating());
        for page in
            [render::text(&provisional, false), render::mermaid(&provisional), serde_json::to_string(&provisional).unwrap()]
        {
            assert!(page.to_lowercase().contains("provisional"), "{page}");
        }
        let read: Vec<_> = provisional.findings.iter().filter(|finding| finding.code.starts_with("read-only:")).collect();
        assert_eq!(read.len(), 4, "{read:?}");
        assert!(read[1].seen.contains("update orders"), "{read:?}");
        assert!(read.iter().all(|finding| matches!(finding.answer, Answer::Handled { by: StepName::ShadowGreen, .. })));
    }

    #[test]
    fn an_accepted_word_more_is_another_digest() {
        let mut world = World::migrating();
        let (_, before, _) = both(world.clone());
        world.input.accept.push("not-reversible:public.orders".to_owned());
        let (_, after, _) = both(world);
        assert_ne!(before.digest(), after.digest());
    }
}

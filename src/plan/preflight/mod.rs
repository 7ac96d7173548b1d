//! Looks at what was seen of the world and says, point by point, what it means for the run: fine, handled by a step,
//! refused, or in need of the operator's word. One file a topic.
//!
//! **Invariant:** pure. What cannot be seen is said, and never taken for good.

mod capacity;
mod commits;
mod consumers;
mod extensions;
mod in_place;
mod managers;
mod migration;
mod objects;
mod ownership;
mod reading;
mod recovery;
mod restored;
mod retention;
mod roles;
mod routes;
mod strangers;
mod tables;
mod versions;
mod wakes;

#[cfg(test)]
pub(super) mod example;

pub(super) use objects::LARGE_OBJECTS;

use super::{Answer, Finding, GreenSurvey, PlanInput, ServerSurvey, StepName, Strategy, Survey, SyncTrigger};
use crate::migrate::Migration;
use crate::schema::{Flow, SharedColumns, TableFlow};
use crate::word::{RelationName, Side, Timestamp, shown};
use std::collections::BTreeSet;

/// What is lost for good needs the name of what loses it: a word for all such objects would cover those not thought of.
const BY_NAME_ONLY: &[&str] = &["not-reversible"];

/// Everything that preflight may look at.
pub(super) struct Look<'a> {
    pub(super) input: &'a PlanInput,
    pub(super) survey: &'a Survey,
    /// Those of the playbook's migrations that blue has not.
    pub(super) pending: &'a [Migration],
    pub(super) tables: &'a [TableFlow],
    pub(super) sync_triggers: &'a [SyncTrigger],
    /// Tables that are not compared.
    pub(super) excluded: &'a [RelationName],
    pub(super) now: Timestamp,
}

impl<'a> Look<'a> {
    fn is_freeze(&self) -> bool {
        self.input.strategy == Strategy::Freeze
    }

    fn is_restored(&self) -> bool {
        self.input.strategy == Strategy::Restored
    }

    fn is_in_place(&self) -> bool {
        self.input.strategy == Strategy::InPlace
    }

    fn blue(&self) -> &'a ServerSurvey {
        &self.survey.blue
    }

    /// `None`: green is to be made.
    fn green(&self) -> Option<&'a ServerSurvey> {
        match &self.survey.green {
            GreenSurvey::Standby(green) => Some(green),
            GreenSurvey::ToBeMade { .. } => None,
        }
    }

    /// The servers that are there.
    fn servers(&self) -> Vec<(Side, &'a ServerSurvey)> {
        let green = self.green().map(|green| (Side::Green, green));
        [(Side::Blue, self.blue())].into_iter().chain(green).collect()
    }

    fn published(&self) -> impl Iterator<Item = (&'a TableFlow, &'a SharedColumns)> {
        self.tables.iter().filter_map(|flow| match &flow.flow {
            Flow::Both(shared) => Some((flow, shared)),
            Flow::Out { .. } => None,
        })
    }
}

/// Every finding, in the order of the topics, with the playbook's word given where it is asked for.
pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let of_blue_alone =
        [roles::check, versions::check, managers::check, recovery::check, migration::check, ownership::check, in_place::check];
    if look.is_in_place() {
        return accept(of_blue_alone.iter().flat_map(|topic| topic(look)).collect(), &look.input.accept);
    }
    if look.is_restored() {
        let of_a_restored_green = [roles::check, versions::check, managers::check, restored::check];
        return accept(of_a_restored_green.iter().flat_map(|topic| topic(look)).collect(), &look.input.accept);
    }
    let topics = [
        roles::check,
        versions::check,
        capacity::check,
        recovery::check,
        retention::check,
        consumers::check,
        wakes::check,
        managers::check,
        commits::check,
        objects::check,
        strangers::check,
        extensions::check,
        tables::check,
        migration::check,
        ownership::check,
        routes::check,
    ];
    let mut findings: Vec<Finding> = topics.iter().flat_map(|topic| topic(look)).collect();
    if look.is_freeze() {
        findings = findings.into_iter().filter_map(of_a_freeze).collect();
    }
    accept(findings, &look.input.accept)
}

/// What a finding comes to where no row flows from blue to green: green is blue's copy when it is promoted.
fn of_a_freeze(finding: Finding) -> Option<Finding> {
    let Finding { code, seen, answer } = finding;
    // What they ask about are rows that blue writes once green is migrated.
    if ["backfill", "new-foreign-keys", "new-constraints"].into_iter().any(|topic| code.split(':').next() == Some(topic)) {
        return None;
    }
    let Answer::Handled { by, how } = answer else { return Some(Finding { code, seen, answer }) };
    match code.as_str() {
        "subscription-password:blue" | "peer-address:blue" => None,
        "materialized-views" | "sequences" => Some(fine(code, format!("{seen} Green has them as they are on blue."))),
        "green-slot" => Some(handled(code, seen, StepName::Window, "dropped on blue once green serves")),
        "disk:blue" => Some(fine(code, seen)),
        _ => {
            // What the sync has a step for is a part of the freeze.
            let by = match by {
                StepName::PublishBlue
                | StepName::AttachGreen
                | StepName::SubscribeGreen
                | StepName::NarrowFlow
                | StepName::MigrateGreen
                | StepName::WarmGreen
                | StepName::ArmReverse
                | StepName::ValidateGreen => StepName::Window,
                other => other,
            };
            Some(handled(code, seen, by, how))
        }
    }
}

/// Gives the playbook's word to what asks for it. A word that nothing asks for is said: it may be misspelt.
fn accept(mut findings: Vec<Finding>, words: &[String]) -> Vec<Finding> {
    let mut used = BTreeSet::new();
    for finding in &mut findings {
        let needs = matches!(finding.answer, Answer::NeedsAccept { .. } | Answer::Accepted { .. });
        let Some(word) = words.iter().find(|word| needs && covers(word, &finding.code)) else { continue };
        used.insert(word.clone());
        if let Answer::NeedsAccept { consequence } = &finding.answer {
            finding.answer = Answer::Accepted { consequence: consequence.clone() };
        }
    }
    let unused: BTreeSet<&String> = words.iter().filter(|word| !used.contains(*word)).collect();
    findings.extend(
        unused.into_iter().map(|word| {
            fine(format!("unused-accept:{word}"), format!("The playbook accepts `{word}`, and nothing asks for it."))
        }),
    );
    findings
}

/// `code` covers itself and all its objects, `code:object` that object.
fn covers(word: &str, code: &str) -> bool {
    let whole = code.split_once(':').is_some_and(|(code, _)| word == code && !BY_NAME_ONLY.contains(&code));
    whole || word == code
}

// Names of the servers stand in all of these texts, and whoever may make an object chooses its name.

fn fine(code: impl Into<String>, seen: impl Into<String>) -> Finding {
    Finding { code: shown(&code.into()), seen: shown(&seen.into()), answer: Answer::Fine }
}

fn handled(code: impl Into<String>, seen: impl Into<String>, by: StepName, how: impl Into<String>) -> Finding {
    Finding { code: shown(&code.into()), seen: shown(&seen.into()), answer: Answer::Handled { by, how: shown(&how.into()) } }
}

fn refused(code: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { code: shown(&code.into()), seen: shown(&seen.into()), answer: Answer::Refused { remedy: shown(&remedy.into()) } }
}

fn needs_accept(code: impl Into<String>, seen: impl Into<String>, consequence: impl Into<String>) -> Finding {
    Finding {
        code: shown(&code.into()),
        seen: shown(&seen.into()),
        answer: Answer::NeedsAccept { consequence: shown(&consequence.into()) },
    }
}

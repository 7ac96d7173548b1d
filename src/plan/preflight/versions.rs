//! Versions, and whether the two machines would treat the same data alike.

use super::{Look, fine, needs_accept, refused};
use crate::plan::figures::capital;
use crate::plan::{Finding, SETTINGS_COMPARED, ServerSurvey};
use crate::word::Side;

/// Column lists of publications begin here, and with them the way back across a migration.
const MAJOR_MIN: u32 = 15;

/// The newest one that Greenlight was tried with.
const MAJOR_TRIED: u32 = 18;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = look.servers().into_iter().map(|(side, server)| version(side, server)).collect();
    findings.extend(look.servers().into_iter().filter_map(|(side, server)| collation(side, server)));
    if let Some(green) = look.green() {
        findings.extend(same_major(look.blue(), green));
        findings.extend(settings(look.blue(), green));
    }
    findings
}

fn version(side: Side, server: &ServerSurvey) -> Finding {
    let code = format!("version:{side}");
    let seen = format!("{side} runs PostgreSQL {}.{}.", server.major(), server.version % 10_000);
    let seen = capital(&seen);
    if server.major() < MAJOR_MIN {
        let remedy = format!(
            "upgrade to PostgreSQL {MAJOR_MIN} or later: without column lists in publications there is no way back across a migration"
        );
        refused(code, seen, remedy)
    } else if server.major() > MAJOR_TRIED {
        needs_accept(code, seen, format!("Greenlight was tried up to PostgreSQL {MAJOR_TRIED}"))
    } else {
        fine(code, seen)
    }
}

fn same_major(blue: &ServerSurvey, green: &ServerSurvey) -> Option<Finding> {
    (blue.major() != green.major()).then(|| {
        let seen = format!("Blue is of major version {}, green of {}.", blue.major(), green.major());
        refused("version-match", seen, "a physical standby has its primary's major version: rebuild green with blue's")
    })
}

/// A text index built by one library and read by another misses rows.
fn collation(side: Side, server: &ServerSurvey) -> Option<Finding> {
    let (recorded, actual) = server.collation_change.as_ref()?;
    let seen = format!("The database was made with collation version {recorded}; {side}'s machine sorts by version {actual}.");
    let consequence = format!("indexes over text may miss rows on {side} until they are rebuilt (`REINDEX DATABASE`)");
    Some(needs_accept(format!("collation-version:{side}"), seen, consequence))
}

fn settings(blue: &ServerSurvey, green: &ServerSurvey) -> Vec<Finding> {
    let both = |name: &&&str| Some((blue.settings.get(**name)?, green.settings.get(**name)?));
    let differing = SETTINGS_COMPARED.iter().filter(|name| both(name).is_some_and(|(blue, green)| blue != green));
    let findings: Vec<Finding> = differing
        .map(|name| {
            let seen = format!("`{name}` is `{}` on blue and `{}` on green.", blue.setting(name), green.setting(name));
            needs_accept(format!("setting:{name}"), seen, "applications meet green's after the window")
        })
        .collect();
    if findings.is_empty() {
        return vec![fine(
            "setting",
            "Settings that applications would notice, time zone and locale among them, are equal on both.",
        )];
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};

    #[test]
    fn a_version_that_is_too_old_too_new_or_another_is_noticed() {
        let good = World::new();
        assert_answers(&good, "version:blue", "fine");
        assert_answers(&good, "version:green", "fine");
        assert_answers(&good, "version-match", "none");
        assert_answers(&World::with(|w| w.blue().version = 140_012), "version:blue", "refused");
        assert_answers(&World::with(|w| w.green().version = 140_012), "version:green", "refused");
        assert_answers(&World::with(|w| w.blue().version = 190_000), "version:blue", "needs_accept");
        assert_answers(&World::with(|w| w.green().version = 160_004), "version-match", "refused");
    }

    #[test]
    fn a_machine_that_sorts_otherwise_needs_a_word() {
        let change = Some(("2.31".to_owned(), "2.36".to_owned()));
        assert_answers(
            &World::with(|w| w.green().collation_change.clone_from(&change)),
            "collation-version:green",
            "needs_accept",
        );
        assert_answers(&World::with(|w| w.blue().collation_change.clone_from(&change)), "collation-version:blue", "needs_accept");
        assert_answers(&World::new(), "collation-version:green", "none");
    }

    #[test]
    fn a_setting_that_applications_would_notice_needs_a_word() {
        assert_answers(&World::new(), "setting", "fine");
        assert_answers(&World::with(|w| w.green().set("TimeZone", "UTC")), "setting:TimeZone", "needs_accept");
        assert_answers(&World::new(), "setting:TimeZone", "none");
    }
}

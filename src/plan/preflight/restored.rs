//! Whether green is what a backup of blue was restored to, and what is not on it.

use super::{Look, fine, needs_accept, refused, routes};
use crate::plan::{Finding, ServerSurvey};

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = vec![later_writes(), fine("schema", "Nothing is migrated, and nothing is compared but the assertions.")];
    if let Some(green) = look.green() {
        findings.push(jobs(green));
    }
    findings.extend(routes::ways_in(look));
    findings
}

/// Which server green is.
pub(super) fn green_is_restored(blue: &ServerSurvey, green: &ServerSurvey) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(if blue.system_identifier != green.system_identifier {
        let seen = "Green was not restored from a backup of this blue: their system identifiers differ.";
        refused("restored", seen, "name the server that `greenlight restore` made in `green.url`")
    } else if green.in_recovery {
        let seen = "Green stands in recovery.";
        refused("restored", seen, "look at it, and open it with `greenlight restore --promote`")
    } else if green.timeline == blue.timeline {
        let seen =
            format!("Green is on timeline {}, as blue is: it was never promoted, or `green.url` names blue.", green.timeline);
        refused("restored", seen, "name the server that `greenlight restore` made in `green.url`")
    } else {
        fine("restored", format!("Green is a copy of blue, on timeline {} of its own.", green.timeline))
    });
    if green.database != blue.database {
        let seen = format!("`blue.url` names database `{}`, `green.url` names `{}`.", blue.database, green.database);
        findings.push(refused("same-database", seen, "name one database in both"));
    }
    findings
}

fn later_writes() -> Finding {
    let seen = "What blue took after the point to which green was restored is not on green, and stays on blue.";
    let consequence = "applications do not see it any more once they are moved. Blue is left closed for writes and readable: `greenlight \
                       salvage` finds those rows, and applies them to green by table";
    needs_accept("later-writes", seen, consequence)
}

/// A restore turns them off, so that nothing on the copy acts as if it were the server.
fn jobs(green: &ServerSurvey) -> Finding {
    if green.logical_workers_max == 0 {
        let seen = "Green archives nowhere, subscribes to nothing and runs no jobs, as `greenlight restore` left it.";
        let consequence = "until `archive_mode`, `max_logical_replication_workers`, `cron.launch_active_jobs` and \
                           `synchronous_standby_names` are set on it again, there is no point-in-time recovery of green";
        return needs_accept("restored-settings", seen, consequence);
    }
    fine("restored-settings", "Green may subscribe and run jobs again.")
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::plan::Strategy;

    fn world(change: impl FnOnce(&mut World)) -> World {
        World::with(|world| {
            world.input.strategy = Strategy::Restored;
            world.input.migrations.clear();
            world.survey.shadow = Err("nothing is migrated".to_owned());
            (world.green().in_recovery, world.green().timeline) = (false, 2);
            change(world);
        })
    }

    #[test]
    fn a_restored_server_is_told_from_any_other() {
        assert_answers(&world(|_| ()), "restored", "fine");
        assert_answers(&world(|world| world.green().in_recovery = true), "restored", "refused");
        assert_answers(&world(|world| world.green().timeline = world.blue().timeline), "restored", "refused");
        assert_answers(&world(|world| world.green().system_identifier = 7), "restored", "refused");
        assert_answers(&world(|world| world.green().database = "other".to_owned()), "same-database", "refused");
    }

    #[test]
    fn what_is_lost_needs_a_word_and_nothing_else_is_asked() {
        let asked = world(|_| ());
        assert_answers(&asked, "later-writes", "needs_accept");
        let plan = world(|world| world.input.accept = vec!["later-writes".to_owned()]).plan();
        assert_eq!(plan.obstacles().count(), 0, "{:?}", plan.findings);
        assert_answers(&world(|world| world.green().logical_workers_max = 0), "restored-settings", "needs_accept");
    }
}

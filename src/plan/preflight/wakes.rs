//! What a promoted green wakes, since it was copied from blue: subscriptions, jobs, archiving, triggers on DDL.

use super::{Look, consumers, fine, handled, needs_accept, refused};
use crate::plan::figures::{count, few};
use crate::plan::{Finding, ServerSurvey, SnapshotSpec, StepName, StoreSpec, WalSpec};

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = subscriptions(look.blue());
    findings.push(cron(look.blue(), look.green()));
    findings.push(archive_of_green(look));
    findings.push(archive_of_blue(look));
    findings.extend(event_triggers(look.blue()));
    findings
}

fn subscriptions(blue: &ServerSurvey) -> Vec<Finding> {
    let findings: Vec<Finding> = blue
        .subscriptions
        .iter()
        .map(|subscription| {
            let (name, code) = (&subscription.name, format!("inherited-subscriptions:{}", subscription.name));
            if !subscription.enabled {
                let seen = format!("Green inherits blue's disabled subscription `{name}`.");
                return handled(code, seen, StepName::AttachGreen, "taken off its slot on green, so that it can never disturb blue's");
            }
            let consequence = "green's copy is disabled as soon as green is promoted. Blue's goes on: what it brings reaches green by way of \
                               blue before the window, and blue alone after it, until you move it by hand";
            needs_accept(code, format!("Blue subscribes to somebody else (`{name}`), and green inherits that."), consequence)
        })
        .collect();
    if findings.is_empty() {
        return vec![fine("inherited-subscriptions", "Blue has no subscription that green would inherit.")];
    }
    findings
}

/// Jobs are started by green too from its promotion on.
fn cron(blue: &ServerSurvey, green: Option<&ServerSurvey>) -> Finding {
    let starts_jobs = green.unwrap_or(blue);
    if !starts_jobs.shared_preload_libraries.contains("pg_cron") && blue.cron_jobs.is_empty() {
        return fine("pg-cron", "No pg_cron is at work.");
    }
    let kept_in = blue.setting("cron.database_name");
    let seen = if !blue.cron_jobs.is_empty() {
        format!("pg_cron has {} here: {}.", count(blue.cron_jobs.len(), "job"), few(&blue.cron_jobs))
    } else if kept_in.is_empty() || kept_in == blue.database {
        return fine("pg-cron", "pg_cron is loaded and has no job in this database.");
    } else {
        format!("pg_cron keeps its jobs in database `{kept_in}`, where they cannot be seen from here.")
    };
    let off = starts_jobs.setting("cron.launch_active_jobs") == "off";
    let consequence = if off {
        "`cron.launch_active_jobs` is off on green: set it on there, and off on blue, after the window"
    } else {
        "green starts them too as soon as it is promoted, and blue goes on after the window: the fence refuses what writes to tables, \
         and not what else they do. Set `cron.launch_active_jobs = off` on green before the run, and swap it after the window"
    };
    needs_accept("pg-cron", seen, consequence)
}

/// The command or library that archives, where there is one that keeps anything.
fn archives(server: &ServerSurvey) -> Option<&str> {
    if server.archive_mode == "off" {
        return None;
    }
    let library = server.setting("archive_library");
    let how = if library.is_empty() { server.archive_command.trim() } else { library };
    (!["", "(disabled)", "true", "/bin/true", ":"].contains(&how)).then_some(how)
}

/// Two timelines in one archive make a later recovery to the latest follow the wrong one.
fn archive_of_green(look: &Look<'_>) -> Finding {
    let (blue, green, code) = (look.blue(), look.green(), "green-archive");
    // Greenlight's own pg_receivewal needs nothing of the server.
    let by_server = |spec: &SnapshotSpec| spec.store != StoreSpec::Basebackup { wal: WalSpec::Receive };
    if look.input.green_snapshot.as_ref().is_some_and(by_server) && green.and_then(archives).is_none() {
        return refused(
            code,
            "Green's backups are wanted, and it would not archive its WAL.",
            "set `archive_mode = on` on green, which needs a restart, and an `archive_command`; or write `wal: receive`",
        );
    }
    let Some(green) = green else {
        let consequence = "nobody archives from the window on, until you set green's archive up";
        return match archives(blue) {
            None => fine(code, "Green will not archive."),
            Some(_) => needs_accept(code, "The standby is made without an archive of its own, and blue has one.", consequence),
        };
    };
    match (archives(green), archives(blue)) {
        (None, None) => fine(code, "Neither server archives its WAL."),
        (None, Some(_)) => {
            let consequence = "nobody archives from the window on, until you set green's archive up";
            needs_accept(code, "Blue archives its WAL, and green will not.", consequence)
        }
        (Some(of_green), Some(of_blue)) if of_green == of_blue => refused(
            code,
            format!(
                "Green archives as blue does (`{of_green}`): after its promotion two timelines would share one archive, and a recovery \
                     of blue to the latest would follow green's."
            ),
            "give green an `archive_command` with an archive of its own, and reload it",
        ),
        (Some(of_green), _) if look.input.green_snapshot.is_some() => {
            fine(code, format!("Green archives its WAL by `{of_green}`, once it serves."))
        }
        (Some(of_green), _) => {
            let consequence = "after its promotion green writes a timeline of its own there; if that is blue's archive, a recovery of blue \
                               to the latest would follow green's";
            needs_accept(code, format!("Green archives its WAL by `{of_green}`."), consequence)
        }
    }
}

/// The restore point is a name in blue's log: of use only where the log is kept.
fn archive_of_blue(look: &Look<'_>) -> Finding {
    let blue = look.blue();
    if look.input.snapshot.is_some() {
        let how = "WAL is seen to reach the archive before anything is changed, and the restore point with it";
        return handled("restore-point", "The playbook says where blue's backups and WAL are.", StepName::Snapshot, how);
    }
    let kept = archives(blue).is_some() || blue.standbys.iter().any(consumers::receives_only);
    if kept {
        let how = "a restore point is named before anything is changed; that a base backup is there cannot be seen from here";
        return handled("restore-point", "Blue's WAL is archived.", StepName::PrepareBlue, how);
    }
    let consequence = "the restore point cannot be recovered to: the ways back are the run's own, and whatever backup you have";
    needs_accept("no-archive", "Nothing archives blue's WAL.", consequence)
}

fn event_triggers(blue: &ServerSurvey) -> Vec<Finding> {
    let findings = blue.event_triggers.iter().map(|name| {
        let consequence =
            "it fires for the DDL of the run on both servers and for the migration on green, with Greenlight's rights, and can \
             refuse or change it; where it is enabled ALWAYS, before PostgreSQL 17, it can also read the connection string of the \
             run's subscription";
        needs_accept(format!("event-triggers:{name}"), format!("Blue has an event trigger `{name}`."), consequence)
    });
    let findings: Vec<Finding> = findings.collect();
    if findings.is_empty() { vec![fine("event-triggers", "No event trigger fires on DDL.")] } else { findings }
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::plan::{GreenSurvey, SubscriptionSurvey};

    fn subscription(enabled: bool) -> World {
        World::with(|w| w.blue().subscriptions.push(SubscriptionSurvey { name: "prices".to_owned(), enabled }))
    }

    #[test]
    fn a_subscription_that_green_inherits_is_stopped_and_blues_is_said() {
        assert_answers(&World::new(), "inherited-subscriptions", "fine");
        assert_answers(&subscription(false), "inherited-subscriptions:prices", "handled");
        assert_answers(&subscription(true), "inherited-subscriptions:prices", "needs_accept");
    }

    #[test]
    fn jobs_that_would_run_twice_need_a_word() {
        assert_answers(&World::new(), "pg-cron", "fine");
        assert_answers(&World::with(|w| w.blue().cron_jobs = vec!["job 1 (* * * * *)".to_owned()]), "pg-cron", "needs_accept");
        let elsewhere = |w: &mut World| {
            w.green().shared_preload_libraries = "pg_cron".to_owned();
            w.blue().set("cron.database_name", "postgres");
        };
        assert_answers(&World::with(elsewhere), "pg-cron", "needs_accept");
        assert_answers(&World::with(|w| w.green().shared_preload_libraries = "pg_cron".to_owned()), "pg-cron", "fine");
    }

    fn archiving(of_blue: &str, of_green: &str) -> World {
        World::with(|w| {
            for (server, command) in [(&mut w.survey.blue, of_blue), (w.survey.green.standby_mut(), of_green)] {
                server.archive_mode = if command.is_empty() { "off" } else { "on" }.to_owned();
                server.archive_command = command.to_owned();
            }
        })
    }

    #[test]
    fn an_archive_that_both_would_write_to_is_refused() {
        assert_answers(&archiving("", ""), "green-archive", "fine");
        assert_answers(&archiving("cp %p /a/%f", "cp %p /a/%f"), "green-archive", "refused");
        assert_answers(&archiving("cp %p /a/%f", "cp %p /b/%f"), "green-archive", "needs_accept");
        assert_answers(&archiving("cp %p /a/%f", ""), "green-archive", "needs_accept");
        assert_answers(&archiving("cp %p /a/%f", "/bin/true"), "green-archive", "needs_accept");
        assert_answers(&archiving("", "/bin/true"), "green-archive", "fine");
        let mut to_be_made = archiving("cp %p /a/%f", "");
        to_be_made.survey.green = GreenSurvey::ToBeMade { problems: Vec::new() };
        assert_answers(&to_be_made, "green-archive", "needs_accept");
    }

    #[test]
    fn a_restore_point_without_an_archive_needs_a_word() {
        assert_answers(&archiving("", ""), "no-archive", "needs_accept");
        assert_answers(&archiving("cp %p /a/%f", ""), "no-archive", "none");
        assert_answers(&archiving("cp %p /a/%f", ""), "restore-point", "handled");
    }

    #[test]
    fn a_trigger_on_ddl_needs_a_word() {
        assert_answers(&World::new(), "event-triggers", "fine");
        assert_answers(
            &World::with(|w| w.blue().event_triggers.push("audit".to_owned())),
            "event-triggers:audit",
            "needs_accept",
        );
    }
}

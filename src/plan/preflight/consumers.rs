//! Others who read from blue or green, and whom the run does not move.

use super::{Look, fine, handled, needs_accept, refused};
use crate::plan::figures::count;
use crate::plan::{Finding, PREFIX, ServerSurvey, StandbySurvey, StepName, WAL_PREFIX};

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = logical_slots(look.blue());
    findings.extend(other_standbys(look.blue(), look.green()));
    findings.extend(look.green().map(of_green).unwrap_or_default());
    findings.extend(look.green().and_then(|green| awaited_by_failover_slots(look.blue(), green)));
    findings.extend(other_databases(look.blue()));
    findings.push(publications(look.blue()));
    findings
}

fn logical_slots(blue: &ServerSurvey) -> Vec<Finding> {
    let others = blue
        .slots
        .iter()
        .filter(|slot| slot.logical && slot.database.as_ref() == Some(&blue.database) && !slot.name.starts_with(PREFIX));
    let findings: Vec<Finding> = others
        .map(|slot| {
            let seen = format!("Logical slot `{}` on blue belongs to another consumer.", slot.name);
            let consequence = "the slot stays on blue: its consumer sees green's writes by way of blue during the soak, and nothing \
                               after `finish`, unless it is moved by hand";
            needs_accept(format!("other-logical-slots:{}", slot.name), seen, consequence)
        })
        .collect();
    if findings.is_empty() {
        return vec![fine("other-logical-slots", "Nobody else reads blue's log logically in this database.")];
    }
    findings
}

fn other_standbys(blue: &ServerSurvey, green: Option<&ServerSurvey>) -> Vec<Finding> {
    let mut standbys: Vec<&StandbySurvey> = blue.standbys.iter().filter(|standby| !receives_only(standby)).collect();
    if let Some(green) = green {
        let is_green = |standby: &&StandbySurvey| match &green.upstream_slot {
            Some(_) => standby.slot == green.upstream_slot,
            None => Some(&standby.application_name) == green.upstream_name.as_ref(),
        };
        if let Some(at) = standbys.iter().position(is_green) {
            standbys.remove(at);
        }
    }
    let findings: Vec<Finding> = standbys
        .into_iter()
        .map(|standby| {
            let name = standby.slot.as_ref().unwrap_or(&standby.application_name);
            let at = standby.client_addr.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
            let seen = format!("Standby `{name}`{at} follows blue.");
            let consequence = "it goes on following blue: it is as fresh as blue during the soak, and of no use after `finish` until it \
                               is rebuilt from green";
            needs_accept(format!("other-standbys:{name}"), seen, consequence)
        })
        .collect();
    if findings.is_empty() { vec![fine("other-standbys", "Blue has no other standby.")] } else { findings }
}

/// From PostgreSQL 17 on, consumers of failover slots get nothing that the standbys named in this setting have not got first.
fn awaited_by_failover_slots(blue: &ServerSurvey, green: &ServerSurvey) -> Option<Finding> {
    let awaited = blue.setting("synchronized_standby_slots");
    let slot = green.upstream_slot.as_deref().filter(|slot| awaited.split(',').any(|name| name.trim() == *slot))?;
    let seen = format!(
        "Blue's `synchronized_standby_slots` names green's slot `{slot}`, which is dropped once green follows logically: consumers of \
         failover slots would wait for it for ever."
    );
    let remedy = "take it out for the time of the run: `ALTER SYSTEM SET synchronized_standby_slots = <the others, or ''>; SELECT \
                  pg_reload_conf()`";
    Some(refused("synchronized-standby-slots", seen, remedy))
}

/// Takes the log away for an archive, and serves nobody.
pub(super) fn receives_only(standby: &StandbySurvey) -> bool {
    let name = standby.application_name.as_str();
    // A store's own.
    let ours = [Some(name), standby.slot.as_deref()].into_iter().flatten().any(|name| name.starts_with(WAL_PREFIX));
    ours || ["pg_receivewal", "barman", "pgbackrest", "wal-g", "walg"].iter().any(|receiver| name.starts_with(receiver))
}

fn of_green(green: &ServerSurvey) -> Vec<Finding> {
    let mut findings = Vec::new();
    for slot in green.slots.iter().filter(|slot| slot.logical && !slot.name.starts_with(PREFIX)) {
        let seen = format!("Green has a logical slot `{}`.", slot.name);
        let consequence = "it outlives the promotion and keeps green's WAL until somebody reads from it or drops it";
        findings.push(needs_accept(format!("green-logical-slots:{}", slot.name), seen, consequence));
    }
    for standby in &green.standbys {
        let name = standby.slot.as_ref().unwrap_or(&standby.application_name);
        let consequence = "it follows green through the promotion, and shows the migrated schema before the window";
        findings.push(needs_accept(format!("green-standbys:{name}"), format!("Standby `{name}` follows green."), consequence));
    }
    if green.client_sessions > 0 {
        let seen = format!("Green has {} of others.", count(green.client_sessions as usize, "session"));
        let how = "ended at the promotion; new ones may read, and meet the migrated schema before the window";
        findings.push(handled("green-sessions", seen, StepName::AttachGreen, how));
    }
    findings
}

fn other_databases(blue: &ServerSurvey) -> Vec<Finding> {
    let findings = blue.other_databases.iter().map(|name| {
        let consequence = "only the run's database is replicated once green is promoted: green's copy of this one stays as it was then, \
                           and applications that use it stay on blue";
        needs_accept(format!("other-databases:{name}"), format!("Blue also serves database `{name}`."), consequence)
    });
    let findings: Vec<Finding> = findings.collect();
    if findings.is_empty() { vec![fine("other-databases", "The server serves no other database.")] } else { findings }
}

fn publications(blue: &ServerSurvey) -> Finding {
    if blue.publications.is_empty() {
        return fine("publications", "Blue has no publication of its own.");
    }
    fine(
        "publications",
        format!("Blue has {} of its own; they are left as they are.", count(blue.publications.len(), "publication")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::plan::{SlotSurvey, StandbySurvey};

    fn slot(name: &str, database: &str) -> SlotSurvey {
        SlotSurvey { name: name.to_owned(), logical: true, active: true, database: Some(database.to_owned()), retained_bytes: 0 }
    }

    fn standby(name: &str) -> StandbySurvey {
        StandbySurvey {
            application_name: name.to_owned(),
            slot: None,
            client_addr: Some("10.0.0.3".to_owned()),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
        }
    }

    #[test]
    fn another_reader_of_the_log_needs_a_word() {
        assert_answers(&World::new(), "other-logical-slots", "fine");
        assert_answers(
            &World::with(|w| w.blue().slots.push(slot("debezium", "shop"))),
            "other-logical-slots:debezium",
            "needs_accept",
        );
        assert_answers(&World::with(|w| w.blue().slots.push(slot("debezium", "crm"))), "other-logical-slots", "fine");
        assert_answers(&World::with(|w| w.green().slots.push(slot("etl", "shop"))), "green-logical-slots:etl", "needs_accept");
        assert_answers(&World::new(), "green-logical-slots:etl", "none");
    }

    #[test]
    fn a_slot_that_consumers_of_failover_slots_wait_for_is_not_dropped_under_them() {
        let awaits = |names: &str| {
            let names = names.to_owned();
            World::with(move |w| {
                w.green().upstream_slot = Some("green_slot".to_owned());
                w.blue().settings.insert("synchronized_standby_slots".to_owned(), names);
            })
        };
        assert_answers(&awaits("other, green_slot"), "synchronized-standby-slots", "refused");
        assert_answers(&awaits("other"), "synchronized-standby-slots", "none");
        assert_answers(&awaits(""), "synchronized-standby-slots", "none");
    }

    #[test]
    fn another_standby_needs_a_word_and_a_mere_receiver_does_not() {
        assert_answers(&World::new(), "other-standbys", "fine");
        assert_answers(&World::with(|w| w.blue().standbys.push(standby("replica2"))), "other-standbys:replica2", "needs_accept");
        assert_answers(&World::with(|w| w.blue().standbys.push(standby("pg_receivewal"))), "other-standbys", "fine");
        assert_answers(&World::with(|w| w.blue().standbys.push(standby("greenlight_wal_shop"))), "other-standbys", "fine");
        assert_answers(&World::with(|w| w.green().standbys.push(standby("below"))), "green-standbys:below", "needs_accept");
        assert_answers(&World::new(), "green-standbys:below", "none");
    }

    #[test]
    fn readers_on_green_are_said() {
        assert_answers(&World::new(), "green-sessions", "none");
        assert_answers(&World::with(|w| w.green().client_sessions = 3), "green-sessions", "handled");
    }

    #[test]
    fn another_database_needs_a_word() {
        assert_answers(&World::new(), "other-databases", "fine");
        assert_answers(&World::with(|w| w.blue().other_databases.push("crm".to_owned())), "other-databases:crm", "needs_accept");
        assert_answers(&World::with(|w| w.blue().publications.push("cdc".to_owned())), "publications", "fine");
    }
}

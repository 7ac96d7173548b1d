//! Room on both servers for what the run needs: slots, senders, workers, origins, locks.

use super::{Look, fine, refused};
use crate::plan::figures::count;
use crate::plan::{Finding, ServerSurvey};
use crate::word::Side;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let makes_standby = look.green().is_none();
    let mut findings = Vec::new();
    for (side, server) in look.servers() {
        findings.push(wal_level(side, server));
        findings.extend(rooms(side, server, makes_standby && side == Side::Blue));
    }
    findings.extend(locks(look));
    findings
}

fn wal_level(side: Side, server: &ServerSurvey) -> Finding {
    let code = format!("wal-level:{side}");
    if server.wal_level == "logical" {
        return fine(code, format!("`wal_level` is logical on {side}."));
    }
    let seen = format!("`wal_level` is `{}` on {side}; both flows, there and back, are logical.", server.wal_level);
    refused(code, seen, format!("`ALTER SYSTEM SET wal_level = 'logical'` on {side}, and restart it"))
}

/// One limited thing of a server.
struct Room {
    name: &'static str,
    setting: &'static str,
    max: u32,
    used: u32,
    needed: u32,
}

fn rooms(side: Side, server: &ServerSurvey, makes_standby: bool) -> Vec<Finding> {
    let slots_used = u32::try_from(server.slots.len()).unwrap_or(u32::MAX);
    let origins = if server.major() >= 18 { "max_active_replication_origins" } else { "max_replication_slots" };
    let rooms = [
        Room {
            name: "slots",
            setting: "max_replication_slots",
            max: server.slots_max,
            used: slots_used,
            needed: 1 + u32::from(makes_standby),
        },
        // A base backup has two: one for the files, one for the log.
        Room {
            name: "senders",
            setting: "max_wal_senders",
            max: server.senders_max,
            used: server.senders_used,
            needed: if makes_standby { 2 } else { 1 },
        },
        Room { name: "origins", setting: origins, max: server.origins_max, used: server.origins_used, needed: 1 },
        Room {
            name: "apply-workers",
            setting: "max_logical_replication_workers",
            max: server.logical_workers_max,
            used: server.logical_workers_used,
            needed: 1,
        },
        // Beside the apply workers runs their launcher.
        Room {
            name: "worker-processes",
            setting: "max_worker_processes",
            max: server.workers_max,
            used: server.logical_workers_used + 1,
            needed: 1,
        },
    ];
    rooms.iter().map(|room| has_room(side, room)).collect()
}

fn has_room(side: Side, room: &Room) -> Finding {
    let Room { name, setting, max, used, needed } = room;
    let code = format!("{name}:{side}");
    let seen = format!("`{setting}` is {max} on {side}, {used} in use, {needed} more needed.");
    if used + needed <= *max {
        return fine(code, seen);
    }
    refused(code, seen, format!("`ALTER SYSTEM SET {setting} = {}` on {side}, and restart it", used + needed))
}

/// What was counted: CREATE SUBSCRIPTION and REFRESH lock each table of the publication on the side that subscribes, green
/// for the way there and blue for the way back, and DROP PUBLICATION locks each of its entries on the side that publishes:
/// one lock a table and one for the marker, in one transaction. The publication's tables are set in batches and the fence's
/// triggers one by one, so that neither counts. Refused and not left to a try: green would be promoted by then.
fn locks(look: &Look<'_>) -> Vec<Finding> {
    let needed = look.published().count() as u64 + 1;
    let servers = look.servers().into_iter().filter(|(_, server)| needed > server.locks_max);
    servers
        .map(|(side, server)| {
            let seen = format!(
                "A subscription locks its {} in one transaction; {side}'s lock table is made for {} objects.",
                count(usize::try_from(needed).unwrap_or(usize::MAX), "table"),
                server.locks_max
            );
            let times = needed.div_ceil(server.locks_max.max(1));
            let remedy = format!(
                "raise `max_locks_per_transaction` on {side} to {} times what it is, and restart it; green before blue, since a \
                 standby needs at least its primary's value",
                times.max(2)
            );
            refused(format!("locks:{side}"), seen, remedy)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers, flow};
    use crate::plan::GreenSurvey;

    #[test]
    fn both_servers_must_write_a_logical_log() {
        for code in ["wal-level:blue", "wal-level:green"] {
            assert_answers(&World::new(), code, "fine");
        }
        assert_answers(&World::with(|w| w.blue().wal_level = "replica".to_owned()), "wal-level:blue", "refused");
        assert_answers(&World::with(|w| w.green().wal_level = "replica".to_owned()), "wal-level:green", "refused");
    }

    #[test]
    fn whatever_is_used_up_is_refused() {
        type Fill = fn(&mut World);
        let cases: [(&str, Fill); 10] = [
            ("slots:blue", |w| w.blue().slots_max = 1),
            ("slots:green", |w| w.green().slots_max = 0),
            ("senders:blue", |w| w.blue().senders_used = 10),
            ("senders:green", |w| w.green().senders_max = 0),
            ("origins:blue", |w| w.blue().origins_used = 10),
            ("origins:green", |w| w.green().origins_used = 10),
            ("apply-workers:blue", |w| w.blue().logical_workers_max = 0),
            ("apply-workers:green", |w| w.green().logical_workers_used = 4),
            ("worker-processes:blue", |w| w.blue().workers_max = 1),
            ("worker-processes:green", |w| w.green().workers_max = 1),
        ];
        for (code, fill) in cases {
            assert_answers(&World::new(), code, "fine");
            assert_answers(&World::with(fill), code, "refused");
        }
    }

    #[test]
    fn a_standby_that_is_to_be_made_needs_a_slot_and_a_sender_more() {
        let with = |slots, senders| {
            World::with(|w| {
                w.survey.green = GreenSurvey::ToBeMade { problems: Vec::new() };
                w.blue().slots_max = slots;
                w.blue().senders_max = senders;
            })
        };
        assert_answers(&with(3, 10), "slots:blue", "fine");
        assert_answers(&with(2, 10), "slots:blue", "refused");
        assert_answers(&with(3, 3), "senders:blue", "fine");
        assert_answers(&with(3, 2), "senders:blue", "refused");
    }

    #[test]
    fn a_subscription_of_more_tables_than_locks_is_refused() {
        // One table and the marker.
        let room = |blue, green| {
            World::with(|w| {
                w.blue().locks_max = blue;
                w.green().locks_max = green;
            })
        };
        for code in ["locks:blue", "locks:green"] {
            assert_answers(&World::new(), code, "none");
            assert_answers(&room(2, 2), code, "none");
        }
        assert_answers(&room(1, 2), "locks:blue", "refused");
        assert_answers(&room(2, 1), "locks:green", "refused");
    }

    #[test]
    fn ten_thousand_tables_are_more_than_a_server_is_made_for_by_default() {
        let world = World::with(|w| {
            w.tables.extend((0..10_000).map(|at| flow(&format!("table_{at}"))));
        });
        let finding = world.finding("locks:green").unwrap();
        assert_eq!(
            finding.seen,
            "A subscription locks its 10,002 tables in one transaction; green's lock table is made for 6400 objects."
        );
    }
}

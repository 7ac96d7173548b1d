//! What a slot keeps, and whether the disk and the server's own limits leave it room: blue's health outranks the run.

use super::{Look, fine, handled, refused};
use crate::plan::figures::{bytes, few};
use crate::plan::{Finding, ServerSurvey, StepName};
use crate::word::{RelationName, Side};
use std::collections::BTreeSet;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let limit = look.input.limits.wal_kept_bytes_max;
    let mut findings = vec![disk_of_blue(look.blue(), limit)];
    findings.extend(disk_of_green(look));
    for (side, server) in look.servers() {
        findings.push(slot_limit(side, server, limit));
        findings.extend(idle_timeout(side, server));
    }
    findings.extend(look.green().map(|green| physical_slot(look.blue(), green)));
    findings
}

fn disk_of_blue(blue: &ServerSurvey, limit: u64) -> Finding {
    let gives_up = format!("the run gives its slot up, on record, when it keeps {} of WAL", bytes(limit));
    match blue.disk_free_bytes {
        Some(free) if free < limit => {
            let seen = format!("Blue's disk has {} free; the run may let {} of WAL gather there.", bytes(free), bytes(limit));
            refused("disk:blue", seen, "free space on blue's disk, or lower `limits.wal_kept`")
        }
        Some(free) => handled("disk:blue", format!("Blue's disk has {} free.", bytes(free)), StepName::PublishBlue, gives_up),
        None => {
            let seen = format!("Blue's disk cannot be seen from here. See that it has more than {} free.", bytes(limit));
            handled("disk:blue", seen, StepName::PublishBlue, gives_up)
        }
    }
}

/// A table that is rewritten stands on the disk twice until its transaction ends, and once more in the log.
fn disk_of_green(look: &Look<'_>) -> Option<Finding> {
    let shadow = look.survey.shadow.as_ref().ok()?;
    let rewritten: BTreeSet<&RelationName> = shadow.statements.iter().flat_map(|statement| &statement.rewrites).collect();
    let sizes = look.blue().table_sizes.iter().filter(|size| rewritten.contains(&size.table));
    let (names, total) = sizes.fold((Vec::new(), 0), |(mut names, total), size| {
        names.push(&size.table);
        (names, total + size.bytes)
    });
    if names.is_empty() {
        return None;
    }
    let need = total * 2;
    let seen = format!("The migration rewrites {} ({} in all) on green.", few(&names), bytes(total));
    Some(match look.green().and_then(|green| green.disk_free_bytes) {
        Some(free) if free < need => refused(
            "disk:green",
            format!("{seen} Its disk has {} free.", bytes(free)),
            format!("make room for {} on green", bytes(need)),
        ),
        Some(free) => fine("disk:green", format!("{seen} Its disk has {} free.", bytes(free))),
        None => {
            fine("disk:green", format!("{seen} See that its disk, which cannot be seen from here, has {} free.", bytes(need)))
        }
    })
}

/// The server would throw the slot's WAL away before the run's own limit is reached, and with it the sync.
fn slot_limit(side: Side, server: &ServerSurvey, limit: u64) -> Finding {
    let code = format!("slot-wal-keep:{side}");
    match server.slot_wal_keep_bytes_max {
        Some(kept) if kept < limit => {
            let seen = format!(
                "`max_slot_wal_keep_size` is {} on {side}, less than the {} that `limits.wal_kept` lets the run's slot keep.",
                bytes(kept),
                bytes(limit)
            );
            let remedy = format!(
                "set `max_slot_wal_keep_size` to at least {} on {side} and reload it, or lower `limits.wal_kept` to {}",
                bytes(limit),
                bytes(kept)
            );
            refused(code, seen, remedy)
        }
        Some(kept) => fine(code, format!("`max_slot_wal_keep_size` is {} on {side}.", bytes(kept))),
        None => fine(code, format!("`max_slot_wal_keep_size` sets no limit on {side}; `limits.wal_kept` does.")),
    }
}

/// The slot of the way back is not read from until the window, which may be days away.
fn idle_timeout(side: Side, server: &ServerSurvey) -> Option<Finding> {
    let timeout = server.setting("idle_replication_slot_timeout");
    (!["", "0"].contains(&timeout)).then(|| {
        let seen = format!("`idle_replication_slot_timeout` is {timeout} s on {side}: a slot that waits longer is invalidated.");
        let remedy = format!("set `idle_replication_slot_timeout` to 0 on {side} for the time of the run, and reload it");
        refused(format!("idle-slot-timeout:{side}"), seen, remedy)
    })
}

fn physical_slot(blue: &ServerSurvey, green: &ServerSurvey) -> Finding {
    let on_blue = |name: &&String| blue.slots.iter().any(|slot| !slot.logical && slot.name == **name);
    let Some(name) = green.upstream_slot.as_ref().filter(on_blue) else {
        return fine("green-slot", "Green follows blue without a physical slot on blue, so none is left to keep its WAL.");
    };
    let feedback =
        if green.setting("hot_standby_feedback") == "on" { ", and blue's dead rows (`hot_standby_feedback`)," } else { "" };
    let seen =
        format!("Green follows blue through the physical slot `{name}`, which would keep blue's WAL{feedback} for ever after.");
    handled("green-slot", seen, StepName::SubscribeGreen, "dropped on blue once green follows logically")
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::migrate::StatementReport;
    use crate::word::RelationName;

    #[test]
    fn wal_must_have_room_on_blue() {
        assert_answers(&World::with(|w| w.blue().disk_free_bytes = Some(1 << 40)), "disk:blue", "handled");
        assert_answers(&World::with(|w| w.blue().disk_free_bytes = None), "disk:blue", "handled");
        assert_answers(&World::with(|w| w.blue().disk_free_bytes = Some(1 << 20)), "disk:blue", "refused");
    }

    #[test]
    fn a_rewrite_must_have_room_on_green() {
        let rewriting = |free| {
            World::with(|w| {
                let statement = StatementReport {
                    rewrites: vec![RelationName::new("public", "orders")],
                    ..World::statement("alter table orders alter id type bigint")
                };
                w.survey.shadow.as_mut().unwrap().statements.push(statement);
                w.green().disk_free_bytes = free;
            })
        };
        assert_answers(&World::new(), "disk:green", "none");
        assert_answers(&rewriting(Some(1 << 40)), "disk:green", "fine");
        assert_answers(&rewriting(None), "disk:green", "fine");
        assert_answers(&rewriting(Some(1)), "disk:green", "refused");
    }

    #[test]
    fn a_server_that_throws_wal_away_earlier_than_the_run_is_refused() {
        assert_answers(&World::new(), "slot-wal-keep:blue", "fine");
        assert_answers(&World::with(|w| w.blue().slot_wal_keep_bytes_max = Some(1 << 50)), "slot-wal-keep:blue", "fine");
        assert_answers(&World::with(|w| w.blue().slot_wal_keep_bytes_max = Some(1 << 20)), "slot-wal-keep:blue", "refused");
        assert_answers(&World::with(|w| w.green().slot_wal_keep_bytes_max = Some(1 << 20)), "slot-wal-keep:green", "refused");
        assert_answers(&World::new(), "idle-slot-timeout:green", "none");
        let idle = World::with(|w| w.green().set("idle_replication_slot_timeout", "86400"));
        assert_answers(&idle, "idle-slot-timeout:green", "refused");
    }

    #[test]
    fn greens_physical_slot_is_dropped_by_a_step() {
        assert_answers(&World::new(), "green-slot", "handled");
        assert_answers(&World::with(|w| w.green().upstream_slot = None), "green-slot", "fine");
    }
}

//! What the migrations would do to blue while applications work on it, by what the shadow showed, and what the ways back are.

use super::{Look, fine, handled, needs_accept, refused, routes};
use crate::migrate::{Migration, ShadowReport, StatementReport};
use crate::plan::figures::{bytes, count, few};
use crate::plan::{Finding, GreenSurvey, OnFailure, StepName};
use crate::word::RelationName;
use std::collections::BTreeMap;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = vec![loss(), no_pause()];
    findings.extend(consumers(look));
    if look.input.restore_into.is_some() {
        findings.extend(way_back_by_restore(look));
        findings.extend(routes::ways_in(look));
    }
    if let Ok(shadow) = &look.survey.shadow {
        findings.extend(locks(look, shadow));
        findings.extend(way_back(look, shadow));
    }
    findings
}

fn no_pause() -> Finding {
    let seen = "No client is paused and no connection is moved: applications work on blue all the time, by the old schema and by the new one.";
    fine("write-pause", seen)
}

/// A schema does not travel by logical replication.
fn consumers(look: &Look<'_>) -> Option<Finding> {
    let (publications, subscriptions) = (look.blue().publications.iter(), look.blue().subscriptions.iter());
    let publications = publications.map(|name| format!("publication `{name}`"));
    let all: Vec<String> = publications.chain(subscriptions.map(|other| format!("subscription `{}`", other.name))).collect();
    (!all.is_empty() && !look.pending.is_empty()).then(|| {
        let consequence = "who takes these rows, or sends them, is not migrated with blue: such a flow stops at the first row that does not fit, \
                           until the other side is changed likewise";
        needs_accept("logical-replication", format!("Blue takes part in logical replication: {}.", few(&all)), consequence)
    })
}

/// What a restore would cost.
fn loss() -> Finding {
    let how = "a young backup is verified or taken, and a restore point is named, before the first statement. Recovery to that point \
               loses everything that is written after it; `greenlight salvage` finds those rows as long as blue is there";
    handled("point-in-time", "Where the down migrations do not lead back, a restore does.", StepName::Snapshot, how)
}

/// Where blue is restored to when the change fails, and what that costs.
fn way_back_by_restore(look: &Look<'_>) -> Vec<Finding> {
    let GreenSurvey::ToBeMade { problems } = &look.survey.green else { return Vec::new() };
    let remedy = "empty that place with care, or name another in `green.restore`";
    let mut findings: Vec<Finding> = problems
        .iter()
        .map(|problem| refused("restore-place", format!("Blue could not be restored: {problem}."), remedy))
        .collect();
    if findings.is_empty() {
        let how = "seen to be empty and large enough, with a backup and the log to the restore point, before the first migration";
        findings.push(handled("restore-place", "There is a place for a restored server.", StepName::ArmRestore, how));
    }
    if chosen(look).contains(&OnFailure::Restore) {
        let seen = "A change that fails is taken back by a restore, as the playbook says.";
        let consequence = "applications work on blue while the restore lasts, and are then moved to the restored server: what they wrote since                            the migrations began is not there. It stays on blue, where `greenlight salvage` finds it";
        findings.push(needs_accept("restore-loses-writes", seen, consequence));
    }
    findings
}

/// What the playbook says about failures of the migrations and after them.
fn chosen(look: &Look<'_>) -> [OnFailure; 2] {
    let of = look.input.on_failure_of;
    [of.migrate, of.validate].map(|of| of.unwrap_or(look.input.on_failure))
}

/// What a statement keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bars {
    /// Only those who write the same rows.
    Rows,
    Writers,
    Everybody,
}

impl Bars {
    fn of_lock(mode: &str) -> Option<Bars> {
        match mode {
            "AccessExclusiveLock" => Some(Bars::Everybody),
            "ShareLock" | "ShareRowExclusiveLock" | "ExclusiveLock" => Some(Bars::Writers),
            _ => None,
        }
    }

    fn whom(self) -> &'static str {
        match self {
            Bars::Rows => "keeps the rows that it writes from other writers",
            Bars::Writers => "keeps all writers away",
            Bars::Everybody => "keeps readers and writers away",
        }
    }
}

/// What one statement does to one table.
struct Act<'a> {
    statement: &'a StatementReport,
    bars: Bars,
    rewrites: bool,
    /// It is run for so many rows at a time, each time by itself.
    batch_rows: Option<u32>,
    /// Why the lock may be held for long; `None`: it is held for a moment.
    long: Option<String>,
}

/// One finding for each table that was there before and that a statement bars others from.
fn locks(look: &Look<'_>, shadow: &ShadowReport) -> Vec<Finding> {
    let mut tables: BTreeMap<&RelationName, Vec<Act<'_>>> = BTreeMap::new();
    for migration in look.pending {
        let statements: Vec<&StatementReport> =
            shadow.statements.iter().filter(|statement| statement.version == migration.version).collect();
        for (at, statement) in statements.iter().enumerate() {
            for (table, bars) in barred(statement) {
                let long = why_long(migration, &statements[at..]);
                let rewrites = statement.rewrites.contains(table);
                tables.entry(table).or_default().push(Act {
                    statement,
                    bars,
                    rewrites,
                    batch_rows: migration.batch_rows(),
                    long,
                });
            }
        }
    }
    tables.into_iter().map(|(table, acts)| lock(look, table, &acts)).collect()
}

/// The tables that were there before, each with the worst that the statement does to it.
fn barred(statement: &StatementReport) -> BTreeMap<&RelationName, Bars> {
    let mut barred: BTreeMap<&RelationName, Bars> = BTreeMap::new();
    let locked = statement.locks.iter().filter_map(|lock| Some((&lock.table, Bars::of_lock(&lock.mode)?)));
    let written = statement.writes.iter().filter(|write| ["update", "delete"].contains(&write.kind.as_str()));
    for (table, bars) in locked.chain(written.map(|write| (&write.table, Bars::Rows))) {
        let worst = barred.entry(table).or_insert(bars);
        *worst = bars.max(*worst);
    }
    barred
}

/// A lock is held until the transaction ends: of `rest`, which begins with its own statement, any may make that long.
fn why_long(migration: &Migration, rest: &[&StatementReport]) -> Option<String> {
    if migration.batch_rows().is_some() {
        return None;
    }
    let until_the_end = if migration.transactional { rest.len() } else { 1 };
    rest[..until_the_end].iter().find_map(|statement| {
        let line = format!("migration {} line {}", statement.version, statement.line);
        let scans = || reads_every_row(&statement.sql) || statement.locks.iter().any(|lock| lock.mode == "ShareLock");
        if !statement.rewrites.is_empty() {
            Some(format!("{line} rewrites {}", few(&statement.rewrites)))
        } else if !statement.writes.is_empty() {
            Some(format!("{line} writes rows"))
        } else {
            scans().then(|| format!("{line} reads every row"))
        }
    })
}

/// What PostgreSQL checks against the rows that are there. In a shadow without rows that takes no time.
fn reads_every_row(sql: &str) -> bool {
    let sql = sql.to_lowercase();
    let checks = ["set not null", "add constraint", "add check", "add foreign key", "add primary key", "add unique"];
    let others =
        ["attach partition", "validate constraint", "create index", "create unique index", "reindex", "cluster", "vacuum"];
    checks.iter().any(|part| sql.contains(part)) && !sql.contains("not valid") && !sql.contains("using index")
        || others.iter().any(|part| sql.contains(part)) && !sql.contains("concurrently")
}

fn lock(look: &Look<'_>, table: &RelationName, acts: &[Act<'_>]) -> Finding {
    let lines: Vec<String> = acts
        .iter()
        .map(|act| {
            let StatementReport { version, line, sql, .. } = act.statement;
            let rewrites = if act.rewrites { " and rewrites it" } else { "" };
            let batches = act.batch_rows.map(|rows| format!(", {} at a time", count(usize::try_from(rows).unwrap_or(0), "row")));
            let batches = batches.unwrap_or_default();
            format!("migration {version}, line {line}, {}{rewrites}{batches} (`{sql}`)", act.bars.whom())
        })
        .collect();
    let size = look.blue().table_sizes.iter().find(|size| size.table == *table);
    let size = size.map(|size| format!(" ({})", bytes(size.bytes))).unwrap_or_default();
    let (code, seen) = (format!("lock:{table}"), format!("{table}{size}: {}.", lines.join("; ")));
    let mut reasons: Vec<&str> = acts.iter().filter_map(|act| act.long.as_deref()).collect();
    reasons.dedup();
    if reasons.is_empty() {
        return fine(code, format!("{seen} For a moment, once it has the lock."));
    }
    let consequence = format!(
        "they wait until its transaction ends, and that lasts: {}. Try it on a copy with rows, split it into migrations of their own, \
         write rows in batches, build indexes CONCURRENTLY, or use the strategy `sync`",
        reasons.join("; ")
    );
    needs_accept(code, seen, consequence)
}

/// Whether the down migrations lead back.
fn way_back(look: &Look<'_>, shadow: &ShadowReport) -> Option<Finding> {
    if look.pending.is_empty() {
        return None;
    }
    let down = shadow.down.as_ref();
    if let Some(down) = down.filter(|down| down.restores) {
        return Some(fine("down-migrations", format!("Tried in the shadow: {}.", down.says)));
    }
    let why = down.map_or("there are none".to_owned(), |down| down.says.clone());
    let seen = format!("The {} of {} do not lead back: {why}.", "down migrations", count(look.pending.len(), "migration"));
    Some(if chosen(look).contains(&OnFailure::Rollback) {
        let consequence = "a run that fails after the first of them is held for a person, with blue as far migrated as it came";
        needs_accept("down-migrations", seen, consequence)
    } else {
        fine("down-migrations", format!("{seen} No failed run is taken back by them, as the playbook says."))
    })
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::migrate::{DownReport, StatementReport, TableLock, TableWrite};
    use crate::plan::{Answer, GreenSurvey, OnFailure, RestoreSpec, Strategy};
    use crate::word::RelationName;

    fn world(change: impl FnOnce(&mut World)) -> World {
        let mut world = World::new();
        world.input.strategy = Strategy::InPlace;
        world.survey.green = GreenSurvey::ToBeMade { problems: Vec::new() };
        world.survey.shadow.as_mut().unwrap().down =
            Some(DownReport { restores: true, says: "up and down lead back".to_owned() });
        change(&mut world);
        world
    }

    fn orders() -> RelationName {
        RelationName::new("public", "orders")
    }

    fn locking(sql: &str, mode: &str) -> StatementReport {
        StatementReport { locks: vec![TableLock { table: orders(), mode: mode.to_owned() }], ..World::statement(sql) }
    }

    fn of(statements: Vec<StatementReport>) -> World {
        world(|world| world.survey.shadow.as_mut().unwrap().statements = statements)
    }

    #[test]
    fn a_lock_for_a_moment_is_fine_and_one_that_lasts_needs_a_word() {
        let whole = "AccessExclusiveLock";
        let add = || locking("alter table orders add column note text", whole);
        assert_answers(&of(vec![add()]), "lock:public.orders", "fine");
        let rewrite = StatementReport { rewrites: vec![orders()], ..locking("alter table orders alter id type bigint", whole) };
        assert_answers(&of(vec![rewrite.clone()]), "lock:public.orders", "needs_accept");
        for (sql, mode, answer) in [
            ("create index on orders (note)", "ShareLock", "needs_accept"),
            ("create trigger t after insert on orders", "ShareRowExclusiveLock", "fine"),
            ("alter table orders alter note set not null", whole, "needs_accept"),
            ("alter table orders add constraint c check (note <> '') not valid", whole, "fine"),
            ("alter table orders add foreign key (c) references customers", "ShareRowExclusiveLock", "needs_accept"),
            ("alter table orders validate constraint c", "ShareUpdateExclusiveLock", "none"),
        ] {
            assert_answers(&of(vec![locking(sql, mode)]), "lock:public.orders", answer);
        }
    }

    #[test]
    fn a_short_lock_is_long_when_its_transaction_goes_on_for_long() {
        let write = |table: &str| TableWrite {
            table: RelationName::new("public", table),
            kind: "update".to_owned(),
            columns: Vec::new(),
            fires: Vec::new(),
        };
        let fill = StatementReport { line: 2, writes: vec![write("other")], ..World::statement("update other set a = 1") };
        let statements = vec![locking("alter table orders add column note text", "AccessExclusiveLock"), fill];
        let finding = of(statements.clone()).finding("lock:public.orders").unwrap();
        let Answer::NeedsAccept { consequence } = finding.answer else { panic!("{finding:?}") };
        assert!(consequence.contains("line 2 writes rows"), "{consequence}");
        let alone = world(|world| {
            world.survey.shadow.as_mut().unwrap().statements = statements;
            world.input.migrations[0].transactional = false;
        });
        assert_answers(&alone, "lock:public.orders", "fine");
        assert_answers(&alone, "lock:public.other", "needs_accept");
    }

    #[test]
    fn rows_that_are_written_in_batches_bar_others_for_a_moment() {
        let write = TableWrite { table: orders(), kind: "update".to_owned(), columns: Vec::new(), fires: Vec::new() };
        let fill = StatementReport { writes: vec![write], ..World::statement("update orders set a = 1 where :batch") };
        let world = world(|world| {
            world.survey.shadow.as_mut().unwrap().statements = vec![fill];
            world.input.migrations[0].up = "-- greenlight: batches of 500\nupdate orders set a = 1 where :batch".to_owned();
            world.input.migrations[0].transactional = false;
        });
        assert_answers(&world, "lock:public.orders", "fine");
        let seen = world.finding("lock:public.orders").unwrap().seen;
        assert!(seen.contains("500 rows at a time"), "{seen}");
    }

    #[test]
    fn a_way_down_that_does_not_lead_back_needs_a_word_unless_the_run_is_held_anyway() {
        assert_answers(&world(|_| ()), "down-migrations", "fine");
        let without = |on_failure| {
            world(|world| {
                world.survey.shadow.as_mut().unwrap().down = None;
                world.input.on_failure = on_failure;
            })
        };
        assert_answers(&without(OnFailure::Rollback), "down-migrations", "needs_accept");
        assert_answers(&without(OnFailure::Hold), "down-migrations", "fine");
    }

    #[test]
    fn a_way_back_by_restore_needs_a_place_and_a_word() {
        let restoring = |problems: Vec<String>| {
            world(|world| {
                world.input.restore_into = Some(RestoreSpec { host: None, data_dir: "/restored".into() });
                world.input.on_failure = OnFailure::Restore;
                world.survey.green = GreenSurvey::ToBeMade { problems };
            })
        };
        let good = restoring(Vec::new());
        assert_answers(&good, "restore-place", "handled");
        assert_answers(&good, "restore-loses-writes", "needs_accept");
        assert_answers(&restoring(vec!["port 5440 is taken on local".to_owned()]), "restore-place", "refused");
        let by_hand = world(|world| {
            world.input.restore_into = Some(RestoreSpec { host: None, data_dir: "/restored".into() });
        });
        assert_answers(&by_hand, "restore-loses-writes", "none");
        assert_answers(&world(|_| ()), "restore-place", "none");
    }

    #[test]
    fn others_who_replicate_from_blue_need_a_word() {
        assert_answers(&world(|_| ()), "logical-replication", "none");
        assert_answers(&world(|world| world.blue().publications.push("feed".to_owned())), "logical-replication", "needs_accept");
    }

    #[test]
    fn only_what_concerns_blue_is_looked_at_and_a_shadow_is_needed() {
        let world = world(|world| {
            world.blue().wal_level = "replica".to_owned();
            world.survey.routes.clear();
        });
        assert_eq!(world.plan().obstacles().count(), 0, "{:?}", world.findings());
        let none = self::world(|world| world.survey.shadow = Err("no programs".to_owned()));
        assert_answers(&none, "shadow", "refused");
    }
}

//! The strategy `in-place`: blue itself is migrated, and is what it was, or what it was to be, at the end.

use crate::{
    harness::{Report, Setup},
    plan::PlanKind,
    script::Script,
    sweep::{sweep, sweep_pairs},
};
use greenlight::{
    plan::{OnFailure, Strategy},
    run::{Fact, Outcome},
    word::Side,
};

fn in_place() -> PlanKind {
    PlanKind { strategy: Strategy::InPlace, ..PlanKind::default() }
}

fn with(kind: PlanKind, script: Script) -> Setup {
    Setup { kind, script, ..Setup::default() }
}

/// Blue serves, nobody was ever paused, and green was not touched.
fn check(report: &Report, migrated: u8, setup: &Setup) {
    let world = &report.world;
    assert_eq!((world.run.serving(), world.windows_opened), (Side::Blue, 0), "{}", setup.trace());
    assert_eq!((world.migrated_on_blue(), world.migrated_on_green()), (migrated, 0), "{}", setup.trace());
}

#[test]
fn a_change_in_place_ends_whole() {
    let setup = with(in_place(), Script::default());
    let plain = sweep("in place", &setup, Some(Outcome::Completed));
    check(&plain, 0b11, &setup);
    assert_eq!(plain.world.client_errors, 0);
}

#[test]
fn a_change_in_place_without_routes_ends_whole() {
    sweep("in place, no routes", &with(PlanKind { routes: 0, ..in_place() }, Script::default()), Some(Outcome::Completed));
}

#[test]
fn a_change_in_place_is_abandoned_at_its_gate() {
    let setup = with(in_place(), Script { abandon_at: Some(1), ..Script::default() });
    check(&sweep("in place, abandoned", &setup, Some(Outcome::RolledBack)), 0, &setup);
}

#[test]
fn a_migration_that_fails_is_taken_back_with_those_before_it() {
    for bit in [0b01, 0b10] {
        let setup = with(PlanKind { fails_at: Some(bit), ..in_place() }, Script::default());
        check(&sweep("in place, fails", &setup, Some(Outcome::RolledBack)), 0, &setup);
    }
}

#[test]
fn a_migration_that_fails_is_held_where_the_playbook_says_so() {
    let script = Script { retries: 1, ..Script::default() };
    let setup = with(PlanKind { fails_at: Some(0b10), on_failure: OnFailure::Hold, ..in_place() }, script);
    check(&sweep("in place, fails and is held", &setup, None), 0b01, &setup);
}

#[test]
fn what_has_no_way_back_is_held_and_not_taken_back_by_half() {
    let script = Script { retries: 1, ..Script::default() };
    let setup = with(PlanKind { fails_at: Some(0b10), has_downs: false, ..in_place() }, script);
    let report = sweep("in place, fails without a way back", &setup, None);
    check(&report, 0b01, &setup);
    assert!(report.world.run.reason.is_some_and(|reason| reason.contains("a row is in its way")));
    let first = with(PlanKind { fails_at: Some(0b01), has_downs: false, ..in_place() }, script);
    check(&sweep("in place, fails at its first", &first, Some(Outcome::RolledBack)), 0, &first);
}

#[test]
fn a_blue_that_is_not_what_was_planned_is_taken_back_or_held() {
    for (on_failure, outcome, migrated) in [(OnFailure::Rollback, Some(Outcome::RolledBack), 0), (OnFailure::Hold, None, 0b11)] {
        let setup =
            Setup { differs: true, ..with(PlanKind { on_failure, ..in_place() }, Script { retries: 1, ..Script::default() }) };
        check(&sweep("in place, differs", &setup, outcome), migrated, &setup);
    }
}

#[test]
fn a_backfill_in_batches_ends_whole_or_is_taken_back_as_far_as_it_came() {
    let in_batches = PlanKind { in_batches: true, ..in_place() };
    let setup = with(in_batches, Script::default());
    check(&sweep("in batches", &setup, Some(Outcome::Completed)), 0b11, &setup);
    let setup = with(PlanKind { fails_at: Some(0b10), ..in_batches }, Script::default());
    check(&sweep("in batches, fails half-way", &setup, Some(Outcome::RolledBack)), 0, &setup);
}

#[test]
fn a_backfill_in_batches_without_a_way_back_is_held_half_done() {
    let kind = PlanKind { fails_at: Some(0b10), has_downs: false, in_batches: true, ..in_place() };
    let script = Script { retries: 1, ..Script::default() };
    let setup = with(kind, script);
    check(&sweep("in batches, held", &setup, None), 0b01, &setup);
}

#[test]
fn each_migration_is_applied_once_and_on_record_once() {
    let report = with(in_place(), Script::default()).run();
    let applied = report.world.run.facts.iter().filter(|fact| matches!(fact, Fact::Migrated { .. }));
    assert_eq!(applied.count(), 2);
}

#[test]
fn every_pair_of_faults_in_a_change_in_place_ends_whole() {
    sweep_pairs(&with(in_place(), Script::default()), 0, 1);
}

#[test]
fn every_pair_of_faults_in_a_backfill_that_fails_half_way_ends_whole() {
    sweep_pairs(&with(PlanKind { fails_at: Some(0b10), in_batches: true, ..in_place() }, Script::default()), 0, 1);
}

#[test]
fn every_pair_of_faults_in_a_change_in_place_that_fails_ends_whole() {
    sweep_pairs(&with(PlanKind { fails_at: Some(0b10), ..in_place() }, Script::default()), 0, 1);
}

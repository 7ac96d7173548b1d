//! A restored server takes blue's place: because a change in place failed, or because a person restored it by hand.

use crate::{
    harness::Setup,
    plan::PlanKind,
    script::{Script, Trouble},
    sweep::{Tally, sweep, sweep_pairs},
};
use greenlight::{
    plan::{OnFailure, Strategy},
    run::{Fact, Outcome},
    word::Side,
};

/// A change in place that fails, and is taken back by a restore.
fn in_place() -> PlanKind {
    PlanKind {
        strategy: Strategy::InPlace,
        restores: true,
        on_failure: OnFailure::Restore,
        fails_at: Some(0b10),
        has_downs: false,
        ..PlanKind::default()
    }
}

fn by_hand() -> PlanKind {
    PlanKind { strategy: Strategy::Restored, ..PlanKind::default() }
}

fn with(kind: PlanKind, script: Script) -> Setup {
    Setup { kind, script, ..Setup::default() }
}

#[test]
fn a_change_in_place_that_fails_is_taken_back_by_a_restore() {
    let plain = sweep("taken back by a restore", &with(in_place(), Script::default()), Some(Outcome::RolledBack));
    assert_eq!((plain.world.run.serving(), plain.world.moves_to_green()), (Side::Green, 1));
    assert_eq!((plain.world.migrated_on_blue(), plain.world.migrated_on_green()), (0b01, 0));
    let restored = plain.world.run.facts.iter().filter(|fact| matches!(fact, Fact::Restored { .. }));
    assert_eq!(restored.count(), 1);
}

#[test]
fn what_is_done_in_part_is_taken_back_by_a_restore_too() {
    let setup = with(PlanKind { in_batches: true, ..in_place() }, Script::default());
    let plain = sweep("done in part", &setup, Some(Outcome::RolledBack));
    assert_eq!(plain.world.run.serving(), Side::Green);
}

#[test]
fn without_routes_the_writer_moves_all_the_same() {
    let setup = with(PlanKind { routes: 0, ..in_place() }, Script::default());
    sweep("taken back by a restore, no routes", &setup, Some(Outcome::RolledBack));
}

#[test]
fn a_change_of_which_nothing_happened_needs_no_restore() {
    let setup = with(PlanKind { fails_at: Some(0b01), ..in_place() }, Script::default());
    let plain = sweep("nothing to restore", &setup, Some(Outcome::RolledBack));
    assert_eq!((plain.world.run.serving(), plain.world.windows_opened), (Side::Blue, 0));
}

#[test]
fn a_change_in_place_with_a_place_for_a_restore_ends_whole_without_one() {
    let setup = with(PlanKind { fails_at: None, ..in_place() }, Script::default());
    let plain = sweep("in place, a restore armed", &setup, Some(Outcome::Completed));
    assert_eq!((plain.world.run.serving(), plain.world.migrated_on_blue()), (Side::Blue, 0b11));
}

#[test]
fn what_the_assertions_refuse_is_taken_back_by_a_restore() {
    let kind = PlanKind { fails_at: None, ..in_place() };
    let setup = Setup { differs: true, ..with(kind, Script::default()) };
    let plain = sweep("blue is not as planned", &setup, Some(Outcome::RolledBack));
    assert_eq!((plain.world.run.serving(), plain.world.migrated_on_blue()), (Side::Green, 0b11), "{}", setup.trace());
}

#[test]
fn a_leak_in_blues_fence_moves_nobody_to_a_restored_green() {
    for trouble in [Trouble::Leak(Side::Blue), Trouble::PreparedInWindow, Trouble::StubbornSequences(Side::Green)] {
        let script = Script { trouble: Some(trouble), patience_secs: 60, ..Script::default() };
        let setup = with(by_hand(), script);
        let report = setup.run();
        assert_eq!(report.world.moves_to_green(), 0, "{trouble:?}\n{}", setup.trace());
    }
}

#[test]
fn applications_are_moved_to_a_restored_server() {
    let plain = sweep("restored", &with(by_hand(), Script::default()), Some(Outcome::Completed));
    assert_eq!((plain.world.run.serving(), plain.world.moves_to_green()), (Side::Green, 1));
    sweep("restored, no routes", &with(PlanKind { routes: 0, ..by_hand() }, Script::default()), Some(Outcome::Completed));
}

#[test]
fn a_restored_server_is_left_as_it_was_when_the_run_is_abandoned() {
    let setup = with(by_hand(), Script { abandon_at: Some(1), ..Script::default() });
    let plain = sweep("restored, abandoned", &setup, Some(Outcome::RolledBack));
    assert_eq!(plain.world.run.serving(), Side::Blue);
}

#[test]
fn a_restored_server_that_is_not_as_it_must_be_is_not_moved_to() {
    let setup = Setup { differs: true, ..with(by_hand(), Script::default()) };
    let report = setup.run();
    assert_eq!((report.outcome, report.world.moves_to_green()), (Some(Outcome::RolledBack), 0), "{}", setup.trace());
}

#[test]
fn a_restored_green_that_dies_at_any_call_can_be_left() {
    for kind in [in_place(), by_hand()] {
        let script = Script { without_green: true, green_goes_down: true, patience_secs: 60, retries: 1, ..Script::default() };
        let plain = with(kind, script).run();
        let mut tally = Tally::default();
        for at in 0..plain.points.len() {
            tally.run(Setup { green_dies_at: Some(at), ..with(kind, script) });
        }
        tally.conclude("a restored green dies", plain.points.len());
    }
}

#[test]
fn every_pair_of_faults_while_a_change_is_taken_back_by_a_restore_ends_whole() {
    sweep_pairs(&with(in_place(), Script::default()), 0, 1);
}

#[test]
fn every_pair_of_faults_while_applications_are_moved_to_a_restored_server_ends_whole() {
    sweep_pairs(&with(by_hand(), Script::default()), 0, 1);
}

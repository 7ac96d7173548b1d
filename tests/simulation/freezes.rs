//! The strategy `freeze`: blue stands still while green is promoted, migrated and compared.

use crate::{
    harness::Setup,
    plan::PlanKind,
    script::{Script, Trouble, Wish},
    sweep::{Tally, sweep, sweep_pairs},
};
use greenlight::{
    plan::{OnFailure, Strategy},
    run::{Fact, Outcome},
    word::Side,
};

fn freeze() -> PlanKind {
    PlanKind { strategy: Strategy::Freeze, ..PlanKind::default() }
}

fn finish() -> Script {
    Script { soaks: &[Wish::Finish], ..Script::default() }
}

fn with(kind: PlanKind, script: Script) -> Setup {
    Setup { kind, script, ..Setup::default() }
}

#[test]
fn a_freeze_ends_whole() {
    let plain = sweep("freeze", &with(freeze(), finish()), Some(Outcome::Completed));
    assert_eq!(plain.world.moves_to_green(), 1);
    let analyzed = |fact: &&Fact| matches!(fact, Fact::Analyzed { failed: None, .. });
    assert_eq!(plain.world.run.facts.iter().filter(analyzed).count(), 1, "once, and not with each look");
}

#[test]
fn a_freeze_awaits_a_green_that_is_behind() {
    for reads_on_blue in [false, true] {
        let setup = Setup { lag_ms: Some(300), ..with(PlanKind { reads_on_blue, ..freeze() }, finish()) };
        let report = setup.run();
        assert_eq!(report.outcome, Some(Outcome::Completed), "{}", setup.trace());
        let opened = |fact: &&Fact| matches!(fact, Fact::WindowOpened { .. });
        assert_eq!(report.world.run.facts.iter().filter(opened).count(), 1, "in its first window\n{}", setup.trace());
    }
}

#[test]
fn a_freeze_in_which_blue_answers_reads_ends_whole() {
    sweep("freeze with reads", &with(PlanKind { reads_on_blue: true, ..freeze() }, finish()), Some(Outcome::Completed));
}

#[test]
fn a_freeze_of_a_standby_of_its_own_ends_whole() {
    sweep("freeze, own standby", &with(PlanKind { makes_standby: true, ..freeze() }, finish()), Some(Outcome::Completed));
}

#[test]
fn a_freeze_without_routes_ends_whole() {
    sweep("freeze, no routes", &with(PlanKind { routes: 0, ..freeze() }, finish()), Some(Outcome::Completed));
}

#[test]
fn a_freeze_is_rolled_back_in_its_soak_without_losing_a_row() {
    for reads_on_blue in [false, true] {
        let script = Script { soaks: &[Wish::Rollback], ..Script::default() };
        sweep("freeze, rolled back", &with(PlanKind { reads_on_blue, ..freeze() }, script), Some(Outcome::RolledBack));
    }
}

#[test]
fn a_freeze_is_abandoned_at_every_place_at_which_it_waits() {
    for makes_standby in [false, true] {
        for place in 1..=2 {
            let script = Script { abandon_at: Some(place), ..finish() };
            sweep("freeze, abandoned", &with(PlanKind { makes_standby, ..freeze() }, script), Some(Outcome::RolledBack));
        }
    }
}

#[test]
fn a_freeze_whose_green_differs_ends_with_blue_serving() {
    for on_failure in [OnFailure::Rollback, OnFailure::Hold] {
        let setup = Setup { differs: true, ..with(PlanKind { on_failure, ..freeze() }, finish()) };
        let report = setup.run();
        assert_eq!(report.world.run.serving(), Side::Blue, "{}", setup.trace());
        assert_eq!((report.world.moves_to_green(), report.world.migrated_on_green()), (0, 0b11), "{}", setup.trace());
        let expected = (on_failure == OnFailure::Rollback).then_some(Outcome::RolledBack);
        assert_eq!(report.outcome, expected, "{}", setup.trace());
    }
}

#[test]
fn a_freeze_through_whose_fence_somebody_writes_moves_nobody() {
    for trouble in [Trouble::Leak(Side::Blue), Trouble::Drift(Side::Blue), Trouble::PreparedInWindow] {
        let script = Script { trouble: Some(trouble), patience_secs: 60, ..finish() };
        let setup = with(freeze(), script);
        let report = setup.run();
        assert_eq!(report.world.moves_to_green(), 0, "{trouble:?}\n{}", setup.trace());
    }
}

#[test]
fn a_freeze_whose_green_dies_at_any_call_can_be_left() {
    let plain = with(freeze(), finish()).run();
    let script = Script { without_green: true, green_goes_down: true, patience_secs: 60, retries: 1, ..finish() };
    let mut tally = Tally::default();
    for at in 0..plain.points.len() {
        tally.run(Setup { green_dies_at: Some(at), ..with(freeze(), script) });
    }
    tally.conclude("green dies in a freeze", plain.points.len());
}

#[test]
fn every_pair_of_faults_in_a_freeze_ends_whole() {
    sweep_pairs(&with(freeze(), finish()), 0, 1);
}

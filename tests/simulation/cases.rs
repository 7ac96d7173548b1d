//! Other runs than the plain one: other plans, other words of the person, and what no fault of a single call can be.

use crate::{
    fault::Fault,
    harness::Setup,
    plan::{PlanKind, Trial},
    script::{Script, Trouble, Wish},
    sweep::{Tally, sweep},
};
use greenlight::{
    plan::{OnFailure, StepName},
    run::{Fact, Outcome, Request, RequestKind, StepState, answer},
    word::{Side, Timestamp},
};

fn of(kind: PlanKind) -> Setup {
    Setup { kind, ..Setup::default() }
}

fn told(script: Script) -> Setup {
    Setup { script, ..Setup::default() }
}

#[test]
fn a_run_without_routes_ends_whole() {
    sweep("no routes", &of(PlanKind { routes: 0, ..PlanKind::default() }), Some(Outcome::Completed));
}

#[test]
fn a_run_that_makes_its_standby_ends_whole() {
    sweep("own standby", &of(PlanKind { makes_standby: true, ..PlanKind::default() }), Some(Outcome::Completed));
}

fn tried(trial: Trial) -> PlanKind {
    PlanKind { trial: Some(trial), ..PlanKind::default() }
}

#[test]
fn a_run_with_a_provisional_plan_ends_whole() {
    let plain = sweep("provisional", &of(tried(Trial::AsApproved)), Some(Outcome::Completed));
    assert!(plain.world.run.is_judged() && plain.world.moves_to_green() == 2);
}

#[test]
fn a_provisional_plan_that_turns_out_worse_waits_for_an_approval_and_ends_whole() {
    sweep("provisional and worse", &of(tried(Trial::Worse)), Some(Outcome::Completed));
    for place in 1..=WAITING_PLACES + 1 {
        let script = Script { abandon_at: Some(place), ..Script::default() };
        let setup = Setup { kind: tried(Trial::Worse), script, ..Setup::default() };
        sweep("provisional and worse, abandoned", &setup, Some(Outcome::RolledBack));
    }
}

#[test]
fn a_provisional_plan_that_turns_out_worse_migrates_nothing_without_an_approval() {
    let script = Script { opens_no_gate: true, patience_secs: 60, ..Script::default() };
    let setup = Setup { kind: tried(Trial::Worse), script, ..Setup::default() };
    let report = sweep("provisional and worse, not approved", &setup, Some(Outcome::RolledBack));
    assert_eq!((report.world.migrated_on_green(), report.world.run.is_judged()), (0, true));
}

#[test]
fn a_provisional_plan_that_is_refused_by_its_trial_is_taken_back_or_held() {
    let report = sweep("provisional and refused", &of(tried(Trial::Refused)), Some(Outcome::RolledBack));
    assert_eq!((report.world.migrated_on_green(), report.world.run.is_judged()), (0, false));
    let kind = PlanKind { on_failure: OnFailure::Hold, ..tried(Trial::Refused) };
    let report = Setup { kind, ..Setup::default() }.run();
    assert_eq!((report.outcome, report.world.migrated_on_green()), (None, 0));
    assert!(report.world.run.reason.is_some_and(|reason| reason.contains("not-reversible:public.orders")));
}

#[test]
fn a_provisional_run_whose_green_dies_at_any_call_can_be_left() {
    let plain = of(tried(Trial::AsApproved)).run();
    let script = Script { without_green: true, green_goes_down: true, patience_secs: 60, retries: 1, ..Script::default() };
    let mut tally = Tally::default();
    for at in 0..plain.points.len() {
        tally.run(Setup { kind: tried(Trial::AsApproved), green_dies_at: Some(at), ..told(script) });
    }
    tally.conclude("green dies in a provisional run", plain.points.len());
}

#[test]
fn a_run_that_makes_its_standby_is_taken_back_whole() {
    let kind = PlanKind { makes_standby: true, ..PlanKind::default() };
    for place in 1..=WAITING_PLACES {
        let script = Script { abandon_at: Some(place), ..Script::default() };
        sweep("own standby, abandoned", &Setup { kind, script, ..Setup::default() }, Some(Outcome::RolledBack));
    }
}

#[test]
fn a_run_that_holds_on_failure_is_tried_again_by_a_person() {
    sweep("hold on failure", &of(PlanKind { on_failure: OnFailure::Hold, ..PlanKind::default() }), Some(Outcome::Completed));
}

#[test]
fn a_run_that_a_person_leaves_stuck_is_held_with_its_reason() {
    for on_failure in [OnFailure::Hold, OnFailure::Rollback] {
        let script = Script { retries: 0, ..Script::default() };
        let kind = PlanKind { on_failure, ..PlanKind::default() };
        sweep("left stuck", &Setup { kind, script, ..Setup::default() }, Some(Outcome::Completed));
    }
}

/// The window's gate, the soak, the gate after the rollback, the window's gate again, the second soak.
const WAITING_PLACES: u32 = 5;

#[test]
fn a_run_abandoned_at_any_waiting_place_leaves_blue_serving_and_nothing_behind() {
    for place in 1..=WAITING_PLACES {
        let script = Script { abandon_at: Some(place), ..Script::default() };
        let report = sweep(&format!("abandoned at waiting place {place}"), &told(script), Some(Outcome::RolledBack));
        assert_eq!(report.world.run.serving(), Side::Blue);
    }
}

#[test]
fn a_run_whose_green_is_lost_is_abandoned_without_it() {
    for place in 1..=WAITING_PLACES {
        let script = Script { abandon_at: Some(place), without_green: true, green_goes_down: true, ..Script::default() };
        sweep(&format!("green lost at waiting place {place}"), &told(script), Some(Outcome::RolledBack));
    }
}

/// Green is lost for good at any call, and the person leaves it after a minute without progress.
#[test]
fn a_green_that_dies_at_any_call_can_be_left() {
    let plain = Setup::default().run();
    let script = Script { without_green: true, green_goes_down: true, patience_secs: 60, retries: 1, ..Script::default() };
    let mut tally = Tally::default();
    for at in 0..plain.points.len() {
        tally.run(Setup { green_dies_at: Some(at), ..told(script) });
    }
    tally.conclude("green dies", plain.points.len());
}

#[test]
fn a_run_with_a_slow_flow_ends_whole() {
    let setup = Setup { lag_ms: Some(300), ..Setup::default() };
    sweep("slow flow", &setup, Some(Outcome::Completed));
}

#[test]
fn a_flow_slower_than_the_pause_never_moves_the_writer() {
    let script = Script { patience_secs: 120, ..Script::default() };
    let report = Setup { lag_ms: Some(6_000), script, ..Setup::default() }.run();
    assert_eq!((report.outcome, report.world.moves_to_green()), (Some(Outcome::RolledBack), 0));
}

/// Every read of those that say whether the window may open.
const LOOKS: &[&str] = &[
    "connect",
    "route: connect",
    "route: observe",
    "route: who_answers",
    "route: users",
    "access",
    "fence",
    "probe_fence",
    "schema_fingerprint",
    "prepared_transactions",
    "long_transactions",
    "wal_lsn",
    "sequences",
    "subscription",
    "read_marker",
    "slot",
];

#[test]
fn unknown_keeps_the_window_shut() {
    for look in LOOKS {
        let script = Script { breaks: Some(look), patience_secs: 60, ..Script::default() };
        let report = told(script).run();
        assert_eq!(report.world.windows_opened, 0, "{look} cannot be read, and the window opened");
    }
}

#[test]
fn a_lasting_trouble_keeps_the_writer_on_blue() {
    use Trouble::{Drift, Leak, PreparedInWindow};
    for trouble in [Leak(Side::Blue), Drift(Side::Blue), Drift(Side::Green), PreparedInWindow] {
        let script = Script { trouble: Some(trouble), patience_secs: 60, ..Script::default() };
        let report = told(script).run();
        assert_eq!(report.world.moves_to_green(), 0, "{trouble:?}");
    }
}

#[test]
fn a_sequence_that_stays_behind_keeps_the_writer_where_it_is_in_both_directions() {
    let stubborn = |side| Setup {
        script: Script { trouble: Some(Trouble::StubbornSequences(side)), patience_secs: 60, ..Script::default() },
        ..Setup::default()
    };
    assert_eq!(stubborn(Side::Green).run().world.moves_to_green(), 0);
    let back = stubborn(Side::Blue).simulate(false).world;
    assert_eq!((back.violation.clone(), back.moves_to_green(), back.run.serving()), (None, 1, Side::Green));
}

#[test]
fn a_sequence_that_may_not_be_read_keeps_the_window_shut() {
    for trouble in [Trouble::HiddenSequences(Side::Blue), Trouble::HiddenSequences(Side::Green)] {
        let script = Script { trouble: Some(trouble), patience_secs: 60, ..Script::default() };
        let world = told(script).run().world;
        assert_eq!(world.moves_to_green(), 0, "{trouble:?}");
        assert_eq!(world.windows_opened > 0, trouble == Trouble::HiddenSequences(Side::Green), "{trouble:?}");
    }
}

#[test]
fn a_fence_that_somebody_breaks_in_the_soak_is_on_record_once_and_no_rollback_goes_on_without_a_word() {
    for trouble in [Trouble::BrokenFence(Side::Blue), Trouble::Drift(Side::Blue)] {
        let script = Script { trouble_in_soak: Some(trouble), soaks: &[Wish::Finish], ..Script::default() };
        let report = told(script).run();
        let broken = |fact: &&Fact| matches!(fact, Fact::FenceBroken { .. });
        assert_eq!(report.world.run.facts.iter().filter(broken).count(), 1, "{trouble:?}");
        let mut run = report.world.run;
        (run.outcome, run.steps) = (None, vec![StepState::Idle; run.steps.len()]);
        let mut request =
            Request { id: 1, at: Timestamp::UNIX_EPOCH, by: "ana".to_owned(), reason: None, kind: RequestKind::Rollback };
        let refused = answer(&report.world.plan, &run, &request).unwrap_err();
        assert!(refused.to_string().contains("nobody knows what"), "{refused}");
        request.reason = Some("nothing was written: I looked".to_owned());
        answer(&report.world.plan, &run, &request).unwrap();
    }
}

#[test]
fn a_session_that_writes_on_green_as_soon_as_it_can_never_gets_in() {
    let setup = Setup { trouble_at_promotion: Some(Trouble::Dishonest), ..Setup::default() };
    let report = setup.run();
    assert_eq!(report.outcome, Some(Outcome::Completed));
    let marked = |fact: &&Fact| matches!(fact, Fact::GreenMarked { .. });
    assert_eq!(report.world.run.facts.iter().filter(marked).count(), 1, "once, with what was there before");
}

#[test]
fn a_green_whose_fence_leaks_is_not_attached() {
    let report = Setup { trouble_at_promotion: Some(Trouble::Leak(Side::Green)), ..Setup::default() }.simulate(false);
    let subscribe = report.world.plan.step_no(StepName::SubscribeGreen).unwrap();
    assert_eq!(report.world.run.steps[subscribe.0], StepState::Idle);
}

/// Green takes writes besides blue then, which no coordinator can help: but nobody is moved there.
#[test]
fn a_leak_of_greens_fence_keeps_the_window_shut() {
    let script = Script { trouble: Some(Trouble::Leak(Side::Green)), patience_secs: 60, ..Script::default() };
    let report = told(script).simulate(false);
    assert_eq!(report.world.windows_opened, 0);
}

#[test]
fn a_route_that_was_not_repointed_keeps_the_run_from_going_on() {
    let script = Script { trouble: Some(Trouble::StubbornRoute), retries: 3, ..Script::default() };
    let report = told(script).simulate(false);
    let soak = report.world.plan.step_no(StepName::Soak).unwrap();
    assert_eq!(report.world.run.steps[soak.0], StepState::Idle);
    assert!(report.world.run.reason.is_some_and(|reason| reason.contains("answer through route")));
}

#[test]
fn a_route_that_cannot_be_rehearsed_keeps_the_window_shut() {
    let script = Script { trouble: Some(Trouble::UnmovableRoute), patience_secs: 60, ..Script::default() };
    let report = told(script).run();
    assert_eq!((report.world.windows_opened, report.outcome), (0, Some(Outcome::RolledBack)));
}

#[test]
fn a_side_that_does_not_let_the_applications_in_is_not_moved_to() {
    let locked = |side| told(Script { trouble: Some(Trouble::LockedOut(side)), patience_secs: 60, ..Script::default() });
    assert_eq!(locked(Side::Green).run().world.windows_opened, 0);
    let back = locked(Side::Blue).simulate(false).world;
    // Nobody of blue's has to get in on green, and nobody gets back.
    assert_eq!((back.violation.clone(), back.moves_to_green(), back.run.serving()), (None, 1, Side::Green));
}

#[test]
fn a_route_that_leads_to_blue_in_the_soak_is_said_and_keeps_the_finish_shut() {
    let script = Script { trouble: Some(Trouble::RouteAstray), soaks: &[Wish::Finish], ..Script::default() };
    let report = told(script).simulate(false);
    let said = |fact: &Fact| matches!(fact, Fact::RouteSeen { trouble: Some(what), .. } if what.contains("leads to blue"));
    assert!(report.world.run.facts.iter().any(said), "nobody says that a route leads to blue");
    assert_eq!(report.outcome, None);
    assert!(report.world.nodes[Side::Blue as usize].allow_connections, "blue was retired");
}

/// Each in turn, and what it would have taken away.
#[test]
fn a_part_of_the_finish_that_is_refused_keeps_no_other_from_being_done() {
    let parts = [
        (Side::Green, "ensure_no_slot", "a slot"),
        (Side::Green, "ensure_no_publication", "a publication"),
        (Side::Green, "ensure_no_subscription", "a subscription"),
        (Side::Green, "ensure_sync_triggers", ""),
        (Side::Green, "ensure_unclaimed", "the claim"),
        (Side::Blue, "ensure_no_slot", "a slot"),
        (Side::Blue, "ensure_fence_installed", ""),
        (Side::Blue, "ensure_no_subscription", "a subscription"),
        (Side::Blue, "ensure_no_publication", "a publication"),
        (Side::Blue, "ensure_history_without", ""),
        (Side::Blue, "ensure_fence(connections)", ""),
    ];
    for (side, part, what) in parts {
        let trouble_in_soak = Some(Trouble::Refuses(side, part));
        let script = Script { trouble_in_soak, soaks: &[Wish::Finish], retries: 1, ..Script::default() };
        let world = told(script).simulate(false).world;
        assert!(world.run.outcome.is_none(), "{part} on {side} was done");
        let mut left = Vec::new();
        if !what.is_empty() {
            left.push(format!("{what} on {side}"));
        }
        if side == Side::Blue {
            // With it goes the fence, which must not go before connections do.
            left.push("the claim on blue".to_owned());
        }
        let found = [Side::Blue, Side::Green].map(|side| world.left_on(side)).concat();
        assert_eq!(found, left, "{part} on {side}");
    }
}

#[test]
fn another_cluster_at_blues_address_is_not_closed_and_green_is_tidied_all_the_same() {
    let script = Script {
        trouble_in_soak: Some(Trouble::Stranger(Side::Blue)),
        soaks: &[Wish::Finish],
        marks_done: true,
        ..Script::default()
    };
    let world = told(script).simulate(false).world;
    assert_eq!((world.run.outcome, world.run.serving()), (Some(Outcome::Completed), Side::Green));
    assert!(world.nodes[Side::Blue as usize].allow_connections, "a stranger's database was closed");
    assert_eq!(world.left_on(Side::Green), [""; 0]);
    assert!(world.says_left_behind(Side::Blue));
}

#[test]
fn another_cluster_at_greens_address_is_not_closed_and_the_run_is_taken_back() {
    let script = Script { trouble: Some(Trouble::Stranger(Side::Green)), ..Script::default() };
    let world = told(script).simulate(false).world;
    assert_eq!((world.run.outcome, world.run.serving()), (Some(Outcome::RolledBack), Side::Blue));
    assert!(world.nodes[Side::Green as usize].allow_connections, "a stranger's database was closed");
    assert!(world.says_left_behind(Side::Green));
}

#[test]
fn another_cluster_at_blues_address_is_not_opened_when_the_run_is_taken_back() {
    let script = Script { trouble: Some(Trouble::Stranger(Side::Blue)), abandon_at: Some(4), ..Script::default() };
    let world = told(script).simulate(false).world;
    assert_eq!((world.run.outcome, world.run.serving()), (Some(Outcome::RolledBack), Side::Blue));
    assert!(world.says_left_behind(Side::Blue));
}

#[test]
fn a_clock_that_is_days_ahead_finishes_nothing_and_opens_no_hours() {
    let soaks = PlanKind { then_finish: true, ..PlanKind::default() };
    let script = Script { trouble_in_soak: Some(Trouble::ClockAhead), ..Script::default() };
    let report = Setup { kind: soaks, script, ..Setup::default() }.simulate(false);
    assert_eq!((report.outcome, report.world.run.serving()), (None, Side::Green));
    let said = report.world.run.note.unwrap_or_default();
    assert!(said.contains("clocks that agree") && said.contains("green's is 100 h 0 min behind"), "{said}");
    assert!(report.world.nodes[Side::Blue as usize].allow_connections, "blue was retired");

    let hours = PlanKind { has_hours: true, ..PlanKind::default() };
    let script = Script { trouble: Some(Trouble::ClockAhead), patience_secs: 60, ..Script::default() };
    assert_eq!(Setup { kind: hours, script, ..Setup::default() }.run().world.windows_opened, 0);
    assert_eq!(Setup { kind: hours, ..Setup::default() }.run().outcome, Some(Outcome::Completed), "with clocks that agree");
}

#[test]
fn a_difference_keeps_the_window_shut() {
    let setup = Setup { differs: true, ..told(Script { patience_secs: 60, ..Script::default() }) };
    assert_eq!(setup.run().world.windows_opened, 0);
}

#[test]
fn unknown_equality_keeps_the_window_shut() {
    let setup = told(Script { patience_secs: 60, ..Script::default() });
    let setup = Setup { broken: Some("validator: check"), ..setup };
    assert_eq!(setup.run().world.windows_opened, 0);
}

/// A server that is down for half a minute is asked every few seconds, and it is on record once that nobody knew.
#[test]
fn an_outage_is_on_record_once_however_long_it_lasts() {
    let points = Setup::default().run().points;
    for (at, kind) in points.iter().enumerate().filter(|(_, kind)| kind.faults().contains(&Fault::Outage)) {
        let setup = Setup::default().with(&[(at, Fault::Outage)]);
        let unsure = setup.run().world.unsure_records;
        assert!(unsure <= 2, "{unsure} records of an outage at call {at}, {kind:?}\n{}", setup.trace());
    }
}

#[test]
fn a_green_that_others_promoted_is_attached_only_where_nothing_is_missing() {
    let mut refused = 0;
    for at in 0..40 {
        let report = Setup { promoted_by_others_at: Some(at), ..Setup::default() }.run();
        refused += u32::from(report.outcome == Some(Outcome::RolledBack));
    }
    assert!(refused > 0, "no promotion came too early");
}

#[test]
fn a_green_that_others_make_a_standby_again_is_never_waited_for_without_end() {
    let (points, mut taken_back) = (Setup::default().run().points.len(), 0);
    for at in (0..points).step_by(3) {
        let setup = Setup { green_demoted_at: Some(at), ..Setup::default() };
        let report = setup.simulate(false);
        // What may become of a green that serves is the next case.
        if report.world.windows_opened > 0 {
            continue;
        }
        assert_eq!(report.world.violation, None, "{}", setup.trace());
        taken_back += u32::from(report.outcome == Some(Outcome::RolledBack));
    }
    assert!(taken_back > 0, "no run was taken back");
}

/// Nobody can write then: it is said with the way out, clients are not kept waiting, and a person's word ends it.
#[test]
fn a_green_that_others_make_a_standby_past_the_commit_point_is_left_by_a_persons_word() {
    let (points, mut said, mut left) = (Setup::default().run().points.len(), 0, 0);
    for at in 0..points {
        let script = Script { without_green: true, patience_secs: 60, ..Script::default() };
        let setup = Setup { green_demoted_at: Some(at), ..told(script) };
        let world = setup.simulate(false).world;
        let committed = |fact: &Fact| matches!(fact, Fact::WindowCommitted { .. });
        if !world.run.facts.iter().any(committed) || !world.nodes[Side::Green as usize].in_recovery {
            continue;
        }
        assert!(world.run.open_window().is_none(), "a window is open\n{}", setup.trace());
        assert!(world.routes.iter().all(|route| route.paused_since.is_none()), "clients wait\n{}", setup.trace());
        left += u32::from(world.run.outcome == Some(Outcome::RolledBack));
        said += u32::from(world.says_no_writes);
    }
    assert!(said > 0 && left > 0);
}

#[test]
fn a_slot_that_endangers_blue_is_given_up_with_the_run() {
    let script = Script { opens_no_gate: true, ..Script::default() };
    let kind = PlanKind { wal_kept_max: 100, ..PlanKind::default() };
    let setup = Setup { kind, script, lag_ms: Some(90_000), ..Setup::default() };
    let report = setup.run();
    assert_eq!((report.outcome, report.world.windows_opened), (Some(Outcome::RolledBack), 0), "{}", setup.trace());
}

#[test]
fn a_slot_that_endangers_green_is_given_up_and_the_rollback_with_it() {
    let script = Script { soaks: &[Wish::Rollback], blue_stops_following: true, ..Script::default() };
    let kind = PlanKind { wal_kept_max: 1_000, ..PlanKind::default() };
    let setup = Setup { kind, script, ..Setup::default() };
    let report = setup.run();
    let given_up = report.world.run.facts.iter().any(|fact| matches!(fact, Fact::WayBackGivenUp { .. }));
    assert!(given_up && report.world.moves_to_green() == 1, "{}", setup.trace());
    assert!(report.world.run.steps.iter().all(|state| *state == StepState::Done));
}

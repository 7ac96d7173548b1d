//! A pause always ends: within its limit and two seconds, whatever fails. Looked at with every step of time, by `check_pauses`.

use crate::{
    fault::{Fault, Kind},
    harness::{Report, Setup},
    lasting::{Lasting, Renewals},
    plan::PlanKind,
    script::{Script, Wish},
    sweep::Tally,
};
use greenlight::{
    plan::Strategy,
    run::{Fact, Outcome},
};

fn finish() -> Script {
    Script { soaks: &[Wish::Finish], ..Script::default() }
}

fn moving() -> Setup {
    Setup { script: finish(), ..Setup::default() }
}

fn freeze() -> Setup {
    Setup { kind: PlanKind { strategy: Strategy::Freeze, ..PlanKind::default() }, ..moving() }
}

/// Whether some window went back.
fn went_back(report: &Report) -> bool {
    report.world.run.facts.iter().any(|fact| matches!(fact, Fact::WindowClosed { moved: false, .. }))
}

#[test]
fn a_guard_that_is_killed_at_any_call_is_noticed_and_nobody_commits_without_it() {
    for (what, setup) in [("guard killed", moving()), ("guard killed in a freeze", freeze())] {
        let points = setup.run().points.len();
        let (mut tally, mut noticed) = (Tally::default(), 0);
        for at in 0..points {
            let report = tally.run(Setup { guard_dies_at: Some(at), ..setup.clone() });
            noticed += usize::from(went_back(&report));
        }
        tally.conclude(what, points);
        assert!(noticed > 3, "only {noticed} guards were missed");
    }
}

#[test]
fn a_coordinator_that_is_asked_to_end_at_any_call_leaves_nobody_paused() {
    for (what, setup) in [("asked to end", Setup::default()), ("asked to end in a freeze", freeze())] {
        let points = setup.run().points.len();
        let mut tally = Tally::default();
        for at in 0..points {
            let report = tally.run(Setup { interrupted_at: Some(at), ..setup.clone() });
            assert!(
                report.world.run.open_window().is_none() && report.world.violation.is_none(),
                "{at}: {:?}",
                report.world.violation
            );
        }
        tally.conclude(what, points);
    }
}

#[test]
fn a_route_that_cannot_be_moved_for_long_pauses_nobody_for_long() {
    let plain = moving().run();
    let mut tally = Tally::default();
    let report = tally.run(Setup { unmovable_secs: 20, ..moving() });
    let resumed = |fact: &&Fact| matches!(fact, Fact::ClientsResumed { .. });
    assert_eq!(report.world.run.facts.iter().filter(resumed).count(), 1);
    assert_eq!(report.outcome, Some(Outcome::Completed));
    for (at, kind) in plain.points.iter().enumerate() {
        for fault in kind.faults_of_a_pair() {
            tally.run(Setup { unmovable_secs: 20, ..moving().with(&[(at, *fault)]) });
        }
    }
    tally.conclude("a route that cannot be moved", plain.points.len());
}

#[test]
fn a_route_that_cannot_be_resumed_keeps_no_other_paused() {
    let plain = moving().run();
    let mut tally = Tally::default();
    for (at, kind) in plain.points.iter().enumerate() {
        for fault in kind.faults_of_a_pair() {
            tally.run(Setup { unresumable_secs: 20, ..moving().with(&[(at, *fault)]) });
        }
    }
    tally.conclude("a route that cannot be resumed", plain.points.len());
}

/// The numbers of the calls just after this one.
fn calls_after(report: &Report, at: usize) -> std::ops::Range<usize> {
    at + 1..report.points.len().min(at + 15)
}

/// A window is broken at each of its calls, and then each call of what makes it safe lasts for a minute.
#[test]
fn clients_do_not_wait_for_a_part_of_the_clean_up_that_lasts() {
    let mut tally = Tally::default();
    for setup in [moving(), freeze()] {
        let points = setup.run().points;
        for (at, kind) in points.iter().enumerate() {
            for fault in [Fault::CrashAfter, Fault::Transient, Fault::Full] {
                if !kind.faults().contains(&fault) {
                    continue;
                }
                let broken = setup.with(&[(at, fault)]);
                let first = broken.simulate(false);
                if !went_back(&first) {
                    continue;
                }
                for later in calls_after(&first, at) {
                    let lasting = Some(Lasting { at: later, secs: 60, renewals: Renewals::Work });
                    tally.run(Setup { lasting, ..broken.clone() });
                }
            }
        }
        tally.conclude("a clean-up that lasts", points.len());
    }
}

/// The journal cannot be written from any of its writes on, for a minute, and another fault comes to it.
#[test]
fn a_journal_that_is_full_from_any_write_on_pauses_nobody_for_long() {
    let mut tally = Tally::default();
    for setup in [moving(), freeze()] {
        let points = setup.run().points;
        for (at, kind) in points.iter().enumerate() {
            if !matches!(kind, Kind::Append | Kind::Journal) {
                continue;
            }
            let full = setup.with(&[(at, Fault::Full)]);
            let first = tally.run(full);
            for later in calls_after(&first, at) {
                // The worst of each kind: it is killed, or nobody knows what came of it.
                for fault in first.points[later].faults_of_a_pair().iter().take(2) {
                    tally.run(setup.with(&[(at, Fault::Full), (later, *fault)]));
                }
            }
        }
        tally.conclude("a full journal", points.len());
    }
    tally.none_held();
}

/// The coordinator hangs in its window until the guard's time has come, and then the journal hangs as well.
#[test]
fn clients_do_not_wait_for_a_journal_that_hangs_when_the_guard_comes() {
    let (mut tally, mut hung) = (Tally::default(), 0);
    for setup in [moving(), freeze()] {
        let points = setup.run().points;
        for (at, kind) in points.iter().enumerate() {
            if !kind.faults().contains(&Fault::Slow) {
                continue;
            }
            let slow = setup.with(&[(at, Fault::Slow)]).simulate(false);
            if !slow.world.processes.iter().any(|process| process.is_guard) {
                continue;
            }
            // Its lease is what the guard takes first, and its first record says so.
            let lease = (at..slow.points.len()).find(|call| slow.points[*call] == Kind::Journal).unwrap();
            for fault in [Fault::Slow, Fault::WrittenSlowly] {
                tally.run(setup.with(&[(at, Fault::Slow), (lease + 1, fault)]));
                hung += 1;
            }
        }
        tally.conclude("a journal that hangs", points.len());
    }
    assert!(hung > 20, "{hung}");
}

/// The coordinator is killed in its window, the guard finds a full journal and is killed too, and so is perhaps the next
/// coordinator: the one after it finds nobody who gives clients back.
#[test]
fn a_coordinator_that_finds_an_open_window_and_a_full_journal_gives_clients_back_first() {
    let (mut tally, mut alarms) = (Tally::default(), 0);
    for setup in [moving(), freeze()] {
        let points = setup.run().points;
        for (at, kind) in points.iter().enumerate() {
            if !kind.faults().contains(&Fault::CrashAfter) {
                continue;
            }
            let first = setup.with(&[(at, Fault::CrashAfter)]).simulate(false);
            if first.points.get(at + 1) != Some(&Kind::Journal) || !first.world.processes.iter().any(|process| process.is_guard) {
                continue;
            }
            let killed = |faults: &[usize]| {
                let faults = faults.iter().map(|at| (*at, Fault::CrashBefore));
                let faults: Vec<_> = [(at, Fault::CrashAfter), (at + 1, Fault::Full)].into_iter().chain(faults).collect();
                setup.with(&faults)
            };
            for guard in at + 2..at + 14 {
                alarms += tally.run(killed(&[guard])).world.alarms;
                // The next call of the guard would have been the coordinator's own.
                for coordinator in guard + 2..guard + 8 {
                    alarms += tally.run(killed(&[guard, coordinator])).world.alarms;
                }
            }
        }
        tally.conclude("a dead guard and a full journal", points.len());
    }
    tally.none_held();
    assert!(alarms > 100, "only {alarms} times a coordinator said that clients are paused");
}

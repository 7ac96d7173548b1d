//! kill -9 of the coordinator, everywhere. Whatever happens to it, the run goes on or back, and no acknowledged write is lost.

use crate::world::{COMPLETED, Ended, KILLED, Live, MAX_PAUSE, Setup, TAKEN, WAITS};
use greenlight::failpoint;
use greenlight::word::Side;
use std::time::Duration;

/// What a pause may last beyond the window's limit: the guard's grace, and a machine that is busy with tests.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_again_and_again_at_its_records_still_carries_the_run_through() {
    let mut live = Live::up(Setup::default()).await;
    live.start_writing().await;
    let mut deaths = 0_usize;
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let script = [("run", Side::Green), ("rollback", Side::Blue), ("approve", Side::Green), ("finish", Side::Green)];
    for (command, serving) in script {
        let mut arguments = if command == "run" { vec!["run", &playbook] } else { vec![command] };
        loop {
            let at = u64::try_from(live.records().await.len()).unwrap();
            // The lease is one record; each process makes a few more, and dies before or after one of them. A whole window
            // is five: with fewer it goes back, and the next one waits the longer for it.
            let when = if deaths.is_multiple_of(2) { "before" } else { "after" };
            let place = format!("record-{when}#{}:kill", at + [3, 4, 5, 8][deaths / 2 % 4]);
            let ended = live.greenlight_with(&[arguments.as_slice(), &["--no-wait"]].concat(), &place).await;
            match ended.code {
                KILLED => deaths += 1,
                // The guard of the process that died is at work.
                TAKEN => tokio::time::sleep(Duration::from_millis(200)).await,
                _ => {
                    // A run that goes on waits; what was asked for is so, or the run is over.
                    assert!([WAITS, COMPLETED].contains(&ended.code), "{}", ended.said);
                    if live.serving().await == serving {
                        break;
                    }
                    // Windows went back, and the next one is not tried at once.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            // What was asked for is on record, or was never filed.
            if command == "run" || live.asked_for(command).await {
                arguments = vec!["run", &playbook];
            }
        }
        live.see_writes(20).await;
    }
    assert!(deaths > 20, "{deaths}");
    let report = live.nothing_is_lost(Side::Green).await;
    eprintln!("{deaths} deaths; clients saw {:?}, and waited for {:?} at most", report.errors, report.longest_wait());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_in_the_window_the_guard_makes_it_safe_at_once() {
    each_place("kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_anywhere_in_the_window_the_guard_ends_it_and_makes_it_safe() {
    each_place("stop").await;
}

/// Each place of the window, towards green and towards blue.
async fn each_place(how: &str) {
    let mut live = Live::up(Setup::default()).await;
    live.start_writing().await;
    let places: Vec<&str> = failpoint::NAMES.iter().copied().filter(|name| name.starts_with("window-")).collect();
    // One window for each, turn about; an odd number of places visits each in both directions in two rounds.
    assert_eq!(places.len() % 2, 1);
    for place in places.iter().chain(&places) {
        let (from, failpoint) = (live.serving_or_blue().await, format!("{place}:{how}"));
        let ended = match (from, live.records().await.is_empty()) {
            (_, true) => live.run_with(&failpoint).await,
            (Side::Blue, false) => live.greenlight_with(&["approve", "--no-wait"], &failpoint).await,
            (Side::Green, false) => live.greenlight_with(&["rollback", "--no-wait"], &failpoint).await,
        };
        ended.expect(KILLED);
        // Nobody does anything, and the clients go on.
        live.see_writes(30).await;
        live.see_it_safe().await;
        let after_commit = places.iter().position(|p| p == place) >= places.iter().position(|p| *p == "window-committed");
        assert_eq!(live.last_window().await, (after_commit, true), "{how} at {place}: {}", live.told().await);
        assert_eq!(live.serving().await == from.other(), after_commit, "{how} at {place}");
        live.run().await.expect(WAITS);
        assert_eq!(live.serving().await, from.other(), "{how} at {place}: {}", live.told().await);
        live.see_writes(10).await;
    }
    live.greenlight(&["abandon", "--reason", "the end of the test", "--no-wait"]).await.expect(COMPLETED);
    let report = live.nothing_is_lost(Side::Blue).await;
    eprintln!("{how}: clients saw {:?}, and waited for {:?} at most", report.errors, report.longest_wait());
    assert!(report.longest_wait() < MAX_PAUSE + SLACK, "{:?}", report.longest_wait());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_other_side_is_made_to_follow_the_run_goes_on_from_there() {
    let mut live = Live::up(Setup::default()).await;
    live.start_writing().await;
    let settle = failpoint::NAMES.iter().copied().filter(|name| name.starts_with("settle-"));
    for (place, ask) in settle.cycle().zip(["run", "rollback", "approve", "rollback"]) {
        let from = live.serving_or_blue().await;
        let failpoint = format!("{place}:kill");
        let ended: Ended = match ask {
            "run" => live.run_with(&failpoint).await,
            ask => live.greenlight_with(&[ask, "--no-wait"], &failpoint).await,
        };
        ended.expect(KILLED);
        live.see_writes(20).await;
        live.run().await.expect(WAITS);
        assert_eq!(live.serving().await, from.other());
    }
    live.nothing_is_lost(Side::Blue).await;
}

impl Live {
    /// Whether the journal has an event that only this command makes.
    async fn asked_for(&self, command: &str) -> bool {
        use greenlight::run::Event;
        let last = self.records().await;
        let asked = |event: &Event| match event {
            Event::RollbackBegun { .. } => command == "rollback",
            Event::GateApproved { .. } => command == "approve",
            Event::FinishOrdered { .. } => command == "finish",
            _ => false,
        };
        last.iter().any(|record| asked(&record.event)) || self.has_open_request().await
    }

    async fn has_open_request(&self) -> bool {
        use greenlight::journal::{Journal, SqliteJournal};
        let journal = SqliteJournal::open(&self.state).unwrap();
        let (plan, _) = self.stored().await;
        !journal.open_requests(&plan.run).await.unwrap().is_empty()
    }

    async fn serving_or_blue(&self) -> Side {
        if self.records().await.is_empty() { Side::Blue } else { self.serving().await }
    }
}

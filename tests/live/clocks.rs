//! The coordinator's clock is days ahead of the servers': nothing comes to pass by it.

use crate::world::{COMPLETED, Live, Setup, WAITS, ask};
use greenlight::run::Event;
use greenlight::word::Side;
use std::process::{Command, Stdio};

/// The exit code of a command that finds the run held by somebody else.
const BUSY: Option<i32> = Some(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_days_ahead_takes_no_living_lease_and_finishes_nothing() {
    if Command::new("faketime").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("NOT TESTED: a clock that is ahead, since `faketime` is not on this machine");
        return;
    }
    let mut live = Live::up(Setup::default()).await;
    let text = std::fs::read_to_string(&live.playbook).unwrap();
    assert!(text.contains("then: wait"));
    std::fs::write(&live.playbook, text.replace("then: wait", "then: finish")).unwrap();
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let playbook = live.playbook.to_str().unwrap().to_owned();

    let soaking = live.start(&["run", &playbook], "");
    live.until("it drives", async || live.greenlight(&["status"]).await.said.contains("driven by pid")).await;
    live.ahead(&["run", &playbook, "--no-wait"]).await.expect(BUSY);
    drop(soaking);
    live.see_it_safe().await;

    live.ahead(&["run", &playbook, "--no-wait"]).await.expect(WAITS).says("clocks that agree");
    let waits = |event: &Event| matches!(event, Event::StepParked { note, .. } if note.contains("green's is 100 h 0 min behind"));
    live.see_record("it says which clocks", waits).await;
    assert_eq!(ask(&live.lab.endpoint(Side::Blue), "SELECT current_database()").await, ["shop"], "blue was retired");
    live.greenlight(&["status"]).await.expect(COMPLETED).says("a rollback now would lose nothing");
    // A person's word needs no clock.
    live.ahead(&["finish", "--no-wait"]).await.expect(COMPLETED);
    live.nothing_is_lost(Side::Green).await;
}

//! Servers and PgBouncers that crash at the worst time, and come back.

use crate::world::{APPROVAL, COMPLETED, KILLED, Live, Setup, WAITS, go_on, is_stopped};
use greenlight::run::{Event, Fact};
use greenlight::word::Side;

#[tokio::test(flavor = "multi_thread")]
async fn blue_and_green_and_pgbouncer_crash_during_the_sync_and_the_cutover_still_loses_nothing() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    let run = live.start(&["run", live.playbook.to_str().unwrap(), "--no-wait"], "");
    live.see_record("green follows", |event| matches!(event, Event::FactLearned { fact: Fact::FlowStarted { .. }, .. })).await;
    live.lab.crash(Side::Blue);
    live.lab.start(Side::Blue).await.unwrap();
    crate::world::wait(run).await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Blue);

    live.lab.crash(Side::Green);
    live.lab.start(Side::Green).await.unwrap();
    live.lab.crash_pgbouncer(0);
    live.lab.start_pgbouncer(0).await.unwrap();
    live.see_writes(50).await;

    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(50).await;

    // The same in the soak, in which blue is the way back.
    live.lab.crash(Side::Blue);
    live.lab.start(Side::Blue).await.unwrap();
    live.lab.crash(Side::Green);
    live.lab.start(Side::Green).await.unwrap();
    live.see_writes(50).await;
    live.until("the way back is lossless", async || {
        live.greenlight(&["status"]).await.expect(COMPLETED).said.contains("a rollback now would lose nothing")
    })
    .await;
    live.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(50).await;
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn green_crashes_inside_the_window_while_the_coordinator_hangs_and_blue_serves_on() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let hanging = live.start(&["approve", "--no-wait"], "window-drained:stop");
    live.until("it hangs inside the window", async || is_stopped(&hanging)).await;
    live.lab.crash(Side::Green);
    crate::world::wait(hanging).await.expect(KILLED);
    live.see_writes(50).await;
    live.see_it_safe().await;
    assert_eq!((live.serving().await, live.last_window().await), (Side::Blue, (false, true)));
    live.lab.start(Side::Green).await.unwrap();
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(20).await;
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn green_crashes_inside_the_window_and_the_coordinator_goes_back_by_itself_and_tries_again() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let coordinator = live.start(&["approve", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    live.lab.crash(Side::Green);
    go_on(&coordinator);
    live.see_record("the window went back", |event| {
        matches!(event, Event::FactLearned { fact: Fact::WindowClosed { moved: false, by_guard: false, .. }, .. })
    })
    .await;
    live.see_writes(50).await;
    assert_eq!(live.serving().await, Side::Blue);
    live.lab.start(Side::Green).await.unwrap();
    // It hangs in its next window too, and is ended by the guard.
    crate::world::wait(coordinator).await.expect(KILLED);
    live.see_it_safe().await;
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(20).await;
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn green_is_lost_for_good_during_the_sync_and_the_run_can_be_abandoned_without_it() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    live.lab.crash(Side::Green);
    live.greenlight(&["abandon", "--without-green", "--reason", "its disk is gone", "--no-wait"]).await.expect(COMPLETED);
    live.see_writes(20).await;
    live.nothing_is_lost(Side::Blue).await;
    let slots = crate::world::ask(&live.lab.endpoint(Side::Blue), "select slot_name from pg_replication_slots").await;
    assert_eq!(slots, Vec::<String>::new());
}

//! What must keep the window shut, and what must be given up: each is made on real servers, and seen.

use crate::world::{APPROVAL, COMPLETED, Live, ROLLED_BACK, Setup, WAITS, ask, connect, rows};
use greenlight::run::{Event, Fact};
use greenlight::word::Side;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_keeps_the_window_shut_until_it_ends() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let long = connect(&live.lab.application(Side::Blue)).await;
    rows(&long, "BEGIN; UPDATE products SET price = price WHERE id = 1; SELECT pg_sleep(6)").await;
    let approved = live.start(&["approve", "--no-wait"], "");
    live.see_record(
        "the window waits for the transaction",
        |event| matches!(event, Event::StepWaiting { note, .. } if note.contains("transaction")),
    )
    .await;
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(20).await;
    rows(&long, "COMMIT").await;
    crate::world::wait(approved).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_on_blue_during_the_sync_stops_the_run_before_its_window() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    ask(&live.lab.endpoint(Side::Blue), "ALTER TABLE products ADD COLUMN sneaked_in text").await;
    live.greenlight(&["approve", "--no-wait"]).await.expect(WAITS).says("table public.products changed");
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(20).await;
    // Undone, it is in nobody's way, and the approval still holds.
    ask(&live.lab.endpoint(Side::Blue), "ALTER TABLE products DROP COLUMN sneaked_in").await;
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_green_cannot_take_is_shown_and_keeps_the_gate_shut() {
    let setup = Setup {
        playbook: APPROVAL,
        migration: Some("ALTER TABLE products ADD CONSTRAINT not_too_dear CHECK (price < 1000000);"),
        ..Setup::default()
    };
    let mut live = Live::up(setup).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    ask(&live.lab.endpoint(Side::Blue), "UPDATE products SET price = 5000000 WHERE id = 1").await;
    live.until("the subscription fails", async || {
        let sql = "select apply_error_count > 0 from pg_stat_subscription_stats";
        ask(&live.lab.endpoint(Side::Green), sql).await.contains(&"t".to_owned())
    })
    .await;
    let ended = live.greenlight(&["approve", "--no-wait"]).await;
    assert_eq!(live.serving().await, Side::Blue, "{}", ended.said);
    ended.says("not_too_dear");
    live.see_writes(20).await;
    live.greenlight(&["abandon", "--reason", "the rule is wrong", "--no-wait"]).await.expect(COMPLETED);
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_shown_by_its_key_and_keeps_the_window_shut() {
    let setup = Setup { playbook: "gates:\n  before_migrate: {approval: true}\non_failure: hold\n", ..Setup::default() };
    let mut live = Live::up(setup).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let planted = "SET session_replication_role = replica; DELETE FROM reviews WHERE id = 7; \
                   UPDATE addresses SET city = 'Elsewhere' WHERE id = 11";
    ask(&live.lab.endpoint(Side::Green), planted).await;
    let ended = live.greenlight(&["approve", "--no-wait"]).await.expect(WAITS);
    ended.says("public.reviews [id=7]: missing on green").says("public.addresses [id=11]: other values on green");
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(20).await;
    // Mended, it is equal.
    let mend = |table: &str, id: u32| format!("SELECT format('%L', t) FROM {table} t WHERE id = {id}");
    for (table, id) in [("reviews", 7), ("addresses", 11)] {
        let row = ask(&live.lab.endpoint(Side::Blue), &mend(table, id)).await.remove(0);
        let again = format!(
            "SET session_replication_role = replica; DELETE FROM {table} WHERE id = {id}; \
             INSERT INTO {table} SELECT ({row}::{table}).*"
        );
        ask(&live.lab.endpoint(Side::Green), &again).await;
    }
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_gives_its_slot_up_before_it_fills_blues_disk() {
    let mut live = Live::up(Setup { playbook: APPROVAL, wal_kept: "8MiB", ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    live.lab.crash(Side::Green);
    let blue = live.lab.endpoint(Side::Blue);
    let waiting = live.start(&["run", live.playbook.to_str().unwrap()], "");
    ask(&blue, "CREATE TEMP TABLE t (v text)").await;
    for _ in 0..8 {
        ask(&blue, "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 2000000))").await;
    }
    live.see_record("the run gives up", |event| matches!(event, Event::RollbackBegun { reason, .. } if reason.contains("WAL")))
        .await;
    live.until("its slot is gone", async || {
        ask(&blue, "select slot_name from pg_replication_slots where slot_type = 'logical'").await.is_empty()
    })
    .await;
    live.see_writes(20).await;
    // Green comes back, and the run ends as rolled back.
    live.lab.start(Side::Green).await.unwrap();
    crate::world::wait(waiting).await.expect(ROLLED_BACK);
    live.nothing_is_lost(Side::Blue).await;
    assert!(!live.records().await.iter().any(|r| matches!(r.event, Event::FactLearned { fact: Fact::WindowOpened { .. }, .. })));
}

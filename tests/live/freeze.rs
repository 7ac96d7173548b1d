//! The strategy `freeze` on real servers: blue stands still under clients that want to write, its standby is promoted,
//! migrated, compared and served from.

use crate::versions::can_be_had;
use crate::world::{COMPLETED, HELD, KILLED, Live, PROBLEMS, ROLLED_BACK, Setup, USAGE, WAITS, go_on, is_stopped};
use greenlight::run::{Event, Fact};
use greenlight::word::Side;

fn freeze() -> Setup {
    Setup { strategy: "freeze", ..Setup::default() }
}

/// Goes through where there are no rows, and fails on the shop's.
const FAILS: &str = "ALTER TABLE customers ADD CONSTRAINT only_few CHECK (id < 3);\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_blue_is_replaced_and_taken_back_without_losing_a_row() {
    frozen_and_back(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_blue_of_postgresql_18_is_replaced_and_taken_back_without_losing_a_row() {
    frozen_and_back(18).await;
}

async fn frozen_and_back(major: u32) {
    if !can_be_had(major).await {
        return;
    }
    let mut live = Live::up(Setup { major, snapshot: true, ..freeze() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS).says("is whole and verified");
    assert_eq!((live.serving().await, live.last_window().await), (Side::Green, (true, false)));
    live.see_writes(50).await;
    live.until("the way back is lossless", async || {
        live.greenlight(&["status"]).await.expect(COMPLETED).said.contains("a rollback now would lose nothing")
    })
    .await;
    live.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(50).await;
    let report = live.nothing_is_lost(Side::Blue).await;
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn blue_answers_reads_while_it_is_frozen_and_the_run_finishes() {
    let mut live = Live::up(Setup { window: "  reads: blue\n", ..freeze() }).await;
    live.start_writing().await;
    let frozen = live.start(&["run", live.playbook.to_str().unwrap(), "--no-wait"], "freeze-promoted:stop");
    live.until("blue is frozen", async || is_stopped(&frozen)).await;
    let through = live.lab.through(0);
    assert_ne!(crate::world::ask(&through, "SELECT count(*) FROM customers").await, ["0"]);
    let refused = crate::world::connect(&through).await.batch_execute("DELETE FROM customers WHERE false").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006", "{refused}");
    go_on(&frozen);
    crate::world::wait(frozen).await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(50).await;
    live.greenlight(&["finish", "--no-wait"]).await.expect(COMPLETED);
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_finishes_only_once_green_can_be_recovered_to_a_point_in_time() {
    let mut live = Live::up(Setup { snapshot: true, ..Setup::default() }).await;
    let green = live.lab.endpoint(Side::Green);
    let archive_by = async |command: &str| {
        let session = crate::world::connect(&green).await;
        session.batch_execute(&format!("ALTER SYSTEM SET archive_command = {command}")).await.unwrap();
        session.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    let works = crate::world::ask(&green, "SELECT quote_literal(current_setting('archive_command'))").await.remove(0);
    archive_by("'false'").await;
    live.start_writing().await;
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let soaking = live.start(&["run", &playbook], "");
    live.see_record("green serves", |event| matches!(event, Event::FactLearned { fact: Fact::FollowsBack { .. }, .. })).await;
    live.see_writes(50).await;
    live.greenlight(&["finish", "--no-wait"]).await.expect(USAGE).says("green cannot be recovered to a point in time yet");
    archive_by(&works).await;
    let backed_up = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::Recoverable { .. }, .. });
    live.see_record("green is backed up", backed_up).await;
    live.greenlight(&["report"]).await.expect(COMPLETED).says("green can be recovered to any moment from");
    live.greenlight(&["finish"]).await.says("finish, by");
    crate::world::wait(soaking).await.expect(COMPLETED).says("blue's last backup");
    live.nothing_is_lost(Side::Green).await;
    // Of two backups of blue one is kept for its own sake, and the one before the run for the run's.
    live.greenlight(&["snapshot", "prune", &playbook]).await.expect(COMPLETED).says("stays for run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_in_the_freeze_ends_with_blue_serving() {
    let mut live = Live::up(Setup { migration: Some(FAILS), ..freeze() }).await;
    live.start_writing().await;
    live.run().await.expect(ROLLED_BACK).says("only_few");
    assert_eq!((live.serving().await, live.last_window().await), (Side::Blue, (false, false)));
    live.see_writes(50).await;
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_held_with_blue_serving_where_the_playbook_says_so() {
    let playbook = "on_failure_of: {window: hold}\n";
    let mut live = Live::up(Setup { migration: Some(FAILS), playbook, ..freeze() }).await;
    live.start_writing().await;
    live.run().await.expect(HELD).says("only_few");
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(50).await;
    live.greenlight(&["retry", "--no-wait"]).await.expect(HELD).says("rebuild green");
    live.see_writes(50).await;
    live.greenlight(&["abandon", "--no-wait"]).await.expect(COMPLETED);
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_promotion_the_guard_opens_blue_and_the_next_freeze_goes_through() {
    let mut live = Live::up(freeze()).await;
    live.start_writing().await;
    for place in ["window-opened", "window-paused", "window-fenced", "freeze-replayed"] {
        live.run_with(&format!("{place}:kill")).await.expect(KILLED);
        live.see_writes(20).await;
        live.see_it_safe().await;
        assert_eq!((live.serving().await, live.last_window().await), (Side::Blue, (false, true)), "{place}");
    }
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(50).await;
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_promotion_and_commit_point_the_guard_opens_blue_and_the_run_is_taken_back() {
    for place in ["freeze-promoted", "freeze-migrated", "freeze-compared", "window-before-commit"] {
        let mut live = Live::up(freeze()).await;
        live.start_writing().await;
        live.run_with(&format!("{place}:kill")).await.expect(KILLED);
        live.see_writes(20).await;
        live.see_it_safe().await;
        assert_eq!((live.serving().await, live.last_window().await), (Side::Blue, (false, true)), "{place}");
        live.run().await.expect(ROLLED_BACK).says("rebuild green");
        live.see_writes(20).await;
        live.nothing_is_lost(Side::Blue).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_commit_point_of_a_freeze_green_serves() {
    for place in ["window-committed", "window-open", "window-resumed", "settle-fenced", "settle-subscribed"] {
        let mut live = Live::up(freeze()).await;
        live.start_writing().await;
        live.run_with(&format!("{place}:kill")).await.expect(KILLED);
        live.see_writes(20).await;
        live.see_it_safe().await;
        assert_eq!(live.serving().await, Side::Green, "{place}");
        live.run().await.expect(WAITS);
        live.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED);
        live.see_writes(20).await;
        live.nothing_is_lost(Side::Blue).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_writes_in_answer_to_a_migration_is_said_and_green_gets_statistics_of_what_changed() {
    let live = Live::up(freeze()).await;
    let (blue, green) = (live.lab.endpoint(Side::Blue), live.lab.endpoint(Side::Green));
    let noting = "CREATE TABLE noted (customer bigint PRIMARY KEY); \
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            INSERT INTO noted VALUES (NEW.id) ON CONFLICT DO NOTHING; RETURN NULL; END $$; \
        CREATE TRIGGER note AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note()";
    crate::world::ask(&blue, noting).await;
    for server in [&blue, &green] {
        crate::world::ask(server, "ALTER SYSTEM SET autovacuum = off").await;
        crate::world::ask(server, "SELECT pg_reload_conf()").await;
    }
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let plan = live.greenlight(&["plan", &playbook]).await.says("by trigger `note` of public.customers, inserts rows");
    for of_the_sync in ["rows from blue", "rows that come from blue", "stops the sync"] {
        assert!(!plan.said.contains(of_the_sync), "no row comes from a frozen blue: {}", plan.said);
    }
    let text = std::fs::read_to_string(&live.playbook).unwrap();
    let accepted = "accept: [\"not-reversible:public.customers\", \"not-reversible:public.noted\", ";
    std::fs::write(&live.playbook, text.replace("accept: [", accepted)).unwrap();
    live.run().await.expect(WAITS).says("statistics gathered of public.customers");
    let noted = "SELECT (SELECT count(*) FROM noted) = count(*) FROM customers";
    assert_eq!(crate::world::ask(&green, noted).await, ["t"]);
    assert_eq!(crate::world::ask(&blue, "SELECT count(*) FROM noted").await, ["0"]);
    let known = "SELECT tablename || '.' || attname FROM pg_stats \
        WHERE (tablename, attname) IN (('customers', 'search_name'), ('orders', 'total_cents'), ('noted', 'customer')) ORDER BY 1";
    assert_eq!(crate::world::ask(&green, known).await, ["customers.search_name", "noted.customer", "orders.total_cents"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_is_planned_with_what_it_takes_and_refused_without_a_limit() {
    let live = Live::up(freeze()).await;
    let playbook = live.playbook.to_str().unwrap().to_owned();
    live.greenlight(&["plan", &playbook]).await.expect(COMPLETED).says("Freeze blue").says("expected-pause");
    let text = std::fs::read_to_string(&live.playbook).unwrap();
    std::fs::write(&live.playbook, text.replace("  max_pause: 60s\n", "")).unwrap();
    live.greenlight(&["check", &playbook]).await.expect(PROBLEMS).says("how long the freeze may last");
}

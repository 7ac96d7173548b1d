//! What must keep the window shut, and what must be given up: each is made on real servers, and seen.

use crate::world::{APPROVAL, COMPLETED, Live, ROLLED_BACK, Setup, USAGE, WAITS, ask, connect, rows};
use greenlight::run::{Event, Fact};
use greenlight::word::Side;
use tokio::io::AsyncWriteExt;
use tokio_postgres::SimpleQueryMessage;

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

/// A walsender that was opened with `replication=database` takes SQL.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_over_a_replication_connection_is_ended_and_not_lost() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let blue = live.lab.endpoint(Side::Blue);
    let psql = crate::world::installed().await.client("psql", 15).unwrap();
    let to = format!("host={} port={} user={} dbname={} replication=database", blue.host, blue.port, blue.user, blue.database);
    let mut writer = tokio::process::Command::new(psql)
        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", &to])
        .env("PGPASSWORD", blue.password.as_ref().unwrap().expose())
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut says = writer.stdin.take().unwrap();
    says.write_all(b"BEGIN; INSERT INTO warehouse.sites VALUES (777, 'written');\n").await.unwrap();
    let writes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND backend_xid IS NOT NULL";
    live.until("the walsender has written", async || ask(&blue, writes).await == ["1"]).await;
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    says.write_all(b"COMMIT;\n").await.unwrap();
    drop(says);
    assert!(!writer.wait().await.unwrap().success(), "it was told that its write is committed");
    for side in [Side::Blue, Side::Green] {
        let written = ask(&live.lab.endpoint(side), "SELECT count(*) FROM warehouse.sites WHERE id = 777").await;
        assert_eq!(written, ["0"], "{side}");
    }
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_is_broken_in_the_soak_is_said_and_a_rollback_wants_a_word() {
    let mut live = Live::up(Setup::default()).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let soaking = live.start(&["run", &playbook], "");
    live.greenlight(&["status"]).await.says("a rollback now would lose nothing");
    let says = async |text: &str| live.stored().await.1.note.is_some_and(|note| note.contains(text));
    ask(&live.lab.endpoint(Side::Green), "CREATE TABLE warehouse.late (id int PRIMARY KEY)").await;
    live.until("a new table is said", async || says("GREEN'S SCHEMA WAS CHANGED").await && says("warehouse.late").await).await;
    live.greenlight(&["rollback", "--no-wait"]).await.expect(USAGE).says("rows of it cannot come back");
    ask(&live.lab.endpoint(Side::Green), "DROP TABLE warehouse.late").await;
    live.until("it is said no more", async || says("a rollback now would lose nothing").await).await;
    ask(&live.lab.endpoint(Side::Blue), "ALTER TABLE warehouse.sites DISABLE TRIGGER greenlight_fence").await;
    let broken = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::FenceBroken { .. }, .. });
    live.see_record("the fence is broken", broken).await;
    // It stays on record when somebody mends it.
    ask(&live.lab.endpoint(Side::Blue), "ALTER TABLE warehouse.sites ENABLE TRIGGER greenlight_fence").await;
    live.greenlight(&["status"]).await.says("blue's fence was broken").says("warehouse.sites");
    live.greenlight(&["rollback", "--no-wait"]).await.expect(USAGE).says("nobody knows what");
    assert_eq!(live.serving().await, Side::Green);
    drop(soaking);
    live.see_it_safe().await;
    live.greenlight(&["rollback", "--no-wait", "--reason", "only a trigger was off"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Blue);
    live.nothing_is_lost(Side::Blue).await;
}

/// The pooler's own try would come 15 s after the login that failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_tries_a_server_that_was_away_at_once_for_as_long_as_the_run_lasts() {
    let mut live = Live::up(Setup { playbook: APPROVAL, pgbouncers: 1, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);
    let console = connect(&live.lab.admin(0)).await;
    let retry = async || {
        let rows = console.simple_query("SHOW CONFIG").await.unwrap();
        let setting = |row: &SimpleQueryMessage| match row {
            SimpleQueryMessage::Row(row) if row.get(0) == Some("server_login_retry") => row.get(1).map(str::to_owned),
            _ => None,
        };
        rows.iter().find_map(setting).unwrap()
    };
    // Set ahead, since no look comes while a call lasts, and again where the pooler forgot it.
    assert_eq!(retry().await, "0.2");
    console.simple_query("RELOAD").await.unwrap();
    assert_eq!(retry().await, "15");
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let waiting = live.start(&["run", &playbook], "");
    live.until("the pooler is helped again", async || retry().await == "0.2").await;
    live.lab.crash(Side::Blue);
    live.lab.start(Side::Blue).await.unwrap();
    live.see_writes(50).await;
    live.greenlight(&["approve"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    assert_eq!(retry().await, "0.2");
    drop(waiting);
    live.nothing_is_lost(Side::Green).await;
    live.greenlight(&["finish"]).await.expect(COMPLETED);
    assert_eq!(retry().await, "15", "its own again");
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
    ask(&live.lab.endpoint(Side::Blue), "ALTER TABLE products DROP COLUMN sneaked_in").await;
    // No replication carries the first one of them.
    ask(&live.lab.endpoint(Side::Blue), "SELECT lo_create(4711)").await;
    live.run().await.expect(WAITS).says("blue's schema to be as it was planned again").says("large objects added");
    assert_eq!(live.serving().await, Side::Blue);
    // Undone, it is in nobody's way, and the approval still holds.
    ask(&live.lab.endpoint(Side::Blue), "SELECT lo_unlink(4711)").await;
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    ask(&live.lab.endpoint(Side::Green), "SELECT lo_create(4712)").await;
    live.greenlight(&["status"]).await.says("a rollback is NOT POSSIBLE now").says("large objects added");
    ask(&live.lab.endpoint(Side::Green), "SELECT lo_unlink(4712)").await;
    live.greenlight(&["status"]).await.says("would lose nothing");
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

/// A key that only one side has: no apply worker checks it, and no referential action fires for applied rows.
const OF_ONE_SIDE: &str = "
DROP TABLE reviews;
CREATE TABLE product_notes (product_id bigint PRIMARY KEY REFERENCES products (id) ON DELETE CASCADE);
CREATE FUNCTION note_product() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.product_notes VALUES (NEW.id); RETURN NULL;
END $$;
CREATE TRIGGER note_product AFTER INSERT ON products FOR EACH ROW EXECUTE FUNCTION note_product();
";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_name_none_by_a_key_of_one_side_keep_the_window_shut_in_both_directions() {
    let setup = Setup { playbook: APPROVAL, migration: Some(OF_ONE_SIDE), ..Setup::default() };
    let live = Live::up(setup).await;
    let [blue, green] = [Side::Blue, Side::Green].map(|side| live.lab.endpoint(side));
    let copy = |id: u32| {
        format!(
            "INSERT INTO products (id, category_id, sku, name, price) SELECT {id}, category_id, 'sku {id}', name, price FROM products LIMIT 1"
        )
    };
    ask(&blue, &copy(990_002)).await;
    let review =
        "INSERT INTO reviews (product_id, customer_id, stars, body) SELECT 990002, customer_id, 5, '' FROM reviews LIMIT 1";
    ask(&blue, review).await;
    live.run().await.expect(WAITS);
    ask(&blue, &copy(990_001)).await;
    live.until("it has come to green", async || ask(&green, "SELECT count(*) FROM product_notes").await == ["1"]).await;
    ask(&blue, "DELETE FROM products WHERE id = 990001").await;
    let said = live.greenlight(&["approve", "--no-wait"]).await.expect(WAITS);
    said.says("1 rows on green name rows that are not there").says("product_id=990001").says("which only green has");
    assert_eq!(live.serving().await, Side::Blue);
    ask(&green, "SET session_replication_role = replica; DELETE FROM product_notes").await;
    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);

    // Green has `reviews` no more, and lets its parents go.
    ask(&green, "DELETE FROM products WHERE id = 990002").await;
    live.until("it has come to blue", async || ask(&blue, "SELECT count(*) FROM products WHERE id = 990002").await == ["0"])
        .await;
    let said = live.greenlight(&["rollback", "--no-wait"]).await.expect(WAITS);
    said.says("no difference on blue").says("public.reviews").says("which only blue has");
    assert_eq!(live.serving().await, Side::Green);
    ask(&blue, "SET session_replication_role = replica; DELETE FROM reviews WHERE product_id = 990002").await;
    live.until("it goes back", async || {
        live.run().await;
        live.serving().await == Side::Blue
    })
    .await;
}

/// Rows that come from blue while a migration works: after its fill and its copy, and before its triggers fire for them.
const WITH_TRIGGERS: &str = "
ALTER TABLE products ADD COLUMN cents bigint;
CREATE TABLE product_prices (product_id bigint PRIMARY KEY, cents bigint NOT NULL);
UPDATE products SET cents = price * 100;
INSERT INTO product_prices SELECT id, price * 100 FROM products;
SELECT pg_sleep(1);
CREATE FUNCTION set_cents() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.cents := NEW.price * 100; RETURN NEW; END $$;
CREATE TRIGGER set_cents BEFORE INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION set_cents();
CREATE FUNCTION keep_price() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.product_prices VALUES (NEW.id, NEW.price * 100) ON CONFLICT (product_id) DO UPDATE SET cents = excluded.cents;
    RETURN NULL;
END $$;
CREATE TRIGGER keep_price AFTER INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION keep_price();
SELECT pg_sleep(2);
";

#[tokio::test(flavor = "multi_thread")]
async fn no_row_that_comes_while_a_migration_works_misses_its_triggers() {
    let setup = Setup { playbook: APPROVAL, migration: Some(WITH_TRIGGERS), pgbouncers: 1, ..Setup::default() };
    let live = Live::up(setup).await;
    let door = live.lab.through(0);
    let writes = tokio::spawn(async move {
        for turn in 0.. {
            let sql = format!("UPDATE products SET price = {} + id WHERE id % 25 = {}", turn % 1000, turn % 25);
            ask(&door, &sql).await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    live.run().await.expect(WAITS);
    writes.abort();
    let _ = writes.await;
    live.greenlight(&["approve"]).await.expect(COMPLETED);
    let green = live.lab.endpoint(Side::Green);
    let wrong = "SELECT (SELECT count(*) FROM products WHERE cents IS DISTINCT FROM price * 100) + \
                 (SELECT count(*) FROM products p FULL JOIN product_prices q ON q.product_id = p.id \
                  WHERE q.cents IS DISTINCT FROM p.price * 100)";
    assert_eq!(ask(&green, wrong).await, ["0"]);
    // What was written meanwhile came by way of the flow.
    assert_ne!(ask(&green, "SELECT count(*) FROM products WHERE cents < 150000").await, ["0"]);
}

/// The first row that blue cannot take stops its apply worker, for as long as it does not fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_blue_is_named_and_no_rollback_is_promised() {
    let migration = "ALTER TYPE payment_method ADD VALUE 'gift'; ALTER TABLE products ALTER COLUMN price DROP NOT NULL;";
    let live = Live::up(Setup { playbook: APPROVAL, migration: Some(migration), ..Setup::default() }).await;
    live.run().await.expect(WAITS);
    live.greenlight(&["approve"]).await.expect(COMPLETED);
    let [blue, green] = [Side::Blue, Side::Green].map(|side| live.lab.endpoint(side));
    live.greenlight(&["status"]).await.says("would lose nothing");
    ask(&green, "UPDATE payments SET method = 'gift' WHERE id = (SELECT id FROM payments ORDER BY id LIMIT 1)").await;
    let key = ask(&green, "SELECT 'id=' || id FROM payments WHERE method = 'gift'").await.remove(0);
    live.until("it is said", async || {
        let said = live.greenlight(&["status"]).await.said;
        said.contains("a rollback is NOT POSSIBLE now") && said.contains(&key) && said.contains("column `method`")
    })
    .await;
    let said = live.greenlight(&["rollback", "--no-wait"]).await.expect(USAGE);
    said.says("blue refuses it").says(&key).says("greenlight finish");
    assert_eq!(live.serving().await, Side::Green);
    // Made to fit, it arrives. The change of blue's schema is on record, and wants a word.
    ask(&blue, "ALTER TYPE payment_method ADD VALUE 'gift'").await;
    live.until("it has arrived", async || ask(&blue, "SELECT count(*) FROM payments WHERE method = 'gift'").await == ["1"]).await;
    live.greenlight(&["rollback", "--no-wait", "--reason", "the new label is there, too"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Blue);
}

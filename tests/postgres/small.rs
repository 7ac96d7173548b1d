//! What is short and stands for itself: sequences, small changes of the schema, transactions, settings, warming.

use crate::world::{World, app, ask, refused, sql, until};
use greenlight::plan::SyncTrigger;
use greenlight::postgres::{PgServer, PgServerOptions, SequenceValue, Server, sequences_behind};
use greenlight::word::{Endpoint, Failure, Lsn, RelationName, Side};
use std::{sync::Mutex, time::Duration};

fn public(name: &str) -> RelationName {
    RelationName::new("public", name)
}

fn value(name: &str, last_value: i64) -> SequenceValue {
    SequenceValue { sequence: public(name), last_value: Some(last_value), increment: 1 }
}

async fn last(endpoint: &Endpoint, name: &str) -> String {
    sql(endpoint, &format!("SELECT last_value FROM {}", public(name).sql())).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_are_set_with_a_margin_within_their_bounds_and_never_back() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(
        &endpoint,
        "CREATE SEQUENCE up; CREATE SEQUENCE unused; CREATE SEQUENCE \"Ahead 'x\"; CREATE SEQUENCE by_ten INCREMENT 10;
         CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE small AS smallint; CREATE SEQUENCE low INCREMENT -5 MINVALUE -20 MAXVALUE 10 START 10;
         CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY);
         SELECT setval('\"Ahead ''x\"', 5000), setval('t_id_seq', 7), setval('small', 3)",
    )
    .await;
    let server = world.server(Side::Blue);
    let seen = server.sequences().await.unwrap();
    assert_eq!(seen.len(), 8);
    let of = |name: &str| seen.iter().find(|value| value.sequence == public(name)).unwrap();
    assert_eq!((of("t_id_seq").last_value, of("unused").last_value, of("low").increment), (Some(7), None, -5));

    let unused = SequenceValue { last_value: None, ..value("unused", 0) };
    let wanted = [
        value("up", 100),
        value("Ahead 'x", 100),
        value("by_ten", 41),
        value("down", -100),
        value("small", 32_700),
        value("low", -10),
        value("t_id_seq", 70),
        value("not_here", 1),
        unused,
    ];
    for _ in 0..2 {
        server.set_sequences(&wanted, 100).await.unwrap();
        for (name, expected) in [
            ("up", "200"),
            ("Ahead 'x", "5000"),
            ("by_ten", "1041"),
            ("down", "-200"),
            ("small", "32700"),
            ("low", "-10"),
            ("t_id_seq", "170"),
            ("unused", "1"),
        ] {
            assert_eq!(last(&endpoint, name).await, expected, "{name}");
        }
    }
    // At the very end nothing overflows, and values that the sequence cannot hold are cut.
    server.set_sequences(&[value("up", i64::MAX - 5), value("small", 1_000_000)], u64::MAX).await.unwrap();
    assert_eq!(last(&endpoint, "up").await, (i64::MAX - 5).to_string());
    assert_eq!(last(&endpoint, "small").await, "32767");
    // What is read back tells them.
    let wanted = [value("up", i64::MAX - 5), value("small", 1_000_000), value("by_ten", 41)];
    let behind = sequences_behind(&wanted, &server.sequences().await.unwrap());
    assert_eq!(behind, ["public.small at 32767, not 1000000"]);
    server.set_sequences(&[value("up", 1)], 0).await.unwrap();
    assert_eq!(last(&endpoint, "up").await, (i64::MAX - 5).to_string());
    server.set_sequences(&[], 5).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn not_null_is_dropped_and_put_back_only_where_every_row_has_a_value() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(
        &endpoint,
        "CREATE TABLE t (id int PRIMARY KEY, \"Odd\" text NOT NULL, b int NOT NULL); INSERT INTO t VALUES (1, 'x', 1)",
    )
    .await;
    let server = world.server(Side::Blue);
    let columns = ["Odd".to_owned(), "gone".to_owned()];
    let odd = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'Odd'";
    for (on, expected) in [(false, "f"), (false, "f"), (true, "t"), (true, "t"), (false, "f")] {
        server.ensure_not_null(&public("t"), &columns, on).await.unwrap();
        assert_eq!(sql(&endpoint, odd).await, [expected]);
    }
    sql(&endpoint, "INSERT INTO t VALUES (2, NULL, 2)").await;
    let error = server.ensure_not_null(&public("t"), &columns, true).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert_eq!(sql(&endpoint, odd).await, ["f"]);
    assert_eq!(
        sql(&endpoint, "SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'").await,
        ["0"]
    );
    server.ensure_not_null(&public("no_such"), &columns, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_made_to_fire_for_applied_rows_and_back() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(
        &endpoint,
        "CREATE TABLE t (id int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER \"Sync it\" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    let server = world.server(Side::Blue);
    let trigger = |name: &str| SyncTrigger { table: public("t"), name: name.to_owned() };
    let mode = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'Sync it'";
    for (always, expected) in [(true, "A"), (true, "A"), (false, "O"), (false, "O")] {
        server.ensure_sync_triggers(&[trigger("Sync it")], always).await.unwrap();
        assert_eq!(sql(&endpoint, mode).await, [expected]);
    }
    assert_eq!(server.ensure_sync_triggers(&[trigger("none")], true).await.unwrap_err().failure, Failure::Refused);
    server.ensure_sync_triggers(&[trigger("none")], false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_table_forgets_the_run_s_migrations_behind_a_closed_fence() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    let server = world.server(Side::Blue);
    server.ensure_history_without(&["0002".to_owned()]).await.unwrap();
    sql(&endpoint, "CREATE TABLE schema_migrations (version varchar(50) PRIMARY KEY); INSERT INTO schema_migrations VALUES ('0001'), ('0002'), ('0003')").await;
    server.ensure_claimed().await.unwrap();
    server.ensure_fence(greenlight::postgres::Fence::Triggers).await.unwrap();
    for _ in 0..2 {
        server.ensure_history_without(&["0002".to_owned(), "0003".to_owned()]).await.unwrap();
        assert_eq!(sql(&endpoint, "SELECT version FROM schema_migrations").await, ["0001"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_transactions_are_seen_and_ended_without_touching_ours() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, "CREATE TABLE t (id int)").await;
    let server = world.server(Side::Blue);
    server.connect().await.unwrap();
    let idle = app(&endpoint).await;
    idle.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let busy = app(&endpoint).await;
    let sleeping = tokio::spawn(async move { refused(&busy, "SELECT pg_sleep(600)").await });
    until(&endpoint, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'", "1").await;
    assert!(server.long_transactions(Duration::from_mins(10)).await.unwrap().is_empty());
    let long = server.long_transactions(Duration::ZERO).await.unwrap();
    assert_eq!(long.len(), 2, "{long:?}");
    assert!(long[0].who.contains("idle in transaction") && long[0].who.contains("The Admin"), "{long:?}");
    assert!(long[0].age >= long[1].age);
    let pids: Vec<i32> = long.iter().map(|transaction| transaction.pid).chain([1]).collect();
    for _ in 0..2 {
        server.cancel_transactions(&pids).await.unwrap();
    }
    assert_eq!(sleeping.await.unwrap(), "57014");
    until(&endpoint, "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'", "0").await;
    assert_ne!(refused(&idle, "COMMIT").await, "");
    assert!(server.long_transactions(Duration::ZERO).await.unwrap().is_empty());

    let preparing = app(&endpoint).await;
    preparing.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s'").await.unwrap();
    assert_eq!(server.prepared_transactions().await.unwrap(), ["it's"]);
    preparing.batch_execute("COMMIT PREPARED 'it''s'").await.unwrap();
    assert!(server.prepared_transactions().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_transactions_are_read_only_by_default_until_that_is_taken_back() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, "CREATE TABLE t (id int)").await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    for (on, expected) in [(true, "25006"), (true, "25006"), (false, ""), (false, "")] {
        server.ensure_read_only_default(on).await.unwrap();
        assert_eq!(refused(&app(&endpoint).await, "INSERT INTO t VALUES (1)").await, expected);
        server.write_marker(1).await.unwrap();
    }
    let left = "SELECT count(*) FROM pg_file_settings WHERE name = 'default_transaction_read_only'";
    assert_eq!(sql(&endpoint, left).await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_who_it_is_and_where_its_log_stands() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    let server = world.server(Side::Blue);
    let identity = server.identity().await.unwrap();
    assert_eq!(
        sql(&endpoint, "SELECT system_identifier FROM pg_control_system()").await,
        [identity.system_identifier.to_string()]
    );
    assert_eq!((identity.in_recovery, identity.timeline), (false, 1));
    let signature = server.signature().await.unwrap();
    assert!(signature.ends_with(&format!("on port {}", world.blue.port)), "{signature}");
    assert_eq!(
        sql(&endpoint, &format!("SET TimeZone = 'Asia/Tokyo'; {}", greenlight::postgres::SIGNATURE_SQL)).await,
        [signature]
    );
    let before = server.wal_lsn().await.unwrap();
    let point = server.create_restore_point("greenlight_r1234567").await.unwrap();
    assert!(before < point && point <= server.wal_lsn().await.unwrap());
    assert_eq!(server.replay_lsn().await.unwrap(), server.wal_lsn().await.unwrap());
    server.promote().await.unwrap();
    assert_eq!(server.fork_point().await.unwrap_err().failure, Failure::Refused);
    // Without the usual database for maintenance there is another one.
    sql(&endpoint, "DROP DATABASE postgres WITH (FORCE)").await;
    let other = PgServer::new(PgServerOptions { maintenance_database: Some("no such".to_owned()), ..world.options(Side::Blue) });
    other.connect().await.unwrap();
    assert_eq!(other.slot("none").await.unwrap(), None);
    assert_eq!(other.advance_slot("none", Lsn(1)).await.unwrap_err().failure, Failure::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_analyzes_refreshes_and_prewarms() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(
        &endpoint,
        "CREATE SCHEMA ext; CREATE EXTENSION pg_prewarm SCHEMA ext;
         CREATE TABLE \"T one\" (id int PRIMARY KEY, at date); INSERT INTO \"T one\" SELECT n, '2026-01-01' FROM generate_series(1, 500) n;
         CREATE TABLE p (id int) PARTITION BY HASH (id); CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM \"T one\";
         CREATE MATERIALIZED VIEW m2 AS SELECT n * 2 AS n FROM m;
         CREATE MATERIALIZED VIEW empty AS SELECT 1 WITH NO DATA;
         INSERT INTO \"T one\" SELECT n, '2026-01-01' FROM generate_series(501, 1000) n",
    )
    .await;
    let server = world.server(Side::Blue);
    let told = Mutex::new(Vec::new());
    let progress = |what: &str, done: u64, total: u64| told.lock().unwrap().push(format!("{what} {done}/{total}"));
    for _ in 0..2 {
        server.warm(&[public("T one"), public("p")], &progress).await.unwrap();
    }
    assert_eq!(sql(&endpoint, "SELECT n FROM m2").await, ["2000"]);
    assert_eq!(sql(&endpoint, "SELECT reltuples FROM pg_class WHERE relname = 'T one'").await, ["1000"]);
    assert_eq!(sql(&endpoint, "SELECT relispopulated FROM pg_class WHERE relname = 'empty'").await, ["f"]);
    let told = told.into_inner().unwrap();
    for line in ["analyze 2/2", "refresh materialized views 2/2", "warm the caches 3/3"] {
        assert!(told.iter().any(|said| said == line), "{told:?}");
    }
    assert_eq!(ask(&app(&endpoint).await, "SELECT 1").await, ["1"]);
}

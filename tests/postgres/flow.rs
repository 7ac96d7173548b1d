//! Publications and slots.

use crate::world::{World, app, refused, session, sql, until};
use greenlight::postgres::{PublishedTable, Server};
use greenlight::word::{Failure, Lsn, RelationName, Side};

fn whole(schema: &str, name: &str) -> PublishedTable {
    PublishedTable { table: RelationName::new(schema, name), columns: None }
}

fn narrowed(schema: &str, name: &str, columns: &[&str]) -> PublishedTable {
    PublishedTable { columns: Some(columns.iter().map(|&column| column.to_owned()).collect()), ..whole(schema, name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_becomes_what_is_wanted_and_always_holds_the_marker() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(
        &endpoint,
        "CREATE TABLE a (id int PRIMARY KEY, \"B c\" text, d int); CREATE SCHEMA \"S 1\"; CREATE TABLE \"S 1\".\"T'\" (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id); CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    .await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    assert_eq!(server.publication("greenlight_p").await.unwrap(), None);
    let first = [whole("S 1", "T'"), whole("public", "a")];
    let second = [narrowed("public", "a", &["id", "B c"]), whole("public", "p")];
    for wanted in [&first[..], &first[..], &second[..], &second[..], &first[..], &[]] {
        server.ensure_publication("greenlight_p", wanted).await.unwrap();
        assert_eq!(server.publication("greenlight_p").await.unwrap().unwrap(), wanted);
        let marker = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'greenlight_p' AND schemaname = 'greenlight'";
        assert_eq!(sql(&endpoint, marker).await, ["1"]);
    }
    assert_eq!(sql(&endpoint, "SELECT pubviaroot FROM pg_publication").await, ["t"]);
    let error = server.ensure_publication("greenlight_p", &[narrowed("public", "a", &["none"])]).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    // What is not as unchanged is not touched: no lock is taken for it.
    server.ensure_publication("greenlight_p", &first).await.unwrap();
    let busy = app(&endpoint).await;
    busy.batch_execute("BEGIN; LOCK TABLE a").await.unwrap();
    server.ensure_publication("greenlight_p", &first).await.unwrap();
    let error = server.ensure_publication("greenlight_p", &second).await.unwrap_err();
    assert_eq!(error.failure, Failure::Transient);
    busy.batch_execute("ROLLBACK").await.unwrap();
    for _ in 0..2 {
        server.ensure_no_publication("greenlight_p").await.unwrap();
    }
    sql(&endpoint, "CREATE PUBLICATION greenlight_all FOR ALL TABLES").await;
    assert_eq!(server.ensure_publication("greenlight_all", &first).await.unwrap_err().failure, Failure::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tables_are_published_and_fenced_in_little_time() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(
        &endpoint,
        "DO $$ BEGIN FOR n IN 1..1000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v int)', n); END LOOP; END $$",
    )
    .await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    let tables: Vec<PublishedTable> = (1..=1000).map(|n| whole("public", &format!("t{n}"))).collect();
    let started = std::time::Instant::now();
    server.ensure_publication("greenlight_p", &tables).await.unwrap();
    let published = started.elapsed();
    server.ensure_fence_installed().await.unwrap();
    let fenced = started.elapsed();
    server.ensure_unclaimed().await.unwrap();
    let removed = started.elapsed();
    assert!(removed.as_secs() < 30, "published at {published:?}, fenced at {fenced:?}, removed at {removed:?}");
    assert_eq!(sql(&endpoint, "SELECT count(*) FROM pg_trigger").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_made_moved_up_and_dropped_even_while_it_is_in_use() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    assert_eq!(server.slot("greenlight_s").await.unwrap(), None);
    server.ensure_publication("greenlight_s", &[whole("public", "t")]).await.unwrap();
    let lsn = server.create_slot("greenlight_s").await.unwrap();
    assert_eq!(server.create_slot("greenlight_s").await.unwrap_err().failure, Failure::Refused);
    let slot = server.slot("greenlight_s").await.unwrap().unwrap();
    assert_eq!((slot.confirmed_flush, slot.active, slot.lost), (lsn, false, false));

    // Written and not yet on the disk, as an apply worker's commits are.
    sql(&endpoint, "SET synchronous_commit = off; INSERT INTO t VALUES (1)").await;
    let written = server.wal_lsn().await.unwrap();
    let to = server.flush_wal().await.unwrap();
    assert!(to >= written);
    let flushed: Lsn = sql(&endpoint, "SELECT pg_current_wal_flush_lsn()").await[0].parse().unwrap();
    assert!(flushed >= to);
    server.advance_slot("greenlight_s", to).await.unwrap();
    assert_eq!(server.slot("greenlight_s").await.unwrap().unwrap().confirmed_flush, to);
    server.advance_slot("greenlight_s", lsn).await.unwrap();
    assert_eq!(server.slot("greenlight_s").await.unwrap().unwrap().confirmed_flush, to);
    sql(&endpoint, "INSERT INTO t SELECT generate_series(2, 10000)").await;
    assert!(server.slot("greenlight_s").await.unwrap().unwrap().retained_bytes > 100_000);

    // Another database of the same server follows it.
    let other = endpoint.with_database("postgres");
    let conninfo = greenlight::word::quote_literal(endpoint.to_conninfo_for_subscription("x", 15).expose());
    sql(&other, "CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA greenlight; CREATE TABLE greenlight.marker (id int PRIMARY KEY, value bigint, run text)").await;
    sql(&other, &format!("CREATE SUBSCRIPTION greenlight_s CONNECTION {conninfo} PUBLICATION greenlight_s WITH (create_slot = false, copy_data = false)")).await;
    until(&other, "SELECT count(*) FROM t", "9999").await;
    assert!(server.slot("greenlight_s").await.unwrap().unwrap().active);
    let to = server.wal_lsn().await.unwrap();
    sql(&endpoint, "INSERT INTO t VALUES (0)").await;
    if let Err(error) = server.advance_slot("greenlight_s", to).await {
        assert_eq!(error.failure, Failure::Transient);
    }
    for _ in 0..2 {
        server.ensure_no_slot("greenlight_s").await.unwrap();
        assert_eq!(server.slot("greenlight_s").await.unwrap(), None);
    }
    sql(&other, "ALTER SUBSCRIPTION greenlight_s DISABLE").await;
    sql(&other, "ALTER SUBSCRIPTION greenlight_s SET (slot_name = NONE)").await;
    sql(&other, "DROP SUBSCRIPTION greenlight_s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_waits_for_running_transactions_and_names_them_when_it_has_waited_too_long() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let server = world.server(Side::Blue);
    let busy = session(&endpoint).await;
    busy.client().batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let creating = tokio::spawn(async move {
        let made = server.create_slot("greenlight_s").await;
        (server, made)
    });
    // What the limit does, only sooner.
    let cancel = "SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE query LIKE '%pg_create_logical%' AND pid <> pg_backend_pid() AND wait_event = 'transactionid'";
    until(&endpoint, cancel, "t").await;
    let (server, made) = creating.await.unwrap();
    let error = made.unwrap_err();
    assert_eq!(error.failure, Failure::Transient);
    assert!(error.hint.unwrap().contains(&format!("pid {}", busy.pid())));
    until(&endpoint, "SELECT count(*) FROM pg_replication_slots", "0").await;
    assert_eq!(refused(busy.client(), "COMMIT").await, "");
    server.create_slot("greenlight_s").await.unwrap();
}

//! Migrations in batches: each row once, whatever ends in between.

use crate::world::{World, migration, until};
use greenlight::migrate::{Migration, Migrator};
use greenlight::word::{Clock, Failure, Side, SystemClock};
use std::time::Duration;

const UP: &str = "-- greenlight: batches of 100\nUPDATE \"T x\" AS t SET n = n + 1 WHERE :batch AND n >= 0;";
const DOWN: &str = "-- greenlight: batches of 70\nUPDATE \"T x\" SET n = n - 1 WHERE :batch;";

async fn world(table: &str) -> World {
    let world = World::up().await;
    world.shop().await.batch_execute(table).await.unwrap();
    world
}

async fn count(world: &World, sql: &str) -> i64 {
    world.shop().await.query_one(sql, &[]).await.unwrap().get(0)
}

fn both() -> Migration {
    Migration { down: Some(DOWN.to_owned()), ..migration("1", UP) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_is_gone_through_once() {
    for (columns, key, rows) in [
        ("id int PRIMARY KEY", "id", "i"),
        ("\"a b\" text, b numeric(10,2), PRIMARY KEY (\"a b\", b)", "\"a b\", b", "'it''s \\' || i % 7, i / 4.0"),
        ("u timestamptz NOT NULL UNIQUE", "u", "timestamptz '2026-01-01' + i * interval '1 hour'"),
        ("c char(6) COLLATE \"C\" PRIMARY KEY", "c", "'x' || i"),
        ("b bytea PRIMARY KEY", "b", "int4send(i)"),
    ] {
        let sql = format!(
            "SET standard_conforming_strings = on; CREATE TABLE \"T x\" ({columns}, n int NOT NULL DEFAULT 0);
             INSERT INTO \"T x\" ({key}) SELECT {rows} FROM generate_series(1, 1000) AS i"
        );
        let world = world(&sql).await;
        world.migrator().apply(&both(), &|_, _| ()).await.unwrap();
        assert_eq!(count(&world, "SELECT count(*) FROM \"T x\" WHERE n = 1").await, 1000, "{columns}");
        assert!(world.migrator().unfinished().await.unwrap().is_empty());
        world.migrator().apply(&both(), &|_, _| ()).await.unwrap();
        world.migrator().revert(&both(), &|_, _| ()).await.unwrap();
        assert_eq!(count(&world, "SELECT count(*) FROM \"T x\" WHERE n = 0").await, 1000, "{columns}");
    }
}

/// The rows of batch 4 are in its way.
const BARRED: &str = "CREATE TABLE \"T x\" (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, CHECK (id <> 350 OR n = 0));
    INSERT INTO \"T x\" SELECT i FROM generate_series(1, 1000) AS i";

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_in_the_middle_goes_on_there_or_is_taken_back_so_far() {
    let world = world(BARRED).await;
    let one = "SELECT count(*) FROM \"T x\" WHERE n = 1";
    for taken_back in [true, false] {
        let error = world.migrator().apply(&both(), &|_, _| ()).await.unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.hint.as_ref().unwrap().contains("up to (id) = (300) is done"), "{}", error.chain());
        assert_eq!(count(&world, one).await, 300);
        let unfinished = world.migrator().unfinished().await.unwrap();
        assert_eq!((unfinished.len(), unfinished[0].version.as_str(), unfinished[0].down), (1, "1", false));
        assert!(world.migrator().applied().await.unwrap().is_empty());
        if taken_back {
            world.migrator().revert(&both(), &|_, _| ()).await.unwrap();
            assert_eq!(count(&world, "SELECT count(*) FROM \"T x\" WHERE n = 0").await, 1000);
        } else {
            let sql = "ALTER TABLE \"T x\" DROP CONSTRAINT \"T x_check\"; INSERT INTO \"T x\" VALUES (2000)";
            world.shop().await.batch_execute(sql).await.unwrap();
            let other = migration("1", &UP.replace("n + 1", "n + 2"));
            let error = world.migrator().apply(&other, &|_, _| ()).await.unwrap_err();
            assert!(error.chain().contains("another text of it"), "{}", error.chain());
            world.migrator().apply(&both(), &|_, _| ()).await.unwrap();
            assert_eq!(count(&world, one).await, 1001);
        }
        assert!(world.migrator().unfinished().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_ended_again_and_again_and_locks_write_no_row_twice() {
    let world = world(
        "CREATE TABLE \"T x\" (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, w int NOT NULL DEFAULT 0) PARTITION BY HASH (id);
        CREATE TABLE p0 PARTITION OF \"T x\" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE p1 PARTITION OF \"T x\" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO \"T x\" SELECT i FROM generate_series(1, 4000) AS i",
    )
    .await;
    let writer = world.shop().await;
    let mut written = 0_i64;
    let migrator = world.migrator().on(Side::Blue);
    let mut ended = 0;
    let run = async {
        loop {
            match migrator.apply(&both(), &|_, _| ()).await {
                Ok(_) => return ended,
                Err(error) => {
                    assert_ne!(error.failure, Failure::Refused, "{}", error.chain());
                    ended += 1;
                }
            }
        }
    };
    let disturb = async {
        loop {
            written += i64::try_from(
                writer
                    .execute("UPDATE \"T x\" SET w = w + 1 WHERE id = $1 % 4000 + 1", &[&i32::try_from(written).unwrap()])
                    .await
                    .unwrap(),
            )
            .unwrap();
            if written % 60 == 0 && written < 400 {
                let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'greenlight/%'";
                writer.batch_execute(kill).await.unwrap();
            }
            SystemClock::new().sleep(Duration::from_millis(1)).await;
        }
    };
    let ended = tokio::select! { ended = run => ended, () = disturb => unreachable!() };
    assert!(ended > 0, "no session was ended in between");
    assert_eq!(count(&world, "SELECT count(*) FROM \"T x\" WHERE n = 1").await, 4000);
    assert!(count(&world, "SELECT sum(w) FROM \"T x\"").await >= written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_tried_for_again_and_rows_are_deleted_in_batches() {
    let world = world(BARRED).await;
    let holder = world.shop().await;
    holder.batch_execute("BEGIN; UPDATE \"T x\" SET n = 5 WHERE id = 250").await.unwrap();
    let gone = migration("1", "-- greenlight: batches of 100\nDELETE FROM \"T x\" WHERE id % 2 = 0 AND (:batch)");
    let migrator = world.migrator();
    let (applied, ()) = tokio::join!(migrator.apply(&gone, &|_, _| ()), async {
        let watch = world.shop().await;
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until(&watch, waits).await;
        until(&watch, &waits.replace("> 0", "= 0")).await;
        holder.batch_execute("COMMIT").await.unwrap();
    });
    applied.unwrap();
    assert_eq!(count(&world, "SELECT count(*) FROM \"T x\"").await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_gone_through_fails_in_the_shadow_already() {
    let world = world("CREATE TABLE k (id int, n int); CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    for (up, says) in [
        ("UPDATE k SET n = 1 WHERE :batch;", "k has no primary key"),
        ("UPDATE t SET id = id + 1 WHERE :batch;", "it sets `id`"),
        ("UPDATE none SET id = id + 1 WHERE :batch;", "there is no table \"none\""),
    ] {
        let up = migration("1", &format!("-- greenlight: batches of 5\n{up}"));
        let said = format!("{:?}", world.shadow(std::slice::from_ref(&up)).await.unwrap_err());
        assert!(said.contains(says.replace('"', "\\\"").as_str()), "{said}");
        assert!(world.migrator().apply(&up, &|_, _| ()).await.unwrap_err().chain().contains(says));
    }
    let good = migration("1", "-- greenlight: batches of 5\nUPDATE t SET n = 1 WHERE :batch;");
    let report = world.shadow(&[good]).await.unwrap();
    assert_eq!(report.statements[0].writes[0].columns, ["n"]);
}

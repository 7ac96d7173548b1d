//! Backfills in batches, on the server that serves, under its clients.

use crate::inplace::{die_until, up_with};
use crate::world::{COMPLETED, HELD, Live, ROLLED_BACK, ask};
use greenlight::word::Side;

const COLUMN: (&str, &str) = ("0001_visits.up.sql", "ALTER TABLE orders ADD COLUMN visits int NOT NULL DEFAULT 0;\n");
const COLUMN_DOWN: (&str, &str) = ("0001_visits.down.sql", "ALTER TABLE orders DROP COLUMN visits;\n");
const FILL: (&str, &str) =
    ("0002_fill.up.sql", "-- greenlight: batches of 50\nUPDATE orders SET visits = visits + 1 WHERE :batch;\n");
const FILL_DOWN: (&str, &str) =
    ("0002_fill.down.sql", "-- greenlight: batches of 50\nUPDATE orders SET visits = visits - 1 WHERE :batch;\n");
/// Breaks at a row in the middle.
const BREAKS: (&str, &str) =
    ("0002_fill.up.sql", "-- greenlight: batches of 50\nUPDATE orders SET visits = visits + 1 / abs(id - 200) WHERE :batch;\n");
const FAILS: (&str, &str) = ("0003_free.up.sql", "ALTER TABLE orders ADD CONSTRAINT orders_are_free CHECK (total_cents < 0);\n");
const FAILS_DOWN: (&str, &str) = ("0003_free.down.sql", "ALTER TABLE orders DROP CONSTRAINT orders_are_free;\n");
const ACCEPTS: &str = "accept: [\"lock:public.orders\"]\n";

impl Live {
    /// The largest order's number.
    async fn last_order(&self) -> String {
        ask(&self.lab.endpoint(Side::Blue), "SELECT max(id) FROM orders").await.remove(0)
    }

    /// How many of our schema and of the column there are.
    async fn left_of_it(&self) -> String {
        let sql = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'greenlight') + (SELECT count(*) FROM pg_attribute \
                       WHERE attrelid = 'orders'::regclass AND attname = 'visits' AND NOT attisdropped)";
        ask(&self.lab.endpoint(Side::Blue), sql).await.remove(0)
    }

    /// Every order that was there before has one visit, and each that came meanwhile one or none.
    async fn each_was_filled_once(&self, last: &str) {
        let sql = format!("SELECT count(*) FROM orders WHERE visits <> 1 AND (id <= {last} OR visits <> 0)");
        assert_eq!(ask(&self.lab.endpoint(Side::Blue), &sql).await, ["0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_goes_on_where_it_was_killed_and_writes_each_row_once() {
    let mut live = up_with(15, &[COLUMN, COLUMN_DOWN, FILL, FILL_DOWN], |_| String::new()).await;
    let playbook = live.playbook.to_str().unwrap().to_owned();
    live.greenlight(&["plan", &playbook]).await.expect(COMPLETED).says("in batches of 50 rows");
    let last = live.last_order().await;
    live.start_writing().await;
    let places = ["batch-done", "batch-done", "batch-done", "batches-last", "in-place-migrated"];
    let deaths = die_until(&live, &places, COMPLETED).await;
    assert!(deaths >= places.len(), "{deaths}");
    live.each_was_filled_once(&last).await;
    assert_eq!((live.left_of_it().await.as_str(), live.applied().await.len()), ("1", 2), "the column, and nothing of ours");
    let report = live.nothing_is_lost(Side::Blue).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_is_taken_back_in_batches_however_often_it_is_killed() {
    let mut live = up_with(15, &[COLUMN, COLUMN_DOWN, FILL, FILL_DOWN, FAILS, FAILS_DOWN], |_| ACCEPTS.to_owned()).await;
    live.start_writing().await;
    // The first is met on the way up, the others on the way down.
    let deaths = die_until(&live, &["in-place-migrated", "batches-last", "batch-done", "in-place-reverted"], ROLLED_BACK).await;
    assert!(deaths >= 4, "{deaths}");
    assert_eq!((live.left_of_it().await.as_str(), live.applied().await.len()), ("0", 0));
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_breaks_in_the_middle_is_taken_back_as_far_as_it_came() {
    let live = up_with(15, &[COLUMN, COLUMN_DOWN, BREAKS, FILL_DOWN], |_| ACCEPTS.to_owned()).await;
    live.run().await.expect(ROLLED_BACK).says("division by zero").says("is done and stays so");
    assert_eq!((live.left_of_it().await.as_str(), live.applied().await.len()), ("0", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_without_a_way_back_is_held_half_done_and_goes_on_once_its_rows_are_mended() {
    let live =
        up_with(15, &[COLUMN, COLUMN_DOWN, BREAKS], |_| "accept: [\"lock:public.orders\", down-migrations]\n".to_owned()).await;
    live.run().await.expect(HELD).says("is done and stays so").says("has no down migration");
    live.greenlight(&["abandon", "--no-wait"])
        .await
        .expect(HELD)
        .says("there is no `0002_fill.down.sql`, and it is done with orders");
    let swept = live.greenlight(&["sweep", &live.lab.url(Side::Blue), "--remove"]).await;
    swept.says("belong to open runs");
    // Of a lost run, its record of how far it came must not be lost too.
    let away = live.lab.dir().join("away");
    std::fs::rename(&live.state, &away).unwrap();
    live.greenlight(&["sweep", &live.lab.url(Side::Blue), "--remove"])
        .await
        .expect(Some(1))
        .says("a migration is half done: version 0002");
    std::fs::rename(&away, &live.state).unwrap();
    assert_eq!(live.left_of_it().await, "2");
}

//! A restored server has exactly what was committed up to the point, not one row more.

use crate::world::{Kind, World, ask};
use greenlight::snapshot::restore::{self, Target};
use greenlight::word::Lsn;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_target_is_met_exactly_on_15_with_basebackup_and_archive_command() {
    every_target(15, Kind::Archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_target_is_met_exactly_on_15_with_basebackup_and_a_receiver() {
    every_target(15, Kind::Receive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_target_is_met_exactly_on_15_with_pgbackrest() {
    every_target(15, Kind::Pgbackrest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_target_is_met_exactly_on_18_with_basebackup() {
    every_target(18, Kind::Archive).await;
}

async fn every_target(major: u32, kind: Kind) {
    let Some(world) = World::up(major, kind).await else { return };
    world.write(1).await;
    let backup = world.back_up().await;
    if kind == Kind::Pgbackrest {
        // It tells its times to the second.
        world.ask("SELECT pg_sleep(1.1)").await;
    }
    let two = world.write(2).await;
    // Committed by another session while the next transactions come and go: it is after three by any measure.
    let three = world.write(3).await;
    let point = world.source.create_restore_point("before four").await.unwrap();
    world.store.notes().record(&point).await.unwrap();
    let four = world.write(4).await;
    let foreign = world.source.create_restore_point("not written down").await.unwrap();
    assert!(foreign.lsn > four.after);
    let five = world.write(5).await;
    world.archive().await;
    world.write(6).await;
    world.archive().await;

    assert_eq!(world.rows_at(Target::Time(three.at), None).await, [1, 2, 3]);
    let just_before = three.at - Duration::from_micros(1);
    assert_eq!(world.rows_at(Target::Time(just_before), None).await, [1, 2]);
    assert_eq!(world.rows_at(Target::Lsn(four.after), None).await, [1, 2, 3, 4]);
    assert_eq!(world.rows_at(Target::Lsn(Lsn(four.after.0 - 1)), None).await.len(), 3 + usize::from(starts_before(four.after)));
    assert_eq!(world.rows_at(Target::Transaction(two.xid), None).await, [1, 2]);
    assert_eq!(world.rows_at(Target::Point("before four".to_owned()), None).await, [1, 2, 3]);
    assert_eq!(world.rows_at(Target::Point("not written down".to_owned()), None).await, [1, 2, 3, 4]);
    assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2, 3, 4, 5, 6]);
    assert!(five.at < world.rows_time().await && backup.stop < two.after);
}

/// The record that ends at a place begins before the byte before it: it is replayed.
fn starts_before(_: Lsn) -> bool {
    true
}

impl World {
    async fn rows_time(&self) -> greenlight::word::Timestamp {
        self.write(7).await.at
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_is_promoted_and_nothing_of_it_reaches_the_archive() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    let one = world.write(1).await;
    world.write(2).await;
    world.archive().await;
    let place = world.place("restored");
    let plan = world.check(&Target::Lsn(one.after), &place).await;
    let restored = world.recover(&plan).await.unwrap();
    restore::promote(&place, &world.source.at).await.unwrap();
    let before = std::fs::read_dir(world.wal()).unwrap().count();
    ask(&restored.endpoint, "INSERT INTO kept (id) VALUES (20); SELECT pg_switch_wal()").await;
    assert_eq!(ask(&restored.endpoint, "SELECT id FROM kept ORDER BY id").await, ["1", "20"]);
    assert_eq!(ask(&restored.endpoint, "SHOW archive_mode").await, ["off"]);
    assert_eq!(ask(&restored.endpoint, "SHOW restore_command").await, [""]);
    assert_eq!(std::fs::read_dir(world.wal()).unwrap().count(), before);
    let refused = restore::discard(world.store.as_ref(), &place, &world.source.at).await.unwrap_err();
    assert!(refused.chain().contains("it was promoted and may serve"), "{}", refused.chain());
    restore::promote(&place, &world.source.at).await.unwrap();
    assert_eq!(world.ask("SELECT id FROM kept ORDER BY id").await, ["1", "2"], "blue is as it was");
}

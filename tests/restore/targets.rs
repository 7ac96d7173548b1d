//! A restored server has exactly what was committed up to the point, not one row more.

use crate::world::{Kind, World, ask, connect};
use greenlight::snapshot::restore::{self, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
    assert_eq!(world.rows_at(Target::Transaction(two.xid), None).await, [1, 2]);
    assert_eq!(world.rows_at(Target::Point("before four".to_owned()), None).await, [1, 2, 3]);
    assert_eq!(world.rows_at(Target::Point("not written down".to_owned()), None).await, [1, 2, 3, 4]);
    assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2, 3, 4, 5, 6]);
    assert!(four.at < five.at && backup.stop < two.after);
}

/// Clients that each write one row after the other, and what was acknowledged of them.
struct Writers {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    /// For each client the last row that was acknowledged; it sends the next one at once.
    acknowledged: Arc<Vec<AtomicI64>>,
}

impl Writers {
    async fn start(world: &World) -> Writers {
        world.ask("CREATE TABLE noise (client int, id bigint, PRIMARY KEY (client, id))").await;
        let (stop, acknowledged) =
            (Arc::new(AtomicBool::new(false)), Arc::new((0..4).map(|_| AtomicI64::new(0)).collect::<Vec<_>>()));
        let client = |number: usize| {
            let (at, stop, acknowledged) = (world.source.at.clone(), stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let session = connect(&at).await;
                for id in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    session.batch_execute(&format!("INSERT INTO noise VALUES ({number}, {id})")).await.unwrap();
                    acknowledged[number].store(id, Ordering::SeqCst);
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Writers { stop, clients, acknowledged }
    }

    fn acknowledged(&self) -> Vec<i64> {
        self.acknowledged.iter().map(|id| id.load(Ordering::SeqCst)).collect()
    }

    /// A point, named by `name_it` while they write: with what was acknowledged before it and at most sent when it was named.
    async fn around<T>(&self, name_it: impl Future<Output = T>) -> (T, Vec<i64>, Vec<i64>) {
        let before = self.acknowledged();
        let point = name_it.await;
        (point, before, self.acknowledged().iter().map(|id| id + 1).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_concurrent_writers_every_row_acknowledged_before_the_point_is_there_and_none_sent_after_it() {
    for (major, kind) in [(15, Kind::Archive), (15, Kind::Pgbackrest), (18, Kind::Archive)] {
        let Some(world) = World::up(major, kind).await else { continue };
        let writers = Writers::start(&world).await;
        world.back_up().await;
        world.ask("SELECT pg_sleep(1.1)").await;
        let mut cases = Vec::new();
        let lsn = writers.around(async { world.ask("SELECT pg_current_wal_insert_lsn()").await[0].parse().unwrap() }).await;
        cases.push((Target::Lsn(lsn.0), lsn.1, lsn.2));
        world.ask("SELECT pg_sleep(0.2)").await;
        let point = writers.around(world.source.create_restore_point("amid")).await;
        world.store.notes().record(&point.0.unwrap()).await.unwrap();
        cases.push((Target::Point("amid".to_owned()), point.1, point.2));
        world.ask("SELECT pg_sleep(0.2)").await;
        let time = writers.around(async {
            let at = world.ask("SELECT clock_timestamp() AT TIME ZONE 'UTC'").await.remove(0);
            format!("{}Z", at.replacen(' ', "T", 1)).parse().unwrap()
        });
        let (time, before, sent) = time.await;
        cases.push((Target::Time(time), before, sent));
        world.ask("SELECT pg_sleep(0.2)").await;
        world.archive().await;
        writers.stop.store(true, Ordering::SeqCst);
        for client in writers.clients {
            client.await.unwrap();
        }
        world.archive().await;
        for (target, before, sent) in cases {
            let place = world.place("restored");
            let plan = world.check(&target, &place).await;
            assert!(plan.problems.is_empty(), "{:?}", plan.problems);
            let restored = world.recover(&plan).await.unwrap();
            let rows = ask(&restored.endpoint, "SELECT client, count(*), max(id) FROM noise GROUP BY 1 ORDER BY 1").await;
            for (client, row) in rows.iter().enumerate() {
                let numbers: Vec<i64> = row.split('|').map(|number| number.parse().unwrap()).collect();
                assert_eq!(numbers[1], numbers[2], "{target}: no row is missing in between");
                assert!(
                    (before[client]..=sent[client]).contains(&numbers[2]),
                    "{target}: {row}, not {} to {}",
                    before[client],
                    sent[client]
                );
            }
            if let Target::Time(at) = target {
                // The server's own record of each commit decides every row, also those that were under way.
                let committed = format!("SELECT count(*) FROM noise WHERE pg_xact_commit_timestamp(xmin) <= '{at}'");
                assert_eq!(ask(&restored.endpoint, "SELECT count(*) FROM noise").await, world.ask(&committed).await);
            }
            restore::discard(world.store.as_ref(), &place, &world.source.at).await.unwrap();
        }
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

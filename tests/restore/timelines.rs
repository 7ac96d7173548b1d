//! After one cutover and after two, recovery follows the history that is meant.

use crate::world::{Kind, LIMIT, World, ask, endpoint};
use greenlight::lab::free_port;
use greenlight::provider::LocalServer;
use greenlight::snapshot::restore::Target;
use greenlight::word::{Clock, Endpoint, Lsn};
use std::fs;

/// A standby of `from` that follows it by streaming, and archives where blue does once it is promoted: what a careless
/// cutover leaves.
async fn standby(world: &World, from: &Endpoint, name: &str) -> (LocalServer, Endpoint) {
    let server = LocalServer {
        data_dir: world.path(name),
        port: free_port(),
        log: world.path(&format!("{name}.log")),
        ..world.server.clone()
    };
    let slot = format!("standby_{name}");
    ask(from, &format!("SELECT pg_create_physical_replication_slot('{slot}', true)")).await;
    server.base_backup(&world.installed, from, &slot, &|_, _| ()).await.unwrap();
    let auto = fs::read_to_string(server.data_dir.join("postgresql.auto.conf")).unwrap();
    fs::write(server.data_dir.join("postgresql.auto.conf"), auto.replace("archive_mode = 'off'", "archive_mode = 'on'")).unwrap();
    server.start(LIMIT).await.unwrap();
    let at = endpoint(server.port);
    (server, at)
}

async fn promoted(at: &Endpoint, after: Lsn) {
    while ask(at, &format!("SELECT pg_last_wal_replay_lsn() >= '{after}'")).await != ["t"] {}
    assert_eq!(ask(at, "SELECT pg_promote(true, 50)").await, ["t"]);
}

async fn write(at: &Endpoint, id: i64) -> Lsn {
    ask(at, &format!("INSERT INTO kept (id) VALUES ({id})")).await;
    ask(at, "SELECT pg_current_wal_insert_lsn()").await[0].parse().unwrap()
}

/// Ends a segment there and waits until it is archived.
async fn archive(world: &World, at: &Endpoint) {
    let segment = ask(at, "SELECT pg_walfile_name(pg_switch_wal())").await.remove(0);
    // An archiver whose command failed three times waits a minute before it tries again.
    let until = world.clock.monotonic() + LIMIT * 4;
    while !world.wal().join(&segment).exists() {
        assert!(world.clock.monotonic() < until, "{segment} is not archived");
        world.clock.sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_stays_on_the_timeline_that_is_meant_after_one_and_after_two_cutovers() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    let one = world.write(1).await;
    let (_green, green) = standby(&world, &world.source.at, "green").await;
    promoted(&green, one.after).await;
    // Both go on, and both archive into one folder.
    let on_green = write(&green, 20).await;
    let on_blue = world.write(2).await;
    archive(&world, &green).await;
    world.archive().await;
    write(&green, 21).await;
    world.write(3).await;
    archive(&world, &green).await;
    world.archive().await;

    assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2, 3], "unasked it stays on blue's own timeline");
    assert_eq!(world.rows_at(Target::Lsn(on_blue.after), None).await, [1, 2]);
    assert_eq!(world.rows_at(Target::Latest, Some(2)).await, [1, 20, 21]);
    assert_eq!(world.rows_at(Target::Lsn(on_green), Some(2)).await, [1, 20]);
    assert_eq!(world.rows_at(Target::Lsn(one.after), Some(2)).await, [1]);

    // The second cutover, from green to a standby of it.
    let (_third, third) = standby(&world, &green, "third").await;
    promoted(&third, on_green).await;
    let on_third = write(&third, 30).await;
    archive(&world, &third).await;
    write(&green, 22).await;
    archive(&world, &green).await;
    write(&third, 31).await;
    archive(&world, &third).await;
    assert_eq!(world.rows_at(Target::Latest, Some(3)).await, [1, 20, 21, 30, 31]);
    assert_eq!(world.rows_at(Target::Lsn(on_third), Some(3)).await, [1, 20, 21, 30]);
    assert_eq!(world.rows_at(Target::Latest, Some(2)).await, [1, 20, 21, 22]);
    assert_eq!(world.rows_at(Target::Latest, Some(1)).await, [1, 2, 3]);
}

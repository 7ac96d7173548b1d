//! `kill -9` in the middle: nothing is left running that nobody waits for, and the same command goes on.
use crate::world::{Kind, LIMIT, World, ask, endpoint};
use greenlight::process;
use greenlight::snapshot::BackupState;
use greenlight::word::Clock;
use std::{fs, time::Duration};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_coordinator_is_killed_is_known_as_abandoned_and_can_be_pruned() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    for at in ["backup-begun:kill", "backup-copied:kill"] {
        let (code, said) = world.run(&["snapshot", "take"], &[], Some(at)).await;
        assert_eq!(code, None, "it was killed: {said}");
    }
    let backups = world.store.backups().await.unwrap();
    assert!(backups.len() == 2 && backups.iter().all(|backup| backup.state == BackupState::Partial), "{backups:?}");
    let (code, said) = world.run(&["restore"], &["--to", "latest", "--into", "/tmp/x", "--port", "1"], None).await;
    assert!(code == Some(4) && said.contains("there is no whole backup"), "{said}");
    let (code, said) = world.run(&["snapshot", "take"], &["--prove"], None).await;
    assert!(code == Some(0) && said.contains("is whole and verified") && said.contains("1 assertions held"), "{said}");
    let (code, said) = world.run(&["snapshot", "prune"], &["--remove"], None).await;
    assert!(code == Some(0) && said.contains("2 backups removed"), "{said}");
    assert_eq!(fs::read_dir(world.store.notes().dir.join("backups")).unwrap().count(), 1);
    let (_, said) = world.run(&["snapshot", "list"], &[], None).await;
    assert!(said.contains("whole") && said.contains("recoverable from"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ends_with_its_coordinator() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.ask("CREATE TABLE large AS SELECT n, repeat('x', 900) FROM generate_series(1, 100000) n").await;
    let mut coordinator = world.command(&["snapshot", "take"], &[]).spawn().unwrap();
    let until = world.clock.monotonic() + LIMIT;
    let copies = || pids_of("pg_basebackup", world.folder.path());
    while copies().is_empty() {
        assert!(world.clock.monotonic() < until && coordinator.try_wait().unwrap().is_none(), "it never copied");
        world.clock.sleep(Duration::from_millis(5)).await;
    }
    process::kill(coordinator.id().unwrap()).unwrap();
    while !copies().is_empty() {
        assert!(world.clock.monotonic() < until, "the copy goes on without its coordinator");
        world.clock.sleep(Duration::from_millis(5)).await;
    }
    coordinator.wait().await.unwrap();
    assert_eq!(world.store.backups().await.unwrap()[0].state, BackupState::Partial);
    let (code, said) = world.run(&["snapshot", "take"], &[], None).await;
    assert_eq!(code, Some(0), "{said}");
}

fn pids_of(program: &str, below: &std::path::Path) -> Vec<u32> {
    let below = below.display().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.split('\0').next().unwrap().ends_with(program) && line.contains(&below)
    };
    pids.filter(is_it).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_anywhere_goes_on_or_is_discarded() {
    for kind in [Kind::Archive, Kind::Pgbackrest] {
        let Some(world) = World::up(15, kind).await else { return };
        world.back_up().await;
        world.write(1).await;
        let point = world.run(&["snapshot", "point"], &["after one"], None).await;
        assert_eq!(point.0, Some(0), "{}", point.1);
        world.write(2).await;
        world.archive().await;
        let folder = world.path("restored").display().to_string();
        let port = greenlight::lab::free_port();
        let there = ["--to", "point:after one", "--into", &folder, "--port", &port.to_string()];
        for at in ["restore-claimed:kill", "restore-fetched:kill", "restore-started:kill"] {
            let (code, said) = world.run(&["restore"], &there, Some(at)).await;
            assert_eq!(code, None, "{at}: {said}");
            assert!(world.path("restored/greenlight.restore").exists(), "{at}: it is known as ours");
        }
        let other = ["--to", "latest", "--into", &folder, "--port", &port.to_string()];
        let (code, said) = world.run(&["restore"], &other, None).await;
        assert!(code == Some(4) && said.contains("--discard"), "{said}");
        let (code, said) = world.run(&["restore"], &there, None).await;
        assert!(code == Some(0) && said.contains("going on with what is there") && said.contains("standing still"), "{said}");
        assert_eq!(ask(&endpoint(port), "SELECT id FROM kept ORDER BY id").await, ["1"]);
        let (code, said) = world.run(&["restore"], &["--into", &folder, "--discard"], None).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(!world.path("restored").exists());

        // A partial copy is removed whole, and nothing that is not ours ever is.
        let (code, _) = world.run(&["restore"], &there, Some("restore-claimed:kill")).await;
        assert_eq!(code, None);
        let (code, said) = world.run(&["restore"], &["--into", &folder, "--discard"], None).await;
        assert_eq!(code, Some(0), "{said}");
        let blue = world.server.data_dir.display().to_string();
        let (code, said) = world.run(&["restore"], &["--into", &blue, "--discard"], None).await;
        assert!(code == Some(1) && said.contains("carries no marker"), "{said}");
        assert_eq!(world.ask("SELECT id FROM kept ORDER BY id").await, ["1", "2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_test_leaves_no_server_no_receiver_and_no_folder() {
    let Some(world) = World::up(15, Kind::Receive).await else { return };
    world.back_up().await;
    world.write(1).await;
    world.archive().await;
    let place = world.place("restored");
    let plan = world.check(&greenlight::snapshot::restore::Target::Latest, &place).await;
    world.recover(&plan).await.unwrap();
    let keeper = world.wal().join("greenlight.keeper");
    let running = || {
        let folder = world.folder.path();
        let keepers = greenlight::provider::processes::started_with("sh", &keeper);
        [pids_of("postgres", folder).len(), pids_of("pg_receivewal", folder).len(), keepers.len()]
    };
    assert_eq!(running(), [2, 1, 1]);
    // A second one, whose maker is gone without a word: what a kill looks like to it.
    drop(greenlight::lab::Watcher::over(world.folder.path(), process::ServerUser::Usual).unwrap());
    let until = world.clock.monotonic() + LIMIT;
    while world.folder.path().exists() || running() != [0, 0, 0] {
        assert!(world.clock.monotonic() < until, "something is left: {:?}", running());
        world.clock.sleep(Duration::from_millis(20)).await;
    }
}

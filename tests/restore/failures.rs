//! What can go wrong is said before anything is started, and nothing that runs is touched.

use crate::world::{Kind, World, ask};
use greenlight::lab::free_port;
use greenlight::snapshot::{
    Segment,
    restore::{self, Target},
};
use greenlight::word::Lsn;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_target_out_of_reach_is_refused_with_what_is_in_reach() {
    for kind in [Kind::Archive, Kind::Pgbackrest] {
        let Some(world) = World::up(15, kind).await else { return };
        let early = world.write(1).await;
        let place = world.place("restored");
        let none = world.problem(&Target::Latest, &place).await;
        assert!(none.contains("no whole backup"), "{none}");
        let backup = world.back_up().await;
        let two = world.write(2).await;
        world.archive().await;

        let before = world.problem(&Target::Time(early.at), &place).await;
        assert!(before.contains("before the first backup") && before.contains(&backup.ended_at.to_string()), "{before}");
        let before = world.problem(&Target::Lsn(early.after), &place).await;
        assert!(before.contains("before the first backup") && before.contains(&backup.stop.to_string()), "{before}");
        let past = world.problem(&Target::Time(two.at + Duration::from_secs(1)), &place).await;
        assert!(past.contains("past the end of what is archived") || past.contains("has not come yet"), "{past}");
        world.ask("SELECT pg_sleep(1.1)").await;
        let past = world.problem(&Target::Time(two.at + Duration::from_secs(1)), &place).await;
        assert!(past.contains("past the end") && past.contains(&two.at.to_string()), "{past}");
        let past = world.problem(&Target::Lsn(Lsn(two.after.0 + (64 << 20))), &place).await;
        assert!(past.contains("past the end of what is archived"), "{past}");
        let unknown = world.problem(&Target::Transaction(two.xid + 1000), &place).await;
        assert!(unknown.contains("is not in what is archived"), "{unknown}");
        let unknown = world.problem(&Target::Point("nowhere".to_owned()), &place).await;
        assert!(unknown.contains("is not in what is archived"), "{unknown}");
        let future = world.problem(&Target::Time(two.at + Duration::from_hours(1)), &place).await;
        assert!(future.contains("has not come yet"), "{future}");
        assert!(!place.data_dir.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_rolled_back_is_no_target() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    let xid = world.ask("BEGIN; INSERT INTO kept (id) VALUES (1) RETURNING xid; ROLLBACK").await[0].parse().unwrap();
    world.archive().await;
    let problem = world.problem(&Target::Transaction(xid), &world.place("restored")).await;
    assert!(problem.contains("was rolled back"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_archive_is_found_and_what_lies_before_it_can_be_had() {
    for kind in [Kind::Archive, Kind::Pgbackrest] {
        let Some(world) = World::up(15, kind).await else { return };
        world.back_up().await;
        let one = world.write(1).await;
        world.archive().await;
        world.write(2).await;
        let gone = world.store.prove_archiving(crate::world::LIMIT).await.unwrap().segment;
        let three = world.write(3).await;
        world.archive().await;
        remove_below(world.folder.path(), &gone);
        let place = world.place("restored");
        for target in [Target::Latest, Target::Lsn(three.after), Target::Time(three.at)] {
            let problem = world.problem(&target, &place).await;
            assert!(problem.contains(&format!("segment {gone} is missing in")), "{problem}");
        }
        assert_eq!(world.rows_at(Target::Lsn(one.after), None).await, [1]);
    }
}

/// A standby stands still, or ends, where its settings are lower than the log's: that is not its target.
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_was_raised_after_the_backup_stops_no_restore() {
    for major in [15, 18] {
        let Some(world) = World::up(major, Kind::Archive).await else { return };
        world.back_up().await;
        world.write(1).await;
        for setting in ["max_connections = 200", "max_worker_processes = 40", "max_locks_per_transaction = 128"] {
            world.ask(&format!("ALTER SYSTEM SET {setting}")).await;
        }
        world.server.crash();
        world.server.start(Duration::from_mins(1)).await.unwrap();
        world.write(2).await;
        let point = world.source.create_restore_point("after the change").await.unwrap();
        world.store.notes().record(&point).await.unwrap();
        world.write(3).await;
        world.archive().await;
        assert_eq!(world.rows_at(Target::Point("after the change".to_owned()), None).await, [1, 2]);
        assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2, 3]);
    }
}

/// It is no end of the archive, and nothing before it is called everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_damaged_in_the_middle_is_named() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    let one = world.write(1).await;
    world.archive().await;
    world.write(2).await;
    world.archive().await;
    let damaged = Segment::of(world.write(3).await.after, 1, 16 << 20).name(16 << 20);
    world.archive().await;
    world.write(4).await;
    world.archive().await;
    let file = fs::OpenOptions::new().write(true).open(world.wal().join(&damaged)).unwrap();
    file.write_at(&[0xA5; 16384], 0).unwrap();
    let place = world.place("restored");
    let plan = world.check(&Target::Latest, &place).await;
    let said = if plan.problems.is_empty() { world.recover(&plan).await.unwrap_err().chain() } else { plan.problems.join("; ") };
    assert!(said.contains(&damaged) && said.contains("damaged"), "{said}");
    let _ = restore::discard(world.store.as_ref(), &place, &world.source.at).await;
    assert_eq!(world.rows_at(Target::Lsn(one.after), None).await, [1]);
}

/// A copy's own settings of recovery and archive are not at work before it is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_takes_nothing_from_the_archive_it_is_restored_from() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    let cleanup = format!("pg_archivecleanup \"{}\" %r", world.wal().display()).replace('\'', "''");
    world.ask(&format!("ALTER SYSTEM SET archive_cleanup_command = '{cleanup}'")).await;
    world.ask("ALTER SYSTEM SET recovery_min_apply_delay = '1h'").await;
    world.ask("SELECT pg_reload_conf()").await;
    world.back_up().await;
    for id in 1..5 {
        world.write(id).await;
        world.archive().await;
    }
    let count = || fs::read_dir(world.wal()).unwrap().count();
    let (before, place) = (count(), world.place("restored"));
    let plan = world.check(&Target::Latest, &place).await;
    let restored = world.recover(&plan).await.unwrap();
    ask(&restored.endpoint, "CHECKPOINT").await;
    assert_eq!(ask(&restored.endpoint, "SHOW archive_cleanup_command").await, [""]);
    assert_eq!(ask(&restored.endpoint, "SELECT count(*) FROM kept").await, ["4"]);
    assert_eq!(count(), before);
    restore::discard(world.store.as_ref(), &place, &world.source.at).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused() {
    for kind in [Kind::Archive, Kind::Pgbackrest] {
        let Some(world) = World::up(15, kind).await else { return };
        world.back_up().await;
        world.archive().await;
        let folder = if kind == Kind::Archive { world.store.notes().dir.join("backups") } else { world.path("repo/backup") };
        // Of the many files, one that is surely there and not empty.
        let file = largest_below(&folder);
        let byte = fs::read(&file).unwrap()[100];
        fs::OpenOptions::new().write(true).open(&file).unwrap().write_at(&[!byte], 100).unwrap();
        let problem = world.problem(&Target::Latest, &world.place("restored")).await;
        assert!(problem.contains("could not verify backup"), "{problem}");
        assert!(!world.path("restored").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_free_is_refused_and_left_as_it_is() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    world.archive().await;
    let mut place = world.place("restored");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.port = listener.local_addr().unwrap().port();
    let taken = world.problem(&Target::Latest, &place).await;
    assert!(taken.contains(&format!("port {} is taken", place.port)), "{taken}");
    place.port = free_port();

    place.data_dir = world.server.data_dir.clone();
    let running = world.problem(&Target::Latest, &place).await;
    assert!(running.contains("is not empty, and no restore of ours made it"), "{running}");
    let plan = world.check(&Target::Latest, &place).await;
    assert!(world.recover(&plan).await.is_err(), "a plan with problems is not carried out");
    world.write(1).await;

    place.data_dir = world.path("absent/restored");
    let absent = world.problem(&Target::Latest, &place).await;
    assert!(absent.contains("does not exist"), "{absent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_refused() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    let Some(disk) = SmallDisk::mount(&world.path("small"), "8m") else {
        eprintln!("NOT TESTED: a full disk, since this user may not mount one");
        return;
    };
    let mut place = world.place("restored");
    place.data_dir = disk.0.join("restored");
    let problem = world.problem(&Target::Latest, &place).await;
    assert!(problem.contains("has 8 MiB free, and the restore needs"), "{problem}");
    assert!(!place.data_dir.exists());
}

/// A file system of its own, gone when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, size: &str) -> Option<SmallDisk> {
        fs::create_dir(at).unwrap();
        let options = format!("size={size},mode=0777");
        let mut command = greenlight::process::new_command(std::path::Path::new("mount"));
        command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        let mounted = command.as_std_mut().status().is_ok_and(|status| status.success());
        mounted.then(|| SmallDisk(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = greenlight::process::new_command(std::path::Path::new("umount"));
        let _ = command.arg(&self.0).as_std_mut().status();
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.file_type().unwrap().is_dir() { files_below(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

fn largest_below(folder: &std::path::Path) -> std::path::PathBuf {
    let data = |path: &std::path::PathBuf| {
        !path.components().any(|part| part.as_os_str() == "pg_wal") && !path.ends_with("backup_manifest")
    };
    files_below(folder).into_iter().filter(data).max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Removes a segment from an archive, however it is named and compressed; not from a server's own log.
fn remove_below(folder: &std::path::Path, segment: &str) {
    let archived = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(segment) && !path.components().any(|part| part.as_os_str() == "pg_wal")
    };
    files_below(folder).iter().filter(archived).for_each(|path| fs::remove_file(path).unwrap());
}

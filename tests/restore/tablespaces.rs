//! A restored server has its tablespaces in folders of its own, and never comes near those of the server.

use crate::world::{Kind, World, ask};
use greenlight::process;
use greenlight::snapshot::restore::{self, Target};
use greenlight::word::Clock;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A tablespace with a name and a folder as people may choose them.
pub(crate) async fn make_tablespace(world: &World, name: &str, folder: &str) -> PathBuf {
    let folder = world.path(folder);
    fs::create_dir(&folder).unwrap();
    process::give_to_server_user(&folder).await.unwrap();
    world.ask(&format!("CREATE TABLESPACE \"{name}\" LOCATION '{}'", folder.display())).await;
    folder
}

/// Every file below, with its size and when it was last written, while the server writes nothing.
async fn standing_still(world: &World, folder: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    world.ask("CHECKPOINT").await;
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            found.push((entry.path(), meta.len(), meta.modified().unwrap()));
            folders.extend(meta.is_dir().then(|| entry.path()));
        }
    }
    found.sort();
    found
}

async fn up(major: u32, kind: Kind) -> Option<World> {
    let world = World::up(major, kind).await?;
    world.ask("ALTER SYSTEM SET autovacuum = off").await;
    world.ask("SELECT pg_reload_conf()").await;
    Some(world)
}

fn beside(data_dir: &Path) -> PathBuf {
    PathBuf::from(format!("{}.tablespaces", data_dir.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_is_restored_exactly_up_to_the_point_and_into_a_folder_of_its_own() {
    for (major, kind) in [(15, Kind::Archive), (15, Kind::Receive), (15, Kind::Pgbackrest), (18, Kind::Archive)] {
        let Some(world) = up(major, kind).await else { continue };
        let folder = make_tablespace(&world, "../fast disk", "disk=1 a").await;
        world
            .ask("CREATE TABLE far (id bigint PRIMARY KEY USING INDEX TABLESPACE \"../fast disk\") TABLESPACE \"../fast disk\"")
            .await;
        world.ask("INSERT INTO far VALUES (1)").await;
        let backup = world.back_up().await;
        assert_eq!(world.store.tablespaces(&backup).await.unwrap().len(), 1);
        world.ask("INSERT INTO far VALUES (2)").await;
        let two = world.write(2).await;
        world.ask("INSERT INTO far VALUES (3)").await;
        world.archive().await;
        let before = standing_still(&world, &folder).await;

        assert_eq!(world.rows_at(Target::Latest, None).await, [2]);
        assert!(!beside(&world.path("restored")).exists(), "nothing is left of its tablespaces");

        let place = world.place("restored");
        let plan = world.check(&Target::Lsn(two.after), &place).await;
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        let restored = world.recover(&plan).await.unwrap_or_else(|error| panic!("{}", error.chain())).endpoint;
        assert_eq!(ask(&restored, "SELECT id FROM far ORDER BY id").await, ["1", "2"]);
        let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname LIKE '%disk'";
        let own = PathBuf::from(ask(&restored, location).await.remove(0));
        assert!(own.starts_with(beside(&place.data_dir)), "{}", own.display());
        restore::promote(&place, &world.source.at).await.unwrap();
        ask(&restored, "INSERT INTO far SELECT n FROM generate_series(10, 5000) n; CREATE TABLE more TABLESPACE \"../fast disk\" AS SELECT 1").await;
        ask(&restored, "CHECKPOINT").await;
        assert_eq!(standing_still(&world, &folder).await, before, "the server's own folder is as it was");
        assert_eq!(world.ask("SELECT count(*) FROM far").await, ["3"]);
        assert_eq!(ask(&restored, "SELECT count(*) FROM far").await, ["4993"]);
        // Wherever its data folder goes, these tablespaces are its own now.
        greenlight::provider::crash_in(&place.data_dir);
        fs::rename(&place.data_dir, world.path("moved")).unwrap();
        let again = world.problem(&Target::Latest, &place).await;
        assert!(again.contains("for the tablespaces, is not empty"), "{again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_making_of_a_tablespace_only_a_later_backup_leads() {
    for kind in [Kind::Archive, Kind::Pgbackrest] {
        let Some(world) = up(15, kind).await else { return };
        let first = world.back_up().await;
        world.ask("SELECT pg_sleep(1.1)").await;
        let one = world.write(1).await;
        let two = world.write(2).await;
        let folder = make_tablespace(&world, "late", "late").await;
        world.ask("CREATE TABLE far TABLESPACE late AS SELECT 1 AS id").await;
        let three = world.write(3).await;
        world.archive().await;
        let before = standing_still(&world, &folder).await;
        for target in [
            Target::Latest,
            Target::Lsn(three.after),
            Target::Transaction(three.xid),
            Target::Time(three.at - Duration::from_micros(1)),
        ] {
            let problem = world.problem(&target, &world.place("restored")).await;
            assert!(problem.contains("was made in") && problem.contains(&folder.display().to_string()), "{problem}");
        }
        assert_eq!(world.rows_at(Target::Lsn(two.after), None).await, [1, 2]);
        assert_eq!(world.rows_at(Target::Time(one.at), None).await, [1]);
        let week = Duration::from_hours(168);
        let newer =
            greenlight::snapshot::ensure_backup(world.store.as_ref(), week, world.clock.now(), &|_, _, _| ()).await.unwrap();
        assert_ne!(newer.id, first.id, "the first one is young, and of no use for what comes now");
        let same =
            greenlight::snapshot::ensure_backup(world.store.as_ref(), week, world.clock.now(), &|_, _, _| ()).await.unwrap();
        assert_eq!(same.id, newer.id);
        world.write(4).await;
        world.archive().await;
        assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2, 3, 4]);
        assert_eq!(standing_still(&world, &folder).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_is_made_after_the_check_ends_the_recovery_before_it_is_replayed() {
    for kind in [Kind::Archive, Kind::Receive, Kind::Pgbackrest] {
        let Some(world) = up(15, kind).await else { return };
        world.back_up().await;
        world.write(1).await;
        world.archive().await;
        world.write(2).await;
        let place = world.place("restored");
        let plan = world.check(&Target::Latest, &place).await;
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        let folder = make_tablespace(&world, "late", "late").await;
        world.ask("CREATE TABLE far TABLESPACE late AS SELECT 1 AS id").await;
        world.archive().await;
        let before = standing_still(&world, &folder).await;
        let error = world.recover(&plan).await.unwrap_err().chain();
        assert!(error.contains("does not replay that a tablespace is made"), "{kind:?}: {error}");
        assert_eq!(standing_still(&world, &folder).await, before);
        restore::discard(world.store.as_ref(), &place, &world.source.at).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_for_tablespaces_that_somebody_else_uses_is_refused() {
    let Some(world) = up(15, Kind::Archive).await else { return };
    make_tablespace(&world, "far", "far").await;
    world.back_up().await;
    world.archive().await;
    let place = world.place("restored");
    let taken = beside(&place.data_dir);
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("thesis.txt"), "mine").unwrap();
    let problem = world.problem(&Target::Latest, &place).await;
    assert!(problem.contains(&format!("the folder `{}`, for the tablespaces, is not empty", taken.display())), "{problem}");
    assert_eq!(fs::read_to_string(taken.join("thesis.txt")).unwrap(), "mine");
    let (code, said) = world.run(&["snapshot", "verify"], &[], None).await;
    assert!(code == Some(0) && said.contains("in order"), "{said}");
}

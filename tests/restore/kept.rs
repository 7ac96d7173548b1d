//! What keeps backups and WAL: the receiver, the retention, the proof.

use crate::world::{Kind, LIMIT, World};
use greenlight::plan::RetentionSpec;
use greenlight::provider::processes;
use greenlight::snapshot::restore::Target;
use greenlight::snapshot::{Need, prove, removable};
use greenlight::word::{Clock, PortError};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_dies_is_started_again_and_nothing_is_missing() {
    let Some(world) = World::up(15, Kind::Receive).await else { return };
    world.back_up().await;
    world.write(1).await;
    let receivers = || processes::started_with("pg_receivewal", &world.wal());
    let first = receivers();
    assert_eq!(first.len(), 1);
    processes::kill_and_wait(&first);
    world.write(2).await;
    let until = world.clock.monotonic() + LIMIT;
    while receivers().is_empty() {
        assert!(world.clock.monotonic() < until, "its keeper does not start it again");
        world.clock.sleep(Duration::from_millis(20)).await;
    }
    // The keeper too: the next look starts both.
    processes::kill_and_wait(&processes::started_with("sh", &world.wal().join("greenlight.keeper")));
    processes::kill_and_wait(&receivers());
    world.write(3).await;
    world.store.ensure_archiving().await.unwrap();
    world.archive().await;
    let four = world.write(4).await;
    let received = format!("SELECT count(*) FROM pg_stat_replication WHERE write_lsn >= '{}'", four.after);
    let until = world.clock.monotonic() + LIMIT;
    while world.ask(&received).await != ["1"] {
        assert!(world.clock.monotonic() < until, "the last row is not received");
        world.clock.sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2, 3, 4], "also what is in the segment that is being received");
    let made = world.store.made_on_server().await.unwrap();
    assert!(made.iter().any(|made| made.contains("slot greenlight_wal_shop_1") && made.contains("in use")), "{made:?}");
    world.store.remove_from_server().await.unwrap();
    assert!(world.store.made_on_server().await.unwrap().is_empty() && receivers().is_empty());
    assert_eq!(world.ask("SELECT count(*) FROM pg_replication_slots").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_archive_is_refused_and_not_changed() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.ask("ALTER SYSTEM SET archive_command = ''").await;
    world.ask("SELECT pg_reload_conf()").await;
    let refused = world.store.ensure_archiving().await.unwrap_err();
    assert!(refused.hint.unwrap().contains("archive_command = '"), "it says what to set");
    assert_eq!(world.ask("SHOW archive_command").await, [""]);
    let late = world.store.prove_archiving(Duration::from_millis(300)).await.unwrap_err();
    assert!(late.to_string().contains("arrive in the archive"), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_point_needs_survives_the_retention() {
    for kind in [Kind::Archive, Kind::Pgbackrest] {
        let Some(world) = World::up(15, kind).await else { return };
        let first = world.back_up().await;
        world.ask("SELECT pg_sleep(1.1)").await;
        world.write(1).await;
        let point = world.source.create_restore_point("here").await.unwrap();
        world.store.notes().record(&point).await.unwrap();
        world.write(2).await;
        let second = world.back_up().await;
        world.archive().await;
        let third = world.back_up().await;
        world.archive().await;
        let backups = world.store.backups().await.unwrap();
        let need = Need { lsn: point.lsn, at: point.at, what: "restore point `here`".to_owned() };
        let keep = RetentionSpec { count: 1, age_secs: None };
        let (gone, kept_for) = removable(&backups, &keep, &[need], world.clock.now());
        assert_eq!(gone.iter().map(|backup| &backup.id).collect::<Vec<_>>(), [&second.id]);
        assert_eq!(kept_for, [format!("{} stays for restore point `here`", first.id)]);
        for backup in gone {
            world.store.remove(backup).await.unwrap();
        }
        world.store.remove_wal_before(&first).await.unwrap();
        assert_eq!(world.rows_at(Target::Point("here".to_owned()), None).await, [1]);

        // Nobody needs it any more: it goes with its WAL, and what comes after the next backup stays.
        world.store.remove(&first).await.unwrap();
        let removed = world.store.remove_wal_before(&third).await.unwrap();
        assert!(removed > 0 || kind == Kind::Pgbackrest);
        let problem = world.problem(&Target::Point("here".to_owned()), &world.place("restored")).await;
        assert!(problem.contains("before the first backup"), "{problem}");
        assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_leaves_nothing_but_its_measure_whatever_it_found() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.back_up().await;
    world.write(1).await;
    world.archive().await;
    let like = &world.source.at;
    let seen = prove(world.store.as_ref(), like, &*world.clock, &|_, _, _| (), async |at| {
        assert_eq!(crate::world::ask(&at, "SELECT id FROM kept").await, ["1"]);
        Ok(())
    });
    let proof = seen.await.unwrap();
    assert_eq!(world.store.notes().estimate().await.unwrap(), Some(proof.measured));
    let refused =
        prove(world.store.as_ref(), like, &*world.clock, &|_, _, _| (), async |_| Err(PortError::refused("like it"))).await;
    assert!(refused.is_err() && !world.store.notes().dir.join("prove").exists());
    let plan = world.check(&Target::Latest, &world.place("restored")).await;
    assert!(plan.estimated_ms().is_some());
}

#[test]
fn the_ready_playbook_for_restores_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/restore.yaml")).unwrap();
    let text = text.replace("/etc/pgbouncer/", "");
    std::fs::create_dir(folder.path().join("migrations")).unwrap();
    for file in ["migrations/1_a.up.sql", "migrations/1_a.down.sql", "pgbouncer.ini"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    let load = |text: &str| {
        std::fs::write(folder.path().join("restore.yaml"), text).unwrap();
        greenlight::playbook::load(&folder.path().join("restore.yaml"), &|_| Some("secret".to_owned()))
    };
    let playbook = load(&text).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let snapshot = playbook.snapshot.unwrap();
    assert_eq!(snapshot.host.to_string(), "ssh://postgres@backup.example.com");
    assert_eq!(snapshot.retention, RetentionSpec { count: 7, age_secs: Some(14 * 24 * 3600) });
    assert!(snapshot.prove && snapshot.max_age_secs == 24 * 3600);
    for (wrong, why) in [
        (text.replace("store: basebackup", "store: pgbackrest"), "`snapshot.stanza` is missing"),
        (text.replace("store: basebackup", "store: basebackup\n  stanza: shop"), "is not for the store `basebackup`"),
        (text.replace("ssh://postgres@", ""), "backup.example.com"),
    ] {
        let problems = load(&wrong).unwrap_err().render(false);
        assert!(problems.contains(why), "{problems}");
    }
}

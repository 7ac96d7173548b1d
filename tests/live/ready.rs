//! The playbooks that come with Greenlight, run as they are but for the places that they name.

use crate::world::{COMPLETED, Live, REFUSED, Setup, WAITS};
use greenlight::word::Side;

/// The text of a ready playbook with this world's servers, routes and folders in it.
fn ready(live: &Live, name: &str) -> String {
    let path = format!("{}/playbooks/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lab = &live.lab;
    let config = lab.pgbouncer_config(0).display().to_string();
    let backups = lab.dir().join("backups").display().to_string();
    let probe = format!("      config: {config}\n      probe: {}\n", lab.through_url(0));
    let places = [
        ("postgresql://gl_admin:${env:BLUE_PASSWORD}@db1.example.com:5432/shop".to_owned(), lab.url(Side::Blue)),
        ("postgresql://gl_admin:${env:GREEN_PASSWORD}@db2.example.com:5432/shop".to_owned(), lab.url(Side::Green)),
        ("postgresql://gl_admin:${env:GREEN_PASSWORD}@db2.example.com:5440/shop".to_owned(), lab.url(Side::Green)),
        ("postgresql://pooler_admin:${env:PGBOUNCER_PASSWORD}@pooler.example.com:6432/pgbouncer".to_owned(), lab.admin_url(0)),
        ("      config: /etc/pgbouncer/pgbouncer.ini\n".to_owned(), probe),
        ("database: shop\n".to_owned(), format!("database: {}\n", lab.pgbouncer_database())),
        ("dir: /var/backups/shop".to_owned(), format!("dir: {backups}")),
        ("ssh://postgres@backup.example.com".to_owned(), "local".to_owned()),
    ];
    places.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playbook_of_a_freeze_goes_from_its_snapshot_to_its_rollback() {
    let setup = Setup { pgbouncers: 1, snapshot: true, ..Setup::default() };
    let mut live = Live::up(setup).await;
    std::fs::write(&live.playbook, ready(&live, "freeze.yaml") + "accept: [green-archive]\n").unwrap();
    live.start_writing().await;
    live.run().await.expect(WAITS).says("is whole and verified").says("waits for an approval");
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED).says("nothing lost");
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(50).await;
    live.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED);
    live.see_writes(50).await;
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playbook_of_a_restore_takes_a_backup_restores_it_and_moves_the_applications_there() {
    let mut live = Live::up(Setup { pgbouncers: 1, snapshot: true, ..Setup::default() }).await;
    let text = ready(&live, "restore.yaml").replace("wal: receive", "wal: archive_command");
    std::fs::write(&live.playbook, &text).unwrap();
    let playbook = live.playbook.to_str().unwrap().to_owned();
    live.start_writing().await;
    live.greenlight(&["snapshot", "take", &playbook]).await.expect(COMPLETED).says("assertions held");
    live.see_writes(50).await;
    let before = jiff::Timestamp::now();
    live.greenlight(&["snapshot", "point", &playbook, "before_import"]).await.expect(COMPLETED);
    let after = jiff::Timestamp::now();
    live.see_writes(50).await;
    live.greenlight(&["snapshot", "take", &playbook]).await.expect(COMPLETED);
    let into = live.lab.dir().join("restored").display().to_string();
    let port = live.lab.endpoint(Side::Green).port.to_string();
    live.lab.crash(Side::Green);
    let to = ["restore", &playbook, "--to", "point:before_import", "--into", &into, "--port", &port];
    live.greenlight(&to).await.expect(COMPLETED).says("before_import");
    live.greenlight(&["plan", &playbook]).await.expect(REFUSED).says("Green stands in recovery").says("later-writes");
    live.greenlight(&["restore", &playbook, "--into", &into, "--promote"]).await.expect(COMPLETED);

    std::fs::write(&live.playbook, text + "accept: [later-writes, restored-settings]\n").unwrap();
    live.greenlight(&["plan", &playbook]).await.expect(COMPLETED).says("Green is a copy of blue");
    live.run().await.expect(WAITS);
    live.greenlight(&["abandon", "--no-wait"]).await.expect(COMPLETED);
    live.see_writes(20).await;
    live.run().await.expect(WAITS).says("waits for an approval");
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED).says("blue is readable, and closed for writes");
    live.see_writes(50).await;
    let report = live.stop_writing().await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    live.is_as_at_the_point(&report, (before, after)).await;
    live.blue_is_kept_closed().await;
}

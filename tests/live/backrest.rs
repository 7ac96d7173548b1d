//! A change in place whose backups are pgBackRest's.

use crate::inplace::with_a_failing_one;
use crate::restored::restoring;
use crate::world::{Live, ROLLED_BACK, ask, installed};
use greenlight::lab::{Options, World, find_pgbouncer};
use greenlight::process;
use greenlight::word::{RunId, Side};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_change_in_place_is_taken_back_by_a_restore_from_pgbackrest() {
    let mut live = up().await;
    live.start_writing().await;
    live.run().await.expect(ROLLED_BACK).says("is whole and verified").says("restored into");
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(60).await;
    let report = live.stop_writing().await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    live.is_as_at_the_point(&report, live.named_its_point().await).await;
    live.blue_is_kept_closed().await;
}

async fn up() -> Live {
    let dir = PathBuf::from(format!("/tmp/greenlight-live-{}", RunId::random()));
    let config = dir.join("pgbackrest.conf");
    let settings = [
        ("archive_mode", "on".to_owned()),
        ("archive_command", format!("pgbackrest --config={} --stanza=shop archive-push %p", config.display())),
        ("unix_socket_directories", dir.display().to_string()),
    ];
    let options = Options {
        installed: installed().await,
        major: 15,
        pgbouncer: find_pgbouncer(Some(OsStr::new("/usr/sbin"))).unwrap(),
        pgbouncers: 2,
        fsync: false,
        scale: 0.01,
        database: "shop".to_owned(),
        with_green: false,
        settings: settings.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        dir,
    };
    let lab = World::up(&options, &|_| ()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    make_stanza(&lab, &config).await;
    let folder = lab.dir().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in with_a_failing_one(false) {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let playbook = lab.dir().join("shop.yaml");
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let text = format!(
        "version: 1\nname: shop\nstrategy: in-place\nblue: {{url: {}}}\nmigrations: {{dir: migrations}}\n\
         snapshot: {{store: pgbackrest, stanza: shop, config: {}, dir: {}}}\n{}",
        quoted(&lab.url(Side::Blue)),
        quoted(config.to_str().unwrap()),
        quoted(lab.dir().join("store").to_str().unwrap()),
        restoring(&lab, "restore"),
    );
    std::fs::write(&playbook, text).unwrap();
    Live::of(lab, playbook)
}

/// pgBackRest reaches the server through its socket.
async fn make_stanza(lab: &World, config: &Path) {
    let (blue, at, place) = (lab.server(Side::Blue), lab.endpoint(Side::Blue), lab.dir().display());
    let text = format!(
        "[global]\nrepo1-path={place}/repo\nlog-path={place}\nlock-path={place}/lock\nspool-path={place}/spool\nlog-level-console=off\n\
         log-level-file=off\nstart-fast=y\n[shop]\npg1-path={}\npg1-port={}\npg1-socket-path={place}\npg1-user={}\n",
        blue.data_dir.display(),
        blue.port,
        at.user,
    );
    std::fs::write(config, text).unwrap();
    let hba = blue.data_dir.join("pg_hba.conf");
    let lines = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("local all all trust\n{lines}")).unwrap();
    ask(&at, "SELECT pg_reload_conf()").await;
    let mut command = process::server_command(Path::new("pgbackrest"));
    command.arg(format!("--config={}", config.display())).args(["--stanza=shop", "stanza-create"]);
    process::run(&mut command, crate::world::LIMIT).await.unwrap();
}

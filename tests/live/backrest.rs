//! A change in place whose backups are pgBackRest's.

use crate::inplace::{blue_alone, new_folder, quoted, with_a_failing_one, with_playbook};
use crate::restored::{restoring, sees_it_taken_back};
use crate::world::{LIMIT, ask};
use greenlight::lab::World;
use greenlight::process;
use greenlight::word::Side;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_change_in_place_is_taken_back_by_a_restore_from_pgbackrest() {
    let dir = new_folder();
    let config = dir.join("pgbackrest.conf");
    let archive = format!("pgbackrest --config={} --stanza=shop archive-push %p", config.display());
    let socket = dir.display().to_string();
    let settings = [("archive_mode", "on"), ("archive_command", &archive), ("unix_socket_directories", &socket)];
    let lab = blue_alone(dir, 15, &settings).await;
    make_stanza(&lab, &config).await;
    let dir = quoted(&lab.dir().join("store"));
    let store = format!("{{store: pgbackrest, stanza: shop, config: {}, dir: {dir}}}", quoted(&config));
    let more = restoring(&lab, "restore");
    sees_it_taken_back(with_playbook(lab, &with_a_failing_one(false), &store, &more)).await;
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
    process::run(&mut command, LIMIT).await.unwrap();
}

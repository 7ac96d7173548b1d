//! Managers of high availability: seen in the plan, and what they do to a run is said at once and never waited for.

use super::world::{Lab, connected_as, ended, poll, signal};
use greenlight::lab::free_port;
use greenlight::{process, word::Side};
use std::{path::Path, process::Stdio};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_at_work_is_refused_and_a_demoted_green_is_said_and_can_be_left() {
    let lab = Lab::up().await;
    lab.write(
        "shop.yaml",
        &lab.playbook()
            .replace("soak:", "gates:\n  before_window: {approval: true}\nsoak:")
            .replace("wal_kept: 20GiB", "wal_kept: 2GiB"),
    );
    the_plan_refuses_what_it_sees(&lab).await;

    let driver = lab.begin(&["run", "shop.yaml"]);
    poll("it waits", async || lab.say(&["status", "--offline"]).await.out.contains("waits for an approval")).await;
    // As Patroni does with a server that it did not promote itself.
    lab.world.crash(Side::Green);
    let green = lab.world.server(Side::Green);
    std::fs::write(green.data_dir.join("standby.signal"), "").unwrap();
    lab.world.start(Side::Green).await.unwrap();
    poll("it is noticed", async || lab.say(&["status", "--offline"]).await.out.contains("green is a standby again")).await;
    let said = lab.say(&["approve"]).await;
    said.is(6, &["green is a standby again", "Held for a person", "greenlight abandon"]);
    lab.say(&["abandon"]).await.is(0, &["blue served all the time, nothing lost", "blue serves as before"]);
    signal(&driver, "INT");
    let said = ended(driver).await;
    assert!(said.err.contains("noticed: green is a standby again"), "{}", said.err);
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical') + (SELECT count(*) FROM pg_publication) \
                + (SELECT count(*) FROM pg_subscription), to_regnamespace('greenlight') IS NULL";
    assert_eq!(lab.ask(Side::Blue, left).await, "0|t");
}

/// The very traces that managers leave, on real servers.
async fn the_plan_refuses_what_it_sees(lab: &Lab) {
    lab.say(&["plan", "shop.yaml"]).await.is(0, &["Nothing shows a manager of high availability"]);
    for (side, name, manager) in [
        (Side::Green, "Patroni", "Patroni manages green"),
        (Side::Blue, "Patroni restapi", "Patroni manages blue"),
        (Side::Green, "repmgrd", "repmgr manages green"),
        (Side::Green, "cnpg_metrics_exporter", "CloudNativePG manages green"),
        (Side::Blue, "pg_auto_failover monitor health check worker", "pg_auto_failover manages blue"),
    ] {
        let session = connected_as(&lab.world.endpoint(side), name).await;
        lab.say(&["plan", "shop.yaml"]).await.is(4, &[manager, "demotes green", "is not supported yet", "nothing was changed"]);
        drop(session);
        let there = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
        lab.until(side, &there, "0").await;
    }
    let folder = lab.world.server(Side::Green).data_dir;
    for (file, manager) in [
        ("patroni.dynamic.json", "Green bears the marks of Patroni"),
        ("postgresql-auto-failover.conf", "Green bears the marks of pg_auto_failover"),
    ] {
        std::fs::write(folder.join(file), "").unwrap();
        lab.say(&["plan", "shop.yaml"]).await.is(4, &[manager, &format!("file `{file}`")]);
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    lab.ask(Side::Blue, "SELECT pg_create_physical_replication_slot('repmgr_slot_2')").await;
    lab.say(&["plan", "shop.yaml"]).await.is(4, &["Blue bears the marks of repmgr", "repmgr_slot_2"]);
    lab.ask(Side::Blue, "SELECT pg_drop_replication_slot('repmgr_slot_2')").await;
}

/// A real Patroni takes a running server over, and another one its standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_patroni_is_refused_while_it_works_and_after_it_was_killed() {
    if !["/usr/bin/patroni", "/usr/bin/etcd"].iter().all(|program| Path::new(program).exists()) {
        eprintln!("NOT TESTED: Patroni and etcd are not on this machine");
        return;
    }
    let lab = Lab::up().await;
    lab.write("shop.yaml", &lab.playbook());
    let [clients, peers] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
    let folder = lab.world.dir().join("etcd");
    let mut etcd = Command::new("/usr/bin/etcd");
    etcd.arg("--data-dir").arg(&folder).args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    etcd.args(["--initial-cluster", &format!("default={peers}")]);
    let _etcd = quiet(etcd);

    let blue = patroni(&lab, Side::Blue, &clients).await;
    let says = async |code: i32, what: &str| {
        let said = lab.say(&["plan", "shop.yaml"]).await;
        (said.code == code && format!("{}{}", said.out, said.err).contains(what)).then_some(said)
    };
    poll("the plan sees Patroni on blue", async || says(4, "Patroni manages blue").await.is_some()).await;
    let green = patroni(&lab, Side::Green, &clients).await;
    poll("the plan sees Patroni on green", async || says(4, "Patroni manages green").await.is_some()).await;
    let said = lab.say(&["plan", "shop.yaml"]).await;
    said.is(4, &["Patroni manages blue", "demotes green", "is not supported yet", "nothing was changed"]);

    for mut manager in [green, blue] {
        manager.kill().await.unwrap();
    }
    let there = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'Patroni%'";
    lab.until(Side::Blue, there, "0").await;
    lab.say(&["plan", "shop.yaml"]).await.is(4, &["Blue bears the marks of Patroni", "Green bears the marks of Patroni"]);
}

/// A real repmgr, in a database of its own as its documentation advises, takes both servers into its cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_repmgr_is_refused_while_it_works_and_after_it_was_killed() {
    let lab = Lab::up().await;
    let bin = lab.world.server(Side::Blue).programs.bin;
    if !["repmgr", "repmgrd"].iter().all(|program| bin.join(program).exists()) {
        eprintln!("NOT TESTED: repmgr for this version of PostgreSQL is not on this machine");
        return;
    }
    lab.write("shop.yaml", &lab.playbook());
    for side in [Side::Blue, Side::Green] {
        lab.ask(side, "ALTER SYSTEM SET shared_preload_libraries = 'repmgr'").await;
        lab.world.crash(side);
        lab.world.start(side).await.unwrap();
    }
    lab.ask(Side::Blue, "CREATE ROLE repmgr SUPERUSER LOGIN PASSWORD 'of-the-cluster'").await;
    lab.ask(Side::Blue, "CREATE DATABASE repmgr OWNER repmgr").await;
    lab.until(Side::Green, "SELECT count(*) FROM pg_database WHERE datname = 'repmgr'", "1").await;
    let mut daemons = Vec::new();
    for (side, role) in [(Side::Blue, "primary"), (Side::Green, "standby")] {
        let config = repmgr_config(&lab, side).await;
        let run = |program: &str| {
            let mut command = process::server_command(&bin.join(program));
            command.arg("-f").arg(&config);
            command
        };
        let registered = run("repmgr").args([role, "register", "--force"]).output().await.unwrap();
        assert!(registered.status.success(), "{}", String::from_utf8_lossy(&registered.stderr));
        let mut daemon = run("repmgrd");
        daemon.args(["--daemonize=false", "--no-pid-file"]);
        daemons.push(quiet(daemon));
        let sees = format!("repmgr manages {side}");
        poll(&sees, async || lab.say(&["plan", "shop.yaml"]).await.says(&sees)).await;
    }
    let said = lab.say(&["plan", "shop.yaml"]).await;
    said.is(4, &["repmgr manages blue", "repmgr manages green", "stop repmgrd on every node", "nothing was changed"]);
    for mut daemon in daemons {
        daemon.kill().await.unwrap();
    }
    for side in [Side::Blue, Side::Green] {
        lab.until(side, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'repmgr'", "0").await;
    }
    lab.say(&["plan", "shop.yaml"]).await.is(4, &["Blue bears the marks of repmgr", "Green bears the marks of repmgr"]);
}

async fn repmgr_config(lab: &Lab, side: Side) -> std::path::PathBuf {
    let (server, at) = (lab.world.server(side), lab.world.endpoint(side));
    let file = lab.world.dir().join(format!("repmgr-{side}.conf"));
    let connects = format!("host={} port={} user=repmgr password=of-the-cluster dbname=repmgr", at.host, at.port);
    let node = if side == Side::Blue { 1 } else { 2 };
    let (data, bin) = (server.data_dir.display(), server.programs.bin.display());
    let config = format!(
        "node_id={node}\nnode_name='{side}'\nconninfo='{connects}'\ndata_directory='{data}'\npg_bindir='{bin}'\nfailover=manual\n"
    );
    std::fs::write(&file, config).unwrap();
    process::give_to_server_user(&file).await.unwrap();
    file
}

/// Patroni for a server that runs already.
async fn patroni(lab: &Lab, side: Side, etcd: &str) -> tokio::process::Child {
    let (server, at) = (lab.world.server(side), lab.world.endpoint(side));
    let own = lab.world.dir().join(format!("patroni-{side}"));
    std::fs::create_dir(&own).unwrap();
    process::give_to_server_user(&own).await.unwrap();
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let login = format!("{{username: {}, password: {}}}", text(&at.user), text(at.password.as_ref().unwrap().expose()));
    let config = format!(
        "scope: shop\nname: {side}\nrestapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}\n\
         etcd3: {{hosts: '{etcd}'}}\nbootstrap: {{dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3}}}}\n\
         postgresql:\n  listen: '127.0.0.1:{port}'\n  connect_address: '127.0.0.1:{port}'\n  data_dir: {data}\n  bin_dir: {bin}\n  \
         pgpass: {pass}\n  authentication: {{superuser: {login}, replication: {login}}}\n  parameters: {{unix_socket_directories: ''}}\n",
        rest = free_port(),
        etcd = etcd.trim_start_matches("http://"),
        port = at.port,
        data = text(&server.data_dir.display().to_string()),
        bin = text(&server.programs.bin.display().to_string()),
        pass = text(&own.join("pgpass").display().to_string()),
    );
    let file = own.join("patroni.yaml");
    std::fs::write(&file, config).unwrap();
    process::give_to_server_user(&file).await.unwrap();
    let mut command = process::server_command(Path::new("/usr/bin/patroni"));
    command.arg(&file);
    quiet(command)
}

fn quiet(mut command: Command) -> tokio::process::Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

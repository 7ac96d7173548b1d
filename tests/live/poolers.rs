//! Poolers as they are set up elsewhere, through a cutover and back under load.

use crate::world::{COMPLETED, Live, REFUSED, Setup, WAITS, ask, connect};
use greenlight::{
    process,
    word::{Side, quote_literal},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn folder(live: &Live, number: usize) -> PathBuf {
    live.lab.pgbouncer_config(number).parent().unwrap().to_owned()
}

/// Replaces what is there exactly once.
fn replace(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(from).count(), 1, "`{from}` in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

/// The same as by `url`, through a Unix socket.
fn by_socket(url: &str, folder: &Path, port: u16) -> String {
    let (before, after) = url.rsplit_once('@').unwrap();
    let (_, database) = after.split_once('/').unwrap();
    format!("{before}@{}:{port}/{database}", folder.display().to_string().replace('/', "%2F"))
}

/// Two processes on one port, each with a console by its own socket, and blue by its socket in the entries of both.
#[tokio::test(flavor = "multi_thread")]
async fn processes_on_one_port_with_blue_by_socket_are_moved_and_come_back_as_they_were() {
    let mut live = Live::up(Setup { playbook: crate::world::APPROVAL, ..Setup::default() }).await;
    let port = live.lab.through(0).port;
    let blue = connect(&live.lab.endpoint(Side::Blue)).await;
    let folders = [0, 1].map(|number| folder(&live, number));
    let list = folders.iter().map(|folder| quote_literal(&folder.display().to_string())).collect::<Vec<_>>().join(", ");
    blue.batch_execute(&format!("ALTER SYSTEM SET unix_socket_directories = {list}")).await.unwrap();
    drop(blue);
    live.lab.stop(Side::Blue).await.unwrap();
    live.lab.start(Side::Blue).await.unwrap();
    let server = live.lab.endpoint(Side::Blue);
    for (number, folder) in folders.iter().enumerate() {
        let config = live.lab.pgbouncer_config(number);
        replace(&config, &format!("host={} port={}", server.host, server.port), &format!("port={}", server.port));
        replace(&config, "unix_socket_dir =\n", &format!("unix_socket_dir = {}\nso_reuseport = 1\n", folder.display()));
        live.lab.crash_pgbouncer(number);
        if number == 1 {
            replace(&config, &format!("listen_port = {}\n", live.lab.through(1).port), &format!("listen_port = {port}\n"));
        }
        let mut command = process::server_command(Path::new("/usr/sbin/pgbouncer"));
        process::run(command.arg("-d").arg(&config), crate::world::LIMIT).await.unwrap();
    }
    let before = [0, 1].map(|number| fs::read_to_string(live.lab.pgbouncer_config(number)).unwrap());

    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    live.until("green follows again", async || ask(&server, streams).await == ["1"]).await;

    // By the port that they share either of them answers.
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let both = fs::read_to_string(&live.playbook).unwrap();
    let one: Vec<&str> = both.lines().filter(|line| !line.contains("name: main1")).collect();
    fs::write(&live.playbook, one.join("\n")).unwrap();
    live.greenlight(&["plan", &playbook]).await.expect(REFUSED).says("route:main0");

    let mut text = both;
    for (number, folder) in folders.iter().enumerate() {
        for url in [live.lab.admin_url(number), live.lab.through_url(number)] {
            text = text.replace(&url, &by_socket(&url, folder, port));
        }
    }
    fs::write(&live.playbook, text).unwrap();
    live.start_writing_through(&[live.lab.through(0)]).await;
    live.run().await.expect(WAITS);
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED).says("nothing lost");
    live.see_writes(50).await;
    assert_eq!(live.serving().await, Side::Green);
    live.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED).says("nothing lost");
    live.see_writes(50).await;
    assert_eq!(live.serving().await, Side::Blue);
    let report = live.nothing_is_lost(Side::Blue).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!([0, 1].map(|number| fs::read_to_string(live.lab.pgbouncer_config(number)).unwrap()), before);
}

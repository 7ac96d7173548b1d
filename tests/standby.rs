//! The standby that a run makes, on real servers.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on says where")]

use greenlight::lab::free_port;
use greenlight::plan::StandbySpec;
use greenlight::postgres::programs::Installed;
use greenlight::process;
use greenlight::provider::{LocalProvider, LocalServer, Login, NewServer, Provider, StandbyState, StopMode};
use greenlight::word::{Endpoint, RunId, Secret, SystemClock};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

const LIMIT: Duration = Duration::from_mins(1);
const PASSWORD: &str = r"p:a\s's wörd";

/// A blue server in a folder of its own. Every server below the folder is killed when it is dropped.
struct Blue {
    folder: tempfile::TempDir,
    installed: Installed,
    server: LocalServer,
}

impl Blue {
    async fn up() -> Blue {
        let folder = tempfile::Builder::new().prefix("greenlight-standby-").tempdir_in("/tmp").unwrap();
        process::give_to_server_user(folder.path()).await.unwrap();
        let installed = Installed::find(None, None).await;
        let server = LocalServer {
            programs: installed.server(15).unwrap(),
            data_dir: folder.path().join("blue"),
            port: free_port(),
            log: folder.path().join("blue.log"),
            durable: false,
            clock: Arc::new(SystemClock::new()),
        };
        let settings = [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", ""), ("fsync", "off")];
        let blue = Blue { folder, installed, server };
        let new = NewServer {
            superuser: "greenlight".to_owned(),
            login: Login::Scram(Secret::new(PASSWORD)),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        blue.server.init(&new).await.unwrap();
        blue.server.start(LIMIT).await.unwrap();
        blue
    }

    fn provider(&self, run: &str, data_dir: &Path) -> LocalProvider {
        LocalProvider {
            run: run.parse::<RunId>().unwrap(),
            blue: Blue::endpoint(self.server.port),
            slot: format!("greenlight_{run}_standby"),
            spec: StandbySpec { data_dir: data_dir.to_owned(), port: free_port(), bin_dir: None },
            installed: self.installed.clone(),
            clock: self.server.clock.clone(),
        }
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::on_loopback(port, "postgres", "greenlight", Some(Secret::new(PASSWORD)))
    }

    async fn ask(&self, port: u16, sql: &str) -> Vec<String> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("greenlight").password(PASSWORD).dbname("postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let rows = client.simple_query(sql).await.unwrap();
        rows.iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            })
            .collect()
    }

    async fn until(&self, port: u16, sql: &str, answer: &str) {
        for _ in 0..500 {
            if self.ask(port, sql).await == [answer] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("`{sql}` does not become {answer}");
    }
}

impl Drop for Blue {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            LocalServer { data_dir: entry.path(), ..self.server.clone() }.crash();
        }
    }
}

fn has_password(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("wörd"))).collect()
}

/// The user of the server's folder puts links into it while the copy runs, to what belongs to root.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_folders_user_puts_in_the_way_leads_nowhere() {
    if !process::running_as_root() {
        return;
    }
    let blue = Blue::up().await;
    let data_dir = blue.folder.path().join("green");
    let mut provider = blue.provider("r0000007", &data_dir);
    let roots = tempfile::tempdir().unwrap();
    let victim = roots.path().join("victim");
    fs::write(&victim, "as it was").unwrap();
    fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let as_postgres = |script: &str, path: &Path| {
        let mut command = process::server_command(Path::new("sh"));
        command.as_std_mut().args(["-c", script, "sh"]).arg(path).arg(&victim).status().unwrap()
    };
    let names =
        "greenlight.run.new greenlight.pass.new standby.signal standby.signal.new postgresql.auto.conf.new pg_hba.conf.new";
    let plant = format!("for name in {names}; do ln -sfn \"$2\" \"$1/$name\"; done");
    let planted = |_, _| assert!(as_postgres(&plant, &data_dir).success());
    provider.make_standby(&planted).await.unwrap();
    let untouched = || {
        use std::os::unix::fs::MetadataExt;
        let about = fs::symlink_metadata(&victim).unwrap();
        assert_eq!((about.uid(), about.mode() & 0o7777, about.is_file()), (0, 0o600, true));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
        assert_eq!(fs::read_dir(roots.path()).unwrap().count(), 1);
    };
    untouched();
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Running);
    assert_eq!(blue.ask(provider.spec.port, "SELECT pg_is_in_recovery()::text").await, ["true"]);
    // The folder itself is exchanged for a link before it is removed.
    as_postgres(
        "mv \"$1\" \"$1.aside\" && mkdir \"$1.lure\" && cp \"$1.aside/greenlight.run\" \"$1.lure/\" && ln -s \"${2%/*}\" \"$1\"",
        &data_dir,
    );
    assert!(provider.remove_standby().await.is_err(), "a link that another user made is not the folder");
    untouched();
    as_postgres("rm \"$1\" && mv \"$1.aside\" \"$1\"", &data_dir);
    provider.remove_standby().await.unwrap();
    // A link above the folder that is to be made.
    as_postgres("ln -s \"${2%/*}\" \"$1.above\"", &data_dir);
    provider.spec.data_dir = blue.folder.path().join("green.above/data");
    assert!(provider.make_standby(&|_, _| ()).await.is_err());
    untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_made_follows_blue_and_is_removed_without_a_trace() {
    let blue = Blue::up().await;
    let data_dir = blue.folder.path().join("green");
    let provider = blue.provider("r0000001", &data_dir);
    assert_eq!(provider.problems().await.unwrap(), Vec::<String>::new());
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Absent);

    let copied = Mutex::new(Vec::new());
    provider.make_standby(&|done, all| copied.lock().unwrap().push((done, all))).await.unwrap();
    let (done, all) = *copied.lock().unwrap().last().expect("nothing was said of how far the copy came");
    assert!(done > 1 << 20 && all > 1 << 20, "{done} of {all} bytes");
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Running);
    let green = provider.spec.port;
    blue.ask(blue.server.port, "CREATE TABLE t AS SELECT 1 AS a").await;
    blue.until(green, "SELECT count(*) FROM pg_class WHERE relname = 't'", "1").await;
    assert_eq!(blue.ask(green, "SELECT pg_is_in_recovery()::text").await, ["true"]);
    let slots = "SELECT slot_name || active FROM pg_replication_slots";
    assert_eq!(blue.ask(blue.server.port, slots).await, ["greenlight_r0000001_standbytrue"]);
    // The password is where the server needs it and nowhere else.
    assert_eq!(has_password(&data_dir), [data_dir.join("greenlight.pass")]);

    let server = LocalServer { data_dir: data_dir.clone(), ..blue.server.clone() };
    server.stop(StopMode::Fast, LIMIT).await.unwrap();
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Stopped);
    provider.start_standby().await.unwrap();
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Running);

    provider.remove_standby().await.unwrap();
    provider.remove_standby().await.unwrap();
    assert!(!data_dir.exists() && !server.is_running());
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_a_crash_cut_off_is_made_anew() {
    let blue = Blue::up().await;
    let data_dir = blue.folder.path().join("green");
    let provider = blue.provider("r0000001", &data_dir);
    // What is left when the coordinator is killed in the middle: the mark, the slot, and a copy that goes on by itself.
    blue.ask(blue.server.port, "SELECT pg_create_physical_replication_slot('greenlight_r0000001_standby', true)").await;
    fs::create_dir(&data_dir).unwrap();
    fs::write(data_dir.join("greenlight.run"), "r0000001\nbegun\n").unwrap();
    process::give_to_server_user(&data_dir).await.unwrap();
    let copy = data_dir.join("greenlight.copy");
    let mut slowly = process::server_command(&blue.installed.client("pg_basebackup", 15).unwrap());
    slowly.args(["-h", "127.0.0.1", "-p", &blue.server.port.to_string(), "-U", "greenlight", "-c", "fast", "-D"]).arg(&copy);
    slowly.args(["-X", "stream", "-S", "greenlight_r0000001_standby", "--max-rate=32k"]).env("PGPASSWORD", PASSWORD);
    let mut orphan = slowly.spawn().unwrap();
    blue.until(blue.server.port, "SELECT active::text FROM pg_replication_slots", "true").await;

    assert_eq!(provider.standby().await.unwrap(), StandbyState::Partial);
    assert!(provider.start_standby().await.is_err());
    provider.make_standby(&|_, _| ()).await.unwrap();
    assert_eq!(provider.standby().await.unwrap(), StandbyState::Running);
    blue.until(provider.spec.port, "SELECT status FROM pg_stat_wal_receiver", "streaming").await;
    assert!(!orphan.wait().await.unwrap().success());
    assert!(!copy.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_the_run_did_not_mark_is_never_touched() {
    let blue = Blue::up().await;
    let folder = blue.folder.path().join("precious");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("data"), "of worth").unwrap();
    let provider = blue.provider("r0000001", &folder);
    assert_eq!(provider.standby().await.unwrap(), StandbyState::NotOurs);
    assert!(provider.problems().await.unwrap()[0].contains("is not empty"));
    assert!(provider.make_standby(&|_, _| ()).await.is_err());
    assert!(provider.start_standby().await.is_err());
    provider.remove_standby().await.unwrap();
    assert_eq!(fs::read_to_string(folder.join("data")).unwrap(), "of worth");

    // Nor blue's own folder, nor another run's standby.
    assert!(blue.provider("r0000001", &blue.server.data_dir).make_standby(&|_, _| ()).await.is_err());
    let other = blue.folder.path().join("other");
    blue.provider("r0000002", &other).make_standby(&|_, _| ()).await.unwrap();
    assert_eq!(blue.provider("r0000001", &other).standby().await.unwrap(), StandbyState::NotOurs);
    blue.provider("r0000001", &other).remove_standby().await.unwrap();
    assert_eq!(blue.provider("r0000002", &other).standby().await.unwrap(), StandbyState::Running);
    assert!(blue.server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blue_with_its_configuration_outside_the_data_folder_is_copied_whole() {
    let blue = Blue::up().await;
    blue.server.stop(StopMode::Fast, LIMIT).await.unwrap();
    let outside = blue.folder.path().join("etc");
    fs::create_dir(&outside).unwrap();
    process::give_to_server_user(&outside).await.unwrap();
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(blue.server.data_dir.join(file), outside.join(file)).unwrap();
    }
    let conf = outside.join("postgresql.conf");
    let path = |file: &str| outside.join(file).display().to_string();
    let lines = format!(
        "data_directory='{}'\nhba_file='{}'\nident_file='{}'\nexternal_pid_file='{}'\nmax_connections=150\n",
        blue.server.data_dir.display(),
        path("pg_hba.conf"),
        path("pg_ident.conf"),
        path("pid")
    );
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + &lines).unwrap();
    let postgres = blue.server.programs.program("postgres").unwrap();
    let mut command = process::server_command(&postgres);
    let options = format!("config_file={}", conf.display());
    command.args(["-D"]).arg(&blue.server.data_dir).args(["-p", &blue.server.port.to_string(), "-c", &options]);
    let _running = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    for _ in 0..500 {
        if blue.server.answers().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let provider = blue.provider("r0000001", &blue.folder.path().join("green"));
    provider.make_standby(&|_, _| ()).await.unwrap();
    let green = provider.spec.port;
    assert_eq!(blue.ask(green, "SHOW max_connections").await, ["150"]);
    assert_eq!(blue.ask(green, "SHOW external_pid_file").await, [""]);
    blue.until(green, "SELECT status FROM pg_stat_wal_receiver", "streaming").await;
}

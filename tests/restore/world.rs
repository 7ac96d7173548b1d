//! A server that archives, a store for it, and a writer that knows what was committed when.

use greenlight::lab::{Watcher, free_port};
use greenlight::plan::{HostSpec, WalSpec};
use greenlight::postgres::programs::Installed;
use greenlight::process;
use greenlight::provider::{LocalServer, Login, NewServer, crash_in};
use greenlight::snapshot::restore::{self, Place, RestorePlan, Restored, Target};
use greenlight::snapshot::{Basebackup, Host, Notes, Pgbackrest, SnapshotStore, Source};
use greenlight::word::{Clock, Endpoint, Lsn, PortError, Secret, SystemClock, Timestamp};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_postgres::{NoTls, SimpleQueryMessage};

pub(crate) const LIMIT: Duration = Duration::from_mins(1);
const PASSWORD: &str = r"p:a\s's wörd";

/// What keeps the backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Archive,
    Receive,
    Pgbackrest,
}

/// One server with its store, in a folder of their own. Everything that runs in it is killed when it is dropped.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) server: LocalServer,
    pub(crate) store: Arc<dyn SnapshotStore>,
    pub(crate) source: Source,
    kind: Kind,
    pub(crate) installed: Installed,
    pub(crate) clock: Arc<SystemClock>,
    /// Does what our own end does, should we be killed.
    watcher: Option<Watcher>,
}

/// The programs of this machine, or why a version is not tested.
pub(crate) async fn installed(major: u32) -> Option<Installed> {
    let named = std::env::var_os("GREENLIGHT_PG_DIRS");
    let installed = Installed::find(named.as_deref(), std::env::var_os("PATH").as_deref()).await;
    let there = installed.server(major).is_ok() && installed.exact("pg_basebackup", major).is_ok();
    if !there {
        eprintln!("NOT TESTED: PostgreSQL {major} is not here; name its folders in GREENLIGHT_PG_DIRS");
    }
    there.then_some(installed)
}

impl World {
    pub(crate) async fn up(major: u32, kind: Kind) -> Option<World> {
        World::up_on(major, kind, HostSpec::Local, None).await
    }

    /// With the store on another host, which is this one under another name.
    pub(crate) async fn up_on(major: u32, kind: Kind, host: HostSpec, ssh_config: Option<PathBuf>) -> Option<World> {
        let installed = installed(major).await?;
        let folder = tempfile::Builder::new().prefix("greenlight-restore-").tempdir_in("/tmp").unwrap();
        let watcher = Some(Watcher::over(folder.path(), process::ServerUser::Usual).unwrap());
        process::give_to_server_user(folder.path()).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        let server = LocalServer {
            programs: installed.server(major).unwrap(),
            data_dir: folder.path().join("blue"),
            port: free_port(),
            log: folder.path().join("blue.log"),
            durable: false,
            clock: clock.clone(),
        };
        let store_dir = folder.path().join("store's %dir");
        server.init(&new_server(folder.path(), &store_dir, kind)).await.unwrap();
        server.start(LIMIT).await.unwrap();
        let at = endpoint(server.port);
        let source = Source { at: at.clone(), from_host: at };
        let notes = Notes { host: Host { spec: host, ssh_config, bin_dir: None, installed: installed.clone() }, dir: store_dir };
        let store = store(kind, &source, notes, folder.path(), &server, clock.clone()).await;
        let world = World { folder, server, store, source, kind, installed, clock, watcher };
        world
            .ask(
                "CREATE TABLE kept (id bigint PRIMARY KEY, xid xid8 DEFAULT pg_current_xact_id(), note text DEFAULT 'as it was')",
            )
            .await;
        Some(world)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.store.notes().dir.join("wal")
    }

    pub(crate) async fn ask(&self, sql: &str) -> Vec<String> {
        ask(&self.source.at, sql).await
    }

    /// Takes a backup, after it was seen that WAL is archived, and waits until it is over for its store too: pgBackRest writes whole
    /// seconds, so its end counts as up to a second later than it was, and no time before that can be reached from it.
    pub(crate) async fn back_up(&self) -> greenlight::snapshot::Backup {
        self.store.ensure_archiving().await.unwrap();
        let backup = self.store.take(&|_, _, _| ()).await.unwrap();
        let left = backup.ended_at.duration_since(self.clock.now());
        self.clock.sleep(Duration::try_from(left).unwrap_or_default()).await;
        backup
    }

    /// A playbook for this server and store, which the command line can use.
    pub(crate) fn playbook(&self) -> PathBuf {
        let text = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        fs::create_dir_all(self.path("migrations")).unwrap();
        fs::write(self.path("migrations/1_nothing.up.sql"), "SELECT 1;\n").unwrap();
        fs::write(self.path("migrations/1_nothing.down.sql"), "SELECT 1;\n").unwrap();
        fs::write(self.path("pgbouncer.ini"), "[databases]\n").unwrap();
        let store = match self.kind {
            Kind::Archive => "store: basebackup\n  wal: archive_command".to_owned(),
            Kind::Receive => "store: basebackup\n  wal: receive".to_owned(),
            Kind::Pgbackrest => format!("store: pgbackrest\n  stanza: shop\n  config: {}", text(&self.path("pgbackrest.conf"))),
        };
        let port = self.server.port;
        let playbook = format!(
            "version: 1\nname: Shop 1\nstrategy: sync\nblue:\n  url: postgresql://postgres:${{env:BLUE_PASSWORD}}@127.0.0.1:{port}/postgres\n\
             green:\n  url: postgresql://postgres@127.0.0.1:1/postgres\nmigrations: {{dir: migrations}}\nroutes:\n  - pgbouncer:\n      \
             name: main\n      admin: postgresql://postgres@127.0.0.1:2/pgbouncer\n      database: shop\n      config: pgbouncer.ini\n\
             validate:\n  assertions:\n    - {{name: every row was kept, query: select count(*) from kept where note is null, expect: 0}}\n\
             window: {{max_lag: 1MiB}}\nsoak: {{for: 1h}}\nlimits: {{wal_kept: 1GiB}}\n\
             snapshot:\n  {store}\n  dir: {}\n  retention: {{count: 1}}\n",
            text(&self.store.notes().dir)
        );
        fs::write(self.path("shop.yaml"), playbook).unwrap();
        self.path("shop.yaml")
    }

    /// The command line, with this world's playbook after the first words.
    pub(crate) fn command(&self, words: &[&str], more: &[&str]) -> tokio::process::Command {
        let playbook = self.playbook().display().to_string();
        self.bare_command(&[words, &[playbook.as_str()], more].concat())
    }

    pub(crate) fn bare_command(&self, words: &[&str]) -> tokio::process::Command {
        let mut command = process::new_command(Path::new(env!("CARGO_BIN_EXE_greenlight")));
        command.args(words).arg("--state").arg(self.path("state"));
        command.env("BLUE_PASSWORD", PASSWORD);
        command
    }

    /// Runs the command line: its exit code, and what it said in all.
    pub(crate) async fn run(&self, words: &[&str], more: &[&str], failpoint: Option<&str>) -> (Option<i32>, String) {
        let mut command = self.command(words, more);
        command.envs(failpoint.map(|name| ("GREENLIGHT_FAILPOINT", name)));
        let output = process::output(&mut command, LIMIT).await.unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!said.contains(PASSWORD), "no password is shown: {said}");
        (output.status.code(), said)
    }

    /// Everything written so far is in the archive.
    pub(crate) async fn archive(&self) -> Lsn {
        self.store.prove_archiving(LIMIT).await.unwrap().until
    }

    /// One more row, committed; what is known of it.
    pub(crate) async fn write(&self, id: i64) -> Written {
        let xid = self.ask(&format!("INSERT INTO kept (id) VALUES ({id}) RETURNING xid")).await[0].parse().unwrap();
        let rows = self.ask(&format!("SELECT pg_current_wal_insert_lsn(), pg_xact_commit_timestamp(xmin)::timestamptz AT TIME ZONE 'UTC' FROM kept WHERE id = {id}")).await;
        let (lsn, at) = rows[0].split_once('|').unwrap();
        Written { xid, after: lsn.parse().unwrap(), at: format!("{}Z", at.replacen(' ', "T", 1)).parse().unwrap() }
    }

    pub(crate) fn place(&self, name: &str) -> Place {
        Place { host: self.store.host().clone(), data_dir: self.path(name), port: free_port(), throwaway: false }
    }

    pub(crate) async fn check(&self, target: &Target, place: &Place) -> RestorePlan {
        restore::check(self.store.as_ref(), target, None, place, self.clock.now()).await.unwrap()
    }

    /// The one problem of a restore that must not begin, and nothing was made.
    pub(crate) async fn problem(&self, target: &Target, place: &Place) -> String {
        let plan = self.check(target, place).await;
        assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
        plan.problems[0].clone()
    }

    pub(crate) async fn recover(&self, plan: &RestorePlan) -> Result<Restored, PortError> {
        restore::recover(self.store.as_ref(), plan, &self.source.at, false, &*self.clock, &|_, _, _| ()).await
    }

    /// Restores, and says which rows are there; then the restored server is removed.
    pub(crate) async fn rows_at(&self, target: Target, timeline: Option<u32>) -> Vec<i64> {
        let place = self.place("restored");
        let plan = restore::check(self.store.as_ref(), &target, timeline, &place, self.clock.now()).await.unwrap();
        assert!(plan.problems.is_empty(), "{target}: {:?}", plan.problems);
        let restored = self.recover(&plan).await.unwrap_or_else(|error| panic!("{target}: {}", error.chain()));
        let rows = ask(&restored.endpoint, "SELECT id FROM kept ORDER BY id").await;
        let standing = ask(&restored.endpoint, "SELECT pg_is_in_recovery(), pg_get_wal_replay_pause_state()").await;
        assert_eq!(standing, ["t|paused"], "{target}: it stands still and takes no writes");
        restore::discard(self.store.as_ref(), &place, &self.source.at).await.unwrap();
        assert!(!place.data_dir.exists(), "nothing is left of it");
        rows.iter().map(|id| id.parse().unwrap()).collect()
    }
}

/// A row and where its commit stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) xid: u32,
    /// The end of the log when its commit had been acknowledged.
    pub(crate) after: Lsn,
    pub(crate) at: Timestamp,
}

impl Drop for World {
    fn drop(&mut self) {
        let below =
            |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        for folder in below(self.folder.path()).into_iter().chain(below(&self.store.notes().dir)) {
            crash_in(&folder);
        }
        let keeper = self.wal().join("greenlight.keeper");
        for (program, path) in [("sh", keeper), ("pg_receivewal", self.wal())] {
            greenlight::provider::processes::kill_and_wait(&greenlight::provider::processes::started_with(program, &path));
        }
        if let Some(watcher) = self.watcher.take() {
            watcher.dismiss();
        }
    }
}

fn new_server(folder: &Path, store: &Path, kind: Kind) -> NewServer {
    let archive = match kind {
        Kind::Receive => String::new(),
        Kind::Archive => {
            let wal = format!("'{}'", store.join("wal").display().to_string().replace('\'', r"'\''").replace('%', "%%"));
            let new = format!("test -d {wal} && test ! -f {wal}/%f && cp %p {wal}/%f.tmp && mv {wal}/%f.tmp {wal}/%f");
            format!("cmp -s %p {wal}/%f || {{ {new}; }}")
        }
        Kind::Pgbackrest => {
            format!("pgbackrest --config={} --stanza=shop archive-push %p", folder.join("pgbackrest.conf").display())
        }
    };
    let settings = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("unix_socket_directories", if kind == Kind::Pgbackrest { folder.display().to_string() } else { String::new() }),
        ("fsync", "off".to_owned()),
        ("track_commit_timestamp", "on".to_owned()),
        ("archive_mode", if kind == Kind::Receive { "off" } else { "on" }.to_owned()),
        ("archive_command", archive),
        ("max_wal_senders", "10".to_owned()),
        ("shared_buffers", "8MB".to_owned()),
        ("timezone", "America/New_York".to_owned()),
    ];
    NewServer {
        superuser: "postgres".to_owned(),
        login: Login::Scram(Secret::new(PASSWORD)),
        settings: settings.map(|(name, value)| (name.to_owned(), value)).to_vec(),
    }
}

async fn store(
    kind: Kind,
    source: &Source,
    notes: Notes,
    folder: &Path,
    server: &LocalServer,
    clock: Arc<SystemClock>,
) -> Arc<dyn SnapshotStore> {
    let wal = match kind {
        Kind::Archive => WalSpec::ArchiveCommand,
        Kind::Receive => WalSpec::Receive,
        Kind::Pgbackrest => {
            let config = folder.join("pgbackrest.conf");
            let place = folder.display();
            // Its own login is by a password file, as its manual says.
            let text = format!(
                "[global]\nrepo1-path={place}/repo\nlog-path={place}\nlock-path={place}/lock\nspool-path={place}/spool\n\
                 log-level-console=off\nlog-level-file=off\nstart-fast=y\n[shop]\npg1-path={}\npg1-port={}\npg1-socket-path={place}\n",
                server.data_dir.display(),
                server.port
            );
            fs::write(&config, text).unwrap();
            // It reaches the server through its socket, as the server's user.
            let hba = server.data_dir.join("pg_hba.conf");
            let lines = fs::read_to_string(&hba)
                .unwrap()
                .replace("local   all             all                                     scram-sha-256", "local all all peer");
            fs::write(&hba, lines).unwrap();
            ask(&source.at, "SELECT pg_reload_conf()").await;
            let mut command = process::server_command(Path::new("pgbackrest"));
            command.arg(format!("--config={}", config.display())).args(["--stanza=shop", "stanza-create"]);
            process::run(&mut command, LIMIT).await.unwrap();
            return Arc::new(Pgbackrest {
                source: source.clone(),
                notes,
                stanza: "shop".to_owned(),
                config: Some(config),
                clock,
            });
        }
    };
    Arc::new(Basebackup { source: source.clone(), notes, wal, slot: Basebackup::slot_of("Shop 1"), clock })
}

pub(crate) fn endpoint(port: u16) -> Endpoint {
    Endpoint::on_loopback(port, "postgres", "postgres", Some(Secret::new(PASSWORD)))
}

pub(crate) async fn connect(at: &Endpoint) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host(&at.host).port(at.port).user(&at.user).dbname(&at.database).password(PASSWORD);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The rows of an answer, each as its columns' texts with `|` between them.
pub(crate) async fn ask(at: &Endpoint, sql: &str) -> Vec<String> {
    let messages = connect(at).await.simple_query(sql).await.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).unwrap_or_default()).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

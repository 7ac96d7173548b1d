//! A throwaway world of real servers, and the binary beside it.

use greenlight::lab::{Options, World, find_pgbouncer, shop};
use greenlight::postgres::programs::Installed;
use greenlight::word::{Endpoint, RunId, Side};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// In the environment of every command.
pub(crate) const SECRET: &str = "geheim-97";

/// Nothing that a test waits for may last longer.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

pub(crate) struct Lab {
    pub(crate) world: World,
    /// Playbooks, migrations and state directories. The binary runs in it.
    pub(crate) desk: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The exit code, and every one of these texts in what was said.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, texts: &[&str]) -> &Said {
        let all = format!("{}\n{}", self.out, self.err);
        assert_eq!(self.code, code, "{all}");
        for text in texts {
            assert!(all.contains(text), "`{text}` is not in:\n{all}");
        }
        self
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.out.contains(text) || self.err.contains(text)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.out, self.err))
    }
}

impl Lab {
    pub(crate) async fn up() -> Lab {
        Lab::with("shop", true).await
    }

    pub(crate) async fn with(database: &str, with_green: bool) -> Lab {
        let named = std::env::var_os("GREENLIGHT_PG_DIRS");
        let installed = Installed::find(named.as_deref(), None).await;
        let options = Options {
            dir: PathBuf::from(format!("/tmp/greenlight-operator-{}", RunId::random())),
            major: installed.server_majors().into_iter().min().unwrap(),
            installed,
            pgbouncer: find_pgbouncer(Some(OsStr::new("/usr/sbin"))).unwrap(),
            pgbouncers: 1,
            fsync: false,
            scale: 0.02,
            database: database.to_owned(),
            with_green,
            settings: Vec::new(),
        };
        let world = World::up(&options, &|_| ()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let desk = tempfile::tempdir().unwrap();
        std::fs::create_dir(desk.path().join("migrations")).unwrap();
        shop::write_migrations(&desk.path().join("migrations")).unwrap();
        Lab { world, desk }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.desk.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        // Some of them hold passwords.
        std::fs::set_permissions(self.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// A playbook for this world that waits for nobody before its window.
    pub(crate) fn playbook(&self) -> String {
        playbook(&self.world, &self.world.url(Side::Blue), &self.world.url(Side::Green))
    }

    /// The binary, to its end.
    pub(crate) async fn say(&self, arguments: &[&str]) -> Said {
        ended(self.begin(arguments)).await
    }

    /// The binary, going on beside the test; ended with it.
    pub(crate) fn begin(&self, arguments: &[&str]) -> tokio::process::Child {
        begin_in(self.desk.path(), arguments)
    }

    pub(crate) async fn ask(&self, side: Side, sql: &str) -> String {
        ask(&self.world.endpoint(side), sql).await
    }

    /// Waits until the answer is this one.
    pub(crate) async fn until(&self, side: Side, sql: &str, answer: &str) {
        poll(sql, async || self.ask(side, sql).await == answer).await;
    }

    /// What a run makes on a server, and what would say that one has been there.
    pub(crate) async fn traces(&self) -> String {
        let sql = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'), \
                   (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_subscription), \
                   to_regnamespace('greenlight') IS NULL, pg_is_in_recovery(), \
                   (SELECT bool_and(datallowconn) FROM pg_database WHERE datname <> 'template0')";
        format!("blue {}; green {}", self.ask(Side::Blue, sql).await, self.ask(Side::Green, sql).await)
    }
}

pub(crate) const UNTOUCHED: &str = "blue 0|0|0|t|f|t; green 0|0|0|t|t|t";

pub(crate) fn playbook(world: &World, blue: &str, green: &str) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "version: 1\nname: shop\nstrategy: sync\nblue:\n  url: {}\ngreen:\n  url: {}\nmigrations:\n  dir: migrations\n\
         routes:\n  - pgbouncer:\n      name: main\n      admin: {}\n      database: {}\n      config: {}\n      probe: {}\n\
         window:\n  max_lag: 4MiB\nsoak: {{for: 1h, then: wait}}\non_failure: hold\nlimits: {{wal_kept: 20GiB}}\n\
         accept: [no-archive, \"backfill:public.customers\"]\n",
        text(blue),
        text(green),
        text(&world.admin_url(0)),
        text(world.pgbouncer_database()),
        text(&world.pgbouncer_config(0).display().to_string()),
        text(&world.through_url(0)),
    )
}

/// The binary in this folder, going on beside the test; ended with it.
pub(crate) fn begin_in(folder: &Path, arguments: &[&str]) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_greenlight"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("GREENLIGHT_STATE").env("USER", "ceo").env("LOGNAME", "ceo").env("SUDO_USER", "ceo");
    // What people have set for their own servers, and what only this process is to know.
    command.env("PGPASSWORD", "of another server").env("PGSERVICE", "no-such").env("PGOPTIONS", "-c no_such.thing=x y");
    command.env("PGHOST", "no-such-host").env("PGPORT", "1").env("PGSSLMODE", "verify-full").env("SOME_SECRET", SECRET);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) async fn ended(child: tokio::process::Child) -> Said {
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("the command ends").unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Sends a signal by its name, such as `INT`.
pub(crate) fn signal(child: &tokio::process::Child, name: &str) {
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
}

/// The rows of the answer, columns apart by `|`; an empty text for none, and the error where it fails.
pub(crate) async fn ask(at: &Endpoint, sql: &str) -> String {
    let mut config = tokio_postgres::Config::new();
    config.host(&at.host).port(at.port).user(&at.user).dbname(&at.database);
    config.password(at.password.as_ref().unwrap().expose());
    let (client, connection) = match config.connect(tokio_postgres::NoTls).await {
        Ok(connected) => connected,
        Err(error) => return error.to_string(),
    };
    tokio::spawn(connection);
    let answer = match client.simple_query(sql).await {
        Ok(answer) => answer,
        Err(error) => return error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()),
    };
    let rows: Vec<String> = answer
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or_default()).collect::<Vec<_>>().join("|"))
            }
            _ => None,
        })
        .collect();
    rows.join("\n")
}

pub(crate) async fn poll(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = std::time::Instant::now() + LIMIT;
    while !is_so().await {
        assert!(std::time::Instant::now() < until, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

/// A client's own session.
pub(crate) async fn connected(at: &Endpoint) -> tokio_postgres::Client {
    connected_as(at, "").await
}

pub(crate) async fn connected_as(at: &Endpoint, application: &str) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host(&at.host).port(at.port).user(&at.user).dbname(&at.database);
    config.password(at.password.as_ref().unwrap().expose()).application_name(application);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

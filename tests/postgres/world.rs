//! Throwaway servers: one that can be blue, and a standby of it.

use greenlight::lab::free_port;
use greenlight::plan::HistorySpec;
use greenlight::postgres::client::{Session, SessionOptions, connect};
use greenlight::postgres::programs::Installed;
use greenlight::postgres::{PgServer, PgServerOptions};
use greenlight::process;
use greenlight::provider::{LocalServer, Login, NewServer};
use greenlight::word::{Endpoint, PortError, RunId, Secret, Side, SystemClock};
use std::{
    ffi::OsString,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_postgres::{Client, SimpleQueryMessage};

pub(crate) const LIMIT: Duration = Duration::from_mins(1);
pub(crate) const RUN: &str = "r1234567";
/// What lets the run's sessions through its fences.
pub(crate) const PASS: &str = "a0b1c2d3e4f5";
pub(crate) const PASSWORD: &str = r"p@:/a\s's %wörd";
/// A part of it that no kind of quoting changes: what is looked for where it must not be.
pub(crate) const SHARE_OF_PASSWORD: &str = "p@:/a";
/// A name that needs every kind of quoting.
pub(crate) const DATABASE: &str = r#"My "Shop" it's \ é"#;

/// The servers below one folder; all are killed when it is dropped.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) installed: Installed,
    pub(crate) blue: LocalServer,
    pub(crate) green: LocalServer,
}

impl World {
    /// Blue alone, with the run's database.
    pub(crate) async fn blue() -> World {
        World::with(&[]).await
    }

    pub(crate) async fn with(settings: &[(&str, &str)]) -> World {
        let folder = tempfile::Builder::new().prefix("greenlight-postgres-").tempdir_in("/tmp").unwrap();
        process::give_to_server_user(folder.path()).await.unwrap();
        let installed = Installed::find(environment("GREENLIGHT_PG_DIRS").as_deref(), None).await;
        let major = environment("GREENLIGHT_TEST_MAJOR").map_or(15, |major| major.to_str().unwrap().parse().unwrap());
        let server = |name: &str| LocalServer {
            programs: installed.server(major).unwrap(),
            data_dir: folder.path().join(name),
            port: free_port(),
            log: folder.path().join(format!("{name}.log")),
            durable: false,
            clock: Arc::new(SystemClock::new()),
        };
        let (blue, green) = (server("blue"), server("green"));
        let world = World { folder, installed, blue, green };
        let common = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("fsync", "off"),
            ("wal_level", "logical"),
            ("max_prepared_transactions", "5"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("shared_buffers", "32MB"),
            ("wal_retrieve_retry_interval", "200ms"),
            ("logging_collector", "on"),
            ("log_filename", "server.log"),
            ("log_statement", "ddl"),
        ];
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let new = NewServer {
            superuser: "The Admin".to_owned(),
            login: Login::Scram(Secret::new(PASSWORD)),
            settings: common.iter().chain(settings).map(owned).collect(),
        };
        world.blue.init(&new).await.unwrap();
        world.blue.start(LIMIT).await.unwrap();
        let name = greenlight::word::quote_ident(DATABASE);
        sql(&world.endpoint(Side::Blue).with_database("postgres"), &format!("CREATE DATABASE {name}")).await;
        world
    }

    /// Blue and a standby that follows it through the physical slot `standby`. `schema` is run on blue before.
    pub(crate) async fn pair(schema: &str) -> World {
        let world = World::blue().await;
        sql(&world.endpoint(Side::Blue), schema).await;
        sql(&world.endpoint(Side::Blue), "SELECT pg_create_physical_replication_slot('standby', true)").await;
        world.green.base_backup(&world.installed, &world.endpoint(Side::Blue), "standby", &|_, _| ()).await.unwrap();
        world.green.start(LIMIT).await.unwrap();
        world
    }

    pub(crate) fn endpoint(&self, side: Side) -> Endpoint {
        let port = match side {
            Side::Blue => self.blue.port,
            Side::Green => self.green.port,
        };
        Endpoint::on_loopback(port, DATABASE, "The Admin", Some(Secret::new(PASSWORD)))
    }

    pub(crate) fn server(&self, side: Side) -> PgServer {
        PgServer::new(self.options(side))
    }

    pub(crate) fn options(&self, side: Side) -> PgServerOptions {
        PgServerOptions {
            side,
            endpoint: self.endpoint(side),
            peer: self.endpoint(side.other()),
            maintenance_database: None,
            run: RUN.parse::<RunId>().unwrap(),
            epoch: Arc::new(AtomicU64::new(1)),
            pass: Secret::new(PASS),
            history: HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 1000, lock_retries: 3 },
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// What the server wrote into its log.
    pub(crate) fn log(&self, side: Side) -> String {
        let server = match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        };
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        text(&server.data_dir.join("log/server.log")) + &text(&server.log)
    }
}

/// The suite runs on PostgreSQL 15, or on the major version that `GREENLIGHT_TEST_MAJOR` says.
fn environment(name: &str) -> Option<OsString> {
    std::env::var(name).ok().map(OsString::from)
}

impl Drop for World {
    fn drop(&mut self) {
        self.blue.crash();
        self.green.crash();
    }
}

/// A new session as an application would open it.
pub(crate) async fn app(endpoint: &Endpoint) -> Client {
    try_app(endpoint).await.unwrap()
}

pub(crate) async fn try_app(endpoint: &Endpoint) -> Result<Client, PortError> {
    let options = SessionOptions::untouched("app", Duration::from_mins(1));
    connect(endpoint, &options, "the server").await.map(|(client, _)| client)
}

/// Runs it in a session of its own and returns the first column, null as the empty text.
pub(crate) async fn sql(endpoint: &Endpoint, sql: &str) -> Vec<String> {
    ask(&app(endpoint).await, sql).await
}

pub(crate) async fn ask(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    rows.collect()
}

/// Waits until the query answers so.
pub(crate) async fn until(endpoint: &Endpoint, query: &str, answer: &str) {
    let client = app(endpoint).await;
    let mut last = Vec::new();
    for _ in 0..1500 {
        last = ask(&client, query).await;
        if last == [answer] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("`{query}` does not become {answer} but stays {last:?}");
}

/// The SQLSTATE with which a statement was refused; empty when it was not.
pub(crate) async fn refused(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => String::new(),
        Err(error) => error.code().map_or_else(|| "closed".to_owned(), |code| code.code().to_owned()),
    }
}

pub(crate) async fn session(endpoint: &Endpoint) -> Session {
    let options = SessionOptions::untouched("test", Duration::from_mins(1));
    Session::open(endpoint, &options, "the server").await.unwrap()
}

pub(crate) fn set_epoch(options: &PgServerOptions, epoch: u64) {
    options.epoch.store(epoch, Ordering::SeqCst);
}

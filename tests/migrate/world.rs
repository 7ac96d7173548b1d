//! A server for one test.

use greenlight::migrate::files::checksum;
use greenlight::migrate::shadow::{self, ShadowError};
use greenlight::migrate::statements::is_transactional;
use greenlight::migrate::{Migration, PgMigrator, ShadowReport};
use greenlight::plan::HistorySpec;
use greenlight::postgres::catalog;
use greenlight::postgres::programs::Installed;
use greenlight::process;
use greenlight::provider::{LocalServer, Login, NewServer};
use greenlight::schema::{Catalog, FlowOptions, Seen, SeenWrite, TableFlow, flows};
use greenlight::word::{Clock, Endpoint, RelationName, RunId, SystemClock};
use std::ffi::OsString;
use std::sync::{Arc, atomic::AtomicU64};
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

/// A server in a folder of its own; killed and removed when it is dropped.
pub(crate) struct World {
    // Removed after the server is killed.
    _folder: tempfile::TempDir,
    pub(crate) installed: Installed,
    pub(crate) server: LocalServer,
    pub(crate) major: u32,
}

/// Its name needs quoting everywhere.
pub(crate) const DATABASE: &str = "the \"Shop\" = dé";

impl World {
    pub(crate) async fn up() -> World {
        let folder = tempfile::Builder::new().prefix("greenlight-migrate-").tempdir_in("/tmp").unwrap();
        process::give_to_server_user(folder.path()).await.unwrap();
        let installed = Installed::find(environment("GREENLIGHT_PG_DIRS").as_deref(), None).await;
        let major = environment("GREENLIGHT_TEST_MAJOR").map_or(15, |major| major.to_str().unwrap().parse().unwrap());
        let server = LocalServer {
            programs: installed.server(major).unwrap(),
            data_dir: folder.path().join("data"),
            port: std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
            log: folder.path().join("log"),
            durable: false,
            clock: Arc::new(SystemClock::new()),
        };
        let settings = [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", ""), ("fsync", "off")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let new = NewServer { superuser: "Owner of all".to_owned(), login: Login::Trust, settings };
        server.init(&new).await.unwrap();
        server.start(Duration::from_mins(1)).await.unwrap();
        let world = World { _folder: folder, installed, server, major };
        let quoted = greenlight::word::quote_ident(DATABASE);
        world.client("postgres").await.batch_execute(&format!("CREATE DATABASE {quoted}")).await.unwrap();
        world
    }

    pub(crate) fn endpoint(&self, database: &str) -> Endpoint {
        Endpoint::on_loopback(self.server.port, database, "Owner of all", None)
    }

    pub(crate) async fn client(&self, database: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.server.port).user("Owner of all").dbname(database).application_name("a test");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A session in the database of the test.
    pub(crate) async fn shop(&self) -> Client {
        self.client(DATABASE).await
    }

    pub(crate) async fn catalog(&self) -> Catalog {
        catalog::read(&self.shop().await).await.unwrap()
    }

    pub(crate) async fn shadow(&self, migrations: &[Migration]) -> Result<ShadowReport, ShadowError> {
        let dump = shadow::dump(&self.installed, &self.endpoint(DATABASE), self.major).await.unwrap();
        let run: RunId = "r0000001".parse().unwrap();
        let report = shadow::run(&self.endpoint("postgres"), &dump, migrations, &history(), &run).await;
        let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'greenlight%'";
        assert_eq!(self.client("postgres").await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
        report
    }

    pub(crate) fn migrator(&self) -> PgMigrator {
        self.migrator_with(history())
    }

    pub(crate) fn migrator_with(&self, history: HistorySpec) -> PgMigrator {
        let (run, epoch) = ("r0000001".parse().unwrap(), Arc::new(AtomicU64::new(7)));
        PgMigrator::new(self.endpoint(DATABASE), run, epoch, history, Arc::new(SystemClock::new()))
    }
}

/// The suite runs on PostgreSQL 15, or on the major version that `GREENLIGHT_TEST_MAJOR` says.
fn environment(name: &str) -> Option<OsString> {
    std::env::var(name).ok().map(OsString::from)
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.crash();
    }
}

pub(crate) fn history() -> HistorySpec {
    HistorySpec { schema: "Tool's own".to_owned(), role: None, lock_timeout_ms: 200, lock_retries: 2 }
}

pub(crate) fn migration(version: &str, up: &str) -> Migration {
    Migration {
        version: version.to_owned(),
        name: "change".to_owned(),
        up: up.to_owned(),
        down: None,
        checksum: checksum(up),
        transactional: is_transactional(up),
    }
}

/// The flows that the report leads to, as a plan would have them.
pub(crate) fn flows_of(report: &ShadowReport) -> Vec<TableFlow> {
    let writes = report.statements.iter().flat_map(|statement| {
        let by = format!("version {} line {}", statement.version, statement.line);
        statement.writes.iter().map(move |write| SeenWrite { write: write.clone(), by: by.clone() })
    });
    let seen = Seen { writes: writes.collect(), moves: report.moves.clone() };
    let options = FlowOptions {
        accepted: Vec::new(),
        history: vec![RelationName::new(history().schema, "schema_migrations")],
        major: 15,
        frozen: false,
    };
    flows(&report.before, &report.after, &seen, &options)
}

/// Polls until `sql` gives true.
pub(crate) async fn until(client: &Client, sql: &str) {
    for _ in 0..500 {
        if client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            return;
        }
        Clock::sleep(&SystemClock::new(), Duration::from_millis(20)).await;
    }
    panic!("`{sql}` does not become true");
}

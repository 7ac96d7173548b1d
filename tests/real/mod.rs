//! Real servers in a throwaway folder and clients that write to them, for the tests of what moves and compares.

#![expect(clippy::unwrap_used, reason = "test code outside of test functions")]

use greenlight::lab::free_port;
use greenlight::postgres::programs::Installed;
use greenlight::process;
use greenlight::provider::{LocalServer, Login, NewServer};
use greenlight::word::{Clock, Endpoint, Secret, SystemClock};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_postgres::{NoTls, SimpleQueryMessage};

pub(crate) const LIMIT: Duration = Duration::from_mins(1);
pub(crate) const PASSWORD: &str = "it's \"a\" pass:word";

/// A folder of servers. Everything that runs in it is killed when it is dropped.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<SystemClock>,
    pub(crate) servers: Vec<LocalServer>,
}

impl World {
    /// As many servers as asked for, each with the superuser `postgres`, whom everyone on this machine may be.
    pub(crate) async fn with_servers(count: usize) -> World {
        let folder = tempfile::Builder::new().prefix("greenlight-real-").tempdir_in("/tmp").unwrap();
        process::give_to_server_user(folder.path()).await.unwrap();
        let installed = Installed::find(None, None).await;
        let mut world = World { folder, clock: Arc::new(SystemClock::new()), servers: Vec::new() };
        let sockets = world.folder.path().display().to_string();
        let settings = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", sockets.as_str()),
            ("fsync", "off"),
            ("wal_level", "logical"),
            ("max_connections", "200"),
        ];
        let new = NewServer {
            superuser: "postgres".to_owned(),
            login: Login::Trust,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        for name in ["blue", "green", "third"].iter().take(count) {
            let server = LocalServer {
                programs: installed.server(15).unwrap(),
                data_dir: world.folder.path().join(name),
                port: free_port(),
                log: world.folder.path().join(format!("{name}.log")),
                durable: false,
                clock: world.clock.clone(),
            };
            world.servers.push(server);
            let server = world.servers.last().unwrap();
            server.init(&new).await.unwrap();
            server.start(LIMIT).await.unwrap();
        }
        world
    }

    /// One of the servers, directly.
    pub(crate) fn server(&self, number: usize, database: &str) -> Endpoint {
        endpoint(self.servers[number].port, database, "postgres")
    }

    /// Polls until it is so; the test fails after a while.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, mut is_so: impl FnMut() -> F) {
        let until = self.clock.monotonic() + LIMIT;
        while !is_so().await {
            assert!(self.clock.monotonic() < until, "waited too long to see that {what}");
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &self.servers {
            server.crash();
        }
    }
}

/// A database on this machine, with the one password that every user has.
pub(crate) fn endpoint(port: u16, database: &str, user: &str) -> Endpoint {
    Endpoint::on_loopback(port, database, user, Some(Secret::new(PASSWORD)))
}

pub(crate) async fn connect(endpoint: &Endpoint) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(&endpoint.host).port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database).password(PASSWORD);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The rows of an answer, each as its columns' texts with `|` between them.
pub(crate) async fn rows(client: &tokio_postgres::Client, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).unwrap_or_default()).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    Ok(messages.iter().filter_map(row).collect())
}

pub(crate) async fn try_ask(endpoint: &Endpoint, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    rows(&connect(endpoint).await?, sql).await
}

pub(crate) async fn ask(endpoint: &Endpoint, sql: &str) -> Vec<String> {
    try_ask(endpoint, sql).await.unwrap_or_else(|error| panic!("`{sql}` on {endpoint}: {error:?}"))
}

/// Clients that run one statement again and again, and remember what went wrong and how long they waited.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    done: AtomicU64,
    longest_wait_micros: AtomicU64,
    errors: Mutex<Vec<String>>,
}

impl Load {
    /// `statement` is given the client's number and the statement's.
    pub(crate) fn start(
        endpoint: &Endpoint,
        clients: u64,
        pace: Duration,
        statement: impl Fn(u64, u64) -> String + Send + Sync + 'static,
    ) -> Load {
        let (stop, seen, statement) = (Arc::<AtomicBool>::default(), Arc::<Seen>::default(), Arc::new(statement));
        let run = |number: u64| {
            let (endpoint, stop, seen, statement) = (endpoint.clone(), stop.clone(), seen.clone(), statement.clone());
            tokio::spawn(async move {
                let clock = SystemClock::new();
                let mut session = None;
                for count in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let begun = clock.monotonic();
                    let done = async {
                        let client = match session.take() {
                            Some(client) => client,
                            None => connect(&endpoint).await?,
                        };
                        client.batch_execute(&statement(number, count)).await?;
                        Ok::<_, tokio_postgres::Error>(client)
                    };
                    match done.await {
                        Ok(client) => {
                            session = Some(client);
                            seen.done.fetch_add(1, Ordering::SeqCst);
                            let waited = u64::try_from(clock.monotonic().saturating_sub(begun).as_micros()).unwrap();
                            seen.longest_wait_micros.fetch_max(waited, Ordering::SeqCst);
                        }
                        Err(error) => seen.errors.lock().unwrap().push(format!("{error:?}")),
                    }
                    clock.sleep(pace).await;
                }
            })
        };
        let clients = (0..clients).map(run).collect();
        Load { stop, clients, seen }
    }

    pub(crate) fn done(&self) -> u64 {
        self.seen.done.load(Ordering::SeqCst)
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        self.seen.errors.lock().unwrap().clone()
    }

    pub(crate) fn longest_wait(&self) -> Duration {
        Duration::from_micros(self.seen.longest_wait_micros.load(Ordering::SeqCst))
    }

    /// Lets each client end its statement.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.await.unwrap();
        }
    }
}

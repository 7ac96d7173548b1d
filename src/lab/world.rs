//! A blue primary, its standby green, and PgBouncers before them: brought up, broken, mended and removed.

use super::pooler::{Pooler, User};
use super::watcher::Watcher;
use super::{session, shop};
use crate::postgres::programs::{Installed, Programs};
use crate::process::{self, ServerUser, files};
use crate::provider::{LocalServer, Login, NewServer, StopMode, crash_in};
use crate::word::{Clock, Endpoint, PortError, Secret, Side, SystemClock, quote_ident, quote_literal};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The role that may do everything, on the servers.
const SUPERUSER: &str = "shop_admin";
/// The role that applications use.
const APPLICATION: &str = "shop_app";
/// The user that may use the PgBouncers' admin consoles.
const POOLER_ADMIN: &str = "pooler_admin";
/// The physical slot on blue through which green follows.
const GREEN_SLOT: &str = "green_standby";
/// The file that describes a world, and that says of a folder that it is one.
const DESCRIPTION: &str = "lab.json";

const SERVER_LIMIT: Duration = Duration::from_mins(1);
/// Tries to find a port that nobody takes between our look and the server's start.
const PORT_TRIES: u32 = 5;

/// What kind of world.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder, which must be absent or empty and lie where the user that runs servers can go.
    pub dir: PathBuf,
    pub installed: Installed,
    /// PostgreSQL's major version.
    pub major: u32,
    /// The program; `find_pgbouncer` finds it.
    pub pgbouncer: PathBuf,
    pub pgbouncers: u32,
    /// Whether commits wait for the disk.
    pub fsync: bool,
    /// Rows of the shop: 1 is about 380,000.
    pub scale: f64,
    pub database: String,
    /// Whether blue has its standby already. Without, `World::server(Side::Green)` says where to make one.
    pub with_green: bool,
    /// Further settings for both servers; they win over the lab's own.
    pub settings: Vec<(String, String)>,
}

/// What is stored of a world, so that another process can use and remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Description {
    major: u32,
    bin: PathBuf,
    pgbouncer: PathBuf,
    database: String,
    fsync: bool,
    with_green: bool,
    blue_port: u16,
    green_port: u16,
    pooler_ports: Vec<u16>,
}

/// Servers and PgBouncers that run, and are killed and removed when this is dropped or its process is killed, unless `keep`
/// was called.
#[derive(Debug)]
pub struct World {
    dir: PathBuf,
    description: Description,
    passwords: [Secret; 3],
    clock: Arc<dyn Clock>,
    /// There while the world goes when this process does.
    watcher: Option<Watcher>,
}

impl World {
    /// Brings everything up. `say` is told what is being done. What was made is removed again when it fails.
    pub async fn up(options: &Options, say: &(dyn Fn(&str) + Send + Sync)) -> Result<World, PortError> {
        let programs = options.installed.server(options.major)?;
        let mut world = World::make_folder(options, programs).await?;
        say(&format!("making blue, PostgreSQL {}", options.major));
        world.make_blue(&options.settings).await?;
        say("filling the shop");
        shop::load(&world.endpoint(Side::Blue), options.scale).await?;
        if options.with_green {
            say("copying blue to green, its standby");
            world.make_green(&options.installed).await?;
        }
        say("starting PgBouncer");
        for number in 0..world.description.pooler_ports.len() {
            world.start_on_free_port(Place::Pooler(number)).await?;
        }
        Ok(world)
    }

    /// A world that `up` made, perhaps in another process. It stays when this is dropped.
    ///
    /// # Errors
    /// `Refused` when the folder holds none.
    pub fn load(dir: &Path) -> Result<World, PortError> {
        let error = |e: io::Error| PortError::refused(format!("read the lab in `{}`", dir.display())).because(e);
        // As its processes were told: they are known by their arguments.
        let dir = &dir.canonicalize().map_err(error)?;
        let text = fs::read_to_string(dir.join(DESCRIPTION)).map_err(error)?;
        let description = serde_json::from_str(&text).map_err(|e| error(e.into()))?;
        let read = |user| fs::read_to_string(password_file(dir, user)).map(|text| Secret::new(text.trim_end())).map_err(error);
        Ok(World {
            dir: dir.to_owned(),
            description,
            passwords: [read(SUPERUSER)?, read(APPLICATION)?, read(POOLER_ADMIN)?],
            clock: Arc::new(SystemClock::new()),
            watcher: None,
        })
    }

    /// Ends every process of the world and removes its folder.
    pub fn down(mut self) -> Result<(), PortError> {
        let removed = self.remove();
        self.keep();
        removed.map_err(|e| PortError::uncertain(format!("remove the lab in `{}`", self.dir.display())).because(e))
    }

    /// It stays when this is dropped.
    pub fn keep(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.dismiss();
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn major(&self) -> u32 {
        self.description.major
    }

    /// The name of the shop's database on the servers.
    pub fn database(&self) -> &str {
        &self.description.database
    }

    /// Its name on the PgBouncers, whose configuration cannot hold every name: the same where it can.
    pub fn pgbouncer_database(&self) -> &str {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if self.database().chars().all(plain) { self.database() } else { "shop" }
    }

    /// The superuser in the shop's database.
    pub fn endpoint(&self, side: Side) -> Endpoint {
        self.place(self.port(side), User { name: SUPERUSER, password: &self.passwords[0] })
    }

    /// The application in the shop's database, past the PgBouncers.
    pub fn application(&self, side: Side) -> Endpoint {
        self.place(self.port(side), User { name: APPLICATION, password: &self.passwords[1] })
    }

    /// The application through a PgBouncer.
    pub fn through(&self, pgbouncer: usize) -> Endpoint {
        let user = User { name: APPLICATION, password: &self.passwords[1] };
        let database = self.pgbouncer_database().to_owned();
        Endpoint { database, ..self.place(self.description.pooler_ports[pgbouncer], user) }
    }

    /// The application through each of the PgBouncers.
    pub fn routes(&self) -> Vec<Endpoint> {
        (0..self.description.pooler_ports.len()).map(|number| self.through(number)).collect()
    }

    /// The admin console of a PgBouncer.
    pub fn admin(&self, pgbouncer: usize) -> Endpoint {
        let user = User { name: POOLER_ADMIN, password: &self.passwords[2] };
        Endpoint { database: "pgbouncer".to_owned(), ..self.place(self.description.pooler_ports[pgbouncer], user) }
    }

    /// `endpoint` as a URL for a playbook; the password is a reference to its file.
    pub fn url(&self, side: Side) -> String {
        self.url_of(&self.endpoint(side))
    }

    /// `admin` as a URL for a playbook.
    pub fn admin_url(&self, pgbouncer: usize) -> String {
        self.url_of(&self.admin(pgbouncer))
    }

    /// `through` as a URL for a playbook.
    pub fn through_url(&self, pgbouncer: usize) -> String {
        self.url_of(&self.through(pgbouncer))
    }

    /// The configuration file of a PgBouncer, in which its database stands.
    pub fn pgbouncer_config(&self, pgbouncer: usize) -> PathBuf {
        self.pooler(pgbouncer).config()
    }

    pub fn server(&self, side: Side) -> LocalServer {
        LocalServer {
            programs: Programs { major: self.description.major, bin: self.description.bin.clone() },
            data_dir: self.dir.join(side.to_string()),
            port: self.port(side),
            log: self.dir.join(format!("{side}.log")),
            durable: self.description.fsync,
            clock: self.clock.clone(),
        }
    }

    /// Kills every process of the server at once.
    pub fn crash(&self, side: Side) {
        self.server(side).crash();
    }

    pub async fn stop(&self, side: Side) -> Result<(), PortError> {
        self.server(side).stop(StopMode::Fast, SERVER_LIMIT).await
    }

    pub async fn start(&self, side: Side) -> Result<(), PortError> {
        self.server(side).start(SERVER_LIMIT).await
    }

    pub fn crash_pgbouncer(&self, number: usize) {
        self.pooler(number).crash();
    }

    pub async fn start_pgbouncer(&self, number: usize) -> Result<(), PortError> {
        self.pooler(number).start(&self.admin(number), &*self.clock).await
    }

    /// Whether clients of the database are paused there, as far as its console answers.
    pub async fn is_paused(&self, number: usize) -> bool {
        let databases = session::ask(&self.admin(number), "SHOW DATABASES").await.unwrap_or_default();
        let name = self.pgbouncer_database();
        // The last columns are `paused` and `disabled`.
        databases
            .iter()
            .any(|row| row.first().is_some_and(|first| first == name) && row.iter().rev().nth(1).is_some_and(|p| p == "1"))
    }

    /// Ends a PgBouncer, disconnecting its clients, and starts it with its configuration file as it is now.
    pub async fn restart_pgbouncer(&self, number: usize) -> Result<(), PortError> {
        self.pooler(number).stop(&*self.clock).await?;
        self.start_pgbouncer(number).await
    }

    fn port(&self, side: Side) -> u16 {
        match side {
            Side::Blue => self.description.blue_port,
            Side::Green => self.description.green_port,
        }
    }

    fn pooler(&self, number: usize) -> Pooler {
        Pooler { program: self.description.pgbouncer.clone(), folder: self.dir.join(format!("pgbouncer{number}")) }
    }

    fn place(&self, port: u16, user: User<'_>) -> Endpoint {
        Endpoint::on_loopback(port, &self.description.database, user.name, Some(user.password.clone()))
    }

    fn url_of(&self, endpoint: &Endpoint) -> String {
        let file = password_file(&self.dir, &endpoint.user);
        let database: String = endpoint.database.bytes().map(percent_encoded).collect();
        let (user, port) = (&endpoint.user, endpoint.port);
        format!("postgresql://{user}:${{file:{}}}@127.0.0.1:{port}/{database}?sslmode=disable", file.display())
    }

    /// The folder, with the passwords and the description in it: from here on the world is removed when it is dropped.
    async fn make_folder(options: &Options, programs: Programs) -> Result<World, PortError> {
        use std::os::unix::fs::DirBuilderExt;
        let error = |e: io::Error| PortError::refused(format!("make a lab in `{}`", options.dir.display())).because(e);
        fs::create_dir_all(&options.dir).map_err(error)?;
        let dir = options.dir.canonicalize().map_err(error)?;
        if fs::read_dir(&dir).map_err(error)?.next().is_some() {
            return Err(error(io::Error::other("the folder is not empty")));
        }
        process::give_to_server_user(&dir).await?;
        let mut may_write = process::server_command(Path::new("/bin/sh"));
        process::run(may_write.args(["-c", "test -w \"$1\"", "sh"]).arg(&dir), Duration::from_secs(10)).await.map_err(|e| {
            let hint = "name a folder that the user `postgres` can enter, such as one below /tmp or /var/tmp";
            PortError::refused(format!("run servers in `{}`", dir.display())).because(e).hint(hint)
        })?;
        let world = World {
            description: Description {
                major: options.major,
                bin: programs.bin,
                pgbouncer: options.pgbouncer.clone(),
                database: options.database.clone(),
                fsync: options.fsync,
                with_green: options.with_green,
                blue_port: free_port(),
                green_port: free_port(),
                pooler_ports: (0..options.pgbouncers).map(|_| free_port()).collect(),
            },
            passwords: [new_password(), new_password(), new_password()],
            clock: Arc::new(SystemClock::new()),
            watcher: Some(Watcher::over(&dir, ServerUser::Usual)?),
            dir,
        };
        world.describe()?;
        fs::DirBuilder::new().mode(0o700).create(world.dir.join("passwords")).map_err(error)?;
        for (user, password) in [SUPERUSER, APPLICATION, POOLER_ADMIN].iter().zip(&world.passwords) {
            files::write_private(&password_file(&world.dir, user), password.expose().as_bytes()).map_err(error)?;
        }
        Ok(world)
    }

    fn describe(&self) -> Result<(), PortError> {
        let path = self.dir.join(DESCRIPTION);
        let written = serde_json::to_string_pretty(&self.description).map_err(io::Error::from);
        let written = written.and_then(|text| files::write_private(&path, (text + "\n").as_bytes()));
        written.map_err(|e| PortError::refused(format!("write `{}`", path.display())).because(e))
    }

    async fn make_blue(&mut self, more: &[(String, String)]) -> Result<(), PortError> {
        let on_off = if self.description.fsync { "on" } else { "off" };
        let mut settings: Vec<(String, String)> = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("wal_level", "logical"),
            ("max_connections", "200"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_worker_processes", "20"),
            ("max_logical_replication_workers", "12"),
            ("max_prepared_transactions", "10"),
            ("max_wal_size", "2GB"),
            ("log_line_prefix", "%m [%p] %q%a "),
            ("fsync", on_off),
            ("full_page_writes", on_off),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        settings.extend_from_slice(more);
        let login = Login::Scram(self.passwords[0].clone());
        self.server(Side::Blue).init(&NewServer { superuser: SUPERUSER.to_owned(), login, settings }).await?;
        self.start_on_free_port(Place::Server(Side::Blue)).await?;
        let maintenance = Endpoint { database: "postgres".to_owned(), ..self.endpoint(Side::Blue) };
        let password = quote_literal(self.passwords[1].expose());
        session::ask(&maintenance, &format!("CREATE ROLE {APPLICATION} LOGIN PASSWORD {password}")).await?;
        session::ask(&maintenance, &format!("CREATE DATABASE {}", quote_ident(&self.description.database))).await?;
        Ok(())
    }

    async fn make_green(&mut self, installed: &Installed) -> Result<(), PortError> {
        let blue = self.endpoint(Side::Blue);
        session::ask(&blue, &format!("SELECT pg_create_physical_replication_slot('{GREEN_SLOT}', true)")).await?;
        self.server(Side::Green).base_backup(installed, &blue, GREEN_SLOT, &|_, _| ()).await?;
        self.start_on_free_port(Place::Server(Side::Green)).await
    }

    async fn start_on_free_port(&mut self, place: Place) -> Result<(), PortError> {
        let mut tries = 0;
        loop {
            let started = match place {
                Place::Server(side) => self.start(side).await,
                Place::Pooler(number) => {
                    self.configure_pooler(number).await?;
                    self.start_pgbouncer(number).await
                }
            };
            match started {
                Err(e) if tries < PORT_TRIES && e.chain().to_lowercase().contains("address already in use") => {
                    tries += 1;
                    match place {
                        Place::Server(Side::Blue) => self.description.blue_port = free_port(),
                        Place::Server(Side::Green) => self.description.green_port = free_port(),
                        Place::Pooler(number) => self.description.pooler_ports[number] = free_port(),
                    }
                    self.describe()?;
                }
                other => return other,
            }
        }
    }

    async fn configure_pooler(&self, number: usize) -> Result<(), PortError> {
        let users = [SUPERUSER, APPLICATION, POOLER_ADMIN];
        let users: Vec<User<'_>> = users.iter().zip(&self.passwords).map(|(name, password)| User { name, password }).collect();
        let port = self.description.pooler_ports[number];
        self.pooler(number).configure(port, self.pgbouncer_database(), &self.endpoint(Side::Blue), &users).await
    }

    /// Also what a run or a failed start left in the folder.
    fn remove(&self) -> io::Result<()> {
        for number in 0..self.description.pooler_ports.len() {
            self.crash_pgbouncer(number);
        }
        for entry in fs::read_dir(&self.dir)? {
            crash_in(&entry?.path());
        }
        fs::remove_dir_all(&self.dir)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            // There is nobody left to tell, and what remains is below one folder.
            let _ = self.remove();
            watcher.dismiss();
        }
    }
}

/// Something that listens on a port.
#[derive(Clone, Copy)]
enum Place {
    Server(Side),
    Pooler(usize),
}

fn password_file(dir: &Path, user: &str) -> PathBuf {
    dir.join("passwords").join(user)
}

fn new_password() -> Secret {
    Secret::new(uuid::Uuid::new_v4().simple().to_string())
}

/// A port that nobody listens on now. Below the range from which the system takes ports for outgoing connections: one of
/// those could take the port of a server that is being restarted.
pub fn free_port() -> u16 {
    loop {
        let [high, low, ..] = *uuid::Uuid::new_v4().as_bytes();
        let port = 15_000 + u16::from_be_bytes([high, low]) % 16_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn percent_encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_url_is_percent_encoded() {
        assert_eq!("Shop \"Ä\" db".bytes().map(percent_encoded).collect::<String>(), "Shop%20%22%C3%84%22%20db");
    }
}

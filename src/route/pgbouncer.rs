//! One database of one PgBouncer as a route.
//!
//! Its state is what the admin console says it is, never what a command's tag or the configuration file says. The file
//! is changed all the same, so that a restart of PgBouncer finds the new target.
//!
//! It must not know which side a target is, nor whether moving is a good idea now.
//!
//! **Invariant:** what is set for the pause (`settle`) is set in the running PgBouncer only and never written down, so
//! that its own configuration is the one place from which `resume` restores it, whoever calls it and whatever crashed.

mod client;
mod conffile;
mod console;
mod file;
mod ini;
mod pools;
mod processes;
mod rehearsal;
mod survey;

use super::{Rehearsal, RouteState, Router, Target};
use crate::plan::RouteEntry;
use crate::word::{Clock, Endpoint, Failure, PortError};
use async_trait::async_trait;
use client::Client;
use console::{ANSWER_LIMIT, NoAnswer, Row, Session, quote_name};
use ini::{Entry, Wanted};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// How long `settle` waits for logins under way to end.
const LOGIN_LIMIT: Duration = Duration::from_secs(5);
/// After how many seconds PgBouncer tries a server again that did not let it in, and what that is set to around a window. Not
/// nothing: it would ask a server that is down without a break.
const LOGIN_RETRY: &str = "server_login_retry";
const LOGIN_RETRY_SECS: f64 = 0.2;
/// How long the running state may take to become what the file says, after RELOAD.
const RELOAD_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);
/// How long the answer to a client's last question is waited for after RESUME.
const CLIENT_LIMIT: Duration = Duration::from_millis(250);

/// Several routes may share one PgBouncer, and move at the same time: each reads, decides and sets alone.
static LOWERING: Mutex<()> = Mutex::const_new(());

/// `host`, `port` and `dbname` of an entry.
enum Parts {
    Values([String; 3]),
    Written([Option<String>; 3]),
}

const KEYS: [&str; 3] = ["host", "port", "dbname"];

fn wanted(parts: &Parts) -> Vec<(&'static str, Wanted<'_>)> {
    match parts {
        Parts::Values(values) => KEYS.into_iter().zip(values.iter().map(|value| Wanted::Value(value))).collect(),
        Parts::Written(written) => KEYS.into_iter().zip(written.iter().map(|text| Wanted::Written(text.as_deref()))).collect(),
    }
}

/// See the module.
#[derive(Debug)]
pub struct PgBouncer {
    name: String,
    admin: Endpoint,
    database: String,
    config: PathBuf,
    probe: Endpoint,
    /// Where the entry led when the run was planned.
    entry: Option<RouteEntry>,
    clock: Arc<dyn Clock>,
    /// For every command but PAUSE.
    console: Mutex<Option<Session>>,
    /// For PAUSE alone, which holds its session until the last transaction has ended.
    pausing: Mutex<Option<Session>>,
    /// From `settle` on, for `client_wait`.
    client: Mutex<Option<Client>>,
}

impl PgBouncer {
    /// `admin`: the admin console, as one of PgBouncer's `admin_users`. `database`: the name that applications connect
    /// to. `config`: the file in which that database's entry stands. `probe`: the same database as applications reach it.
    pub fn new(
        name: String,
        admin: Endpoint,
        database: String,
        config: PathBuf,
        probe: Endpoint,
        clock: Arc<dyn Clock>,
    ) -> PgBouncer {
        let (console, pausing, client) = (Mutex::default(), Mutex::default(), Mutex::default());
        PgBouncer { name, admin, database, config, probe, entry: None, clock, console, pausing, client }
    }

    /// Back there it is written as it was, byte by byte.
    #[must_use]
    pub fn with_entry(self, entry: Option<RouteEntry>) -> PgBouncer {
        PgBouncer { entry, ..self }
    }

    /// What the entry is to say so that it leads to `target`: each part as a value, or as it stood in the file.
    fn parts_for(&self, target: &Target) -> Parts {
        match self.entry.as_ref().filter(|entry| entry.points_at == *target) {
            Some(RouteEntry { host, port, dbname, .. }) => Parts::Written([host.clone(), port.clone(), dbname.clone()]),
            None => Parts::Values([target.host.clone(), target.port.to_string(), target.database.clone()]),
        }
    }

    /// Sends a command that waits for nothing. Every such command may be repeated, so a session that PgBouncer closed
    /// since it was last used is replaced once.
    async fn command(&self, sql: &str) -> Result<Vec<Row>, PortError> {
        self.ask(sql).await?.map_err(|error| self.refused(sql, &error))
    }

    /// As `command`, but PgBouncer's own no is a value.
    async fn ask(&self, sql: &str) -> Result<Result<Vec<Row>, NoAnswer>, PortError> {
        let mut console = self.console.lock().await;
        for last_try in [false, true] {
            let session = match console.take().filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => Session::open(&self.admin, &*self.clock).await?,
            };
            match session.query(sql, &*self.clock, ANSWER_LIMIT).await {
                Ok(rows) => {
                    *console = Some(session);
                    return Ok(Ok(rows));
                }
                Err(error @ NoAnswer::Said(_)) => {
                    *console = Some(session);
                    return Ok(Err(error));
                }
                Err(NoAnswer::Lost(_)) if !last_try => {}
                Err(error) => return Err(PortError::uncertain(self.attempted(sql)).because(error.text())),
            }
        }
        Err(PortError::uncertain(self.attempted(sql)))
    }

    fn attempted(&self, sql: &str) -> String {
        format!("run `{sql}` at the PgBouncer of route `{}`", self.name)
    }

    fn refused(&self, sql: &str, error: &NoAnswer) -> PortError {
        let text = error.text();
        let hint = if text.contains("admin access needed") {
            format!("`{}` must be in `admin_users` of PgBouncer's configuration; `stats_users` may only look", self.admin.user)
        } else if text.contains("already suspended/paused") {
            "somebody has paused the whole PgBouncer: `RESUME` without a name ends that".to_owned()
        } else {
            "PgBouncer's log says more".to_owned()
        };
        PortError::refused(self.attempted(sql)).because(text).hint(hint)
    }

    /// The database's row of `SHOW DATABASES`.
    async fn row(&self) -> Result<Row, PortError> {
        let rows = self.command("SHOW DATABASES").await?;
        rows.into_iter().find(|row| row.get("name") == Some(&self.database)).ok_or_else(|| {
            PortError::refused(format!("find the database `{}` in the PgBouncer of route `{}`", self.database, self.name))
                .hint("`SHOW DATABASES` lists the names; one that only the entry `*` serves needs an entry of its own")
        })
    }

    /// The state in a row of `SHOW DATABASES`. A database without a host is reached through PgBouncer's socket folder.
    async fn state(&self, row: &Row) -> Result<RouteState, PortError> {
        let host = match row.get("host") {
            Some(host) => host.clone(),
            None => self.setting("unix_socket_dir").await?.unwrap_or_default(),
        };
        let points_at = Target {
            host,
            port: number(row, "port").and_then(|port| u16::try_from(port).ok()).ok_or_else(|| self.unreadable("port"))?,
            database: row.get("database").cloned().ok_or_else(|| self.unreadable("database"))?,
        };
        let paused = number(row, "paused").ok_or_else(|| self.unreadable("paused"))? != 0;
        Ok(RouteState { points_at, paused })
    }

    fn unreadable(&self, column: &str) -> PortError {
        PortError::refused(format!("read the column `{column}` of `SHOW DATABASES` at the PgBouncer of route `{}`", self.name))
            .hint("this version of PgBouncer is not known to Greenlight")
    }

    /// One value of `SHOW CONFIG`.
    async fn setting(&self, key: &str) -> Result<Option<String>, PortError> {
        let rows = self.command("SHOW CONFIG").await?;
        Ok(rows.into_iter().find(|row| row.get("key").is_some_and(|k| k == key)).and_then(|mut row| row.remove("value")))
    }

    /// Whether it is the route of this name in that PgBouncer.
    pub fn is_of(&self, other: &PgBouncer, database: &str) -> bool {
        (&self.admin.host, self.admin.port) == (&other.admin.host, other.admin.port) && self.database == database
    }

    /// The file that it was started with, as it was named then.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn config_path(&self) -> Result<Option<String>, PortError> {
        self.setting("conffile").await
    }

    /// The names under which it serves a database of its servers.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn entries_for(&self, database: &str) -> Result<Vec<String>, PortError> {
        let rows = self.command("SHOW DATABASES").await?;
        let names = rows.into_iter().filter(|row| row.get("database").is_some_and(|of| of == database));
        Ok(names.filter_map(|mut row| row.remove("name")).collect())
    }

    /// This database's pools: one for each user.
    async fn pools(&self) -> Result<Vec<Row>, PortError> {
        let mut rows = self.command("SHOW POOLS").await?;
        rows.retain(|row| row.get("database") == Some(&self.database));
        Ok(rows)
    }

    /// Makes the running PgBouncer read its configuration, and waits until this database points at `target`.
    async fn reload_to(&self, target: &Target) -> Result<(), PortError> {
        self.command("RELOAD").await?;
        let until = self.clock.monotonic() + RELOAD_LIMIT;
        loop {
            let now = self.state(&self.row().await?).await?.points_at;
            if now == *target {
                return Ok(());
            }
            if self.clock.monotonic() >= until {
                let attempted = format!("make the PgBouncer of route `{}` take its new target `{target}`", self.name);
                return Err(PortError::uncertain(attempted).because(format!("after RELOAD it points at `{now}`")).hint(format!(
                    "PgBouncer's log says whether it could read its configuration; does it read `{}`, and no later entry for `{}`?",
                    self.config.display(),
                    self.database
                )));
            }
            self.clock.sleep(POLL).await;
        }
    }

    async fn is_hastened(&self) -> Result<bool, PortError> {
        let now: Option<f64> = self.setting(LOGIN_RETRY).await?.and_then(|value| value.parse().ok());
        Ok(now.is_some_and(|secs| secs <= LOGIN_RETRY_SECS))
    }

    /// Sets a limit unless it is lower already: other routes through the same PgBouncer settle at the same time.
    async fn lower(&self, key: &str, limit: u64) -> Result<(), PortError> {
        let _one_at_a_time = LOWERING.lock().await;
        let now: u64 = self.setting(key).await?.and_then(|value| value.parse().ok()).unwrap_or(u64::MAX);
        // 0 is no limit for connections, and nothing at all for the others.
        let unlimited = now == 0 && key == "max_db_connections";
        if now > limit || unlimited {
            self.command(&format!("SET {key} = {limit}")).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Router for PgBouncer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn server_pids(&self) -> Result<Option<Vec<i32>>, PortError> {
        let rows = self.command("SHOW SERVERS").await?;
        let ours = rows.iter().filter(|row| row.get("database") == Some(&self.database));
        // Absent before PgBouncer 1.5.
        Ok(ours.map(|row| row.get("remote_pid")?.parse().ok()).collect())
    }

    async fn connect(&self) -> Result<(), PortError> {
        self.command("SHOW VERSION").await?;
        let mut pausing = self.pausing.lock().await;
        if pausing.as_ref().is_none_or(Session::is_closed) {
            *pausing = Some(Session::open(&self.admin, &*self.clock).await?);
        }
        Ok(())
    }

    async fn observe(&self) -> Result<RouteState, PortError> {
        let row = self.row().await?;
        self.state(&row).await
    }

    /// A server connection that is still logging in when PAUSE arrives is closed and counted as a failed login, after
    /// which the pool answers its clients with an error for `server_login_retry`. So no pool may grow from here on, and
    /// the logins that are under way are waited for.
    async fn settle(&self) -> Result<(), PortError> {
        *self.client.lock().await = Some(Client::start(self.probe.clone(), self.clock.clone()));
        let servers: Vec<u64> = self.pools().await?.iter().map(servers).filter(|count| *count > 0).collect();
        // One limit holds for every pool, so the smallest pool counts; a larger one gives idle servers back meanwhile.
        self.lower("default_pool_size", servers.iter().min().copied().unwrap_or(1)).await?;
        self.lower("min_pool_size", 0).await?;
        self.lower("reserve_pool_timeout", 0).await?;
        self.hasten().await?;
        let pool_size = self.setting("default_pool_size").await?;
        if self.row().await?.get("pool_size") != pool_size.as_ref() {
            // The entry has a `pool_size` of its own, which nothing but a changed file could change.
            self.lower("max_db_connections", servers.iter().sum::<u64>().max(1)).await?;
        }
        let until = self.clock.monotonic() + LOGIN_LIMIT;
        while self.pools().await?.iter().any(|pool| number(pool, "sv_login") != Some(0)) {
            if self.clock.monotonic() >= until {
                return Err(PortError::transient(format!("see the server logins of route `{}` end", self.name))
                    .because(format!("one was still under way after {} s", LOGIN_LIMIT.as_secs()))
                    .hint("does the server behind the route accept logins, and quickly?"));
            }
            self.clock.sleep(POLL).await;
        }
        Ok(())
    }

    async fn pause(&self, limit: Duration) -> Result<(), PortError> {
        let until = self.clock.monotonic() + limit;
        let attempted = || format!("drain route `{}` within {} ms", self.name, limit.as_millis());
        let mut kept = self.pausing.lock().await;
        // Taken out while it waits: if this call is dropped, so is the session, and with it the waiting PAUSE.
        let session = match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => Session::open(&self.admin, &*self.clock).await?,
        };
        let sql = format!("PAUSE {}", quote_name(&self.database));
        match session.query(&sql, &*self.clock, limit).await {
            Ok(_) => *kept = Some(session),
            Err(error @ NoAnswer::Said(_)) => {
                *kept = Some(session);
                return Err(self.refused(&sql, &error));
            }
            Err(NoAnswer::Late(_)) => {
                return Err(PortError::uncertain(attempted())
                    .because("a client is still inside a transaction")
                    .hint("end that transaction, or let the window wait for it or cancel it"));
            }
            Err(error @ NoAnswer::Lost(_)) => return Err(PortError::uncertain(self.attempted(&sql)).because(error.text())),
        }
        drop(kept);
        // The tag alone proves nothing: a RESUME by someone else may have come between.
        loop {
            let row = self.row().await?;
            if number(&row, "paused") == Some(1) && number(&row, "current_connections") == Some(0) {
                return Ok(());
            }
            if self.clock.monotonic() >= until || number(&row, "paused") != Some(1) {
                return Err(
                    PortError::uncertain(attempted()).because("PgBouncer does not show the database as paused and drained")
                );
            }
            self.clock.sleep(POLL).await;
        }
    }

    async fn point_at(&self, target: &Target) -> Result<(), PortError> {
        let (parts, database, name) = (self.parts_for(target), self.database.clone(), self.rehearsal_name());
        self.edit_config(move |file| {
            // What a rehearsal left that was killed goes in the same move.
            let file = ini::without_rehearsal(file, &database, &name);
            Entry::find(&file, &database)?.with(&file, &wanted(&parts))
        })
        .await?;
        self.reload_to(target).await
    }

    async fn rehearse(&self, target: &Target) -> Result<Rehearsal, PortError> {
        self.rehearsal(target).await
    }

    /// PgBouncer waits after a login that failed, and answers its clients with an error meanwhile, also once the server is there.
    async fn hasten(&self) -> Result<(), PortError> {
        let _one_at_a_time = LOWERING.lock().await;
        if !self.is_hastened().await? {
            self.command(&format!("SET {LOGIN_RETRY} = '{LOGIN_RETRY_SECS}'")).await?;
        }
        Ok(())
    }

    async fn tidy(&self) -> Result<(), PortError> {
        let was_left = self.remove_rehearsal().await?;
        let reread = async {
            if was_left {
                self.forget_rehearsal().await?;
            }
            // It may be the configuration's own value: to read that again harms nobody.
            if self.is_hastened().await? { self.command("RELOAD").await.map(drop) } else { Ok(()) }
        };
        match reread.await {
            // One that does not run has nothing set, and reads the file when it starts.
            Err(error) if error.failure == Failure::Transient && self.command("SHOW VERSION").await.is_err() => Ok(()),
            done => done,
        }
    }

    async fn resume(&self) -> Result<(), PortError> {
        let sql = format!("RESUME {}", quote_name(&self.database));
        if let Err(error) = self.ask(&sql).await?
            && !error.text().contains("is not paused")
        {
            return Err(self.refused(&sql, &error));
        }
        if let Some(client) = self.client.lock().await.as_ref() {
            client.stop();
        }
        // Puts every setting back that `settle` changed, after the clients go on, since it makes nobody wait.
        self.command("RELOAD").await?;
        // But for this one, which stays until `tidy`.
        self.hasten().await?;
        let row = self.row().await?;
        if number(&row, "paused") == Some(0) {
            return Ok(());
        }
        Err(PortError::uncertain(format!("resume route `{}`", self.name)).because("PgBouncer still shows the database as paused"))
    }

    async fn client_wait(&self) -> Option<Duration> {
        let client = self.client.lock().await.take()?;
        client.longest_wait(&*self.clock, CLIENT_LIMIT).await
    }

    async fn who_answers(&self) -> Result<String, PortError> {
        self.met(&self.probe).await.map(|(answers, _)| answers)
    }

    async fn users(&self) -> Result<Vec<String>, PortError> {
        self.pool_users().await
    }

    async fn trouble(&self) -> Result<Option<String>, PortError> {
        match self.file_trouble().await? {
            Some(trouble) => Ok(Some(trouble)),
            None => self.pools_trouble().await,
        }
    }
}

impl PgBouncer {
    /// PgBouncer works by what it read last. What somebody has written since then, a RELOAD or a restart finds.
    async fn file_trouble(&self) -> Result<Option<String>, PortError> {
        let file = file::read_config(&self.config)?;
        let entry =
            Entry::find(&file, &self.database).map_err(|error| file::entry_refused(&self.config, &self.database, &error))?;
        let (written, runs) = (self.target_of(&entry).await?, self.observe().await?.points_at);
        Ok((written != runs).then(|| {
            let config = self.config.display();
            format!(
                "leads to {runs} only until PgBouncer is reloaded or started again: its file `{config}` says {written} (write {runs} there)"
            )
        }))
    }

    /// Where an entry sends its clients, with PgBouncer's own defaults for what it does not name.
    async fn target_of(&self, entry: &Entry) -> Result<Target, PortError> {
        let host = match entry.get("host") {
            Some(host) => host.to_owned(),
            None => self.setting("unix_socket_dir").await?.unwrap_or_default(),
        };
        let port = entry.get("port").map_or(Ok(5432), str::parse).map_err(|error: std::num::ParseIntError| {
            PortError::refused(format!("read the port of the entry `{}`", self.database)).because(error)
        })?;
        Ok(Target { host, port, database: entry.get("dbname").unwrap_or(&self.database).to_owned() })
    }
}

/// A number in a row, if it is there.
fn number(row: &Row, column: &str) -> Option<u64> {
    row.get(column)?.parse().ok()
}

/// Server connections of a pool, in whatever state; each version of PgBouncer has its own list of states.
fn servers(pool: &Row) -> u64 {
    pool.keys().filter(|column| column.starts_with("sv_")).filter_map(|column| number(pool, column)).sum()
}

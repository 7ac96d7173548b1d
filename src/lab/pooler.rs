//! One PgBouncer of a world: its folder, its configuration, its process.

use super::session;
use crate::process::{self, files};
use crate::provider::processes::{self, Signal};
use crate::word::{Clock, Endpoint, PortError, Secret};
use std::{ffi::OsStr, fs, path::PathBuf, time::Duration};

/// A user and its password, as PgBouncer knows them.
#[derive(Clone, Copy)]
pub(super) struct User<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a Secret,
}

/// Where the PgBouncer's files are.
#[derive(Clone, Debug)]
pub(super) struct Pooler {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
}

/// The program `pgbouncer`, in `path` (the variable `PATH`) or where Debian puts it.
///
/// # Errors
/// `Refused` when it is not there.
pub fn find_pgbouncer(path: Option<&OsStr>) -> Result<PathBuf, PortError> {
    let folders = path.iter().flat_map(std::env::split_paths).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file());
    found.ok_or_else(|| PortError::refused("find `pgbouncer`").hint("install PgBouncer, or add its folder to PATH"))
}

impl Pooler {
    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("pgbouncer.ini")
    }

    /// Writes its files: `database` points at `server`, and `users` may log in, the last of them as administrator.
    pub(super) async fn configure(
        &self,
        port: u16,
        database: &str,
        server: &Endpoint,
        users: &[User<'_>],
    ) -> Result<(), PortError> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let admin = users.last().map_or("", |user| user.name);
        let ini = format!(
            "[databases]\n{database} = host={host} port={server_port} dbname='{dbname}'\n\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {auth}\nadmin_users = {admin}\n\
             pool_mode = transaction\nmax_client_conn = 1000\ndefault_pool_size = 20\n\
             logfile = {log}\npidfile = {pid}\nlog_connections = 0\nlog_disconnections = 0\n",
            dbname = server.database.replace('\'', "''"),
            host = server.host,
            server_port = server.port,
            auth = path("users.txt"),
            log = path("pgbouncer.log"),
            pid = path("pgbouncer.pid"),
        );
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let lines = users.iter().map(|user| format!("{} {}\n", quoted(user.name), quoted(user.password.expose())));
        let (user, group) = process::server_ids().await?;
        files::make_folder_for(&self.folder, user, group).map_err(|e| self.error("make").because(e))?;
        for (file, text) in [(self.config(), ini), (self.folder.join("users.txt"), lines.collect())] {
            files::write_private(&file, text.as_bytes()).map_err(|e| self.error("configure").because(e))?;
            process::give_to_server_user(&file).await?;
        }
        Ok(())
    }

    /// Starts it and returns when its admin console answers. Running already: nothing to do.
    ///
    /// # Errors
    /// `Refused` when it ended instead, with the last lines of its log; `Uncertain` when it did not answer within 20 s.
    pub(super) async fn start(&self, admin: &Endpoint, clock: &dyn Clock) -> Result<(), PortError> {
        if self.pids().is_empty() {
            let mut command = process::server_command(&self.program);
            process::run(command.arg("-d").arg(self.config()), Duration::from_secs(20)).await?;
        }
        let until = clock.monotonic() + Duration::from_secs(20);
        let mut was_there = true;
        loop {
            // Its password is random: nobody else can answer.
            let Err(error) = session::ask(admin, "SHOW VERSION").await else { return Ok(()) };
            let is_there = !self.pids().is_empty();
            // Looked for twice: it forks when it becomes a daemon, and a look around may miss both.
            if !is_there && !was_there {
                return Err(self.error("start").because(self.log_tail()));
            }
            if clock.monotonic() > until {
                return Err(PortError::uncertain("reach PgBouncer").because(error));
            }
            was_there = is_there;
            clock.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it at once, clients or not.
    pub(super) async fn stop(&self, clock: &dyn Clock) -> Result<(), PortError> {
        let until = clock.monotonic() + Duration::from_secs(10);
        processes::signal(&self.pids(), Signal::Term);
        while !self.pids().is_empty() {
            if clock.monotonic() > until {
                return Err(PortError::uncertain(format!("stop the PgBouncer in `{}`", self.folder.display())));
            }
            clock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub(super) fn crash(&self) {
        processes::kill_and_wait(&self.pids());
        // Where nobody collects ended processes, as in many containers, the next start would take the dead one for a living one.
        let _ = fs::remove_file(self.folder.join("pgbouncer.pid"));
    }

    fn pids(&self) -> Vec<u32> {
        processes::started_with("pgbouncer", &self.config())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("pgbouncer.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }

    fn error(&self, verb: &str) -> PortError {
        PortError::refused(format!("{verb} the PgBouncer in `{}`", self.folder.display()))
    }
}

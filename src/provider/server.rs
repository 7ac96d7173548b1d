//! One PostgreSQL server on this machine, in one data folder: made, started, stopped, crashed, copied, removed.
//!
//! It knows the folder and PostgreSQL's programs and nothing of runs. **Invariant:** a server is signalled only when its
//! process works in this very folder, whatever a left-behind `postmaster.pid` says.

use super::{as_server, processes, processes::Signal};
use crate::postgres::{
    conninfo, passfile,
    programs::{Installed, Programs, copied},
};
use crate::process::{self, ServerUser, files};
use crate::word::{Clock, Endpoint, Failure, PortError, Secret};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What Greenlight itself puts into a data folder begins with this; it is never carried over into a copy.
pub(super) const OWN: &str = "greenlight.";

/// Told how much of a copy has arrived: bytes so far, and bytes in all as the other server estimates them.
pub type CopyProgress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects clients, writes everything down, ends.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// How a new server lets clients in over loopback.
#[derive(Clone, Debug)]
pub enum Login {
    /// Anyone, as anyone. For throwaway servers that hold nothing of worth.
    Trust,
    Scram(Secret),
}

/// What a new server is made with.
#[derive(Clone, Debug)]
pub struct NewServer {
    pub superuser: String,
    pub login: Login,
    /// Lines for `postgresql.conf`, as names and values.
    pub settings: Vec<(String, String)>,
}

#[derive(Clone)]
pub struct LocalServer {
    pub programs: Programs,
    pub data_dir: PathBuf,
    pub port: u16,
    /// Where the server's messages go until its own configuration says otherwise.
    pub log: PathBuf,
    /// False: nothing waits for the disk when the server or its copy is made. For throwaway servers.
    pub durable: bool,
    pub clock: Arc<dyn Clock>,
}

impl LocalServer {
    /// Makes the data folder, which must not exist or be empty, below a folder that does. A password comes to no file and to
    /// no argument.
    pub async fn init(&self, new: &NewServer) -> Result<(), PortError> {
        as_server::make_folder(&self.data_dir).await?;
        // The shell's own pipe, since the program may not open one that root has made.
        let script = match &new.login {
            Login::Trust => r#""$@" --auth=trust"#,
            Login::Scram(_) => r#"cat | "$@" --auth=scram-sha-256 --pwfile=/dev/stdin"#,
        };
        let mut command = process::server_command(Path::new("sh"));
        command.args(["-c", script, "sh"]).arg(self.programs.program("initdb")?);
        command.arg("--pgdata").arg(&self.data_dir).args(["--username", &new.superuser]);
        command.args(["--encoding=UTF8", "--locale=C", "--no-instructions"]);
        if !self.durable {
            command.arg("--no-sync");
        }
        let input = match &new.login {
            Login::Trust => String::new(),
            Login::Scram(password) => format!("{}\n", password.expose()),
        };
        process::run_with_input(&mut command, input.as_bytes(), Duration::from_mins(2)).await?;
        self.append_settings("postgresql.conf", &new.settings).await
    }

    /// Appends settings to a configuration file in the data folder; of several lines for one setting the last one counts.
    pub async fn append_settings(&self, file: &str, settings: &[(String, String)]) -> Result<(), PortError> {
        let lines: String = settings.iter().map(|(name, value)| setting_line(name, value)).collect();
        as_server::append(&self.data_dir.join(file), &lines).await
    }

    /// Starts it and returns when it answers. Running already: nothing to do.
    ///
    /// # Errors
    /// `Refused` when it ended instead, with the last lines of its log; `Uncertain` when it did not answer within `limit`.
    pub async fn start(&self, limit: Duration) -> Result<(), PortError> {
        self.start_as(ServerUser::Usual, limit).await
    }

    pub(super) async fn start_as(&self, user: ServerUser, limit: Duration) -> Result<(), PortError> {
        if self.postmaster().is_none() {
            let log_before = fs::metadata(&self.log).map_or(0, |meta| meta.len());
            let mut command = process::command_as(user, &self.programs.program("pg_ctl")?);
            command.args(["start", "--silent", "--wait", "--timeout", &limit.as_secs().to_string(), "--pgdata"]);
            command.arg(&self.data_dir).arg("--log").arg(&self.log).args(["--options", &format!("-p {}", self.port)]);
            let attempted = || format!("start the server in `{}`", self.data_dir.display());
            match process::run(&mut command, limit + Duration::from_secs(5)).await {
                Err(error) if self.postmaster().is_some() => return Err(PortError::uncertain(attempted()).because(error)),
                Err(_) => return Err(PortError::refused(attempted()).because(self.log_since(user, log_before).await)),
                Ok(_) => (),
            }
        }
        self.wait_until(limit, "answer", || self.answers()).await
    }

    /// Returns when its process and those that it started have ended. Not running: nothing to do.
    ///
    /// # Errors
    /// `Uncertain` when it still runs after `limit`.
    pub async fn stop(&self, mode: StopMode, limit: Duration) -> Result<(), PortError> {
        let Some(postmaster) = self.postmaster() else { return Ok(()) };
        let mut pids = processes::children_of(postmaster.pid);
        pids.push(postmaster.pid);
        processes::signal(&[postmaster.pid], if mode == StopMode::Fast { Signal::Int } else { Signal::Quit });
        self.wait_until(limit, "stop", || std::future::ready(!pids.iter().any(|pid| processes::is_alive(*pid)))).await
    }

    /// What a failure of the machine is to the server: every process of it is killed at once.
    pub fn crash(&self) {
        crash_in(&self.data_dir);
    }

    /// Its process runs; whether it lets clients in already is another question, `answers`.
    pub fn is_running(&self) -> bool {
        self.postmaster().is_some()
    }

    /// It takes connections, though perhaps not ours.
    pub async fn answers(&self) -> bool {
        let Some(postmaster) = self.postmaster().filter(|postmaster| postmaster.ready) else { return false };
        let mut config = tokio_postgres::Config::new();
        config.host(postmaster.host).port(postmaster.port).user("postgres").dbname("postgres");
        config.connect_timeout(Duration::from_secs(5));
        #[expect(clippy::disallowed_methods, reason = "a limit around a read: whether somebody answers")]
        let tried = tokio::time::timeout(Duration::from_secs(5), config.connect(tokio_postgres::NoTls)).await;
        match tried {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => match error.as_db_error() {
                // "The database system is starting up": every other refusal comes from a server that is up.
                Some(refusal) => *refusal.code() != tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW,
                None => {
                    !std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<io::Error>) && !error.is_closed()
                }
            },
            Err(_) => false,
        }
    }

    /// Copies the server at `from` into this data folder, which must be empty but for what begins with `greenlight.`, and
    /// makes the copy follow it as a standby. `slot` is a physical slot that exists there. The password, if there is one,
    /// stays in a file in the data folder that only the server's user can read.
    ///
    /// Not repeatable: after a failure empty the folder.
    pub async fn base_backup(
        &self,
        installed: &Installed,
        from: &Endpoint,
        slot: &str,
        progress: CopyProgress<'_>,
    ) -> Result<(), PortError> {
        as_server::make_folder(&self.data_dir).await?;
        // A password file of the caller's need not be readable for the server's user.
        let password = match (&from.password, &from.passfile) {
            (None, Some(path)) => passfile::password(path, from)?,
            (password, _) => password.clone(),
        };
        let passfile = self.data_dir.join(format!("{OWN}pass"));
        if let Some(password) = &password {
            as_server::write(&passfile, &conninfo::passfile(password.expose())?).await?;
        }
        let upstream = conninfo::replication(from, slot, password.map(|_| passfile.as_path()), self.programs.major);

        // The program wants an empty folder, and this one holds the password file.
        let copy = self.data_dir.join(format!("{OWN}copy"));
        let mut command = process::server_command(&installed.client("pg_basebackup", self.programs.major)?);
        command.args(["--dbname", &upstream, "--slot", slot, "--wal-method=stream", "--checkpoint=fast", "--no-password"]);
        command.args(["--progress", "--pgdata"]).arg(&copy);
        if !self.durable {
            command.arg("--no-sync");
        }
        copy_with_progress(&mut command, progress).await?;
        move_up(&copy, &self.data_dir).await?;

        // Not by the program's `--write-recovery-conf`: one that is newer than the server writes what the server cannot
        // read, and it would write a password that came by environment.
        let mut settings = vec![
            ("port".to_owned(), self.port.to_string()),
            ("primary_conninfo".to_owned(), upstream),
            ("primary_slot_name".to_owned(), slot.to_owned()),
            // On the same machine it would overwrite the other server's.
            ("external_pid_file".to_owned(), String::new()),
            // Once promoted its commits would wait for standbys that follow the other server.
            ("synchronous_standby_names".to_owned(), String::new()),
            // And it would write a timeline of its own into the other server's archive.
            ("archive_mode".to_owned(), "off".to_owned()),
            // It would take from blue's archive what blue's backups need.
            ("archive_cleanup_command".to_owned(), String::new()),
            ("recovery_end_command".to_owned(), String::new()),
            // And it would follow at a distance.
            ("recovery_min_apply_delay".to_owned(), "0".to_owned()),
        ];
        // Left over from a restore of the other server, it would end the recovery of this one.
        let targets = ["", "_time", "_xid", "_lsn", "_name"].map(|kind| (format!("recovery_target{kind}"), String::new()));
        settings.extend(targets);
        self.append_settings("postgresql.auto.conf", &settings).await?;
        as_server::write(&self.data_dir.join("standby.signal"), "").await
    }

    /// Kills it where it runs, and removes the folder with everything in it.
    pub async fn remove(&self) -> Result<(), PortError> {
        self.crash();
        let attempted = format!("remove `{}`", self.data_dir.display());
        let script =
            r#"[ ! -h "$1" ] || { echo "it is a link" >&2; exit 1; }; [ ! -e "$1" ] || rm -rf -- "$1"/* "$1"/.[!.]* "$1"/..?*"#;
        as_server::sh(&attempted, script, [self.data_dir.as_os_str()], "")
            .await
            .map_err(|error| PortError::uncertain(attempted.clone()).because(error))?;
        // The folder itself where its user may not.
        match fs::remove_dir(&self.data_dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PortError::uncertain(attempted).because(e)),
            _ => Ok(()),
        }
    }

    fn postmaster(&self) -> Option<Postmaster> {
        Postmaster::of(&self.data_dir)
    }

    async fn wait_until<F: Future<Output = bool>>(
        &self,
        limit: Duration,
        what: &str,
        mut is_so: impl FnMut() -> F,
    ) -> Result<(), PortError> {
        let until = self.clock.monotonic() + limit;
        while !is_so().await {
            if self.clock.monotonic() >= until {
                let server = self.data_dir.display();
                return Err(PortError::uncertain(format!("see the server in `{server}` {what} within {} s", limit.as_secs())));
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The last lines that the server has logged since its log was `offset` bytes long.
    async fn log_since(&self, user: ServerUser, offset: u64) -> String {
        // As the server's user: its log may be a link to what only root may read.
        let mut command = process::command_as(user, Path::new("tail"));
        command.args(["-c", &format!("+{}", offset + 1), "--"]).arg(&self.log);
        let log = process::output(&mut command, Duration::from_secs(10)).await;
        log.map(|output| process::last_lines(&output.stdout)).unwrap_or_default()
    }
}

impl fmt::Debug for LocalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer").field("data_dir", &self.data_dir).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Kills every process of the server that works in this folder, also one that is only about to start.
pub fn crash_in(data_dir: &Path) {
    let mut pids = processes::started_with("pg_ctl", data_dir);
    pids.extend(processes::started_with("postgres", data_dir));
    if let Some(postmaster) = Postmaster::of(data_dir) {
        // Or it might start one more while its children are counted.
        processes::signal(&[postmaster.pid], Signal::Stop);
        pids.push(postmaster.pid);
        pids.extend(processes::children_of(postmaster.pid));
    }
    processes::kill_and_wait(&pids);
    if !pids.is_empty() {
        // Where nobody collects ended processes, as in many containers, the next start would take the dead postmaster for
        // a living one. All that the file protects from is gone: each process was seen to end.
        let _ = files::remove(&data_dir.join("postmaster.pid"));
    }
}

/// A running server, as it describes itself in its data folder.
struct Postmaster {
    pid: u32,
    port: u16,
    /// An address or the folder of its socket, at which it can be reached from this machine.
    host: String,
    ready: bool,
}

impl Postmaster {
    /// `None`: no server runs in the folder.
    fn of(data_dir: &Path) -> Option<Postmaster> {
        let text = files::read_small(&data_dir.join("postmaster.pid")).ok()??;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid = lines.first()?.parse().ok()?;
        let line = |number: usize| lines.get(number).copied().unwrap_or_default();
        let host = match line(5) {
            "" => line(4),
            "*" | "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            address => address,
        };
        let port = line(3).parse().unwrap_or(0);
        processes::works_in(pid, data_dir).then(|| Postmaster {
            pid,
            port,
            host: host.to_owned(),
            ready: matches!(line(7), "ready" | "standby"),
        })
    }
}

/// A line of a configuration file.
pub(super) fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

async fn copy_with_progress(command: &mut tokio::process::Command, progress: CopyProgress<'_>) -> Result<(), PortError> {
    let mut tell = |line: &str| copied(line).map(|(done, all)| progress(done, all)).is_some();
    process::run_telling(command, &mut tell).await.map_err(|error| match error.failure {
        Failure::Uncertain => PortError::uncertain("copy the server with `pg_basebackup`").because(error),
        _ => error,
    })
}

/// Moves everything in `from` up into `to`, but for what Greenlight put into the server that was copied.
async fn move_up(from: &Path, to: &Path) -> Result<(), PortError> {
    let script = r#"cd -- "$1" && rm -rf -- greenlight.* && for f in * .[!.]*; do
            [ ! -e "$f" ] && [ ! -h "$f" ] || mv -- "$f" "$2/" || exit 1
        done && cd / && rmdir -- "$1""#;
    let attempted = format!("move the copy into `{}`", to.display());
    let moved = as_server::sh(&attempted, script, [from.as_os_str(), to.as_os_str()], "").await;
    moved.map(drop).map_err(|error| PortError::uncertain(attempted).because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted() {
        assert_eq!(setting_line("primary_conninfo", r"host='a\\b'"), "primary_conninfo = 'host=''a\\\\\\\\b'''\n");
    }
}

//! The one place that starts other programs: PostgreSQL's own, PgBouncer, ssh, the guard.
//!
//! **Invariant:** a program begins with an empty environment, but for where programs are (`PATH`), plain messages
//! (`LC_ALL=C`) and what is put there by name. So nothing that this process was given reaches it: no secret, and no
//! `PGPASSWORD`, `PGSERVICE` or `PGOPTIONS`. Passwords go by file, by standard input or by the environment of the one
//! program that needs it, never by argument, where every user of the machine could read them.

pub mod files;

use crate::word::{Failure, PortError};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::signal::unix::{self, SignalKind};

/// Where programs are when this process was not told.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What another process of this program does by: where it finds the operator's files, the machine's certificates, the
/// servers' programs, and how it speaks. None of them is a secret.
const OWN: [&str; 9] = [
    "HOME",
    "TMPDIR",
    "TZ",
    "RUST_LOG",
    "NO_COLOR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GREENLIGHT_PG_DIRS",
    // Read by builds for tests only.
    "GREENLIGHT_FAILPOINT",
];
/// What ssh and its agent are found by.
pub const FOR_SSH: [&str; 5] = ["HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK", "KRB5CCNAME"];

/// As whom a server program runs. PostgreSQL's and PgBouncer refuse to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerUser {
    /// The user `postgres` when this process is root, this process's user otherwise.
    Usual,
    /// A number that belongs to nobody, for what is not trusted: no file is its own, nothing was lent to it, and no program
    /// gives it more rights. Only where this process is root.
    Spare(u32),
}

/// A command for one of PostgreSQL's server programs or PgBouncer. Its folder is `/`, which every user can read.
pub fn server_command(program: &Path) -> tokio::process::Command {
    command_as(ServerUser::Usual, program)
}

/// The same as a user of choice.
pub fn command_as(user: ServerUser, program: &Path) -> tokio::process::Command {
    let words = match user {
        ServerUser::Spare(id) => vec![
            format!("--reuid={id}"),
            format!("--regid={id}"),
            "--clear-groups".to_owned(),
            "--inh-caps=-all".to_owned(),
            "--no-new-privs".to_owned(),
        ],
        ServerUser::Usual if running_as_root() => {
            ["--reuid=postgres", "--regid=postgres", "--init-groups"].map(str::to_owned).to_vec()
        }
        ServerUser::Usual => Vec::new(),
    };
    let mut command = if words.is_empty() {
        new_command(program)
    } else {
        let mut command = new_command(Path::new("setpriv"));
        command.args(words).arg("--").arg(program);
        command
    };
    command.current_dir("/");
    command
}

/// A command that runs as this process's user. Without standard input, and ended when its handle is dropped.
#[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
pub fn new_command(program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    let path = variable("PATH").unwrap_or_else(|| USUAL_PATH.into());
    command.stdin(Stdio::null()).kill_on_drop(true).env_clear().env("PATH", path).env("LC_ALL", "C");
    command
}

/// Another process of this program. It is given what it does by, and the variables `named`: those that a playbook names.
pub fn own_command(program: &Path, named: &[String]) -> tokio::process::Command {
    let mut command = new_command(program);
    for_own(&mut command, named);
    command
}

fn for_own(command: &mut tokio::process::Command, named: &[String]) {
    pass_on(command, OWN.into_iter().chain(named.iter().map(String::as_str)));
}

/// Lets these variables of this process through, where they are set.
pub fn pass_on<'a>(command: &mut tokio::process::Command, names: impl IntoIterator<Item = &'a str>) {
    for name in names {
        if let Some(value) = variable(name) {
            command.env(name, value);
        }
    }
}

/// The variables of this process whose names begin so.
pub fn named_like(prefix: &str) -> Vec<String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| name.starts_with(prefix)).collect()
}

#[expect(clippy::disallowed_methods, reason = "what is passed on to other programs, by name")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A command that lives on when this process dies, with pipes to and from it: in a session of its own, so that neither a
/// terminal nor a signal to this process's group reaches it. `named` as in `own_command`.
pub fn detached_command(program: &Path, named: &[String]) -> tokio::process::Command {
    // `setsid` becomes the program: it is no leader of a group, and so need not fork.
    let mut command = new_command(Path::new("setsid"));
    for_own(&mut command, named);
    command.arg(program).kill_on_drop(false).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Sends a signal. A process that is gone, or may not be reached, is none to complain about here.
pub fn signal(pid: u32, signal: Signal) {
    // 0 and negative numbers would mean whole groups of processes.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// From here on this process ends neither by Ctrl-C, nor by a hangup, nor by a service manager's word to stop.
///
/// # Errors
/// `Refused` when the system does not let signals be heard.
pub fn ignore_signals() -> Result<(), PortError> {
    for kind in [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()] {
        // Once it is heard, a signal does nothing by itself, for as long as this process lives.
        drop(unix::signal(kind).map_err(|error| PortError::refused("ignore signals").because(error))?);
    }
    Ok(())
}

/// Ends a process at once, as `kill -9` does; also one that is stopped.
///
/// # Errors
/// `Refused` when there is no such process, or it may not be ended by this user.
pub fn kill(pid: u32) -> Result<(), PortError> {
    let attempted = || PortError::refused(format!("end process {pid}"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(attempted)?;
    kill_process(pid, Signal::KILL).map_err(|e| attempted().because(e))
}

/// Whether this process is root's.
pub fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Number and group of the user that server programs run as.
///
/// # Errors
/// `Refused` when this process is root and there is no user `postgres`.
pub async fn server_ids() -> Result<(u32, u32), PortError> {
    if !running_as_root() {
        return Ok((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    }
    let ask = async |flag: &str| {
        let said = run(new_command(Path::new("id")).args([flag, "postgres"]), Duration::from_secs(10)).await?;
        let number = String::from_utf8_lossy(&said.stdout).trim().parse::<u32>();
        number.map_err(|e| PortError::refused("read the number of the user `postgres`").because(e))
    };
    Ok((ask("-u").await?, ask("-g").await?))
}

/// Gives a file or folder that this process has made to the user that server programs run as; nothing to do when that is
/// this user, or it has it already. What is given is what was opened, and no link is followed to it.
///
/// # Errors
/// `Refused` when it is a link, is another's, has a second name, or cannot be given.
pub async fn give_to_server_user(path: &Path) -> Result<(), PortError> {
    if !running_as_root() {
        return Ok(());
    }
    let (user, group) = server_ids().await?;
    files::give(path, user, group)
        .map_err(|e| PortError::refused(format!("give `{}` to the server's user", path.display())).because(e))
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// `Refused` when it cannot be started or ends with a failure (the last lines of its standard error are in the message),
/// `Uncertain` when it did not end within `limit`; it is then killed.
pub async fn run(command: &mut tokio::process::Command, limit: Duration) -> Result<Output, PortError> {
    let output = output(command, limit).await?;
    if output.status.success() { Ok(output) } else { Err(failed(&program_name(command), &output)) }
}

/// The same with something for its standard input, such as a file's content that must not stand in an argument.
///
/// # Errors
/// As `run`.
pub async fn run_with_input(command: &mut tokio::process::Command, input: &[u8], limit: Duration) -> Result<Output, PortError> {
    let name = program_name(command);
    let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()), &name)?;
    let stdin = child.stdin.take();
    let fed = async move {
        if let Some(mut stdin) = stdin {
            // One that does not read all of it says why by its exit status.
            let _ = stdin.write_all(input).await;
        }
    };
    let output = within(async { tokio::join!(fed, child.wait_with_output()).1 }, &name, limit).await?;
    if output.status.success() { Ok(output) } else { Err(failed(&name, &output)) }
}

/// Runs a command to its end, whatever end that is.
///
/// # Errors
/// As `run`, but for an end with a failure, which is for the caller to judge.
pub async fn output(command: &mut tokio::process::Command, limit: Duration) -> Result<Output, PortError> {
    let name = program_name(command);
    let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), &name)?;
    within(child.wait_with_output(), &name, limit).await
}

/// Runs a command for as long as it takes, and hands on each line of its standard error as it comes. `tell` answers whether
/// the line was for it; the last of the others are in the error. Standard input stays open until the end, so that a
/// command which watches it can end with us.
///
/// # Errors
/// `Refused` when it cannot be started, `Uncertain` when it ends with a failure.
pub async fn run_telling(
    command: &mut tokio::process::Command,
    tell: &mut (dyn FnMut(&str) -> bool + Send),
) -> Result<(), PortError> {
    let name = program_name(command);
    let uncertain = || PortError::uncertain(format!("see `{name}` through"));
    let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()), &name)?;
    let stdin = child.stdin.take();
    let mut said: Vec<String> = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Some(line) = lines.next_segment().await.map_err(|e| uncertain().because(e))? {
            // Progress comes with carriage returns where it is meant for a terminal.
            for line in String::from_utf8_lossy(&line).split('\r').filter(|line| !line.trim().is_empty()) {
                if !tell(line) {
                    said.push(line.to_owned());
                }
            }
        }
    }
    let status = child.wait().await.map_err(|e| uncertain().because(e))?;
    drop(stdin);
    if status.success() { Ok(()) } else { Err(uncertain().because(said[said.len().saturating_sub(5)..].join("; "))) }
}

/// What one command prints goes to the other's standard input, until both have ended.
///
/// # Errors
/// `Uncertain` when either ends with a failure, with the last lines that both said.
pub async fn pipe(from: &mut tokio::process::Command, to: &mut tokio::process::Command) -> Result<(), PortError> {
    let (from_name, to_name) = (program_name(from), program_name(to));
    let attempted = || PortError::uncertain(format!("see `{from_name}` and `{to_name}` through"));
    let mut from = spawn(from.stdout(Stdio::piped()).stderr(Stdio::piped()), &from_name)?;
    let mut to = spawn(to.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()), &to_name)?;
    let (Some(mut output), Some(mut input)) = (from.stdout.take(), to.stdin.take()) else { return Err(attempted()) };
    let carried = async move {
        let carried = tokio::io::copy(&mut output, &mut input).await;
        carried.and(input.shutdown().await)
    };
    let (carried, from, to) = tokio::join!(carried, from.wait_with_output(), to.wait_with_output());
    let (from, to) = (from.map_err(|e| attempted().because(e))?, to.map_err(|e| attempted().because(e))?);
    if from.status.success() && to.status.success() {
        return carried.map_err(|e| attempted().because(e));
    }
    Err(attempted().because(format!("{}; {}", last_lines(&from.stderr), last_lines(&to.stderr))))
}

fn spawn(command: &mut tokio::process::Command, name: &str) -> Result<tokio::process::Child, PortError> {
    let child = command.spawn();
    child.map_err(|e| PortError::refused(format!("start `{name}`")).because(e).hint(format!("is `{name}` installed?")))
}

async fn within(ending: impl Future<Output = io::Result<Output>>, name: &str, limit: Duration) -> Result<Output, PortError> {
    #[expect(clippy::disallowed_methods, reason = "a limit on another program, not on ourselves")]
    let ended = tokio::time::timeout(limit, ending).await;
    ended
        .map_err(|_| PortError::uncertain(format!("see `{name}` end within {} s", limit.as_secs())))?
        .map_err(|e| PortError::new(Failure::Uncertain, format!("wait for `{name}`")).because(e))
}

fn failed(name: &str, output: &Output) -> PortError {
    PortError::refused(format!("run `{name}` ({})", output.status)).because(last_lines(&output.stderr))
}

/// The end of what a program said, on one line.
pub fn last_lines(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

fn program_name(command: &tokio::process::Command) -> String {
    let std = command.as_std();
    let program = std.get_args().skip_while(|arg| *arg != "--").nth(1).filter(|_| std.get_program() == "setpriv");
    PathBuf::from(program.unwrap_or(std.get_program()))
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn variables(mut command: tokio::process::Command) -> Vec<String> {
        let said = run(&mut command, Duration::from_secs(10)).await.unwrap();
        let mut names: Vec<String> = String::from_utf8(said.stdout)
            .unwrap()
            .lines()
            .map(|line| line.split('=').next().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_program_is_given_no_variable_but_by_name() {
        let env = Path::new("env");
        assert!(variable("CARGO_PKG_NAME").is_some(), "this process has variables that could be handed on");
        assert_eq!(variables(new_command(env)).await, ["LC_ALL", "PATH"]);
        assert_eq!(variables(server_command(env)).await, ["LC_ALL", "PATH"]);
        let named = ["CARGO_PKG_NAME".to_owned(), "NO_SUCH_VARIABLE".to_owned()];
        for names in [variables(own_command(env, &named)).await, variables(detached_command(env, &named)).await] {
            assert!(names.contains(&"CARGO_PKG_NAME".to_owned()), "{names:?}");
            let known =
                |name: &String| OWN.contains(&name.as_str()) || ["CARGO_PKG_NAME", "LC_ALL", "PATH"].contains(&name.as_str());
            assert!(names.iter().all(known), "{names:?}");
        }
    }
}

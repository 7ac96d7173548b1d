//! The one place that starts other programs: PostgreSQL's own, PgBouncer, the guard.
//!
//! Passwords go by environment or passfile, never by argument, where every user of the machine could read them.

use crate::word::{Failure, PortError};
use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// A command for one of PostgreSQL's server programs or PgBouncer, which refuse to run as root: as the user `postgres`
/// when this process is root, as this user otherwise. Its folder is `/`, which every user can read.
pub fn server_command(program: &Path) -> tokio::process::Command {
    let mut command = if running_as_root() {
        let mut command = new_command(Path::new("setpriv"));
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
        command
    } else {
        new_command(program)
    };
    command.current_dir("/");
    command
}

/// A command that runs as this process's user. Without standard input, and ended when its handle is dropped.
#[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
pub fn new_command(program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    command
}

/// A command that lives on when this process dies: in a process group of its own, so that a terminal's Ctrl-C does not
/// reach it, with pipes to and from it.
pub fn detached_command(program: &Path) -> tokio::process::Command {
    let mut command = new_command(program);
    command.kill_on_drop(false).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Ends a process at once, as `kill -9` does; also one that is stopped.
///
/// # Errors
/// `Refused` when there is no such process, or it may not be ended by this user.
pub async fn kill(pid: u32) -> Result<(), PortError> {
    let mut command = new_command(Path::new("sh"));
    run(command.args(["-c", &format!("kill -9 {pid}")]), Duration::from_secs(5)).await.map(|_| ())
}

/// Whether this process is root's.
pub fn running_as_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Gives a file or folder to the user that server programs run as; nothing to do when that is this user.
///
/// # Errors
/// `Refused` when `chown` fails.
pub async fn give_to_server_user(path: &Path) -> Result<(), PortError> {
    if running_as_root() {
        run(new_command(Path::new("chown")).args([OsStr::new("postgres:postgres"), path.as_os_str()]), Duration::from_secs(10))
            .await?;
    }
    Ok(())
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

//! The one place that starts other programs: PostgreSQL's own, PgBouncer, the guard.
//!
//! Passwords go by environment or passfile, never by argument, where every user of the machine could read them.

use crate::word::{Failure, PortError};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

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
    let name = program_name(command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child =
        child.map_err(|e| PortError::refused(format!("start `{name}`")).because(e).hint(format!("is `{name}` installed?")))?;
    #[expect(clippy::disallowed_methods, reason = "a limit on another program, not on ourselves")]
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = ended
        .map_err(|_| PortError::uncertain(format!("see `{name}` end within {} s", limit.as_secs())))?
        .map_err(|e| PortError::new(Failure::Uncertain, format!("wait for `{name}`")).because(e))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("; ");
    Err(PortError::refused(format!("run `{name}` ({})", output.status)).because(tail))
}

fn program_name(command: &tokio::process::Command) -> String {
    let std = command.as_std();
    let program = std.get_args().skip_while(|arg| *arg != "--").nth(1).filter(|_| std.get_program() == "setpriv");
    PathBuf::from(program.unwrap_or(std.get_program()))
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

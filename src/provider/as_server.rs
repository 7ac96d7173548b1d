//! What is read, written and removed in a server's folder, done as the user to whom it belongs. So whatever that user has
//! put in the way, it can do no more than it could by itself.

use crate::process;
use crate::word::PortError;
use std::{ffi::OsStr, path::Path, time::Duration};

/// Removing a whole data folder.
const LONG: Duration = Duration::from_hours(1);

/// Runs a script, which finds `args` from `$1` on. `attempted` reads after "could not".
pub(super) async fn sh(
    attempted: impl Into<String>,
    script: &str,
    args: impl IntoIterator<Item = &OsStr>,
    input: &str,
) -> Result<String, PortError> {
    let mut command = process::server_command(Path::new("sh"));
    command.args(["-c", script, "sh"]).args(args);
    match process::run_with_input(&mut command, input.as_bytes(), LONG).await {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            // The command is a shell, of which nobody needs to hear.
            let said = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(PortError::new(error.failure, attempted).because(said))
        }
    }
}

/// Writes a file that only the server's user (and root) can read, whole or not at all.
pub(super) async fn write(path: &Path, content: &str) -> Result<(), PortError> {
    let script = r#"umask 077; rm -f -- "$1.new" && set -C && cat >"$1.new" && sync "$1.new" && mv -fT -- "$1.new" "$1" && sync "${1%/*}""#;
    sh(format!("write `{}`", path.display()), script, [path.as_os_str()], content).await.map(drop)
}

/// Adds lines to the end of a file that is there.
pub(super) async fn append(path: &Path, content: &str) -> Result<(), PortError> {
    let script = r#"[ -f "$1" ] && [ ! -h "$1" ] || { echo "it is no plain file" >&2; exit 1; }; cat >>"$1""#;
    sh(format!("write `{}`", path.display()), script, [path.as_os_str()], content).await.map(drop)
}

/// Makes the folder where it is absent; it belongs to the server's user and is closed to all others.
pub(super) async fn make_folder(folder: &Path) -> Result<(), PortError> {
    let attempted = || format!("make the folder `{}`", folder.display());
    // By that user itself where it may; else it is made for it, below a folder that is not its own.
    let script = r#"umask 077; [ -d "$1" ] && [ ! -h "$1" ] || mkdir -- "$1" && [ -O "$1" ] && chmod 700 -- "$1""#;
    let made = sh(attempted(), script, [folder.as_os_str()], "").await;
    if made.is_ok() || !process::running_as_root() {
        return made.map(drop);
    }
    let (user, group) = process::server_ids().await?;
    process::files::make_folder_for(folder, user, group).map_err(|e| PortError::refused(attempted()).because(e))
}

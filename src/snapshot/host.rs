//! The machine on which files are: this one, or another by the system's ssh. What is done there is done by short shell
//! scripts, so that it is the same on both.
//!
//! **Invariant:** what a script is given goes by argument or standard input, never into its text; a password only by
//! standard input. Nothing that runs for long outlives us, but for what is meant to.

use crate::plan::HostSpec;
use crate::postgres::programs::Installed;
use crate::process;
use crate::word::{Failure, PortError};
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a script may take that only looks or moves small things.
pub(super) const SHORT: Duration = Duration::from_mins(1);
/// What ssh itself ends with; a script's own end is another number.
const SSH_FAILED: i32 = 255;

/// Runs `"$@"`, and ends it when standard input ends: when whoever started this is gone.
const WATCHED: &str = r#"exec 3<&0
"$@" </dev/null 3<&- &
p=$!
( cat <&3 >/dev/null; kill $p ) 2>/dev/null &
w=$!
exec 3<&-
wait $p; r=$?
kill $w 2>/dev/null
exit $r"#;

#[derive(Clone)]
pub struct Host {
    pub spec: HostSpec,
    pub ssh_config: Option<PathBuf>,
    /// The folder of the PostgreSQL programs there, where somebody said it.
    pub bin_dir: Option<PathBuf>,
    /// The programs of this machine.
    pub installed: Installed,
}

/// How near to the server's a program's version must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// It reads or writes the server's files.
    Same,
    /// It speaks to the server; newer ones do too.
    SameOrNewer,
}

impl Host {
    /// What a script prints. `attempted` reads after "could not".
    ///
    /// # Errors
    /// `Refused` when the script says no, with what it said; `Uncertain` when the host could not be reached or did not
    /// answer in time: the script may have run.
    pub(super) async fn sh(&self, attempted: &str, script: &str, args: &[&str]) -> Result<String, PortError> {
        self.sh_within(attempted, script, args, SHORT).await
    }

    pub(super) async fn sh_within(
        &self,
        attempted: &str,
        script: &str,
        args: &[&str],
        limit: Duration,
    ) -> Result<String, PortError> {
        let attempted = self.on(attempted);
        let output = process::output(&mut self.command(script, args), limit).await;
        let output = output.map_err(|error| PortError::new(error.failure, attempted.clone()).because(error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = process::last_lines(&output.stderr);
        if self.spec != HostSpec::Local && output.status.code() == Some(SSH_FAILED) {
            return Err(self.unreachable(attempted).because(said));
        }
        let said = if said.is_empty() { output.status.to_string() } else { said };
        Err(PortError::refused(attempted).because(said))
    }

    /// A script with something on its standard input.
    pub(super) async fn feed(&self, attempted: &str, script: &str, args: &[&str], input: &str) -> Result<(), PortError> {
        let fed = process::run_with_input(&mut self.command(script, args), input.as_bytes(), SHORT).await;
        fed.map(drop).map_err(|error| PortError::new(error.failure, self.on(attempted)).because(error))
    }

    /// A program that may run for hours, and ends when we do. `tell` sees each line of its standard error.
    ///
    /// # Errors
    /// `Uncertain` when it ends with a failure: part of what it makes may be there.
    pub(super) async fn watched(
        &self,
        attempted: &str,
        words: &[&str],
        tell: &mut (dyn FnMut(&str) -> bool + Send),
    ) -> Result<(), PortError> {
        let done = process::run_telling(&mut self.command(WATCHED, words), tell).await;
        done.map_err(|error| {
            let said = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            PortError::new(error.failure, self.on(attempted)).because(said)
        })
    }

    /// What one script prints, as another's standard input, on another host perhaps. Both end with us.
    ///
    /// # Errors
    /// `Uncertain`: part of it may have arrived.
    pub(super) async fn pipe(
        &self,
        attempted: &str,
        script: &str,
        args: &[&str],
        to: (&Host, &str, &[&str]),
    ) -> Result<(), PortError> {
        let attempted = format!("{} from {} to {}", attempted, self.spec, to.0.spec);
        let piped = process::pipe(&mut self.command(script, args), &mut to.0.command(to.1, to.2)).await;
        piped.map_err(|error| PortError::uncertain(attempted).because(error))
    }

    /// Writes a small file whole or not at all; only its owner may read it.
    pub(super) async fn write(&self, path: &Path, content: &str) -> Result<(), PortError> {
        let script = r#"umask 077; cat > "$1.new" && sync "$1.new" && mv -f "$1.new" "$1""#;
        self.feed(&format!("write `{}`", path.display()), script, &[&text(path)], content).await
    }

    /// The content of a file; `None` where there is none.
    pub(super) async fn read(&self, path: &Path) -> Result<Option<String>, PortError> {
        let script = r#"[ -e "$1" ] || { echo absent; exit 0; }; echo there; cat "$1""#;
        let said = self.sh(&format!("read `{}`", path.display()), script, &[&text(path)]).await?;
        Ok(said.strip_prefix("there\n").map(str::to_owned))
    }

    /// The processes there that have this path as one of their arguments.
    pub(super) async fn started_with(&self, program: &str, path: &Path) -> Result<Vec<u32>, PortError> {
        let script = r#"for p in /proc/[0-9]*; do
            tr '\0' '\n' <"$p/cmdline" 2>/dev/null | { read -r first; case ${first##*/} in "$1") grep -Fxq -- "$2/$3" ;; *) false ;; esac; } &&
            echo "${p#/proc/}"
        done; true"#;
        // In two parts, or this very script would be found.
        let folder = path.parent().map(text).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let said = self.sh(&format!("look for a running `{program}`"), script, &[program, &folder, &name]).await?;
        Ok(said.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// Where one of PostgreSQL's programs is.
    pub(super) async fn program(&self, name: &str, major: u32, version: Version) -> Result<String, PortError> {
        if self.spec == HostSpec::Local && self.bin_dir.is_none() {
            let found = match (version, name) {
                (Version::Same, "postgres" | "pg_ctl") => self.installed.server(major)?.program(name),
                (Version::Same, _) => self.installed.exact(name, major),
                (Version::SameOrNewer, _) => self.installed.client(name, major),
            };
            return found.map(|path| text(&path));
        }
        let script = r#"for f in "$1" "/usr/lib/postgresql/$3/bin" "/usr/pgsql-$3/bin"; do
            [ -n "$f" ] && [ -x "$f/$2" ] && { echo "$f/$2"; exit 0; }
        done
        command -v "$2""#;
        let named = self.bin_dir.as_deref().map(text).unwrap_or_default();
        let attempted = format!("find `{name}` of PostgreSQL {major}");
        let found = self.sh(&attempted, script, &[&named, name, &major.to_string()]).await;
        let found = found.map_err(|error| match error.failure {
            Failure::Refused => error.hint("install PostgreSQL's programs there, or name their folder as `snapshot.bin_dir`"),
            _ => error,
        })?;
        Ok(found.trim().to_owned())
    }

    /// Whether anything listens on this port of that machine.
    pub(super) async fn port_is_taken(&self, port: u16) -> Result<bool, PortError> {
        let script = r"cat /proc/net/tcp /proc/net/tcp6 2>/dev/null";
        let said = self.sh("look which ports are taken", script, &[]).await?;
        // Fields: number, local address as hexadecimal `address:port`, remote address, state; `0A` listens.
        Ok(said.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().take(4).collect();
            let local = fields.get(1).and_then(|address| address.rsplit_once(':')).map(|(_, port)| port);
            fields.get(3) == Some(&"0A") && local.and_then(|text| u16::from_str_radix(text, 16).ok()) == Some(port)
        }))
    }

    /// Bytes that can still be written where `path` is or is to be.
    pub(super) async fn free_bytes(&self, path: &Path) -> Result<u64, PortError> {
        let script = r#"d=$1; while [ ! -d "$d" ]; do d=$(dirname "$d"); done; df -Pk "$d""#;
        let attempted = format!("look how much room `{}` has", path.display());
        let said = self.sh(&attempted, script, &[&text(path)]).await?;
        let kib = said.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).and_then(|kib| kib.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| PortError::refused(self.on(&attempted)).because(said))
    }

    /// A command that runs a script there.
    pub(super) fn command(&self, script: &str, args: &[&str]) -> tokio::process::Command {
        let HostSpec::Ssh { user, host, port } = &self.spec else {
            let mut command = process::server_command(Path::new("sh"));
            if args.first() == Some(&super::pgbackrest::PROGRAM) {
                process::pass_on(&mut command, process::named_like("PGBACKREST_").iter().map(String::as_str));
            }
            command.args(["-c", script, "sh"]).args(args);
            return command;
        };
        let mut command = process::new_command(Path::new("ssh"));
        process::pass_on(&mut command, process::FOR_SSH);
        if let Some(config) = &self.ssh_config {
            command.arg("-F").arg(config);
        }
        // A question for a password or an unknown host would wait for nobody.
        command.args([
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=3",
        ]);
        if let Some(port) = port {
            command.args(["-p", &port.to_string()]);
        }
        if let Some(user) = user {
            command.args(["-l", user]);
        }
        let words: Vec<String> = ["sh", "-c", script, "sh"].iter().chain(args).map(|word| quoted(word)).collect();
        command.args(["--", host]).arg(words.join(" "));
        command
    }

    fn on(&self, attempted: &str) -> String {
        match &self.spec {
            HostSpec::Local => attempted.to_owned(),
            host @ HostSpec::Ssh { .. } => format!("{attempted} on {host}"),
        }
    }

    fn unreachable(&self, attempted: String) -> PortError {
        PortError::uncertain(attempted)
            .hint(format!("see that `ssh` reaches {} without a question, with a key and a known host key", self.spec))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.spec)
    }
}

/// A word for a shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}

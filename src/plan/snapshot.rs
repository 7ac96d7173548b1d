//! Where backups and WAL are kept, as the playbook says it.

use crate::word::Template;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// The playbook's section `snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    pub store: StoreSpec,
    pub host: HostSpec,
    /// The folder on that host: backups and WAL of `basebackup`; for either store the records of restore points and the
    /// throwaway servers.
    pub dir: PathBuf,
    /// How that host reaches the server, where that differs from blue's URL.
    pub url: Option<Template>,
    /// The folder of the PostgreSQL programs on that host; found when absent.
    pub bin_dir: Option<PathBuf>,
    /// Used in place of the ssh configuration of this process's user.
    pub ssh_config: Option<PathBuf>,
    pub retention: RetentionSpec,
    /// A backup that is older is not good enough to begin a change with.
    pub max_age_secs: u64,
    /// Restore to a throwaway server and look at it before a change begins.
    pub prove: bool,
    /// What a run needs to be taken back by a restore is kept so long after its end.
    #[serde(default)]
    pub keep_blue_secs: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreSpec {
    Basebackup { wal: WalSpec },
    Pgbackrest { stanza: String, config: Option<PathBuf> },
}

/// How WAL comes into the folder of a `basebackup` store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WalSpec {
    /// The server's own `archive_command` copies each segment into `wal` below `dir`. Greenlight checks that, and
    /// configures nothing.
    ArchiveCommand,
    /// A `pg_receivewal` that Greenlight starts, watches and restarts, through a physical slot of its own.
    Receive,
}

/// The machine on which files are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostSpec {
    /// The machine on which Greenlight runs.
    Local,
    /// Another, by the system's ssh.
    Ssh { user: Option<String>, host: String, port: Option<u16> },
}

/// Which backups are kept: those that either of the two keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionSpec {
    /// So many of the newest.
    pub count: u32,
    /// Those that reach a point no longer ago than this, in seconds.
    pub age_secs: Option<u64>,
}

impl HostSpec {
    /// Reads `local` or `ssh://user@host:port`.
    ///
    /// # Errors
    /// Says how to write it.
    pub fn parse(text: &str) -> Result<HostSpec, String> {
        if text == "local" {
            return Ok(HostSpec::Local);
        }
        let wrong = || format!("`{text}` is no host; write `local`, or `ssh://user@host` with `:port` where it is not 22");
        let rest = text.strip_prefix("ssh://").ok_or_else(wrong)?;
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user.to_owned()), place));
        let (host, port) = match place.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(str::parse).transpose().map_err(|_| wrong())?;
        let word = |text: &str| {
            let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '%');
            !text.is_empty() && !text.starts_with('-') && text.chars().all(inside)
        };
        let fits = word(host) && user.as_deref().is_none_or(word) && port != Some(0);
        if fits { Ok(HostSpec::Ssh { user, host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostSpec::Ssh { user, host, port } = self else { return f.write_str("local") };
        f.write_str("ssh://")?;
        if let Some(user) = user {
            write!(f, "{user}@")?;
        }
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_and_written_the_same() {
        for text in ["local", "ssh://db1", "ssh://postgres@db1.example.com", "ssh://a@10.0.0.1:2222", "ssh://a@[::1]:22"] {
            assert_eq!(HostSpec::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "db1", "ssh://", "ssh://-oProxyCommand=x", "ssh://a@-x", "ssh://a b@c", "ssh://a@b:0", "ssh://a@b:x"] {
            assert!(HostSpec::parse(text).is_err(), "{text}");
        }
    }
}

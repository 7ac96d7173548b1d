//! Where a server is restored to: a machine, a folder there, a port.

use super::Target;
use crate::plan::HostSpec;
use crate::postgres::client::{Session, SessionOptions};
use crate::snapshot::SnapshotStore;
use crate::snapshot::host::{Host, Version, text};
use crate::snapshot::notes::json;
use crate::snapshot::tablespaces::tablespaces_beside;
use crate::word::{Endpoint, PortError, Timestamp, TlsMode};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// What every restore writes into its folder before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub state: State,
    pub target: Target,
    pub timeline: u32,
    /// The backup that it is made from.
    pub backup: String,
    pub major: u32,
    pub port: u16,
    pub begun_at: Timestamp,
    /// Removed as soon as it was looked at: for a proof.
    pub throwaway: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The backup is being copied: nothing here is of worth.
    Fetching,
    /// Copied and configured: it can be started and go on.
    Ready,
    /// A server of its own, which may serve: never removed by us.
    Promoted,
}

/// What the folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Absent, below a folder that is there, or empty.
    Nothing,
    Ours(Box<Marker>),
    /// Something that we did not put there.
    Other,
    /// There is no folder in which it could be made.
    NoParent,
}

#[derive(Clone, Debug)]
pub struct Place {
    pub host: Host,
    pub data_dir: PathBuf,
    pub port: u16,
    /// Only for us, and only for a while: where that can be, nobody else reaches the server.
    pub throwaway: bool,
}

impl Place {
    /// It is reached by a socket in its own folder only, which nobody but its user can enter. On another machine a socket
    /// cannot be reached, and the server listens as the one that it is a copy of.
    pub(super) fn is_closed(&self) -> bool {
        self.throwaway && self.host.spec == HostSpec::Local
    }

    pub(super) async fn content(&self) -> Result<Content, PortError> {
        let script = r#"if [ -f "$1/greenlight.restore" ]; then cat "$1/greenlight.restore"
            elif [ -d "$1" ]; then [ -z "$(ls -A "$1")" ] && echo nothing || echo other
            elif [ -e "$1" ]; then echo other
            elif [ -d "$(dirname "$1")" ]; then echo nothing
            else echo no parent; fi"#;
        let folder = text(&self.data_dir);
        let attempted = format!("look into `{folder}`");
        let said = self.host.sh(&attempted, script, &[&folder]).await?;
        Ok(match said.trim() {
            "nothing" => Content::Nothing,
            "other" => Content::Other,
            "no parent" => Content::NoParent,
            marker => {
                Content::Ours(Box::new(serde_json::from_str(marker).map_err(|e| PortError::refused(attempted).because(e))?))
            }
        })
    }

    /// The marker of a folder that a restore made.
    ///
    /// # Errors
    /// `Refused` for any other folder.
    pub async fn marker(&self) -> Result<Marker, PortError> {
        match self.content().await? {
            Content::Ours(marker) => Ok(*marker),
            Content::Nothing | Content::Other | Content::NoParent => {
                Err(PortError::refused(format!("find a restored server in `{}`", self.data_dir.display()))
                    .because("it carries no marker of a restore"))
            }
        }
    }

    /// Makes the folder ours. Of two that try, one succeeds.
    pub(super) async fn claim(&self, marker: &Marker) -> Result<(), PortError> {
        let script = r#"umask 077; mkdir -p "$1" && chmod 700 "$1" && [ -z "$(ls -A "$1")" ] && set -C && cat >"$1/greenlight.restore" && sync "$1/greenlight.restore""#;
        let folder = text(&self.data_dir);
        self.host.feed(&format!("take the folder `{folder}`"), script, &[&folder], &json(marker)).await
    }

    pub(super) async fn mark(&self, marker: &Marker) -> Result<(), PortError> {
        self.host.write(&self.data_dir.join("greenlight.restore"), &json(marker)).await
    }

    /// Whether the folder for the tablespaces is absent or empty, or, where a restore into the data folder goes on, its own.
    pub(super) async fn is_free_beside(&self) -> Result<bool, PortError> {
        let script = r#"if [ -f "$2/greenlight.restore" ]; then
                [ -f "$1/greenlight.restore" ] && [ "$(cat "$2/greenlight.restore")" = "$1" ]
            elif [ -d "$2" ]; then [ -z "$(ls -A "$2")" ]
            else [ ! -e "$2" ]; fi && echo free || echo taken"#;
        let (folder, beside) = self.folders();
        let said = self.host.sh(&format!("look into `{beside}`"), script, &[&folder, &beside]).await?;
        Ok(said.trim() == "free")
    }

    /// Makes the folder for the tablespaces ours, whose marker names the data folder.
    pub(super) async fn claim_beside(&self) -> Result<(), PortError> {
        let script = r#"umask 077; mkdir -p "$2" && chmod 700 "$2" || exit 1
            [ -f "$2/greenlight.restore" ] && [ "$(cat "$2/greenlight.restore")" = "$1" ] && exit 0
            [ -z "$(ls -A "$2")" ] && set -C && printf %s "$1" >"$2/greenlight.restore" && sync "$2/greenlight.restore""#;
        let (folder, beside) = self.folders();
        self.host.sh(&format!("take the folder `{beside}`"), script, &[&folder, &beside]).await.map(drop)
    }

    /// Removes everything but the markers, only where there are ours.
    pub(super) async fn empty(&self) -> Result<(), PortError> {
        let (folder, beside) = self.folders();
        let script = r#"[ -f "$1/greenlight.restore" ] || { echo "no marker of ours" >&2; exit 1; }
            find "$1" -mindepth 1 -maxdepth 1 ! -name greenlight.restore -exec rm -rf {} + || exit 1
            [ -f "$2/greenlight.restore" ] && [ "$(cat "$2/greenlight.restore")" = "$1" ] || exit 0
            find "$2" -mindepth 1 -maxdepth 1 ! -name greenlight.restore -exec rm -rf {} +"#;
        let args = [folder.as_str(), &beside];
        self.host.sh_within(&format!("empty `{folder}`"), script, &args, Duration::from_hours(1)).await.map(drop)
    }

    /// Removes the markers, and the folders if we may: they may be mount points. The one in the data folder goes last, since
    /// nothing of ours is found without it.
    pub(super) async fn release(&self) -> Result<(), PortError> {
        let (folder, beside) = self.folders();
        let script = r#"if [ -f "$2/greenlight.restore" ] && [ "$(cat "$2/greenlight.restore")" = "$1" ]; then
                rm -f "$2/greenlight.restore" || exit 1
                rmdir "$2" 2>/dev/null
            fi
            rm -f "$1/greenlight.restore" && { rmdir "$1" 2>/dev/null || true; }"#;
        self.host.sh(&format!("remove `{folder}`"), script, &[&folder, &beside]).await.map(drop)
    }

    /// A copy into it, or into its tablespaces, is under way.
    pub(super) async fn is_being_copied_into(&self, store: &dyn SnapshotStore) -> Result<bool, PortError> {
        for into in [&self.data_dir, &tablespaces_beside(&self.data_dir)] {
            let (program, argument) = store.fetching(&self.host, into);
            if !self.host.started_with(program, &argument).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From now on the tablespaces are a server's, wherever its data folder goes: nothing of ours removes them.
    pub(super) async fn give_beside_away(&self) -> Result<(), PortError> {
        let (_, beside) = self.folders();
        self.host.sh(&format!("leave `{beside}` to the server"), r#"rm -f "$1/greenlight.restore""#, &[&beside]).await.map(drop)
    }

    fn folders(&self) -> (String, String) {
        let folder: PathBuf = self.data_dir.components().collect();
        (text(&folder), text(&tablespaces_beside(&folder)))
    }

    /// The server process that works in this very folder.
    pub(super) async fn postmaster(&self) -> Result<Option<u32>, PortError> {
        let script = r#"p=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || exit 0
            [ -n "$p" ] && [ "$(readlink "/proc/$p/cwd")" = "$(cd "$1" && pwd -P)" ] && echo "$p"; true"#;
        let said = self.host.sh("look for the restored server", script, &[&text(&self.data_dir)]).await?;
        Ok(said.trim().parse().ok())
    }

    pub(super) async fn start(&self, major: u32) -> Result<(), PortError> {
        let program = self.host.program("pg_ctl", major, Version::Same).await?;
        let (folder, log) = (text(&self.data_dir), text(&self.data_dir.join("greenlight.log")));
        // It takes connections only once it is consistent, which may be hours from now; but that it runs is seen at once.
        let script = r#"rm -f "$3"; "$1" start --silent --no-wait --pgdata "$2" --log "$3" </dev/null || exit 1
            n=0; while [ ! -s "$2/postmaster.pid" ] && ! grep -q FATAL "$3" && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done"#;
        self.host.sh(&format!("start the server in `{folder}`"), script, &[&program, &folder, &log]).await.map(drop)
    }

    /// Ends the server, at once: what is not written down is in the archive.
    pub(super) async fn stop(&self, major: u32) -> Result<(), PortError> {
        if self.postmaster().await?.is_none() {
            return Ok(());
        }
        let program = self.host.program("pg_ctl", major, Version::Same).await?;
        let folder = text(&self.data_dir);
        let script = r#""$1" stop --silent --wait --timeout 50 --mode immediate --pgdata "$2""#;
        self.host.sh(&format!("stop the server in `{folder}`"), script, &[&program, &folder]).await.map(drop)
    }

    /// How the restored server is reached: as the server that it is a copy of, at another place.
    pub fn endpoint(&self, like: &Endpoint) -> Endpoint {
        if self.is_closed() {
            return Endpoint::by_socket(&self.data_dir, self.port, &like.database, &like.user, None);
        }
        let host = match &self.host.spec {
            HostSpec::Local => "127.0.0.1".to_owned(),
            HostSpec::Ssh { host, .. } => host.clone(),
        };
        // Its certificate is a copy too, of the same authority, and names the other server.
        let tls = if like.tls == TlsMode::VerifyFull { TlsMode::VerifyCa } else { like.tls };
        Endpoint { host, port: self.port, tls, ..like.clone() }
    }

    /// # Errors
    /// As `Session::open`.
    pub async fn session(&self, like: &Endpoint) -> Result<Session, PortError> {
        let options = SessionOptions::ours("greenlight/restore", Duration::from_mins(1), Duration::from_secs(10));
        Session::open(&self.endpoint(like), &options, "the restored server").await
    }
}

//! What Greenlight writes down beside the backups: the restore points that it made, and how long a restore takes.

use super::host::{Host, text};
use crate::word::{Lsn, PortError, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// A named place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub name: String,
    /// The end of its record.
    pub lsn: Lsn,
    pub timeline: u32,
    /// By the server's clock.
    pub at: Timestamp,
}

/// How long a restore took, and of how much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    pub measured_at: Timestamp,
    pub copied_bytes: u64,
    pub copy_ms: u64,
    pub replayed_bytes: u64,
    pub replay_ms: u64,
}

/// Bytes from which on a measure says something about more of them.
const MEANINGFUL: u64 = 16 << 20;

impl Estimate {
    /// What a restore of so much would take, in milliseconds, at the same pace.
    pub fn of(&self, copy_bytes: u64, replay_bytes: u64) -> u64 {
        let scaled = |ms: u64, done: u64, all: u64| {
            // What was so little took its time for other reasons than its size.
            let part = u128::from(ms) * u128::from(all.max(done)) / u128::from(done.max(MEANINGFUL));
            u64::try_from(part).unwrap_or(u64::MAX).max(ms.min(1000))
        };
        scaled(self.copy_ms, self.copied_bytes, copy_bytes).saturating_add(scaled(
            self.replay_ms,
            self.replayed_bytes,
            replay_bytes,
        ))
    }
}

/// A folder of such records.
#[derive(Clone, Debug)]
pub struct Notes {
    pub host: Host,
    pub dir: PathBuf,
}

impl Notes {
    /// Restore points, oldest first.
    pub async fn points(&self) -> Result<Vec<Point>, PortError> {
        let mut points: Vec<Point> = self.all(&self.dir.join("points")).await?;
        points.sort_by_key(|point| point.at);
        Ok(points)
    }

    /// Writes a restore point down; again with the same name: the later one counts, as it does for recovery by hand.
    pub async fn record(&self, point: &Point) -> Result<(), PortError> {
        self.make_folder("points").await?;
        let file = format!("{}.json", file_name(&point.name));
        self.host.write(&self.dir.join("points").join(file), &json(point)).await
    }

    /// From now on nothing is kept for this restore point.
    pub async fn forget(&self, name: &str) -> Result<(), PortError> {
        let path = self.dir.join("points").join(format!("{}.json", file_name(name)));
        self.host.sh(&format!("forget restore point `{name}`"), r#"rm -f "$1""#, &[&text(&path)]).await.map(drop)
    }

    pub async fn estimate(&self) -> Result<Option<Estimate>, PortError> {
        let said = self.host.read(&self.dir.join("greenlight.estimate")).await?;
        Ok(said.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub async fn set_estimate(&self, estimate: &Estimate) -> Result<(), PortError> {
        self.make_folder("points").await?;
        self.host.write(&self.dir.join("greenlight.estimate"), &json(estimate)).await
    }

    pub(super) async fn make_folder(&self, name: &str) -> Result<(), PortError> {
        let folder = text(&self.dir.join(name));
        let script = r#"umask 077; mkdir -p "$1""#;
        self.host.sh(&format!("make the folder `{folder}`"), script, &[&folder]).await.map(drop)
    }

    /// Every record of a folder. One that cannot be read is an error: what it keeps would be lost.
    async fn all<T: DeserializeOwned>(&self, folder: &Path) -> Result<Vec<T>, PortError> {
        let attempted = format!("read the records in `{}`", folder.display());
        let script = r#"for f in "$1"/*.json; do [ ! -f "$f" ] || { cat "$f"; echo; }; done"#;
        let said = self.host.sh(&attempted, script, &[&text(folder)]).await?;
        let lines = said.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| serde_json::from_str(line).map_err(|e| PortError::refused(attempted.clone()).because(e))).collect()
    }
}

/// On one line.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A restore point may be called anything.
fn file_name(name: &str) -> String {
    name.bytes().fold(String::new(), |file, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => file + &char::from(byte).to_string(),
        _ => file + &format!("%{byte:02x}"),
    })
}

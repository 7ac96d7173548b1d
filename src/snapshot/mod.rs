//! Backups and archived WAL of one server: taken, verified, kept, and restored to a point in time. The port is
//! `SnapshotStore`; each kind of store is one file.
//!
//! A restore never touches what runs: it makes a new server in an empty folder, which carries a marker of ours from the
//! first byte on. Nothing is ever removed from a folder without one.
//!
//! **Invariant:** a point is called recoverable only when it was looked up in the archive; what could not be looked at is
//! said to be unknown.

mod archiving;
mod basebackup;
mod before;
mod host;
mod keep;
mod notes;
mod pgbackrest;
mod prove;
mod receive;
pub mod restore;
pub mod salvage;
mod source;
mod tablespaces;
mod wal;
mod waldump;

pub use basebackup::Basebackup;
pub use before::{ARCHIVE_LIMIT, BeforeChange, Beside, Look};
pub use host::Host;
pub use keep::{Need, removable};
pub use notes::{Estimate, Notes, Point};
pub use pgbackrest::Pgbackrest;
pub use prove::{Proof, prove};
pub use source::Source;
pub use tablespaces::Searched;
pub use wal::{Archived, History, Reach, Segment, reach};

use crate::word::{Lsn, PortError, Timestamp};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Told what is being done and how far it has come: done and all, in bytes; all is 0 where it is not known.
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

/// A copy of a whole server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub id: String,
    pub state: BackupState,
    pub timeline: u32,
    /// WAL from here on is needed to use it, in the store's own copy or in the archive.
    pub start: Lsn,
    /// It is consistent from here on: no earlier point can be reached with it.
    pub stop: Lsn,
    pub began_at: Timestamp,
    /// By the server's clock, not before `stop` was reached.
    pub ended_at: Timestamp,
    /// What it takes when it is restored.
    pub bytes: u64,
    pub major: u32,
    pub system_identifier: u64,
    pub segment_bytes: u64,
    /// The WAL between start and stop lies in the backup itself.
    pub holds_own_wal: bool,
    pub verified_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    /// Being taken now.
    Working,
    /// Begun and not finished: nothing in it is of worth.
    Partial,
    Whole,
}

/// That WAL reaches the archive: which segment was seen to arrive, and how long that took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveProof {
    pub segment: String,
    /// Everything before this is in the archive.
    pub until: Lsn,
    pub took: Duration,
}

#[async_trait]
pub trait SnapshotStore: Send + Sync + fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;
    fn host(&self) -> &Host;
    /// What Greenlight keeps beside the backups.
    fn notes(&self) -> &Notes;

    /// Every backup of this store, oldest first, also those that were begun and not finished.
    async fn backups(&self) -> Result<Vec<Backup>, PortError>;
    /// Takes a backup and verifies it. Not repeatable; what a crash leaves is listed as `Partial` and removed by `prune`.
    async fn take(&self, progress: Progress<'_>) -> Result<Backup, PortError>;
    /// The tablespaces in it that have folders of their own, by their object identifiers.
    async fn tablespaces(&self, backup: &Backup) -> Result<Vec<u32>, PortError>;
    /// The same of the server now.
    async fn tablespaces_now(&self) -> Result<Vec<u32>, PortError>;
    /// Reads all of it against its manifest.
    ///
    /// # Errors
    /// `Refused` when it is damaged, with what is.
    async fn verify(&self, backup: &Backup) -> Result<(), PortError>;
    /// Removes this backup.
    async fn remove(&self, backup: &Backup) -> Result<(), PortError>;
    /// Removes the WAL that no backup from `oldest` on needs. How many files went.
    async fn remove_wal_before(&self, oldest: &Backup) -> Result<u64, PortError>;

    /// What carries WAL into the archive is set up and at work: looked at, or, where it is ours to start, started.
    async fn ensure_archiving(&self) -> Result<(), PortError>;
    /// Ends a segment on the server and waits until it is in the archive.
    async fn prove_archiving(&self, limit: Duration) -> Result<ArchiveProof, PortError>;
    async fn archived(&self, segment_bytes: u64) -> Result<Archived, PortError>;
    /// The command by which a server on the store's host gets a WAL file: PostgreSQL's `%f` and `%p` stand for its name and
    /// the place for it.
    fn restore_command(&self) -> String;
    /// The same for a look into the file, which may be a link to the store's own.
    fn look_command(&self) -> String {
        self.restore_command()
    }
    /// The same for a server whose data folder this is, on another host perhaps.
    fn restore_command_at(&self, on: &Host, folder: &Path) -> String;
    /// Copies the backup, and with it what `restore_command_at` needs, into a folder which holds nothing but our marker; its
    /// tablespaces into `tablespaces_beside` it, each below its number, where there is such a folder with nothing but our
    /// marker. The links in the data folder may still point elsewhere.
    async fn fetch(&self, backup: &Backup, on: &Host, folder: &Path, progress: Progress<'_>) -> Result<(), PortError>;
    /// The program that a `fetch` into this folder runs there, and one of its arguments: by these one that is under way is
    /// found.
    fn fetching(&self, on: &Host, folder: &Path) -> (&'static str, PathBuf);

    /// What this store made on the server, for people; and its removal.
    async fn made_on_server(&self) -> Result<Vec<String>, PortError>;
    async fn remove_from_server(&self) -> Result<(), PortError>;
}

/// What a run wants of a store.
#[async_trait]
pub trait Snapshots: Send + Sync + fmt::Debug {
    /// There is a backup that is whole, young enough and verified, proved by a restore where that is wanted, and WAL reaches
    /// the archive. Can be repeated.
    async fn ensure(&self, progress: Progress<'_>) -> Result<Basis, PortError>;
    /// The same with a backup that was not begun before `since`, beside everything else: `None` while it is under way. Dropped
    /// with this process, and begun anew by the next.
    async fn ensure_since(&self, since: Timestamp) -> Result<Option<Basis>, PortError>;
    /// Everything that blue has written so far is in the archive.
    async fn ensure_archived(&self) -> Result<ArchiveProof, PortError>;
    /// A restore to this restore point, whose record ends at `lsn`, can begin: everything is there and nothing is in its way.
    ///
    /// # Errors
    /// `Refused` with all that is in its way.
    async fn ensure_restorable(&self, point: &str, lsn: Lsn) -> Result<(), PortError>;
    /// Makes a server as blue was at this restore point, which stands there in recovery. Can be repeated, and goes on with what an
    /// earlier call left. `None`: it was promoted already.
    async fn restore(&self, point: &str, progress: Progress<'_>) -> Result<Option<Stands>, PortError>;
    /// The restored server is open for writing, on a timeline of its own. Can be repeated.
    async fn promote_restored(&self) -> Result<(), PortError>;
}

/// A restored server that stands at its point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// Folder and machine, for people.
    pub place: String,
    pub replayed: Lsn,
    pub last_commit: Option<Timestamp>,
}

/// What a change can be taken back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    pub backup: String,
    pub ended_at: Timestamp,
    /// The store, for people.
    pub place: String,
    /// How long a segment took into the archive.
    pub archived_ms: u64,
    /// What a restore would take, where one was ever measured.
    pub restore_ms: Option<u64>,
}

/// A backup that is whole, at most `age_max` old, and verified now; a new one is taken where there is none.
///
/// # Errors
/// As `take` and `verify`. A damaged backup is not passed over in silence: it is an error, since older ones may be
/// damaged too.
pub async fn ensure_backup(
    store: &dyn SnapshotStore,
    age_max: Duration,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Backup, PortError> {
    let young = |backup: &Backup| {
        let age = now.duration_since(backup.ended_at);
        backup.state == BackupState::Whole && Duration::try_from(age).unwrap_or_default() <= age_max
    };
    let Some(backup) = store.backups().await?.into_iter().rev().find(young) else { return store.take(progress).await };
    let held = store.tablespaces(&backup).await?;
    // Of an older one no restore comes past the making of a tablespace.
    if store.tablespaces_now().await?.iter().any(|now| !held.contains(now)) {
        return store.take(progress).await;
    }
    progress("verifying the backup", 0, 0);
    store.verify(&backup).await?;
    Ok(backup)
}

/// Writes down where the restore point of a run is: it need not be looked for in the log then. Blue's own timeline is that of
/// the newest backup before it.
///
/// # Errors
/// The store could not be read or written.
pub async fn note_point(store: &dyn SnapshotStore, name: &str, lsn: Lsn, at: Timestamp) -> Result<(), PortError> {
    let backups = store.backups().await?;
    let Some(backup) = newest_before(&backups, |backup| backup.stop <= lsn) else { return Ok(()) };
    store.notes().record(&Point { name: name.to_owned(), lsn, timeline: backup.timeline, at }).await
}

/// The newest whole backup from which recovery can come to `point`; `None`: every backup ended later.
pub fn newest_before(backups: &[Backup], before: impl Fn(&Backup) -> bool) -> Option<&Backup> {
    backups.iter().rev().find(|backup| backup.state == BackupState::Whole && before(backup))
}

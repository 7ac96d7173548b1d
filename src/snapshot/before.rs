//! What must be so before a run changes anything: a backup, its proof, and the archive at work.

use super::{ArchiveProof, Basis, Progress, SnapshotStore, Snapshots, ensure_backup, prove};
use crate::word::{Clock, Endpoint, PortError};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use std::{fmt, sync::Arc, time::Duration};

/// How long a segment may take into the archive.
pub const ARCHIVE_LIMIT: Duration = Duration::from_mins(2);

/// Looks at a restored server. Err: it is not as it must be.
pub type Look = Arc<dyn Fn(Endpoint) -> BoxFuture<'static, Result<(), PortError>> + Send + Sync>;

/// One run's wishes of a store.
pub struct BeforeChange {
    pub store: Arc<dyn SnapshotStore>,
    /// The server that is backed up, as Greenlight reaches it.
    pub server: Endpoint,
    pub age_max: Duration,
    /// The backup is restored to a throwaway server, at which this looks.
    pub prove: Option<Look>,
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for BeforeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeChange").field("store", &self.store).finish_non_exhaustive()
    }
}

#[async_trait]
impl Snapshots for BeforeChange {
    async fn ensure(&self, progress: Progress<'_>) -> Result<Basis, PortError> {
        // First, so that no WAL is missing between the backup and the archive.
        self.store.ensure_archiving().await?;
        let backup = ensure_backup(self.store.as_ref(), self.age_max, self.clock.now(), progress).await?;
        let archived = self.store.prove_archiving(ARCHIVE_LIMIT).await?;
        if let Some(look) = &self.prove {
            let look = look.clone();
            prove(self.store.as_ref(), &self.server, self.clock.as_ref(), progress, |at| look(at)).await?;
        }
        let estimate = self.store.notes().estimate().await?;
        let replay = archived.until.bytes_since(backup.stop);
        Ok(Basis {
            backup: backup.id,
            ended_at: backup.ended_at,
            place: self.store.place(),
            archived_ms: u64::try_from(archived.took.as_millis()).unwrap_or(u64::MAX),
            restore_ms: estimate.map(|estimate| estimate.of(backup.bytes, replay)),
        })
    }

    async fn ensure_archived(&self) -> Result<ArchiveProof, PortError> {
        self.store.prove_archiving(ARCHIVE_LIMIT).await
    }
}

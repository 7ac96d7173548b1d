//! What must be so before a run changes anything: a backup, its proof, and the archive at work.

use super::restore::{self, Place, RestorePlan, State, Target};
use super::{ArchiveProof, Basis, Progress, SnapshotStore, Snapshots, Stands, ensure_backup, note_point, prove};
use crate::word::{Clock, Endpoint, Lsn, PortError, Timestamp};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::Mutex, task::JoinHandle};

/// Between two tries of a backup that failed.
const RETRY: Duration = Duration::from_secs(30);

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
    /// Where the server is restored to, when the run is taken back so.
    pub restore_into: Option<Place>,
    pub clock: Arc<dyn Clock>,
    pub beside: Mutex<Beside>,
}

/// A backup that is taken beside everything else.
#[derive(Debug, Default)]
pub struct Beside {
    under_way: Option<JoinHandle<Result<Basis, PortError>>>,
    /// Why the last try failed, and when: told until one succeeds.
    failed: Option<(String, Duration)>,
}

impl fmt::Debug for BeforeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeChange").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What is asked for.
#[derive(Clone)]
struct Wish {
    store: Arc<dyn SnapshotStore>,
    server: Endpoint,
    age_max: Duration,
    prove: Option<Look>,
    clock: Arc<dyn Clock>,
}

impl Wish {
    async fn fulfil(&self, progress: Progress<'_>) -> Result<Basis, PortError> {
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
}

fn to(point: &str) -> Target {
    Target::Point(point.to_owned())
}

impl BeforeChange {
    fn place(&self) -> Result<&Place, PortError> {
        let nowhere = || PortError::refused("restore blue").because("the plan names no place for it");
        self.restore_into.as_ref().ok_or_else(nowhere)
    }

    async fn plan_restore(&self, point: &str) -> Result<RestorePlan, PortError> {
        restore::check(self.store.as_ref(), &to(point), None, self.place()?, self.clock.now()).await
    }

    fn wish(&self, age_max: Duration) -> Wish {
        Wish {
            store: self.store.clone(),
            server: self.server.clone(),
            age_max,
            prove: self.prove.clone(),
            clock: self.clock.clone(),
        }
    }
}

#[async_trait]
impl Snapshots for BeforeChange {
    async fn ensure(&self, progress: Progress<'_>) -> Result<Basis, PortError> {
        self.wish(self.age_max).fulfil(progress).await
    }

    async fn ensure_since(&self, since: Timestamp) -> Result<Option<Basis>, PortError> {
        let mut beside = self.beside.lock().await;
        let now = self.clock.monotonic();
        match beside.under_way.take_if(|task| task.is_finished()) {
            Some(ended) => match ended.await.unwrap_or_else(|error| Err(PortError::transient("take a backup").because(error))) {
                Ok(basis) => return Ok(Some(basis)),
                Err(error) => beside.failed = Some((error.chain(), now)),
            },
            None if beside.under_way.is_none()
                && beside.failed.as_ref().is_none_or(|(_, at)| now.saturating_sub(*at) >= RETRY) =>
            {
                let age_max = Duration::try_from(self.clock.now().duration_since(since)).unwrap_or_default();
                let wish = self.wish(age_max);
                beside.under_way = Some(tokio::spawn(async move { wish.fulfil(&|_, _, _| ()).await }));
            }
            None => {}
        }
        match &beside.failed {
            Some((why, _)) => Err(PortError::transient("take a backup").because(why.clone())),
            None => Ok(None),
        }
    }

    async fn ensure_archived(&self) -> Result<ArchiveProof, PortError> {
        self.store.prove_archiving(ARCHIVE_LIMIT).await
    }

    async fn ensure_restorable(&self, point: &str, lsn: Lsn) -> Result<(), PortError> {
        note_point(self.store.as_ref(), point, lsn, self.clock.now()).await?;
        let plan = self.plan_restore(point).await?;
        if plan.problems.is_empty() {
            return Ok(());
        }
        Err(PortError::refused("see that blue can be restored to just before the run").because(plan.problems.join("; ")))
    }

    async fn restore(&self, point: &str, progress: Progress<'_>) -> Result<Option<Stands>, PortError> {
        let place = self.place()?;
        if place.marker().await.is_ok_and(|marker| marker.state == State::Promoted && marker.target == to(point)) {
            return Ok(None);
        }
        let plan = self.plan_restore(point).await?;
        let done = restore::recover(self.store.as_ref(), &plan, &self.server, false, self.clock.as_ref(), progress).await?;
        self.store.notes().set_estimate(&done.measured).await?;
        let place = format!("{} on {}", place.data_dir.display(), place.host.spec);
        Ok(Some(Stands { place, replayed: done.replayed, last_commit: done.last_commit }))
    }

    async fn promote_restored(&self) -> Result<(), PortError> {
        restore::promote(self.place()?, &self.server).await
    }
}

impl Drop for BeforeChange {
    fn drop(&mut self) {
        if let Some(task) = self.beside.get_mut().under_way.take() {
            task.abort();
        }
    }
}

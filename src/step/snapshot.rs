//! Before anything is changed: a backup that is whole and verified, and the archive at work. Without them the only way back
//! from a mistake that every server has applied is gone.

use super::{Observed, Progress, Step, StepContext};
use crate::run::Fact;
use crate::snapshot::Snapshots;
use crate::word::PortError;
use async_trait::async_trait;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Snapshot;

#[async_trait]
impl Step for Snapshot {
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // What a crash left of a backup is listed as abandoned by the store, and looked at by nobody.
        let known = cx.run().facts.iter().any(|fact| matches!(fact, Fact::BackedUp { .. }));
        Ok(if known { Observed::Complete } else { Observed::Absent })
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let snapshots = snapshots(cx)?;
        let told = cx.progress;
        let progress = move |what: &str, done: u64, all: u64| told(&copied(what, done, all));
        let basis = snapshots.ensure(&progress).await?;
        cx.learn(Fact::BackedUp {
            backup: basis.backup,
            ended_at: basis.ended_at,
            place: basis.place,
            archived_ms: basis.archived_ms,
            restore_ms: basis.restore_ms,
        })
        .await?;
        Ok(Progress::Done)
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

pub(super) fn snapshots(cx: &StepContext<'_>) -> Result<Arc<dyn Snapshots>, PortError> {
    cx.ports.snapshots.clone().ok_or_else(|| PortError::refused("find the backups").because("the plan does not say where"))
}

/// Such as `copying: 12 of 400 MB`.
pub(super) fn copied(what: &str, done_bytes: u64, all_bytes: u64) -> String {
    match all_bytes {
        0 => what.to_owned(),
        all => format!("{what}: {} of {} MB", done_bytes >> 20, all >> 20),
    }
}

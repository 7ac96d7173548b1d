//! Does green apply what comes? A row that green's new constraints refuse stops its worker, which tries again and again.

use super::{Difference, Findings, Progress, Validator};
use crate::postgres::Server;
use crate::word::PortError;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct ApplyErrors {
    pub(super) green: Arc<dyn Server>,
    pub(super) flow: String,
    /// Errors at the last look, plus one; 0 before the first.
    pub(super) seen: AtomicU64,
}

#[async_trait]
impl Validator for ApplyErrors {
    fn name(&self) -> &'static str {
        "apply errors"
    }

    async fn check(&self, _: Progress<'_>) -> Result<Findings, PortError> {
        let difference = |what: String| Findings {
            differences: vec![Difference { object: "green's subscription".to_owned(), key: None, what }],
            ..Findings::default()
        };
        let Some(subscription) = self.green.subscription(&self.flow).await? else {
            return Ok(difference("it is gone".to_owned()));
        };
        let before = self.seen.swap(subscription.apply_errors + 1, Ordering::SeqCst);
        let why = subscription.last_error.map(|error| format!(": {error}")).unwrap_or_default();
        Ok(if !subscription.enabled {
            difference("it is disabled".to_owned())
        } else if before > 0 && subscription.apply_errors + 1 > before {
            difference(format!("{} errors since the last look{why}", subscription.apply_errors + 1 - before))
        } else if !subscription.streaming {
            difference(format!("it is not streaming{why}"))
        } else {
            Findings::default()
        })
    }
}

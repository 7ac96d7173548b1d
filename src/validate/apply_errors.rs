//! Does the side that follows apply what comes? A row that it refuses stops its worker, which tries again and again.

use super::{Difference, Findings, Progress, Validator, violations};
use crate::postgres::Server;
use crate::postgres::client::SessionOptions;
use crate::postgres::content;
use crate::schema::TableFlow;
use crate::word::{Clock, Endpoint, PortError, Side};
use async_trait::async_trait;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// The validator's name, by which the window finds it.
pub(super) const APPLY_ERRORS: &str = "apply errors";
/// How long the search for the rows may keep blue busy with one table, and how long its answer is good for.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);
const SEARCH_EVERY: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct ApplyErrors {
    /// The side that follows.
    pub(super) to: Side,
    pub(super) follower: Arc<dyn Server>,
    /// Of the side from which the rows come, and of the one that follows.
    pub(super) at: [Endpoint; 2],
    pub(super) application_name: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) flow: String,
    pub(super) tables: Vec<TableFlow>,
    /// Errors at the last look, plus one; 0 before the first.
    pub(super) seen: AtomicU64,
    /// When rows were last searched for, and those that were found.
    pub(super) searched: Mutex<Option<(Duration, Vec<Difference>)>>,
}

#[async_trait]
impl Validator for ApplyErrors {
    fn name(&self) -> &'static str {
        APPLY_ERRORS
    }

    async fn check(&self, _: Progress<'_>) -> Result<Findings, PortError> {
        let Some(subscription) = self.follower.subscription(&self.flow).await? else {
            return Ok(self.trouble("it is gone".to_owned()));
        };
        if !subscription.enabled {
            return Ok(self.trouble("it is disabled".to_owned()));
        }
        let before = self.seen.swap(subscription.apply_errors + 1, Ordering::SeqCst);
        let rises = before > 0 && subscription.apply_errors + 1 > before;
        if subscription.streaming && !rises {
            return Ok(Findings::default());
        }
        let mut differences = Vec::new();
        if subscription.apply_errors > 0 {
            differences = self.refused_rows().await.unwrap_or_else(|error| {
                tracing::warn!(error = %error.chain(), "could not look for the rows that {} refuses", self.to);
                Vec::new()
            });
        }
        if differences.is_empty() {
            let why = subscription.last_error.unwrap_or_else(|| format!("{}'s log says more", self.to));
            let errors = subscription.apply_errors;
            return Ok(self.trouble(format!("it does not apply what comes, after {errors} errors: {why}")));
        }
        Ok(Findings { differences, ..Findings::default() })
    }
}

impl ApplyErrors {
    fn trouble(&self, what: String) -> Findings {
        let difference = Difference { object: format!("{}'s subscription", self.to), key: None, what };
        Findings { differences: vec![difference], ..Findings::default() }
    }

    async fn refused_rows(&self) -> Result<Vec<Difference>, PortError> {
        let mut searched = self.searched.lock().await;
        let now = self.clock.monotonic();
        if let Some((at, found)) = searched.as_ref()
            && now.saturating_sub(*at) < SEARCH_EVERY
        {
            return Ok(found.clone());
        }
        let options = || SessionOptions::ours(&self.application_name, SEARCH_LIMIT, Duration::from_secs(2));
        let source = content::open(&self.at[0], options(), "the serving side").await?;
        let follower = content::open(&self.at[1], options(), "the side that follows").await?;
        let found = violations::find(&source, &follower, self.to, &self.tables).await?;
        *searched = Some((now, found.clone()));
        Ok(found)
    }
}

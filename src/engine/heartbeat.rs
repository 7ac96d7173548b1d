//! Keeps the lease while one call of a step lasts, and tells other processes what it is doing.

use super::{LEASE_TTL, records::Book};
use crate::journal::{Journal, JournalError};
use crate::word::{Clock, RunId};
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often it looks whether there is something to do.
const EVERY: Duration = Duration::from_secs(1);

/// The heartbeat of one call.
pub(super) struct Heartbeat<'a> {
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    id: RunId,
    epoch: u64,
    /// When the lease was last renewed.
    renewed: Duration,
    window_open: Arc<AtomicBool>,
    /// What the step last said, taken when it is written.
    said: &'a Mutex<Option<String>>,
    wrote: bool,
}

impl<'a> Heartbeat<'a> {
    pub(super) fn new(book: &Book, said: &'a Mutex<Option<String>>) -> Heartbeat<'a> {
        Heartbeat {
            journal: book.journal.clone(),
            clock: book.clock.clone(),
            id: book.id.clone(),
            epoch: book.epoch,
            renewed: book.renewed,
            window_open: book.window_open.clone(),
            said,
            wrote: false,
        }
    }

    /// Awaits the call, and renews the lease beside it. When the lease was last renewed.
    ///
    /// # Errors
    /// The lease is lost, or could not be renewed as long as it lasted. The call is dropped where it stands, as if this
    /// process had been killed: whoever takes the run over ends its sessions and looks how far it came.
    pub(super) async fn beside<T>(mut self, call: impl Future<Output = T>) -> Result<(T, Duration), JournalError> {
        let mut call = pin!(call);
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut call => break answer,
                beat = self.beat() => beat?,
            }
        };
        if self.wrote {
            // What is not done any more must not be shown. Nothing waits for it: a step that told something has just ended.
            self.write("").await;
        }
        Ok((answer, self.renewed))
    }

    async fn beat(&mut self) -> Result<(), JournalError> {
        self.clock.sleep(EVERY).await;
        let window_open = self.window_open.load(Ordering::SeqCst);
        // In the pause the journal is left to the commit point, as long as the lease has time.
        let due = if window_open { LEASE_TTL * 2 / 3 } else { LEASE_TTL / 3 };
        let now = self.clock.monotonic();
        if now.saturating_sub(self.renewed) >= due {
            match self.journal.renew_lease(&self.id, self.epoch, LEASE_TTL, self.clock.now()).await {
                Ok(()) => self.renewed = now,
                Err(error) if self.may_go_on(&error) => tracing::warn!(%error, "the lease could not be renewed, trying again"),
                Err(error) => return Err(error),
            }
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(text), false) = (said, window_open) {
            self.wrote = true;
            self.write(&text).await;
        }
        Ok(())
    }

    /// A journal that does not answer has given the lease to nobody, until it is over.
    fn may_go_on(&self, error: &JournalError) -> bool {
        let age = self.clock.monotonic().saturating_sub(self.renewed);
        matches!(error, JournalError::Unreachable { .. } | JournalError::NotWritten { .. }) && age + EVERY < LEASE_TTL
    }

    async fn write(&self, text: &str) {
        if let Err(error) = self.journal.set_progress(&self.id, text).await {
            tracing::debug!(%error, "the progress could not be stored");
        }
    }
}

//! A client like any other, which asks through the route while it is moved, and knows how long it waited.

use super::console::Session;
use crate::word::{Clock, Endpoint};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Between an answer and the next question.
const EVERY: Duration = Duration::from_millis(2);
/// Longer than any window's limit should be.
const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until it is told to stop, or dropped.
#[derive(Debug)]
pub(super) struct Client {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Option<Duration>>,
}

impl Client {
    pub(super) fn start(at: Endpoint, clock: Arc<dyn Clock>) -> Client {
        let stop = Arc::<AtomicBool>::default();
        let task = tokio::spawn(ask(at, clock, stop.clone()));
        Client { stop, task }
    }

    /// No further question.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// The longest wait, when it comes within `limit`.
    pub(super) async fn longest_wait(mut self, clock: &dyn Clock, limit: Duration) -> Option<Duration> {
        self.stop();
        tokio::select! {
            ended = &mut self.task => ended.ok().flatten(),
            () = clock.sleep(limit) => None,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `None` when a question was not answered.
async fn ask(at: Endpoint, clock: Arc<dyn Clock>, stop: Arc<AtomicBool>) -> Option<Duration> {
    let session = Session::open(&at, &*clock).await.ok()?;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::SeqCst) {
        let asked = clock.monotonic();
        session.query("SELECT 1", &*clock, PATIENCE).await.ok()?;
        longest = longest.max(clock.monotonic().saturating_sub(asked));
        clock.sleep(EVERY).await;
    }
    Some(longest)
}

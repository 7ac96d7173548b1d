use async_trait::async_trait;
use jiff::SignedDuration;
use std::{fmt, time::Duration};

/// A moment on the wall clock, in UTC.
pub type Timestamp = jiff::Timestamp;

/// The only source of time. Injected everywhere, so that the simulation can move it.
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock: for records, gates and messages; it may jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment, never going back: for limits and measurements.
    fn monotonic(&self) -> Duration;
    /// How far the wall clock was set since this process began, forwards or back. A machine that slept looks like one whose clock was
    /// set forwards.
    fn jumped(&self) -> SignedDuration;
    async fn sleep(&self, duration: Duration);
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
    started_at: Timestamp,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn new() -> SystemClock {
        SystemClock { started: std::time::Instant::now(), started_at: Timestamp::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn jumped(&self) -> SignedDuration {
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        self.now().duration_since(self.started_at).saturating_sub(passed)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

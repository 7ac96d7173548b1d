use async_trait::async_trait;
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
    async fn sleep(&self, duration: Duration);
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn new() -> SystemClock {
        SystemClock { started: std::time::Instant::now() }
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

    #[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

//! How far a long copy or replay has come, with the time left; to standard error.

use super::print::Spinner;
use crate::word::{Clock, SystemClock};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Meter {
    bar: Spinner,
    clock: SystemClock,
    /// What is being done now, and since when.
    phase: Mutex<(String, Duration)>,
}

impl Meter {
    pub(super) fn new() -> Meter {
        let bar = Spinner::new();
        bar.turn();
        Meter { bar, clock: SystemClock::new(), phase: Mutex::default() }
    }

    pub(super) fn tell(&self, what: &str, done: u64, all: u64) {
        let now = self.clock.monotonic();
        let since = {
            let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            if phase.0 != what {
                *phase = (what.to_owned(), now);
            }
            phase.1
        };
        self.bar.say(&line(what, done, all, now.saturating_sub(since)));
    }

    pub(super) fn clear(&self) {
        self.bar.clear();
    }
}

fn line(what: &str, done: u64, all: u64, took: Duration) -> String {
    if done == 0 || all == 0 {
        return what.to_owned();
    }
    let (done, all) = (u128::from(done), u128::from(all.max(done)));
    let left = took.as_millis() * (all - done) / done;
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
    format!("{what}: {} of {} MiB, about {} s left", done >> 20, all >> 20, left.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_pace() {
        assert_eq!(line("copying", 1 << 30, 3 << 30, Duration::from_secs(10)), "copying: 1024 of 3072 MiB, about 20 s left");
        assert_eq!(line("verifying", 0, 0, Duration::from_secs(10)), "verifying");
    }
}

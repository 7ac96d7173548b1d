//! Named places at which the live tests stop or kill the coordinator. Compiled in only with the feature `failpoints`; a
//! release has none.
//!
//! `GREENLIGHT_FAILPOINT=name:kill` ends the process as `kill -9` would, `name:stop` freezes it as `SIGSTOP` would.

/// Every place, so that a test can visit each of them.
pub const NAMES: &[&str] = &[
    "record-before",
    "record-after",
    "trial-on-green",
    "window-opened",
    "window-paused",
    "window-fenced",
    "window-drained",
    "window-before-commit",
    "freeze-replayed",
    "freeze-promoted",
    "freeze-migrated",
    "freeze-compared",
    "window-committed",
    "window-open",
    "window-repointed",
    "window-resumed",
    "settle-fenced",
    "settle-subscribed",
    "in-place-migrated",
    "in-place-reverted",
    "batch-done",
    "batches-last",
    "backup-begun",
    "backup-copied",
    "restore-claimed",
    "restore-fetched",
    "restore-started",
    "restored",
    "restored-promoted",
];

/// Does what the environment says for this place.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    #[expect(clippy::disallowed_methods, reason = "test builds only")]
    let Ok(wanted) = std::env::var("GREENLIGHT_FAILPOINT") else { return };
    let Some((place, what)) = wanted.rsplit_once(':') else { return };
    debug_assert!(NAMES.contains(&name.split('#').next().unwrap_or(name)), "an unlisted failpoint `{name}`");
    if place != name {
        return;
    }
    let signal = if what == "stop" { rustix::process::Signal::STOP } else { rustix::process::Signal::KILL };
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
}

/// Marks a place. Nothing in a release.
#[macro_export]
macro_rules! failpoint {
    ($name:expr) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name);
    };
}

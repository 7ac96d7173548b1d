//! Whole runs on real servers, driven through the `greenlight` program while clients write: cutovers and rollbacks, the
//! coordinator killed everywhere, servers that crash, and everything that must keep the window shut.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that cannot go on says where, starts and ends processes, polls, and says what it could not test"
)]

mod backrest;
mod batches;
mod clocks;
mod crashes;
mod freeze;
mod hazards;
mod hostile;
mod inplace;
mod kills;
mod pauses;
mod poolers;
mod provisional;
mod ready;
mod restored;
mod secrets;
mod versions;
mod world;

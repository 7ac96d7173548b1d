//! Backups, archived WAL and restores to a point in time, on real servers with every kind of store.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on says where, one that cannot begin why")]

mod failures;
mod hosts;
mod interrupted;
mod kept;
mod salvage;
mod tablespaces;
mod targets;
mod timelines;
mod world;

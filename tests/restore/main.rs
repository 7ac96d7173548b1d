//! Backups, archived WAL and restores to a point in time, on real servers with every kind of store.

mod failures;
mod targets;
mod world;

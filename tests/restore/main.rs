//! Backups, archived WAL and restores to a point in time, on real servers with every kind of store.

mod failures;
mod hosts;
mod interrupted;
mod kept;
mod salvage;
mod targets;
mod timelines;
mod world;

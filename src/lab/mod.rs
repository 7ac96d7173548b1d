//! Throwaway clusters for the demo, the tests and the benchmarks: real servers, started and removed here.
//!
//! A `World` is a blue primary, its physical standby green, and PgBouncers before them, below one folder; the `shop` is the
//! database in it; a `Ledger` is applications that write to it and remember what was acknowledged.
//!
//! **Invariant:** everything listens on 127.0.0.1, stands below the one folder that was made for it, and is gone when the
//! world goes down or is dropped.

mod ledger;
mod pooler;
mod session;
pub mod shop;
mod watcher;
mod workload;
mod world;

pub use watcher::Watcher;

pub use ledger::{Ledger, LedgerOptions, LedgerReport, Outcome, Request};
pub use pooler::find_pgbouncer;
pub use world::{Options, World};

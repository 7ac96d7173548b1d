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

pub use ledger::{Ledger, LedgerOptions, LedgerReport, Outcome, Request};
pub use pooler::find_pgbouncer;
pub use watcher::Watcher;
pub use world::{Options, World, free_port};

/// Settings of a server that writes down every statement with its parameters, and to which nobody should give a secret. The modules
/// come first, since they bring settings of their own.
pub const TALKATIVE: &[(&str, &str)] = &[
    ("shared_preload_libraries", "pg_stat_statements,auto_explain"),
    ("log_statement", "all"),
    ("log_min_duration_statement", "0"),
    ("log_min_duration_sample", "0"),
    ("log_statement_sample_rate", "1"),
    ("log_transaction_sample_rate", "1"),
    ("log_parameter_max_length", "-1"),
    ("log_parameter_max_length_on_error", "-1"),
    ("log_min_error_statement", "debug5"),
    ("pg_stat_statements.track", "all"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_nested_statements", "on"),
];

//! Drives the real engine and the real steps against a simulated world, with every fault at every call, and checks the
//! invariants after every effect.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::struct_excessive_bools,
    reason = "a test that cannot go on says where"
)]
#![expect(clippy::option_option, reason = "no call yet, no fault, or a fault")]

mod cases;
mod fault;
mod freezes;
mod harness;
mod inplaces;
mod invariants;
mod journal;
mod lasting;
mod pauses;
mod plan;
mod ports;
mod restores;
mod script;
mod seeds;
mod server;
mod sweep;
mod world;

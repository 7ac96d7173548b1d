//! The binary as an operator meets it, on real servers: every command by hand, and everything that a person gets wrong.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start programs, and say where they cannot go on and what they could not test"
)]

mod asked;
mod intruder;
mod lab;
mod life;
mod managers;
mod mistakes;
mod names;
mod standby;
mod trouble;
mod world;

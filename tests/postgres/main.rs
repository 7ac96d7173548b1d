//! The contract of `Server`, on real servers: everything is seen to work, and to be repeatable.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::disallowed_methods, reason = "real servers live in real time, which is waited for by looking")]

mod comparison;
mod convert;
mod fences;
mod flow;
mod login;
mod secrets;
mod small;
mod survey;
mod world;

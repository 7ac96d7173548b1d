//! Catalogue, shadow and runner, on real servers.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a panic is how a test fails")]

mod batches;
mod runner;
mod shadow;
mod world;

//! Catalogue, shadow and runner, on real servers.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod runner;
mod shadow;
mod world;

//! Catalogue, shadow and runner, on real servers.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on says where")]

mod runner;
mod shadow;
mod world;

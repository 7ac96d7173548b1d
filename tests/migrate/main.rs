//! Catalogue, shadow and runner, on real servers.

mod runner;
mod shadow;
mod world;

//! Routes: the connection targets that applications use. The port is `Router`; each kind of route has one file.
//!
//! Every call names a wanted state and can be repeated; `observe` reads it back. There is no toggle.

mod pgbouncer;

pub use pgbouncer::PgBouncer;

use crate::word::PortError;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Where a route sends its clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub database: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteState {
    /// By the route's own running state, not by its file.
    pub points_at: Target,
    pub paused: bool,
}

#[async_trait]
pub trait Router: Send + Sync + fmt::Debug {
    fn name(&self) -> &str;

    /// Opens and keeps whatever connections the window needs. Called ahead, so that the window opens none.
    async fn connect(&self) -> Result<(), PortError>;

    /// Reads the running state. Changes nothing.
    async fn observe(&self) -> Result<RouteState, PortError>;

    /// The part of the configuration that names the target, as text with which `put_back` restores it byte by byte.
    async fn original(&self) -> Result<String, PortError>;

    /// Makes the route fit to be paused without an error at a client (for PgBouncer: no server login under way).
    /// Before every pause; undone by `resume`.
    async fn settle(&self) -> Result<(), PortError>;

    /// No client of this route is inside a transaction, and new ones wait, when this returns. Err after `limit`: the
    /// route may be pausing still, so call `resume`.
    async fn pause(&self, limit: Duration) -> Result<(), PortError>;

    /// The route sends its clients to `target`, now and after a restart of the route.
    async fn point_at(&self, target: &Target) -> Result<(), PortError>;

    /// Clients that waited go on.
    async fn resume(&self) -> Result<(), PortError>;

    /// The longest that a client of our own, which asked through the route all the time from `settle` to `resume`, waited for
    /// an answer: a figure for the report. `None` where none asked, or where it got no answer.
    async fn client_wait(&self) -> Option<Duration> {
        None
    }

    /// Restores the configuration text that `original` gave.
    async fn put_back(&self, original: &str) -> Result<(), PortError>;

    /// Reads *through the route* who answers: the server's start time and port as `postgres::Server::signature` gives them.
    async fn who_answers(&self) -> Result<String, PortError>;
}

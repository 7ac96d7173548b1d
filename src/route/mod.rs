//! Routes: the connection targets that applications use. The port is `Router`; each kind of route has one file.
//!
//! Every call names a wanted state and can be repeated; `observe` reads it back. There is no toggle.

mod pgbouncer;

pub use pgbouncer::PgBouncer;

pub use crate::word::Target;

use crate::plan::Arrival;
use crate::word::PortError;
use async_trait::async_trait;
use std::{fmt, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteState {
    /// By the route's own running state, not by its file.
    pub points_at: Target,
    pub paused: bool,
}

/// What was seen at a target before anybody was led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// Who answered, as `who_answers` would say.
    pub answers: String,
    /// How the route's logins come in there.
    pub arrival: Arrival,
    /// Users of the route whom that server does not let in, each with the server's words.
    pub refused: Vec<(String, String)>,
    /// Users who were let in there.
    pub let_in: Vec<String>,
}

#[async_trait]
pub trait Router: Send + Sync + fmt::Debug {
    fn name(&self) -> &str;

    /// Opens and keeps whatever connections the window needs. Called ahead, so that the window opens none.
    async fn connect(&self) -> Result<(), PortError>;

    /// Reads the running state. Changes nothing.
    async fn observe(&self) -> Result<RouteState, PortError>;

    /// Makes the route fit to be paused without an error at a client (for PgBouncer: no server login under way).
    /// Before every pause; undone by `resume`.
    async fn settle(&self) -> Result<(), PortError>;

    /// No client of this route is inside a transaction, and new ones wait, when this returns. Err after `limit`: the
    /// route may be pausing still, so call `resume`.
    async fn pause(&self, limit: Duration) -> Result<(), PortError>;

    /// The route sends its clients to `target`, now and after a restart of the route.
    async fn point_at(&self, target: &Target) -> Result<(), PortError>;

    /// Tries all of `point_at` beside the clients, who notice nothing of it: the file that the route reads is changed and read
    /// again, and somebody at `target` answers through the route. Takes it all back before it returns. Err: the route could
    /// not be moved there.
    async fn rehearse(&self, target: &Target) -> Result<Rehearsal, PortError>;

    /// From here on a server that was away is tried again within a moment of its return, until `tidy` or until the route is
    /// started again.
    async fn hasten(&self) -> Result<(), PortError>;

    /// Nothing is left of a rehearsal that was killed, nor of `hasten`.
    async fn tidy(&self) -> Result<(), PortError>;

    /// Clients that waited go on.
    async fn resume(&self) -> Result<(), PortError>;

    /// The longest that a client of our own, which asked through the route all the time from `settle` to `resume`, waited for
    /// an answer: a figure for the report. `None` where none asked, or where it got no answer.
    async fn client_wait(&self) -> Option<Duration> {
        None
    }

    /// The process numbers, on the server, of the sessions through which this route serves its clients. `None`: it cannot tell.
    async fn server_pids(&self) -> Result<Option<Vec<i32>>, PortError> {
        Ok(None)
    }

    /// Reads *through the route* who answers: the server's start time and port as `postgres::Server::signature` gives them.
    async fn who_answers(&self) -> Result<String, PortError>;

    /// As whom the route logs in to its server for its clients, as far as it can be seen now. Not all need be roles there.
    async fn users(&self) -> Result<Vec<String>, PortError>;

    /// Why clients of this route are not served, where it shows. Changes nothing.
    async fn trouble(&self) -> Result<Option<String>, PortError>;
}

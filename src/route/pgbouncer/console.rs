//! Sessions with PgBouncer: with its admin console, which speaks the simple protocol only, and through it with a server.
//!
//! **Invariant:** every answer is waited for with a limit, and a session whose answer did not come is closed at once:
//! PgBouncer would otherwise give it the answer of a later command.

use crate::postgres::client::{self, SessionOptions};
use crate::postgres::failure;
use crate::word::{Clock, Endpoint, Failure, PortError};
use futures_util::future::{Either, select};
use std::{collections::HashMap, future::Future, pin::pin, time::Duration};
use tokio::task::JoinHandle;
use tokio_postgres::SimpleQueryMessage;

/// How long PgBouncer may take to let us in, or to answer a command that waits for nothing.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// One row of an answer: column name to text; a NULL is absent.
pub(super) type Row = HashMap<String, String>;

/// One open session. Dropping it closes the connection at once, whatever it waits for.
#[derive(Debug)]
pub(super) struct Session {
    client: tokio_postgres::Client,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without this the driver would keep the socket open until a PAUSE that waits has been answered.
        self.connection.abort();
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// PgBouncer, or the server behind it, answered with an error: nothing was done.
    Said(tokio_postgres::Error),
    /// The connection is lost: it may have been done.
    Lost(tokio_postgres::Error),
    /// No answer within the limit.
    Late(Duration),
}

impl NoAnswer {
    /// The error's own text, without severity and code.
    pub(super) fn text(&self) -> String {
        match self {
            NoAnswer::Said(error) | NoAnswer::Lost(error) => {
                error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
            }
            NoAnswer::Late(limit) => format!("no answer within {} ms", limit.as_millis()),
        }
    }
}

impl Session {
    /// # Errors
    /// `Transient` when nobody answers there, `Refused` when we are not let in.
    pub(super) async fn open(endpoint: &Endpoint, clock: &dyn Clock) -> Result<Session, PortError> {
        let options = SessionOptions::pgbouncer("greenlight");
        match within(clock, ANSWER_LIMIT, client::connect(endpoint, &options, "PgBouncer")).await {
            Some(connected) => connected.map(|(client, connection)| Session { client, connection }).map_err(explained),
            None => Err(PortError::transient(format!("connect to PgBouncer as `{endpoint}`"))
                .because(format!("no answer within {} s", ANSWER_LIMIT.as_secs()))),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Sends one command and returns the rows of its answer. After `Lost` and `Late` the session is of no more use.
    pub(super) async fn query(&self, sql: &str, clock: &dyn Clock, limit: Duration) -> Result<Vec<Row>, NoAnswer> {
        let answer = within(clock, limit, self.client.simple_query(sql)).await.ok_or(NoAnswer::Late(limit))?;
        let messages = answer.map_err(|error| match error.as_db_error() {
            // A FATAL error ends the session: the command before it may have been done.
            Some(db) if db.severity() == "ERROR" => NoAnswer::Said(error),
            _ => NoAnswer::Lost(error),
        })?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .filter_map(|(n, column)| Some((column.name().to_owned(), row.get(n)?.to_owned())))
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    }
}

/// PgBouncer gives nearly all of its errors one code, `08P01`, so that the text must tell.
fn explained(error: PortError) -> PortError {
    if failure::sqlstate(&error).is_none() {
        return error;
    }
    let text = error.chain();
    let (failure, hint) = if text.contains("no more connections allowed") || text.contains("shutting down") {
        (Failure::Transient, "PgBouncer takes no more clients now: look at `max_client_conn`")
    } else if text.contains("authentication failed") || text.contains("no such user") || text.contains("password") {
        (Failure::Refused, "check user and password against PgBouncer's `auth_file`")
    } else if text.contains("not allowed") {
        (Failure::Refused, "the user must be in `admin_users` of PgBouncer's configuration")
    } else {
        (Failure::Refused, "PgBouncer's log says more")
    };
    PortError { failure, ..error }.hint(hint)
}

/// What the future gives, or `None` when it has not within `limit`.
pub(super) async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), clock.sleep(limit)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// A name in a command of the admin console.
pub(super) fn quote_name(name: &str) -> String {
    crate::word::quote_ident(name)
}

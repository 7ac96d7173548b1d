//! Sessions with PgBouncer: with its admin console, which speaks the simple protocol only, and through it with a server.
//!
//! **Invariant:** every answer is waited for with a limit, and a session whose answer did not come is closed at once:
//! PgBouncer would otherwise give it the answer of a later command.

use crate::word::{Clock, Endpoint, PortError};
use futures_util::future::{Either, select};
use std::{collections::HashMap, future::Future, pin::pin, time::Duration};
use tokio::task::JoinHandle;
use tokio_postgres::{NoTls, SimpleQueryMessage};

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
            NoAnswer::Said(error) | NoAnswer::Lost(error) => said(error),
            NoAnswer::Late(limit) => format!("no answer within {} ms", limit.as_millis()),
        }
    }
}

fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

impl Session {
    /// # Errors
    /// `Transient` when nobody answers there, `Refused` when we are not let in.
    pub(super) async fn open(endpoint: &Endpoint, clock: &dyn Clock) -> Result<Session, PortError> {
        let attempted = format!("connect to PgBouncer as `{endpoint}`");
        match within(clock, ANSWER_LIMIT, connect(endpoint)).await {
            Some(Ok(session)) => Ok(session),
            Some(Err(error)) => Err(not_let_in(attempted, &error)),
            None => Err(PortError::transient(attempted).because(format!("no answer within {} s", ANSWER_LIMIT.as_secs()))),
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

/// The one place in which a connection is made.
async fn connect(endpoint: &Endpoint) -> Result<Session, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(&endpoint.host).port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database);
    config.application_name("greenlight").connect_timeout(ANSWER_LIMIT);
    if let Some(password) = &endpoint.password {
        config.password(password.expose());
    }
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session with PgBouncer ended");
        }
    });
    Ok(Session { client, connection })
}

/// PgBouncer gives nearly all of its errors one code, `08P01`, so that the text must tell.
fn not_let_in(attempted: String, error: &tokio_postgres::Error) -> PortError {
    let Some(db) = error.as_db_error() else {
        let failure = if error.to_string().contains("password missing") { PortError::refused } else { PortError::transient };
        let hint = "is PgBouncer running, and are host and port right?";
        return failure(attempted).because(deepest(error)).hint(hint);
    };
    let text = db.message();
    let code = db.code().code();
    if text.contains("no more connections allowed") || ["57P03", "53300"].contains(&code) || text.contains("shut") {
        return PortError::transient(attempted).because(text.to_owned());
    }
    let hint = if text.contains("authentication failed") || text.contains("no such user") || code.starts_with("28") {
        "check user and password against PgBouncer's `auth_file`"
    } else if text.contains("not allowed") {
        "the user must be in `admin_users` of PgBouncer's configuration"
    } else {
        "PgBouncer's log says more"
    };
    PortError::refused(attempted).because(text.to_owned()).hint(hint)
}

/// What the operating system said, below what the driver says.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", deepest(source)))
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

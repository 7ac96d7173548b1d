//! A session in which migrations run: as the application's own would, with the settings that Greenlight needs. And what a
//! statement's failure means.

use super::statements::{self, Statement};
use crate::postgres::client::PASS;
use crate::postgres::client::{SessionOptions, connect};
use crate::word::{Endpoint, Failure, PortError, Secret};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Error,
    error::{DbError, ErrorPosition, Severity},
};

/// Ends with its drop. No call has a limit: a migration may take hours.
pub(super) struct Session {
    pub(super) client: Client,
    connection: JoinHandle<()>,
}

impl Session {
    /// # Errors
    /// As `postgres::client::connect`: nothing has happened.
    pub(super) async fn open(endpoint: &Endpoint, application_name: &str, on: &str) -> Result<Session, PortError> {
        Session::with(endpoint, application_name, on, &[("synchronous_commit", "local")]).await
    }

    /// On a fenced green, with the run's pass.
    ///
    /// # Errors
    /// As `open`.
    pub(super) async fn open_behind_the_fence(
        endpoint: &Endpoint,
        application_name: &str,
        pass: &Secret,
    ) -> Result<Session, PortError> {
        let more = [("synchronous_commit", "local"), (PASS, pass.expose())];
        Session::with(endpoint, application_name, "green", &more).await
    }

    /// On blue, which serves: what is committed there waits for standbys as the server says.
    ///
    /// # Errors
    /// As `open`.
    pub(super) async fn open_where_it_serves(endpoint: &Endpoint, application_name: &str) -> Result<Session, PortError> {
        Session::with(endpoint, application_name, "blue", &[]).await
    }

    async fn with(
        endpoint: &Endpoint,
        application_name: &str,
        on: &str,
        more: &[(&'static str, &str)],
    ) -> Result<Session, PortError> {
        // Migrations name their tables as their authors do.
        let options = SessionOptions::for_applications(application_name, Duration::MAX).with("check_function_bodies", "on");
        let options = more.iter().fold(options, |options, (name, value)| options.with(name, value));
        let (client, connection) = connect(endpoint, &options, on).await?;
        Ok(Session { client, connection })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The error of a statement or COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Around {
    /// A transaction that is not committed: whatever was lost, nothing has happened.
    Transaction,
    /// Nothing, or COMMIT itself: a lost answer may have been a yes.
    Nothing,
}

/// What may have happened.
pub(super) fn failure(error: &Error, around: Around) -> Failure {
    let lost = match around {
        Around::Transaction => Failure::Transient,
        Around::Nothing => Failure::Uncertain,
    };
    let Some(db) = error.as_db_error() else { return lost };
    if matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
        return lost;
    }
    match db.code().code() {
        // Locked, deadlock, serialization, cancelled, in use; full; another server does not answer.
        "55P03" | "40P01" | "40001" | "57014" | "55006" | "57P03" => Failure::Transient,
        code if code.starts_with("53") || code.starts_with("08") => Failure::Transient,
        _ => Failure::Refused,
    }
}

/// Worth another try at once: somebody held a lock.
pub(super) fn is_locked(error: &Error) -> bool {
    error.code().is_some_and(|code| ["55P03", "40P01", "40001"].contains(&code.code()))
}

/// PostgreSQL's own words, with what it says of the place inside a function.
pub(super) fn said(error: &Error) -> String {
    let Some(db) = error.as_db_error() else { return lost(error) };
    let mut text = db.message().to_owned();
    for (word, more) in [("", db.detail()), ("hint: ", db.hint()), ("in ", db.where_())] {
        if let Some(more) = more {
            text = format!("{text}; {word}{}", more.replace('\n', ", "));
        }
    }
    format!("{text} [{}]", db.code().code())
}

fn lost(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The line of the file to which the error points: that of its position, or else where the statement begins.
pub(super) fn line_of(statement: &Statement, error: &Error) -> u32 {
    match error.as_db_error().and_then(DbError::position) {
        Some(ErrorPosition::Original(position)) => statements::line_at(statement, *position),
        Some(ErrorPosition::Internal { .. }) | None => statement.line,
    }
}

//! What a failed call to PostgreSQL means: may it have happened, and what can a person do about it?

use super::auth;
use crate::word::{Failure, PortError};
use std::{error::Error as _, fmt};
use tokio_postgres::error::{DbError, SqlState};

/// What the call was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only looks: whatever became of it, it may be repeated.
    Read,
    /// It changes the server.
    Change,
}

/// PostgreSQL's own words on one line, with the code by which callers tell errors apart.
#[derive(Clone, Debug)]
pub struct ServerError {
    pub code: String,
    text: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ServerError {}

/// The SQLSTATE of an error that PostgreSQL gave as its answer.
pub fn sqlstate(error: &PortError) -> Option<&str> {
    error.source()?.downcast_ref::<ServerError>().map(|server| server.code.as_str())
}

/// The error of a call in an open session.
pub fn of_call(attempted: impl Into<String>, effect: Effect, error: &tokio_postgres::Error) -> PortError {
    let failure = match (error.as_db_error(), effect) {
        (Some(db), _) => of_answer(db, effect),
        (None, Effect::Read) => Failure::Transient,
        (None, Effect::Change) => Failure::Uncertain,
    };
    let said = PortError::new(failure, attempted);
    let Some(db) = error.as_db_error() else { return said.because(chain(error)) };
    let hint = match db.code().code() {
        "42501" => Some("Greenlight's user needs more rights: the simplest is a superuser of its own".to_owned()),
        "53300" => Some("all connection slots are taken: raise `max_connections` or end sessions".to_owned()),
        "53200" => {
            Some("the server ran out of memory, or of room for locks: raise `max_locks_per_transaction` if it says so".to_owned())
        }
        "55P03" => Some("another session holds a lock on it, see `pg_locks`: it is tried again".to_owned()),
        _ => db.hint().map(str::to_owned),
    };
    PortError { hint, ..said.because(server_error(db)) }
}

/// The error of opening a session: nothing was sent, so nothing has happened.
pub fn of_connecting(attempted: impl Into<String>, error: &tokio_postgres::Error) -> PortError {
    let attempted = attempted.into();
    if let Some(db) = error.as_db_error() {
        let code = db.code().code();
        let failure = if code.starts_with("57P") { Failure::Transient } else { of_answer(db, Effect::Read) };
        let hint = match code {
            "28P01" => Some("the password is wrong, or the user does not exist: look at the URL"),
            "28000" => Some("`pg_hba.conf` of that server must let this user in from this machine"),
            "3D000" => Some("look at the database's name in the URL; `psql -l` lists what is there"),
            "55000" => Some(
                "a run fences a database so in its window, and for good when it is finished: `greenlight status` says which server \
                 serves. If no run has this one: ALTER DATABASE ... ALLOW_CONNECTIONS true, from another database",
            ),
            "53300" => Some("all connection slots are taken: raise `max_connections` or end sessions"),
            "57P03" => Some("the server is starting up or shutting down"),
            _ => None,
        };
        let said = PortError::new(failure, attempted).because(server_error(db));
        return PortError { hint: hint.map(str::to_owned), ..said };
    }
    let within = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).and_then(std::io::Error::get_ref);
    if let Some(refused) = within.and_then(|within| within.downcast_ref::<auth::NotAllowed>()) {
        return PortError::refused(attempted).because(refused.to_string()).hint(auth::HINT);
    }
    let text = chain(error);
    let (failure, hint) = if text.contains("does not support TLS") {
        let hint = "the server speaks no TLS: switch it on there, or write `sslmode=disable` in the URL if the way to it is safe";
        (Failure::Refused, Some(hint))
    } else if text.contains("certificate") {
        (Failure::Refused, Some("name the server's authority with `sslrootcert`, and the host as its certificate does"))
    } else if text.contains("password missing") {
        (Failure::Refused, Some("the server asks for a password: put one into the URL, or name a `passfile`"))
    } else if text.contains("lookup") || text.contains("resolve") {
        (Failure::Transient, Some("the host's name is not known: look at the URL"))
    } else if is_refused(error) {
        (Failure::Transient, Some("nothing listens there: is the server running, are host and port right?"))
    } else {
        (Failure::Transient, None)
    };
    PortError { hint: hint.map(str::to_owned), ..PortError::new(failure, attempted).because(text) }
}

fn is_refused(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound))
}

/// An error of severity `ERROR` took its statement back; a session that was ended may have lost the answer only.
fn of_answer(db: &DbError, effect: Effect) -> Failure {
    let code = db.code();
    let ended = db.severity() != "ERROR" || [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code);
    if ended && effect == Effect::Change && db.parsed_severity().is_none_or(is_fatal) {
        return Failure::Uncertain;
    }
    match code.code() {
        // Tuple concurrently updated: two changed one definition at once.
        "XX000" if db.message().starts_with("tuple concurrently") => Failure::Transient,
        // Not now: starting, full, locked, deadlock, in use, cancelled, another server does not answer.
        "57P03" | "55P03" | "40001" | "40P01" | "55006" | "57014" => Failure::Transient,
        code if code.starts_with("53") || code.starts_with("08") => Failure::Transient,
        code if ["42", "28", "0A", "3D", "3F", "22", "23", "25", "2B"].contains(&&code[..2]) => Failure::Refused,
        "55000" => Failure::Refused,
        _ if effect == Effect::Read => Failure::Transient,
        _ => Failure::Uncertain,
    }
}

fn is_fatal(severity: tokio_postgres::error::Severity) -> bool {
    use tokio_postgres::error::Severity;
    matches!(severity, Severity::Fatal | Severity::Panic)
}

fn server_error(db: &DbError) -> ServerError {
    let detail = db.detail().map_or(String::new(), |detail| format!(" ({})", detail.replace('\n', "; ")));
    ServerError { code: db.code().code().to_owned(), text: format!("{}{detail} [{}]", db.message(), db.code().code()) }
}

fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

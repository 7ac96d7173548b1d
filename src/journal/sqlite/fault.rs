//! Why the embedded journal did not do what was asked: what SQLite says, in words, and whether it is certain that nothing was
//! written.

use crate::journal::{JournalError, Locked};
use rusqlite::ErrorCode;

pub(super) const NO_ROOM: &str = "no space left in the state folder";

pub(super) fn lacks_room(cause: rusqlite::ffi::Error) -> bool {
    // SQLITE_IOERR_SHMSIZE: the file that its processes share could not be made as long as it must be.
    cause.code == ErrorCode::DiskFull || cause.extended_code == 4874
}

/// Why a piece of work failed: a reason of the contract, or the store itself.
pub(super) enum Fault {
    Contract(JournalError),
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// The store itself, and it is certain that nothing was written.
    Unwritten(Box<dyn std::error::Error + Send + Sync>),
    /// The store itself, and nobody knows what was written.
    Unsure(Box<dyn std::error::Error + Send + Sync>),
}

impl Fault {
    pub(super) fn into_error(self, attempted: impl FnOnce() -> String) -> JournalError {
        match self {
            Fault::Contract(error) => error,
            Fault::Unwritten(source) => JournalError::NotWritten { attempted: attempted(), source },
            Fault::Store(source) | Fault::Unsure(source) => JournalError::Unreachable { attempted: attempted(), source },
        }
    }
}

/// An error of SQLite in words, where its own say little.
pub(super) fn in_words(error: rusqlite::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error.sqlite_error() {
        Some(cause) if lacks_room(*cause) => NO_ROOM.into(),
        Some(cause) if cause.code == ErrorCode::DatabaseBusy => Locked.into(),
        _ => error.into(),
    }
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Fault {
        Fault::Contract(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Store(in_words(error))
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Fault {
        Fault::Store(error.into())
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        Fault::Store(error.into())
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Fault {
        Fault::Store(text.into())
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Fault {
        Fault::Store(text.into())
    }
}

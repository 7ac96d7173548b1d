use serde::{Deserialize, Serialize};
use std::{error::Error, fmt};

/// The one question asked of a failed call: what may have happened? In doubt, `Uncertain`: it costs one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nothing happened, and the same call may succeed later.
    Transient,
    /// Nothing happened, and the same call will not succeed until something changes.
    Refused,
    /// It may have happened. Observe before doing anything else.
    Uncertain,
}

/// The error that leaves every port. `attempted` is a fragment that reads after "could not":
/// what was tried, on what, without the cause, which is the source.
#[derive(Debug)]
pub struct PortError {
    pub attempted: String,
    pub failure: Failure,
    /// What to do about it, when that is known.
    pub hint: Option<String>,
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl PortError {
    pub fn new(failure: Failure, attempted: impl Into<String>) -> PortError {
        PortError { attempted: attempted.into(), failure, hint: None, source: None }
    }

    pub fn refused(attempted: impl Into<String>) -> PortError {
        PortError::new(Failure::Refused, attempted)
    }

    pub fn transient(attempted: impl Into<String>) -> PortError {
        PortError::new(Failure::Transient, attempted)
    }

    pub fn uncertain(attempted: impl Into<String>) -> PortError {
        PortError::new(Failure::Uncertain, attempted)
    }

    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> PortError {
        self.source = Some(source.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> PortError {
        self.hint = Some(hint.into());
        self
    }

    /// Several that failed, told as one: the first, and the others behind it. `Uncertain` when one of them is, and `Refused` only
    /// when all of them are.
    ///
    /// # Errors
    /// When there is one.
    pub fn all(parts: impl IntoIterator<Item = Result<(), PortError>>) -> Result<(), PortError> {
        let errors: Vec<PortError> = parts.into_iter().filter_map(Result::err).collect();
        let failure = [Failure::Uncertain, Failure::Transient, Failure::Refused]
            .into_iter()
            .find(|failure| errors.iter().any(|error| error.failure == *failure));
        let hints: Vec<String> = errors.iter().filter_map(|error| error.hint.clone()).collect();
        let besides: Vec<String> = errors.iter().skip(1).map(PortError::chain).collect();
        let (Some(first), Some(failure)) = (errors.into_iter().next(), failure) else { return Ok(()) };
        if besides.is_empty() {
            return Err(first);
        }
        let causes = first.chain();
        let causes = causes.strip_prefix(&format!("could not {}: ", first.attempted)).unwrap_or_default();
        let told = [
            Some(causes.to_owned()).filter(|causes| !causes.is_empty()),
            Some(format!("besides, {}", besides.join("; besides, "))),
        ];
        let all = PortError::new(failure, first.attempted).because(told.into_iter().flatten().collect::<Vec<_>>().join("; "));
        Err(if hints.is_empty() { all } else { all.hint(hints.join("; ")) })
    }

    /// The error and its causes on one line, for the journal and for a person.
    pub fn chain(&self) -> String {
        let mut text = format!("could not {}", self.attempted);
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempted)
    }
}

impl Error for PortError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

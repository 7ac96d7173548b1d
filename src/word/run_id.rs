use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Names a run: eight lower-case letters or digits, beginning with a letter, so that it can be part of the names of
/// slots, publications and subscriptions (slots allow only lower-case letters, digits and underscores).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// A new, random name.
    pub fn random() -> RunId {
        RunId(format!("r{}", &uuid::Uuid::new_v4().simple().to_string()[..7]))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = String;

    fn from_str(text: &str) -> Result<RunId, String> {
        let valid = text.len() == 8
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if valid { Ok(RunId(text.to_owned())) } else { Err(format!("`{text}` is not the name of a run (such as `r1a2b3c4`)")) }
    }
}

impl TryFrom<String> for RunId {
    type Error = String;

    fn try_from(text: String) -> Result<RunId, String> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

use super::Secret;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a value that is not written down in the playbook comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `${env:NAME}`: the environment of the process.
    Env(String),
    /// `${file:/path}`: the file's content without the line end at its end.
    File(String),
}

/// A text that may hold references, such as `postgresql://app:${env:BLUE_PASSWORD}@db1/shop`. The text is stored in
/// plans and journals; what the references stand for never is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub String);

impl Template {
    /// The references in the text, in order. Err: what is wrong with the text.
    pub fn references(&self) -> Result<Vec<Reference>, String> {
        let mut found = Vec::new();
        self.replace(|reference| {
            found.push(reference.clone());
            Ok(String::new())
        })
        .map(|_| found)
    }

    /// The text with each reference replaced by what `look_up` gives for it.
    pub fn resolve(&self, look_up: impl FnMut(&Reference) -> Result<String, String>) -> Result<Secret, String> {
        self.replace(look_up).map(Secret::new)
    }

    fn replace(&self, mut look_up: impl FnMut(&Reference) -> Result<String, String>) -> Result<String, String> {
        let mut text = String::new();
        let mut rest = self.0.as_str();
        while let Some(start) = rest.find("${") {
            text.push_str(&rest[..start]);
            let inner = &rest[start + 2..];
            let end = inner.find('}').ok_or("`${` is not closed by `}`")?;
            let reference = match inner[..end].split_once(':') {
                Some(("env", name)) if !name.is_empty() => Reference::Env(name.to_owned()),
                Some(("file", path)) if !path.is_empty() => Reference::File(path.to_owned()),
                // Not repeated: it may be a part of a password.
                _ => {
                    return Err(
                        "what stands between `${` and `}` is not a reference; write `${env:NAME}` or `${file:/path}`".to_owned()
                    );
                }
            };
            text.push_str(&look_up(&reference)?);
            rest = &inner[end + 1..];
        }
        text.push_str(rest);
        Ok(text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_and_replaced() {
        let template = Template("a${env:X}b${file:/y}c".to_owned());
        assert_eq!(template.references().unwrap(), [Reference::Env("X".to_owned()), Reference::File("/y".to_owned())]);
        let resolved =
            template.resolve(|r| Ok(if *r == Reference::Env("X".to_owned()) { "1".to_owned() } else { "2".to_owned() }));
        assert_eq!(resolved.unwrap().expose(), "a1b2c");
        assert!(Template("${oops}".to_owned()).references().is_err());
        assert!(Template("${env:X".to_owned()).references().is_err());
    }
}

//! One database's entry in a PgBouncer configuration file: found, read and edited as text, byte by byte.
//!
//! It reads files as PgBouncer does (its `cfparser.c` and `loader.c`): a comment is a line that begins with `#` or `;`,
//! a value runs to the end of its line, parts of a connection string are separated by spaces, and a value in single
//! quotes writes a quote twice.
//!
//! **Invariant:** no I/O, and not one byte changes outside the entry that is named.

use std::ops::Range;

/// Why an entry cannot be used. Each text reads after "the entry".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryError {
    #[error("is not in the file")]
    Missing,
    #[error("is not in the file: the database is served by the entry `*`")]
    Wildcard,
    #[error("stands in the file {0} times")]
    Repeated(usize),
    #[error("is not valid UTF-8")]
    NotUnicode,
    #[error("is not a connection string that PgBouncer reads (near byte {0} of its value)")]
    Syntax(usize),
    #[error("names several hosts (`{0}`)")]
    SeveralHosts(String),
    #[error("cannot hold `{0}`: a line break has no place in a PgBouncer configuration")]
    LineBreak(String),
}

/// Where one entry stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the key's first byte to the value's last; without the spaces and the line end behind it.
    pub whole: Range<usize>,
    /// The connection string.
    value: Range<usize>,
    parts: Vec<Part>,
}

/// One `key=value` of a connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    key: String,
    /// Without quotes.
    value: String,
    /// Where the value is written in the file, quotes included.
    span: Range<usize>,
}

impl Entry {
    /// Finds the database's entry in the file and reads it.
    pub(super) fn find(file: &[u8], database: &str) -> Result<Entry, EntryError> {
        let mut found: Vec<Line> = Vec::new();
        let mut wildcard = false;
        for line in lines(file) {
            wildcard |= line.key == b"*";
            if line.key == database.as_bytes() && database != "*" {
                found.push(line);
            }
        }
        match found.as_slice() {
            [] if wildcard => Err(EntryError::Wildcard),
            [] => Err(EntryError::Missing),
            [line] => Entry::read(file, line),
            several => Err(EntryError::Repeated(several.len())),
        }
    }

    fn read(file: &[u8], line: &Line) -> Result<Entry, EntryError> {
        let text = std::str::from_utf8(&file[line.value.clone()]).map_err(|_| EntryError::NotUnicode)?;
        let parts = parts(text, line.value.start)?;
        let entry = Entry { whole: line.start..line.value.end, value: line.value.clone(), parts };
        match entry.get("host") {
            Some(host) if host.contains(',') => Err(EntryError::SeveralHosts(host.to_owned())),
            _ => Ok(entry),
        }
    }

    /// The value of a part; the last one counts where it is given more than once, as in PgBouncer.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.parts.iter().rfind(|part| part.key == key).map(|part| part.value.as_str())
    }

    /// The file with these parts of the entry set to these values, and nothing else changed.
    pub(super) fn with(&self, file: &[u8], wanted: &[(&str, &str)]) -> Result<Vec<u8>, EntryError> {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        // The value of the last part, where it is not quoted, would else run on into what is added.
        let mut added: Vec<String> = Vec::new();
        for &(key, value) in wanted {
            let written = quote_value(value)?;
            let mut given = self.parts.iter().filter(|part| part.key == key).peekable();
            if given.peek().is_none() {
                added.push(format!(" {key}={written}"));
            }
            edits.extend(given.filter(|part| part.value != value).map(|part| (part.span.clone(), written.clone())));
        }
        if !added.is_empty() {
            let end = self.value.end;
            edits.push((end..end, added.concat()));
        }
        edits.sort_by_key(|(span, _)| span.start);
        let mut edited = Vec::with_capacity(file.len() + 64);
        let mut at = 0;
        for (span, text) in edits {
            edited.extend_from_slice(&file[at..span.start]);
            edited.extend_from_slice(text.as_bytes());
            at = span.end;
        }
        edited.extend_from_slice(&file[at..]);
        Ok(edited)
    }

    /// The file with the whole entry replaced by another text of it.
    pub(super) fn replaced_by(&self, file: &[u8], original: &str) -> Vec<u8> {
        [&file[..self.whole.start], original.as_bytes(), &file[self.whole.end..]].concat()
    }
}

/// A `key = value` line of the section `[databases]`.
struct Line {
    key: Vec<u8>,
    start: usize,
    /// Without the spaces around it.
    value: Range<usize>,
}

/// The entries of `[databases]`. Lines before the first section count too: in a file that is included from inside the
/// section there is no section line at all.
fn lines(file: &[u8]) -> impl Iterator<Item = Line> {
    let mut in_databases = true;
    let mut at = 0;
    file.split_inclusive(|&byte| byte == b'\n').filter_map(move |raw| {
        let line_start = at;
        at += raw.len();
        let start = line_start + (raw.len() - raw.trim_ascii_start().len());
        let line = raw.trim_ascii();
        match line.first() {
            None | Some(b'#' | b';' | b'%') => None,
            Some(b'[') => {
                in_databases = line.starts_with(b"[databases]");
                None
            }
            Some(_) if !in_databases => None,
            Some(_) => {
                let (key, after_key) = key(line)?;
                let rest = &line[after_key..];
                let gap = rest.len() - rest.trim_ascii_start().len();
                if rest.get(gap) != Some(&b'=') {
                    return None;
                }
                let value = &rest[gap + 1..];
                let value_start = start + line.len() - value.trim_ascii_start().len();
                Some(Line { key, start, value: value_start..start + line.len() })
            }
        }
    })
}

/// The key at the beginning of a line, unquoted, and where it ends. Some versions of PgBouncer take a key in single
/// quotes, the manual promises double ones; a key with neither holds letters, digits and `_.-*` only.
fn key(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let quote = line[0];
    if quote != b'"' && quote != b'\'' {
        let end = line.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"_.-*".contains(byte)))?;
        return Some((line[..end].to_vec(), end));
    }
    let mut name = Vec::new();
    let mut at = 1;
    loop {
        match (line.get(at)?, line.get(at + 1)) {
            (&byte, Some(&next)) if byte == quote && next == quote => {
                name.push(quote);
                at += 2;
            }
            (&byte, _) if byte == quote => return Some((name, at + 1)),
            (&byte, _) => {
                name.push(byte);
                at += 1;
            }
        }
    }
}

/// The parts of a connection string that begins at `offset` of the file.
fn parts(text: &str, offset: usize) -> Result<Vec<Part>, EntryError> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize| {
        while bytes.get(at) == Some(&b' ') {
            at += 1;
        }
        at
    };
    let mut found = Vec::new();
    let mut at = skip(0);
    while at < bytes.len() {
        let key_end = bytes[at..].iter().position(|byte| b"= ".contains(byte)).map_or(bytes.len(), |n| at + n);
        let equals = skip(key_end);
        if key_end == at || bytes.get(equals) != Some(&b'=') {
            return Err(EntryError::Syntax(at));
        }
        let key = text[at..key_end].to_owned();
        let start = skip(equals + 1);
        let (value, end) = value(text, start).filter(|(value, _)| !value.is_empty()).ok_or(EntryError::Syntax(start))?;
        found.push(Part { key, value, span: offset + start..offset + end });
        at = skip(end);
    }
    Ok(found)
}

/// The value that begins at `start`, unquoted, and where it ends.
fn value(text: &str, start: usize) -> Option<(String, usize)> {
    let rest = &text[start..];
    let Some(quoted) = rest.strip_prefix('\'') else {
        let end = rest.find(' ').unwrap_or(rest.len());
        return Some((rest[..end].to_owned(), start + end));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '\'' {
            value.push(c);
        } else if chars.next_if(|&(_, next)| next == '\'').is_some() {
            value.push('\'');
        } else {
            return Some((value, start + 1 + at + 1));
        }
    }
    None
}

/// A value as a connection string writes it.
fn quote_value(value: &str) -> Result<String, EntryError> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(EntryError::LineBreak(value.to_owned()));
    }
    let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_.:/@%-".contains(c));
    Ok(if plain { value.to_owned() } else { format!("'{}'", value.replace('\'', "''")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "; dbs\n[pgbouncer]\napp = no entry\n\n[databases]\r\n  # app = host=commented\n\
        app   =  host = db1  port=5432 dbname='a ''b' pool_size=7  \r\nother = host=db9\nApp= \n";

    fn moved(file: &str, database: &str) -> String {
        let entry = Entry::find(file.as_bytes(), database).unwrap();
        let bytes = entry.with(file.as_bytes(), &[("host", "::1"), ("port", "6000"), ("dbname", "it's Ü")]).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_host_port_and_dbname_of_the_one_entry_change() {
        assert_eq!(
            moved(FILE, "app"),
            FILE.replace("host = db1  port=5432 dbname='a ''b'", "host = ::1  port=6000 dbname='it''s Ü'")
        );
    }

    #[test]
    fn missing_parts_are_added_at_the_end_of_the_entry() {
        assert_eq!(moved(FILE, "other"), FILE.replace("host=db9", "host=::1 port=6000 dbname='it''s Ü'"));
        assert_eq!(moved(FILE, "App"), FILE.replace("App= \n", "App= host=::1 port=6000 dbname='it''s Ü' \n"));
    }

    #[test]
    fn the_original_text_comes_back_byte_by_byte() {
        for database in ["app", "other", "App"] {
            let entry = Entry::find(FILE.as_bytes(), database).unwrap();
            let original = &FILE[entry.whole.clone()];
            let edited = moved(FILE, database);
            let now = Entry::find(edited.as_bytes(), database).unwrap();
            assert_eq!(now.replaced_by(edited.as_bytes(), original), FILE.as_bytes(), "{database}");
        }
    }

    #[test]
    fn the_parts_of_an_entry_are_read_without_their_quotes() {
        let entry = Entry::find(FILE.as_bytes(), "app").unwrap();
        assert_eq!(entry.get("host"), Some("db1"));
        assert_eq!(entry.get("dbname"), Some("a 'b"));
        assert_eq!(entry.get("pool_size"), Some("7"));
        assert_eq!(entry.get("user"), None);
        let twice = Entry::find(b"x = host=a host=b", "x").unwrap();
        assert_eq!(twice.get("host"), Some("b"));
        assert_eq!(twice.with(b"x = host=a host=b", &[("host", "c")]).unwrap(), b"x = host=c host=c");
    }

    #[test]
    fn keys_in_either_kind_of_quotes_are_found() {
        for file in ["\"we \"\"ird\" = host=a", "'we \"ird' = host=a"] {
            assert_eq!(Entry::find(file.as_bytes(), "we \"ird").unwrap().get("host"), Some("a"), "{file}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay_as_they_are() {
        let file = b"# \xE4\xFF\n[databases]\nx = host=a\n; \xE4\n";
        let edited = Entry::find(file, "x").unwrap().with(file, &[("host", "b")]).unwrap();
        assert_eq!(edited, b"# \xE4\xFF\n[databases]\nx = host=b\n; \xE4\n");
    }

    #[test]
    fn what_cannot_be_edited_safely_is_refused() {
        let find = |file: &str, database: &str| Entry::find(file.as_bytes(), database).map(|_| ());
        assert_eq!(find("[databases]\n", "x"), Err(EntryError::Missing));
        assert_eq!(find("[databases]\n* = host=a\n", "x"), Err(EntryError::Wildcard));
        assert_eq!(find("[databases]\n* = host=a\n", "*"), Err(EntryError::Wildcard));
        assert_eq!(find("x = host=a\nx = host=b", "x"), Err(EntryError::Repeated(2)));
        assert_eq!(find("x = host=a,b", "x"), Err(EntryError::SeveralHosts("a,b".to_owned())));
        assert_eq!(find("x = host=a port", "x"), Err(EntryError::Syntax(7)));
        assert_eq!(find("x = host='a", "x"), Err(EntryError::Syntax(5)));
        let entry = Entry::find(b"x = host=a", "x").unwrap();
        assert!(matches!(entry.with(b"x = host=a", &[("dbname", "a\nb")]), Err(EntryError::LineBreak(_))));
    }
}

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
    /// From the key's first byte to the value's last.
    whole: Range<usize>,
    /// Where the value is written in the file, quotes included.
    span: Range<usize>,
}

/// What a part of an entry is to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// This value, in whatever quotes it needs.
    Value(&'a str),
    /// Exactly these bytes, as `Entry::written` gave them; `None`: not there.
    Written(Option<&'a str>),
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

    /// The entry for every name that has none of its own.
    pub(super) fn fallback(file: &[u8]) -> Option<Entry> {
        let line = lines(file).filter(|line| line.key == b"*").last()?;
        Entry::read(file, &line).ok()
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

    /// How a part stands in the file, quotes included; `None` where the entry has no such part.
    pub(super) fn written(&self, file: &[u8], key: &str) -> Option<String> {
        let part = self.parts.iter().rfind(|part| part.key == key)?;
        Some(String::from_utf8_lossy(&file[part.span.clone()]).into_owned())
    }

    /// The file with these parts of the entry as they are wanted, and nothing else changed.
    pub(super) fn with(&self, file: &[u8], wanted: &[(&str, Wanted<'_>)]) -> Result<Vec<u8>, EntryError> {
        Ok(edited(file, self.edits(file, wanted)?))
    }

    fn edits(&self, file: &[u8], wanted: &[(&str, Wanted<'_>)]) -> Result<Vec<Edit>, EntryError> {
        let mut edits: Vec<Edit> = Vec::new();
        // The value of the last part, where it is not quoted, would else run on into what is added.
        let mut added: Vec<String> = Vec::new();
        for &(key, value) in wanted {
            let given: Vec<&Part> = self.parts.iter().filter(|part| part.key == key).collect();
            let written = match value {
                Wanted::Value(value) => quote_value(value)?,
                Wanted::Written(Some(written)) => written.to_owned(),
                Wanted::Written(None) => {
                    // With the one space that came with it.
                    let spaced = |at: usize| at - usize::from(at > 0 && file[at - 1] == b' ');
                    edits.extend(given.iter().map(|part| (spaced(part.whole.start)..part.whole.end, String::new())));
                    continue;
                }
            };
            if given.is_empty() {
                added.push(format!(" {key}={written}"));
            }
            let is_so = |part: &&&Part| match value {
                Wanted::Value(value) => part.value == value,
                Wanted::Written(_) => file[part.span.clone()] == *written.as_bytes(),
            };
            edits.extend(given.iter().filter(|part| !is_so(part)).map(|part| (part.span.clone(), written.clone())));
        }
        if !added.is_empty() {
            let end = self.value.end;
            edits.push((end..end, added.concat()));
        }
        Ok(edits)
    }

    /// The file with a change of the entry that PgBouncer shows and no client feels, and before it a second entry, `name`,
    /// which is the same but for where it leads: what is rehearsed. `limit`: of connections, another one than PgBouncer
    /// shows now.
    pub(super) fn rehearsed(
        &self,
        file: &[u8],
        name: &str,
        limit: u64,
        wanted: &[(&str, Wanted<'_>)],
    ) -> Result<Vec<u8>, EntryError> {
        let moved = self.with(file, wanted)?;
        // What was changed lies inside of the entry.
        let value = &moved[self.value.start..moved.len() - (file.len() - self.value.end)];
        let second = format!("{name} = {}\n", String::from_utf8_lossy(value));
        let line = file[..self.whole.start].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end = self.value.end;
        Ok(edited(file, vec![(line..line, second), (end..end, mark(limit))]))
    }
}

/// The file without what `Entry::rehearsed` added, whoever left it there.
pub(super) fn without_rehearsal(file: &[u8], database: &str, name: &str) -> Vec<u8> {
    let mut edits: Vec<Edit> = Vec::new();
    for line in lines(file) {
        if line.key == name.as_bytes() {
            let start = file[..line.start].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            let end = file[line.start..].iter().position(|&byte| byte == b'\n').map_or(file.len(), |at| line.start + at + 1);
            edits.push((start..end, String::new()));
        } else if line.key == database.as_bytes()
            // The blank before the mark is no part of the value where nothing else stands in the entry.
            && let Some(at) = line.value.end.checked_sub(mark(0).len()).filter(|at| *at + 1 >= line.value.start)
            && is_mark(&file[at..line.value.end])
        {
            edits.push((at..line.value.end, String::new()));
        }
    }
    edited(file, edits)
}

/// A limit of connections as nobody writes it, so that it is known again.
fn mark(limit: u64) -> String {
    format!(" max_db_connections={limit:012}")
}

fn is_mark(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b" max_db_connections=");
    digits.is_some_and(|digits| digits.len() == 12 && digits[0] == b'0' && digits.iter().all(u8::is_ascii_digit))
}

/// What takes the place of a part of the file.
type Edit = (Range<usize>, String);

fn edited(file: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|(span, _)| span.start);
    let mut edited = Vec::with_capacity(file.len() + 64);
    let mut at = 0;
    for (span, text) in edits {
        edited.extend_from_slice(&file[at..span.start]);
        edited.extend_from_slice(text.as_bytes());
        at = span.end;
    }
    edited.extend_from_slice(&file[at..]);
    edited
}

/// The files that this one includes, as it names them.
pub(super) fn includes(file: &[u8]) -> Vec<String> {
    let lines = file.split(|&byte| byte == b'\n').filter_map(|line| line.trim_ascii().strip_prefix(b"%include"));
    let named = lines.filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace));
    named.map(|rest| String::from_utf8_lossy(rest.trim_ascii()).into_owned()).filter(|name| !name.is_empty()).collect()
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
        found.push(Part { key, value, whole: offset + at..offset + end, span: offset + start..offset + end });
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
        let to = [("host", Wanted::Value("::1")), ("port", Wanted::Value("6000")), ("dbname", Wanted::Value("it's Ü"))];
        let bytes = entry.with(file.as_bytes(), &to).unwrap();
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
    fn what_was_written_comes_back_byte_by_byte() {
        let odd = "sock = port=5432 pool_size=3\nquoted= host='10.0.0.1'  port = 5432\n";
        for (file, database) in [(FILE, "app"), (FILE, "other"), (FILE, "App"), (odd, "sock"), (odd, "quoted")] {
            let entry = Entry::find(file.as_bytes(), database).unwrap();
            let written = ["host", "port", "dbname"].map(|key| (key, entry.written(file.as_bytes(), key)));
            let edited = moved(file, database);
            assert_ne!(edited, file);
            let now = Entry::find(edited.as_bytes(), database).unwrap();
            let back = written.each_ref().map(|(key, text)| (*key, Wanted::Written(text.as_deref())));
            assert_eq!(String::from_utf8(now.with(edited.as_bytes(), &back).unwrap()).unwrap(), file, "{database}");
        }
    }

    #[test]
    fn what_is_rehearsed_stands_beside_the_entry_and_goes_without_a_trace() {
        for (file, database) in [(FILE, "app"), (FILE, "App"), ("x=host=a max_db_connections=9", "x"), ("x =\nx2 = port=1", "x")]
        {
            let entry = Entry::find(file.as_bytes(), database).unwrap();
            let to = [("host", Wanted::Value("::1")), ("port", Wanted::Value("6000")), ("dbname", Wanted::Value("d"))];
            let tried = entry.rehearsed(file.as_bytes(), "gl_1", 10, &to).unwrap();
            let second = Entry::find(&tried, "gl_1").unwrap();
            assert_eq!(["host", "port", "dbname"].map(|key| second.get(key)), [Some("::1"), Some("6000"), Some("d")]);
            assert_eq!(second.get("pool_size"), entry.get("pool_size"));
            let now = Entry::find(&tried, database).unwrap();
            assert_eq!((now.get("max_db_connections"), now.get("host")), (Some("000000000010"), entry.get("host")));
            assert_eq!(String::from_utf8(without_rehearsal(&tried, database, "gl_1")).unwrap(), file);
            assert_eq!(without_rehearsal(file.as_bytes(), database, "gl_1"), file.as_bytes());
        }
    }

    #[test]
    fn included_files_are_named() {
        let file = b"%include a.ini\n  %include  /etc/b c.ini \n;%include d\n%includes e\n[databases]\n%include\n";
        assert_eq!(includes(file), ["a.ini", "/etc/b c.ini"]);
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
        assert_eq!(twice.with(b"x = host=a host=b", &[("host", Wanted::Value("c"))]).unwrap(), b"x = host=c host=c");
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
        let edited = Entry::find(file, "x").unwrap().with(file, &[("host", Wanted::Value("b"))]).unwrap();
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
        assert!(matches!(entry.with(b"x = host=a", &[("dbname", Wanted::Value("a\nb"))]), Err(EntryError::LineBreak(_))));
    }
}

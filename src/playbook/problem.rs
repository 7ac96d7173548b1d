//! What is wrong with a playbook, and how a person is shown it.
//!
//! **Invariant:** no password is shown: the source is masked before anything of it is kept.

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use serde::Serialize;
use std::{fmt, ops::Range};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// From 1. `None` where it is about the file as a whole.
    pub line: Option<usize>,
    /// In characters, from 1.
    pub column: Option<usize>,
    /// What is wrong there.
    pub what: String,
    /// What to write or do instead.
    pub help: Option<String>,
    #[serde(skip)]
    span: Option<Range<usize>>,
}

/// Everything that is wrong with one playbook, in the order of the file. Never empty when it is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The file's path as it was given.
    pub file: String,
    pub problems: Vec<Problem>,
    /// How many more there are than `problems` holds.
    pub more: usize,
    #[serde(skip)]
    source: String,
}

/// Nobody reads more of them; they would come of a file that is something else.
const PROBLEMS_MAX: usize = 100;

/// A problem whose place is not settled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub what: String,
    pub help: Option<String>,
    /// The part of a scalar's text that it is about.
    pub part: Option<Range<usize>>,
}

impl Flaw {
    pub(super) fn new(what: impl Into<String>) -> Flaw {
        Flaw { what: what.into(), help: None, part: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Flaw {
        self.help = Some(help.into());
        self
    }

    pub(super) fn part(mut self, part: Range<usize>) -> Flaw {
        self.part = Some(part);
        self
    }
}

impl Problems {
    pub(super) fn new(file: String, source: &str) -> Problems {
        Problems { file, problems: Vec::new(), more: 0, source: masked(source) }
    }

    pub(super) fn push(&mut self, flaw: Flaw, span: Option<Range<usize>>) {
        if self.problems.len() == PROBLEMS_MAX {
            self.more += 1;
            return;
        }
        let span = span.map(|span| first_line(&self.source, span));
        let place = span.as_ref().map(|span| line_and_column(&self.source, span.start));
        let problem = Problem { line: place.map(|p| p.0), column: place.map(|p| p.1), what: flaw.what, help: flaw.help, span };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn sort(&mut self) {
        self.problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
    }

    pub(super) fn place_of(&self, span: &Range<usize>) -> (usize, usize) {
        line_and_column(&self.source, span.start)
    }

    /// All problems as text, each with an excerpt of the file. `styled`: with colours.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let texts = self.problems.iter().map(|problem| {
            let title = Level::ERROR.primary_title(normalize_untrusted_str(&problem.what));
            let group = match &problem.span {
                Some(span) => title.element(self.excerpt(span)),
                None => title.element(Origin::path(self.file.as_str())),
            };
            let help = problem.help.as_ref().map(|help| Level::HELP.message(normalize_untrusted_str(help)));
            renderer.render(&[group.elements(help)])
        });
        let more = (self.more > 0).then(|| format!("... and {} more", self.more));
        texts.chain(more).collect::<Vec<_>>().join("\n\n")
    }

    /// The one line that a problem is about.
    fn excerpt(&self, span: &Range<usize>) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let begin = self.source[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.source[begin..].lines().next().unwrap_or("");
        let mark = AnnotationKind::Primary.span(span.start - begin..span.end - begin);
        Snippet::source(line).line_start(line_and_column(&self.source, span.start).0).path(self.file.as_str()).annotation(mark)
    }
}

/// Such as `12 problems in playbooks/shop.yaml`.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len() + self.more;
        write!(f, "{count} {} in {}", if count == 1 { "problem" } else { "problems" }, self.file)
    }
}

impl std::error::Error for Problems {}

/// A word of the file, for a message: shortened, without anything that would move a terminal's cursor.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let shown: String =
        text.chars().take(SHOWN_MAX).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(SHOWN_MAX).is_some() { format!("`{shown}...`") } else { format!("`{shown}`") }
}

/// Why a file could not be read, for a person.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it is not there".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        kind => kind.to_string(),
    }
}

/// The span as far as its first line goes, on the boundaries of characters.
fn first_line(source: &str, span: Range<usize>) -> Range<usize> {
    let start = floor(source, span.start);
    let end = floor(source, span.end.max(start));
    let line_end = source[start..end].find(['\n', '\r']).map_or(end, |newline| start + newline);
    start..line_end
}

fn floor(source: &str, at: usize) -> usize {
    source.floor_char_boundary(at.min(source.len()))
}

fn line_and_column(source: &str, at: usize) -> (usize, usize) {
    let before = &source[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The source with all passwords in it replaced by stars, byte for byte, so that places stay what they are. Done on the
/// text, not on what was understood of it: a file with a mistake is shown too.
fn masked(source: &str) -> String {
    let mut text = source.to_owned();
    for (scheme_end, separator) in source.match_indices("://") {
        let begin = scheme_end + separator.len();
        let line = source[begin..].lines().next().unwrap_or("");
        let line = line.split("://").next().unwrap_or(line);
        let url = line.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')).next().unwrap_or(line);
        // A password that was not encoded may itself hold a space or a quote.
        let user_info = url.rsplit_once('@').or_else(|| line.rsplit_once('@')).map_or("", |(before, _)| before);
        if let Some((user, password)) = user_info.split_once(':') {
            mask(&mut text, begin + user.len() + 1, password);
        }
    }
    for (at, word) in source.to_ascii_lowercase().match_indices("password") {
        let rest = &source[at + word.len()..];
        if let Some(value) = rest.trim_start_matches([' ', '"', '\'']).strip_prefix(['=', ':']) {
            let value = value.trim_start_matches(' ');
            let (value, ends): (&str, &[char]) = match value.strip_prefix(['"', '\'']) {
                Some(inner) => (inner, &['"', '\'', '\n', '\r']),
                None => (value, &[' ', '"', '\'', '&', ',', '\n', '\r']),
            };
            mask(&mut text, source.len() - value.len(), value.split(ends).next().unwrap_or(value));
        }
    }
    text
}

fn mask(text: &mut String, at: usize, password: &str) {
    let only_reference = password.starts_with("${") && password.find('}') == Some(password.len() - 1);
    if !only_reference {
        text.replace_range(at..at + password.len(), &"*".repeat(password.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_a_url_stands() {
        let cases = [
            ("# postgresql://ada:päss@db1/x", "# postgresql://ada:*****@db1/x"),
            ("url: 'postgres://a:b:c@d@db1/x?y=1'", "url: 'postgres://a:*****@db1/x?y=1'"),
            ("url: postgresql://a:${env:P}@db1/x", "url: postgresql://a:${env:P}@db1/x"),
            ("url: postgresql://a:x${env:P}@db1/x", "url: postgresql://a:*********@db1/x"),
            (
                "url: postgresql://a@db1/x?password=geheim&sslmode=require",
                "url: postgresql://a@db1/x?password=******&sslmode=require",
            ),
            ("url: postgresql://a:two words@db1/x", "url: postgresql://a:*********@db1/x"),
            ("blue: {Password: 'two words', x: y}", "blue: {Password: '*********', x: y}"),
            ("url: host=db1 password=geheim user=a", "url: host=db1 password=****** user=a"),
            ("url: ${env:PASSWORD}", "url: ${env:PASSWORD}"),
            ("no: url at all @ home: x", "no: url at all @ home: x"),
        ];
        for (source, shown) in cases {
            assert_eq!(masked(source), shown);
        }
    }
}

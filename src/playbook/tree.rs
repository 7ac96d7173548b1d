//! YAML -> a tree in which everything knows its place. The one file that knows the YAML library.
//!
//! **Invariant:** no value is guessed: a scalar stays text until the playbook's shape says what it must be. What YAML
//! offers beyond lists, keys and scalars (anchors, aliases, tags, several documents) is a problem, not a feature.

use super::problem::{Flaw, quoted};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, options};
use std::ops::Range;

/// A playbook is a page or two. These stop a file that is none before it costs memory or stack.
pub(super) const BYTES_MAX: usize = 1 << 20;
const NODES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 32;

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Bytes of the source.
    pub span: Range<usize>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `plain`: written without quotes, so that it may be a number, a truth value or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Section(Vec<Entry>),
    /// Something that was reported when it was read.
    Bad,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Node {
    /// The node at the end of these keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| node.entry(key).map(|entry| &entry.node))
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Section(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// `key:` with nothing after it, or a YAML null.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads one document. What could be read comes back along with what is wrong with it; after a syntax error there is
/// no tree, since what follows an error cannot be told from its consequences.
pub(super) fn parse(source: &str) -> (Option<Node>, Vec<(Flaw, Range<usize>)>) {
    if source.len() > BYTES_MAX {
        let flaw = Flaw::new("the file is longer than 1 MiB").help("a playbook is a page or two; is this the right file?");
        return (None, vec![(flaw, 0..0)]);
    }
    let options = options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let parser = Parser::new_from_str_with_options(source, options);
    let mut reader = Reader { parser, source, nodes: 0, flaws: Vec::new() };
    match reader.document() {
        Ok(node) => (node, reader.flaws),
        Err(stop) => (None, stop.map_or(reader.flaws, |flaw| vec![flaw])),
    }
}

/// Why reading ended early; `None` where the reason is among the flaws.
type Stop = Option<(Flaw, Range<usize>)>;

struct Reader<'a, P> {
    parser: P,
    source: &'a str,
    nodes: usize,
    flaws: Vec<(Flaw, Range<usize>)>,
}

impl<'a, P: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> Reader<'a, P> {
    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentStart(..) if root.is_some() => {
                    let flaw = Flaw::new("a second document begins here").help("one file is one playbook: remove the line `---`");
                    self.flaws.push((flaw, span));
                    return Ok(root);
                }
                event if event.is_node() || matches!(event, Event::UnresolvedAlias(_)) => root = Some(self.node(event, span)?),
                _ => {}
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Range<usize>)>, Stop> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                let bytes = span.byte_range().unwrap_or(0..0);
                Ok(Some((event, bytes)))
            }
            Some(Err(error)) => Err(Some(syntax_error(&error, self.source))),
        }
    }

    /// The node that begins with `event`, to its end.
    fn node(&mut self, event: Event<'a>, span: Range<usize>) -> Result<Node, Stop> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Some((Flaw::new(format!("the file holds more than {NODES_MAX} values")), span)));
        }
        if event.tag().is_some() {
            self.flaws.push((Flaw::new("a tag (`!...`) means nothing in a playbook").help("remove it"), span.clone()));
        }
        if event.anchor_id().is_some() {
            let flaw = Flaw::new("an anchor (`&name`) means nothing in a playbook").help("remove it; write repeated values out");
            self.flaws.push((flaw, span.clone()));
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                Ok(Node { span, value: Value::Scalar { text: text.into_owned(), plain } })
            }
            Event::SequenceStart(..) => self.list(span.start),
            Event::MappingStart(..) => self.section(span.start),
            _ => {
                let flaw = Flaw::new("an alias (`*name`) means nothing in a playbook").help("write the value out");
                self.flaws.push((flaw, span.clone()));
                Ok(Node { span, value: Value::Bad })
            }
        }
    }

    fn list(&mut self, start: usize) -> Result<Node, Stop> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            match self.next()?.ok_or(None)? {
                (Event::SequenceEnd, end) => {
                    let end = items.last().map_or(end.end, |item| item.span.end);
                    return Ok(Node { span: start..end.max(start), value: Value::List(items) });
                }
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn section(&mut self, start: usize) -> Result<Node, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, key_span) = self.next()?.ok_or(None)?;
            if event == Event::MappingEnd {
                let end = entries.last().map_or(key_span.end, |entry| entry.node.span.end);
                return Ok(Node { span: start..end.max(start), value: Value::Section(entries) });
            }
            let key = self.node(event, key_span)?;
            let (event, span) = self.next()?.ok_or(None)?;
            let mut node = self.node(event, span)?;
            // An empty value has no place of its own: it is shown at its key.
            if node.span.is_empty() {
                node.span = key.span.clone();
            }
            match key.value {
                Value::Scalar { text, .. } if entries.iter().any(|entry| entry.key == text) => {
                    let flaw =
                        Flaw::new(format!("the key {} stands here a second time", quoted(&text))).help("keep one of the two");
                    self.flaws.push((flaw, key.span));
                }
                Value::Scalar { text, .. } => entries.push(Entry { key: text, key_span: key.span, node }),
                _ => self.flaws.push((Flaw::new("a key must be one word"), key.span)),
            }
        }
    }
}

fn syntax_error(error: &ScanError, source: &str) -> (Flaw, Range<usize>) {
    let at = error.marker().byte_offset().unwrap_or(0).min(source.len());
    let flaw = Flaw::new(format!("this is not YAML: {}", error.info()));
    let line_start = source.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = source.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or("");
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    let help = if indent.contains('\t') {
        "indent with spaces: YAML takes no tabs"
    } else {
        "everything after this place is unread; look at the indentation, quotes and brackets just before it"
    };
    (flaw.help(help), at..at)
}

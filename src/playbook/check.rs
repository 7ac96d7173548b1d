//! A tree against the playbook's JSON Schema: every deviation is a problem with its place, and none hides another.

use super::problem::{Flaw, Problems, quoted, reason};
use super::reference::{Environment, read_url};
use super::scalar;
use super::tree::{Node, Value};
use serde_json::{Map, Value as Json};
use std::{ops::Range, path::Path};

/// Checks one tree.
pub(super) struct Checker<'a> {
    pub source: &'a str,
    /// The playbook's folder, to which paths are relative.
    pub folder: &'a Path,
    pub environment: Environment<'a>,
    /// The whole playbook's schema.
    pub schema: &'a Json,
    pub problems: &'a mut Problems,
}

impl Checker<'_> {
    /// The node as JSON; whole only if no problem was found.
    pub(super) fn node(&mut self, node: &Node, schema: &Json, path: &str) -> Json {
        if matches!(node.value, Value::Bad) {
            return Json::Null;
        }
        if node.is_empty() {
            let help = format!("write a value{}, or remove the key where it is optional", example_of(schema));
            self.push(Flaw::new(format!("`{path}` has no value")).help(help), &node.span);
            return Json::Null;
        }
        let choices = schema["oneOf"].as_array();
        match schema["type"].as_str() {
            Some("object") => self.section(node, schema, path),
            Some("array") => self.list(node, schema, path),
            None if choices.is_some_and(|choices| choices.iter().all(|choice| choice["type"] == "object")) => {
                self.choice(node, choices.map_or(&[], Vec::as_slice), path)
            }
            _ => self.scalar(node, schema, path),
        }
    }

    pub(super) fn push(&mut self, flaw: Flaw, span: &Range<usize>) {
        self.problems.push(flaw, Some(span.clone()));
    }

    fn section(&mut self, node: &Node, schema: &Json, path: &str) -> Json {
        let Json::Object(known) = &schema["properties"] else { return Json::Null };
        let Value::Section(entries) = &node.value else {
            let flaw = Flaw::new(format!("{} must be a section with keys, not {}", named(path), kind_of(node)));
            self.push(flaw.help(format!("keys here: {}", words(known.keys()))), &node.span);
            return Json::Null;
        };
        let mut object = Map::new();
        for entry in entries {
            match known.get(&entry.key) {
                Some(schema) => {
                    let value = self.node(&entry.node, schema, &joined(path, &entry.key));
                    object.insert(entry.key.clone(), value);
                }
                None => self.unknown_key(&entry.key, &entry.key_span, known, path),
            }
        }
        let (mut conditions, mut more) = (schema, &Json::Null);
        // What a word decides that is misspelt is not known.
        while conditions["if"].is_object() && !is_misspelt(&conditions["if"], known, node) {
            conditions = &conditions[if holds(&conditions["if"], node) { "then" } else { "else" }];
            more = &conditions["required"];
        }
        for key in schema["required"].as_array().into_iter().chain(more.as_array()).flatten().filter_map(Json::as_str) {
            if !entries.iter().any(|entry| entry.key == key) {
                self.missing_key(key, &known[key], node, path);
            }
        }
        Json::Object(object)
    }

    fn unknown_key(&mut self, key: &str, span: &Range<usize>, known: &Map<String, Json>, path: &str) {
        let within = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        let help = match (scalar::nearest(key, known.keys()), home_of(key, self.schema, "")) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(home)) => format!("`{key}` belongs in {}", named(&home)),
            (None, None) => format!("keys here: {}", words(known.keys())),
        };
        self.push(Flaw::new(format!("unknown key {}{within}", quoted(key))).help(help), span);
    }

    fn missing_key(&mut self, key: &str, schema: &Json, node: &Node, path: &str) {
        let within = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        let about = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
        // Long ones are for editors.
        let about = if about.len() > 160 { about.split_inclusive(". ").next().unwrap_or_default() } else { &about };
        let write = match schema["type"].as_str() {
            Some("object") => {
                let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
                let keys = || schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
                format!("write `{key}:` and under it {}", words(if required.is_empty() { keys() } else { required }))
            }
            Some("array") => format!("write `{key}:` and under it a list, each entry with `- ` before it"),
            _ => format!("write `{key}: {}`", example(schema).unwrap_or_default()),
        };
        let place = node.span.start..node.span.start;
        self.push(
            Flaw::new(format!("the key `{key}` is missing{within}")).help(format!("{write}. {}", about.trim_end())),
            &place,
        );
    }

    fn list(&mut self, node: &Node, schema: &Json, path: &str) -> Json {
        let Value::List(items) = &node.value else {
            let flaw = Flaw::new(format!("`{path}` must be a list, not {}", kind_of(node)));
            self.push(flaw.help("write each entry on a line of its own, with `- ` before it"), &node.span);
            return Json::Null;
        };
        if schema["minItems"].as_u64().is_some_and(|least| (items.len() as u64) < least) {
            let flaw = Flaw::new(format!("`{path}` is an empty list"));
            self.push(flaw.help("write at least one entry, or remove the key where it is optional"), &node.span);
        }
        items.iter().map(|item| self.node(item, &schema["items"], path)).collect()
    }

    /// Exactly one of several keys, each with what belongs to it.
    fn choice(&mut self, node: &Node, choices: &[Json], path: &str) -> Json {
        let known: Map<String, Json> = choices
            .iter()
            .filter_map(|choice| choice["properties"].as_object())
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let Value::Section(entries) = &node.value else {
            let flaw = Flaw::new(format!("an entry of `{path}` must be a section, not {}", kind_of(node)));
            self.push(flaw.help(format!("it begins with one of: {}", words(known.keys()))), &node.span);
            return Json::Null;
        };
        let mut object = Map::new();
        for entry in entries {
            match known.get(&entry.key) {
                None => self.unknown_key(&entry.key, &entry.key_span, &known, path),
                Some(_) if !object.is_empty() => {
                    let flaw = Flaw::new(format!("`{}` is a second choice in the same entry of `{path}`", entry.key));
                    self.push(flaw.help("make it an entry of its own, with `- ` before it"), &entry.key_span);
                }
                Some(schema) => {
                    let value = self.node(&entry.node, schema, &joined(path, &entry.key));
                    object.insert(entry.key.clone(), value);
                }
            }
        }
        if entries.is_empty() {
            let flaw = Flaw::new(format!("an entry of `{path}` is empty"));
            self.push(flaw.help(format!("it begins with one of: {}", words(known.keys()))), &node.span);
        }
        Json::Object(object)
    }

    fn scalar(&mut self, node: &Node, schema: &Json, path: &str) -> Json {
        let Value::Scalar { text, plain } = &node.value else {
            let flaw = Flaw::new(format!("`{path}` must be a single value, not {}", kind_of(node)));
            self.push(flaw.help(format!("write one{}", example_of(schema))), &node.span);
            return Json::Null;
        };
        let (json, flaws) = match schema["type"].as_str() {
            Some("boolean") => of_one(boolean(text, *plain)),
            Some("integer") => of_one(integer(text, *plain, schema)),
            _ => (Json::String(text.clone()), self.text(text, schema)),
        };
        for flaw in flaws {
            let span = self.part(node, text, flaw.part.as_ref());
            self.push(Flaw { what: format!("`{path}`: {}", flaw.what), ..flaw }, &span);
        }
        json
    }

    /// What is wrong with a text.
    fn text(&self, text: &str, schema: &Json) -> Vec<Flaw> {
        let one = |result: Result<(), Flaw>| result.err().into_iter().collect();
        let format = schema["format"].as_str().unwrap_or_default();
        if format == scalar::SHADOW && text == super::ON_GREEN {
            return Vec::new();
        }
        if format == scalar::URL || format == scalar::SHADOW {
            return self.url(text);
        }
        if format == scalar::PEER_URL {
            return read_url(text, self.environment).flaws;
        }
        if let Some(at) = text.find("${env:").or_else(|| text.find("${file:")) {
            let end = text[at..].find('}').map_or(text.len(), |end| at + end + 1);
            let flaw =
                Flaw::new("a reference stands where none is looked up").help("references are for URLs; write the value itself");
            return vec![flaw.part(at..end)];
        }
        match format {
            scalar::DURATION => one(scalar::read_duration(text).map(|_| ())),
            scalar::SIZE => one(scalar::read_size(text).map(|_| ())),
            scalar::CLOCK => one(scalar::read_clock(text).map(|_| ())),
            scalar::RELATION => one(scalar::read_relation(text).map(|_| ())),
            scalar::ZONE => one(scalar::read_zone(text)),
            scalar::NAME => one(scalar::read_name(text)),
            scalar::OBJECT => one(scalar::read_object(text)),
            scalar::QUERY => one(scalar::read_query(text)),
            scalar::ACCEPT => one(scalar::read_accept(text)),
            scalar::HOST => one(scalar::read_host(text).map(|_| ())),
            scalar::MIGRATIONS => one(migrations_folder(&self.folder.join(text))),
            scalar::FILE => one(existing_file(&self.folder.join(text))),
            scalar::PROGRAMS => one(programs_folder(&self.folder.join(text))),
            scalar::NEW_FOLDER => one(absolute(text)),
            _ => one(word(text, schema)),
        }
    }

    /// A URL that Greenlight itself uses: the files that it names must be here, under names that stay right wherever a later
    /// process that resumes the run is started.
    fn url(&self, text: &str) -> Vec<Flaw> {
        let mut url = read_url(text, self.environment);
        if let Some(endpoint) = &url.endpoint {
            let passfile = endpoint.passfile.as_deref().filter(|_| endpoint.password.is_none());
            let files = [endpoint.root_cert_file(), endpoint.client_cert.as_deref(), endpoint.client_key.as_deref(), passfile];
            for file in files.into_iter().flatten() {
                let flaw = if file.is_absolute() { existing_file(file).err() } else { absolute(&file.to_string_lossy()).err() };
                url.flaws.extend(flaw);
            }
        }
        url.flaws
    }

    /// The place of a part of a scalar, where its text stands in the file as it is; of the whole otherwise.
    fn part(&self, node: &Node, text: &str, part: Option<&Range<usize>>) -> Range<usize> {
        let written = self.source.get(node.span.clone()).unwrap_or_default();
        let quote = usize::from(written.starts_with(['"', '\'']));
        match part {
            Some(part) if written.get(quote..).is_some_and(|inner| inner.starts_with(text)) => {
                let begin = node.span.start + quote;
                begin + part.start..begin + part.end
            }
            _ => node.span.clone(),
        }
    }
}

/// Whether the word on which a condition depends is there, and none of those that the schema lists.
fn is_misspelt(condition: &Json, known: &Map<String, Json>, node: &Node) -> bool {
    let keys = condition["properties"].as_object().into_iter().flatten().map(|(key, _)| key);
    keys.filter_map(|key| Some((node.at(&[key])?.text()?, known.get(key)?))).any(|(text, schema)| word(text, schema).is_err())
}

/// Whether a section has the one value that a condition names. Of the kind that the playbook's schema has, and no other.
fn holds(condition: &Json, node: &Node) -> bool {
    let wanted = condition["properties"].as_object().into_iter().flatten();
    let mut wanted = wanted.map(|(key, value)| (key, value["const"].as_str()));
    wanted.any(|(key, value)| value.is_some() && node.at(&[key]).and_then(Node::text) == value)
}

fn of_one(result: Result<Json, Flaw>) -> (Json, Vec<Flaw>) {
    result.map_or_else(|flaw| (Json::Null, vec![flaw]), |json| (json, Vec::new()))
}

fn boolean(text: &str, plain: bool) -> Result<Json, Flaw> {
    let meant = match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    };
    match meant {
        Some(value) if plain && (text == "true" || text == "false") => Ok(Json::Bool(value)),
        Some(value) => {
            Err(Flaw::new(format!("{} is not a truth value", quoted(text))).help(format!("write `{value}`, without quotes")))
        }
        None => Err(Flaw::new(format!("{} is not a truth value", quoted(text))).help("write `true` or `false`")),
    }
}

fn integer(text: &str, plain: bool, schema: &Json) -> Result<Json, Flaw> {
    let digits: String = text.chars().filter(|c| !matches!(c, '_' | ',' | '\'' | ' ')).collect();
    let number = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let Some(number) = number else {
        return Err(Flaw::new(format!("{} is not a whole number", quoted(text))).help(format!("write one{}", example_of(schema))));
    };
    if !plain || digits != text {
        return Err(Flaw::new(format!("{} is not a number in YAML", quoted(text))).help(format!("write `{number}`")));
    }
    let allowed: Option<Vec<u64>> = schema["enum"].as_array().map(|values| values.iter().filter_map(Json::as_u64).collect());
    if let Some(allowed) = allowed {
        let help = format!("this Greenlight reads {}", words(allowed.iter().map(u64::to_string)));
        return if allowed.contains(&number) {
            Ok(number.into())
        } else {
            Err(Flaw::new(format!("`{number}` is not known here")).help(help))
        };
    }
    let least = schema["minimum"].as_u64().unwrap_or(0);
    let most = schema["maximum"].as_u64().unwrap_or(u64::MAX);
    if (least..=most).contains(&number) {
        Ok(number.into())
    } else {
        Err(Flaw::new(format!("`{number}` is out of range")).help(format!("write a number from {least} to {most}")))
    }
}

/// One of the words that the schema lists, if it lists any.
fn word(text: &str, schema: &Json) -> Result<(), Flaw> {
    let listed = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .chain(schema["oneOf"].as_array().into_iter().flatten().map(|choice| &choice["const"]));
    let known: Vec<&str> = listed.filter_map(Json::as_str).collect();
    if known.is_empty() || known.contains(&text) {
        return Ok(());
    }
    let help = match scalar::nearest(text, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of: {}", words(&known)),
    };
    Err(Flaw::new(format!("{} is not known here", quoted(text))).help(help))
}

fn migrations_folder(path: &Path) -> Result<(), Flaw> {
    let shown = quoted(&path.display().to_string());
    let entries = std::fs::read_dir(path).map_err(|error| {
        Flaw::new(format!("the folder {shown} cannot be read: {}", reason(&error)))
            .help("a path that is not absolute begins at the playbook's folder")
    })?;
    let any = entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".up.sql"));
    let flaw = || {
        Flaw::new(format!("there is no migration in {shown}"))
            .help("put files such as `0001_add_notes.up.sql` and `0001_add_notes.down.sql` there")
    };
    if any { Ok(()) } else { Err(flaw()) }
}

fn existing_file(path: &Path) -> Result<(), Flaw> {
    let shown = quoted(&path.display().to_string());
    // Opened and not only looked at: what cannot be read is as good as absent.
    let file = std::fs::File::open(path).and_then(|file| file.metadata());
    match file {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(Flaw::new(format!("{shown} is not a file")).help("name the file itself")),
        Err(error) => Err(Flaw::new(format!("the file {shown} cannot be read: {}", reason(&error)))
            .help("write the path of a file that this user can read")),
    }
}

fn programs_folder(path: &Path) -> Result<(), Flaw> {
    if path.join("pg_basebackup").is_file() {
        return Ok(());
    }
    let flaw = Flaw::new(format!("there is no `pg_basebackup` in {}", quoted(&path.display().to_string())));
    Err(flaw.help(
        "name the folder of blue's major version, such as `/usr/lib/postgresql/17/bin`, or remove the key to have it found",
    ))
}

fn absolute(text: &str) -> Result<(), Flaw> {
    let flaw = || Flaw::new(format!("{} is not an absolute path", quoted(text))).help("begin it with `/`");
    if text.starts_with('/') && text.len() > 1 { Ok(()) } else { Err(flaw()) }
}

fn kind_of(node: &Node) -> &'static str {
    match node.value {
        Value::Scalar { .. } => "a single value",
        Value::List(_) => "a list",
        Value::Section(_) => "a section with keys",
        Value::Bad => "this",
    }
}

fn named(path: &str) -> String {
    if path.is_empty() { "the playbook".to_owned() } else { format!("`{path}`") }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(|word| format!("`{}`", word.as_ref())).collect::<Vec<_>>().join(", ")
}

fn example(schema: &Json) -> Option<String> {
    let listed = schema["examples"]
        .get(0)
        .or_else(|| schema["enum"].get(0))
        .or_else(|| schema["oneOf"].get(0).and_then(|choice| choice.get("const")))?;
    Some(listed.as_str().map_or_else(|| listed.to_string(), str::to_owned))
}

fn example_of(schema: &Json) -> String {
    example(schema).map_or_else(String::new, |example| format!(" such as `{example}`"))
}

/// The section in which a key is known, for one that stands elsewhere.
fn home_of(key: &str, schema: &Json, path: &str) -> Option<String> {
    if let Some(known) = schema["properties"].as_object() {
        if known.contains_key(key) {
            return Some(path.to_owned());
        }
        return known.iter().find_map(|(name, schema)| home_of(key, schema, &joined(path, name)));
    }
    let inner = schema["oneOf"].as_array().into_iter().flatten().chain(schema.get("items"));
    inner.into_iter().find_map(|schema| home_of(key, schema, path))
}

//! The rules of the house that the compiler does not know, each as a test.
//!
//! A rule that has to give way gets an entry in `EXCEPTIONS` with its reason; an entry that is no longer needed fails.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

// --- layers ----------------------------------------------------------------------------------------------------------

/// A module and whom it may use.
struct Layer {
    module: &'static str,
    /// Modules of which it may use everything.
    whole: &'static str,
    /// Modules of which it may use the port and its data, never a type that implements a port and never a file behind it.
    ports: &'static str,
    /// What it must not name of the world outside this crate.
    never: &'static str,
}

const fn layer(module: &'static str, whole: &'static str, ports: &'static str, never: &'static str) -> Layer {
    Layer { module, whole, ports, never }
}

/// A function of its arguments: nothing is read, sent, printed or waited for.
const PURE: &str = "tokio:: tokio_postgres rusqlite tracing:: std::fs std::net std::process std::env std::io SystemClock";
/// The world is reached through ports only.
const NO_WORLD: &str = "tokio_postgres rusqlite std::fs std::net std::process std::env";

/// Names without behaviour, and marks for the tests.
const FOR_EVERYONE: &str = "word failpoint";

const LAYERS: &[Layer] = &[
    layer("word", "", "", NO_WORLD),
    layer("failpoint", "", "", ""),
    layer("process", "", "", "tokio_postgres rusqlite"),
    // What is decided, as data and functions of data.
    layer("schema", "", "migrate plan", PURE),
    layer("run", "schema plan", "", PURE),
    layer("plan", "schema run", "migrate postgres", PURE),
    layer("playbook", "schema plan", "migrate", "tokio:: tokio_postgres rusqlite std::net std::process std::env"),
    // Ports and what implements them. All may speak to a server through `postgres`, none knows another or a step.
    layer("postgres", "process schema plan", "migrate validate", "rusqlite"),
    layer("journal", "run plan", "", "tokio_postgres"),
    layer("migrate", "process schema plan postgres", "", "rusqlite"),
    layer("provider", "process schema plan postgres", "", "rusqlite"),
    layer("route", "process schema plan postgres", "", "rusqlite"),
    layer("validate", "process schema plan postgres", "", "rusqlite"),
    layer("snapshot", "process schema plan postgres", "", "rusqlite"),
    // What happens.
    layer("step", "schema plan run", "postgres migrate provider route validate snapshot", NO_WORLD),
    layer("engine", "schema plan run step", "journal postgres route provider", NO_WORLD),
    // The edge, which knows both sides.
    layer("lab", "process schema plan run playbook postgres migrate provider route validate snapshot journal engine", "", ""),
];

/// These bring everything together and may know everything.
const EDGE: &str = "cli serve wire main lib";

/// A use that the table forbids and that is right all the same: file, what it uses, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("src/engine/guard.rs", "process", "the guard is a second process of this very program"),
    ("src/engine/guard.rs", "std::process", "it is told the number of the process that it watches"),
];

#[test]
fn every_module_uses_only_what_its_layer_may() {
    let mut excused = BTreeSet::new();
    let mut complaints = Vec::new();
    for file in rust_files("src") {
        let module = module_of(&file);
        if words(EDGE).any(|edge| edge == module) {
            continue;
        }
        let Some(layer) = LAYERS.iter().find(|layer| layer.module == module) else {
            complaints.push(format!("{file}: `{module}` is in no layer; say in tests/tidy.rs whom it may use"));
            continue;
        };
        let text = production_text(&file);
        let uses = paths_into_the_crate(&text).into_iter().filter_map(|path| {
            let why_not = forbidden_use(layer, &path)?;
            Some((path, why_not))
        });
        let names = words(layer.never)
            .filter(|word| text.contains(word))
            .map(|word| (word.to_owned(), format!("`{module}` must not know that part of the world")));
        for (used, why_not) in uses.chain(names) {
            match EXCEPTIONS.iter().position(|(at, what, _)| *at == file && *what == used) {
                Some(exception) => {
                    excused.insert(exception);
                }
                None => complaints.push(format!("{file} uses `{used}`: {why_not}")),
            }
        }
    }
    for (no, (file, used, _)) in EXCEPTIONS.iter().enumerate() {
        if !excused.contains(&no) {
            complaints.push(format!("the exception for {file} to use `{used}` is no longer needed"));
        }
    }
    none(&complaints);
}

/// Why `layer` may not use `path`, such as `postgres::Server`.
fn forbidden_use(layer: &Layer, path: &str) -> Option<String> {
    let (module, item) = path.split_once("::").unwrap_or((path, "self"));
    if module == layer.module || words(FOR_EVERYONE).chain(words(layer.whole)).any(|allowed| allowed == module) {
        return None;
    }
    if !words(layer.ports).any(|port| port == module) {
        return Some(format!("`{}` does not know `{module}`", layer.module));
    }
    let item = item.split("::").next().unwrap_or(item);
    if item == "self" || item == "*" {
        return Some(format!("name what is used of `{module}`: its port, not what implements it"));
    }
    let folder = root().join("src").join(module);
    if folder.join(item).is_dir() || folder.join(format!("{item}.rs")).is_file() || implementors(module).contains(item) {
        return Some(format!("`{}` knows the port of `{module}`, not what implements it", layer.module));
    }
    None
}

/// The types in a module that implement a trait which its `mod.rs` declares.
fn implementors(module: &str) -> BTreeSet<String> {
    let folder = format!("src/{module}");
    let port = production_text(&format!("{folder}/mod.rs"));
    let traits: Vec<&str> = port.lines().filter_map(|line| line.strip_prefix("pub trait ")).map(first_name).collect();
    let mut found = BTreeSet::new();
    for file in rust_files(&folder) {
        for line in production_text(&file).lines() {
            if let Some((name, implementor)) = line.strip_prefix("impl ").and_then(|line| line.split_once(" for "))
                && traits.contains(&name)
            {
                found.insert(first_name(implementor).to_owned());
            }
        }
    }
    found
}

/// Every path that begins in this crate's root, without `crate::`, groups written out.
fn paths_into_the_crate(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "greenlight::"] {
        for (at, _) in text.match_indices(start) {
            let inside_a_name = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !inside_a_name {
                read_use_tree(&text[at + start.len()..], "", &mut found);
            }
        }
    }
    found
}

/// Reads one tree such as `plan::{Plan, StepName}` and returns what follows it.
fn read_use_tree<'a>(text: &'a str, prefix: &str, found: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            if rest.is_empty() || rest.starts_with('}') {
                return rest.get(1..).unwrap_or("");
            }
            rest = read_use_tree(rest, prefix, found);
            // What may still follow is ` as another_name`.
            rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    if let Some(rest) = rest.strip_prefix("::") {
        return read_use_tree(rest, &path, found);
    }
    found.insert(path);
    rest
}

#[test]
fn paths_are_read_from_every_form_of_use() {
    let text = "use crate::{plan::{Plan, Answer as A}, run};\nuse crate::word::*;\nfn f(x: crate::route::Target) {}\n";
    let paths = paths_into_the_crate(text);
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["plan::Answer", "plan::Plan", "route::Target", "run", "word::*"]);
}

#[test]
fn a_step_that_names_an_implementation_is_noticed() {
    let step = LAYERS.iter().find(|layer| layer.module == "step").unwrap();
    let engine = LAYERS.iter().find(|layer| layer.module == "engine").unwrap();
    assert_eq!(forbidden_use(step, "postgres::Server"), None);
    assert_eq!(forbidden_use(step, "word::Side"), None);
    assert!(forbidden_use(step, "postgres::programs::Installed").is_some());
    assert!(forbidden_use(step, "engine::Engine").is_some());
    assert!(forbidden_use(step, "postgres::*").is_some());
    assert_eq!(forbidden_use(engine, "journal::Journal"), None);
    assert!(forbidden_use(engine, "journal::SqliteJournal").is_some());
}

// --- sizes and words -------------------------------------------------------------------------------------------------

#[test]
fn no_file_has_more_than_600_lines_without_its_tests() {
    let long = rust_files("src").into_iter().filter_map(|file| {
        let lines = if is_test_file(&file) { 0 } else { without_tests(&read(&file)).lines().count() };
        (lines > 600).then(|| format!("{file} has {lines} lines; split it where its reader would"))
    });
    none(&long.collect::<Vec<_>>());
}

/// The other rules read a file up to its tests.
#[test]
fn unit_tests_stand_at_the_end_of_their_file() {
    let mut complaints = Vec::new();
    for file in rust_files("src") {
        let text = read(&file);
        let mut blocks = text.split("\n#[cfg(test)]\n").skip(1).filter(|block| {
            let declared = without_visibility(block.lines().find(|line| !line.starts_with("#[")).unwrap_or_default());
            !(declared.starts_with("mod ") && declared.ends_with(';'))
        });
        // Up to the brace that closes the module there must be nothing else at the margin.
        let ends_with_it = |block: &str| {
            let closing = block.lines().position(|line| line == "}");
            block.contains("mod ") && closing.is_some_and(|at| block.lines().skip(at + 1).all(str::is_empty))
        };
        if blocks.next().is_some_and(|block| !ends_with_it(block)) || blocks.next().is_some() {
            complaints.push(format!("{file}: `#[cfg(test)]` is for one module at the end, or one in a file of its own"));
        }
    }
    none(&complaints);
}

#[test]
fn nothing_unfinished_silenced_or_of_one_machine_is_committed() {
    let code = ["todo!(", "unimplemented!(", "#[ignore", "#[allow(", "#![allow(", "#[should_panic"];
    let notes = ["TODO", "FIXME", "XXX"];
    let places = ["/work/", "/home/"];
    let mut complaints = Vec::new();
    for file in text_files() {
        // Its table of these very words stands here, and others wrote these.
        if ["tests/tidy.rs", "LICENSE", "Cargo.lock"].contains(&file.as_str()) {
            continue;
        }
        for (no, line) in read(&file).lines().enumerate() {
            let found =
                places.iter().filter(|place| line.contains(*place)).chain(notes.iter().filter(|note| has_word(line, note)));
            let in_code = code.iter().filter(|word| has_extension(&file, "rs") && line.contains(*word));
            complaints.extend(found.chain(in_code).map(|word| format!("{file}:{}: `{word}`", no + 1)));
        }
    }
    none(&complaints);
}

#[test]
fn only_one_place_starts_programs() {
    let mut complaints = Vec::new();
    for file in rust_files("src").into_iter().filter(|file| file != "src/process.rs") {
        let text = production_text(&file);
        let found = ["Command::new(", ".env(", ".env_clear(", ".env_remove("].into_iter().filter(|word| text.contains(word));
        complaints.extend(
            found.map(|word| format!("{file}: `{word}`; `process::new_command` gives a program nothing of our environment")),
        );
    }
    none(&complaints);
}

#[test]
fn only_the_printing_file_of_the_command_line_prints() {
    let mut complaints = Vec::new();
    for file in rust_files("src").into_iter().filter(|file| file != "src/cli/print.rs") {
        let text = production_text(&file);
        let found = ["print!(", "println!("].into_iter().filter(|word| text.contains(word));
        complaints.extend(found.map(|word| format!("{file}: `{word}`")));
    }
    none(&complaints);
}

// --- sessions ----------------------------------------------------------------------------------------------------------

/// How a session with a server comes to be, and the files that may do it so. Whoever is not named uses `SessionOptions::ours`
/// or `reading`, in which nobody else's functions and operators are found by their names.
const SESSIONS: &[(&str, &[&str], &str)] = &[
    ("SessionOptions { application_name", &["src/postgres/client.rs"], "the constructors stand there"),
    ("with(\"search_path\"", &["src/postgres/client.rs"], "no session has a path of its own making"),
    (
        "Config::new()",
        &["src/postgres/client.rs", "src/lab/session.rs", "src/provider/server.rs"],
        "the lab's own servers; only a login",
    ),
    (".connect(", &["src/postgres/client.rs", "src/lab/session.rs", "src/provider/server.rs"], "as above"),
    ("client::connect", &["src/route/pgbouncer/console.rs"], "it is no PostgreSQL"),
    ("client::{SessionOptions, connect}", &["src/migrate/session.rs"], "no call of a migration has a limit"),
    (
        "SessionOptions::for_applications(",
        &[
            "src/migrate/session.rs",
            "src/validate/assertions.rs",
            "src/snapshot/salvage/compare.rs",
            "src/cli/lab/bench_restore.rs",
        ],
        "what somebody wrote for applications runs there, and every statement of our own is qualified",
    ),
    ("SessionOptions::untouched(", &["src/postgres/survey.rs", "src/postgres/probe.rs"], "to see what others find"),
    ("SessionOptions::pgbouncer(", &["src/route/pgbouncer/console.rs"], "it is no PostgreSQL"),
];

#[test]
fn every_session_comes_from_one_constructor() {
    let mut complaints = Vec::new();
    let mut used = BTreeSet::new();
    for file in rust_files("src") {
        let text = production_text(&file);
        for (how, files, why) in SESSIONS.iter().filter(|(how, ..)| opens(&text, how)) {
            if files.contains(&file.as_str()) {
                used.insert((*how, file.clone()));
            } else {
                complaints.push(format!("{file}: `{how}` stands only in {} ({why})", files.join(", ")));
            }
        }
    }
    for (how, files, _) in SESSIONS {
        let unused = files.iter().filter(|file| !used.contains(&(*how, (**file).to_owned())));
        complaints.extend(unused.map(|file| format!("{file} has no `{how}` any more")));
    }
    none(&complaints);
}

/// Ports have a `connect` of their own, without an argument.
fn opens(text: &str, how: &str) -> bool {
    text.match_indices(how).any(|(at, _)| !(how == ".connect(" && text[at + how.len()..].starts_with(')')))
}

// --- dependencies ------------------------------------------------------------------------------------------------------

/// A crate that is really compiled for this platform, with its licence. The lock file alone lists more: what an unused
/// optional feature of a dependency would bring.
struct Dependency {
    name: String,
    version: String,
    licence: String,
}

fn dependencies() -> Vec<Dependency> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let args = "tree --locked --offline --all-features --edges normal,build,dev --prefix none --format {p}|{l}|";
    let found: Vec<Dependency> = run(cargo, args)
        .lines()
        .filter_map(|line| {
            let mut parts = line.split('|');
            let mut package = parts.next()?.split(' ');
            let name = package.next()?.to_owned();
            let version = package.next()?.strip_prefix('v')?.to_owned();
            Some(Dependency { name, version, licence: parts.next()?.to_owned() })
        })
        .collect();
    assert!(found.len() > 50, "`cargo tree` printed something else than expected");
    found
}

#[test]
fn no_banned_crate_is_compiled() {
    let bans = quoted_after(&read("deny.toml"), "{ crate = ");
    assert!(bans.contains(&"backoff".to_owned()), "deny.toml was not understood");
    let mut complaints = BTreeSet::new();
    for dependency in dependencies() {
        for ban in &bans {
            let (name, below) = ban.split_once(":<").map_or((ban.as_str(), None), |(name, version)| (name, Some(version)));
            if dependency.name == name && below.is_none_or(|below| numbers(&dependency.version) < numbers(below)) {
                complaints.insert(format!("{name} {} is compiled; deny.toml says why it must not be", dependency.version));
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_licence_of_every_dependency_is_accepted() {
    let deny = read("deny.toml");
    let list = deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    let accepted = quoted_after(list, "");
    assert!(accepted.contains(&"MIT".to_owned()), "deny.toml was not understood");
    let complaints: BTreeSet<String> = dependencies()
        .into_iter()
        .filter(|dependency| !licence_is_met(&dependency.licence, &accepted))
        .map(|dependency| format!("{}: `{}`", dependency.name, dependency.licence))
        .collect();
    none(&complaints);
}

/// Whether a licence expression can be met with what is accepted. AND binds closer than OR; `/` is an old form of OR.
fn licence_is_met(expression: &str, accepted: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let met = any_is_met(&mut rest, accepted);
    met && rest.is_empty()
}

fn any_is_met(tokens: &mut &[&str], accepted: &[String]) -> bool {
    let mut met = all_are_met(tokens, accepted);
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        met |= all_are_met(tokens, accepted);
    }
    met
}

fn all_are_met(tokens: &mut &[&str], accepted: &[String]) -> bool {
    let mut met = true;
    loop {
        met &= match *tokens {
            ["(", rest @ ..] => {
                *tokens = rest;
                let inner = any_is_met(tokens, accepted);
                *tokens = tokens.get(1..).unwrap_or_default();
                inner
            }
            [licence, "WITH", exception, rest @ ..] => {
                *tokens = rest;
                accepted.contains(&format!("{licence} WITH {exception}"))
            }
            [licence, rest @ ..] => {
                *tokens = rest;
                accepted.iter().any(|one| one == licence)
            }
            [] => false,
        };
        let ["AND", rest @ ..] = *tokens else { return met };
        *tokens = rest;
    }
}

#[test]
fn licence_expressions_are_understood() {
    let accepted = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for met in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception"] {
        assert!(licence_is_met(met, &accepted), "{met}");
    }
    for unmet in ["GPL-3.0", "MIT AND GPL-3.0", "GPL-3.0 OR MIT AND MPL-2.0", "(MIT OR ISC) AND (GPL-3.0 OR AGPL-3.0)", ""] {
        assert!(!licence_is_met(unmet, &accepted), "{unmet}");
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(numbers("0.7.9") < numbers("0.7.18"));
    assert!(numbers("0.23.1") > numbers("0.23"));
    assert!(numbers("1.2.3+build") >= numbers("1.2.3"));
}

/// The numbers of a version, without what follows them.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap_or(version);
    plain.split('.').map(|part| part.parse().unwrap()).collect()
}

// --- what stands around the code -----------------------------------------------------------------------------------------

#[test]
fn the_readme_names_every_playbook() {
    let readme = read("README.md");
    let playbooks = files_below(&root().join("playbooks")).into_iter().filter(|file| has_extension(file, "yaml"));
    let missing = playbooks.filter(|file| !readme.contains(file)).map(|file| format!("{file} is not in the README"));
    none(&missing.collect::<Vec<_>>());
}

#[test]
fn the_readme_names_only_tests_that_exist() {
    let code: String = rust_files("tests").iter().chain(&rust_files("src")).map(|file| read(file)).collect();
    let readme = read("README.md");
    let guarantees = readme.split_once("\n## Guarantees").map_or("", |(_, rest)| rest.split("\n## ").next().unwrap_or(rest));
    let names = guarantees.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 2);
    let missing = names.filter(|name| !code.contains(&format!("fn {name}(")));
    none(&missing.collect::<Vec<_>>());
}

#[test]
fn the_changelog_has_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let text = read("CHANGELOG.md");
    assert!(text.contains(&format!("\n## {version}")), "CHANGELOG.md says nothing of {version}");
}

#[test]
fn the_lock_file_is_committed() {
    assert!(root().join("Cargo.lock").is_file());
    assert!(!read(".gitignore").lines().any(|line| line.trim_start_matches('/') == "Cargo.lock"));
}

#[test]
fn the_scripts_are_understood_by_their_shells() {
    run("sh", "-n dev");
    run("bash", "-n .ci/run");
}

// --- reading -----------------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file, its path given from the root.
fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("could not read {file}: {error}"))
}

/// Paths from the root, in order, of all files below a folder; none when it is absent. Without what programs keep there.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let made_by_a_tool = ["target", ".git", ".lab", ".greenlight"].iter().any(|name| folder == root().join(name));
        if made_by_a_tool || folder.join("CACHEDIR.TAG").exists() {
            continue;
        }
        for path in fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".git") {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn text_files() -> Vec<String> {
    let is_text = |file: &String| fs::read_to_string(root().join(file)).is_ok();
    files_below(root()).into_iter().filter(is_text).collect()
}

fn rust_files(folder: &str) -> Vec<String> {
    files_below(&root().join(folder)).into_iter().filter(|file| has_extension(file, "rs")).collect()
}

fn has_extension(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|found| found == extension)
}

/// `src/plan/gate.rs` and `src/plan.rs` are of `plan`.
fn module_of(file: &str) -> String {
    let mut parts = Path::new(file).components().skip(1);
    PathBuf::from(parts.next().unwrap().as_os_str()).with_extension("").to_str().unwrap().to_owned()
}

/// A file's text without its unit tests: the module at its end, and the declaration of one in a file of its own.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
        } else if lines.peek().is_some_and(|next| next.ends_with(';')) {
            lines.next();
        } else {
            break;
        }
    }
    kept
}

/// Whether a file is declared as a test by the one above it, as in `#[cfg(test)] mod flow_tests;`.
fn is_test_file(file: &str) -> bool {
    Path::new(file).ancestors().any(|path| {
        let (Some(name), Some(folder)) = (path.file_stem().and_then(|name| name.to_str()), path.parent()) else { return false };
        [folder.join("mod.rs"), folder.join("lib.rs"), folder.with_extension("rs")].iter().any(|above| {
            let text = fs::read_to_string(root().join(above)).unwrap_or_default();
            let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| rest.lines().next());
            declared.map(without_visibility).any(|line| line == format!("mod {name};"))
        })
    })
}

/// `mod x;` of `pub(super) mod x;`.
fn without_visibility(line: &str) -> &str {
    line.find("mod ").map_or(line, |at| &line[at..])
}

/// A file without its unit tests and without comments; nothing for a file that is all tests.
fn production_text(file: &str) -> String {
    if is_test_file(file) {
        return String::new();
    }
    let text = without_tests(&read(file));
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(' ').filter(|word| !word.is_empty())
}

fn first_name(text: &str) -> &str {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or(text)
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|one| one == word)
}

/// The texts in quotes that follow `start` on a line that is no comment.
fn quoted_after(text: &str, start: &str) -> Vec<String> {
    let opening = format!("{start}\"");
    text.lines()
        .map(str::trim_start)
        .filter_map(|line| line.strip_prefix(&opening)?.split('"').next().map(str::to_owned))
        .collect()
}

/// What a program printed, run in the root.
#[expect(clippy::disallowed_methods, reason = "no program of ours, and no secret in its arguments")]
fn run(program: &str, args: &str) -> String {
    let output = std::process::Command::new(program).args(args.split(' ')).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn none<'a, T: std::fmt::Display + 'a + ?Sized>(complaints: impl IntoIterator<Item = &'a T>) {
    let lines: Vec<String> = complaints.into_iter().map(|one| format!("  {one}")).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

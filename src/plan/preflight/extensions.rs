//! Extensions: their files on green's machine, and what they keep or do that replication does not see.

use super::{Look, fine, needs_accept, refused};
use crate::plan::Finding;
use crate::plan::figures::few;

/// Extensions that make tables, move rows or run jobs by themselves, and what that means for a run.
const AT_WORK: &[(&str, &str)] = &[
    ("age", "graphs are made of tables that it creates at run time; a new one on blue is not published"),
    ("bdr", "it replicates by itself and will do so on green as well"),
    ("citus", "shards live on other servers and are not part of this run"),
    ("pg_partman", "a partition that it makes on blue during the sync is drift and keeps the window shut: make them ahead"),
    ("pg_squeeze", "its worker rewrites tables on a promoted green too"),
    ("pglogical", "it replicates by itself and will do so on green as well"),
    ("pgmq", "a queue that is made on blue during the sync is drift and keeps the window shut"),
    ("pgq", "its ticker runs beside the database and has to be moved with it"),
    (
        "timescaledb",
        "a chunk that it makes on blue during the sync is not published, and its rows would not reach green; its jobs run on a promoted green too",
    ),
];

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let installed = &look.blue().catalog.extensions;
    let mut findings = Vec::new();
    if let Some(green) = look.green() {
        for name in installed.keys().filter(|name| !green.available_extensions.contains(name)) {
            let seen = format!("Extension {name} is used in the database and not installed on green's machine.");
            let remedy = format!("install the package with `{name}` on green's machine");
            findings.push(refused(format!("extension-missing:{name}"), seen, remedy));
        }
    }
    // pg_cron has a topic of its own.
    for name in installed.keys().filter(|name| *name != "pg_cron") {
        let at_work = AT_WORK.iter().find(|(known, _)| known == name).map(|(_, what)| *what);
        let has_rows = look.blue().extensions_with_rows.contains(name);
        let consequence = match (at_work, has_rows) {
            (Some(what), _) => what,
            (None, true) => "rows of its own tables that change after green is attached differ between the sides",
            (None, false) => continue,
        };
        let seen = format!("Extension {name} has a state of its own.");
        findings.push(needs_accept(format!("extension-state:{name}"), seen, consequence));
    }
    if findings.is_empty() {
        let names: Vec<&String> = installed.keys().collect();
        let seen = if names.is_empty() {
            "No extension is in use.".to_owned()
        } else {
            format!("Extensions without a state of their own: {}.", few(&names))
        };
        findings.push(fine("extensions", seen));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};

    fn with_extension(name: &str) -> World {
        World::with(|w| {
            w.blue().catalog.extensions.insert(name.to_owned(), "1.0".to_owned());
            w.green().available_extensions.push(name.to_owned());
        })
    }

    #[test]
    fn an_extension_without_its_files_on_green_is_refused() {
        assert_answers(&World::new(), "extensions", "fine");
        assert_answers(&with_extension("citext"), "extensions", "fine");
        let mut missing = with_extension("citext");
        missing.green().available_extensions.clear();
        assert_answers(&missing, "extension-missing:citext", "refused");
    }

    #[test]
    fn an_extension_with_a_state_of_its_own_needs_a_word() {
        assert_answers(&with_extension("timescaledb"), "extension-state:timescaledb", "needs_accept");
        let mut postgis = with_extension("postgis");
        postgis.blue().extensions_with_rows.push("postgis".to_owned());
        assert_answers(&postgis, "extension-state:postgis", "needs_accept");
        assert_answers(&with_extension("citext"), "extension-state:citext", "none");
    }
}

//! Functions that find their names by a search path. An apply worker has an empty one: what they call or read without its schema
//! is not found there, and the flow stops at the first row.

use super::super::statements::{self, WrittenName};
use super::scratch::refused;
use crate::word::PortError;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, Error};

/// Functions of the user's and of extensions that have no search path of their own, and whose bodies are read when they run.
const BODIES: &str = "SELECT format('%I.%I', n.nspname, p.proname), p.proname::text, pg_get_functiondef(p.oid), \
        EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%') \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
    WHERE p.prokind <> 'a' AND l.lanname IN ('plpgsql', 'sql') AND n.nspname NOT IN ('greenlight', 'pg_catalog', 'information_schema')";

/// What is found by a search path only: functions, then tables and views, of which PostgreSQL itself has none of the name.
const NAMES: &str = "SELECT p.proname::text, true FROM pg_proc p WHERE p.pronamespace NOT IN (SELECT oid FROM pg_namespace \
        WHERE nspname IN ('greenlight', 'pg_catalog', 'information_schema')) \
        AND NOT EXISTS (SELECT FROM pg_proc s WHERE s.proname = p.proname AND s.pronamespace = 'pg_catalog'::regnamespace) \
    UNION \
    SELECT c.relname::text, false FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') \
        AND c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname IN ('greenlight', 'pg_catalog', 'pg_toast', \
            'information_schema')) \
        AND NOT EXISTS (SELECT FROM pg_class s WHERE s.relname = c.relname AND s.relnamespace = 'pg_catalog'::regnamespace)";

struct Body {
    definition: String,
    has_path: bool,
}

/// By a function's name with its schema, as SQL: which names it would not find, each with its line.
pub(super) async fn read(look: &Client) -> Result<BTreeMap<String, Vec<String>>, PortError> {
    let failed = |e: Error| refused("read the functions in the shadow", &e);
    let (mut functions, mut relations) = (BTreeSet::new(), BTreeSet::new());
    for row in look.query(NAMES, &[]).await.map_err(failed)? {
        let (name, is_function): (String, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if is_function {
            functions.insert(name)
        } else {
            relations.insert(name)
        };
    }
    let mut bodies: BTreeMap<String, Vec<Body>> = BTreeMap::new();
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in look.query(BODIES, &[]).await.map_err(failed)? {
        let (whole, name): (String, String) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let body = Body { definition: row.try_get(2).map_err(failed)?, has_path: row.try_get(3).map_err(failed)? };
        named.entry(name).or_default().push(whole.clone());
        bodies.entry(whole).or_default().push(body);
    }
    let mut blind = BTreeMap::new();
    for function in bodies.keys() {
        let (mut missing, mut seen, mut todo) = (Vec::new(), BTreeSet::new(), vec![function.clone()]);
        while let Some(one) = todo.pop() {
            if !seen.insert(one.clone()) {
                continue;
            }
            // What is called by one with a search path of its own has that, too.
            for body in bodies[&one].iter().filter(|body| !body.has_path) {
                let effects = statements::of_function(&body.definition);
                let (called, read) = (effects.calls.iter(), effects.relations());
                let lost = called.clone().filter(|name| functions.contains(&name.name));
                let lost = lost.chain(read.iter().filter(|name| relations.contains(&name.name)).copied());
                missing.extend(lost.filter(|name| name.schema.is_none()).map(|name| place(&one, &body.definition, name)));
                let known = called.filter(|name| name.schema.is_some());
                todo.extend(known.filter_map(|name| named.get(&name.name)).flatten().cloned());
            }
        }
        if !missing.is_empty() {
            missing.dedup();
            blind.insert(function.clone(), missing);
        }
    }
    Ok(blind)
}

fn place(function: &str, definition: &str, name: &WrittenName) -> String {
    // The first line names the function itself.
    let mut lines = definition.lines().enumerate().skip(1);
    let word = |line: &str| line.to_lowercase().split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name.name);
    let at = lines.find(|(_, line)| word(line)).map_or(String::new(), |(at, _)| format!(", line {}", at + 1));
    format!("`{}` in {function}{at}", name.name)
}

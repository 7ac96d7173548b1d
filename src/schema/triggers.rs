//! New triggers on tables that flow. For rows that replication applies, a row trigger fires only where it is told to, and a
//! statement trigger never does.
//!
//! A trigger that fills what only green has must fire for those rows too, or they would lack it. A trigger that sets what
//! blue has too must not: its work has been done on blue, or was never meant for rows of the old application.

use super::{Catalog, Persistence, Table, Trigger};
use crate::plan::SyncTrigger;
use std::collections::BTreeSet;

/// The migration's own row triggers that must fire for applied rows while green follows blue: those that set columns, or
/// write tables, which only green has, and none that blue has.
pub fn sync_triggers(before: &Catalog, after: &Catalog) -> Vec<SyncTrigger> {
    let mut found = Vec::new();
    for (name, green) in &after.tables {
        let Some(blue) = before.tables.get(name).filter(|blue| blue.persistence == Persistence::Permanent) else { continue };
        for trigger in added(blue, green) {
            if trigger.row_level && trigger.enabled == "O" && Effects::of(trigger, after).only_on_green(before, blue) {
                found.push(SyncTrigger { table: green.name.clone(), name: trigger.name.clone() });
            }
        }
    }
    found
}

/// Says of each new trigger whether it fires for rows from blue.
pub(super) fn says(before: &Catalog, blue: &Table, after: &Catalog, green: &Table) -> Vec<String> {
    let says = |trigger: &Trigger| {
        let name = &trigger.name;
        if trigger.row_level && trigger.enabled == "O" && Effects::of(trigger, after).only_on_green(before, blue) {
            format!("the new trigger `{name}` fires for rows from blue too, while the run lasts")
        } else {
            format!("the new trigger `{name}` does not fire for rows from blue")
        }
    };
    added(blue, green).map(says).collect()
}

/// Whether the migration makes a trigger that keeps other tables up to date with this one's rows.
pub(super) fn kept_elsewhere(blue: &Table, after: &Catalog) -> bool {
    let Some(green) = after.tables.get(&blue.name.to_string()) else { return false };
    added(blue, green).any(|trigger| trigger.row_level && !Effects::of(trigger, after).writes.is_empty())
}

fn added<'a>(blue: &'a Table, green: &'a Table) -> impl Iterator<Item = &'a Trigger> {
    green.triggers.iter().filter(|trigger| !blue.triggers.iter().any(|old| old.name == trigger.name))
}

/// What the body of a trigger's function shows by its text.
struct Effects {
    /// Columns of the new row that it sets.
    sets: BTreeSet<String>,
    /// Tables that it writes, as they are named there.
    writes: BTreeSet<String>,
}

impl Effects {
    fn of(trigger: &Trigger, catalog: &Catalog) -> Effects {
        let mut effects = Effects { sets: BTreeSet::new(), writes: BTreeSet::new() };
        let call = trigger.definition.rsplit_once("EXECUTE FUNCTION ").map_or("", |(_, call)| call);
        let function = call.split_once('(').map_or(call, |(name, _)| name);
        let Some(body) = catalog.functions.get(&format!("{function}()")) else { return effects };
        let words: Vec<&str> = words(body);
        for (at, word) in words.iter().enumerate() {
            let next = |by: usize| words.get(at + by).copied().unwrap_or_default();
            let is = |by: usize, keyword: &str| next(by).eq_ignore_ascii_case(keyword);
            if word.eq_ignore_ascii_case("new")
                && next(1) == "."
                && (next(3) == ":=" || next(3) == "=" && !in_condition(&words, at))
            {
                effects.sets.insert(unquoted(next(2)));
            }
            let target = match () {
                () if is(0, "insert") && is(1, "into") || is(0, "delete") && is(1, "from") || is(0, "merge") && is(1, "into") => {
                    2
                }
                () if is(0, "update") && !is(1, "of") && !is(1, "or") && !is(1, "on") => 1,
                () => continue,
            };
            let target = if is(target, "only") { target + 1 } else { target };
            let name = if next(target + 1) == "." { next(target + 2) } else { next(target) };
            // After ON CONFLICT DO UPDATE comes SET, and no name.
            if name.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '"') && !name.eq_ignore_ascii_case("set") {
                effects.writes.insert(unquoted(name));
            }
        }
        effects
    }

    fn only_on_green(&self, before: &Catalog, blue: &Table) -> bool {
        let shared_column = self.sets.iter().any(|column| blue.column(column).is_some());
        let shared_table = self.writes.iter().any(|table| before.tables.values().any(|known| known.name.name == *table));
        !(self.sets.is_empty() && self.writes.is_empty()) && !shared_column && !shared_table
    }
}

/// `=` compares between IF and THEN, and sets elsewhere.
fn in_condition(words: &[&str], at: usize) -> bool {
    let before = words[..at]
        .iter()
        .rev()
        .find(|word| ["if", "elsif", "when", "then", ";", "begin"].contains(&word.to_lowercase().as_str()));
    before.is_some_and(|word| ["if", "elsif", "when"].contains(&word.to_lowercase().as_str()))
}

fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    }
}

/// Names, quoted names, `:=` and single signs, without quoted texts and comments.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let len = match next {
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            _ if rest.starts_with(":=") => 2,
            '\'' | '"' => rest[1..].find(next).map_or(rest.len(), |at| at + 2),
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()).max(next.len_utf8()),
        };
        let word = &rest[..len];
        if !next.is_whitespace() && next != '\'' && !rest.starts_with("--") && !rest.starts_with("/*") {
            words.push(word);
        }
        rest = &rest[len..];
    }
    words
}

/// Whether a trigger that was there before may write in answer to an UPDATE of these columns: it is named by the shadow.
pub(super) fn old_ones<'a>(blue: &Table, fires: &'a [String]) -> Vec<&'a str> {
    let old = |name: &&String| blue.triggers.iter().any(|trigger| trigger.row_level && trigger.name == **name);
    fires.iter().filter(old).map(String::as_str).collect()
}

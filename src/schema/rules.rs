//! What constraints and unique indexes mean for rows that arrive from the other side.

use super::Table;
use super::canonical::canonical;
use super::flow::{FlowOptions, Judgement};
use super::identity::Pair;
use std::collections::BTreeMap;

/// One rule that rows must keep, by what it says; a new name for the same rule is no change.
struct Rule<'a> {
    kind: &'a str,
    name: &'a str,
    /// The partition on which alone it stands.
    on: Option<String>,
}

pub(super) fn judge(pair: &Pair<'_>, options: &FlowOptions, judgement: &mut Judgement) {
    let blue = rules(pair.blue, pair.blue_parts);
    let green = rules(pair.green, pair.green_parts);
    // Of a frozen blue no row comes.
    for (_, rule) in green.iter().filter(|(text, _)| !options.frozen && !blue.contains_key(*text)) {
        let name = rule.called();
        judgement.shims.push(match rule.kind {
            "f" => format!(
                "green's new foreign key {name} is not checked for rows that come from blue: rows without a partner would arrive"
            ),
            _ => format!(
                "rows from blue must keep green's new {} {name}: one that does not stops the sync, is noticed, and keeps the gate shut",
                rule.word()
            ),
        });
    }
    for (_, rule) in blue.iter().filter(|(text, _)| !green.contains_key(*text)) {
        let name = rule.called();
        judgement.shims.push(match rule.kind {
            "f" => format!("blue's foreign key {name} is not checked for rows that come back"),
            _ => format!(
                "rows written after the cutover must keep blue's {} {name}: one that does not stops the way back; `status` looks",
                rule.word()
            ),
        });
    }
}

impl Rule<'_> {
    fn word(&self) -> &'static str {
        match self.kind {
            "c" => "check",
            "x" => "exclusion constraint",
            _ => "unique index",
        }
    }

    fn called(&self) -> String {
        match &self.on {
            Some(partition) => format!("`{}` on {partition}", self.name),
            None => format!("`{}`", self.name),
        }
    }
}

fn rules<'a>(table: &'a Table, parts: &[&'a Table]) -> BTreeMap<String, Rule<'a>> {
    let mut rules = BTreeMap::new();
    for (one, on) in [(table, None)].into_iter().chain(parts.iter().map(|part| (*part, Some(part.name.to_string())))) {
        // A primary key is judged with the replica identity; a partition's copy of a root's rule has the same text.
        for constraint in one.constraints.iter().filter(|constraint| constraint.kind != "p" && constraint.kind != "u") {
            let text = format!("{}\n{}", constraint.kind, canonical(&constraint.definition));
            let rule = Rule { kind: &constraint.kind, name: &constraint.name, on: on.clone() };
            rules.entry(text).or_insert(rule);
        }
        let primary = one.constraints.iter().find(|constraint| constraint.kind == "p").map(|constraint| &constraint.name);
        for index in one.indexes.iter().filter(|index| index.unique && index.valid && Some(&index.name) != primary) {
            let columns = index.definition.split_once(" USING ").map_or(index.definition.as_str(), |(_, columns)| columns);
            let rule = Rule { kind: "u", name: &index.name, on: on.clone() };
            rules.entry(format!("u\n{}", canonical(columns))).or_insert(rule);
        }
    }
    rules
}

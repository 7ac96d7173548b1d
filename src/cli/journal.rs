//! `greenlight journal`: the records themselves.

use super::arguments::{JournalCommand, Output, Shared, WhichRun};
use super::{Exit, print, screen, state};
use crate::journal::{Journal, RunEntry};
use crate::run::Outcome;
use crate::word::shown;
use std::fmt::Write;

pub(super) async fn run(shared: &Shared, command: &JournalCommand) -> anyhow::Result<Exit> {
    match command {
        JournalCommand::Show(which) => show(shared, which).await,
        JournalCommand::Runs => runs(shared).await,
    }
}

async fn show(shared: &Shared, which: &WhichRun) -> anyhow::Result<Exit> {
    let journal = state::open(shared)?;
    let stored = state::choose(shared, journal.as_ref(), which, false).await?;
    if shared.output == Output::Json {
        print::json(&stored.records);
        print::say(&screen::standing(&stored.plan, &stored.run));
        return Ok(Exit::Completed);
    }
    let mut text = String::new();
    for record in &stored.records {
        let line = screen::line(&stored.plan, &record.event).unwrap_or_else(|| kind(&record.event));
        writeln!(text, "{:>5}  {:.3}  {}", record.seq, record.at, line.trim())?;
    }
    print::data(&text);
    print::say(&screen::standing(&stored.plan, &stored.run));
    Ok(Exit::Completed)
}

/// The name of a record that has no line for people.
fn kind(event: &crate::run::Event) -> String {
    let value = serde_json::to_value(event).unwrap_or_default();
    let name = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().replace('_', " ")
    };
    match value.get("fact") {
        Some(fact) => name(fact, "fact"),
        None => name(&value, "event"),
    }
}

async fn runs(shared: &Shared) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    if let Some(journal) = state::find(shared)? {
        for entry in journal.runs().await? {
            let outcome = state::load(journal.as_ref(), &entry.run).await?.run.outcome;
            rows.push((entry, outcome));
        }
    }
    let open = rows.iter().filter(|(_, outcome)| outcome.is_none()).count();
    if shared.output == Output::Json {
        let row = |(entry, outcome): &(RunEntry, Option<Outcome>)| serde_json::json!({ "run": entry.run, "name": entry.name, "created_at": entry.created_at, "outcome": outcome });
        print::json(&rows.iter().map(row).collect::<Vec<_>>());
    } else {
        for (entry, outcome) in &rows {
            let outcome = outcome.map_or("open", Outcome::in_words);
            print::data(&format!("{}  {:.0}  {outcome:<11}  {}", entry.run, entry.created_at, shown(&entry.name)));
        }
    }
    print::say(&format!("{} in `{}`, {open} open", super::screen::count(rows.len(), "run"), shared.state.display()));
    Ok(Exit::Completed)
}

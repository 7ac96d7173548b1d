//! `greenlight journal`: the records themselves.

use super::arguments::{JournalCommand, Output, Shared, WhichRun};
use super::{Exit, print, screen, state};
use crate::journal::Journal;
use std::fmt::Write;

pub(super) async fn run(shared: &Shared, command: &JournalCommand) -> anyhow::Result<Exit> {
    match command {
        JournalCommand::Show(which) => show(shared, which).await,
        JournalCommand::Runs => runs(shared).await,
    }
}

async fn show(shared: &Shared, which: &WhichRun) -> anyhow::Result<Exit> {
    let journal = state::open(shared)?;
    let stored = state::choose(journal.as_ref(), which, false).await?;
    if shared.output == Output::Json {
        print::json(&stored.records);
        return Ok(Exit::Completed);
    }
    let mut text = String::new();
    for record in &stored.records {
        let line = screen::line(&stored.plan, &record.event).unwrap_or_else(|| kind(&record.event));
        writeln!(text, "{:>5}  {:.3}  {}", record.seq, record.at, line.trim())?;
    }
    print::data(&text);
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
    let journal = state::open(shared)?;
    let mut rows = Vec::new();
    for entry in journal.runs().await? {
        let stored = state::load(journal.as_ref(), &entry.run).await?;
        let outcome = stored.run.outcome.map_or_else(|| "open".to_owned(), |outcome| format!("{outcome:?}"));
        rows.push((entry, outcome));
    }
    if shared.output == Output::Json {
        let rows: Vec<_> = rows.iter().map(|(entry, outcome)| serde_json::json!({ "run": entry.run, "name": entry.name, "created_at": entry.created_at, "outcome": outcome })).collect();
        print::json(&rows);
        return Ok(Exit::Completed);
    }
    for (entry, outcome) in rows {
        print::data(&format!("{}  {:.0}  {:<10}  {}", entry.run, entry.created_at, outcome, entry.name));
    }
    Ok(Exit::Completed)
}

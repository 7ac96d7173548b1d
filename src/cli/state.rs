//! The state directory: which run is meant, and what it looks like now.

use super::arguments::WhichRun;
use super::{Shared, print, screen};
use crate::journal::{FILE, Journal, SqliteJournal};
use crate::plan::Plan;
use crate::process::files;
use crate::run::{self, Event, Record, Run};
use crate::word::RunId;
use anyhow::{Context, bail};
use std::sync::Arc;

/// A run as it stands in the journal.
#[derive(Debug)]
pub(super) struct Stored {
    pub id: RunId,
    /// As it holds now.
    pub plan: Plan,
    pub run: Run,
    pub records: Vec<Record>,
}

/// The plan that was approved, which may have been provisional.
pub(super) fn approved<'a>(plan: &'a Plan, records: &'a [Record]) -> &'a Plan {
    match records.first().map(|record| &record.event) {
        Some(Event::RunCreated { plan, .. }) => plan,
        _ => plan,
    }
}

/// Which run is meant cannot be told: a matter of the command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unknown(pub String);

/// The journal, made where there is none. Folder and files are for this user only: whoever could write there could say what
/// a run has done, and plans tell much of a database.
pub(super) fn make(shared: &Shared) -> anyhow::Result<Arc<SqliteJournal>> {
    let state = &shared.state;
    files::make_private_folder(state, FILE)
        .with_context(|| format!("could not use the state directory `{}`", state.display()))?;
    let journal = state.join(FILE);
    match files::create_private(&journal) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("could not make the journal `{}`", journal.display()));
        }
        _ => (),
    }
    // SQLite gives the files beside it the mode of the first.
    for name in [FILE.to_owned(), format!("{FILE}-wal"), format!("{FILE}-shm")] {
        let path = state.join(name);
        files::close(&path).with_context(|| format!("could not close `{}` to others", path.display()))?;
    }
    Ok(Arc::new(SqliteJournal::open(&shared.state)?))
}

/// The journal, if there is one. Who only looks leaves no folder behind.
pub(super) fn find(shared: &Shared) -> anyhow::Result<Option<Arc<SqliteJournal>>> {
    // What cannot be looked at is opened, which says why not.
    let absent = matches!(shared.state.join(FILE).try_exists(), Ok(false));
    if absent { Ok(None) } else { make(shared).map(Some) }
}

/// The journal of which a run is wanted.
pub(super) fn open(shared: &Shared) -> anyhow::Result<Arc<SqliteJournal>> {
    find(shared)?.ok_or_else(|| no_run(shared))
}

fn no_run(shared: &Shared) -> anyhow::Error {
    Unknown(format!(
        "there is no run in the state directory `{}`; start one with `greenlight run PLAYBOOK`, or name another with `--state DIR`",
        shared.state.display()
    ))
    .into()
}

pub(super) async fn load(journal: &dyn Journal, id: &RunId) -> anyhow::Result<Stored> {
    let records = journal.read(id).await?;
    let Some((plan, run)) = run::replay(records.iter().map(|record| &record.event)) else {
        bail!("run `{id}` does not begin with a plan that this version can read");
    };
    Ok(Stored { id: id.clone(), plan, run, records })
}

/// An error says what failed; this, what it means for the clients of a run whose window is open, if one can be seen.
pub(super) async fn say_if_paused(shared: &Shared) {
    let Ok(Some(journal)) = find(shared) else { return };
    for entry in journal.runs().await.unwrap_or_default() {
        if let Ok(stored) = load(journal.as_ref(), &entry.run).await
            && let Some(since) = stored.run.clients_paused_since()
        {
            print::complain(&format!("run {}: {}", entry.run, screen::paused(since)));
        }
    }
}

/// The run that is named; else the newest open one; else, for those who only look, the newest.
pub(super) async fn choose(shared: &Shared, journal: &dyn Journal, which: &WhichRun, only_open: bool) -> anyhow::Result<Stored> {
    if let Some(name) = &which.run {
        let id: RunId = name.parse().map_err(Unknown)?;
        return load(journal, &id).await;
    }
    let entries = journal.runs().await?;
    let mut newest = None;
    for entry in &entries {
        let stored = load(journal, &entry.run).await?;
        if stored.run.outcome.is_none() {
            return Ok(stored);
        }
        newest.get_or_insert(stored);
    }
    match newest {
        Some(stored) if !only_open => Ok(stored),
        Some(stored) => bail!(Unknown(format!(
            "no run is open in the state directory `{0}`; the last, `{1}`, is over: see `greenlight report {1}`",
            shared.state.display(),
            stored.id
        ))),
        None => Err(no_run(shared)),
    }
}

/// The open run of the playbook with this name, if any.
pub(super) async fn open_run_of(journal: &dyn Journal, playbook: &str) -> anyhow::Result<Option<Stored>> {
    for entry in journal.runs().await?.iter().filter(|entry| entry.name == playbook) {
        let stored = load(journal, &entry.run).await.with_context(|| format!("could not read run `{}`", entry.run))?;
        if stored.run.outcome.is_none() {
            return Ok(Some(stored));
        }
    }
    Ok(None)
}

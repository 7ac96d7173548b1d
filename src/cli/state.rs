//! The state directory: which run is meant, and what it looks like now.

use super::arguments::WhichRun;
use super::{Shared, print, screen};
use crate::journal::{FILE, Journal, JournalError, RunEntry, SqliteJournal};
use crate::plan::Plan;
use crate::process::files;
use crate::run::{self, Event, Record, Run};
use crate::word::{Clock, RunId, SystemClock};
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
    let (state, journal) = (&shared.state, shared.state.join(FILE));
    let failed = |error: std::io::Error| JournalError::Unreachable {
        attempted: format!("open the journal `{}`", journal.display()),
        source: error.into(),
    };
    files::make_private_folder(state, FILE).map_err(failed)?;
    match files::create_private(&journal) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error).into()),
        _ => (),
    }
    // SQLite gives the files beside it the mode of the first.
    for name in [FILE.to_owned(), format!("{FILE}-wal"), format!("{FILE}-shm")] {
        let path = state.join(name);
        files::close(&path).map_err(failed)?;
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
            let given_back = super::status::is_given_back(journal.as_ref(), &stored, shared).await;
            let said = if given_back { screen::GIVEN_BACK.to_owned() } else { screen::paused(since) };
            print::complain(&format!("run {}: {said}", entry.run));
        }
    }
}

/// The run that is named, by its id, a beginning of it that no other has, or its playbook's name; else the one that is open;
/// else, for those who only look, the newest.
///
/// # Errors
/// `Unknown` where there is none, and `Several` where more than one could be meant: nothing is guessed.
pub(super) async fn choose(shared: &Shared, journal: &dyn Journal, which: &WhichRun, only_open: bool) -> anyhow::Result<Stored> {
    let mut entries = journal.runs().await?;
    if let Some(name) = &which.run {
        if let Some(entry) = entries.iter().find(|entry| entry.run.as_str() == name) {
            return load(journal, &entry.run).await;
        }
        entries.retain(|entry| entry.name == *name || entry.run.as_str().starts_with(name.as_str()));
        if entries.is_empty() {
            bail!(Unknown(format!(
                "no run in the state directory `{}` is called `{name}`, begins so, or is of a playbook of that name; `greenlight \
                 journal runs` lists them",
                shared.state.display()
            )));
        }
    }
    let mut runs = Vec::new();
    for entry in &entries {
        runs.push(load(journal, &entry.run).await?);
    }
    let by_name = |name: &String| entries.iter().filter(|entry| entry.name == *name).count();
    let named = which.run.as_ref().map_or(0, by_name);
    // A name that is the beginning of another run's id means neither of them more than the other.
    let by_id = which.run.is_some() && named < entries.len();
    let (mut open, mut over): (Vec<Stored>, Vec<Stored>) = runs.into_iter().partition(|stored| stored.run.outcome.is_none());
    if by_id && open.len() + over.len() > 1 {
        open.append(&mut over);
    }
    match (open.len(), over.is_empty()) {
        (1, _) => Ok(open.remove(0)),
        (0, true) => Err(no_run(shared)),
        (0, false) if only_open && !by_id => bail!(Unknown(format!(
            "no run{} is open in the state directory `{}`; the last, `{2}`, is over: see `greenlight report {2}`",
            which.run.as_ref().map(|name| format!(" of `{name}`")).unwrap_or_default(),
            shared.state.display(),
            over[0].id
        ))),
        (0, false) => Ok(over.remove(0)),
        _ => Err(Several::of(which, &open).into()),
    }
}

/// Whether a run is called so: by its id, a beginning of it, or its playbook's name.
pub(super) async fn is_named(journal: &dyn Journal, name: &str) -> anyhow::Result<bool> {
    let is_it = |entry: &RunEntry| entry.name == name || entry.run.as_str().starts_with(name);
    Ok(journal.runs().await?.iter().any(is_it))
}

/// More than one run could be meant.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
pub(super) struct Several {
    said: String,
    /// For programs.
    pub runs: serde_json::Value,
}

impl Several {
    fn of(which: &WhichRun, runs: &[Stored]) -> Several {
        let now = SystemClock::new().now();
        let place = |stored: &Stored| super::screen::place(&stored.plan, &stored.run, now);
        let list = runs.iter().map(|stored| format!("\n    {}  {}  {}", stored.id, stored.plan.name, place(stored)));
        let list: String = list.collect();
        let what = match &which.run {
            Some(name) => format!("`{name}` can be any of {} runs", runs.len()),
            None => format!("{} runs are open", runs.len()),
        };
        let said = format!("{what}: name the one that you mean, by its id, a beginning of it, or its playbook's name{list}");
        let rows = runs.iter().map(|stored| {
            serde_json::json!({ "run": stored.id, "name": stored.plan.name, "stands": place(stored), "outcome": stored.run.outcome })
        });
        Several { said, runs: rows.collect() }
    }
}

/// The open run of the playbook with this name, if any.
///
/// # Errors
/// `Several` where there are more.
pub(super) async fn open_run_of(journal: &dyn Journal, playbook: &str) -> anyhow::Result<Option<Stored>> {
    let mut open = Vec::new();
    for entry in journal.runs().await?.iter().filter(|entry| entry.name == playbook) {
        let stored = load(journal, &entry.run).await.with_context(|| format!("could not read run `{}`", entry.run))?;
        if stored.run.outcome.is_none() {
            open.push(stored);
        }
    }
    if open.len() > 1 {
        return Err(Several::of(&WhichRun { run: Some(playbook.to_owned()) }, &open).into());
    }
    Ok(open.pop())
}

//! The state directory: which run is meant, and what it looks like now.

use super::Shared;
use super::arguments::WhichRun;
use crate::journal::{Journal, SqliteJournal};
use crate::plan::Plan;
use crate::run::{Event, Record, Run};
use crate::word::RunId;
use anyhow::{Context, bail};
use std::sync::Arc;

/// A run as it stands in the journal.
#[derive(Debug)]
pub(super) struct Stored {
    pub id: RunId,
    pub plan: Plan,
    pub run: Run,
    pub records: Vec<Record>,
}

pub(super) fn open(shared: &Shared) -> anyhow::Result<Arc<SqliteJournal>> {
    Ok(Arc::new(SqliteJournal::open(&shared.state)?))
}

pub(super) async fn load(journal: &dyn Journal, id: &RunId) -> anyhow::Result<Stored> {
    let records = journal.read(id).await?;
    let Some(Event::RunCreated { plan, .. }) = records.first().map(|record| &record.event) else {
        bail!("run `{id}` does not begin with a plan that this version can read");
    };
    let plan = plan.as_ref().clone();
    let mut run = Run::new(plan.steps.len());
    for record in &records {
        run.apply(&record.event);
    }
    Ok(Stored { id: id.clone(), plan, run, records })
}

/// The run that is named; else the newest open one; else, for those who only look, the newest.
pub(super) async fn choose(journal: &dyn Journal, which: &WhichRun, only_open: bool) -> anyhow::Result<Stored> {
    if let Some(name) = &which.run {
        let id: RunId = name.parse().map_err(anyhow::Error::msg)?;
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
        Some(stored) => bail!("no run is open; the last, `{}`, is over", stored.id),
        None => bail!(
            "there is no run in this state directory; start one with `greenlight run PLAYBOOK`, or name another with `--state`"
        ),
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

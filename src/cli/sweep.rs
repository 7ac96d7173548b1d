//! `greenlight sweep`: what lost runs left on a server, and taking it away.

use super::arguments::{Output, Shared, SweepArgs};
use super::screen::count;
use super::{Exit, print, state};
use crate::journal::Journal;
use crate::postgres::sweep::{self, Leftover};
use crate::wire;
use crate::word::{Endpoint, PortError, shown};
use std::collections::BTreeSet;

pub(super) async fn run(shared: &Shared, args: &SweepArgs) -> anyhow::Result<Exit> {
    let endpoint = wire::typed_endpoint(&args.url, "the server to look at")?;
    let open_runs = open_runs(shared).await?;
    let leftovers = sweep::list(&endpoint).await?;
    let (ours, lost): (Vec<&Leftover>, Vec<&Leftover>) = leftovers.iter().partition(|leftover| open_runs.contains(&leftover.run));
    let removed = if args.remove { remove(&endpoint, &lost).await? } else { 0 };
    if shared.output == Output::Json {
        print::json(&serde_json::json!({ "of_open_runs": ours, "leftovers": lost, "removed": args.remove }));
    } else {
        for leftover in &lost {
            print::data(&shown(&leftover.to_string()));
        }
    }
    if !ours.is_empty() {
        print::say(&format!("{} more of {} stay: they belong to open runs of this state directory", ours.len(), runs(&ours)));
    }
    print::say(&match (lost.is_empty(), args.remove) {
        (true, _) => format!("nothing was changed: no lost run left anything on {endpoint}"),
        (false, true) => {
            format!("{} removed from {endpoint}. Next: the same for the run's other server", count(removed, "thing"))
        }
        (false, false) => format!(
            "nothing was changed. Next: be sure that no other state directory has {}, then the same with `--remove`; and likewise on \
             the run's other server",
            runs(&lost)
        ),
    });
    Ok(Exit::Completed)
}

async fn open_runs(shared: &Shared) -> anyhow::Result<Vec<String>> {
    let mut open = Vec::new();
    let Some(journal) = state::find(shared)? else { return Ok(open) };
    for entry in journal.runs().await? {
        if state::load(journal.as_ref(), &entry.run).await?.run.outcome.is_none() {
            open.push(entry.run.to_string());
        }
    }
    Ok(open)
}

/// Each that can be removed, whatever became of the others: how many.
async fn remove(endpoint: &Endpoint, lost: &[&Leftover]) -> Result<usize, PortError> {
    let mut parts = Vec::new();
    let mut lives = BTreeSet::new();
    for run in lost.iter().map(|leftover| &leftover.run).filter(|run| !run.is_empty()).collect::<BTreeSet<_>>() {
        if let Err(error) = is_lost(endpoint, run).await {
            lives.insert(run);
            parts.push(Err(error));
        }
    }
    for leftover in lost.iter().filter(|leftover| !lives.contains(&leftover.run)) {
        parts.push(sweep::remove(endpoint, leftover).await);
    }
    let removed = parts.iter().filter(|part| part.is_ok()).count();
    PortError::all(parts)?;
    Ok(removed)
}

/// A run whose coordinator is connected now is not lost, whatever this state directory knows of it.
async fn is_lost(endpoint: &Endpoint, run: &str) -> Result<(), PortError> {
    let from = sweep::coordinators(endpoint, run).await?;
    if from.is_empty() {
        return Ok(());
    }
    Err(PortError::refused(format!("remove what run `{run}` made on {endpoint}"))
        .because(format!("a coordinator of that run is connected from {}", from.join(", ")))
        .hint(format!("name its state directory with `--state DIR`, and `greenlight abandon {run}` there")))
}

/// Such as `run r1a2b3c4`.
fn runs(leftovers: &[&Leftover]) -> String {
    let names: BTreeSet<&str> = leftovers.iter().map(|leftover| leftover.run.as_str()).filter(|run| !run.is_empty()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "a run that is not named".to_owned() } else { format!("run {}", shown(&names.join(", "))) }
}

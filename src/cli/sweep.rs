//! `greenlight sweep`: what lost runs left on a server, and taking it away.

use super::arguments::{Output, Shared, SweepArgs};
use super::{Exit, print, state};
use crate::journal::Journal;
use crate::postgres::sweep::{self, Leftover};
use crate::wire;

pub(super) async fn run(shared: &Shared, args: &SweepArgs) -> anyhow::Result<Exit> {
    let endpoint = wire::endpoint(&crate::word::Template(args.url.clone()))?;
    let journal = state::open(shared)?;
    let mut open_runs = Vec::new();
    for entry in journal.runs().await? {
        if state::load(journal.as_ref(), &entry.run).await?.run.outcome.is_none() {
            open_runs.push(entry.run.to_string());
        }
    }
    let leftovers = sweep::list(&endpoint).await?;
    let (ours, lost): (Vec<&Leftover>, Vec<&Leftover>) = leftovers.iter().partition(|leftover| open_runs.contains(&leftover.run));
    if shared.output == Output::Json {
        print::json(&serde_json::json!({ "of_open_runs": ours, "leftovers": lost }));
    } else {
        for leftover in &lost {
            print::data(&format!("{leftover}"));
        }
    }
    if !ours.is_empty() {
        print::say(&format!("{} more belong to open runs and stay: {}", ours.len(), open_runs.join(", ")));
    }
    if lost.is_empty() {
        print::say(&format!("nothing is left over on {endpoint}"));
    } else if args.remove {
        for leftover in &lost {
            sweep::remove(&endpoint, leftover).await?;
        }
        print::say(&format!("{} leftovers removed from {endpoint}", lost.len()));
    } else {
        print::say("nothing was changed. Next: the same with `--remove`, once no other state directory has a run on this server");
    }
    Ok(Exit::Completed)
}

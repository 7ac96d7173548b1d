//! `greenlight restore`: a new server at a point in time, beside everything that runs.

use super::arguments::{Output, RestoreArgs, Shared};
use super::meter::Meter;
use super::{Exit, print, state};
use crate::plan::HostSpec;
use crate::playbook::Playbook;
use crate::postgres::catalog;
use crate::postgres::client::{Session, SessionOptions};
use crate::snapshot::restore::{self, Place, RestorePlan, Restored, Target};
use crate::snapshot::{SnapshotStore, note_point};
use crate::word::{Clock, Endpoint, SystemClock, shell_word, shown};
use crate::{schema, validate, wire};
use anyhow::{Context, anyhow, bail};

pub(super) async fn run(shared: &Shared, args: &RestoreArgs) -> anyhow::Result<Exit> {
    let Some(playbook) = super::playbook::load_or_say(shared, &args.playbook) else { return Ok(Exit::Playbook) };
    let (store, source) = wire::store(&playbook).await?;
    let host = match &args.on {
        None => store.host().clone(),
        Some(on) => {
            let spec = HostSpec::parse(on).map_err(|why| anyhow!(why))?;
            let ssh_config = playbook.snapshot.as_ref().and_then(|spec| spec.ssh_config.clone());
            wire::host(&spec, ssh_config, args.bin_dir.clone()).await
        }
    };
    let place = Place { host, data_dir: args.into.clone(), port: args.port.unwrap_or(0), throwaway: false };
    if args.discard {
        restore::discard(store.as_ref(), &place, &source.at).await?;
        print::say(&format!("the restored server in `{}` is stopped and removed", args.into.display()));
        return Ok(Exit::Completed);
    }
    if args.promote {
        restore::promote(&place, &source.at).await?;
        print::say(&format!(
            "the server in `{}` is open for writing, on a timeline of its own. It archives nowhere yet, and subscriptions and \
             jobs that came with the copy are off; so is what runs of Greenlight had made on it.\nNext: `greenlight run` with a playbook of \
             the strategy `restored` moves the applications there; set `archive_mode`, `synchronous_standby_names`, \
             `max_logical_replication_workers` and `cron.launch_active_jobs` to what they are to be, and take a backup of it",
            args.into.display()
        ));
        return Ok(Exit::Completed);
    }
    let (Some(target), Some(port)) = (&args.to, args.port) else {
        bail!(
            "say where to and on which port: `--to` a point, `--port` a free port; or `--promote` or `--discard` what is there"
        );
    };
    let place = Place { port, ..place };
    restored(shared, args, &playbook, store.as_ref(), &source.at, &resolve(shared, store.as_ref(), target).await?, &place).await
}

/// What was said is no point to restore to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoPoint(String);

/// The point just before a run is in its journal: written down beside the backups too, it need not be looked for in the log.
async fn resolve(shared: &Shared, store: &dyn SnapshotStore, target: &str) -> anyhow::Result<Target> {
    let parsed: Target = target.parse().map_err(NoPoint)?;
    if let Some(run) = target.strip_prefix("run:")
        && let Target::Point(name) = &parsed
        && !store.notes().points().await?.iter().any(|point| point.name == *name)
        && let Ok(id) = run.parse()
        && let Some(journal) = state::find(shared)?
        && let Ok(stored) = state::load(journal.as_ref(), &id).await
    {
        for record in &stored.records {
            if let crate::run::Event::FactLearned { fact: crate::run::Fact::RestorePoint { name, lsn }, .. } = &record.event {
                note_point(store, name, *lsn, record.at).await?;
            }
        }
    }
    Ok(parsed)
}

async fn restored(
    shared: &Shared,
    args: &RestoreArgs,
    playbook: &Playbook,
    store: &dyn SnapshotStore,
    like: &Endpoint,
    target: &Target,
    place: &Place,
) -> anyhow::Result<Exit> {
    let clock = SystemClock::new();
    let plan = restore::check(store, target, args.timeline, place, clock.now()).await?;
    say_plan(&plan, store);
    if !plan.problems.is_empty() {
        if shared.output == Output::Json {
            print::json(&serde_json::json!({ "problems": plan.problems }));
        }
        print::say("nothing was started or changed");
        return Ok(Exit::Refused);
    }
    if args.dry_run {
        print::say("nothing was started or changed. Next: the same without `--dry-run`");
        return Ok(Exit::Completed);
    }
    let meter = Meter::new();
    let progress = |what: &str, done: u64, all: u64| meter.tell(what, done, all);
    let work = restore::recover(store, &plan, like, false, &clock, &progress);
    let done = tokio::select! {
        done = work => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    };
    meter.clear();
    let Some(done) = done else {
        print::say("stopped in the middle. Next: the same command goes on, `--discard` removes what is there");
        return Ok(Exit::Interrupted);
    };
    let done = done?;
    store.notes().set_estimate(&done.measured).await?;
    conclude(shared, args, playbook, target, &done).await
}

fn say_plan(plan: &RestorePlan, store: &dyn SnapshotStore) {
    for problem in &plan.problems {
        print::say(&format!("error: {}", shown(problem)));
    }
    let Some(backup) = plan.backup.as_ref().filter(|_| plan.problems.is_empty()) else { return };
    let estimate = plan
        .estimated_ms()
        .map_or("not known: `greenlight snapshot prove` measures it".to_owned(), |ms| format!("about {} s", ms.div_ceil(1000)));
    print::say(&format!(
        "{} from backup {} in {}, along timeline {}: {} MiB to copy, up to {} MiB of WAL to replay; time {estimate}",
        plan.target,
        backup.id,
        store.place(),
        plan.timeline,
        backup.bytes >> 20,
        plan.replay_bytes() >> 20,
    ));
    if plan.goes_on {
        print::say("going on with what is there");
    }
    for unknown in &plan.unknown {
        print::say(&format!("note: {}", shown(unknown)));
    }
}

/// Compares the restored server with what is known, and says what can be done with it.
async fn conclude(
    shared: &Shared,
    args: &RestoreArgs,
    playbook: &Playbook,
    target: &Target,
    done: &Restored,
) -> anyhow::Result<Exit> {
    let mut differences = Vec::new();
    if let Err(error) = validate::hold(&done.endpoint, &playbook.validate.assertions).await {
        differences.push(error.chain());
    }
    differences.extend(other_schema(shared, target, &done.endpoint).await?);
    if shared.output == Output::Json {
        print::json(&serde_json::json!({
            "endpoint": done.endpoint.to_string(),
            "replayed": done.replayed,
            "last_commit": done.last_commit,
            "timeline": done.timeline,
            "copy_ms": done.measured.copy_ms,
            "replay_ms": done.measured.replay_ms,
            "differences": differences,
        }));
    } else {
        print::data(&done.endpoint.to_string());
    }
    let last = done.last_commit.map_or("none since the backup".to_owned(), |at| at.to_string());
    print::say(&format!("restored up to {} (last commit: {last}), and standing still there, open for reading", done.replayed));
    for difference in &differences {
        print::say(&format!("differs: {}", shown(difference)));
    }
    let folder = shell_word(&args.into.display().to_string());
    print::say(&format!(
        "Next: look at it; `greenlight salvage` lists what the damaged server has beyond it; \
         `greenlight restore {} --into {folder} --promote` opens it, `--discard` removes it",
        shell_word(&args.playbook.display().to_string())
    ));
    Ok(if differences.is_empty() { Exit::Completed } else { Exit::Held })
}

/// Just before a run the schema was the one that its plan was made for.
async fn other_schema(shared: &Shared, target: &Target, at: &Endpoint) -> anyhow::Result<Option<String>> {
    let Target::Point(name) = target else { return Ok(None) };
    let run = name.strip_prefix(crate::plan::PREFIX).and_then(|run| run.parse().ok());
    let Some(run) = run else { return Ok(None) };
    let Some(journal) = state::find(shared)? else { return Ok(None) };
    let Ok(stored) = state::load(journal.as_ref(), &run).await else { return Ok(None) };
    let session = Session::open(at, &SessionOptions::reading("greenlight/restore"), "the restored server").await?;
    let found = schema::fingerprint(&catalog::read(session.client()).await.context("could not read the restored schema")?);
    Ok((found != stored.plan.blue_fingerprint).then(|| format!("the schema is not the one that run {run} was planned for")))
}

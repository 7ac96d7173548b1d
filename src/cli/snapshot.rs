//! `greenlight snapshot`: backups and archived WAL, taken, listed, proved, and removed when nothing needs them.

use super::arguments::{Output, PruneArgs, Shared, SnapshotCommand, SnapshotTakeArgs, VerifyArgs};
use super::meter::Meter;
use super::{Exit, print, state};
use crate::journal::Journal;
use crate::playbook::Playbook;
use crate::run::{Event, Fact, Outcome};
use crate::snapshot::{ARCHIVE_LIMIT, Backup, BackupState, Need, SnapshotStore, Source, newest_before, prove, reach, removable};
use crate::word::{Clock, SystemClock, shell_word, shown};
use crate::{validate, wire};
use anyhow::bail;

pub(super) async fn run(shared: &Shared, command: &SnapshotCommand) -> anyhow::Result<Exit> {
    let path = match command {
        SnapshotCommand::Take(args) => &args.playbook,
        SnapshotCommand::List(args) | SnapshotCommand::Prove(args) | SnapshotCommand::Stop(args) => &args.playbook,
        SnapshotCommand::Verify(args) => &args.playbook,
        SnapshotCommand::Prune(args) => &args.playbook,
        SnapshotCommand::Point(args) | SnapshotCommand::Forget(args) => &args.playbook,
    };
    let Some(playbook) = super::playbook::load_or_say(shared, path) else { return Ok(Exit::Playbook) };
    let (store, source) = wire::store(&playbook).await?;
    let store = store.as_ref();
    match command {
        SnapshotCommand::Take(args) => take(shared, args, &playbook, store, &source).await,
        SnapshotCommand::List(_) => list(shared, store).await,
        SnapshotCommand::Verify(args) => verify(args, store).await,
        SnapshotCommand::Prove(_) => {
            proved(&playbook, store, &source).await?;
            Ok(Exit::Completed)
        }
        SnapshotCommand::Prune(args) => prune(shared, args, &playbook, store).await,
        SnapshotCommand::Point(args) => {
            let point = source.create_restore_point(&args.name).await?;
            store.notes().record(&point).await?;
            print::say(&format!("restore point `{}` at {} on timeline {}", point.name, point.lsn, point.timeline));
            let (path, point) = (shell_word(&path.display().to_string()), shell_word(&format!("point:{}", point.name)));
            print::say(&format!("Next: `greenlight restore {path} --to {point}` goes back to it"));
            Ok(Exit::Completed)
        }
        SnapshotCommand::Forget(args) => {
            store.notes().forget(&args.name).await?;
            print::say(&format!("nothing is kept for restore point `{}` any more", args.name));
            Ok(Exit::Completed)
        }
        SnapshotCommand::Stop(_) => {
            store.remove_from_server().await?;
            print::say("nothing of the store is left on the server; what was received stays, and from here on nothing is added");
            Ok(Exit::Completed)
        }
    }
}

async fn take(
    shared: &Shared,
    args: &SnapshotTakeArgs,
    playbook: &Playbook,
    store: &dyn SnapshotStore,
    source: &Source,
) -> anyhow::Result<Exit> {
    // First, so that no WAL is missing between the backup and the archive.
    store.ensure_archiving().await?;
    let archived = store.prove_archiving(ARCHIVE_LIMIT).await?;
    let meter = Meter::new();
    let taken = store.take(&|what, done, all| meter.tell(what, done, all)).await;
    meter.clear();
    let backup = taken?;
    if shared.output == Output::Json {
        print::json(&serde_json::json!({ "backup": backup, "archive": archived }));
    } else {
        print::data(&backup.id);
    }
    print::say(&format!(
        "backup {} of {} MiB is whole and verified, in {}; WAL reaches the archive in {} ms (segment {})",
        backup.id,
        backup.bytes >> 20,
        store.place(),
        archived.took.as_millis(),
        archived.segment
    ));
    if args.prove || playbook.snapshot.as_ref().is_some_and(|spec| spec.prove) {
        proved(playbook, store, source).await?;
    }
    print::say(&format!(
        "Next: `greenlight restore {}` restores it to any point from {} on",
        shell_word(&args.playbook.display().to_string()),
        backup.ended_at
    ));
    Ok(Exit::Completed)
}

async fn proved(playbook: &Playbook, store: &dyn SnapshotStore, source: &Source) -> anyhow::Result<()> {
    let (clock, meter) = (SystemClock::new(), Meter::new());
    let progress = |what: &str, done: u64, all: u64| meter.tell(what, done, all);
    let assertions = &playbook.validate.assertions;
    let proof = prove(store, &source.at, &clock, &progress, async |at| validate::hold(&at, assertions).await).await;
    meter.clear();
    let proof = proof?;
    let (copy, replay) = (proof.measured.copy_ms, proof.measured.replay_ms);
    print::say(&format!(
        "restored to a throwaway server up to {}, {} assertions held, removed again: copy {copy} ms, start and replay {replay} ms",
        proof.replayed,
        playbook.validate.assertions.len()
    ));
    Ok(())
}

async fn list(shared: &Shared, store: &dyn SnapshotStore) -> anyhow::Result<Exit> {
    let backups = store.backups().await?;
    let points = store.notes().points().await?;
    let made = store.made_on_server().await.unwrap_or_else(|error| vec![error.chain()]);
    if shared.output == Output::Json {
        print::json(&serde_json::json!({ "backups": backups, "points": points, "made": made }));
    } else {
        for backup in &backups {
            print::data(&shown(&line(backup)));
        }
        for point in &points {
            print::data(&format!("point {}  {}  {}  timeline {}", shown(&point.name), point.at, point.lsn, point.timeline));
        }
    }
    for made in &made {
        print::say(&shown(made));
    }
    let Some(oldest) = backups.iter().find(|backup| backup.state == BackupState::Whole) else {
        print::say(&format!("there is no whole backup in {}. Next: `greenlight snapshot take`", store.place()));
        return Ok(Exit::Completed);
    };
    if let Some(newest) = newest_before(&backups, |_| true) {
        let archived = store.archived(newest.segment_bytes).await?;
        let from = if newest.holds_own_wal { newest.stop } else { newest.start };
        let history = crate::snapshot::History::alone(newest.timeline);
        let reach = reach(&archived, &history, from);
        let gap = reach.gap.map(|gap| format!("; segment {} is missing", gap.name(newest.segment_bytes))).unwrap_or_default();
        print::say(&format!("recoverable from {} to {} in the log{gap}", oldest.ended_at, reach.end));
    }
    Ok(Exit::Completed)
}

fn line(backup: &Backup) -> String {
    let state = match backup.state {
        BackupState::Working => "being taken",
        BackupState::Partial => "abandoned",
        BackupState::Whole => "whole",
    };
    let size = backup.bytes >> 20;
    format!("{}  {state}  {}  timeline {}  from {}  {size} MiB", backup.id, backup.ended_at, backup.timeline, backup.stop)
}

async fn verify(args: &VerifyArgs, store: &dyn SnapshotStore) -> anyhow::Result<Exit> {
    let backups = store.backups().await?;
    let chosen: Vec<&Backup> = backups
        .iter()
        .filter(|backup| backup.state == BackupState::Whole && args.backup.as_ref().is_none_or(|id| *id == backup.id))
        .collect();
    if chosen.is_empty() {
        bail!("there is no such whole backup in {}", store.place());
    }
    let mut damaged = 0;
    for backup in chosen {
        match store.verify(backup).await {
            Ok(()) => print::data(&format!("{}  in order", backup.id)),
            Err(error) => {
                damaged += 1;
                print::data(&format!("{}  {}", backup.id, shown(&error.chain())));
            }
        }
    }
    print::say(if damaged == 0 {
        "every backup is as its manifest says"
    } else {
        "a damaged backup is no backup: take a new one"
    });
    Ok(if damaged == 0 { Exit::Completed } else { Exit::Fault })
}

async fn prune(shared: &Shared, args: &PruneArgs, playbook: &Playbook, store: &dyn SnapshotStore) -> anyhow::Result<Exit> {
    let Some(spec) = &playbook.snapshot else { bail!("the playbook has no section `snapshot`") };
    let backups = store.backups().await?;
    let needs = needs(shared, store).await?;
    let (gone, kept_for) = removable(&backups, &spec.retention, &needs, SystemClock::new().now());
    for why in &kept_for {
        print::say(&shown(why));
    }
    for backup in &gone {
        print::data(&shown(&line(backup)));
    }
    if !args.remove {
        print::say(&format!(
            "{} of {} backups would go; nothing was changed. Next: the same with `--remove`",
            gone.len(),
            backups.len()
        ));
        return Ok(Exit::Completed);
    }
    for backup in &gone {
        store.remove(backup).await?;
    }
    let oldest = backups.iter().find(|backup| backup.state == BackupState::Whole && !gone.contains(backup));
    let segments = match oldest {
        Some(oldest) => store.remove_wal_before(oldest).await?,
        None => 0,
    };
    print::say(&format!("{} backups removed, and {segments} WAL files that no backup needs", gone.len()));
    Ok(Exit::Completed)
}

/// What open runs, those that ended not long ago, and recorded restore points need.
async fn needs(shared: &Shared, store: &dyn SnapshotStore) -> anyhow::Result<Vec<Need>> {
    let now = SystemClock::new().now();
    let mut over = Vec::new();
    let mut needs = Vec::new();
    let journal = state::find(shared)?;
    let runs = match &journal {
        Some(journal) => journal.runs().await?,
        None => Vec::new(),
    };
    for (entry, journal) in runs.iter().zip(journal.iter().cycle()) {
        let stored = state::load(journal.as_ref(), &entry.run).await?;
        let ended = stored.records.last().filter(|_| stored.run.outcome.is_some());
        let kept_secs = match (stored.run.outcome, &stored.plan.snapshot) {
            (Some(Outcome::Completed), Some(spec)) => i64::try_from(spec.keep_blue_secs).unwrap_or(i64::MAX),
            _ => 0,
        };
        if ended.is_some_and(|ended| now.duration_since(ended.at).as_secs() >= kept_secs) {
            over.push(stored.plan.names.restore_point.clone());
            continue;
        }
        for record in &stored.records {
            if let Event::FactLearned { fact: Fact::RestorePoint { lsn, .. }, .. } = &record.event {
                needs.push(Need { lsn: *lsn, at: record.at, what: format!("run {}", entry.run) });
            }
        }
    }
    let points = store.notes().points().await?;
    let kept = points.into_iter().filter(|point| !over.contains(&point.name));
    needs.extend(kept.map(|point| Need { lsn: point.lsn, at: point.at, what: format!("restore point `{}`", point.name) }));
    Ok(needs)
}

//! Run the migrations on blue itself, while applications work there. Taken back by their down migrations, newest first, or by a
//! server that is restored to just before them, which then serves.
//!
//! Which of them blue has is asked of its history table, each time: a row there and the migration's effect are one transaction,
//! so what a crash or a lost answer left is known without remembering it.

use super::migrate_green::percent;
use super::{Observed, Progress, Step, StepContext, restored, window};
use crate::migrate::{Applied, Migration};
use crate::run::Fact;
use crate::schema::Fingerprint;
use crate::word::{PortError, RelationName, Side};
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct MigrateBlue;

#[async_trait]
impl Step for MigrateBlue {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        // Both directions begin by asking blue what it has, and a migration without a transaction may be there in part.
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        begin(cx).await?;
        let applied = cx.ports.migrator.applied().await?;
        let migrations = cx.plan.migrations.clone();
        for (at, migration) in migrations.iter().enumerate() {
            let what = format!("migration {} of {}: {} {}", at + 1, migrations.len(), migration.version, migration.name);
            (cx.progress)(&what);
            let took_ms = match row_of(&applied, migration) {
                Some(row) => u64::try_from(row.execution_time_ms).unwrap_or(0),
                None => cx.ports.migrator.apply(migration, &percent(cx.progress, what)).await?,
            };
            crate::failpoint!("in-place-migrated");
            let known = |fact: &Fact| matches!(fact, Fact::Migrated { version, .. } if *version == migration.version);
            if !cx.run().facts.iter().any(known) {
                cx.learn(Fact::Migrated { version: migration.version.clone(), name: migration.name.clone(), took_ms }).await?;
            }
        }
        Ok(Progress::Done)
    }

    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        let Some(before) = schema_before(cx) else { return Ok(Progress::Done) };
        // Once the writer moves, or may have moved, it is gone on with: the other way is for a blue that serves.
        let moves = cx.run().serving() == Side::Green || cx.run().open_window().is_some();
        if cx.run().without_green && moves {
            window::leave_green(cx).await?;
        } else if moves || (cx.run().by_restore && is_changed(cx, &before).await?) {
            return restored::take_back(cx, &before).await;
        }
        if cx.run().has_restored() {
            // Of a restore that was not gone on with.
            restored::give_up(cx).await?;
        }
        run_down(cx, &before).await
    }
}

/// One that blue has.
struct Migrated {
    migration: Migration,
    /// How far it came, where it stopped between two of its batches.
    part: Option<String>,
}

/// Those of the plan's that blue has, in whole or in part. What stopped between two batches has no row in the history, and has
/// written others.
async fn migrated(cx: &StepContext<'_>) -> Result<Vec<Migrated>, PortError> {
    let applied = cx.ports.migrator.applied().await?;
    let unfinished = cx.ports.migrator.unfinished().await?;
    let of = |migration: &Migration| {
        let mut of_it = unfinished.iter().filter(|half| migration.is_version(&half.version));
        let is_there = of_it.clone().next().is_some() || row_of(&applied, migration).is_some();
        let part = of_it.find(|half| !half.down).map(|half| half.reached.clone());
        is_there.then(|| Migrated { migration: migration.clone(), part })
    };
    Ok(cx.plan.migrations.iter().filter_map(of).collect())
}

/// Whether blue is another than before the migrations, as far as they made it so.
async fn is_changed(cx: &StepContext<'_>, before: &Fingerprint) -> Result<bool, PortError> {
    if !migrated(cx).await?.is_empty() {
        return Ok(true);
    }
    // One without a transaction may be there in part.
    let now = cx.ports.blue.schema_fingerprint().await?;
    Ok(!before.changes(&of_this_run(cx, before, now)).is_empty())
}

/// The down migrations, newest first; blue's schema must then be as it was.
async fn run_down(cx: &mut StepContext<'_>, before: &Fingerprint) -> Result<Progress, PortError> {
    let newest_first: Vec<Migrated> = migrated(cx).await?.into_iter().rev().collect();
    // Before any of them is taken back: half of the way would be a schema that nobody planned.
    if let Some(Migrated { migration, part }) = newest_first.iter().find(|migrated| migrated.migration.down.is_none()) {
        let part = part.as_ref().map_or(String::new(), |reached| format!(", and it is done with {reached}"));
        return Err(PortError::refused(format!("take `{}` back", migration.file_name()))
            .because(format!("there is no `{}`{part}", migration.down_file_name()))
            .hint(by_hand(cx)));
    }
    for Migrated { migration, part } in &newest_first {
        let part = part.as_ref().map_or(String::new(), |reached| format!(", which is done with {reached}"));
        let what = format!("taking back {} {}{part}", migration.version, migration.name);
        (cx.progress)(&what);
        cx.ports.migrator.revert(migration, &percent(cx.progress, what)).await?;
        crate::failpoint!("in-place-reverted");
    }
    let now = cx.ports.blue.schema_fingerprint().await?;
    let differs = before.changes(&of_this_run(cx, before, now));
    if differs.is_empty() {
        return Ok(Progress::Done);
    }
    Err(PortError::refused("see blue's schema as it was before the migrations")
        .because(format!("their down migrations ran, and it differs: {differs}"))
        .hint(by_hand(cx)))
}

fn by_hand(cx: &StepContext<'_>) -> String {
    let run = &cx.plan.run;
    format!(
        "bring blue's schema back by hand and say so with `greenlight mark-done {run}`, or restore to just before the run with \
         `greenlight restore --to run:{run}`"
    )
}

fn row_of<'a>(applied: &'a [Applied], migration: &Migration) -> Option<&'a Applied> {
    applied.iter().find(|row| migration.is_version(&row.version))
}

/// The first migration is not begun on a schema for which the plan was not made. On record once, since from then on the
/// schema is another one by the run's own doing.
async fn begin(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    if schema_before(cx).is_some() {
        return Ok(());
    }
    let fingerprint = cx.ports.blue.schema_fingerprint().await?;
    let differs = cx.plan.blue_fingerprint.changes(&fingerprint);
    let applied = cx.ports.migrator.applied().await?;
    // What others applied is not this run's to take back.
    let by_others = cx.plan.migrations.iter().find(|migration| row_of(&applied, migration).is_some());
    let why = match by_others {
        Some(migration) => format!("somebody applied `{}` since the run was planned", migration.file_name()),
        None if differs.is_empty() => return cx.learn(Fact::BlueFingerprint { fingerprint }).await,
        None => format!("somebody changed its schema since the run was planned: {differs}"),
    };
    Err(PortError::refused("migrate blue")
        .because(why)
        .hint("look at what was changed, and start a new run, which is planned with it"))
}

/// Blue's schema before the first migration; `None`: none of them was begun.
fn schema_before(cx: &StepContext<'_>) -> Option<Fingerprint> {
    cx.run().facts.iter().find_map(|fact| match fact {
        Fact::BlueFingerprint { fingerprint } => Some(fingerprint.clone()),
        _ => None,
    })
}

/// Of what is there now: the objects that were there before, and those that the migrations make. What others made meanwhile is
/// theirs, and the history table stays, without the run's rows.
fn of_this_run(cx: &StepContext<'_>, before: &Fingerprint, now: Fingerprint) -> Fingerprint {
    let table = RelationName::new(&cx.plan.history.schema, "schema_migrations");
    let history = [format!("table {table}"), format!("schema {}", table.schema)];
    let planned = cx.plan.green_fingerprint.as_ref();
    let made = |object: &str| planned.is_none_or(|planned| planned.has(object)) && !history.iter().any(|name| name == object);
    now.only(|object| before.has(object) || made(object))
}

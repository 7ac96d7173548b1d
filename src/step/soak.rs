//! Blue follows green, and a rollback loses nothing. Looked at again and again, and said when it changes.

use super::{Observed, Progress, Step, StepContext, Stuck, clocks, place, routes, stuck, window};
use crate::plan::Strategy;
use crate::run::Fact;
use crate::snapshot::{Basis, Snapshots};
use crate::word::{PortError, Side, Timestamp};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

#[derive(Debug)]
pub(super) struct Soak;

#[async_trait]
impl Step for Soak {
    async fn observe(&self, _: &mut StepContext<'_>) -> Result<Observed, PortError> {
        Ok(Observed::Partial)
    }

    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError> {
        if let Some(lost) = place::lost(cx).await? {
            if cx.run().finish_ordered {
                return Err(lost.refusal("finish"));
            }
            let note = format!("a person: {}; {}", lost.why, lost.hint);
            return Ok(Progress::Pending { poll_after: Duration::from_secs(2), note });
        }
        gather_statistics(cx).await?;
        let over = is_over(cx);
        let mut clocks = None;
        if over && cx.plan.soak.then_finish && !cx.run().finish_ordered {
            // What follows cannot be taken back.
            clocks = clocks::apart(cx.ports).await;
        }
        let ends = cx.run().finish_ordered || (over && cx.plan.soak.then_finish && clocks.is_none());
        let astray = routes::watch(cx, Side::Green).await?;
        let backups = match back_green_up(cx).await? {
            // After the finish blue takes no connections: no route may lead there then.
            None if ends && astray.is_none() => match back_blue_up(cx).await? {
                None => return Ok(Progress::Done),
                waits_for => waits_for,
            },
            waits_for => waits_for,
        };
        let health = watch_the_way_back(cx).await?;
        let waits_for = match (backups, over) {
            (Some(backup), _) => backup,
            (None, _) if clocks.is_some() => {
                format!("clocks that agree, or a person's `finish`: {}", clocks.unwrap_or_default())
            }
            (None, _) if ends && astray.is_some() => "every route to lead to green, before it finishes".to_owned(),
            (None, true) => "a person's `finish`, the soak being over".to_owned(),
            (None, false) => "the end of the soak".to_owned(),
        };
        Ok(Progress::Pending {
            poll_after: Duration::from_secs(2),
            note: format!("{waits_for}{}; {health}", alarm(astray.as_deref())),
        })
    }

    async fn revert(&self, _: &mut StepContext<'_>) -> Result<Progress, PortError> {
        Ok(Progress::Done)
    }
}

fn alarm(astray: Option<&str>) -> String {
    astray.map(|what| format!("; ALARM: {what}")).unwrap_or_default()
}

/// After a freeze the tables that the migrations changed have no statistics that fit them: clients work already, and their
/// queries may be planned badly. A failure is said, and no more: autovacuum comes in time.
async fn gather_statistics(cx: &mut StepContext<'_>) -> Result<(), PortError> {
    for table in &cx.plan.analyze {
        if cx.run().facts.iter().any(|fact| matches!(fact, Fact::Analyzed { table: done, .. } if done == table)) {
            continue;
        }
        (cx.progress)(&format!("gathering statistics of {table}"));
        let failed = cx.ports.green.analyze(table).await.err().map(|error| error.chain());
        cx.learn(Fact::Analyzed { table: table.clone(), failed }).await?;
    }
    Ok(())
}

fn is_over(cx: &StepContext<'_>) -> bool {
    let soak = jiff::SignedDuration::from_secs(i64::try_from(cx.plan.soak.for_secs).unwrap_or(i64::MAX));
    let since = cx.run().green_serves_since();
    since.is_some_and(|since| since.checked_add(soak).is_ok_and(|until| cx.ports.clock.now() >= until))
}

/// `None`: green can be recovered to any moment since its first backup, or nobody asked for that. Otherwise what that waits
/// for. The backup is taken beside the watch, since it may last for hours.
async fn back_green_up(cx: &mut StepContext<'_>) -> Result<Option<String>, PortError> {
    let Some(snapshots) = cx.ports.green_snapshots.clone() else { return Ok(None) };
    let (None, Some(serves_since)) = (cx.run().recoverable_since(), cx.run().green_serves_since()) else { return Ok(None) };
    match backup(&snapshots, serves_since, "green's first backup, without which it cannot be recovered to a point in time").await
    {
        Ok(basis) => {
            cx.learn(Fact::Recoverable { backup: basis.backup, since: basis.ended_at, place: basis.place }).await?;
            Ok(None)
        }
        Err(waits_for) => Ok(Some(waits_for)),
    }
}

/// A last backup of blue before it is retired, where there is a store: its rows are those of green, in the schema from before.
async fn back_blue_up(cx: &mut StepContext<'_>) -> Result<Option<String>, PortError> {
    let Some(snapshots) = cx.ports.snapshots.clone() else { return Ok(None) };
    if cx.run().facts.iter().any(|fact| matches!(fact, Fact::BlueKept { .. })) {
        return Ok(None);
    }
    match backup(&snapshots, cx.ports.clock.now(), "blue's last backup").await {
        Ok(basis) => {
            cx.learn(Fact::BlueKept { backup: basis.backup, ended_at: basis.ended_at, place: basis.place }).await?;
            Ok(None)
        }
        Err(waits_for) => Ok(Some(waits_for)),
    }
}

/// Err: what is waited for. A failure is said and tried again, and the watch over the way back goes on meanwhile.
async fn backup(snapshots: &Arc<dyn Snapshots>, since: Timestamp, what: &str) -> Result<Basis, String> {
    match snapshots.ensure_since(since).await {
        Ok(Some(basis)) => Ok(basis),
        Ok(None) => Err(what.to_owned()),
        Err(error) => Err(format!("{what}; it fails: {}", error.chain())),
    }
}

/// Whether a rollback would be lossless now, by looking. Moves blue's waiting slot up, so that it keeps no WAL, and gives the
/// way back up when green's slot endangers green.
async fn watch_the_way_back(cx: &mut StepContext<'_>) -> Result<String, PortError> {
    if let Some(reason) = cx.run().way_back_given_up() {
        return Ok(format!("a rollback would lose writes: {reason}"));
    }
    let (blue, green, name) = (cx.server(Side::Blue), cx.server(Side::Green), cx.plan.names.reverse.clone());
    let Some(slot) = green.slot(&name).await? else {
        return give_up(cx, "green's slot for blue is gone").await;
    };
    if slot.lost {
        return give_up(cx, "green removed WAL that blue had not read").await;
    }
    if slot.retained_bytes > cx.plan.limits.wal_kept_bytes_max {
        green.ensure_no_slot(&name).await?;
        return give_up(cx, "blue fell so far behind that green kept more WAL for it than `limits.wal_kept` allows").await;
    }
    if cx.plan.strategy == Strategy::Sync {
        let at = blue.wal_lsn().await?;
        blue.advance_slot(&cx.plan.names.forward, at).await?;
    }
    let changed = window::changes_of_green(cx.plan, &green).await?.map(|changes| {
        format!(
            "GREEN'S SCHEMA WAS CHANGED since the migrations ({changes}): blue has not got that, rows of it cannot come back, and a \
             rollback waits until the change is taken back"
        )
    });
    let alarms: Vec<String> = watch_the_fence(cx).await?.into_iter().chain(changed).collect();
    Ok(match blue.subscription(&name).await? {
        Some(flow) if flow.enabled && flow.streaming && !alarms.is_empty() => {
            format!("blue follows green; {}", alarms.join("; "))
        }
        Some(flow) if flow.enabled && flow.streaming => "blue follows green, and a rollback now would lose nothing".to_owned(),
        Some(flow) => match stuck(cx.ports, Side::Blue, &flow).await {
            Some(Stuck::Rows(rows)) => {
                format!(
                    "BLUE CANNOT TAKE WHAT GREEN HAS ({rows}): a rollback is not possible until that fits; green keeps the changes for it"
                )
            }
            Some(Stuck::Fails(why) | Stuck::Rests(why)) => {
                format!("blue does not follow green now: {why}; green keeps the changes for it")
            }
            None => "blue follows green".to_owned(),
        },
        None => "blue's subscription is gone".to_owned(),
    })
}

/// Whether somebody could write to blue since green serves: what was seen is on record for as long as that lasts, also when it was
/// mended. Some: what a person is told of it.
async fn watch_the_fence(cx: &mut StepContext<'_>) -> Result<Option<String>, PortError> {
    window::note_broken_fence(cx).await?;
    let known: Vec<String> = cx.run().fence_broken().map(|(at, how)| format!("{how}, seen {at}")).collect();
    Ok((!known.is_empty()).then(|| {
        format!(
            "BLUE'S FENCE WAS BROKEN ({}): what was written there since is on blue alone, if anything was, and a rollback wants a word",
            known.join("; ")
        )
    }))
}

async fn give_up(cx: &mut StepContext<'_>, reason: &str) -> Result<String, PortError> {
    cx.learn(Fact::WayBackGivenUp { reason: reason.to_owned() }).await?;
    Ok(format!("a rollback would lose writes: {reason}"))
}

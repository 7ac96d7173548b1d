//! Everything that can be known before a restore begins. All problems at once; nothing is changed.

use super::place::{Content, Marker, State};
use super::{Place, Target};
use crate::snapshot::host::Version;
use crate::snapshot::tablespaces::tablespaces_beside;
use crate::snapshot::waldump::{self, Found, What};
use crate::snapshot::{
    Archived, Backup, BackupState, Estimate, History, Point, Reach, Searched, Segment, SnapshotStore, newest_before, reach,
};
use crate::word::{Failure, Lsn, PortError, Timestamp, misread_path};
use std::cmp::Ordering;

/// So much of the log is looked through for made tablespaces before anything is copied; of more, while the backup is.
const SEARCHED_FIRST_MAX: u64 = 256 << 20;

/// Room that replaying needs beside the copy: segments on their way, and those until the next restartpoint.
const REPLAY_ROOM_MAX: u64 = 1 << 30;

/// A restore that can begin, or why it cannot.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    pub target: Target,
    pub place: Place,
    /// `None` only together with a problem.
    pub backup: Option<Backup>,
    pub timeline: u32,
    /// Where the target lies, when that is known: the end of replay.
    pub until: Option<Lsn>,
    pub reach: Option<Reach>,
    /// The last commit in the archive, where it had to be looked up.
    pub last_commit: Option<Timestamp>,
    /// The tablespaces in the backup.
    pub tablespaces: Vec<u32>,
    /// How far the log was looked through for made tablespaces; `None`: that is still to be done, before anything is started.
    pub searched: Option<Searched>,
    pub estimate: Option<Estimate>,
    /// Why it would fail, or may not be begun. Empty: it can begin.
    pub problems: Vec<String>,
    /// What could not be known before.
    pub unknown: Vec<String>,
    /// A restore to the same target was begun here before; it is gone on with.
    pub goes_on: bool,
}

impl RestorePlan {
    /// WAL to replay, in bytes, as far as it is known.
    pub fn replay_bytes(&self) -> u64 {
        let end = self.until.or_else(|| self.reach.map(|reach| reach.end));
        end.zip(self.backup.as_ref()).map_or(0, |(end, backup)| end.bytes_since(backup.start))
    }

    /// How long it will take by what was measured before, in milliseconds.
    pub fn estimated_ms(&self) -> Option<u64> {
        let bytes = self.backup.as_ref()?.bytes;
        self.estimate.as_ref().map(|estimate| estimate.of(bytes, self.replay_bytes()))
    }
}

/// Looks at the store, the target and the place.
///
/// # Errors
/// Something could not be looked at: what is wrong is in the plan's problems instead.
pub async fn check(
    store: &dyn SnapshotStore,
    target: &Target,
    timeline: Option<u32>,
    place: &Place,
    now: Timestamp,
) -> Result<RestorePlan, PortError> {
    let mut plan = RestorePlan {
        target: target.clone(),
        place: place.clone(),
        backup: None,
        timeline: timeline.unwrap_or(1),
        until: None,
        reach: None,
        last_commit: None,
        tablespaces: Vec::new(),
        searched: None,
        estimate: store.notes().estimate().await?,
        problems: Vec::new(),
        unknown: Vec::new(),
        goes_on: false,
    };
    look_at_target(store, &mut plan, timeline, now).await?;
    if let Some(backup) = plan.backup.clone() {
        match store.verify(&backup).await {
            Err(error) if error.failure == Failure::Refused => plan.problems.push(error.chain()),
            other => other?,
        }
        plan.tablespaces = store.tablespaces(&backup).await?;
        look_at_room(store, &mut plan, &backup).await?;
        if plan.problems.is_empty() && plan.replay_bytes() <= SEARCHED_FIRST_MAX {
            search(store, &mut plan).await?;
        }
    }
    Ok(plan)
}

/// Looks through the log up to the target for tablespaces that were made; what is found is among the problems then. Nothing to do
/// when that was done.
pub(super) async fn search(store: &dyn SnapshotStore, plan: &mut RestorePlan) -> Result<(), PortError> {
    let Some(backup) = plan.backup.clone().filter(|_| plan.searched.is_none()) else { return Ok(()) };
    let along = Along::look(store, &backup, plan.timeline).await?;
    look_for_made_tablespaces(store, plan, &backup, &along).await
}

/// The archive along one history, from one backup.
struct Along {
    archived: Archived,
    history: History,
    reach: Reach,
}

impl Along {
    async fn look(store: &dyn SnapshotStore, backup: &Backup, timeline: u32) -> Result<Along, PortError> {
        let archived = store.archived(backup.segment_bytes).await?;
        let history = match waldump::history(store, timeline).await {
            // The backup brings the history of its own timeline.
            Err(_) if timeline == backup.timeline && !archived.histories.contains(&timeline) => History::alone(timeline),
            history => history?,
        };
        let from = if backup.holds_own_wal { backup.stop } else { backup.start };
        let reach = reach(&archived, &history, from);
        Ok(Along { archived, history, reach })
    }

    fn path<'a>(&'a self, backup: &Backup) -> waldump::Path<'a> {
        waldump::Path { archived: &self.archived, history: &self.history, from: backup.start, end: self.reach.end }
    }
}

async fn look_at_target(
    store: &dyn SnapshotStore,
    plan: &mut RestorePlan,
    timeline: Option<u32>,
    now: Timestamp,
) -> Result<(), PortError> {
    let backups = store.backups().await?;
    let whole: Vec<Backup> = backups.into_iter().filter(|backup| backup.state == BackupState::Whole).collect();
    let Some(newest) = whole.last() else {
        plan.problems.push(format!("there is no whole backup in {}", store.place()));
        return Ok(());
    };
    let point = locate(store, plan, &whole, timeline).await?;
    if !plan.problems.is_empty() {
        return Ok(());
    }
    let wanted = timeline.or(point.as_ref().map(|point| point.timeline));
    let history = match wanted {
        Some(timeline) if timeline != newest.timeline => Some(waldump::history(store, timeline).await?),
        _ => None,
    };
    let leads_there = |backup: &Backup| match (&history, wanted) {
        (Some(history), _) => {
            history.contains(backup.timeline) && history.left(backup.timeline).is_none_or(|left| backup.stop <= left)
        }
        (None, Some(timeline)) => backup.timeline == timeline,
        (None, None) => true,
    };
    let lsn = point.as_ref().map(|point| point.lsn).or(if let Target::Lsn(lsn) = plan.target { Some(lsn) } else { None });
    let before = |backup: &Backup| {
        leads_there(backup)
            && match (&plan.target, lsn) {
                (Target::Time(at), _) => backup.ended_at <= *at,
                (_, Some(lsn)) => backup.stop <= lsn,
                (_, None) => true,
            }
    };
    let Some(backup) = newest_before(&whole, before) else {
        let first = whole.iter().find(|backup| leads_there(backup));
        plan.problems.push(match first {
            Some(first) => format!(
                "{} lies before the first backup: the earliest point that can be reached is {} (at {})",
                plan.target, first.ended_at, first.stop
            ),
            None => format!("no backup leads to timeline {}", plan.timeline),
        });
        return Ok(());
    };
    plan.timeline = wanted.unwrap_or(backup.timeline);
    plan.backup = Some(backup.clone());
    plan.until = lsn;
    look_at_archive(store, plan, backup, now).await
}

async fn look_at_archive(
    store: &dyn SnapshotStore,
    plan: &mut RestorePlan,
    backup: &Backup,
    now: Timestamp,
) -> Result<(), PortError> {
    let along = Along::look(store, backup, plan.timeline).await?;
    plan.reach = Some(along.reach);
    if let Some(history_left) = along.history.left(backup.timeline)
        && plan.until.is_some_and(|until| until <= history_left)
        && plan.timeline != backup.timeline
    {
        plan.unknown.push(format!(
            "{} lies before timeline {} began: it is the same on timeline {}",
            plan.target, plan.timeline, backup.timeline
        ));
    }
    let gap = along.reach.gap.map(|gap| {
        format!(
            "segment {} is missing in {}, and everything after it is out of reach",
            gap.name(backup.segment_bytes),
            store.place()
        )
    });
    match &plan.target {
        Target::Latest => {
            plan.problems.extend(gap.map(|gap| format!("{gap}: name the last point that you want before {}", along.reach.end)));
        }
        Target::Time(at) => {
            let at = *at;
            plan.last_commit = waldump::last_commit(store, backup, &along.path(backup)).await?;
            plan.problems.extend(past_the_last_commit(at, plan.last_commit, now, gap));
        }
        Target::Lsn(_) | Target::Transaction(_) | Target::Point(_) => {
            if let Some(until) = plan.until
                && until > along.reach.end
            {
                let gap = gap.map(|gap| format!("; {gap}")).unwrap_or_default();
                plan.problems
                    .push(format!("{} ({until}) lies past the end of what is archived, {}{gap}", plan.target, along.reach.end));
            }
        }
    }
    Ok(())
}

/// Replayed, the making of a tablespace would give the restored server the folder that the server itself has.
async fn look_for_made_tablespaces(
    store: &dyn SnapshotStore,
    plan: &mut RestorePlan,
    backup: &Backup,
    along: &Along,
) -> Result<(), PortError> {
    // What lies past the target is not replayed; the segment after it may be read, to see that it is passed.
    let read_to = plan.until.map_or(along.reach.end, |until| Lsn(until.0 + backup.segment_bytes).min(along.reach.end));
    let path = waldump::Path { end: read_to, ..along.path(backup) };
    let end = Lsn(read_to.0.max(backup.stop.0) - 1);
    let segment = |lsn: Lsn| lsn.0 / backup.segment_bytes;
    let mut searched = Searched { first: segment(backup.start), last: segment(end), harmless: Vec::new() };
    for found in waldump::tablespaces(store, backup, &path).await? {
        let What::Tablespace { oid, folder } = &found.what else { continue };
        let after = match (&plan.target, plan.until) {
            (_, Some(until)) => found.at > until || (found.at == until && matches!(plan.target, Target::Lsn(_))),
            (Target::Time(at), None) => {
                waldump::last_commit(store, backup, &waldump::Path { end: found.at, ..path.clone() }).await? > Some(*at)
            }
            (_, None) => false,
        };
        if after || found.at < backup.start {
            searched.harmless.push(found.at);
            continue;
        }
        plan.problems.push(format!(
            "after backup {} began, at {}, tablespace {oid} was made in `{folder}`, and replaying that would write into that \
             folder of the server: name a point before it, or one after the next backup",
            backup.id, found.at
        ));
    }
    plan.searched = Some(searched);
    Ok(())
}

/// Replay knows that it has passed a time only by a commit after it.
fn past_the_last_commit(at: Timestamp, last: Option<Timestamp>, now: Timestamp, gap: Option<String>) -> Option<String> {
    let gap = gap.map(|gap| format!("; {gap}")).unwrap_or_default();
    if at > now {
        return Some(format!("{at} has not come yet"));
    }
    match last.map(|last| (last, last.cmp(&at))) {
        Some((_, Ordering::Greater)) => None,
        Some((last, _)) => Some(format!(
            "{at} lies past the end of what is archived: the last commit there is of {last}, and replay knows that it has passed a \
             time only by a later commit. Name an earlier time, `latest`, or wait until more is archived{gap}"
        )),
        None => Some(format!("{at} lies past the end of what is archived: there is no commit after the backup{gap}")),
    }
}

/// Where a restore point or a transaction's commit is; problems where it is not.
async fn locate(
    store: &dyn SnapshotStore,
    plan: &mut RestorePlan,
    whole: &[Backup],
    timeline: Option<u32>,
) -> Result<Option<Point>, PortError> {
    if !matches!(plan.target, Target::Point(_) | Target::Transaction(_)) {
        return Ok(None);
    }
    if let Target::Point(name) = &plan.target
        && let Some(point) = store.notes().points().await?.into_iter().rev().find(|point| point.name == *name)
    {
        return Ok(Some(point));
    }
    // Not one of ours: every segment from the first backup on is read, from the newest backwards.
    let first = whole.iter().find(|backup| timeline.is_none_or(|timeline| backup.timeline <= timeline)).unwrap_or(&whole[0]);
    let along = Along::look(store, first, timeline.unwrap_or(first.timeline)).await?;
    let path = along.path(first);
    let found = match &plan.target {
        Target::Point(name) => {
            waldump::find(store, first, &path, "XLOG", |what| matches!(what, What::RestorePoint { name: n } if n == name)).await?
        }
        Target::Transaction(xid) => {
            let ends = |what: &What| matches!(what, What::Commit { xid: x, .. } | What::Abort { xid: x } if x == xid);
            waldump::find(store, first, &path, "Transaction", ends).await?
        }
        _ => None,
    };
    match found {
        Some(Found { what: What::Abort { .. }, at, .. }) => {
            plan.problems.push(format!("{} was rolled back, at {at}", plan.target));
            Ok(None)
        }
        Some(found) => {
            let at = if let What::Commit { at, .. } = found.what { at } else { first.ended_at };
            // The record begins there and is replayed with the point; the place after it is not known, nor needed.
            Ok(Some(Point { name: plan.target.to_string(), lsn: found.at, timeline: timeline.unwrap_or(found.timeline), at }))
        }
        None => {
            let gap = along.reach.gap.map(|gap: Segment| format!("; segment {} is missing", gap.name(first.segment_bytes)));
            plan.problems.push(format!(
                "{} is not in what is archived, from {} to {}{}",
                plan.target,
                first.start,
                along.reach.end,
                gap.unwrap_or_default()
            ));
            Ok(None)
        }
    }
}

/// Why nothing could be restored into this place, whatever the backup and the point.
///
/// # Errors
/// It could not be looked at.
pub async fn look_at_place(store: &dyn SnapshotStore, place: &Place) -> Result<Vec<String>, PortError> {
    occupied(store, place, |_| false).await.map(|(problems, _)| problems)
}

/// What is in the way of a restore there; and how far an earlier one came that it goes on with.
async fn occupied(
    store: &dyn SnapshotStore,
    place: &Place,
    goes_on: impl Fn(&Marker) -> bool,
) -> Result<(Vec<String>, Option<State>), PortError> {
    let folder = place.data_dir.display();
    let (mut problems, mut left) = (Vec::new(), None);
    problems.extend(misread_path(&place.data_dir));
    problems.extend(misread_path(&store.notes().dir));
    match place.content().await? {
        Content::Nothing => (),
        Content::NoParent => problems.push(format!("the folder in which `{folder}` is to be made does not exist")),
        Content::Other => problems.push(format!("the folder `{folder}` is not empty, and no restore of ours made it")),
        Content::Ours(marker) if marker.state == State::Promoted => {
            problems.push(format!("in `{folder}` is a restored server that was promoted and may serve"));
        }
        Content::Ours(marker) if goes_on(&marker) => left = Some(marker.state),
        Content::Ours(marker) => problems.push(format!(
            "in `{folder}` is a restore to {} on port {}: `greenlight restore --discard` removes it",
            marker.target, marker.port
        )),
    }
    if place.is_being_copied_into(store).await? {
        problems.push(format!("another restore is copying into `{folder}`"));
    }
    if place.postmaster().await?.is_none() && place.host.port_is_taken(place.port).await? {
        problems.push(format!("port {} is taken on {}", place.port, place.host.spec));
    }
    Ok((problems, left))
}

async fn look_at_room(store: &dyn SnapshotStore, plan: &mut RestorePlan, backup: &Backup) -> Result<(), PortError> {
    let place = plan.place.clone();
    let folder = place.data_dir.display().to_string();
    if !place.data_dir.is_absolute() {
        plan.problems.push(format!("the folder `{folder}` is not an absolute path"));
        return Ok(());
    }
    if !plan.tablespaces.is_empty() && !place.is_free_beside().await? {
        plan.problems.push(format!(
            "the folder `{}`, for the tablespaces, is not empty, and this restore did not make it",
            tablespaces_beside(&place.data_dir).display()
        ));
    }
    let same = |marker: &Marker| marker.target == plan.target && marker.port == place.port;
    let (problems, left) = occupied(store, &place, same).await?;
    plan.problems.extend(problems);
    plan.goes_on = left.is_some();
    if left != Some(State::Ready) && plan.problems.is_empty() {
        let (free, wanted) =
            (place.host.free_bytes(&place.data_dir).await?, backup.bytes + plan.replay_bytes().min(REPLAY_ROOM_MAX));
        if free < wanted {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            plan.problems.push(format!(
                "the disk of `{folder}` has {} MiB free, and the restore needs {} MiB",
                mib(free),
                mib(wanted)
            ));
        }
    }
    match place.host.program("postgres", backup.major, Version::Same).await {
        Err(error) if error.failure == Failure::Refused => plan.problems.push(error.chain()),
        other => drop(other?),
    }
    Ok(())
}

//! What is in archived WAL, read by `pg_waldump` from one segment after the other: when the last commit was, and where a
//! restore point or a transaction's end lies.

use super::host::{SHORT, Version, quoted};
use super::{Archived, Backup, History, Segment, SnapshotStore};
use crate::word::{Lsn, PortError, Timestamp};

/// So many segments are read in one go before the search is given up: at 16 MiB each, 16 GiB.
const SEGMENTS_MAX: usize = 1024;

/// Where a record that ends a transaction or names a place begins, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: Lsn,
    pub(super) timeline: u32,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Commit { xid: u32, at: Timestamp },
    Abort { xid: u32 },
    RestorePoint { name: String },
}

/// The time of the last commit before the end of what can be reached, looked for from there backwards; `None`: there is none
/// in as many segments as were read.
pub(super) async fn last_commit(
    store: &dyn SnapshotStore,
    backup: &Backup,
    path: &Path<'_>,
) -> Result<Option<Timestamp>, PortError> {
    for segment in path.newest_first() {
        let found = read(store, backup, segment, "Transaction").await?;
        let commits = found.into_iter().filter_map(|found| match found.what {
            What::Commit { at, .. } => Some(at),
            _ => None,
        });
        if let Some(last) = commits.max() {
            return Ok(Some(last));
        }
    }
    Ok(None)
}

/// The latest record for which `wanted` is so.
pub(super) async fn find(
    store: &dyn SnapshotStore,
    backup: &Backup,
    path: &Path<'_>,
    rmgr: &str,
    wanted: impl Fn(&What) -> bool,
) -> Result<Option<Found>, PortError> {
    for segment in path.newest_first() {
        let found = read(store, backup, segment, rmgr).await?.into_iter().rev().find(|found| wanted(&found.what));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The segments that recovery would read.
#[derive(Clone, Debug)]
pub(super) struct Path<'a> {
    pub(super) archived: &'a Archived,
    pub(super) history: &'a History,
    pub(super) from: Lsn,
    pub(super) end: Lsn,
}

impl Path<'_> {
    fn newest_first(&self) -> impl Iterator<Item = Segment> {
        let size = self.archived.segment_bytes;
        let numbers = (self.from.0 / size..self.end.0.div_ceil(size)).rev().take(SEGMENTS_MAX);
        let there = |segment: &Segment| self.archived.segments.contains(segment) || self.archived.partial == Some(*segment);
        numbers.filter_map(move |number| {
            let newest = Segment { timeline: self.history.timeline_at(Lsn((number + 1) * size - 1)), number };
            let older = Segment { timeline: self.history.timeline_at(Lsn(number * size)), number };
            [newest, older].into_iter().find(there)
        })
    }
}

async fn read(store: &dyn SnapshotStore, backup: &Backup, segment: Segment, rmgr: &str) -> Result<Vec<Found>, PortError> {
    let program = store.host().program("pg_waldump", backup.major, Version::Same).await?;
    let name = segment.name(backup.segment_bytes);
    // A segment that ends before its file does is told as an error after all its records; what could not be read at all is
    // told by nothing having been printed, and then it is an error here too.
    let script = format!(
        r#"t=$(mktemp -d) || exit 1; trap 'rm -rf "$t"' EXIT
        {} || exit 1
        TZ=UTC "$1" --rmgr="$3" --path "$t" "$2" "$2" 2>"$t/said"; r=$?
        [ $r = 0 ] || grep -q 'invalid\|could not find a valid record' "$t/said" || {{ cat "$t/said" >&2; exit 1; }}"#,
        command_for(&store.restore_command(), &name)
    );
    let attempted = format!("read WAL segment {name}");
    let said = store.host().sh_within(&attempted, &script, &[&program, &name, rmgr], 10 * SHORT).await?;
    Ok(said.lines().filter_map(|line| found(line, segment.timeline)).collect())
}

/// The restore command for one file, into the script's folder `$t`.
pub(super) fn command_for(restore_command: &str, name: &str) -> String {
    let filled = restore_command.replace("%%", "\0").replace("%f", name).replace("%p", &format!("$t/{name}"));
    format!("sh -c {} >/dev/null", quoted(&filled.replace('\0', "%"))).replace("sh -c", "t=$t sh -c")
}

/// The content of a history file in the archive.
pub(super) async fn history(store: &dyn SnapshotStore, timeline: u32) -> Result<History, PortError> {
    if timeline == 1 {
        return Ok(History::alone(1));
    }
    let name = format!("{timeline:08X}.history");
    let attempted = format!("read the history of timeline {timeline}");
    let get = command_for(&store.restore_command(), &name);
    let script = format!(r#"t=$(mktemp -d) || exit 1; trap 'rm -rf "$t"' EXIT; {get} && cat "$t/$1""#);
    let said = store.host().sh_within(&attempted, &script, &[&name], 2 * SHORT).await?;
    History::parse(timeline, &said).ok_or_else(|| PortError::refused(attempted).because(format!("`{name}` is no history file")))
}

/// Reads a line such as
/// `rmgr: Transaction len (rec/tot): 34/34, tx: 735, lsn: 0/01527FC0, prev 0/01527F88, desc: COMMIT 2026-01-05 10:00:00.123456 UTC`.
fn found(line: &str, timeline: u32) -> Option<Found> {
    let (head, desc) = line.split_once("desc: ")?;
    let field = |name: &str| head.split_once(name)?.1.split(',').next().map(str::trim);
    let at = field("lsn: ")?.parse().ok()?;
    let (kind, rest) = desc.split_once(' ')?;
    // Of a prepared transaction the record says which it was; its own number is none.
    let prepared =
        desc.split_once("_PREPARED ").and_then(|(_, rest)| rest.split_once(':')).and_then(|(xid, _)| xid.trim().parse().ok());
    let xid = || prepared.or_else(|| field("tx: ")?.parse().ok());
    let what = match kind {
        "COMMIT" | "COMMIT_PREPARED" => {
            let time = if kind == "COMMIT" { rest } else { rest.split_once(": ")?.1 };
            What::Commit { xid: xid()?, at: time_of(time)? }
        }
        "ABORT" | "ABORT_PREPARED" => What::Abort { xid: xid()? },
        "RESTORE_POINT" => What::RestorePoint { name: rest.trim_end().to_owned() },
        _ => return None,
    };
    Some(Found { at, timeline, what })
}

/// From `2026-01-05 10:00:00.123456 UTC; inval msgs: ...`.
fn time_of(text: &str) -> Option<Timestamp> {
    let stamp = text.split(';').next()?.trim().strip_suffix(" UTC")?;
    format!("{}Z", stamp.replacen(' ', "T", 1)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_from_what_the_program_prints() {
        let line = |desc: &str| {
            format!(
                "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/01527FC0, prev 0/01527F88, desc: {desc}"
            )
        };
        let of = |desc: &str| found(&line(desc), 1).map(|found| found.what);
        let at: Timestamp = "2026-01-05T10:00:00.123456Z".parse().unwrap();
        assert_eq!(of("COMMIT 2026-01-05 10:00:00.123456 UTC"), Some(What::Commit { xid: 735, at }));
        assert_eq!(of("COMMIT 2026-01-05 10:00:00.123456 UTC; inval msgs: catcache 7"), Some(What::Commit { xid: 735, at }));
        assert_eq!(of("COMMIT_PREPARED 730: 2026-01-05 10:00:00.123456 UTC"), Some(What::Commit { xid: 730, at }));
        assert_eq!(of("ABORT 2026-01-05 10:00:00.123456 UTC"), Some(What::Abort { xid: 735 }));
        assert_eq!(of("RESTORE_POINT greenlight_r1a2b3c4"), Some(What::RestorePoint { name: "greenlight_r1a2b3c4".to_owned() }));
        assert_eq!(of("RUNNING_XACTS nextXid 736"), None);
        assert_eq!(found(&line("ABORT x"), 3).unwrap().at, Lsn(0x152_7FC0));
    }

    #[test]
    fn the_command_that_gets_a_file_is_filled_in() {
        let command = command_for(r#"cp '/a%%b'/%f "%p""#, "00000002.history");
        assert_eq!(command, r#"t=$t sh -c 'cp '\''/a%b'\''/00000002.history "$t/00000002.history"' >/dev/null"#);
    }
}

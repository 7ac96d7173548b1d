//! What is in archived WAL, read by `pg_waldump` from one segment after the other: when the last commit was, and where a
//! restore point or a transaction's end lies.

use super::host::{SHORT, Version, quoted};
use super::{Archived, Backup, History, Segment, SnapshotStore};
use crate::word::{Lsn, PortError, Timestamp};

/// So many segments are read in one go before the search is given up: at 16 MiB each, 16 GiB.
const SEGMENTS_MAX: usize = 1024;
/// Bytes of the log that are got at once, into the host's folder for temporary files.
const READ_AT_ONCE: u64 = 64 << 20;

/// Where a record that ends a transaction or names a place begins, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: Lsn,
    pub(super) timeline: u32,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Commit {
        xid: u32,
        at: Timestamp,
    },
    Abort {
        xid: u32,
    },
    RestorePoint {
        name: String,
    },
    /// With a folder of its own, not one in the data folder.
    Tablespace {
        oid: u32,
        folder: String,
    },
}

/// The time of the last commit before the end of what can be reached, looked for from there backwards; `None`: there is none
/// in as many segments as were read.
pub(super) async fn last_commit(
    store: &dyn SnapshotStore,
    backup: &Backup,
    path: &Path<'_>,
) -> Result<Option<Timestamp>, PortError> {
    for segment in path.newest_first().take(SEGMENTS_MAX) {
        let found = read(store, backup, segment, "Transaction").await?;
        let commits = found.into_iter().filter(|found| found.at < path.end).filter_map(|found| match found.what {
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
    for segment in path.newest_first().take(SEGMENTS_MAX) {
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
        let numbers = (self.from.0 / size..self.end.0.div_ceil(size)).rev();
        let there = |segment: &Segment| self.archived.segments.contains(segment) || self.archived.partial == Some(*segment);
        numbers.filter_map(move |number| {
            let newest = Segment { timeline: self.history.timeline_at(Lsn((number + 1) * size - 1)), number };
            let older = Segment { timeline: self.history.timeline_at(Lsn(number * size)), number };
            [newest, older].into_iter().find(there)
        })
    }
}

/// Every tablespace that was made along the path. All of it is read, several segments at a time, and each time with the one
/// after them, in which a record of theirs may end.
pub(super) async fn tablespaces(store: &dyn SnapshotStore, backup: &Backup, path: &Path<'_>) -> Result<Vec<Found>, PortError> {
    let size = backup.segment_bytes;
    let at_once = usize::try_from(READ_AT_ONCE / size).unwrap_or(1).max(1);
    let mut segments: Vec<Segment> = path.newest_first().collect();
    segments.reverse();
    let mut found = Vec::new();
    for run in segments.chunk_by(|one, next| next.number == one.number + 1 && next.timeline == one.timeline) {
        for part in run.chunks(at_once) {
            let last = part[part.len() - 1];
            let after = segments.iter().find(|after| after.number == last.number + 1);
            // Whatever timeline that one's file is of, up to where it was left it is the same.
            let named = after.map(|after| (*after, Segment { timeline: last.timeline, ..*after }));
            let files: Vec<(Segment, Segment)> = part.iter().map(|segment| (*segment, *segment)).chain(named).collect();
            found.extend(read_files(store, backup, &files, "Tablespace").await?);
        }
    }
    found.sort_by_key(|found| found.at);
    found.dedup();
    Ok(found)
}

async fn read(store: &dyn SnapshotStore, backup: &Backup, segment: Segment, rmgr: &str) -> Result<Vec<Found>, PortError> {
    read_files(store, backup, &[(segment, segment)], rmgr).await
}

/// The records of neighbouring segments, each got by its name and called by another.
async fn read_files(
    store: &dyn SnapshotStore,
    backup: &Backup,
    files: &[(Segment, Segment)],
    rmgr: &str,
) -> Result<Vec<Found>, PortError> {
    let program = store.host().program("pg_waldump", backup.major, Version::Same).await?;
    let size = backup.segment_bytes;
    let (Some((_, first)), Some((_, last))) = (files.first(), files.last()) else { return Ok(Vec::new()) };
    let get = |(file, named): &(Segment, Segment)| {
        format!("{} || exit 1\n", command_for(&store.look_command(), &file.name(size), &named.name(size)))
    };
    // A segment that ends before its file does is told as an error after all its records; what could not be read at all is
    // told by nothing having been printed, and then it is an error here too.
    let script = format!(
        r#"t=$(mktemp -d) || exit 1; trap 'rm -rf "$t"' EXIT
        {}
        TZ=UTC "$1" --rmgr="$4" --path "$t" "$2" "$3" 2>"$t/said"; r=$?
        [ $r = 0 ] || grep -q 'invalid\|could not find a valid record' "$t/said" || {{ cat "$t/said" >&2; exit 1; }}"#,
        files.iter().map(get).collect::<String>()
    );
    let (from, to) = (first.name(size), last.name(size));
    let attempted = if from == to { format!("read WAL segment {from}") } else { format!("read WAL segments {from} to {to}") };
    let said = store.host().sh_within(&attempted, &script, &[&program, &from, &to, rmgr], 10 * SHORT).await?;
    Ok(found_in(&said, first.timeline))
}

/// What the program's lines say.
pub(super) fn found_in(said: &str, timeline: u32) -> Vec<Found> {
    said.lines().filter_map(|line| found(line, timeline)).collect()
}

/// The restore command for one file, into the script's folder `$t`, where it is called `named`.
pub(super) fn command_for(restore_command: &str, name: &str, named: &str) -> String {
    let filled = restore_command.replace("%%", "\0").replace("%f", name).replace("%p", &format!("$t/{named}"));
    format!("sh -c {} >/dev/null", quoted(&filled.replace('\0', "%"))).replace("sh -c", "t=$t sh -c")
}

/// The content of a history file in the archive.
pub(super) async fn history(store: &dyn SnapshotStore, timeline: u32) -> Result<History, PortError> {
    if timeline == 1 {
        return Ok(History::alone(1));
    }
    let name = format!("{timeline:08X}.history");
    let attempted = format!("read the history of timeline {timeline}");
    let get = command_for(&store.restore_command(), &name, &name);
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
        "CREATE" if head.contains("Tablespace") => {
            let (oid, folder) = rest.split_once(' ')?;
            let folder = folder.trim_end().strip_prefix('"')?.strip_suffix('"')?.to_owned();
            // One without a folder of its own is made in the data folder.
            Some(What::Tablespace { oid: oid.parse().ok()?, folder }).filter(|_| rest.contains("\"/"))?
        }
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
        let made = |desc: &str| {
            found(&format!("rmgr: Tablespace  len (rec/tot): 53/ 53, tx: 728, lsn: 0/20514838, prev 0/20514788, desc: {desc}"), 1)
        };
        let folder = "/srv/fast disk".to_owned();
        assert_eq!(made(r#"CREATE 16392 "/srv/fast disk""#).unwrap().what, What::Tablespace { oid: 16392, folder });
        assert_eq!(made(r#"CREATE 16392 """#), None, "it is in the data folder");
        assert_eq!(made("DROP 16392"), None);
        assert_eq!(found(&line("ABORT x"), 3).unwrap().at, Lsn(0x152_7FC0));
    }

    #[test]
    fn the_command_that_gets_a_file_is_filled_in() {
        let command = command_for(r#"cp '/a%%b'/%f "%p""#, "00000002.history", "00000002.history");
        assert_eq!(command, r#"t=$t sh -c 'cp '\''/a%b'\''/00000002.history "$t/00000002.history"' >/dev/null"#);
    }
}

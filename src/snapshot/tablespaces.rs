//! Tablespaces: folders outside the data folder, to which links in it point.
//!
//! **Invariant:** nothing that we copy or start keeps a link to a folder of the server it was copied from. Replaying that a
//! tablespace was made sets such a link anew, to the very folder that the server has; so it is never replayed.

use super::host::{Host, SHORT, Version, quoted, text};
use super::source::Tablespace;
use super::waldump::{self, What};
use super::{Backup, Segment};
use crate::word::{Lsn, PortError};
use std::path::{Path, PathBuf};

/// Where a restore into a data folder puts its tablespaces: not into it, since programs such as pgBackRest would refuse to
/// back that server up.
pub(super) fn tablespaces_beside(data_dir: &Path) -> PathBuf {
    // A slash at its end would lead into it.
    let mut beside = data_dir.components().collect::<PathBuf>().into_os_string();
    beside.push(".tablespaces");
    beside.into()
}

/// For `pg_basebackup`: each tablespace into a folder below `into`, called by its number.
pub(super) fn mappings(tablespaces: &[Tablespace], into: &Path) -> Vec<String> {
    let escaped = |path: &str| path.replace('=', r"\=");
    let one = |tablespace: &Tablespace| {
        let to = into.join(tablespace.oid.to_string());
        format!("--tablespace-mapping={}={}", escaped(&tablespace.folder), escaped(&text(&to)))
    };
    tablespaces.iter().map(one).collect()
}

/// One that was made between the question which there are and the copy was not mapped.
pub(super) async fn none_elsewhere(host: &Host, backup: &Path) -> Result<(), PortError> {
    let script = r#"for link in "$1"/data/pg_tblspc/*; do
            [ -L "$link" ] || continue
            case $(readlink "$link") in "$1"/tablespaces/*) ;; *) echo "${link##*/} was made meanwhile" >&2; exit 1 ;; esac
        done"#;
    let copied = host.sh("find every tablespace in the backup", script, &[&text(backup)]).await;
    copied.map(drop).map_err(|error| error.hint("take the backup again"))
}

/// In the log that the backup needs, and brings along, there must be no making of a tablespace.
pub(super) async fn none_made_meanwhile(host: &Host, data: &Path, backup: &Backup) -> Result<(), PortError> {
    let attempted = "read the log of the backup";
    let program = host.program("pg_waldump", backup.major, Version::Same).await?;
    let first = Segment::of(backup.start, backup.timeline, backup.segment_bytes).name(backup.segment_bytes);
    let script = r#""$1" --rmgr=Tablespace --timeline="$3" --start="$4" --end="$5" --path="$2/pg_wal" "$6""#;
    let (start, stop) = (backup.start.to_string(), backup.stop.to_string());
    let args = [program, text(data), backup.timeline.to_string(), start, stop, first];
    let said = host.sh_within(attempted, script, &args.each_ref().map(String::as_str), 10 * SHORT).await?;
    let made = waldump::found_in(&said, backup.timeline).into_iter().find(|found| matches!(found.what, What::Tablespace { .. }));
    match made {
        None => Ok(()),
        Some(_) => Err(PortError::refused("take a base backup")
            .because("a tablespace was made meanwhile, and restoring it would write into that one's folder")
            .hint("take the backup again")),
    }
}

/// Points every link of a copied data folder to the tablespace's folder beside it.
///
/// # Errors
/// `Refused` when a tablespace is not there: then nothing may be started.
pub(super) async fn relink(host: &Host, data_dir: &Path) -> Result<(), PortError> {
    // A map of the tablespaces is of the server's own folders, and recovery would make links from it.
    let script = r#"for link in "$1"/pg_tblspc/*; do
            [ -L "$link" ] || continue
            [ -d "$2/${link##*/}" ] || { echo "tablespace ${link##*/} is not there" >&2; exit 1; }
            ln -sfn "$2/${link##*/}" "$link" || exit 1
        done
        rm -f "$1/tablespace_map""#;
    let attempted = format!("point the links of `{}` to its own tablespaces", data_dir.display());
    host.sh(&attempted, script, &[&text(data_dir), &text(&tablespaces_beside(data_dir))]).await.map(drop)
}

/// How far the log was looked through for made tablespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// The first and the last segment. That one may have grown since, and more may have come.
    pub first: u64,
    pub last: u64,
    /// Found, and not replayed: before the backup or after the target.
    pub harmless: Vec<Lsn>,
}

/// A script that gets a segment for recovery, `$1` to `$2`, by the restore command. What came since the search is looked
/// through: recovery ends rather than make a tablespace where the server has it.
pub(super) fn guard(searched: &Searched, segment_bytes: u64, waldump: &str, restore_command: &str) -> String {
    let get = restore_command.replace("%%", "\0").replace("%f", "$1").replace("%p", "$2").replace('\0', "%");
    let part = |number: u64| Segment { timeline: 0, number }.name(segment_bytes)[8..].to_owned();
    let place = |lsn: &Lsn| format!(" -e 'lsn: {:X}/0*{:X},'", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
    format!(
        r#"get() {{ {get}; }}
get "$1" "$2" || exit
part=${{1#????????}}
case $1 in *.*) exit 0 ;; esac
[ ! "$part" \< {last} ] || exit 0
t=$(mktemp -d) || exit 126
trap 'rm -rf "$t"' EXIT
cp "$2" "$t/$1" || exit 126
first=$1
# A record may begin in the segment before.
if [ "$part" \> {first} ]; then
    log=$((0x$(printf %.8s "$part"))) piece=$((0x${{part#????????}}))
    if [ $piece -gt 0 ]; then piece=$((piece - 1)); else log=$((log - 1)) piece={piece_max}; fi
    before=$(printf %.8s "$1")$(printf %08X%08X $log $piece)
    get "$before" "$t/$before" 2>/dev/null && first=$before
fi
{waldump} --rmgr=Tablespace --path="$t" "$first" "$1" >"$t/made" 2>"$t/said" ||
    grep -q 'invalid\|could not find a valid record' "$t/said" || {{ cat "$t/said" >&2; exit 126; }}
grep 'desc: CREATE [0-9]* "/' "$t/made" | grep -v -e '^$'{harmless} >&2 || exit 0
echo 'FATAL: greenlight does not replay that a tablespace is made where the server has it' >&2
exit 126
"#,
        last = part(searched.last),
        first = part(searched.first),
        piece_max = (1_u64 << 32) / segment_bytes - 1,
        harmless = searched.harmless.iter().map(place).collect::<String>(),
        waldump = quoted(waldump),
    )
}

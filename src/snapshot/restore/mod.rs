//! A new server from a backup and the archive, at a point in time.
//!
//! Everything that can be known is looked at first (`check`), then the backup is copied into an empty folder, the server
//! started on a free port, and the log replayed until the point is reached (`recover`). There it stands still, open for
//! reading, until it is promoted or discarded (`conclude`).
//!
//! **Invariant:** a file `greenlight.restore` in the folder says whose it is, from the first byte to the last. Without it
//! nothing is started, changed or removed there.

mod check;
mod conclude;
mod configure;
mod place;
mod recover;

pub use check::{RestorePlan, check, look_at_place};
pub use conclude::{discard, promote};
pub use place::{Marker, Place, State};
pub use recover::{Restored, recover};

use crate::word::{Lsn, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Up to where the log is replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Everything that the archive holds.
    Latest,
    /// Every transaction that committed at this time or before.
    Time(Timestamp),
    /// Everything whose record begins before this.
    Lsn(Lsn),
    /// Up to the commit of this transaction, with it.
    Transaction(u32),
    /// Up to the restore point of this name.
    Point(String),
}

impl FromStr for Target {
    type Err = String;

    /// Reads `latest`, a time with its zone, a place such as `16/B374D848`, `xid:735`, `point:NAME`, or `run:r1a2b3c4`, which
    /// is the point just before that run's first change.
    fn from_str(text: &str) -> Result<Target, String> {
        if text == "latest" {
            return Ok(Target::Latest);
        }
        if let Some(xid) = text.strip_prefix("xid:") {
            let number = xid
                .parse()
                .map_err(|_| format!("`{xid}` is no transaction: write its number, as `pg_current_xact_id` gives it"))?;
            return Ok(Target::Transaction(number));
        }
        if let Some(name) = text.strip_prefix("point:").filter(|name| !name.is_empty()) {
            return Ok(Target::Point(name.to_owned()));
        }
        if let Some(run) = text.strip_prefix("run:") {
            return Ok(Target::Point(crate::plan::Names::new(&run.parse::<RunId>()?).restore_point));
        }
        if let Ok(lsn) = text.parse() {
            return Ok(Target::Lsn(lsn));
        }
        let spaced = text.replacen(' ', "T", 1);
        let zoned = spaced.parse::<jiff::Zoned>().map(|zoned| zoned.timestamp());
        zoned.or_else(|_| spaced.parse::<Timestamp>()).map(Target::Time).map_err(|_| {
            format!(
                "`{text}` is no point to restore to: write `latest`, a time with its zone (`2026-01-05T10:00:00Z`, \
                 `2026-01-05T10:00:00+01:00`, `2026-01-05T10:00:00[Europe/Berlin]`), a place in the log (`16/B374D848`), \
                 `xid:735`, `point:NAME`, or `run:r1a2b3c4` for just before that run"
            )
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Latest => f.write_str("everything that is archived"),
            Target::Time(at) => write!(f, "{at}"),
            Target::Lsn(lsn) => write!(f, "{lsn}"),
            Target::Transaction(xid) => write!(f, "transaction {xid}"),
            Target::Point(name) => write!(f, "restore point `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_people_write_them() {
        let at: Timestamp = "2026-01-05T09:00:00.25Z".parse().unwrap();
        for text in ["2026-01-05T09:00:00.25Z", "2026-01-05 10:00:00.25+01:00", "2026-01-05T10:00:00.25[Europe/Berlin]"] {
            assert_eq!(text.parse(), Ok(Target::Time(at)), "{text}");
        }
        assert_eq!("latest".parse(), Ok(Target::Latest));
        assert_eq!("16/B374D848".parse(), Ok(Target::Lsn(Lsn(0x16_B374_D848))));
        assert_eq!("xid:735".parse(), Ok(Target::Transaction(735)));
        assert_eq!("point:before import".parse(), Ok(Target::Point("before import".to_owned())));
        assert_eq!("run:r1a2b3c4".parse(), Ok(Target::Point("greenlight_r1a2b3c4".to_owned())));
        for text in ["", "2026-01-05T10:00:00", "yesterday", "xid:x", "run:nothing", "point:"] {
            assert!(text.parse::<Target>().is_err(), "{text}: without a zone nobody knows when");
        }
    }
}

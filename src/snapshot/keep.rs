//! Which backups may go.
//!
//! **Invariant:** pure; and whatever the limits say, the newest whole backup stays, and for everything that is needed the
//! newest backup from which it can be reached.

use super::{Backup, BackupState};
use crate::plan::RetentionSpec;
use crate::word::{Lsn, Timestamp};

/// A place that must stay recoverable, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub lsn: Lsn,
    pub at: Timestamp,
    /// Such as `run r1a2b3c4` or `restore point before_import`.
    pub what: String,
}

/// The backups that may go, oldest first, and for each need the backup that stays for it alone.
pub fn removable<'a>(
    backups: &'a [Backup],
    keep: &RetentionSpec,
    needs: &[Need],
    now: Timestamp,
) -> (Vec<&'a Backup>, Vec<String>) {
    let mut whole: Vec<&Backup> = backups.iter().filter(|backup| backup.state == BackupState::Whole).collect();
    whole.sort_by_key(|backup| backup.ended_at);
    let by_count = whole.len().saturating_sub(keep.count.max(1) as usize);
    // From the newest one before the beginning of that time, every moment of it can be reached. It is counted back from the newest
    // backup: a clock that is days ahead, or a store that has failed for days, makes none old.
    let by_age = keep.age_secs.zip(whole.last()).and_then(|(secs, newest)| {
        let since = now
            .min(newest.ended_at)
            .checked_sub(jiff::SignedDuration::from_secs(i64::try_from(secs).unwrap_or(i64::MAX)))
            .ok()?;
        Some(whole.iter().rposition(|backup| backup.ended_at <= since).unwrap_or(0))
    });
    let first_kept = by_age.map_or(by_count, |by_age| by_count.min(by_age));
    let mut kept_for = Vec::new();
    let mut gone: Vec<&Backup> = whole[..first_kept].to_vec();
    for need in needs {
        let reaches = |backup: &&Backup| backup.stop <= need.lsn && backup.ended_at <= need.at;
        if let Some(backup) = whole.iter().rev().find(|backup| reaches(backup))
            && let Some(at) = gone.iter().position(|gone| gone.id == backup.id)
        {
            gone.remove(at);
            kept_for.push(format!("{} stays for {}", backup.id, need.what));
        }
    }
    let partial = backups.iter().filter(|backup| backup.state == BackupState::Partial);
    (partial.chain(gone).collect(), kept_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(hours: i64, state: BackupState) -> Backup {
        let at = Timestamp::from_second(hours * 3600).unwrap();
        let lsn = Lsn(hours.unsigned_abs() << 24);
        Backup {
            id: format!("b{hours}"),
            state,
            timeline: 1,
            start: lsn,
            stop: lsn,
            began_at: at,
            ended_at: at,
            bytes: 0,
            major: 15,
            system_identifier: 1,
            segment_bytes: 16 << 20,
            holds_own_wal: true,
            verified_at: None,
        }
    }

    fn gone(count: u32, age_hours: Option<u64>, needs: &[i64]) -> Vec<String> {
        let backups = [10, 20, 30, 40].map(|hours| backup(hours, BackupState::Whole));
        let need = |hours: &i64| Need {
            lsn: Lsn(hours.unsigned_abs() << 24),
            at: Timestamp::from_second(hours * 3600).unwrap(),
            what: "a run".to_owned(),
        };
        let needs: Vec<Need> = needs.iter().map(need).collect();
        let keep = RetentionSpec { count, age_secs: age_hours.map(|hours| hours * 3600) };
        let now = Timestamp::from_second(50 * 3600).unwrap();
        removable(&backups, &keep, &needs, now).0.iter().map(|backup| backup.id.clone()).collect()
    }

    #[test]
    fn what_count_or_age_keeps_stays() {
        assert_eq!(gone(2, None, &[]), ["b10", "b20"]);
        assert_eq!(gone(9, None, &[]), [""; 0]);
        assert_eq!(gone(1, Some(15), &[]), ["b10"], "15 hours before the newest was hour 25, which is reached from b20");
        assert_eq!(gone(1, Some(100), &[]), [""; 0]);
        assert_eq!(gone(0, None, &[]), ["b10", "b20", "b30"], "the newest always stays");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_backup_old() {
        let backups = [10, 20, 30].map(|hours| backup(hours, BackupState::Whole));
        let keep = RetentionSpec { count: 1, age_secs: Some(48 * 3600) };
        let years_ahead = Timestamp::from_second(100_000 * 3600).unwrap();
        assert!(removable(&backups, &keep, &[], years_ahead).0.is_empty());
    }

    #[test]
    fn the_backup_that_a_need_is_reached_from_stays() {
        assert_eq!(gone(1, None, &[25]), ["b10", "b30"]);
        assert_eq!(gone(1, None, &[12, 45]), ["b20", "b30"]);
        assert_eq!(gone(1, None, &[5]), ["b10", "b20", "b30"], "no backup reaches it any more");
    }

    #[test]
    fn a_backup_under_way_is_left_alone_and_an_abandoned_one_goes() {
        let backups = [backup(1, BackupState::Partial), backup(2, BackupState::Working), backup(3, BackupState::Whole)];
        let now = Timestamp::from_second(0).unwrap();
        let (gone, _) = removable(&backups, &RetentionSpec { count: 1, age_secs: None }, &[], now);
        assert_eq!(gone.iter().map(|backup| backup.id.as_str()).collect::<Vec<_>>(), ["b1"]);
    }
}

//! Whether the backups that the playbook names are a way back, how far it reaches, and how long it takes.

use super::{Look, fine, handled, refused};
use crate::plan::figures::{bytes, milliseconds};
use crate::plan::{Finding, NewestBackup, SnapshotSpec, StepName};
use crate::word::Timestamp;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let (Some(spec), Some(seen)) = (&look.input.snapshot, &look.survey.snapshots) else { return Vec::new() };
    match seen {
        Err(why) => {
            let seen = format!("The backups could not be looked at: {why}.");
            vec![refused(
                "backups",
                seen,
                "see that `snapshot` names the right host and folder, and that Greenlight may work there",
            )]
        }
        Ok(store) => match &store.newest {
            None => vec![handled(
                "backups",
                format!("There is no backup in {} yet.", store.place),
                StepName::Snapshot,
                "taken, and verified",
            )],
            Some(newest) => vec![age(spec, newest, look.now), recovery(newest)],
        },
    }
}

fn age(spec: &SnapshotSpec, newest: &NewestBackup, now: Timestamp) -> Finding {
    let age = u64::try_from(now.duration_since(newest.ended_at).as_secs()).unwrap_or(0);
    let seen = format!("The newest backup is {} of {}.", newest.id, newest.ended_at);
    let how = if age > spec.max_age_secs { "too old: another is taken, and verified" } else { "read again against its manifest" };
    handled("backups", seen, StepName::Snapshot, how)
}

fn recovery(newest: &NewestBackup) -> Finding {
    let takes = match newest.restore_ms {
        Some(ms) => format!("would take about {}", milliseconds(ms.div_ceil(1000) * 1000)),
        None => "was never measured: `greenlight snapshot prove` does".to_owned(),
    };
    let seen = format!(
        "Its archive reaches to {} without a gap, {} after it; a restore up to there {takes}.",
        newest.recoverable_to,
        bytes(newest.replay_bytes)
    );
    fine("recovery", seen)
}

#[cfg(test)]
mod tests {
    use crate::plan::preflight::example::{World, assert_answers};
    use crate::plan::{HostSpec, NewestBackup, RetentionSpec, SnapshotSpec, SnapshotSurvey, StoreSpec, WalSpec};
    use crate::word::{Lsn, Timestamp};

    fn with_store(seen: Result<Option<NewestBackup>, String>) -> World {
        World::with(|world| {
            world.input.snapshot = Some(SnapshotSpec {
                store: StoreSpec::Basebackup { wal: WalSpec::Receive },
                host: HostSpec::Local,
                dir: "/backups".into(),
                url: None,
                bin_dir: None,
                ssh_config: None,
                retention: RetentionSpec { count: 7, age_secs: None },
                max_age_secs: 3600,
                prove: false,
                keep_blue_secs: 0,
            });
            world.survey.snapshots = Some(seen.map(|newest| SnapshotSurvey { place: "/backups".to_owned(), newest }));
        })
    }

    fn newest(age_secs: i64) -> NewestBackup {
        NewestBackup {
            id: "b1".to_owned(),
            ended_at: Timestamp::from_second(-age_secs).unwrap(),
            bytes: 1 << 30,
            recoverable_to: Lsn(0x500),
            replay_bytes: 1 << 20,
            restore_ms: Some(61_500),
        }
    }

    #[test]
    fn the_plan_says_what_the_backups_are_worth() {
        assert_answers(&with_store(Err("no such host".to_owned())), "backups", "refused");
        let world = with_store(Ok(None));
        assert_answers(&world, "backups", "handled");
        assert_answers(&world, "no-archive", "none");
        assert!(world.finding("backups").unwrap().seen.contains("no backup"));
        let world = with_store(Ok(Some(newest(60))));
        assert!(world.finding("recovery").unwrap().seen.contains("about 62 s"), "{:?}", world.finding("recovery"));
        assert!(format!("{:?}", world.finding("backups").unwrap().answer).contains("read again"));
        let old = with_store(Ok(Some(newest(4000))));
        assert!(format!("{:?}", old.finding("backups").unwrap().answer).contains("too old"));
        assert_answers(&World::new(), "backups", "none");
    }
}

//! How long a restore takes, beside the same by hand in the same run: `cp` of the backup, and recovery of the same WAL.

use crate::cli::arguments::LabArgs;
use crate::cli::print;
use crate::lab::free_port;
use crate::plan::{HostSpec, RetentionSpec, SnapshotSpec, StoreSpec, WalSpec};
use crate::postgres::client::{Session, SessionOptions, cell, one};
use crate::postgres::programs::Installed;
use crate::process;
use crate::provider::{LocalServer, Login, NewServer, StopMode, crash_in};
use crate::snapshot::restore::{self, Place, Target};
use crate::snapshot::{Backup, SnapshotStore};
use crate::wire;
use crate::word::{Clock, Endpoint, Lsn, RunId, Secret, SystemClock};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(10);
/// Each way is gone so often, in turn, and its best time counts: what else the machine does is nobody's merit.
const ROUNDS: u32 = 3;

#[derive(Debug, Serialize)]
pub(super) struct RestoreTimes {
    pub(super) data_mib: u64,
    pub(super) wal_mib: u64,
    pub(super) restore_ms: f64,
    pub(super) by_hand_ms: f64,
    /// Of that, what it takes to verify the backup before anything is started.
    pub(super) verify_ms: f64,
    /// The restore, without the verification, as a multiple of the way by hand.
    pub(super) to_by_hand: f64,
}

/// A server of its own, with about `mib` MiB of data and as much WAL after the backup.
pub(super) async fn measure(args: &LabArgs, mib: u64) -> anyhow::Result<RestoreTimes> {
    let dir = args.dir.with_extension("restore");
    let measured = async {
        std::fs::create_dir(&dir).with_context(|| format!("could not make `{}`", dir.display()))?;
        process::give_to_server_user(&dir).await?;
        Bench::up(args, &dir).await?.measure(mib).await
    };
    let measured = measured.await;
    for name in ["blue", "restored", "by-hand"] {
        crash_in(&dir.join(name));
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("could not remove `{}`", dir.display()))?;
    measured
}

struct Bench {
    dir: PathBuf,
    blue: LocalServer,
    at: Endpoint,
    store: Arc<dyn SnapshotStore>,
    clock: Arc<SystemClock>,
}

impl Bench {
    async fn up(args: &LabArgs, dir: &Path) -> anyhow::Result<Bench> {
        let path = wire::environment("PATH").map(std::ffi::OsString::from);
        let installed = Installed::find(args.pg_dirs.as_deref(), path.as_deref()).await;
        let clock = Arc::new(SystemClock::new());
        let port = free_port();
        let blue = LocalServer {
            programs: installed.server(args.postgres)?,
            data_dir: dir.join("blue"),
            port,
            log: dir.join("blue.log"),
            durable: false,
            clock: clock.clone(),
        };
        let wal = dir.join("store/wal");
        let password = Secret::new(RunId::random().to_string() + RunId::random().as_str());
        let settings = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", String::new()),
            ("archive_mode", "on".to_owned()),
            ("archive_command", format!("test -d {0} && cp %p {0}/%f.tmp && mv {0}/%f.tmp {0}/%f", wal.display())),
            ("max_wal_size", "4GB".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
        blue.init(&NewServer { superuser: "greenlight".to_owned(), login: Login::Scram(password.clone()), settings }).await?;
        blue.start(LIMIT).await?;
        let at = Endpoint::on_loopback(port, "postgres", "greenlight", Some(password));
        let spec = SnapshotSpec {
            store: StoreSpec::Basebackup { wal: WalSpec::ArchiveCommand },
            host: HostSpec::Local,
            dir: dir.join("store"),
            url: None,
            bin_dir: None,
            ssh_config: None,
            retention: RetentionSpec { count: 1, age_secs: None },
            max_age_secs: 3600,
            prove: false,
            keep_blue_secs: 0,
        };
        let (store, _) = wire::store_of(&spec, "bench", at.clone(), at.clone()).await?;
        Ok(Bench { dir: dir.to_owned(), blue, at, store, clock })
    }

    async fn measure(&self, mib: u64) -> anyhow::Result<RestoreTimes> {
        print::say(&format!("restore: making {mib} MiB of data and of WAL"));
        self.grow("data", mib).await?;
        self.store.ensure_archiving().await?;
        let backup = self.store.take(&|_, _, _| ()).await?;
        let before = backup.stop;
        self.grow("wal", mib).await?;
        let until = self.store.prove_archiving(LIMIT).await?.until;
        self.blue.stop(StopMode::Fast, LIMIT).await?;
        let (mut ours, mut verify, mut by_hand) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        for round in 1..=ROUNDS {
            print::say(&format!("restore: round {round} of {ROUNDS}"));
            by_hand = by_hand.min(self.by_hand(&backup, until).await?);
            let (took, verified) = self.ours(until).await?;
            ours = ours.min(took);
            verify = verify.min(verified);
        }
        print::say(&format!("restore: {ours:.0} ms and {verify:.0} ms to verify; by hand {by_hand:.0} ms"));
        Ok(RestoreTimes {
            data_mib: backup.bytes >> 20,
            wal_mib: until.bytes_since(before) >> 20,
            restore_ms: ours + verify,
            by_hand_ms: by_hand,
            verify_ms: verify,
            to_by_hand: ours / by_hand,
        })
    }

    async fn grow(&self, name: &str, mib: u64) -> anyhow::Result<()> {
        let options = SessionOptions::for_applications("greenlight/lab", LIMIT);
        let session = Session::open(&self.at, &options, "blue").await?;
        // Close to 1 KiB a row, and as much in the log.
        let sql = format!(
            "CREATE TABLE {name} (id bigint, filler text); \
             INSERT INTO {name} SELECT n, repeat(md5(n::text), 29) FROM generate_series(1, {}) n",
            mib * 1024
        );
        Ok(session.batch("make data", &sql).await?)
    }

    /// The time from the check's end to the target, and that of the check, in milliseconds.
    async fn ours(&self, until: Lsn) -> anyhow::Result<(f64, f64)> {
        let place =
            Place { host: self.store.host().clone(), data_dir: self.dir.join("restored"), port: free_port(), throwaway: false };
        let begun = self.clock.monotonic();
        let plan = restore::check(self.store.as_ref(), &Target::Latest, None, &place, self.clock.now()).await?;
        ensure!(plan.problems.is_empty(), "{}", plan.problems.join("; "));
        let checked = self.clock.monotonic();
        let restored = restore::recover(self.store.as_ref(), &plan, &self.at, true, &*self.clock, &|_, _, _| ()).await?;
        ensure!(restored.replayed >= until, "it came to {} only, not to {until}", restored.replayed);
        let done = self.clock.monotonic();
        restore::discard(self.store.as_ref(), &place, &self.at).await?;
        Ok((ms(checked, done), ms(begun, checked)))
    }

    /// What a person would do: copy, say where the WAL is, start, wait until everything is replayed.
    async fn by_hand(&self, backup: &Backup, until: Lsn) -> anyhow::Result<f64> {
        let folder = self.dir.join("by-hand");
        let from = self.dir.join("store/backups").join(&backup.id).join("data");
        let port = free_port();
        let begun = self.clock.monotonic();
        let mut copy = process::server_command(Path::new("cp"));
        process::run(copy.arg("-a").arg(&from).arg(&folder), LIMIT).await?;
        let server = LocalServer { data_dir: folder.clone(), port, log: self.dir.join("by-hand.log"), ..self.blue.clone() };
        let settings = [
            ("restore_command".to_owned(), format!("cp {}/%f %p", self.dir.join("store/wal").display())),
            ("archive_mode".to_owned(), "off".to_owned()),
        ];
        server.append_settings("postgresql.auto.conf", &settings).await?;
        let mut signal = process::server_command(Path::new("touch"));
        process::run(signal.arg(folder.join("standby.signal")), LIMIT).await?;
        server.start(LIMIT).await?;
        let at = Endpoint { port, ..self.at.clone() };
        let session = Session::open(&at, &SessionOptions::reading("greenlight/lab"), "the server by hand").await?;
        loop {
            let sql = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{until}', false)");
            if cell(one(&session.read("look how far it is", &sql, &[]).await?)?, 0)? {
                break;
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        let took = ms(begun, self.clock.monotonic());
        server.stop(StopMode::Immediate, LIMIT).await?;
        server.remove().await?;
        Ok(took)
    }
}

fn ms(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64() * 1000.0
}

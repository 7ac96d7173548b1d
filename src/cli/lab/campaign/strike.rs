//! What befalls a window: who is hit, when, and how it is mended. From outside, as the world would do it.

use super::dice::Dice;
use crate::journal::FILE;
use crate::lab::World;
use crate::process;
use crate::provider::processes::{self, Signal};
use crate::word::{Clock, Side, SystemClock};
use anyhow::{Context, bail};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a moment is waited for that may not come, since the window need not open.
const MOMENT_LIMIT: Duration = Duration::from_secs(20);
/// How often PgBouncer is started before it is a fault that it does not.
const STARTS_MAX: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Coordinator,
    /// It hangs, and its guard ends it.
    CoordinatorHangs,
    Guard,
    CoordinatorAndGuard,
    /// What a service manager does to both: TERM, and KILL a little later.
    Service,
    PgBouncer,
    Blue,
    Green,
    /// The state folder's disk is full.
    Disk,
    /// Somebody else holds the journal's lock.
    Lock,
    /// A PgBouncer's configuration cannot be read for a while.
    RouteFile,
}

const VICTIMS: [Victim; 11] = [
    Victim::Coordinator,
    Victim::CoordinatorHangs,
    Victim::Guard,
    Victim::CoordinatorAndGuard,
    Victim::Service,
    Victim::PgBouncer,
    Victim::Blue,
    Victim::Green,
    Victim::Disk,
    Victim::Lock,
    Victim::RouteFile,
];

impl Victim {
    pub(super) fn name(self) -> &'static str {
        match self {
            Victim::Coordinator => "coordinator killed",
            Victim::CoordinatorHangs => "coordinator stopped",
            Victim::Guard => "guard killed",
            Victim::CoordinatorAndGuard => "coordinator and guard killed",
            Victim::Service => "service stopped",
            Victim::PgBouncer => "PgBouncer killed",
            Victim::Blue => "blue killed",
            Victim::Green => "green killed",
            Victim::Disk => "state disk full",
            Victim::Lock => "journal locked",
            Victim::RouteFile => "route's file broken",
        }
    }

    /// Clients have a server and a PgBouncer all the time, and somebody who may act for them.
    pub(super) fn is_ours(self) -> bool {
        !matches!(self, Victim::PgBouncer | Victim::Blue | Victim::Green | Victim::CoordinatorAndGuard)
    }
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the move was asked for.
    Asked(Duration),
    /// So long after the guard of a window was there.
    Guarded(Duration),
    /// So long after clients were seen paused.
    Paused(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Strike {
    pub(super) victim: Victim,
    moment: Moment,
    /// Until what can be mended is mended.
    lasts: Duration,
    /// Of a full disk: what is left, in KiB.
    left_kib: u64,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (when, after) = match self.moment {
            Moment::Asked(after) => ("the word", after),
            Moment::Guarded(after) => ("the guard", after),
            Moment::Paused(after) => ("the pause", after),
        };
        write!(f, "{}, {} ms after {when}, for {} ms", self.victim.name(), after.as_millis(), self.lasts.as_millis())
    }
}

/// Where a strike takes place.
pub(super) struct Scene<'a> {
    pub(super) world: &'a World,
    pub(super) state: &'a Path,
    pub(super) coordinator: Option<u32>,
    pub(super) disk: Option<&'a SmallDisk>,
    pub(super) clock: &'a SystemClock,
}

impl Strike {
    pub(super) fn draw(dice: &mut Dice) -> Strike {
        let moment = match dice.below(10) {
            0 | 1 => Moment::Asked(Duration::from_millis(dice.below(3000))),
            2..4 => Moment::Guarded(Duration::from_millis(dice.below(400))),
            _ => Moment::Paused(Duration::from_micros(dice.below(45_000))),
        };
        let victim = dice.one_of(&VICTIMS);
        Strike { victim, moment, lasts: Duration::from_millis(200 + dice.below(3000)), left_kib: 4 * dice.below(40) }
    }

    /// Waits for the moment, strikes, and mends what a person or a service manager would.
    ///
    /// # Errors
    /// What was broken could not be mended.
    pub(super) async fn carry_out(&self, scene: &Scene<'_>) -> anyhow::Result<()> {
        self.wait_for_moment(scene).await;
        let guards = || guards(scene);
        match self.victim {
            Victim::Coordinator => processes::signal(&pid(scene), Signal::Kill),
            Victim::CoordinatorHangs => {
                processes::signal(&pid(scene), Signal::Stop);
                // Outside of a window nobody ends it.
                scene.clock.sleep(self.lasts + Duration::from_secs(7)).await;
                processes::signal(&pid(scene), Signal::Kill);
            }
            Victim::Guard => processes::signal(&guards(), Signal::Kill),
            Victim::CoordinatorAndGuard => processes::signal(&[pid(scene), guards()].concat(), Signal::Kill),
            Victim::Service => {
                processes::signal(&[pid(scene), guards()].concat(), Signal::Term);
                scene.clock.sleep(self.lasts).await;
                processes::signal(&pid(scene), Signal::Kill);
            }
            Victim::PgBouncer => {
                scene.world.crash_pgbouncer(0);
                scene.clock.sleep(self.lasts).await;
                // It does not start while another strike has its file broken.
                let mut tries = 1;
                while let Err(error) = scene.world.start_pgbouncer(0).await {
                    if tries == STARTS_MAX {
                        return Err(error.into());
                    }
                    tries += 1;
                    scene.clock.sleep(Duration::from_millis(200)).await;
                }
            }
            Victim::Blue => self.crash(scene, Side::Blue).await?,
            Victim::Green => self.crash(scene, Side::Green).await?,
            Victim::Disk => {
                let Some(disk) = scene.disk else { bail!("there is no small disk") };
                disk.fill(self.left_kib)?;
                scene.clock.sleep(self.lasts * 2).await;
                disk.empty()?;
            }
            Victim::Lock => lock_journal(scene, self.lasts * 3).await?,
            Victim::RouteFile => break_config(scene, self.lasts).await?,
        }
        Ok(())
    }

    async fn crash(&self, scene: &Scene<'_>, side: Side) -> anyhow::Result<()> {
        scene.world.crash(side);
        scene.clock.sleep(self.lasts).await;
        Ok(scene.world.start(side).await?)
    }

    async fn wait_for_moment(&self, scene: &Scene<'_>) {
        let began = scene.clock.monotonic();
        let is_over = || scene.clock.monotonic().saturating_sub(began) > MOMENT_LIMIT;
        let after = match self.moment {
            Moment::Asked(after) => after,
            Moment::Guarded(after) => {
                while guards(scene).is_empty() && !is_over() {
                    scene.clock.sleep(Duration::from_millis(3)).await;
                }
                after
            }
            Moment::Paused(after) => {
                while !scene.world.is_paused(0).await && !is_over() {
                    scene.clock.sleep(Duration::from_millis(1)).await;
                }
                after
            }
        };
        scene.clock.sleep(after).await;
    }
}

fn pid(scene: &Scene<'_>) -> Vec<u32> {
    scene.coordinator.into_iter().filter(|pid| processes::is_alive(*pid)).collect()
}

/// Processes of ours that work on this state folder, without the coordinator.
fn guards(scene: &Scene<'_>) -> Vec<u32> {
    let all = processes::started_with("greenlight", scene.state);
    all.into_iter().filter(|pid| Some(*pid) != scene.coordinator && processes::is_alive(*pid)).collect()
}

/// Holds the right to write, as any tool may that opens the file.
async fn lock_journal(scene: &Scene<'_>, lasts: Duration) -> anyhow::Result<()> {
    let connection = rusqlite::Connection::open(scene.state.join(FILE))?;
    connection.busy_timeout(Duration::from_secs(10))?;
    // Who cannot have it either locks nobody out.
    if connection.execute_batch("BEGIN IMMEDIATE").is_ok() {
        scene.clock.sleep(lasts).await;
        connection.execute_batch("ROLLBACK")?;
    }
    Ok(())
}

const JUNK: &str = "\n[databases\nthis is no configuration\n";

/// A line that no PgBouncer can read, so that it takes nothing of the file; taken out again. Whatever else was written to
/// the file meanwhile stays.
async fn break_config(scene: &Scene<'_>, lasts: Duration) -> anyhow::Result<()> {
    let path = scene.world.pgbouncer_config(0);
    std::fs::OpenOptions::new().append(true).open(&path)?.write_all(JUNK.as_bytes())?;
    scene.clock.sleep(lasts).await;
    let text = std::fs::read_to_string(&path)?;
    if text.contains(JUNK) {
        // In place, so that owner, mode and inode stay.
        std::fs::write(&path, text.replace(JUNK, "\n"))?;
    }
    Ok(())
}

/// A file system of its own for the state folder, small enough to be filled. Gone when dropped.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(super) async fn over(folder: &Path) -> anyhow::Result<SmallDisk> {
        if !process::running_as_root() {
            bail!("mounting a small file system needs root");
        }
        let mut command = process::new_command(Path::new("mount"));
        command.args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "greenlight-campaign"]).arg(folder);
        process::run(&mut command, Duration::from_secs(10)).await.context("could not mount a small file system")?;
        Ok(SmallDisk(folder.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves so much and no more.
    fn fill(&self, left_kib: u64) -> anyhow::Result<()> {
        let mut file = std::fs::File::create(self.ballast())?;
        let block = [0_u8; 4096];
        // Full when a write says so.
        while file.write_all(&block).is_ok() {}
        let size = file.metadata()?.len();
        Ok(file.set_len(size.saturating_sub(left_kib * 1024))?)
    }

    fn empty(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = process::new_command(Path::new("umount"));
        // Lazily: a process that is just ending may have a file open there.
        let _ = command.as_std_mut().arg("-l").arg(&self.0).status();
    }
}

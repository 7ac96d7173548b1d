//! A pause always ends: with the guard told to end, killed, or without the journal, and with no room left in the state folder.

use crate::world::{APPROVAL, KILLED, Live, MAX_PAUSE, Setup, WAITS, go_on, is_stopped, wait};
use greenlight::journal::FILE;
use greenlight::run::{Event, Fact};
use greenlight::word::Side;
use std::{path::PathBuf, process::Command, time::Duration};

/// What a pause may last beyond its limit, and what a machine that is busy with tests adds.
const SLACK: Duration = Duration::from_secs(2 + 3);

/// The guard of the coordinator with this number.
fn guard_of(coordinator: u32) -> u32 {
    let parent = coordinator.to_string();
    let is_guard = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|word| word == "guard") && words.windows(2).any(|pair| pair[0] == "--parent" && pair[1] == parent)
    };
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.into_iter().find(is_guard).expect("there is no guard")
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// The process group and the session of a process.
fn group_and_session(pid: u32) -> (u32, u32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// How the last window ended: moved, by the guard, after so many milliseconds, and why.
async fn last(live: &Live) -> (bool, bool, f64, String) {
    let records = live.records().await;
    let closed = records.iter().rev().find_map(|record| match &record.event {
        Event::FactLearned { fact: Fact::WindowClosed { moved, by_guard, pause_ms, reason, .. }, .. } => {
            Some((*moved, *by_guard, *pause_ms, reason.clone().unwrap_or_default()))
        }
        _ => None,
    });
    closed.unwrap()
}

fn journal(live: &Live) -> rusqlite::Connection {
    rusqlite::Connection::open(live.state.join(FILE)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_told_to_end_or_killed_and_a_journal_that_others_lock_keep_nobody_waiting() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS);

    // As a service manager stops a service: everybody is told to end, and the coordinator is killed a little later.
    let coordinator = live.start(&["approve", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    let pid = coordinator.id().unwrap();
    let guard = guard_of(pid);
    assert_eq!(group_and_session(guard), (guard, guard), "the guard has a session of its own");
    // Its time does not pass while this test looks around.
    signal("STOP", guard);
    for name in ["TERM", "HUP", "INT"] {
        signal(name, guard);
        signal(name, pid);
    }
    // Nobody else writes into the journal while the window is open.
    let other = journal(&live);
    other.busy_timeout(Duration::ZERO).unwrap();
    assert!(other.execute_batch("BEGIN IMMEDIATE").unwrap_err().to_string().contains("locked"));
    live.greenlight(&["status", "--offline"]).await.says("CLIENTS ARE PAUSED since");
    signal("CONT", guard);
    signal("KILL", pid);
    wait(coordinator).await.expect(KILLED);
    live.see_writes(30).await;
    live.see_it_safe().await;
    assert_eq!((last(&live).await.0, last(&live).await.1), (false, true), "{}", live.told().await);

    // The lock is taken by another process as soon as the coordinator is dead: the guard gives clients back without it.
    let mut coordinator = live.start(&["run", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    let guard = guard_of(coordinator.id().unwrap());
    signal("STOP", guard);
    signal("KILL", coordinator.id().unwrap());
    // Not to the end of what it says: the guard, which stands still, says it in the same place.
    assert_eq!(coordinator.wait().await.unwrap().code(), KILLED);
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    signal("CONT", guard);
    live.see_writes(50).await;
    other.execute_batch("ROLLBACK").unwrap();
    live.see_it_safe().await;
    let (moved, by_guard, pause_ms, _) = last(&live).await;
    assert_eq!((moved, by_guard), (false, true), "{}", live.told().await);
    assert!(pause_ms > 100.0, "{pause_ms}");

    // The guard is killed: the coordinator goes back by itself, and then on with another guard.
    let coordinator = live.start(&["run", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    signal("KILL", guard_of(coordinator.id().unwrap()));
    go_on(&coordinator);
    live.see_record("the window went back", |event| {
        matches!(event, Event::FactLearned { fact: Fact::WindowClosed { moved: false, reason: Some(why), .. }, .. }
            if why.contains("its guard died"))
    })
    .await;
    live.see_writes(30).await;
    // Where it comes to another window it stops again, and is ended by the next guard.
    drop(wait(coordinator).await);
    live.see_it_safe().await;
    live.until("green serves", async || {
        live.run().await;
        live.serving().await == Side::Green
    })
    .await;
    let report = live.nothing_is_lost(Side::Green).await;
    eprintln!("clients saw {:?}, and waited for {:?} at most", report.errors, report.longest_wait());
    assert!(report.longest_wait() < MAX_PAUSE + SLACK, "{:?}", report.longest_wait());
}

/// A small disk, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(at))
    }

    /// Leaves so many bytes.
    fn fill(&self, but: u64) {
        let filler = self.0.join("filler");
        let _ = std::fs::write(&filler, vec![0_u8; 4 << 20]);
        let file = std::fs::OpenOptions::new().write(true).open(filler).unwrap();
        file.set_len(file.metadata().unwrap().len() - but).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_the_window_shut_and_one_that_fills_up_in_the_window_does_not_stop_it() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    let Some(disk) = SmallDisk::mount(live.state.clone()) else {
        eprintln!("SKIPPED: a small disk can be mounted by root only");
        return;
    };
    live.start_writing().await;
    live.run().await.expect(WAITS);

    // Full before the window: it stays shut, and that is said.
    disk.fill(300 << 10);
    live.greenlight(&["approve", "--no-wait"]).await.expect(WAITS).says("no space left in the state folder");
    disk.empty();
    let opened = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::WindowOpened { .. }, .. });
    assert!(!live.records().await.iter().any(|record| opened(&record.event)));

    // Full in the window: the commit point has its room.
    let coordinator = live.start(&["run", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    disk.fill(0);
    go_on(&coordinator);
    live.until("green serves", async || live.serving().await == Side::Green).await;
    live.see_writes(30).await;
    disk.empty();
    drop(wait(coordinator).await);
    live.run().await.expect(WAITS);
    assert!(last(&live).await.0, "{}", live.told().await);
    let report = live.nothing_is_lost(Side::Green).await;
    assert!(report.longest_wait() < MAX_PAUSE + SLACK, "{:?}", report.longest_wait());
    drop(disk);
}

//! A pause always ends: with the guard told to end, killed, or without the journal, with no room left in the state folder, and
//! when a service is stopped. And what would make one in vain, or an outage after it, keeps the window or the finish shut.

use crate::world::{
    APPROVAL, COMPLETED, FREEZE_MAX, JOURNAL, KILLED, Live, MAX_PAUSE, Setup, TAKEN, WAITS, ask, connect, go_on, is_stopped,
    rows, wait,
};
use greenlight::journal::FILE;
use greenlight::run::{Event, Fact};
use greenlight::word::{Side, quote_ident, quote_literal};
use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
};

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

/// What a process says, line by line, while it lives.
struct Said(Lines<BufReader<ChildStderr>>);

impl Said {
    fn by(process: &mut Child) -> Said {
        Said(BufReader::new(process.stderr.take().unwrap()).lines())
    }

    /// Returns with the line in which this is said.
    async fn until(&mut self, text: &str) -> String {
        let mut before = Vec::new();
        let said = tokio::time::timeout(crate::world::LIMIT, async {
            while let Some(line) = self.0.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
                before.push(line);
            }
            panic!("`{text}` was not said, but:\n{}", before.join("\n"));
        });
        said.await.unwrap_or_else(|_| panic!("`{text}` is not said"))
    }
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// Returns when the route's clients are paused, with the number of the guard.
async fn inside_a_window(live: &Live, coordinator: &Child) -> u32 {
    live.until("clients are paused", async || live.greenlight(&["status"]).await.expect(COMPLETED).said.contains("it is paused"))
        .await;
    guard_of(coordinator.id().unwrap())
}

/// Tells everybody of the service to end.
fn stop_service(coordinator: &Child, guard: u32) {
    for pid in [coordinator.id().unwrap(), guard] {
        signal("TERM", pid);
    }
}

/// How long a service manager waits in this test before it kills.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_stopped_in_a_window_leaves_nobody_paused_and_a_lock_on_the_journal_stops_nobody() {
    let window = "  long_transactions: {older_than: 1h, then: wait}\n";
    let mut live = Live::up(Setup { playbook: APPROVAL, pgbouncers: 1, window, ..Setup::default() }).await;
    // So much time that the window's limit ends nothing here.
    let text = std::fs::read_to_string(&live.playbook).unwrap();
    std::fs::write(&live.playbook, text.replace(&format!("max_pause: {}s", MAX_PAUSE.as_secs()), "max_pause: 60s")).unwrap();
    live.start_writing().await;
    live.run().await.expect(WAITS);
    // A transaction inside the pooler holds PAUSE, and so the window, open.
    let held = connect(&live.lab.through(0)).await;
    rows(&held, "BEGIN; SELECT 1").await;

    // Told to end, the coordinator ends its window by itself, though it could last for a minute.
    let coordinator = live.start(&["approve", "--no-wait"], "");
    let guard = inside_a_window(&live, &coordinator).await;
    let told = Instant::now();
    stop_service(&coordinator, guard);
    let ended = wait(coordinator).await;
    assert!(ended.said.contains("interrupted, in good order"), "{}", ended.said);
    live.see_writes(30).await;
    assert!(told.elapsed() < Duration::from_secs(5) + SLACK * 2, "{:?}", told.elapsed());
    let (moved, by_guard, _, why) = last(&live).await;
    assert!(!moved && !by_guard && why.contains("asked to end"), "{why}");
    assert!(!is_alive(guard), "the guard has nothing to guard any more");

    // One that is killed before it has ended is followed by its guard, which the word to end did not reach.
    let mut coordinator = live.start(&["run", "--no-wait"], "");
    let guard = inside_a_window(&live, &coordinator).await;
    let told = Instant::now();
    stop_service(&coordinator, guard);
    tokio::time::sleep(STOP_TIMEOUT).await;
    assert!(is_alive(guard), "the guard was ended by the word to end");
    assert!(is_alive(coordinator.id().unwrap()), "this test is too slow: the coordinator has ended its window already");
    signal("KILL", coordinator.id().unwrap());
    assert_eq!(coordinator.wait().await.unwrap().code(), KILLED);
    live.see_writes(30).await;
    assert!(told.elapsed() < STOP_TIMEOUT + SLACK * 2, "{:?}", told.elapsed());
    live.see_it_safe().await;
    assert_eq!((last(&live).await.0, last(&live).await.1), (false, true), "{}", live.told().await);
    live.greenlight(&["status"]).await.expect(COMPLETED).says("blue serves");

    // Another process wants the journal's lock from the window's beginning on, gets it at the first moment, and keeps it.
    rows(&held, "COMMIT").await;
    let coordinator = live.start(&["run", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    let other = journal(&live);
    other.busy_timeout(Duration::from_mins(1)).unwrap();
    let locker = std::thread::spawn(move || {
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        std::thread::sleep(Duration::from_secs(14));
        other.execute_batch("ROLLBACK").unwrap();
    });
    go_on(&coordinator);
    live.see_writes(50).await;
    tokio::task::spawn_blocking(|| locker.join().unwrap()).await.unwrap();
    drop(wait(coordinator).await);
    live.until("green serves", async || {
        live.run().await;
        live.serving().await == Side::Green
    })
    .await;
    live.see_writes(30).await;
    let report = live.nothing_is_lost(Side::Green).await;
    assert!(report.longest_wait() < Duration::from_secs(5) + SLACK * 2, "{:?}", report.longest_wait());
}

/// It lasts on green, and neither where it is tried nor where it is applied without rows.
const LASTS: &str = "SELECT pg_sleep(CASE WHEN current_database() = 'shop' THEN 120 ELSE 0 END);\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_in_a_long_freeze_leaves_blue_serving_and_a_request_waits_for_its_end() {
    let mut live = Live::up(Setup { strategy: "freeze", migration: Some(LASTS), pgbouncers: 1, ..Setup::default() }).await;
    live.start_writing().await;
    let mut coordinator = live.start(&["run", live.playbook.to_str().unwrap(), "--no-wait"], "");
    live.see_record("green is promoted", |event| matches!(event, Event::FactLearned { fact: Fact::Promoted { .. }, .. })).await;
    let guard = guard_of(coordinator.id().unwrap());

    // The journal is the window's own for as long as it lasts. That is said, once, and not taken for an error.
    let mut asking = live.start(&["abandon", "--no-wait", "--reason", "stopped"], "");
    let mut said = Said::by(&mut asking);
    let waits = said.until("the journal is held by the open window of run").await;
    assert!(waits.contains(&live.stored().await.0.run.to_string()), "{waits}");

    live.greenlight(&["run", "--no-wait"]).await.expect(TAKEN).says("it is held by pid");
    let told = Instant::now();
    stop_service(&coordinator, guard);
    tokio::time::sleep(STOP_TIMEOUT).await;
    assert!(is_alive(coordinator.id().unwrap()) && is_alive(guard), "{}", live.told().await);
    signal("KILL", coordinator.id().unwrap());
    assert_eq!(coordinator.wait().await.unwrap().code(), KILLED);
    live.see_writes(30).await;
    assert!(told.elapsed() < STOP_TIMEOUT + SLACK * 2, "{:?}", told.elapsed());
    assert!(told.elapsed() < FREEZE_MAX);

    said.until("blue served all the time").await;
    assert_eq!(asking.wait().await.unwrap().code(), COMPLETED);
    live.see_it_safe().await;
    assert_eq!((last(&live).await.0, last(&live).await.1), (false, true), "{}", live.told().await);
    assert!(
        live.records().await.iter().any(|record| matches!(&record.event,
        Event::RollbackBegun { reason, .. } if reason.contains("stopped"))),
        "{}",
        live.told().await
    );
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_log_in_to_green_keeps_the_window_shut_and_a_route_that_was_moved_keeps_the_finish_shut() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    live.start_writing().await;
    let run = live.start(&["run", live.playbook.to_str().unwrap()], "");
    live.see_record("it is at its gate", |event| matches!(event, Event::GateReached { .. })).await;
    let (blue, green) = (live.lab.endpoint(Side::Blue), live.lab.endpoint(Side::Green));
    let application = live.lab.application(Side::Blue).user;
    let waits = |text: String| {
        move |event: &Event| {
            let (Event::StepWaiting { note, .. } | Event::StepParked { note, .. }) = event else { return false };
            note.contains(&text)
        }
    };

    // The password was changed on green.
    let role = quote_ident(&application);
    ask(&green, &format!("ALTER ROLE {role} PASSWORD 'another'")).await;
    let approving = live.start(&["approve"], "");
    live.see_record("it needs the password", waits(format!("password authentication failed for user \"{application}\""))).await;
    let verifier =
        ask(&blue, &format!("SELECT rolpassword FROM pg_authid WHERE rolname = {}", quote_literal(&application))).await;
    // And then its rules do not let it in.
    let hba = live.lab.server(Side::Green).data_dir.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all {application} all reject\n{rules}")).unwrap();
    ask(&green, &format!("ALTER ROLE {role} PASSWORD {}", quote_literal(&verifier[0]))).await;
    ask(&green, "SELECT pg_reload_conf()").await;
    live.see_record("it needs a rule", waits("pg_hba.conf rejects connection".to_owned())).await;
    live.see_writes(20).await;
    let opened = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::WindowOpened { .. }, .. });
    assert!(!live.records().await.iter().any(|record| opened(&record.event)), "{}", live.told().await);
    std::fs::write(&hba, rules).unwrap();
    ask(&green, "SELECT pg_reload_conf()").await;
    live.until("green serves", async || live.serving().await == Side::Green).await;
    drop(wait(approving).await);
    live.see_writes(20).await;

    // In the soak somebody writes blue into the file of a route: first without a RELOAD, then with one.
    let config = live.lab.pgbouncer_config(0);
    let right = std::fs::read_to_string(&config).unwrap();
    let port = |side: Side| format!("port={}", live.lab.endpoint(side).port);
    let wrong = right.replace(&port(Side::Green), &port(Side::Blue));
    assert_ne!(right, wrong);
    std::fs::write(&config, &wrong).unwrap();
    let routes = async || -> Vec<String> {
        let said = live.greenlight(&["status"]).await.expect(COMPLETED).said;
        said.lines().filter(|line| line.starts_with("route main")).map(str::to_owned).collect()
    };
    let seen = routes().await;
    assert!(seen[0].contains("ALARM") && seen[0].contains("until PgBouncer is reloaded or started again"), "{seen:?}");
    assert!(!seen[1].contains("ALARM"), "{seen:?}");
    let finishing = live.start(&["finish"], "");
    live.see_record("the finish waits", waits("every route to lead to green".to_owned())).await;
    live.see_writes(20).await;
    connect(&live.lab.admin(0)).await.simple_query("RELOAD").await.unwrap();
    live.see_record("it is seen", |event| {
        matches!(event, Event::FactLearned { fact: Fact::RouteSeen { trouble: Some(trouble), .. }, .. } if trouble == "leads to blue")
    })
    .await;
    let seen = routes().await;
    assert!(seen[0].contains("ALARM: it leads to blue"), "{seen:?}");
    assert_eq!(live.stored().await.1.outcome, None);
    std::fs::write(&config, &right).unwrap();
    connect(&live.lab.admin(0)).await.simple_query("RELOAD").await.unwrap();
    wait(finishing).await.expect(COMPLETED);
    wait(run).await.expect(COMPLETED);
    live.see_writes(20).await;
    let report = live.nothing_is_lost(Side::Green).await;
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

    /// Takes back what room the journal has for what it writes over, as where that needs room of its own.
    fn forget_room(&self) {
        let (shared, log) = (self.0.join(format!("{FILE}-shm")), self.0.join(format!("{FILE}-wal")));
        // The number of frames in the log, each of a page with a heading of 24 bytes, after a heading of 32.
        let index = std::fs::read(shared).unwrap();
        let frames = u64::from(u32::from_ne_bytes(index[16..20].try_into().unwrap()));
        let from = (32 + frames * (4096 + 24)).next_multiple_of(4096);
        let length = std::fs::metadata(&log).unwrap().len() - from;
        let range = [format!("--offset={from}"), format!("--length={length}")];
        assert!(Command::new("fallocate").arg("--punch-hole").args(range).arg(log).status().unwrap().success());
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
async fn a_disk_that_is_full_before_a_window_in_it_or_after_its_coordinator_died_keeps_nobody_paused() {
    let mut live = Live::up(Setup { playbook: APPROVAL, ..Setup::default() }).await;
    let Some(disk) = SmallDisk::mount(live.state.clone()) else {
        eprintln!("NOT TESTED: a small disk can be mounted by root only");
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

    // Full exactly at the commit point, where its room is no longer there: the window goes back, though nobody can write that
    // down, and what is said is so.
    let mut coordinator = live.start(&["run", "--no-wait"], "window-before-commit:stop");
    live.until("it is before its commit point", async || is_stopped(&coordinator)).await;
    disk.forget_room();
    disk.fill(0);
    let mut said = Said::by(&mut coordinator);
    go_on(&coordinator);
    said.until("no space left in the state folder").await;
    said.until("each route lets its clients through").await;
    assert_eq!(coordinator.wait().await.unwrap().code(), JOURNAL);
    live.see_writes(30).await;
    live.greenlight(&["status"]).await.expect(COMPLETED).says("each route lets its clients through");
    disk.empty();
    live.see_it_safe().await;
    let (moved, _, pause_ms, _) = last(&live).await;
    assert!(!moved && pause_ms < (MAX_PAUSE + SLACK).as_secs_f64() * 1000.0, "{pause_ms}: {}", live.told().await);
    live.see_writes(30).await;

    // Full when coordinator and guard are dead: the next coordinator gives clients back before anything else, and says so.
    let mut coordinator = live.start(&["run", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    let guard = guard_of(coordinator.id().unwrap());
    disk.forget_room();
    disk.fill(0);
    for pid in [guard, coordinator.id().unwrap()] {
        signal("KILL", pid);
    }
    assert_eq!(coordinator.wait().await.unwrap().code(), KILLED);
    // Also where whoever looked last has cleared away what the journal's processes share, and its room is taken.
    for _ in 0..2 {
        live.greenlight(&["status"]).await.expect(COMPLETED).says("CLIENTS ARE PAUSED since");
        disk.fill(0);
    }
    let mut next = live.start(&["run", "--no-wait"], "");
    let mut said = Said::by(&mut next);
    let alarm = said.until("CLIENTS ARE PAUSED").await;
    assert!(alarm.contains("no space left in the state folder"), "{alarm}");
    said.until("clients go on").await;
    live.see_writes(30).await;
    disk.empty();
    assert_eq!(next.wait().await.unwrap().code(), WAITS);
    live.see_writes(30).await;
    assert_eq!(live.serving().await, Side::Green, "{}", live.told().await);

    // Full in the window: the commit point has its room.
    let coordinator = live.start(&["rollback", "--no-wait"], "window-fenced:stop");
    live.until("it is inside the window", async || is_stopped(&coordinator)).await;
    disk.fill(0);
    go_on(&coordinator);
    live.until("blue serves", async || live.serving().await == Side::Blue).await;
    live.see_writes(30).await;
    disk.empty();
    drop(wait(coordinator).await);
    live.greenlight(&["run", "--no-wait"]).await.expect(WAITS);
    let moved = |event: &Event| {
        matches!(event, Event::FactLearned { fact: Fact::WindowClosed { moved: true, serving: Side::Blue, .. }, .. })
    };
    assert!(live.records().await.iter().any(|record| moved(&record.event)), "{}", live.told().await);
    let report = live.nothing_is_lost(Side::Blue).await;
    assert!(report.longest_wait() < MAX_PAUSE + SLACK, "{:?}", report.longest_wait());
    drop(disk);
}

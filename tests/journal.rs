//! The contract of `Journal`: one suite over every implementation, and what only processes and files can show.
#![expect(clippy::unwrap_used, reason = "tests")]

use greenlight::journal::{FILE, HolderProcess, Journal, JournalError, MemoryJournal, SqliteJournal};
use greenlight::plan::{
    Gate, HistorySpec, LimitsSpec, LongTransactions, Names, OnFailure, Plan, PlannedStep, Reversal, SchemaWork, ServerSpec,
    SoakSpec, StepName, ValidateSpec, WindowSpec,
};
use greenlight::run::{Direction, Event, FORMAT, Fact, Outcome, RequestKind, StepNo, WindowPhase};
use greenlight::schema::Fingerprint;
use greenlight::word::{Clock, Failure, Lsn, RunId, Side, SystemClock, Template, Timestamp};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_created_run_is_listed_and_read_back_whole() {
    on_both(async |world| {
        let journal = world.open();
        let first = world.run().await;
        let second = RunId::random();
        journal.create(&created(&second), at(7)).await.unwrap();
        let runs = journal.runs().await.unwrap();
        let listed: Vec<_> = runs.iter().map(|entry| (&entry.run, entry.name.as_str(), entry.created_at)).collect();
        assert_eq!(listed, [(&second, "shop", at(7)), (&first, "shop", at(0))]);
        let records = journal.read(&first).await.unwrap();
        assert_eq!((records.len(), records[0].seq, records[0].epoch, records[0].at), (1, 1, 0, at(0)));
        assert_eq!(records[0].event, created(&first));
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_event_comes_back_as_it_was_written() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        let epoch = journal.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
        let events = events_of_format_1();
        for (seq, event) in (1..).zip(&events) {
            journal.append(&run, seq, epoch, event, at(1)).await.unwrap();
        }
        let records = world.open().read(&run).await.unwrap();
        assert!(records[1..].iter().map(|record| &record.event).eq(&events));
        assert!(records.iter().map(|record| record.seq).eq(1..=events.len() as u64 + 1));
        assert!(records[1..].iter().all(|record| record.epoch == epoch && record.at == at(1)));
    })
    .await;
}

#[tokio::test]
async fn a_run_is_created_once_and_only_by_its_plan() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        assert!(superseded(&journal.create(&created(&run), at(1)).await));
        let other = Event::StepDone { step: StepNo(0) };
        assert!(matches!(journal.create(&other, at(1)).await, Err(JournalError::Unreachable { .. })));
        assert_eq!(journal.runs().await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_run_that_is_not_there_is_said_to_be_unknown_by_every_call() {
    on_both(async |world| {
        let (journal, run) = (world.open(), RunId::random());
        let answers = [
            journal.read(&run).await.err(),
            journal.append(&run, 0, 0, &noticed("x"), at(0)).await.err(),
            journal.lease(&run).await.err(),
            journal.take_lease(&run, "us", TTL, true, at(0)).await.err(),
            journal.renew_lease(&run, 1, TTL, at(0)).await.err(),
            journal.release_lease(&run, 1).await.err(),
            journal.file_request(&run, "ada", None, &RequestKind::Retry, at(0)).await.err(),
            journal.open_requests(&run).await.err(),
            journal.answer_request(&run, 1, "no").await.err(),
            journal.request_answer(&run, 1).await.err(),
            journal.set_progress(&run, "x").await.err(),
            journal.progress(&run).await.err(),
        ];
        for (no, answer) in answers.iter().enumerate() {
            assert!(matches!(answer, Some(JournalError::UnknownRun(name)) if name == run.as_str()), "call {no}: {answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_append_after_another_record_than_the_last_is_refused() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        let epoch = journal.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
        journal.append(&run, 1, epoch, &noticed("a"), at(1)).await.unwrap();
        for expected in [0, 1, 3] {
            assert!(superseded(&journal.append(&run, expected, epoch, &noticed("b"), at(1)).await), "{expected}");
        }
        assert_eq!(journal.read(&run).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_append_without_the_present_lease_is_refused() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        assert!(superseded(&journal.append(&run, 1, 0, &noticed("no lease yet"), at(1)).await));
        let first = journal.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
        assert!(superseded(&journal.append(&run, 1, 0, &noticed("the creator's"), at(1)).await));
        assert!(superseded(&journal.append(&run, 1, first + 1, &noticed("a later one"), at(1)).await));

        let second = world.open().take_lease(&run, "them", TTL, true, at(0)).await.unwrap();
        assert!(second > first);
        assert!(superseded(&journal.append(&run, 1, first, &noticed("taken over"), at(1)).await));
        assert!(superseded(&journal.renew_lease(&run, first, TTL, at(1)).await));
        world.open().append(&run, 1, second, &noticed("theirs"), at(1)).await.unwrap();

        journal.release_lease(&run, first).await.unwrap();
        assert!(!journal.lease(&run).await.unwrap().unwrap().free, "an old epoch lets go of nothing");
        journal.release_lease(&run, second).await.unwrap();
        assert!(superseded(&journal.append(&run, 2, second, &noticed("let go"), at(1)).await));
        assert!(superseded(&journal.renew_lease(&run, second, TTL, at(1)).await));
    })
    .await;
}

#[tokio::test]
async fn a_second_holder_is_refused_and_told_who_holds_the_run() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        assert_eq!(journal.lease(&run).await.unwrap(), None);
        let epoch = journal.take_lease(&run, "pid 4711 on db-admin-1", TTL, false, at(0)).await.unwrap();
        let error = world.open().take_lease(&run, "them", TTL, false, at(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "take the run over: it is held by pid 4711 on db-admin-1");
        let lease = journal.lease(&run).await.unwrap().unwrap();
        assert_eq!((lease.epoch, lease.expires_at, lease.free), (epoch, at(3600), false));
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_was_let_go_or_has_expired_is_taken_with_the_next_epoch() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        let first = journal.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
        journal.release_lease(&run, first).await.unwrap();
        assert!(journal.lease(&run).await.unwrap().unwrap().free);
        let second = journal.take_lease(&run, "them", TTL, false, at(1)).await.unwrap();
        assert_eq!(second, first + 1);

        let short = Duration::from_secs(2);
        journal.renew_lease(&run, second, short, at(3600)).await.unwrap();
        assert!(matches!(journal.take_lease(&run, "us", TTL, false, at(3601)).await, Err(JournalError::Held { .. })));
        tokio::task::spawn_blocking(move || std::thread::sleep(short + Duration::from_millis(50))).await.unwrap();
        assert_eq!(journal.take_lease(&run, "us", TTL, false, at(3602)).await.unwrap(), second + 1);
    })
    .await;
}

#[tokio::test]
async fn a_wall_clock_that_jumps_gives_a_run_to_nobody_on_the_machine_of_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path()).unwrap();
    let run = RunId::random();
    journal.create(&created(&run), at(0)).await.unwrap();
    journal.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
    let later = at(100 * 3600);
    assert!(matches!(journal.take_lease(&run, "them", TTL, false, later).await, Err(JournalError::Held { .. })));
    assert_eq!(journal.take_lease(&run, "them", TTL, true, at(0)).await.unwrap(), 2, "by force");
}

#[tokio::test]
async fn of_many_who_append_the_same_record_one_succeeds() {
    on_both(async |world| {
        let run = world.run().await;
        let epoch = world.open().take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
        let appends = (0..8).map(|no| {
            let (journal, run) = (world.open(), run.clone());
            tokio::spawn(async move { journal.append(&run, 1, epoch, &noticed(&no.to_string()), at(1)).await })
        });
        let mut done = 0;
        for append in appends.collect::<Vec<_>>() {
            let outcome = append.await.unwrap();
            assert!(outcome.is_ok() || superseded(&outcome), "{outcome:?}");
            done += u32::from(outcome.is_ok());
        }
        assert_eq!((done, world.open().read(&run).await.unwrap().len()), (1, 2));
    })
    .await;
}

#[tokio::test]
async fn a_request_is_open_until_it_is_answered_and_keeps_its_first_answer() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        let rollback = world.open().file_request(&run, "ada", Some("errors in checkout"), &RequestKind::Rollback, at(1)).await;
        let rollback = rollback.unwrap();
        let mark = RequestKind::MarkDone { step: StepNo(3) };
        let mark_done = journal.file_request(&run, "bob", None, &mark, at(2)).await.unwrap();
        let open = journal.open_requests(&run).await.unwrap();
        assert_eq!(open.iter().map(|request| request.id).collect::<Vec<_>>(), [rollback, mark_done]);
        assert_eq!((open[0].by.as_str(), open[0].reason.as_deref(), open[0].at), ("ada", Some("errors in checkout"), at(1)));
        assert_eq!((&open[1].kind, &open[1].reason), (&mark, &None));

        assert_eq!(journal.request_answer(&run, rollback).await.unwrap(), None);
        journal.answer_request(&run, rollback, "done").await.unwrap();
        journal.answer_request(&run, rollback, "done twice").await.unwrap();
        assert_eq!(journal.request_answer(&run, rollback).await.unwrap().as_deref(), Some("done"));
        assert_eq!(journal.open_requests(&run).await.unwrap().len(), 1);
        assert!(matches!(journal.answer_request(&run, 99, "?").await, Err(JournalError::NotWritten { .. })));
    })
    .await;
}

#[tokio::test]
async fn progress_is_overwritten_in_place() {
    on_both(async |world| {
        let (journal, run) = (world.open(), world.run().await);
        assert_eq!(journal.progress(&run).await.unwrap(), None);
        journal.set_progress(&run, "10 of 30 tables").await.unwrap();
        journal.set_progress(&run, "20 of 30 tables").await.unwrap();
        assert_eq!(world.open().progress(&run).await.unwrap().as_deref(), Some("20 of 30 tables"));
    })
    .await;
}

#[tokio::test]
async fn the_lease_of_a_holder_that_died_is_free_at_once() {
    let memory = MemoryJournal::new();
    let run = RunId::random();
    memory.create(&created(&run), at(0)).await.unwrap();
    memory.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
    memory.holder_died(&run).unwrap();
    assert_eq!(memory.take_lease(&run, "them", TTL, false, at(0)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_killed_writer_loses_no_record_that_was_acknowledged_and_its_lease_is_free_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, output) = start_child("write", dir.path());
    let mut acknowledged = acknowledgements(output);
    let mut seen: Vec<String> = acknowledged.by_ref().take(200).collect();

    let journal = SqliteJournal::open(dir.path()).unwrap();
    let run = journal.runs().await.unwrap()[0].run.clone();
    let error = journal.take_lease(&run, "us", TTL, false, at(1)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("take the run over: it is held by the child {}", child.id()));
    child.kill().unwrap();
    // Not collected yet, the process is still there by name: a zombie, which is as good as gone.
    seen.extend(acknowledged);
    until("the lease is free", async || journal.lease(&run).await.unwrap().unwrap().free).await;
    child.wait().unwrap();

    let epoch = journal.take_lease(&run, "us", TTL, false, at(1)).await.unwrap();
    assert_eq!(epoch, 2);
    let records = journal.read(&run).await.unwrap();
    let written: Vec<String> = records[1..].iter().map(|record| what(&record.event)).collect();
    assert!(seen.len() >= 200 && written.len() - seen.len() <= 1, "{} of {}", seen.len(), written.len());
    assert_eq!(written[..seen.len()], seen);
    journal.append(&run, records.len() as u64, epoch, &noticed("goes on"), at(1)).await.unwrap();
}

#[tokio::test]
async fn two_processes_that_race_write_every_record_once_and_never_under_an_old_lease() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path()).unwrap();
    let run = RunId::random();
    journal.create(&created(&run), at(0)).await.unwrap();
    let children: Vec<_> = (0..2).map(|_| start_child("race", dir.path())).collect();
    let mut acknowledged = Vec::new();
    for (mut child, output) in children {
        acknowledged.extend(acknowledgements(output));
        assert!(child.wait().unwrap().success());
    }
    let records = journal.read(&run).await.unwrap();
    let mut written: Vec<String> = records[1..].iter().map(|record| what(&record.event)).collect();
    assert!(records.is_sorted_by_key(|record| record.epoch));
    acknowledged.sort();
    written.sort();
    assert_eq!(acknowledged, written);
    assert_eq!(acknowledged.len(), 2 * RACE_RECORDS);
}

#[tokio::test]
async fn two_processes_that_make_the_same_state_directory_at_once_both_succeed() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let children: Vec<_> = (0..2).map(|_| start_child("open", &dir.path().join("new/state"))).collect();
        for (mut child, output) in children {
            assert_eq!(acknowledgements(output).collect::<Vec<_>>(), ["opened"]);
            assert!(child.wait().unwrap().success());
        }
    }
}

#[tokio::test]
async fn a_journal_of_a_newer_format_is_shown_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path()).unwrap();
    let run = RunId::random();
    journal.create(&created(&run), at(0)).await.unwrap();
    let file = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let insert = "INSERT INTO record (run, seq, at, epoch, event) VALUES (?1, ?2, '1970-01-01T00:00:00Z', 1, ?3)";
    file.execute(insert, (run.as_str(), 2, r#"{"event":"flux_balanced","by":"ada"}"#)).unwrap();
    file.execute(insert, (run.as_str(), 3, r#"{"event":"step_done","step":"window"}"#)).unwrap();
    assert!(journal.read(&run).await.is_err(), "in a journal of our own format an unreadable record is damage");
    file.pragma_update(None, "user_version", FORMAT + 1).unwrap();

    for journal in [journal, SqliteJournal::open(dir.path()).unwrap()] {
        let events: Vec<Event> = journal.read(&run).await.unwrap().into_iter().map(|record| record.event).collect();
        assert_eq!(events, [created(&run), Event::Unknown, Event::Unknown]);
        for refused in [
            journal.create(&created(&RunId::random()), at(1)).await,
            journal.take_lease(&run, "us", TTL, true, at(1)).await.map(|_| ()),
            journal.append(&run, 3, 1, &noticed("x"), at(1)).await,
            journal.file_request(&run, "ada", None, &RequestKind::Retry, at(1)).await.map(|_| ()),
        ] {
            assert!(matches!(refused, Err(JournalError::NewerFormat { found: 2, ours: 1 })), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_journal_that_is_held_is_read_by_others_and_written_by_nobody_else_until_it_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SqliteJournal::open(dir.path()).unwrap();
    let (ours, run) = (open(), RunId::random());
    ours.create(&created(&run), at(0)).await.unwrap();
    let epoch = ours.take_lease(&run, "us", TTL, false, at(0)).await.unwrap();
    ours.hold(&run).await.unwrap();
    ours.append(&run, 1, epoch, &noticed("one"), at(1)).await.unwrap();
    let others = open().with_patience(Duration::from_millis(50));
    let error = others.file_request(&run, "ana", None, &RequestKind::Finish, at(1)).await.unwrap_err();
    assert!(error.is_locked() && error.wrote_nothing(), "{error:?}");
    assert_eq!(others.read(&run).await.unwrap().len(), 2);
    // After a record, too, it is in hand.
    ours.append(&run, 2, epoch, &noticed("two"), at(1)).await.unwrap();
    assert!(others.file_request(&run, "ana", None, &RequestKind::Finish, at(1)).await.unwrap_err().is_locked());

    // For whom clients wait, no lock is waited for as long as otherwise.
    let hurried = open();
    hurried.hurry(true).await;
    let clock = SystemClock::new();
    assert!(hurried.take_lease(&run, "them", TTL, true, at(1)).await.unwrap_err().is_locked());
    assert!(clock.monotonic() < Duration::from_secs(3), "{:?}", clock.monotonic());
    ours.let_go().await;
    others.file_request(&run, "ana", None, &RequestKind::Finish, at(1)).await.unwrap();
    assert_eq!(hurried.take_lease(&run, "them", TTL, true, at(1)).await.unwrap(), epoch + 1);
}

#[tokio::test]
async fn a_damaged_journal_is_an_error_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), "this is no database, whatever its name says").unwrap();
    assert!(matches!(SqliteJournal::open(dir.path()), Err(JournalError::Unreachable { .. })));
    assert!(std::fs::read_to_string(dir.path().join(FILE)).unwrap().starts_with("this is no database"));
}

#[tokio::test]
async fn records_are_text_that_no_statement_changes_and_only_their_user_reads() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let journal = SqliteJournal::open(&state).unwrap();
    let run = RunId::random();
    journal.create(&created(&run), at(0)).await.unwrap();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let file = rusqlite::Connection::open(state.join(FILE)).unwrap();
    let name: String = file.query_row("SELECT event ->> '$.plan.name' FROM record", (), |row| row.get(0)).unwrap();
    assert_eq!(name, "shop");
    assert!(file.execute("UPDATE record SET epoch = 9", ()).is_err());
    assert!(file.execute("DELETE FROM record", ()).is_err());
}

#[tokio::test]
async fn a_journal_of_format_1_is_read_and_its_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture().join(FILE), dir.path().join(FILE)).unwrap();
    let journal = SqliteJournal::open(dir.path()).unwrap();
    let run: RunId = "r1a2b3c4".parse().unwrap();
    let runs = journal.runs().await.unwrap();
    assert_eq!((runs.len(), &runs[0].run, runs[0].created_at), (1, &run, at(0)));
    let records = journal.read(&run).await.unwrap();
    assert_eq!(records[0].event, created(&run));
    assert!(records[1..].iter().map(|record| &record.event).eq(&events_of_format_1()));
    let lease = journal.lease(&run).await.unwrap().unwrap();
    assert_eq!((lease.epoch, lease.holder.as_str(), lease.free), (1, "pid 4711 on db-admin-1", false));
    assert_eq!(journal.request_answer(&run, 1).await.unwrap().as_deref(), Some("approved"));
    assert_eq!(
        journal.open_requests(&run).await.unwrap()[0].kind,
        RequestKind::Abandon { without_green: true, by_restore: false }
    );
    assert_eq!(journal.progress(&run).await.unwrap().as_deref(), Some("comparing public.orders"));

    let epoch = journal.take_lease(&run, "us", TTL, false, at(3600)).await.unwrap();
    journal.append(&run, records.len() as u64, epoch, &noticed("goes on"), at(3600)).await.unwrap();
}

/// Writes the fixture anew when `GREENLIGHT_WRITE_FIXTURE` is set. Once a release has written journals of a format, its
/// fixture stays as it is for ever.
#[tokio::test]
async fn the_fixture_of_the_present_format_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(dir.path()).unwrap();
    let run: RunId = "r1a2b3c4".parse().unwrap();
    journal.create(&created(&run), at(0)).await.unwrap();
    let epoch = journal.take_lease(&run, "pid 4711 on db-admin-1", TTL, false, at(0)).await.unwrap();
    for (seq, event) in (1..).zip(&events_of_format_1()) {
        journal.append(&run, seq, epoch, event, at(seq)).await.unwrap();
    }
    let approve = journal.file_request(&run, "ada", Some("all green"), &RequestKind::Approve, at(5)).await.unwrap();
    journal.answer_request(&run, approve, "approved").await.unwrap();
    journal
        .file_request(&run, "bob", None, &RequestKind::Abandon { without_green: true, by_restore: false }, at(6))
        .await
        .unwrap();
    journal.set_progress(&run, "comparing public.orders").await.unwrap();
    drop(journal);
    let file = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let elsewhere = "UPDATE lease SET pid = 4711, host = 'db-admin-1', boot_id = 'another', process_started = 1";
    file.execute(elsewhere, ()).unwrap();
    file.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |row| row.get::<_, i64>(0)).unwrap();
    drop(file);
    if std::env::var_os("GREENLIGHT_WRITE_FIXTURE").is_some() {
        std::fs::create_dir_all(fixture()).unwrap();
        std::fs::copy(dir.path().join(FILE), fixture().join(FILE)).unwrap();
    }
}

/// The other processes of the tests above: this test binary once more, told by its environment what to do.
#[tokio::test]
async fn child() {
    let Some(job) = std::env::var_os("JOURNAL_TEST_JOB") else { return };
    let dir = std::env::var_os("JOURNAL_TEST_DIR").unwrap();
    let journal = SqliteJournal::open(Path::new(&dir)).unwrap();
    match job.to_str() {
        Some("write") => write_for_ever(&journal).await,
        Some("race") => race(&journal).await,
        _ => acknowledge("opened"),
    }
}

async fn write_for_ever(journal: &SqliteJournal) {
    let run = RunId::random();
    journal.create(&created(&run), at(0)).await.unwrap();
    let holder = format!("the child {}", std::process::id());
    let epoch = journal.take_lease(&run, &holder, TTL, false, at(0)).await.unwrap();
    for seq in 1.. {
        let text = format!("record {seq}");
        journal.append(&run, seq, epoch, &noticed(&text), at(1)).await.unwrap();
        acknowledge(&text);
    }
}

const RACE_RECORDS: usize = 60;

async fn race(journal: &SqliteJournal) {
    let run = journal.runs().await.unwrap().remove(0).run;
    let mut done = 0;
    while done < RACE_RECORDS {
        let epoch = journal.take_lease(&run, "a racer", TTL, true, at(1)).await.unwrap();
        let last = journal.read(&run).await.unwrap().len() as u64;
        let text = format!("{done} by {}", HolderProcess::this());
        let outcome = journal.append(&run, last, epoch, &noticed(&text), at(1)).await;
        assert!(outcome.is_ok() || superseded(&outcome), "{outcome:?}");
        if outcome.is_ok() {
            acknowledge(&text);
            done += 1;
        }
    }
}

fn acknowledge(text: &str) {
    let mut stdout = std::io::stdout();
    write!(stdout, "\nack {text}\n").unwrap();
    stdout.flush().unwrap();
}

#[expect(clippy::disallowed_methods, reason = "starts this test binary itself")]
fn start_child(job: &str, dir: &Path) -> (Child, ChildStdout) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env("JOURNAL_TEST_JOB", job).env("JOURNAL_TEST_DIR", dir);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    (child, output)
}

fn acknowledgements(output: ChildStdout) -> impl Iterator<Item = String> {
    BufReader::new(output).lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("ack ").map(str::to_owned))
}

/// Polls until it is so, ten seconds at most.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if is_so().await {
            return;
        }
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(10))).await.unwrap();
    }
    panic!("after ten seconds: not {what}");
}

/// One kind of journal. Each handle that it opens stands for a process of its own.
struct World {
    kind: &'static str,
    open: Box<dyn Fn() -> Arc<dyn Journal>>,
}

impl World {
    fn open(&self) -> Arc<dyn Journal> {
        (self.open)()
    }

    async fn run(&self) -> RunId {
        let run = RunId::random();
        self.open().create(&created(&run), at(0)).await.unwrap();
        run
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "with the journal in {}", self.kind);
        }
    }
}

async fn on_both(check: impl AsyncFn(World)) {
    let memory = MemoryJournal::new();
    check(World { kind: "memory", open: Box::new(move || Arc::new(memory.clone())) }).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    check(World { kind: "SQLite", open: Box::new(move || Arc::new(SqliteJournal::open(&path).unwrap())) }).await;
}

fn superseded<T>(outcome: &Result<T, JournalError>) -> bool {
    matches!(outcome, Err(JournalError::Superseded { .. }))
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_second(seconds.cast_signed()).unwrap()
}

fn noticed(what: &str) -> Event {
    Event::Noticed { what: what.to_owned() }
}

fn what(event: &Event) -> String {
    match event {
        Event::Noticed { what } => what.clone(),
        other => panic!("not written by this test: {other:?}"),
    }
}

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1")
}

fn created(run: &RunId) -> Event {
    Event::RunCreated { plan: Box::new(plan(run)), by: "ada".to_owned() }
}

fn schema(state: &str) -> Fingerprint {
    [("table public.orders".to_owned(), state.to_owned())].into_iter().collect()
}

fn plan(run: &RunId) -> Plan {
    let server = |host: &str| ServerSpec {
        url: Template(format!("postgresql://greenlight:${{env:PASSWORD}}@{host}:5432/shop")),
        peer_url: None,
    };
    let step = |name, reversal| PlannedStep {
        name,
        reversal,
        gate: Gate { approval: name == StepName::Window, ..Gate::default() },
        attempts_max: 5,
        backoff_ms: 1000,
        on_failure: None,
        sql: vec!["SELECT 1".to_owned()],
        says: "says what it does".to_owned(),
        way_back: "none is needed".to_owned(),
    };
    Plan {
        format: FORMAT,
        run: run.clone(),
        name: "shop".to_owned(),
        strategy: greenlight::plan::Strategy::Sync,
        made_at: at(0),
        blue: server("db1"),
        green: server("db2"),
        standby: None,
        restore_into: None,
        shadow: None,
        routes: Vec::new(),
        window: WindowSpec {
            max_pause_ms: 5000,
            max_lag_bytes: 1 << 20,
            long_transactions: LongTransactions::Wait,
            transaction_age_max_ms: 5000,
            sequence_margin: 1000,
            reads_on_blue: false,
        },
        validate: ValidateSpec { rows: true, chunk_rows: 50_000, parallel: 2, exclude: Vec::new(), assertions: Vec::new() },
        history: HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 2000, lock_retries: 10 },
        soak: SoakSpec { for_secs: 3600, then_finish: false },
        limits: LimitsSpec { wal_kept_bytes_max: 10 << 30 },
        on_failure: OnFailure::Rollback,
        snapshot: None,
        green_snapshot: None,
        names: Names::new(run),
        steps: vec![
            step(StepName::PrepareBlue, Reversal::Revert),
            step(StepName::Window, Reversal::Revert),
            step(StepName::Finish, Reversal::PointOfNoReturn),
        ],
        tables: Vec::new(),
        migrations: Vec::new(),
        system_identifier: 7_300_000_000_000_000_001,
        blue_timeline: 1,
        blue_fingerprint: schema("b1"),
        green_fingerprint: Some(schema("g1")),
        findings: Vec::new(),
        inherited_subscriptions: Vec::new(),
        green_physical_slot: Some("green_physical".to_owned()),
        sync_triggers: Vec::new(),
        analyze: Vec::new(),
        provisional: false,
        basis: None,
    }
}

/// Every kind of event and of fact that format 1 has, in no order that a run would have.
fn events_of_format_1() -> Vec<Event> {
    let step = StepNo(1);
    let text = |text: &str| text.to_owned();
    let mut events = vec![
        Event::LeaseTaken { holder: text("pid 4711 on db-admin-1") },
        Event::StepStarted { step, attempt: 1, direction: Direction::Forward },
        Event::RollbackCalledOff { by: text("ana"), reason: None },
        Event::StepParked { step, until: at(60), note: text("the lag to fall") },
        Event::StepWaiting { step, until: at(61), note: text("a long transaction to end") },
        Event::StepFailed {
            step,
            failure: Failure::Transient,
            error: text("could not reach `green`"),
            hint: Some(text("is it running?")),
            retry_at: Some(at(62)),
        },
        Event::StepUnsure { step, error: text("could not see the answer"), hint: Some(text("is it up?")), look_at: at(63) },
        Event::StepDone { step },
        Event::StepReverted { step },
        Event::GateReached { step, waits_for: text("an approval") },
        Event::GateApproved { step, by: text("ada"), reason: None },
        Event::RollbackBegun {
            until: step,
            by: text("ada"),
            reason: text("errors in checkout"),
            without_green: false,
            by_restore: false,
        },
        Event::RollbackHalted { until: step },
        Event::RetryOrdered { step, by: text("ada"), reason: Some(text("green is back")) },
        Event::MarkedDone { step, by: text("ada"), reason: text("did it by hand") },
        Event::FinishOrdered { by: text("ada"), reason: None },
        Event::Noticed { what: text("blue's schema changed") },
    ];
    events.extend(facts_of_format_1().into_iter().map(|fact| Event::FactLearned { step, fact }));
    events.push(Event::RunClosed { outcome: Outcome::Completed });
    events
}

fn facts_of_format_1() -> Vec<Fact> {
    let text = |text: &str| text.to_owned();
    let lsn = Lsn(0x16_B374_D848);
    vec![
        Fact::RestorePoint { name: text("greenlight_r1a2b3c4"), lsn },
        Fact::StandbyMade { data_dir: text("/var/lib/green"), slot: text("greenlight_r1a2b3c4_standby") },
        Fact::SlotMade { on: Side::Blue, name: text("greenlight_r1a2b3c4_fwd"), lsn },
        Fact::GreenMarked { own: Some("30s".to_owned()) },
        Fact::Promoted { fork: lsn, timeline: 2 },
        Fact::InheritedStopped { what: text("subscription `reports`") },
        Fact::PhysicalSlotDropped { name: text("green_physical") },
        Fact::FlowStarted { subscriber: Side::Green, origin: lsn },
        Fact::Judged {
            work: Box::new(SchemaWork {
                tables: Vec::new(),
                sync_triggers: Vec::new(),
                green_fingerprint: Some(schema("g2")),
                findings: Vec::new(),
                steps: plan(&"r1a2b3c4".parse().unwrap()).steps,
            }),
        },
        Fact::Migrated { version: text("0001"), name: text("add_notes"), took_ms: 12 },
        Fact::BlueFingerprint { fingerprint: schema("b2") },
        Fact::FenceBroken { seen_at: at(69), how: text("the fence's function was changed") },
        Fact::WayBackGivenUp { reason: text("the slot kept more than 10 GiB") },
        Fact::Validated { at: at(70), tables: 14, rows: 300_000, took_ms: 900 },
        Fact::WindowOpened { to: Side::Green, attempt: 1, at: at(71) },
        Fact::WindowCommitted { serving: Side::Green, follow_from: lsn },
        Fact::ClientsResumed { at: at(72) },
        Fact::WindowClosed {
            serving: Side::Green,
            moved: true,
            by_guard: false,
            pause_ms: 24.5,
            phases: vec![WindowPhase { name: text("pause"), ms: 9.25 }],
            client_wait_ms: Some(31.5),
            reason: None,
        },
        Fact::FollowsBack { follower: Side::Blue },
        Fact::RouteSeen { route: text("main"), trouble: Some(text("leads to blue")) },
        Fact::RouteSeen { route: text("main"), trouble: None },
        Fact::DirectSessions { on: Side::Blue, sessions: vec![text("1 session of `billing` from 10.0.0.7")] },
        Fact::LeftBehind { on: Side::Blue, what: text("slot `x`"), why: text("blue does not answer") },
    ]
}

//! The lab's world with a playbook, clients that remember what was acknowledged, and the program that is tested.

use greenlight::journal::{Journal, SqliteJournal};
use greenlight::lab::{Ledger, LedgerOptions, LedgerReport, Options, World, find_pgbouncer, shop};
use greenlight::plan::Plan;
use greenlight::postgres::programs::Installed;
use greenlight::run::{Event, Fact, Record, Run, replay};
use greenlight::word::{Endpoint, Side, quote_literal};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// How long anything may take before the test gives up: a hang, not a measure.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// What a freeze may last: a migration, on a machine that is busy with tests.
pub(crate) const FREEZE_MAX: Duration = Duration::from_mins(1);

/// The window's limit in the other playbooks.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The exit codes that `greenlight --help` lists.
pub(crate) const COMPLETED: Option<i32> = Some(0);
pub(crate) const WAITS: Option<i32> = Some(5);
pub(crate) const USAGE: Option<i32> = Some(2);
pub(crate) const PROBLEMS: Option<i32> = Some(3);
pub(crate) const REFUSED: Option<i32> = Some(4);
pub(crate) const HELD: Option<i32> = Some(6);
pub(crate) const ROLLED_BACK: Option<i32> = Some(7);
pub(crate) const TAKEN: Option<i32> = Some(8);
pub(crate) const JOURNAL: Option<i32> = Some(9);
/// Killed by a signal.
pub(crate) const KILLED: Option<i32> = None;

pub(crate) struct Setup {
    pub(crate) major: u32,
    /// Lines that replace the playbook's `gates`, or stand beside them.
    pub(crate) playbook: &'static str,
    /// A migration besides those of the shop.
    pub(crate) migration: Option<&'static str>,
    pub(crate) wal_kept: &'static str,
    pub(crate) strategy: &'static str,
    /// Lines of the section `window`.
    pub(crate) window: &'static str,
    /// Blue archives its WAL, and the playbook says that backups are kept.
    pub(crate) snapshot: bool,
    pub(crate) with_green: bool,
    pub(crate) pgbouncers: u32,
}

/// A person opens the window.
pub(crate) const APPROVAL: &str = "gates:\n  before_window: {approval: true}\n";

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            major: 15,
            playbook: "",
            migration: None,
            wal_kept: "20GiB",
            strategy: "sync",
            window: "",
            snapshot: false,
            with_green: true,
            pgbouncers: 2,
        }
    }
}

/// A world, its playbook, and perhaps clients at work.
pub(crate) struct Live {
    pub(crate) lab: World,
    pub(crate) playbook: PathBuf,
    pub(crate) state: PathBuf,
    ledger: Option<Ledger>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

pub(crate) async fn installed() -> Installed {
    Installed::find(std::env::var_os("GREENLIGHT_PG_DIRS").as_deref(), None).await
}

impl Live {
    pub(crate) async fn up(setup: Setup) -> Live {
        let dir = PathBuf::from(format!("/tmp/greenlight-live-{}", greenlight::word::RunId::random()));
        let options = Options {
            installed: installed().await,
            major: setup.major,
            pgbouncer: find_pgbouncer(Some(OsStr::new("/usr/sbin"))).unwrap(),
            pgbouncers: setup.pgbouncers,
            fsync: false,
            scale: 0.01,
            database: "shop".to_owned(),
            with_green: setup.with_green,
            settings: if setup.snapshot { archiving(&dir.join("backups")) } else { Vec::new() },
            dir,
        };
        let lab = World::up(&options, &|_| ()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        if setup.snapshot {
            // An archive of its own, which it comes to use when it serves.
            let green = connect(&lab.endpoint(Side::Green)).await;
            for (name, value) in archiving(&lab.dir().join("backups-of-green")) {
                green.batch_execute(&format!("ALTER SYSTEM SET {name} = {}", quote_literal(&value))).await.unwrap();
            }
            lab.crash(Side::Green);
            lab.start(Side::Green).await.unwrap();
        }
        let migrations = lab.dir().join("migrations");
        shop::write_migrations(&migrations).unwrap();
        if let Some(sql) = setup.migration {
            std::fs::write(migrations.join("20260106000000_further.up.sql"), sql).unwrap();
        }
        let playbook = lab.dir().join("shop.yaml");
        std::fs::write(&playbook, text(&lab, &setup)).unwrap();
        Live::of(lab, playbook)
    }

    /// A world that was brought up, and a playbook for it.
    pub(crate) fn of(lab: World, playbook: PathBuf) -> Live {
        let state = lab.dir().join("state");
        Live { lab, playbook, state, ledger: None }
    }

    /// Starts clients, and returns when they write.
    pub(crate) async fn start_writing(&mut self) {
        let doors = self.lab.routes();
        self.start_writing_through(&doors).await;
    }

    /// The same through these doors.
    pub(crate) async fn start_writing_through(&mut self, doors: &[Endpoint]) {
        let ledger = Ledger::start(doors, LedgerOptions { clients: 4, rate: 100.0 });
        ledger.wait_for(50, LIMIT).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        self.ledger = Some(ledger);
    }

    /// Returns when clients were told of so many more writes.
    pub(crate) async fn see_writes(&self, more: usize) {
        let ledger = self.ledger.as_ref().unwrap();
        ledger.wait_for(more, LIMIT).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    }

    /// Ends the clients.
    pub(crate) async fn stop_writing(&mut self) -> LedgerReport {
        self.ledger.take().unwrap().stop().await
    }

    /// Ends the clients. Every write that was acknowledged is on `serving`.
    pub(crate) async fn nothing_is_lost(&mut self, serving: Side) -> LedgerReport {
        let report = self.stop_writing().await;
        let lost = report.lost(&self.lab.endpoint(serving)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(lost, [], "acknowledged, and not on {serving}: {} of {}", lost.len(), report.requests.len());
        report
    }

    /// The program with these arguments, to its end.
    pub(crate) async fn greenlight(&self, arguments: &[&str]) -> Ended {
        self.greenlight_with(arguments, "").await
    }

    /// The same with a failpoint: `place:kill` or `place:stop`.
    pub(crate) async fn greenlight_with(&self, arguments: &[&str], failpoint: &str) -> Ended {
        wait(self.start(arguments, failpoint)).await
    }

    /// `run` of the playbook, which comes back where it would wait for long.
    pub(crate) async fn run(&self) -> Ended {
        self.run_with("").await
    }

    pub(crate) async fn run_with(&self, failpoint: &str) -> Ended {
        self.greenlight_with(&["run", self.playbook.to_str().unwrap(), "--no-wait"], failpoint).await
    }

    /// The program to its end, its clock 100 hours ahead of the servers'.
    pub(crate) async fn ahead(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new("faketime");
        command.args(["-f", "+100h", env!("CARGO_BIN_EXE_greenlight"), "--state"]).arg(&self.state).args(arguments);
        // Nobody can set the monotonic clock, by which the kernel wakes threads.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        wait(command.spawn().unwrap()).await
    }

    /// Starts the program, which is killed when the answer is dropped.
    pub(crate) fn start(&self, arguments: &[&str], failpoint: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_greenlight"));
        command.arg("--state").arg(&self.state).args(arguments).env("GREENLIGHT_FAILPOINT", failpoint);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// The records of the one run there is; none before it was created.
    pub(crate) async fn records(&self) -> Vec<Record> {
        if !self.state.exists() {
            return Vec::new();
        }
        let journal = SqliteJournal::open(&self.state).unwrap();
        match journal.runs().await.unwrap().first() {
            Some(entry) => journal.read(&entry.run).await.unwrap(),
            None => Vec::new(),
        }
    }

    /// The run, and its plan, as the journal has it.
    pub(crate) async fn stored(&self) -> (Plan, Run) {
        let records = self.records().await;
        replay(records.iter().map(|record| &record.event)).expect("there is no run")
    }

    pub(crate) async fn serving(&self) -> Side {
        self.stored().await.1.serving()
    }

    /// Returns when a record is there for which this holds.
    pub(crate) async fn see_record(&self, what: &str, wanted: impl Fn(&Event) -> bool) {
        self.until(what, async || self.records().await.iter().any(|record| wanted(&record.event))).await;
    }

    /// Polls until it is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let until = Instant::now() + LIMIT;
        while !is_so().await {
            assert!(Instant::now() < until, "waited too long to see that {what}; the journal: {}", self.told().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns when nobody drives the run and no window is open.
    pub(crate) async fn see_it_safe(&self) {
        self.until("no window is open and nobody drives", async || {
            let journal = SqliteJournal::open(&self.state).unwrap();
            let (plan, run) = self.stored().await;
            let driven = journal.lease(&plan.run).await.unwrap().is_some_and(|lease| !lease.free);
            run.open_window().is_none() && !driven
        })
        .await;
    }

    /// Whether the last window moved the writer, and whether the guard ended it.
    pub(crate) async fn last_window(&self) -> (bool, bool) {
        let closed = |record: &Record| match record.event {
            Event::FactLearned { fact: Fact::WindowClosed { moved, by_guard, .. }, .. } => Some((moved, by_guard)),
            _ => None,
        };
        self.records().await.iter().rev().find_map(closed).unwrap()
    }

    /// The last records, for the message of a test that fails.
    pub(crate) async fn told(&self) -> String {
        let records = self.records().await;
        let skipped = records.len().saturating_sub(15);
        let lines: Vec<String> = records[skipped..].iter().map(|record| format!("{} {:?}", record.seq, record.event)).collect();
        lines.join("\n")
    }
}

/// Whether the process was stopped, as `SIGSTOP` does.
pub(crate) fn is_stopped(process: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id().unwrap())).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

/// Lets a stopped process go on.
pub(crate) fn go_on(process: &Child) {
    let pid = process.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
}

pub(crate) async fn wait(child: Child) -> Ended {
    let output = tokio::time::timeout(LIMIT * 3, child.wait_with_output()).await.expect("the program does not end").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), said: text(&output.stdout) + &text(&output.stderr) }
}

impl Ended {
    /// It ended so.
    pub(crate) fn expect(self, code: Option<i32>) -> Ended {
        assert_eq!(self.code, code, "{}", self.said);
        self
    }

    /// It said so.
    pub(crate) fn says(self, text: &str) -> Ended {
        assert!(self.said.contains(text), "`{text}` is missing in:\n{}", self.said);
        self
    }
}

/// The answer of one statement, each row's first column.
pub(crate) async fn ask(endpoint: &Endpoint, sql: &str) -> Vec<String> {
    rows(&connect(endpoint).await, sql).await
}

pub(crate) async fn connect(endpoint: &Endpoint) -> tokio_postgres::Client {
    try_connect(endpoint).await.unwrap()
}

pub(crate) async fn try_connect(endpoint: &Endpoint) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(&endpoint.host).port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database);
    config.password(endpoint.password.as_ref().unwrap().expose());
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) async fn rows(client: &tokio_postgres::Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// The entries of a playbook's `routes`.
pub(crate) fn routes(lab: &World) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let routes: Vec<String> = (0..lab.routes().len())
        .map(|number| {
            let (admin, probe) = (quoted(&lab.admin_url(number)), quoted(&lab.through_url(number)));
            let config = lab.pgbouncer_config(number);
            let (database, config) = (lab.pgbouncer_database(), quoted(config.to_str().unwrap()));
            format!(
                "  - pgbouncer: {{name: main{number}, admin: {admin}, database: {database}, config: {config}, probe: {probe}}}\n"
            )
        })
        .collect();
    routes.concat()
}

fn text(lab: &World, setup: &Setup) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "version: 1\nname: shop\nstrategy: {}\nblue: {{url: {}}}\ngreen: {{url: {}{}}}\nmigrations: {{dir: migrations}}\n\
         routes:\n{}{}soak: {{for: 1h, then: wait}}\nlimits: {{wal_kept: {}}}\n\
         accept: [no-archive, \"backfill:public.customers\"]\nwindow:\n  max_pause: {}s\n  max_lag: 4MiB\n{}{}",
        setup.strategy,
        quoted(&lab.url(Side::Blue)),
        quoted(&lab.url(Side::Green)),
        if setup.snapshot { format!(", snapshot: {}", snapshot(lab, "backups-of-green")) } else { String::new() },
        routes(lab),
        setup.playbook,
        setup.wal_kept,
        if setup.strategy == "sync" { MAX_PAUSE.as_secs() } else { FREEZE_MAX.as_secs() },
        setup.window,
        if setup.snapshot { format!("snapshot: {}\n", snapshot(lab, "backups")) } else { String::new() },
    )
}

/// The archive beside the servers, from before there is any.
fn archiving(folder: &Path) -> Vec<(String, String)> {
    let (wal, folder) = (folder.join("wal"), folder.display());
    let wal = wal.display();
    let new = format!("mkdir -p {wal} && chmod 777 {folder} {wal} && cp %p {wal}/%f.tmp && mv {wal}/%f.tmp {wal}/%f");
    [("archive_mode", "on".to_owned()), ("archive_command", format!("cmp -s %p {wal}/%f || {{ {new}; }}"))]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

fn snapshot(lab: &World, folder: &str) -> String {
    let dir = lab.dir().join(folder).display().to_string();
    format!("{{store: basebackup, dir: {dir:?}, wal: archive_command, max_age: 1h, retention: {{count: 1}}, prove: true}}")
}

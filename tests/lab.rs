//! The lab: real servers come up, take writes, break, and go away without a trace.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that cannot go on says where, polls, and says what it could not test"
)]

use greenlight::lab::{Ledger, LedgerOptions, Options, Outcome, World, find_pgbouncer, shop};
use greenlight::postgres::programs::Installed;
use greenlight::provider::processes;
use greenlight::word::{Endpoint, Side};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A folder for a world, which makes it and removes it.
fn folder(name: &str) -> PathBuf {
    let random = greenlight::word::RunId::random();
    PathBuf::from(format!("/tmp/greenlight-lab-{name}-{random}"))
}

async fn options(name: &str) -> Options {
    let named = std::env::var_os("GREENLIGHT_PG_DIRS");
    let installed = Installed::find(named.as_deref(), None).await;
    Options {
        dir: folder(name),
        major: installed.server_majors().into_iter().min().unwrap(),
        installed,
        pgbouncer: find_pgbouncer(Some(OsStr::new("/usr/sbin"))).unwrap(),
        pgbouncers: 1,
        fsync: false,
        scale: 0.02,
        database: "shop".to_owned(),
        with_green: true,
        settings: Vec::new(),
    }
}

async fn up(options: &Options) -> World {
    World::up(options, &|_| ()).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

async fn ask(endpoint: &Endpoint, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(&endpoint.host).port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database);
    config.password(endpoint.password.as_ref().unwrap().expose());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let answer = client.simple_query(sql).await?;
    let rows = answer.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(rows.collect())
}

async fn until(endpoint: &Endpoint, sql: &str, answer: &str) {
    for _ in 0..500 {
        if ask(endpoint, sql).await.is_ok_and(|rows| rows == [answer]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("`{sql}` on {endpoint} does not become {answer}");
}

/// Each client does each kind of request, no one fails, and all of them arrive.
async fn write(world: &World) {
    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: 2, rate: 300.0 });
    ledger.wait_for(60, LIMIT).await.unwrap();
    let report = ledger.stop().await;
    assert_eq!(report.errors, std::collections::BTreeMap::new());
    assert_eq!(report.lost(&world.endpoint(Side::Blue)).await.unwrap(), []);
}

/// The servers and PgBouncers of a world that run.
fn running_in(dir: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> =
        ["blue", "green"].iter().flat_map(|name| processes::started_with("postgres", &dir.join(name))).collect();
    pids.extend((0..4).flat_map(|n| processes::started_with("pgbouncer", &dir.join(format!("pgbouncer{n}/pgbouncer.ini")))));
    pids
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_write_through_pgbouncer_and_green_has_every_acknowledged_row() {
    let world = up(&Options { pgbouncers: 2, ..options("writers").await }).await;
    let (blue, green) = (world.endpoint(Side::Blue), world.endpoint(Side::Green));
    assert_eq!(ask(&green, "SELECT pg_is_in_recovery()::text").await.unwrap(), ["true"]);
    assert_eq!(ask(&blue, "SELECT slot_name FROM pg_replication_slots WHERE active").await.unwrap(), ["green_standby"]);
    assert!(ask(&world.through(1), "SELECT count(*) FROM \"Gift Cards\"").await.unwrap()[0].parse::<u32>().unwrap() > 0);
    assert_eq!(ask(&world.admin(0), "SHOW VERSION").await.unwrap().len(), 1);

    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: 6, rate: 300.0 });
    ledger.wait_for(300, LIMIT).await.unwrap();
    let report = ledger.stop().await;
    assert_eq!(report.errors, std::collections::BTreeMap::new());
    assert!(report.count(Outcome::Acknowledged) >= 300);
    assert!(report.latency_at(0.5) <= report.longest_wait());
    let (first, last) = (report.requests.first().unwrap(), report.requests.last().unwrap());
    assert_eq!(report.longest_wait_between(first.started, last.started), report.longest_wait());
    assert_eq!(report.lost(&blue).await.unwrap(), []);
    let count = format!("SELECT (count(*) >= {})::text FROM ledger", report.count(Outcome::Acknowledged));
    until(&green, &count, "true").await;
    assert_eq!(report.lost(&green).await.unwrap(), []);

    // And a row that is gone is noticed.
    let row = report.requests[7];
    ask(&blue, &format!("DELETE FROM ledger WHERE (client, seq) = ({}, {})", row.client, row.seq)).await.unwrap();
    assert_eq!(report.lost(&blue).await.unwrap(), [(row.client, row.seq)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_blue_loses_no_acknowledged_write_and_writers_come_back() {
    let world = up(&Options { with_green: false, ..options("crash").await }).await;
    let ledger = Ledger::start(&world.routes(), LedgerOptions { clients: 4, rate: 200.0 });
    ledger.wait_for(100, LIMIT).await.unwrap();
    world.crash(Side::Blue);
    assert!(!world.server(Side::Blue).is_running());
    world.start(Side::Blue).await.unwrap();
    // PgBouncer lets nobody in for a while after a failed login to its server; a new one knows nothing of that.
    world.restart_pgbouncer(0).await.unwrap();
    ledger.wait_for(100, LIMIT).await.unwrap();
    let report = ledger.stop().await;
    assert!(report.count(Outcome::Failed) + report.count(Outcome::Unknown) > 0);
    assert_eq!(report.lost(&world.endpoint(Side::Blue)).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_weird_name_is_reached_through_pgbouncer() {
    let name = r#"Shop "Ä" d'b"#;
    let world = up(&Options { database: name.to_owned(), ..options("weird").await }).await;
    assert_eq!(ask(&world.through(0), "SELECT current_database()").await.unwrap(), [name]);
    assert_eq!(ask(&world.endpoint(Side::Green), "SELECT current_database()").await.unwrap(), [name]);
    assert!(world.url(Side::Blue).ends_with("/Shop%20%22%C3%84%22%20d%27b?sslmode=disable"));
    write(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_migrations_run_up_and_down_and_the_writers_work_with_both_schemas() {
    let world = up(&Options { with_green: false, ..options("migrations").await }).await;
    let blue = world.endpoint(Side::Blue);
    let folder = tempfile::tempdir().unwrap();
    let files = shop::write_migrations(folder.path()).unwrap();
    let columns = "SELECT string_agg(format('%s.%s.%s %s %s', table_schema, table_name, column_name, data_type, is_nullable), E'\\n' \
                   ORDER BY table_schema, table_name, column_name) FROM information_schema.columns \
                   WHERE table_schema IN ('public', 'warehouse')";
    let before = ask(&blue, columns).await.unwrap();
    let (up, down): (Vec<_>, Vec<_>) = files.iter().partition(|path| path.to_string_lossy().ends_with(".up.sql"));
    assert_eq!((up.len(), down.len()), (4, 4));
    let run = async |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        ask(&blue, &format!("BEGIN; {text}; COMMIT")).await.unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
    };

    write(&world).await;
    for path in &up {
        run(path).await;
    }
    write(&world).await;
    let unfilled = "SELECT count(*)::text FROM customers WHERE search_name IS DISTINCT FROM lower(name || ' ' || email)";
    assert_eq!(ask(&blue, unfilled).await.unwrap(), ["0"]);
    for path in down.iter().rev() {
        run(path).await;
    }
    write(&world).await;
    assert_eq!(ask(&blue, columns).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_is_found_again_by_its_folder_and_removed() {
    let world = up(&options("found").await).await;
    let dir = world.dir().to_owned();
    let pids = running_in(&dir);
    assert_eq!(pids.len(), 3);

    drop(World::load(&dir).unwrap());
    assert_eq!(running_in(&dir), pids);
    let found = World::load(&dir).unwrap();
    assert_eq!(found.url(Side::Blue), world.url(Side::Blue));
    assert_eq!(found.endpoint(Side::Blue).password, world.endpoint(Side::Blue).password);
    found.crash(Side::Green);
    found.start(Side::Green).await.unwrap();
    found.down().unwrap();
    assert!(running_in(&dir).is_empty());
    assert!(!pids.into_iter().any(processes::is_alive) && !dir.exists());
    assert!(World::load(&dir).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_no_process_and_no_file_behind() {
    let options = options("panic").await;
    let dir = options.dir.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    let failed = tokio::spawn(async move {
        let world = up(&options).await;
        tell.send(running_in(world.dir())).unwrap();
        panic!("the test went wrong");
    });
    let pids = told.await.unwrap();
    assert_eq!(pids.len(), 3);
    assert!(failed.await.unwrap_err().is_panic());
    assert!(!pids.into_iter().any(processes::is_alive) && !dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_goes_with_its_process_however_that_ends() {
    // This test, run again by itself, is the process that is killed.
    const WORLD: &str = "GREENLIGHT_TEST_WORLD";
    if let Some(dir) = std::env::var_os(WORLD) {
        let _world = up(&Options { dir: dir.into(), ..options("killed").await }).await;
        return std::future::pending().await;
    }
    let dir = folder("killed");
    let mut command = greenlight::process::new_command(&std::env::current_exe().unwrap());
    command.args(["--exact", "a_world_goes_with_its_process_however_that_ends"]).env(WORLD, &dir);
    let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let comes = async |count: usize| {
        for _ in 0..1500 {
            if running_in(&dir).len() == count && (count > 0 || !dir.exists()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    };
    assert!(comes(3).await, "the world does not come up");
    process.kill().await.unwrap();
    assert!(comes(0).await, "{:?} in {} outlived their process", running_in(&dir), dir.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_something_is_not_made_a_lab() {
    let taken = tempfile::Builder::new().prefix("greenlight-lab-").tempdir_in("/tmp").unwrap();
    fs::write(taken.path().join("data"), "of worth").unwrap();
    let options = Options { dir: taken.path().to_owned(), ..options("taken").await };
    let error = World::up(&options, &|_| ()).await.unwrap_err();
    assert!(error.chain().ends_with("the folder is not empty"), "{}", error.chain());
    assert_eq!(fs::read_to_string(taken.path().join("data")).unwrap(), "of worth");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_comes_up_on_every_version_that_is_installed() {
    let options = options("versions").await;
    for major in options.installed.server_majors() {
        if options.installed.client("pg_basebackup", major).is_err() {
            eprintln!("SKIPPED: no pg_basebackup for PostgreSQL {major} here, so no standby of it can be made");
            continue;
        }
        let world = up(&Options { dir: folder("version"), major, ..options.clone() }).await;
        let green = world.endpoint(Side::Green);
        until(&green, "SELECT status FROM pg_stat_wal_receiver", "streaming").await;
        let version = ask(&green, "SELECT current_setting('server_version_num')::int / 10000").await.unwrap();
        assert_eq!(version, [major.to_string()]);
    }
}

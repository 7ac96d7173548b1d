//! The strategy `in-place`: blue itself is migrated while clients write, and is brought back by its down migrations.

use crate::world::{COMPLETED, Ended, KILLED, LIMIT, Live, ROLLED_BACK, WAITS, ask, connect, installed, rows, wait};
use greenlight::lab::{Options, World, find_pgbouncer};
use greenlight::run::{Event, Fact};
use greenlight::word::{RunId, Side};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The exit code of a run that a failed step holds.
const HELD: Option<i32> = Some(6);

/// Adds a column, and an index without a transaction.
const GOOD: &[(&str, &str)] = &[
    ("0001_notes.up.sql", "ALTER TABLE orders ADD COLUMN notes text;\n"),
    ("0001_notes.down.sql", "ALTER TABLE orders DROP COLUMN notes;\n"),
    (
        "0002_by_status.up.sql",
        "-- greenlight: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_status ON orders (status);\n",
    ),
    ("0002_by_status.down.sql", "-- greenlight: no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS orders_by_status;\n"),
];

/// Goes through in a shadow without rows, and is broken by each row of blue's.
const FAILS: (&str, &str) = ("0003_free.up.sql", "ALTER TABLE orders ADD CONSTRAINT orders_are_free CHECK (total_cents < 0);\n");
const FAILS_DOWN: (&str, &str) = ("0003_free.down.sql", "ALTER TABLE orders DROP CONSTRAINT orders_are_free;\n");

const ON_BLUE: &str = "SELECT (SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'notes') + \
    (SELECT count(*) FROM pg_class WHERE relname = 'orders_by_status') + (SELECT count(*) FROM pg_namespace WHERE nspname = 'greenlight')";

/// A blue that archives, without a green, and a playbook with these lines more.
async fn up(migrations: &[(&str, &str)], more: &str) -> Live {
    up_with(15, migrations, |_| more.to_owned()).await
}

/// The same with lines that name places of this world.
pub(crate) async fn up_with(major: u32, migrations: &[(&str, &str)], more: impl Fn(&World) -> String) -> Live {
    let dir = new_folder();
    let wal = dir.join("store/wal");
    let wal = wal.display();
    let archive = format!("mkdir -p {wal} && {{ cmp -s %p {wal}/%f || {{ cp %p {wal}/%f.tmp && mv {wal}/%f.tmp {wal}/%f; }}; }}");
    let lab = blue_alone(dir, major, &[("archive_mode", "on"), ("archive_command", &archive)]).await;
    let store = format!("{{store: basebackup, dir: {}, wal: archive_command}}", quoted(&lab.dir().join("store")));
    let more = more(&lab);
    with_playbook(lab, migrations, &store, &more)
}

pub(crate) fn new_folder() -> PathBuf {
    PathBuf::from(format!("/tmp/greenlight-live-{}", RunId::random()))
}

pub(crate) fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_str().unwrap()).to_string()
}

/// A blue with these settings and PgBouncers before it, and no green.
pub(crate) async fn blue_alone(dir: PathBuf, major: u32, settings: &[(&str, &str)]) -> World {
    let options = Options {
        dir,
        installed: installed().await,
        major,
        pgbouncer: find_pgbouncer(Some(OsStr::new("/usr/sbin"))).unwrap(),
        pgbouncers: 2,
        fsync: false,
        scale: 0.01,
        database: "shop".to_owned(),
        with_green: false,
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    World::up(&options, &|_| ()).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// A playbook with these migrations, this section `snapshot`, and these lines more.
pub(crate) fn with_playbook(lab: World, migrations: &[(&str, &str)], store: &str, more: &str) -> Live {
    let folder = lab.dir().join("migrations");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in migrations {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let playbook = lab.dir().join("shop.yaml");
    let text = format!(
        "version: 1\nname: shop\nstrategy: in-place\nblue: {{url: {}}}\nmigrations: {{dir: migrations, lock_timeout: 100ms, \
         lock_retries: 100}}\nsnapshot: {store}\n{more}",
        quoted(Path::new(&lab.url(Side::Blue))),
    );
    std::fs::write(&playbook, text).unwrap();
    Live::of(lab, playbook)
}

pub(crate) fn with_a_failing_one(has_down: bool) -> Vec<(&'static str, &'static str)> {
    let down = has_down.then_some(FAILS_DOWN);
    GOOD.iter().copied().chain([FAILS]).chain(down).collect()
}

const ACCEPTS: &str = "accept: [\"lock:public.orders\"]\n";

impl Live {
    /// How many of the column, the index and our schema there are.
    async fn on_blue(&self) -> String {
        ask(&self.lab.endpoint(Side::Blue), ON_BLUE).await.remove(0)
    }

    pub(crate) async fn applied(&self) -> Vec<String> {
        ask(&self.lab.endpoint(Side::Blue), "SELECT version FROM schema_migrations ORDER BY version").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_playbook_migrates_blue_under_its_clients() {
    let mut live = up(&[], "").await;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    for file in std::fs::read_dir(repository.join("migrations")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), live.lab.dir().join("migrations").join(file.file_name())).unwrap();
    }
    let text = std::fs::read_to_string(repository.join("snapshot-then-migrate.yaml")).unwrap();
    let replaced = text
        .replace("postgresql://gl_admin:${env:BLUE_PASSWORD}@db1.example.com:5432/shop", &live.lab.url(Side::Blue))
        .replace("ssh://postgres@backup.example.com", "local")
        .replace("/var/backups/shop", live.lab.dir().join("store").to_str().unwrap());
    std::fs::write(&live.playbook, replaced).unwrap();
    live.start_writing().await;

    let playbook = live.playbook.to_str().unwrap().to_owned();
    let planned = live.greenlight(&["plan", &playbook]).await.expect(COMPLETED);
    planned.says("point-in-time").says("lock:public.orders").says("down-migrations").says("pause: none");
    assert_eq!(live.on_blue().await, "0");
    live.run().await.expect(COMPLETED).says("blue serves, migrated").says("restore point greenlight_");
    live.see_writes(30).await;
    let report = live.nothing_is_lost(Side::Blue).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(live.applied().await, ["0001"]);
    assert_eq!(live.on_blue().await, "1", "the column, and nothing of ours");

    let (_, run) = live.stored().await;
    assert!(run.facts.iter().any(|fact| matches!(fact, Fact::BackedUp { restore_ms: Some(_), .. })), "proved and timed");
    live.greenlight(&["abandon", "--reason", "too late"]).await.says("no run is open");
    live.greenlight(&["plan", &playbook])
        .await
        .says("blue stays as it is")
        .says("backups: The newest backup is")
        .says("recovery: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_on_blues_rows_is_taken_back_with_those_before_it() {
    let mut live = up(&with_a_failing_one(true), ACCEPTS).await;
    live.start_writing().await;
    live.run().await.expect(ROLLED_BACK).says("orders_are_free").says("blue serves as before");
    live.see_writes(20).await;
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("0", 0));
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_run_goes_on_when_the_rows_are_mended_or_is_abandoned() {
    let mut live = up(&with_a_failing_one(true), &format!("{ACCEPTS}on_failure: hold\n")).await;
    live.run().await.expect(HELD).says("orders_are_free");
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("3", 2), "as far as it came, and claimed");
    live.greenlight(&["retry", "--no-wait"]).await.expect(HELD);
    live.greenlight(&["abandon", "--reason", "not today", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("0", 0));

    ask(&live.lab.endpoint(Side::Blue), "UPDATE orders SET total_cents = -1").await;
    live.start_writing().await;
    live.run().await.expect(HELD);
    // The clients' orders cost something.
    live.nothing_is_lost(Side::Blue).await;
    ask(&live.lab.endpoint(Side::Blue), "UPDATE orders SET total_cents = -1").await;
    live.greenlight(&["retry", "--no-wait"]).await.expect(COMPLETED).says("blue serves, migrated");
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("2", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_down_migration_is_held_though_the_playbook_says_rollback() {
    let migrations: Vec<_> =
        with_a_failing_one(false).into_iter().filter(|(name, _)| !name.starts_with("0001_notes.down")).collect();
    let live = up(&migrations, "accept: [\"lock:public.orders\", down-migrations]\n").await;
    live.run().await.expect(HELD).says("`0001_notes.up.sql` is applied, or a part of it, and has no down migration");
    assert_eq!(live.applied().await, ["0001", "0002"], "none of them is taken back");
    live.greenlight(&["abandon", "--reason", "by hand", "--no-wait"])
        .await
        .expect(HELD)
        .says("there is no `0001_notes.down.sql`");
    assert_eq!(live.applied().await, ["0001", "0002"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blue_on_which_an_assertion_fails_is_brought_back() {
    let wrong = "validate:\n  assertions:\n    - {name: no orders, query: select count(*) from orders, expect: 0}\n";
    let live = up(GOOD, wrong).await;
    live.run().await.expect(ROLLED_BACK).says("no orders");
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("0", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_somebody_changes_after_the_plan_is_not_migrated() {
    let live = up(GOOD, "gates: {before_migrate: {approval: true}}\n").await;
    live.run().await.expect(WAITS);
    ask(&live.lab.endpoint(Side::Blue), "ALTER TABLE orders ADD COLUMN notes text").await;
    live.greenlight(&["approve", "--no-wait"]).await.expect(ROLLED_BACK).says("somebody changed its schema");
    assert_eq!(live.on_blue().await, "1", "somebody's column stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_is_tried_for_again_and_again() {
    let mut live = up(GOOD, "").await;
    live.start_writing().await;
    let blue = live.lab.endpoint(Side::Blue);
    let holder = connect(&blue).await;
    rows(&holder, "BEGIN").await;
    rows(&holder, "SELECT count(*) FROM orders").await;
    let run = live.start(&["run", live.playbook.to_str().unwrap(), "--no-wait"], "");
    let (watcher, mut seen, until) = (connect(&blue).await, BTreeSet::new(), Instant::now() + LIMIT);
    let waits = "SELECT waitstart FROM pg_locks WHERE relation = 'orders'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted \
                     AND waitstart IS NOT NULL";
    while seen.len() < 3 {
        assert!(Instant::now() < until, "it does not try again: {}", live.told().await);
        seen.extend(rows(&watcher, waits).await);
        // It waits for a moment only each time, and the clients go on in between.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    live.see_writes(30).await;
    rows(&holder, "COMMIT").await;
    wait(run).await.expect(COMPLETED);
    assert_eq!(live.applied().await, ["0001", "0002"]);
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_again_and_again_still_carries_the_change_through() {
    let mut live = up(GOOD, "").await;
    live.start_writing().await;
    let deaths = die_until(&live, &["in-place-migrated"], COMPLETED).await;
    assert!(deaths > 5, "{deaths}");
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("2", 2));
    let report = live.nothing_is_lost(Side::Blue).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_again_and_again_still_brings_blue_back() {
    let mut live = up(&with_a_failing_one(true), ACCEPTS).await;
    live.start_writing().await;
    let deaths = die_until(&live, &["in-place-migrated", "in-place-reverted"], ROLLED_BACK).await;
    assert!(deaths > 5, "{deaths}");
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.len()), ("0", 0));
    live.nothing_is_lost(Side::Blue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_place_is_made_and_taken_back_on_16() {
    made_and_taken_back(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_place_is_made_and_taken_back_on_17() {
    made_and_taken_back(17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_place_is_made_and_taken_back_on_18() {
    made_and_taken_back(18).await;
}

async fn made_and_taken_back(major: u32) {
    // The backup is verified by the version's own programs.
    let programs = ["pg_verifybackup", "pg_waldump"].map(|name| (name, major));
    let found = installed().await;
    if let Some((name, _)) = programs.iter().find(|(name, major)| found.exact(name, *major).is_err()) {
        eprintln!("NOT TESTED: a change in place on PostgreSQL {major}, whose `{name}` is not on this machine");
        return;
    }
    let mut live = up_with(major, GOOD, |_| ACCEPTS.to_owned()).await;
    live.start_writing().await;
    live.run().await.expect(COMPLETED).says("blue serves, migrated");
    let further = [
        ("0003_further.up.sql", "ALTER TABLE customers ADD COLUMN further text;\n"),
        ("0003_further.down.sql", "ALTER TABLE customers DROP COLUMN further;\n"),
        ("0004_free.up.sql", FAILS.1),
        ("0004_free.down.sql", FAILS_DOWN.1),
    ];
    for (name, text) in further {
        std::fs::write(live.lab.dir().join("migrations").join(name), text).unwrap();
    }
    live.run().await.expect(ROLLED_BACK).says("orders_are_free").says("blue serves as before");
    assert_eq!((live.on_blue().await.as_str(), live.applied().await.join(",")), ("2", "0001,0002".to_owned()));
    let report = live.nothing_is_lost(Side::Blue).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

/// Each process dies: once at each of these places, in the order in which it comes to them, and then before or after one of its
/// own records.
pub(crate) async fn die_until(live: &Live, places: &[&str], wanted: Option<i32>) -> usize {
    let mut deaths = 0_usize;
    loop {
        let at = live.records().await.len();
        let place = match places.get(deaths) {
            Some(place) => format!("{place}:kill"),
            None => format!(
                "record-{}#{}:kill",
                if deaths.is_multiple_of(2) { "before" } else { "after" },
                at + [2, 3, 2, 4][deaths / 2 % 4]
            ),
        };
        let ended: Ended = live.run_with(&place).await;
        if ended.code != KILLED {
            ended.expect(wanted);
            let closed = |event: &Event| matches!(event, Event::RunClosed { .. });
            assert!(live.records().await.iter().any(|record| closed(&record.event)));
            return deaths;
        }
        deaths += 1;
        assert!(deaths < 100, "it does not come forward: {}", live.told().await);
    }
}

//! What people ask of a run is so when the command comes back, also under writes and with a coordinator elsewhere.

use super::world::{Lab, Said, connected, ended, poll, signal};
use greenlight::journal::{Journal, SqliteJournal};
use greenlight::run::{Event, Outcome};
use greenlight::word::{RunId, Side, Timestamp};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use std::time::Duration;

const GATED: &str = "gates:\n  before_window: {approval: true}\nsoak:";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_so_when_the_command_comes_back_under_writes() {
    let lab = Lab::up().await;
    lab.write("shop.yaml", &lab.playbook().replace("soak:", GATED).replace("wal_kept: 20GiB", "wal_kept: 2GiB"));
    who_comes_by_no_route_is_named(&lab).await;
    lab.say(&["run", "shop.yaml", "--no-wait"]).await.is(5, &["window waits for an approval"]);
    let writers = Writers::start(&lab).await;
    edits_are_said(&lab).await;
    several_runs_are_not_guessed_between(&lab).await;

    let driver = lab.begin(&["run"]);
    let holder = format!("pid {} on", driver.id().unwrap());
    poll("it drives", async || lab.say(&["status", "--offline"]).await.out.contains(&holder)).await;
    let direct = connected(&lab.world.application(Side::Blue)).await;
    direct.batch_execute("SELECT 1").await.unwrap();
    let said = lab.say(&["approve"]).await;
    said.is(0, &["asked the coordinator", "NOTE: these sessions on blue come by no route", "green serves since", "nothing lost"]);
    serves(&lab, "green").await;
    drop(direct);
    drift_bars_the_way_back(&lab).await;
    lab.say(&["rollback"]).await.is(0, &["asked the coordinator", "blue serves since", "after a pause of", "nothing lost"]);
    serves(&lab, "blue").await;
    lab.say(&["approve"]).await.is(0, &["step 9, validate green, is done", "waits for an approval"]);
    lab.say(&["approve"]).await.is(0, &["green serves since", "nothing lost"]);
    signal(&driver, "INT");
    ended(driver).await.is(130, &["interrupted, in good order"]);

    // Without a coordinator they drive to that point, and no further.
    lab.say(&["rollback"]).await.is(0, &["blue serves since", "nothing lost", "Nobody drives the run now"]);
    serves(&lab, "blue").await;
    lab.say(&["approve"]).await.is(0, &["step 9, validate green, is done"]);
    lab.say(&["approve"]).await.is(0, &["green serves since", "Nobody drives the run now"]);
    a_way_back_is_called_off(&lab).await;
    writers.wrote().await;
    let said = lab.say(&["finish", "--output", "json"]).await;
    let last: serde_json::Value = serde_json::from_str(said.is(0, &[]).out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["is_so"], &last["outcome"]), (&true.into(), &"completed".into()), "{last}");
    writers.stop().await;
}

/// The journal's word, as soon as the command is back.
async fn serves(lab: &Lab, side: &str) {
    assert_eq!(lab.say(&["status", "--offline", "--output", "json"]).await.json()["serving"], side);
}

async fn who_comes_by_no_route_is_named(lab: &Lab) {
    lab.say(&["plan", "shop.yaml"]).await.is(0, &["Every session on blue comes by a route"]);
    let _direct = connected(&lab.world.application(Side::Blue)).await;
    let by_route = connected(&lab.world.through(0)).await;
    by_route.batch_execute("SELECT 1").await.unwrap();
    let said = lab.say(&["plan", "shop.yaml"]).await;
    said.is(0, &["do not come by a route: 1 session of `shop_app`", "from 127.0.0.1", "CUT OFF in the window"]);
}

async fn edits_are_said(lab: &Lab) {
    let (before, new) = (std::fs::read_to_string(lab.path("shop.yaml")).unwrap(), "migrations/29990101000000_later.up.sql");
    lab.say(&["run", "shop.yaml", "--no-wait"]).await.is(5, &["going on with run"]).lacks("NOTE");
    lab.write("shop.yaml", &before.replace("max_lag: 4MiB", "max_lag: 5MiB"));
    lab.write(new, "SELECT 1;\n");
    let said = lab.say(&["run", "shop.yaml", "--no-wait"]).await;
    said.is(5, &["does NOT use the changes", "`window.max_lag`", "`29990101000000_later.up.sql` is new", "greenlight abandon"]);
    assert!(!said.err.contains("`routes`"), "{}", said.err);
    lab.say(&["plan", "shop.yaml"])
        .await
        .is(4, &["is open: blue serves", "does NOT use the changes", "claimed: Blue is part of run"]);
    std::fs::remove_file(lab.path(new)).unwrap();
    lab.write("shop.yaml", &before);
}

/// A second run, by the journal alone.
async fn several_runs_are_not_guessed_between(lab: &Lab) {
    let journal = SqliteJournal::open(&lab.path(".greenlight")).unwrap();
    let first = journal.runs().await.unwrap().remove(0).run;
    let records = journal.read(&first).await.unwrap();
    let Event::RunCreated { plan, .. } = &records[0].event else { panic!("{records:?}") };
    let (mut plan, other) = (plan.clone(), RunId::random());
    (plan.run, plan.name) = (other.clone(), "crm".to_owned());
    journal.create(&Event::RunCreated { plan, by: "a test".to_owned() }, Timestamp::now()).await.unwrap();

    for command in ["approve", "rollback", "finish", "abandon", "retry", "run", "status", "report"] {
        let said = lab.say(&[command]).await;
        said.is(2, &["2 runs are open: name the one", first.as_str(), other.as_str(), "crm", "shop", "waiting for an approval"]);
    }
    lab.say(&["mark-done", "--step", "1", "--reason", "x"]).await.is(2, &["2 runs are open"]);
    let json = lab.say(&["approve", "--output", "json"]).await.json();
    assert_eq!((&json["code"], json["runs"].as_array().unwrap().len()), (&"several_runs".into(), 2), "{json}");
    lab.say(&["approve", "r"]).await.is(2, &["`r` can be any of 2 runs"]);
    lab.say(&["status", "crm", "--offline"]).await.is(0, &[&format!("run {other} of `crm`")]);
    lab.say(&["status", &first.as_str()[..5], "--offline"]).await.is(0, &[&format!("run {first} of `shop`")]);
    // What is refused is one document with a code.
    let said = lab.say(&["finish", "shop", "--output", "json"]).await;
    assert_eq!((&said.json()["code"], said.code), (&"no_soak".into(), 2));
    let said = lab.say(&["finish", "--no-such-option", "--output", "json"]).await;
    assert_eq!((&said.json()["code"], said.code), (&"usage".into(), 2));

    let epoch = journal.take_lease(&other, "a test", Duration::from_secs(5), true, Timestamp::now()).await.unwrap();
    let over = Event::RunClosed { outcome: Outcome::RolledBack };
    journal.append(&other, 1, epoch, &over, Timestamp::now()).await.unwrap();
    journal.release_lease(&other, epoch).await.unwrap();
}

/// A table that only green has cannot come back to blue: said at once, and not waited for.
async fn drift_bars_the_way_back(lab: &Lab) {
    // The first look of the soak, which says what it waits for, may be under way still.
    poll("it soaks", async || lab.say(&["status"]).await.out.contains("(since 20")).await;
    lab.say(&["status"]).await.is(0, &["route main leads to green", "a rollback now would lose nothing"]);
    lab.ask(Side::Green, "CREATE TABLE sneaked_in (id int PRIMARY KEY)").await;
    lab.say(&["status"]).await.is(0, &["a rollback is NOT POSSIBLE now", "sneaked_in"]);
    let said = lab.say(&["rollback", "--output", "json"]).await;
    assert_eq!((said.code, &said.json()["code"]), (2, &"barred".into()));
    serves(lab, "green").await;
    lab.ask(Side::Green, "DROP TABLE sneaked_in").await;
}

/// A way back that stands still is left, and the run soaks as before.
async fn a_way_back_is_called_off(lab: &Lab) {
    let long = connected(&lab.world.application(Side::Green)).await;
    long.batch_execute("BEGIN; UPDATE customers SET email = email WHERE id = 1; SELECT pg_sleep(6)").await.unwrap();
    lab.say(&["rollback", "--no-wait"]).await.is(5, &["not yet: the window is not open", "long transactions on green", "--stop"]);
    lab.say(&["rollback", "--stop"]).await.is(0, &["the way back was called off", "green serves"]);
    lab.say(&["status", "--offline"]).await.is(0, &["soak               under way", "window             done"]);
    long.batch_execute("ROLLBACK").await.unwrap();
    serves(lab, "green").await;
}

/// Clients that write through the route, one after another.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    async fn start(lab: &Lab) -> Writers {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for number in 0..4 {
            let (stop, written, at) = (stop.clone(), written.clone(), lab.world.through(0));
            tasks.push(tokio::spawn(async move {
                let client = connected(&at).await;
                let sql = format!("UPDATE customers SET email = email WHERE id % 4 = {number} AND id < 100");
                while !stop.load(Ordering::SeqCst) {
                    let done = client.batch_execute(&sql).await.is_ok();
                    written.fetch_add(u64::from(done), Ordering::SeqCst);
                    // Its pace, which two cores can follow.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }));
        }
        let writers = Writers { stop, written, tasks };
        writers.wrote().await;
        writers
    }

    /// They go on.
    async fn wrote(&self) {
        let before = self.written.load(Ordering::SeqCst);
        poll("clients write", async || self.written.load(Ordering::SeqCst) > before + 20).await;
    }

    async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Said {
    #[track_caller]
    fn lacks(&self, text: &str) {
        assert!(!self.err.contains(text), "{}", self.err);
    }
}

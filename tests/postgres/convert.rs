//! A physical standby becomes a logical follower under a writer, serves, and is followed back: no row twice, none missing.

use crate::world::{DATABASE, PASSWORD, SHARE_OF_PASSWORD, World, app, ask, sql, try_app, until};
use greenlight::plan::Names;
use greenlight::postgres::{Fence, FenceProbe, PgServer, PgServerOptions, PublishedTable, Server};
use greenlight::process;
use greenlight::word::{Endpoint, Failure, RelationName, Side};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const SCHEMA: &str = "
    CREATE TABLE ledger (id bigserial PRIMARY KEY, writer int NOT NULL, seq int NOT NULL, note text);
    CREATE TABLE \"Odd T\" (\"Id\" int PRIMARY KEY, v text);
    CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO \"Odd T\" VALUES (1, 'before')";

const TOTAL: &str = "SELECT format('%s %s', count(*), count(DISTINCT (writer, seq))) FROM ledger";

fn published() -> Vec<PublishedTable> {
    ["Odd T", "ledger", "parts"].map(|name| PublishedTable { table: RelationName::new("public", name), columns: None }).to_vec()
}

/// Writes until it is told to stop or is refused; knows what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<(i32, i32)>>>,
}

impl Writer {
    fn start(endpoint: &Endpoint, first: i32) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (first..first + 3)
            .map(|writer| {
                let (endpoint, stop) = (endpoint.clone(), stop.clone());
                tokio::spawn(async move {
                    let (client, mut acknowledged) = (app(&endpoint).await, Vec::new());
                    for seq in 0.. {
                        let insert = format!("INSERT INTO ledger (writer, seq) VALUES ({writer}, {seq})");
                        if stop.load(Ordering::SeqCst) || client.batch_execute(&insert).await.is_err() {
                            break;
                        }
                        acknowledged.push((writer, seq));
                    }
                    acknowledged
                })
            })
            .collect();
        Writer { stop, tasks }
    }

    async fn stop(self) -> Vec<(i32, i32)> {
        self.stop.store(true, Ordering::SeqCst);
        self.acknowledged().await
    }

    async fn acknowledged(self) -> Vec<(i32, i32)> {
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

async fn holds_all(endpoint: &Endpoint, acknowledged: &[(i32, i32)]) {
    let rows = app(endpoint).await.query("SELECT writer, seq FROM ledger", &[]).await.unwrap();
    let mut rows: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let count = rows.len();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), count, "rows came twice");
    let missing = acknowledged.iter().filter(|row| rows.binary_search(row).is_err()).count();
    assert_eq!(missing, 0, "of {} acknowledged rows", acknowledged.len());
}

async fn marker_arrives(from: &PgServer, to: &PgServer, value: i64) {
    from.write_marker(value).await.unwrap();
    let started = Instant::now();
    while to.read_marker().await.unwrap() != Some(value) {
        assert!(started.elapsed() < Duration::from_secs(30), "the marker does not arrive");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Green becomes a logical follower of blue, fenced. The order is that of the steps.
async fn attach(blue: &PgServer, green: &PgServer, names: &Names) {
    blue.ensure_claimed().await.unwrap();
    blue.ensure_fence_installed().await.unwrap();
    assert_eq!(blue.fence().await.unwrap(), Fence::Open);
    blue.ensure_publication(&names.forward, &published()).await.unwrap();
    let start = blue.create_slot(&names.forward).await.unwrap();
    while green.replay_lsn().await.unwrap() < start {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(green.identity().await.unwrap().in_recovery);
    assert_eq!(green.fork_point().await.unwrap_err().failure, Failure::Refused);
    assert_eq!((green.fence().await.unwrap(), green.setting_under_mark().await.unwrap()), (Fence::Open, None));
    for _ in 0..2 {
        green.ensure_marked().await.unwrap();
        assert_eq!((green.fence().await.unwrap(), blue.fence().await.unwrap()), (Fence::Marked, Fence::Open));
    }
    assert_eq!(green.setting_under_mark().await.unwrap(), None);
    green.ensure_sole_coordinator().await.unwrap();
    for _ in 0..2 {
        green.promote().await.unwrap();
    }
    assert!(!green.identity().await.unwrap().in_recovery);
    let fork = green.fork_point().await.unwrap();
    assert!(fork.lsn >= start && (fork.timeline, fork.parent) == (2, 1), "{fork:?}");
    assert_eq!(green.fence().await.unwrap(), Fence::Marked);
    assert_eq!(green.probe_fence().await.unwrap(), FenceProbe::Holds);
    green.connect().await.unwrap();
    green.ensure_fence(Fence::Connections).await.unwrap();
    green.ensure_fence(Fence::Triggers).await.unwrap();
    for own in [Some("45s"), None] {
        green.ensure_unmarked(own).await.unwrap();
        assert_eq!(green.setting_under_mark().await.unwrap().as_deref(), Some("45s"));
    }
    assert_eq!(green.probe_fence().await.unwrap(), FenceProbe::Holds);
    for _ in 0..2 {
        green.ensure_subscription(&names.forward).await.unwrap();
        green.set_origin(&names.forward, fork.lsn).await.unwrap();
    }
    let made = green.subscription(&names.forward).await.unwrap().unwrap();
    assert!(!made.enabled && !made.streaming && made.ready.len() == 3, "{made:?}");
    for _ in 0..2 {
        green.ensure_subscribed(&names.forward).await.unwrap();
    }
    assert_eq!(green.set_origin(&names.forward, fork.lsn).await.unwrap_err().failure, Failure::Refused);
    blue.ensure_no_slot("standby").await.unwrap();
}

/// The window: everything that `old` acknowledged is on `new`, which is open; `old` follows.
async fn cut_over(old: &PgServer, new: &PgServer, flow: &str, back: &str, marker: i64) {
    old.ensure_fence_installed().await.unwrap();
    for server in [old, new] {
        server.connect().await.unwrap();
    }
    let at = new.wal_lsn().await.unwrap();
    new.advance_slot(back, at).await.unwrap();
    let started = Instant::now();
    old.ensure_fence(Fence::Connections).await.unwrap();
    assert_eq!(old.probe_fence().await.unwrap(), FenceProbe::Holds);
    marker_arrives(old, new, marker).await;
    new.set_sequences(&old.sequences().await.unwrap(), 100).await.unwrap();
    new.ensure_unsubscribed(flow).await.unwrap();
    let follow_from = new.flush_wal().await.unwrap();
    new.ensure_fence(Fence::Open).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    old.ensure_fence(Fence::Triggers).await.unwrap();
    old.set_origin(back, follow_from).await.unwrap();
    old.ensure_subscribed(back).await.unwrap();
    assert_eq!(old.probe_fence().await.unwrap(), FenceProbe::Holds);
    marker_arrives(new, old, marker + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_attached_serves_and_is_followed_back_without_losing_or_doubling_a_row() {
    let world = World::pair(SCHEMA).await;
    let (blue, green) = (world.server(Side::Blue), world.server(Side::Green));
    let (at_blue, at_green) = (world.endpoint(Side::Blue), world.endpoint(Side::Green));
    let names = Names::new(&crate::world::RUN.parse().unwrap());
    let writer = Writer::start(&at_blue, 0);
    attach(&blue, &green, &names).await;
    marker_arrives(&blue, &green, 10).await;
    let state = green.subscription(&names.forward).await.unwrap().unwrap();
    assert!(state.enabled && state.streaming && state.apply_errors == 0, "{state:?}");
    // Through the closed triggers: an update, a delete, a truncate, a partition.
    sql(&at_blue, "UPDATE \"Odd T\" SET v = 'after'; INSERT INTO \"Odd T\" VALUES (2, 'x'), (3, 'y'); DELETE FROM \"Odd T\" WHERE \"Id\" = 2").await;
    sql(&at_blue, "INSERT INTO parts VALUES (1, '2026-05-05'); TRUNCATE parts; INSERT INTO parts VALUES (2, '2026-05-05')").await;
    marker_arrives(&blue, &green, 11).await;
    let odd = "SELECT string_agg(v, ' ' ORDER BY \"Id\") || (SELECT max(id) FROM parts) FROM \"Odd T\"";
    assert_eq!(sql(&at_green, odd).await, ["after y2"]);

    green.ensure_publication(&names.reverse, &published()).await.unwrap();
    green.create_slot(&names.reverse).await.unwrap();
    blue.ensure_subscription(&names.reverse).await.unwrap();
    cut_over(&blue, &green, &names.forward, &names.reverse, 100).await;
    let mut acknowledged = writer.acknowledged().await;
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    holds_all(&at_green, &acknowledged).await;

    let writer = Writer::start(&at_green, 10);
    until(&at_blue, "SELECT count(*) > 50 FROM ledger WHERE writer >= 10", "t").await;
    let error = app(&at_blue).await.batch_execute("INSERT INTO ledger (writer, seq) VALUES (99, 0)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25006");
    // And back.
    cut_over(&green, &blue, &names.reverse, &names.forward, 200).await;
    acknowledged.extend(writer.acknowledged().await);
    holds_all(&at_blue, &acknowledged).await;
    let writer = Writer::start(&at_blue, 20);
    until(&at_green, "SELECT count(*) > 50 FROM ledger WHERE writer >= 20", "t").await;
    acknowledged.extend(writer.stop().await);
    marker_arrives(&blue, &green, 300).await;
    holds_all(&at_green, &acknowledged).await;
    assert_eq!(sql(&at_green, TOTAL).await, sql(&at_blue, TOTAL).await);
    let subscribed = green.subscription(&names.forward).await.unwrap().unwrap();
    assert_eq!(subscribed.ready.len(), 3);

    take_down(&world, &blue, &green, &names).await;
}

async fn take_down(world: &World, blue: &PgServer, green: &PgServer, names: &Names) {
    for _ in 0..2 {
        green.ensure_no_subscription(&names.forward).await.unwrap();
        blue.ensure_no_subscription(&names.reverse).await.unwrap();
        blue.ensure_no_slot(&names.forward).await.unwrap();
        green.ensure_no_slot(&names.reverse).await.unwrap();
        for (server, publication) in [(blue, &names.forward), (green, &names.forward), (green, &names.reverse)] {
            server.ensure_no_publication(publication).await.unwrap();
        }
        for server in [blue, green] {
            server.ensure_fence(Fence::Open).await.unwrap();
            server.ensure_unclaimed().await.unwrap();
        }
    }
    let left = "SELECT (SELECT count(*) FROM pg_subscription) + (SELECT count(*) FROM pg_replication_slots)
        + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_origin)
        + (SELECT count(*) FROM pg_namespace WHERE nspname = 'greenlight') + (SELECT count(*) FROM pg_trigger)";
    for side in [Side::Blue, Side::Green] {
        assert_eq!(sql(&world.endpoint(side), left).await, ["0"], "{side}");
        assert!(!world.log(side).contains(SHARE_OF_PASSWORD), "{side}'s log holds the password");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inherited_subscription_is_stopped_and_leaves_its_slot_alone() {
    let world = World::blue().await;
    let at_blue = world.endpoint(Side::Blue);
    // Blue follows another database. Green copies that.
    let upstream = at_blue.with_database("postgres");
    sql(&upstream, "CREATE TABLE fed (id int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE fed").await;
    sql(&upstream, "SELECT pg_create_logical_replication_slot('feed', 'pgoutput')").await;
    let conninfo = greenlight::word::quote_literal(upstream.to_conninfo_for_subscription("feed", 15).expose());
    sql(&at_blue, "CREATE TABLE fed (id int PRIMARY KEY)").await;
    sql(&at_blue, &format!("CREATE SUBSCRIPTION \"the Feed\" CONNECTION {conninfo} PUBLICATION feed WITH (create_slot = false, slot_name = feed, copy_data = false)")).await;
    sql(&at_blue, "SELECT pg_create_physical_replication_slot('standby', true)").await;
    world.green.base_backup(&world.installed, &at_blue, "standby", &|_, _| ()).await.unwrap();
    world.green.start(crate::world::LIMIT).await.unwrap();
    let (blue, green) = (world.server(Side::Blue), world.server(Side::Green));
    blue.ensure_claimed().await.unwrap();
    green.promote().await.unwrap();
    green.connect().await.unwrap();
    green.ensure_fence(Fence::Connections).await.unwrap();
    // From inside a database that nobody can enter, where no worker can start.
    for _ in 0..2 {
        green.ensure_inherited_stopped("the Feed").await.unwrap();
    }
    green.ensure_fence(Fence::Triggers).await.unwrap();
    let state = green.subscription("the Feed").await.unwrap().unwrap();
    assert!(!state.enabled && !state.streaming);
    let at_green = world.endpoint(Side::Green);
    sql(&at_green, "DROP SUBSCRIPTION \"the Feed\"").await;
    sql(&upstream, "INSERT INTO fed VALUES (1)").await;
    until(&at_blue, "SELECT count(*) FROM fed", "1").await;
    until(&at_green, "SELECT count(*) FROM fed", "0").await;
    green.ensure_inherited_stopped("the Feed").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_is_told_with_its_key() {
    let world = World::pair(SCHEMA).await;
    let (blue, green) = (world.server(Side::Blue), world.server(Side::Green));
    let names = Names::new(&crate::world::RUN.parse().unwrap());
    attach(&blue, &green, &names).await;
    marker_arrives(&blue, &green, 1).await;
    // The place is read again after a crash, when what was replayed last is far behind it.
    let fork = green.fork_point().await.unwrap();
    world.green.crash();
    world.green.start(crate::world::LIMIT).await.unwrap();
    let green = world.server(Side::Green);
    assert_eq!(green.fork_point().await.unwrap(), fork);
    let at_green = world.endpoint(Side::Green);
    sql(&at_green, "SET session_replication_role = replica; INSERT INTO \"Odd T\" VALUES (77, 'in the way')").await;
    sql(&world.endpoint(Side::Blue), "INSERT INTO \"Odd T\" VALUES (77, 'x')").await;
    until(&at_green, "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats", "t").await;
    let started = Instant::now();
    let told = loop {
        let state = green.subscription(&names.forward).await.unwrap().unwrap();
        assert!(state.apply_errors > 0);
        if let Some(told) = state.last_error {
            break told;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "the error is not found in the log");
    };
    assert!(told.contains("=(77)"), "{told}");
    sql(&at_green, "SET session_replication_role = replica; DELETE FROM \"Odd T\" WHERE \"Id\" = 77").await;
    marker_arrives(&blue, &green, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_by_the_passfile_when_there_is_one() {
    let world = World::pair(SCHEMA).await;
    let passfile = world.folder.path().join("pass");
    let escaped = PASSWORD.replace('\\', r"\\").replace(':', r"\:");
    fs::write(&passfile, format!("127.0.0.1:{}:*:*:{escaped}\n", world.blue.port)).unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    process::give_to_server_user(&passfile).await.unwrap();
    let blue = world.server(Side::Blue);
    let options = world.options(Side::Green);
    // A change of the way to the other side is taken over into a subscription that is there.
    let with_password = PgServer::new(options.clone());
    let peer = Endpoint { passfile: Some(passfile), ..options.peer.clone() };
    let green = PgServer::new(PgServerOptions { peer, ..options });
    let names = Names::new(&crate::world::RUN.parse().unwrap());
    attach(&blue, &with_password, &names).await;
    let stored = "SELECT subconninfo FROM pg_subscription";
    let at_green = world.endpoint(Side::Green);
    assert!(sql(&at_green, stored).await[0].contains("password="));
    green.ensure_subscription(&names.forward).await.unwrap();
    let conninfo = sql(&at_green, stored).await.remove(0);
    assert!(!conninfo.contains("password=") && conninfo.contains("passfile="), "{conninfo}");
    sql(&at_green, "SELECT pg_terminate_backend(pid) FROM pg_stat_subscription").await;
    marker_arrives(&blue, &green, 5).await;
    // A subscription to a server that is not there is not made, and the password is not told.
    let nowhere = PgServer::new(PgServerOptions {
        peer: Endpoint { port: greenlight::lab::free_port(), ..world.endpoint(Side::Blue) },
        ..world.options(Side::Green)
    });
    let error = nowhere.ensure_subscription("greenlight_r1234567_x").await.unwrap_err();
    assert_eq!(error.failure, Failure::Transient, "{}", error.chain());
    assert!(!format!("{error:?}").contains(SHARE_OF_PASSWORD));
    assert_eq!(nowhere.subscription("greenlight_r1234567_x").await.unwrap(), None);
    assert!(try_app(&at_green).await.is_ok());
    let client = app(&at_green).await;
    assert_eq!(ask(&client, "SELECT current_database()").await, [DATABASE]);
}

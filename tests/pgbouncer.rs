//! A real PgBouncer as a route between two real servers.

#![expect(clippy::unwrap_used, reason = "test code outside of test functions")]

mod real;

use greenlight::lab::free_port;
use greenlight::plan::{RouteEntry, RouteProblem};
use greenlight::process;
use greenlight::provider::processes::{self, Signal};
use greenlight::route::{PgBouncer, Router, Target};
use greenlight::word::{Clock, Endpoint, Failure};
use real::{LIMIT, Load, PASSWORD, World, ask, connect, endpoint, rows, try_ask};
use std::{
    fs,
    ops::Deref,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

const APP: &str = "app = host=127.0.0.1 port=BLUE dbname=app";

/// Two servers, and a PgBouncer before the first. It is killed when it is dropped.
struct Pooled {
    world: World,
    config: PathBuf,
    port: u16,
}

impl Pooled {
    /// A PgBouncer with these lines in `[databases]`, in which `BLUE` is blue's port. `admin` may do everything there,
    /// `watcher` may look, `app` may do neither.
    async fn start(world: World, databases: &str) -> Pooled {
        let port = free_port();
        let config = world.folder.path().join("pgbouncer.ini");
        let at = world.folder.path().display();
        let databases = databases.replace("BLUE", &world.servers[0].port.to_string());
        let ini = format!(
            "; a comment, kept\n[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir = {at}\nauth_type = scram-sha-256\nauth_file = {at}/users.txt\nadmin_users = admin\n\
             stats_users = watcher\npool_mode = transaction\nlogfile = {at}/pgbouncer.log\npidfile = {at}/pgbouncer.pid\n"
        );
        let users = ["admin", "watcher", "app", "postgres"];
        let users = users.map(|user| format!("\"{user}\" \"{}\"\n", PASSWORD.replace('"', "\"\""))).concat();
        fs::write(&config, ini).unwrap();
        fs::write(world.folder.path().join("users.txt"), users).unwrap();
        process::give_to_server_user(&config).await.unwrap();
        process::give_to_server_user(&world.folder.path().join("users.txt")).await.unwrap();
        let pooled = Pooled { world, config, port };
        pooled.run().await;
        pooled
    }

    async fn run(&self) {
        let mut command = process::server_command(Path::new("/usr/sbin/pgbouncer"));
        process::run(command.args(["-q", "-d"]).arg(&self.config), LIMIT).await.unwrap();
        self.until("PgBouncer answers", || async { try_ask(&self.console("admin"), "SHOW VERSION").await.is_ok() }).await;
    }

    /// Ends it at once.
    async fn stop(&self) {
        processes::signal(&self.pids(), Signal::Term);
        self.until("PgBouncer ends", || async { self.pids().is_empty() }).await;
    }

    fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.world.folder.path().join("pgbouncer.pid")).unwrap_or_default();
        text.trim().parse().into_iter().filter(|pid| processes::is_alive(*pid)).collect()
    }

    /// Another process on the same port, with a folder of its own.
    async fn second_process(&self) -> Second {
        let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        process::give_to_server_user(folder.path()).await.unwrap();
        let (from, to) = (self.world.folder.path().display().to_string(), folder.path().display().to_string());
        let users = fs::read_to_string(self.world.folder.path().join("users.txt")).unwrap();
        let ini = fs::read_to_string(&self.config).unwrap().replace(&from, &to);
        for (name, text) in [("users.txt", users), ("pgbouncer.ini", ini)] {
            fs::write(folder.path().join(name), text).unwrap();
            process::give_to_server_user(&folder.path().join(name)).await.unwrap();
        }
        let mut command = process::server_command(Path::new("/usr/sbin/pgbouncer"));
        process::run(command.args(["-q", "-d"]).arg(folder.path().join("pgbouncer.ini")), LIMIT).await.unwrap();
        let pid_file = folder.path().join("pgbouncer.pid");
        self.until("the second process is there", || async { pid_file.exists() }).await;
        Second(folder)
    }

    fn console(&self, user: &str) -> Endpoint {
        endpoint(self.port, "pgbouncer", user)
    }

    fn through(&self, database: &str) -> Endpoint {
        endpoint(self.port, database, "postgres")
    }
}

/// The folder of another process, which is killed with it.
struct Second(tempfile::TempDir);

impl Drop for Second {
    fn drop(&mut self) {
        let text = fs::read_to_string(self.0.path().join("pgbouncer.pid")).unwrap_or_default();
        processes::kill_and_wait(&text.trim().parse().into_iter().collect::<Vec<u32>>());
    }
}

impl Deref for Pooled {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        processes::kill_and_wait(&self.pids());
    }
}

/// Two servers with the database `app` and a table to write to, and a PgBouncer before the first.
async fn world(databases: &str) -> Pooled {
    let world = World::with_servers(2).await;
    for server in 0..2 {
        ask(&world.server(server, "postgres"), "CREATE DATABASE app").await;
        ask(&world.server(server, "app"), "CREATE TABLE ledger (client int, seq int)").await;
    }
    Pooled::start(world, databases).await
}

fn route_as(world: &Pooled, user: &str, database: &str) -> PgBouncer {
    let config = world.config.clone();
    let (admin, probe) = (world.console(user), world.through(database));
    PgBouncer::new("main".to_owned(), admin, database.to_owned(), config, probe, world.clock.clone())
}

fn route(world: &Pooled, database: &str) -> PgBouncer {
    route_as(world, "admin", database)
}

fn target(world: &Pooled, server: usize, database: &str) -> Target {
    Target { host: "127.0.0.1".to_owned(), port: world.servers[server].port, database: database.to_owned() }
}

/// As a survey sees it.
async fn route_entry(world: &Pooled, database: &str) -> Option<RouteEntry> {
    route(world, database).survey().await.entry
}

fn config_text(world: &Pooled) -> String {
    fs::read_to_string(&world.config).unwrap()
}

fn load(world: &Pooled, database: &str) -> Load {
    Load::start(&world.through(database), 8, Duration::from_millis(3), |client, seq| {
        format!("INSERT INTO ledger VALUES ({client}, {seq})")
    })
}

async fn written(world: &Pooled, server: usize) -> Vec<String> {
    ask(&world.server(server, "app"), "SELECT count(*) FROM ledger").await
}

async fn setting(world: &Pooled, key: &str) -> Option<String> {
    let prefix = format!("{key}|");
    let lines = ask(&world.console("admin"), "SHOW CONFIG").await;
    lines.iter().find_map(|line| line.strip_prefix(&prefix)).and_then(|rest| rest.split('|').next()).map(str::to_owned)
}

async fn signature(world: &Pooled, server: usize) -> String {
    ask(&world.server(server, "app"), greenlight::postgres::SIGNATURE_SQL).await.remove(0)
}

// Keeps `settle` honest: without it the first rounds fail with "server login has been failing".
#[expect(clippy::print_stderr, reason = "figures for whoever reads along")]
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_moves_under_load_cost_no_client_an_error() {
    let world = world(APP).await;
    let route = route(&world, "app");
    let mut load = load(&world, "app");
    world.until("every client writes", || async { load.done() > 200 }).await;
    route.connect().await.unwrap();
    let (mut pauses, mut moves) = (Vec::new(), Vec::new());
    for round in 1..=100 {
        let (old, new) = ((round + 1) % 2, round % 2);
        route.settle().await.unwrap();
        let begun = world.clock.monotonic();
        route.pause(Duration::from_secs(5)).await.unwrap();
        pauses.push(world.clock.monotonic().saturating_sub(begun));
        assert!(route.observe().await.unwrap().paused);
        let before = written(&world, old).await;
        let begun = world.clock.monotonic();
        route.point_at(&target(&world, new, "app")).await.unwrap();
        moves.push(world.clock.monotonic().saturating_sub(begun));
        route.resume().await.unwrap();
        assert_eq!(route.who_answers().await.unwrap(), signature(&world, new).await);
        let done = load.done();
        world.until("the clients go on", || async { load.done() > done + 20 }).await;
        assert_eq!(written(&world, old).await, before, "round {round}: a write reached the old server after the move");
        assert_eq!(load.errors(), Vec::<String>::new(), "round {round}");
    }
    load.stop().await;
    assert_eq!(load.errors(), Vec::<String>::new());
    assert_eq!(setting(&world, "default_pool_size").await.as_deref(), Some("20"));
    pauses.sort();
    moves.sort();
    eprintln!(
        "pause: median {:?}, longest {:?}; point_at: median {:?}, longest {:?}; statements {}, longest wait {:?}",
        pauses[50],
        pauses[99],
        moves[50],
        moves[99],
        load.done(),
        load.longest_wait()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_makes_the_pause_fail_and_nobody_sees_an_error() {
    let world = world(APP).await;
    let route = route(&world, "app");
    let mut load = load(&world, "app");
    world.until("every client writes", || async { load.done() > 200 }).await;
    let long = connect(&world.through("app")).await.unwrap();
    rows(&long, "BEGIN; INSERT INTO ledger VALUES (-1, -1)").await.unwrap();
    route.connect().await.unwrap();
    for _ in 0..3 {
        route.settle().await.unwrap();
        let error = route.pause(Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.failure, Failure::Uncertain, "{}", error.chain());
        assert!(error.chain().contains("inside a transaction"), "{}", error.chain());
        assert!(route.observe().await.unwrap().paused, "it is pausing still");
        route.resume().await.unwrap();
        assert!(!route.observe().await.unwrap().paused);
        let done = load.done();
        world.until("the clients go on", || async { load.done() > done + 50 }).await;
    }
    let waiting = ask(&world.console("admin"), "SHOW CLIENTS").await;
    assert!(waiting.iter().filter(|line| line.contains("|pgbouncer|")).count() <= 3, "a waiting PAUSE is left: {waiting:?}");
    rows(&long, "COMMIT").await.unwrap();
    route.settle().await.unwrap();
    route.pause(Duration::from_secs(5)).await.unwrap();
    route.resume().await.unwrap();
    load.stop().await;
    assert_eq!(load.errors(), Vec::<String>::new());
    assert_eq!(ask(&world.server(0, "app"), "SELECT count(*) FROM ledger WHERE client = -1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_or_log_in_while_paused_and_reloaded_are_served_by_the_new_server() {
    let world = world(APP).await;
    let route = route(&world, "app");
    let old = connect(&world.through("app")).await.unwrap();
    rows(&old, "SELECT 1").await.unwrap();
    route.settle().await.unwrap();
    route.pause(Duration::from_secs(5)).await.unwrap();
    let paused = world.clock.monotonic();
    let endpoint = world.through("app");
    let waiting = tokio::spawn(async move { rows(&old, "SHOW port").await });
    let arriving = tokio::spawn(async move { rows(&connect(&endpoint).await?, "SHOW port").await });
    world
        .until("both wait, and Greenlight's own client", || async {
            let pools = ask(&world.console("admin"), "SHOW POOLS").await;
            pools.iter().any(|line| line.starts_with("app|postgres|0|3|"))
        })
        .await;
    route.point_at(&target(&world, 1, "app")).await.unwrap();
    assert!(route.observe().await.unwrap().paused, "RELOAD does not resume");
    let paused = world.clock.monotonic().saturating_sub(paused);
    route.resume().await.unwrap();
    let waited = route.client_wait().await.unwrap();
    assert!(waited > paused / 2, "{waited:?} of {paused:?}");
    let port = world.servers[1].port.to_string();
    assert_eq!(waiting.await.unwrap().unwrap(), [port.as_str()]);
    assert_eq!(arriving.await.unwrap().unwrap(), [port.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pgbouncer_restarted_while_paused_is_moved_and_resumed_all_the_same() {
    let world = world(APP).await;
    let route = route(&world, "app");
    route.connect().await.unwrap();
    route.settle().await.unwrap();
    route.pause(Duration::from_secs(5)).await.unwrap();
    world.stop().await;
    let error = route.observe().await.unwrap_err();
    assert_eq!(error.failure, Failure::Transient, "{}", error.chain());
    world.run().await;
    assert!(!route.observe().await.unwrap().paused, "a restart forgets the pause, and the route says so");
    route.point_at(&target(&world, 1, "app")).await.unwrap();
    route.resume().await.unwrap();
    assert_eq!(route.who_answers().await.unwrap(), signature(&world, 1).await);
    world.stop().await;
    world.run().await;
    assert_eq!(route.observe().await.unwrap().points_at, target(&world, 1, "app"), "the file says so too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_lost_between_settle_and_resume_leaves_no_limit_after_the_next_resume() {
    let world = world(&format!("{APP}\nown = host=127.0.0.1 port=BLUE dbname=app pool_size=7")).await;
    for database in ["app", "own"] {
        let client = connect(&world.through(database)).await.unwrap();
        rows(&client, "SELECT 1").await.unwrap();
        let lost = route(&world, database);
        lost.settle().await.unwrap();
        assert_eq!(setting(&world, "default_pool_size").await.as_deref(), Some("1"));
        if database == "own" {
            assert_eq!(setting(&world, "max_db_connections").await.as_deref(), Some("1"));
        }
        drop(lost);
        route(&world, database).resume().await.unwrap();
        assert_eq!(setting(&world, "default_pool_size").await.as_deref(), Some("20"), "{database}");
        assert_eq!(setting(&world, "max_db_connections").await.as_deref(), Some("0"), "{database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_of_a_database_with_a_pool_size_of_its_own_cost_no_client_an_error() {
    let world = world("own = host=127.0.0.1 port=BLUE dbname=app pool_size=12").await;
    let route = route(&world, "own");
    let mut load = load(&world, "own");
    world.until("every client writes", || async { load.done() > 200 }).await;
    for round in 1..=40 {
        route.settle().await.unwrap();
        route.pause(Duration::from_secs(5)).await.unwrap();
        route.point_at(&target(&world, round % 2, "app")).await.unwrap();
        route.resume().await.unwrap();
        let done = load.done();
        world.until("the clients go on", || async { load.done() > done + 10 }).await;
    }
    load.stop().await;
    assert_eq!(load.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_need_quoting_are_paused_and_moved() {
    let weird = "we ird 'Ü\"";
    let world = world(&format!("{APP}\nWeb.app-1 = host=127.0.0.1 port=BLUE dbname=app pool_size=3")).await;
    ask(&world.server(1, "postgres"), &format!("CREATE DATABASE {}", greenlight::word::quote_ident(weird))).await;
    let route = route(&world, "Web.app-1");
    let before = config_text(&world);
    let route = route.with_entry(route_entry(&world, "Web.app-1").await);
    route.settle().await.unwrap();
    route.pause(Duration::from_secs(5)).await.unwrap();
    route.point_at(&target(&world, 1, weird)).await.unwrap();
    route.resume().await.unwrap();
    assert_eq!(route.observe().await.unwrap().points_at, target(&world, 1, weird));
    assert_eq!(ask(&world.through("Web.app-1"), "SELECT current_database()").await, [weird]);
    assert_eq!(ask(&world.through("app"), "SELECT current_database()").await, ["app"]);
    route.point_at(&target(&world, 0, "app")).await.unwrap();
    assert_eq!(config_text(&world), before);
    assert_eq!(ask(&world.through("Web.app-1"), "SELECT current_database()").await, ["app"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_was_comes_back_byte_for_byte_with_its_owner_mode_and_link() {
    let world = world("# before\n  app  =   port=BLUE   host = '127.0.0.1'  pool_size=5   \n;after").await;
    let real = world.folder.path().join("real.ini");
    let config = world.config.clone();
    fs::rename(&config, &real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&real, &config).unwrap();
    let (before, meta) = (fs::read(&real).unwrap(), fs::metadata(&real).unwrap());

    let route = route(&world, "app").with_entry(route_entry(&world, "app").await);
    route.rehearse(&target(&world, 1, "app")).await.unwrap();
    assert_eq!(fs::read(&real).unwrap(), before);
    assert_eq!(route.observe().await.unwrap().points_at, target(&world, 0, "app"));
    route.point_at(&target(&world, 1, "app")).await.unwrap();
    assert_ne!(fs::read(&real).unwrap(), before);
    assert!(fs::read_to_string(&real).unwrap().contains("# before\n  app  =   port="));
    let now = fs::metadata(&real).unwrap();
    assert_eq!((now.uid(), now.gid(), now.mode()), (meta.uid(), meta.gid(), meta.mode()));
    route.point_at(&target(&world, 0, "app")).await.unwrap();
    assert_eq!(fs::read(&real).unwrap(), before);
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    assert_eq!(route.observe().await.unwrap().points_at, target(&world, 0, "app"));
    let left = fs::read_dir(world.folder.path()).unwrap().flatten().find(|entry| entry.path().ends_with(".greenlight"));
    assert!(left.is_none(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routes_in_one_file_move_at_the_same_time() {
    let world = world(&format!("{APP}\nread = host=127.0.0.1 port=BLUE dbname=app")).await;
    let routes = [route(&world, "app"), route(&world, "read")];
    for (database, sessions) in [("app", 3), ("read", 1)] {
        for _ in 0..sessions {
            ask(&world.through(database), "SELECT pg_sleep(0.05)").await;
        }
    }
    for round in 1..=20 {
        let wanted = target(&world, round % 2, "app");
        let (a, b) = (&routes[0], &routes[1]);
        tokio::try_join!(a.settle(), b.settle()).unwrap();
        tokio::try_join!(a.pause(LIMIT), b.pause(LIMIT)).unwrap();
        tokio::try_join!(a.point_at(&wanted), b.point_at(&wanted)).unwrap();
        tokio::try_join!(a.resume(), b.resume()).unwrap();
        for route in &routes {
            assert_eq!(route.observe().await.unwrap().points_at, wanted, "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_says_what_is_wrong_in_clear_words() {
    let world =
        world(&format!("{APP}\n* = host=127.0.0.1 port=BLUE\nother = host=127.0.0.1 port=BLUE dbname=app\nbroken = host=127.0.0.1 port=BLUE\nbroken = port=BLUE"))
            .await;
    let fine = route(&world, "app").survey().await;
    assert_eq!(fine.problems, []);
    assert_eq!((fine.file_unknown, fine.namesakes), (None, vec!["other".to_owned()]));
    assert!(fine.users.contains(&"postgres".to_owned()) && fine.users.contains(&"app".to_owned()), "{:?}", fine.users);
    assert_eq!(fine.points_at, Some(target(&world, 0, "app").to_string()));
    assert!(fine.about.starts_with("PgBouncer 1.18") && fine.about.contains("transaction pooling"), "{}", fine.about);

    let one = |problems: Vec<RouteProblem>, words: &str| {
        let said = problems.iter().any(|problem| problem.what.contains(words) || problem.remedy.contains(words));
        assert!(said, "`{words}` is not in {problems:#?}");
    };
    one(route_as(&world, "watcher", "app").survey().await.problems, "`admin_users`");
    one(route_as(&world, "app", "app").survey().await.problems, "`admin_users`");
    one(route_as(&world, "nobody", "app").survey().await.problems, "`auth_file`");
    one(route(&world, "nowhere").survey().await.problems, "entry of its own");
    one(route(&world, "broken").survey().await.problems, "2 times");
    let mut admin = world.console("admin");
    admin.password = Some(greenlight::word::Secret::new("wrong"));
    let config = world.config.clone();
    let with = |admin, config| {
        PgBouncer::new("main".to_owned(), admin, "app".to_owned(), config, world.through("app"), world.clock.clone())
    };
    let wrong = with(admin, config.clone()).survey().await.problems;
    one(wrong.clone(), "password");
    assert!(!format!("{wrong:?}").contains("wrong\""), "{wrong:?}");
    let elsewhere = endpoint(1, "pgbouncer", "admin");
    one(with(elsewhere, config).survey().await.problems, "nothing listens there");
    one(with(world.console("admin"), "/nowhere/pgbouncer.ini".into()).survey().await.problems, "/nowhere/pgbouncer.ini");

    let route = route_as(&world, "watcher", "app");
    let error = route.pause(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("admin_users"));
}

/// What this PgBouncer reads, and whether the route's file is among it: by its folder and name, not by what is in it.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_file_that_pgbouncer_reads_is_taken_for_it_and_only_a_change_that_it_takes_is_a_rehearsal() {
    let world = world(&format!("{APP}\nreport = host=localhost port=BLUE dbname=app")).await;
    let included = world.folder.path().join(format!("{}.ini", world.servers[0].port));
    fs::write(&included, format!("; included\nown = host=127.0.0.1 port={} dbname=app\n* = port=1\n", world.servers[0].port))
        .unwrap();
    process::give_to_server_user(&included).await.unwrap();
    let text = config_text(&world).replacen("report =", &format!("%include {}\nreport =", included.display()), 1);
    fs::write(&world.config, text).unwrap();
    ask(&world.console("admin"), "RELOAD").await;
    let at = |database: &str, config: &Path| {
        let (admin, probe) = (world.console("admin"), world.through(database));
        PgBouncer::new("main".to_owned(), admin, database.to_owned(), config.to_owned(), probe, world.clock.clone())
    };
    let green = target(&world, 1, "app");
    let (copy, linked) = (world.folder.path().join("copy.ini"), world.folder.path().join("linked.ini"));
    fs::copy(&world.config, &copy).unwrap();
    fs::hard_link(&world.config, &linked).unwrap();
    for wrong in [&copy, &linked] {
        let survey = at("app", wrong).survey().await;
        let said = format!("{:?}", survey.problems);
        assert!(said.contains("PgBouncer was started with") && said.contains(&wrong.display().to_string()), "{said}");
        let before = fs::read(wrong).unwrap();
        let error = at("app", wrong).rehearse(&green).await.unwrap_err();
        assert!(error.chain().contains("RELOAD changed nothing"), "{}", error.chain());
        assert_eq!(fs::read(wrong).unwrap(), before);
        assert_eq!(route(&world, "app").observe().await.unwrap().points_at, target(&world, 0, "app"));
    }
    // The right one, by a link; and one that is included.
    let by_link = world.folder.path().join("by-link.ini");
    symlink(&world.config, &by_link).unwrap();
    for (database, config) in [("app", &world.config), ("app", &by_link), ("own", &included)] {
        let route = at(database, config);
        let survey = route.survey().await;
        assert_eq!((survey.problems, survey.file_unknown), (Vec::new(), None), "{database}");
        let before = fs::read(config).unwrap();
        let seen = route.rehearse(&green).await.unwrap();
        assert_eq!(seen.answers, signature(&world, 1).await);
        assert_eq!(seen.arrival.address, Some(std::net::IpAddr::from([127, 0, 0, 1])));
        assert_eq!(fs::read(config).unwrap(), before);
        assert_eq!(ask(&world.through(database), "SHOW port").await, [world.servers[0].port.to_string()]);
    }
    let namesakes = at("app", &world.config).survey().await.namesakes;
    assert_eq!(namesakes, ["own", "report"], "under another name and by another way to the same server");
    // A mistake further up: PgBouncer reads no further.
    let good = config_text(&world);
    fs::write(&world.config, good.replace("[databases]", "[databases]\nwhat is this?")).unwrap();
    let error = route(&world, "app").rehearse(&green).await.unwrap_err();
    assert!(
        error.chain().contains("RELOAD changed nothing") && error.hint.as_ref().unwrap().contains("log"),
        "{}",
        error.chain()
    );
    fs::write(&world.config, good).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_that_was_killed_is_cleared_away_and_one_that_reaches_nobody_says_so() {
    let world = world(APP).await;
    let route = route(&world, "app");
    let before = config_text(&world);
    let nobody = Target { host: "127.0.0.1".to_owned(), port: free_port(), database: "app".to_owned() };
    let error = route.rehearse(&nobody).await.unwrap_err();
    assert!(error.chain().contains(&nobody.to_string()), "{}", error.chain());
    assert_eq!(config_text(&world), before);
    // As if it was killed when PgBouncer had read it.
    let port = world.servers[0].port;
    let left = before.replace(
        APP.replace("BLUE", &port.to_string()).as_str(),
        &format!(
            "greenlight_rehearsal_a172cedcae47 = port=1\n{} max_db_connections=000000900000",
            APP.replace("BLUE", &port.to_string())
        ),
    );
    assert_ne!(left, before);
    fs::write(&world.config, &left).unwrap();
    route.hasten().await.unwrap();
    ask(&world.console("admin"), "RELOAD").await;
    route.hasten().await.unwrap();
    assert_eq!(setting(&world, "server_login_retry").await.as_deref(), Some("0.2"));
    route.tidy().await.unwrap();
    assert_eq!(config_text(&world), before);
    assert_eq!(setting(&world, "server_login_retry").await.as_deref(), Some("15"));
    let shown = ask(&world.console("admin"), "SHOW DATABASES").await.join("\n");
    assert!(!shown.contains("rehearsal") && !shown.contains("900000"), "{shown}");
}

/// Blue as a Unix socket, with nothing but a port in the entry.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_by_socket_is_moved_and_comes_back_as_it_was_written() {
    let world = world("app = port=BLUE dbname='app'  pool_size=4").await;
    let before = config_text(&world);
    let entry = route_entry(&world, "app").await.unwrap();
    assert_eq!(entry.points_at.host, world.folder.path().display().to_string());
    assert_eq!((&entry.host, entry.dbname.as_deref()), (&None, Some("'app'")));
    let blue = entry.points_at.clone();
    let route = route(&world, "app").with_entry(Some(entry));
    assert_eq!(route.who_answers().await.unwrap(), signature(&world, 0).await);
    route.point_at(&target(&world, 1, "app")).await.unwrap();
    assert_eq!(route.who_answers().await.unwrap(), signature(&world, 1).await);
    let seen = route.rehearse(&blue).await.unwrap();
    assert_eq!((seen.answers, seen.arrival.address), (signature(&world, 0).await, None));
    route.point_at(&blue).await.unwrap();
    assert_eq!(config_text(&world), before);
    assert_eq!(route.observe().await.unwrap().points_at, blue);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_a_port_are_routes_with_sockets_of_their_own_or_refused() {
    let world = world(APP).await;
    world.stop().await;
    fs::write(&world.config, format!("{}so_reuseport = 1\n", config_text(&world))).unwrap();
    world.run().await;
    let second = world.second_process().await;
    let folder = second.0.path();
    let admin = |folder: &Path| Endpoint { host: folder.display().to_string(), ..world.console("admin") };
    let of = |name: &str, admin: Endpoint, config: &Path| {
        PgBouncer::new(name.to_owned(), admin, "app".to_owned(), config.to_owned(), world.through("app"), world.clock.clone())
    };
    let by_port = [of("main", world.console("admin"), &world.config)];
    let said = format!("{:?}", by_port[0].strangers(&by_port).await.unwrap());
    assert!(said.contains("so_reuseport") && said.contains("Unix socket"), "{said}");
    let one = [of("main", admin(world.folder.path()), &world.config)];
    let said = format!("{:?}", one[0].strangers(&one).await.unwrap());
    assert!(said.contains("another PgBouncer than those of the routes"), "{said}");
    let both =
        [of("main", admin(world.folder.path()), &world.config), of("second", admin(folder), &folder.join("pgbouncer.ini"))];
    for route in &both {
        assert_eq!(route.strangers(&both).await.unwrap(), []);
    }
    drop(second);
}

/// PgBouncer refuses its clients for 15 s after a login that failed, also once the server is there again.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_as_soon_as_a_server_that_was_down_answers() {
    let world = world(APP).await;
    let route = route(&world, "app");
    assert_eq!(ask(&world.through("app"), "SELECT 1").await, ["1"]);
    world.servers[0].crash();
    // A client that came before PgBouncer saw it waits, by its setting, for two minutes.
    ask(&world.console("admin"), "SET query_wait_timeout = 2").await;
    assert!(try_ask(&world.through("app"), "SELECT 1").await.is_err());
    let begun = world.clock.monotonic();
    world.servers[0].start(LIMIT).await.unwrap();
    route.hasten().await.unwrap();
    world.until("a client is served", || async { try_ask(&world.through("app"), "SELECT 1").await.is_ok() }).await;
    let took = world.clock.monotonic().saturating_sub(begun);
    // The pooler's own would be 15 s after the failed login.
    assert!(took < Duration::from_secs(10), "{took:?}");
    route.tidy().await.unwrap();
    assert_eq!(setting(&world, "server_login_retry").await.as_deref(), Some("15"));
}

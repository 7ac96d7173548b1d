//! Claim, marker and fence: who is stopped, who passes, and what is left.

use crate::world::{DATABASE, PASS, RUN, World, app, ask, refused, set_epoch, sql, try_app, until};
use greenlight::postgres::client::{Session, SessionOptions};
use greenlight::postgres::failure::sqlstate;
use greenlight::postgres::{Fence, FenceProbe, PgServer, PgServerOptions, Server};
use greenlight::word::{Endpoint, Failure, Secret, Side};
use std::sync::{Arc, atomic::AtomicU64};
use std::time::{Duration, Instant};

const SCHEMA: &str = "CREATE ROLE app LOGIN PASSWORD 'app';
    CREATE SCHEMA \"Odd one\";
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE \"Odd one\".\"it's\" (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE no_key (v text);
    CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE UNLOGGED TABLE quick (id int);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;";

async fn leak(server: &PgServer) -> Option<String> {
    match server.probe_fence().await.unwrap() {
        FenceProbe::Holds => None,
        FenceProbe::Leaks { how } => Some(how),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_claimed_by_one_run_and_left_without_a_trace() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let server = world.server(Side::Blue);
    assert_eq!(server.claim().await.unwrap(), None);
    // By the mark a fence made here would close the very server that serves.
    server.ensure_marked().await.unwrap();
    let refused_by_mark = server.ensure_claimed().await.unwrap_err();
    assert_eq!(refused_by_mark.failure, Failure::Refused, "{}", refused_by_mark.chain());
    server.ensure_unmarked(None).await.unwrap();
    assert_eq!(server.read_marker().await.unwrap(), None);
    for _ in 0..2 {
        server.ensure_claimed().await.unwrap();
        assert_eq!(server.claim().await.unwrap().as_deref(), Some(RUN));
    }
    let other = PgServer::new(PgServerOptions { run: "r7654321".parse().unwrap(), ..world.options(Side::Blue) });
    for error in [other.ensure_claimed().await.unwrap_err(), other.ensure_unclaimed().await.unwrap_err()] {
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.chain().contains(RUN), "{}", error.chain());
    }
    // In its own name's schema a role would make the tables of a migration, and lose them with it.
    sql(&endpoint, "CREATE ROLE greenlight SUPERUSER LOGIN PASSWORD 'x'").await;
    sql(&endpoint, "CREATE DATABASE other").await;
    let login = Endpoint { user: "greenlight".to_owned(), password: Some(Secret::new("x")), ..endpoint.with_database("other") };
    let trap = PgServer::new(PgServerOptions { endpoint: login, ..world.options(Side::Blue) });
    assert_eq!(trap.ensure_claimed().await.unwrap_err().failure, Failure::Refused);

    assert_eq!(server.read_marker().await.unwrap(), Some(0));
    server.write_marker(41).await.unwrap();
    server.write_marker(42).await.unwrap();
    assert_eq!(server.read_marker().await.unwrap(), Some(42));
    assert_eq!(ask(&app(&endpoint).await, "SELECT run FROM greenlight.marker").await, [RUN]);

    server.ensure_fence_installed().await.unwrap();
    assert_eq!(server.fence().await.unwrap(), Fence::Open);
    sql(&endpoint, "INSERT INTO t VALUES (1, 'a fence that is installed and open lets everyone pass')").await;
    // Somebody who uses a table is waited for, and his table is not forgotten.
    let busy = app(&endpoint).await;
    busy.batch_execute("BEGIN; INSERT INTO t VALUES (2, 'x')").await.unwrap();
    let removing = tokio::spawn(async move {
        server.ensure_unclaimed().await.unwrap();
        server
    });
    until(&endpoint, "SELECT count(*) FROM pg_trigger WHERE tgname = 'greenlight_fence'", "1").await;
    busy.batch_execute("COMMIT").await.unwrap();
    let server = removing.await.unwrap();
    server.ensure_unclaimed().await.unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'greenlight') + (SELECT count(*) FROM pg_trigger)";
    assert_eq!(sql(&endpoint, left).await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_database_stops_everyone_and_keeps_our_sessions_and_walsenders() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    server.connect().await.unwrap();
    server.ensure_fence_installed().await.unwrap();
    assert!(leak(&server).await.unwrap().contains("no fence"));

    let weak = Endpoint { user: "app".to_owned(), password: Some(Secret::new("app")), ..endpoint.clone() };
    let in_transaction = app(&weak).await;
    in_transaction.batch_execute("BEGIN; INSERT INTO t VALUES (1, 'open')").await.unwrap();
    let idle = app(&weak).await;
    let read_write = app(&weak).await;
    read_write.batch_execute("SET default_transaction_read_only = off; BEGIN READ WRITE").await.unwrap();
    let superuser = app(&endpoint).await;
    let preparing = app(&endpoint).await;
    preparing.batch_execute("BEGIN; INSERT INTO t VALUES (9, 'prepared'); PREPARE TRANSACTION 'left over'").await.unwrap();
    let elsewhere = app(&endpoint.with_database("postgres")).await;
    let clients = [in_transaction, idle, read_write, superuser];

    let started = Instant::now();
    server.ensure_fence(Fence::Connections).await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for client in &clients {
        assert_ne!(refused(client, "INSERT INTO t VALUES (2, 'late')").await, "");
        assert_ne!(refused(client, "COMMIT").await, "");
    }
    for who in [&endpoint, &weak] {
        let error = try_app(who).await.unwrap_err();
        assert_eq!((sqlstate(&error), error.failure), (Some("55000"), Failure::Refused));
    }
    assert_eq!(server.fence().await.unwrap(), Fence::Connections);
    assert_eq!(leak(&server).await, None);
    assert_eq!(server.prepared_transactions().await.unwrap(), ["left over"]);
    assert_eq!(refused(&elsewhere, "SELECT 1").await, "");
    // Everything that the window still needs, through the sessions that were open before.
    server.write_marker(7).await.unwrap();
    assert_eq!(server.read_marker().await.unwrap(), Some(7));
    server.sequences().await.unwrap();
    server.ensure_fence(Fence::Connections).await.unwrap();

    // Closed triggers are all that is left between: nobody writes when connections are allowed again.
    server.ensure_fence(Fence::Triggers).await.unwrap();
    assert_eq!(server.fence().await.unwrap(), Fence::Triggers);
    assert_eq!(refused(&app(&endpoint).await, "INSERT INTO t VALUES (3, 'x')").await, "25006");
    assert_eq!(leak(&server).await, None);
    server.ensure_fence(Fence::Open).await.unwrap();
    assert_eq!(server.fence().await.unwrap(), Fence::Open);
    sql(&endpoint, "ROLLBACK PREPARED 'left over'").await;
    assert_eq!(sql(&endpoint, "SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_database_is_opened_again_by_a_process_that_has_no_session_in_it() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let first = world.server(Side::Blue);
    first.ensure_claimed().await.unwrap();
    first.ensure_fence(Fence::Connections).await.unwrap();
    drop(first);
    for (wanted, insert) in [(Fence::Triggers, "25006"), (Fence::Open, "")] {
        let second = world.server(Side::Blue);
        assert_eq!(second.fence().await.unwrap(), Fence::Connections);
        assert_eq!(second.read_marker().await.unwrap_err().failure, Failure::Refused);
        second.identity().await.unwrap();
        second.ensure_no_slot("none").await.unwrap();
        second.ensure_fence(wanted).await.unwrap();
        assert_eq!(second.fence().await.unwrap(), wanted);
        assert_eq!(refused(&app(&endpoint).await, "INSERT INTO t VALUES (1, 'x')").await, insert);
        second.ensure_fence(Fence::Connections).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pass_of_a_fence_is_a_secret_of_the_run_and_not_a_word() {
    let logged = [("log_statement", "all"), ("log_connections", "on"), ("log_min_duration_statement", "0")];
    let world = World::with(&logged).await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    server.ensure_fence(Fence::Triggers).await.unwrap();
    let outsider = app(&endpoint).await;
    let weak_login = Endpoint { user: "app".to_owned(), password: Some(Secret::new("app")), ..endpoint.clone() };
    // Not who says a word, nor who has read the function, nor who has got the pass and is somebody else.
    let source = sql(&endpoint, "SELECT prosrc FROM pg_proc WHERE oid = 'greenlight.fence'::regproc").await.remove(0);
    let hash = source.split('\'').find(|word| word.len() == 64).unwrap();
    for pass in ["on", "", hash] {
        let said = format!("SET greenlight.pass = '{pass}'; INSERT INTO t VALUES (1, 'x')");
        assert_eq!(refused(&outsider, &said).await, "25006", "{pass}");
    }
    let knows = SessionOptions::untouched("app", Duration::from_secs(10)).with_pass(&Secret::new(PASS));
    let knows = Session::open(&weak_login, &knows, "blue").await.unwrap();
    assert_eq!(refused(knows.client(), "INSERT INTO t VALUES (1, 'x')").await, "25006");
    assert!(!source.contains(PASS));
    let ours = Session::open(
        &endpoint,
        &SessionOptions::ours("ours", Duration::from_secs(10), Duration::from_secs(5)).with_pass(&Secret::new(PASS)),
        "blue",
    )
    .await
    .unwrap();
    ours.batch("write behind the fence", "INSERT INTO public.t VALUES (1, 'ours')").await.unwrap();
    // Another process of the run whose secret was lost makes the fence let it through, and leaves it as closed as it was.
    let lost = PgServer::new(PgServerOptions { pass: Secret::new("another"), ..world.options(Side::Blue) });
    lost.ensure_fence_installed().await.unwrap();
    assert_eq!((lost.fence().await.unwrap(), leak(&lost).await), (Fence::Triggers, None));
    assert!(ours.batch("write behind the fence", "DELETE FROM public.t").await.is_err());
    server.ensure_fence_installed().await.unwrap();
    ours.batch("write behind the fence", "UPDATE public.t SET v = 'again'").await.unwrap();
    assert!(!world.log(Side::Blue).contains(PASS), "the pass stands in the server's log");
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_triggers_refuse_every_write_on_every_table_and_let_our_sessions_pass() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    let open_before = app(&endpoint).await;
    for _ in 0..2 {
        server.ensure_fence(Fence::Triggers).await.unwrap();
        assert_eq!(server.fence().await.unwrap(), Fence::Triggers);
        assert_eq!(leak(&server).await, None);
    }
    let weak = Endpoint { user: "app".to_owned(), password: Some(Secret::new("app")), ..endpoint.clone() };
    let weak = app(&weak).await;
    for write in [
        "INSERT INTO t VALUES (1, 'x')",
        "UPDATE t SET v = 'x'",
        "DELETE FROM t",
        "TRUNCATE t",
        "COPY t FROM PROGRAM 'true'",
        "INSERT INTO parts VALUES (1, '2026-05-05')",
        "INSERT INTO parts_1 VALUES (1, '2026-05-05')",
        "INSERT INTO \"Odd one\".\"it's\" VALUES (1)",
        "INSERT INTO no_key VALUES ('x')",
        "INSERT INTO quick VALUES (1)",
        "BEGIN READ WRITE; INSERT INTO t VALUES (1, 'x')",
        "SET default_transaction_read_only = off; INSERT INTO t VALUES (1, 'x')",
    ] {
        assert_eq!(refused(&open_before, write).await, "25006", "{write}");
        open_before.batch_execute("ROLLBACK").await.unwrap();
    }
    let error = weak.batch_execute("INSERT INTO t VALUES (1, 'x')").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains(RUN));

    // A table that came later, and a trigger that somebody switched off, are leaks until the fence is ensured again.
    sql(&endpoint, "CREATE TABLE later (id int)").await;
    assert!(leak(&server).await.unwrap().contains("public.later"));
    server.ensure_fence(Fence::Triggers).await.unwrap();
    assert_eq!(leak(&server).await, None);
    sql(&endpoint, "ALTER TABLE t DISABLE TRIGGER greenlight_fence; ALTER FUNCTION greenlight.fence() OWNER TO app").await;
    let damage = server.fence_damage().await.unwrap().join("; ");
    assert!(damage.contains("belongs to app") && damage.contains("public.t"), "{damage}");
    // A schema in which something is a stranger's is not used before a person has looked.
    sql(&endpoint, "ALTER FUNCTION greenlight.fence() OWNER TO CURRENT_USER").await;
    assert!(leak(&server).await.unwrap().contains("public.t"));
    server.ensure_fence_installed().await.unwrap();
    assert_eq!(leak(&server).await, None);
    // One that is called so, with our function, and lets some writes pass.
    for (less, part) in [("UPDATE OF v", ""), ("INSERT OR UPDATE OR DELETE OR TRUNCATE", "WHEN (pg_backend_pid() < 0)")] {
        sql(
            &endpoint,
            &format!("CREATE OR REPLACE TRIGGER greenlight_fence BEFORE {less} ON t {part} EXECUTE FUNCTION greenlight.fence()"),
        )
        .await;
        assert!(leak(&server).await.unwrap().contains("public.t"), "{less} {part}");
        server.ensure_fence_installed().await.unwrap();
        assert_eq!(leak(&server).await, None);
    }
    let open = "CREATE OR REPLACE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
    sql(&endpoint, open).await;
    assert!(server.fence_damage().await.unwrap().join("; ").contains("was changed"));
    server.ensure_fence(Fence::Triggers).await.unwrap();
    assert_eq!(server.fence_damage().await.unwrap(), Vec::<String>::new());

    server.ensure_fence(Fence::Open).await.unwrap();
    for client in [&open_before, &weak] {
        assert_eq!(refused(client, "UPDATE t SET v = 'y'").await, "");
    }
    server.ensure_unclaimed().await.unwrap();
    assert_eq!(server.fence().await.unwrap(), Fence::Open);
}

/// Each leaves a number behind, which no rollback takes back: as a trigger, a rule, a default, in an index and in statistics.
const STRANGERS: &str = "CREATE SEQUENCE marks;
    CREATE FUNCTION mark() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN nextval('public.marks'); END $$;
    CREATE FUNCTION mark_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('public.marks'); RETURN NULL; END $$;
    CREATE TABLE hooked (id int PRIMARY KEY, d int DEFAULT mark());
    CREATE TRIGGER a_first BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON hooked FOR EACH STATEMENT EXECUTE FUNCTION mark_trigger();
    CREATE TABLE ruled (id int PRIMARY KEY, v int);
    CREATE RULE nothing AS ON DELETE TO ruled DO INSTEAD NOTHING;
    CREATE RULE marked AS ON INSERT TO ruled DO ALSO SELECT mark();
    CREATE TABLE indexed (id int PRIMARY KEY, v int);
    CREATE INDEX ON indexed ((v + mark())) WHERE v > mark();
    CREATE STATISTICS of_indexed ON (v * mark()), id FROM indexed;
    CREATE PUBLICATION everything FOR ALL TABLES;
    SELECT setval('marks', 1, false);";

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_is_proved_without_running_what_somebody_else_wrote() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    sql(&endpoint, STRANGERS).await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    server.ensure_fence(Fence::Triggers).await.unwrap();
    assert_eq!(leak(&server).await, None);
    server.ensure_fence(Fence::Connections).await.unwrap();
    assert_eq!(leak(&server).await, None);
    server.ensure_fence(Fence::Triggers).await.unwrap();
    // Of a session that is born with the pass, or in which no trigger fires, the catalogue says nothing.
    for born in [format!("greenlight.pass = '{PASS}'"), "session_replication_role = 'replica'".to_owned()] {
        sql(&endpoint, &format!("ALTER ROLE \"The Admin\" SET {born}")).await;
        assert!(leak(&server).await.unwrap().contains("got through"), "{born}");
        sql(&endpoint, "ALTER ROLE \"The Admin\" RESET ALL").await;
    }
    assert_eq!(leak(&server).await, None);
    assert_eq!(sql(&endpoint, "SELECT is_called FROM marks").await, ["f"]);
    assert_eq!(refused(&app(&endpoint).await, "INSERT INTO hooked VALUES (1)").await, "25006");
    assert_eq!(sql(&endpoint, "SELECT is_called FROM marks").await, ["t"], "they do leave marks");
    server.ensure_unclaimed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_behind_a_fence_that_waits_for_somebody_else() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    // As VACUUM does, for long.
    let vacuum = app(&endpoint).await;
    vacuum.batch_execute("BEGIN; LOCK t IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(0.3)").await.unwrap();
    let installing = tokio::spawn(async move { server.ensure_fence_installed().await });
    until(&endpoint, "SELECT count(*) FROM pg_trigger WHERE tgname = 'greenlight_fence'", "6").await;
    let writer = app(&endpoint).await;
    writer.batch_execute("SET lock_timeout = '100ms'").await.unwrap();
    for id in 0..50 {
        assert_eq!(refused(&writer, &format!("INSERT INTO t VALUES ({id}, 'x'); SELECT pg_sleep(0.03)")).await, "", "{id}");
    }
    vacuum.batch_execute("COMMIT").await.unwrap();
    installing.await.unwrap().unwrap();
    assert_eq!(sql(&endpoint, "SELECT count(*) FROM pg_trigger WHERE tgname = 'greenlight_fence'").await, ["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_just_logging_in_do_not_slip_through_the_closing_door() {
    let world = World::blue().await;
    let endpoint = world.endpoint(Side::Blue);
    sql(&endpoint, SCHEMA).await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    server.ensure_fence_installed().await.unwrap();
    for round in 0..5 {
        let crowd: Vec<_> = (0..8)
            .map(|client| {
                let endpoint = endpoint.clone();
                tokio::spawn(async move {
                    let mut acknowledged = 0;
                    // Connects anew for each write, as long as it is let in.
                    while let Ok(session) = try_app(&endpoint).await {
                        let insert = format!("INSERT INTO no_key VALUES ('{round} {client}')");
                        acknowledged += i64::from(session.batch_execute(&insert).await.is_ok());
                    }
                    acknowledged
                })
            })
            .collect();
        until(&endpoint, &format!("SELECT count(*) > 20 FROM no_key WHERE v LIKE '{round} %'"), "t").await;
        server.ensure_fence(Fence::Connections).await.unwrap();
        let count = |sessions: Vec<String>| sessions[0].parse::<i64>().unwrap();
        let inside = greenlight::postgres::client::Session::open(
            &endpoint.with_database("postgres"),
            &greenlight::postgres::client::SessionOptions::reading("look"),
            "blue",
        )
        .await
        .unwrap();
        let left = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = ";
        let left = format!("{left}{} AND application_name = 'app'", greenlight::word::quote_literal(DATABASE));
        assert_eq!(ask(inside.client(), &left).await, ["0"]);
        let mut acknowledged = 0;
        for client in crowd {
            acknowledged += client.await.unwrap();
        }
        server.ensure_fence(Fence::Open).await.unwrap();
        let rows = count(sql(&endpoint, &format!("SELECT count(*) FROM no_key WHERE v LIKE '{round} %'")).await);
        assert!(rows >= acknowledged, "{rows} rows, {acknowledged} acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_lost_its_lease_loses_its_sessions_and_gets_no_new_ones() {
    let world = World::blue().await;
    let old = world.server(Side::Blue);
    old.ensure_claimed().await.unwrap();
    old.connect().await.unwrap();
    let stranger = app(&world.endpoint(Side::Blue)).await;
    let other_run = PgServer::new(PgServerOptions { run: "r7654321".parse().unwrap(), ..world.options(Side::Blue) });
    other_run.connect().await.unwrap();

    let options = PgServerOptions { epoch: Arc::new(AtomicU64::new(1)), ..world.options(Side::Blue) };
    let new = PgServer::new(options.clone());
    new.connect().await.unwrap();
    let left_behind = app(&world.endpoint(Side::Blue)).await;
    left_behind.batch_execute("SET application_name = 'greenlight/r1234567/2'").await.unwrap();
    let of_a_newer = app(&world.endpoint(Side::Blue)).await;
    of_a_newer.batch_execute("SET application_name = 'greenlight/r1234567/3'").await.unwrap();
    // It takes the lease: its own sessions are named after the new epoch and stay.
    set_epoch(&options, 2);
    for _ in 0..2 {
        new.ensure_sole_coordinator().await.unwrap();
    }
    let names = "SELECT string_agg(DISTINCT application_name, ' ' ORDER BY application_name) FROM pg_stat_activity \
                 WHERE application_name LIKE 'greenlight/%'";
    new.read_marker().await.unwrap();
    assert_eq!(ask(&stranger, names).await, ["greenlight/r1234567/2 greenlight/r1234567/3 greenlight/r7654321/1"]);
    assert_ne!(refused(&left_behind, "SELECT 1").await, "");
    assert_eq!(refused(&of_a_newer, "SELECT 1").await, "");
    assert_eq!(new.read_marker().await.unwrap(), Some(0));
    other_run.claim().await.unwrap();
    // It may have been asleep, and wakes up: not even a new session is of use to it.
    let mut late = old.ensure_fence(Fence::Open).await.unwrap_err();
    if late.failure != Failure::Refused {
        late = old.ensure_fence(Fence::Open).await.unwrap_err();
    }
    assert!(late.chain().contains("taken run"), "{}", late.chain());
    assert_eq!(late.failure, Failure::Refused);
    new.ensure_unclaimed().await.unwrap();
    assert_eq!(ask(&stranger, "SELECT count(*) FROM pg_db_role_setting").await, ["0"]);
}

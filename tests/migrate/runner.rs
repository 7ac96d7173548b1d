use crate::world::{World, migration, until};
use greenlight::migrate::{Migration, Migrator, applied};
use greenlight::word::{Failure, PortError, Secret, Side};

async fn world() -> World {
    let world = World::up().await;
    world.shop().await.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)").await.unwrap();
    world
}

async fn versions(world: &World) -> Vec<String> {
    world.migrator().applied().await.unwrap().into_iter().map(|row| row.version).collect()
}

async fn count(world: &World, sql: &str) -> i64 {
    world.shop().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_applied_and_recorded_once() {
    let world = world().await;
    assert!(versions(&world).await.is_empty());
    let one = migration("0001", "CREATE TABLE n (id int);\nUPDATE t SET a = a + 1;\nSET ROLE pg_monitor;");
    world.migrator().apply(&one, &|_, _| ()).await.unwrap();
    world.migrator().apply(&one, &|_, _| ()).await.unwrap();
    assert_eq!(count(&world, "SELECT a::bigint FROM t").await, 2);
    let rows = applied(&world.endpoint(crate::world::DATABASE), &crate::world::history()).await.unwrap();
    assert_eq!((rows.len(), &rows[0].version, &rows[0].checksum), (1, &one.version, &one.checksum));
    let now = greenlight::word::Clock::now(&greenlight::word::SystemClock::new());
    let age = now.as_second() - rows[0].applied_at.as_second();
    assert!((0..60).contains(&age), "{age} s old");
    // The columns are those that other tools expect.
    let columns = "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = '\"Tool''s own\".schema_migrations'::regclass AND attnum > 0";
    let columns: String = world.shop().await.query_one(columns, &[]).await.unwrap().get(0);
    assert_eq!(columns, "character varying(50),timestamp without time zone,character varying(64),integer");
    // Another text under the same version is refused.
    let error = world.migrator().apply(&migration("0001", "SELECT 1;"), &|_, _| ()).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.chain().contains("another text was applied as version 0001"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_table_of_another_tool_is_refused() {
    let world = world().await;
    let sql = "CREATE SCHEMA \"Tool's own\"; CREATE TABLE \"Tool's own\".schema_migrations (version varchar(255))";
    world.shop().await.batch_execute(sql).await.unwrap();
    let error = world.migrator().apply(&migration("1", "SELECT 1;"), &|_, _| ()).await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("name another schema"));
}

async fn fails(world: &World, up: &str) -> PortError {
    world.migrator().apply(&migration("1", up), &|_, _| ()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_statement_is_shown_with_its_line_and_leaves_nothing() {
    let world = world().await;
    let error = fails(&world, "CREATE TABLE n (id int);\n\nINSERT INTO t\n  VALUES (1, 1);").await;
    assert_eq!(error.failure, Failure::Refused);
    let says = error.chain();
    assert!(says.contains("`1_change.up.sql` line 3 (statement 2 of 2) on green") && says.contains("duplicate key"), "{says}");
    let error = fails(&world, "CREATE TABLE n (id int);\nALTER TABLE t\n  ADD b nonsense;").await;
    assert!(error.chain().contains("line 3 "), "{}", error.chain());
    let error = fails(&world, "CREATE TABLE n (id int);\nCOMMIT;").await;
    assert!(error.chain().contains("line 2: `COMMIT`"), "{}", error.chain());
    assert_eq!(count(&world, "SELECT count(*) FROM pg_class WHERE relname = 'n'").await, 0);
    assert!(versions(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_without_a_transaction_stops_where_it_fails_and_says_what_took_effect() {
    let world = world().await;
    let up = "-- greenlight: no-transaction\nCREATE INDEX CONCURRENTLY t_a ON t (a);\nVACUUM t;\nALTER TABLE t ADD a int;";
    let error = fails(&world, up).await;
    assert!(error.chain().contains("line 4 (statement 3 of 3)"), "{}", error.chain());
    assert!(error.hint.unwrap().starts_with("statements 1 to 2 took effect, and nothing is recorded"));
    assert_eq!(count(&world, "SELECT count(*) FROM pg_class WHERE relname = 't_a'").await, 1);
    assert!(versions(&world).await.is_empty());
    let repeatable = up.replace("CONCURRENTLY t_a", "CONCURRENTLY IF NOT EXISTS t_a").replace("ADD a int", "ADD b int");
    world.migrator().apply(&migration("1", &repeatable), &|_, _| ()).await.unwrap();
    assert_eq!(versions(&world).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_tried_for_again_and_then_given_up() {
    let world = world().await;
    let holder = world.shop().await;
    holder.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let error = fails(&world, "ALTER TABLE t ADD b int;").await;
    assert_eq!(error.failure, Failure::Transient);
    assert!(error.hint.unwrap().contains("it was tried 3 times"));

    let up = migration("1", "ALTER TABLE t ADD b int;");
    let migrator = world.migrator();
    let (applied, ()) = tokio::join!(migrator.apply(&up, &|_, _| ()), async {
        // Its second try, at least: the first has failed when the wait for the lock is over.
        let watch = world.shop().await;
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until(&watch, waits).await;
        until(&watch, "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").await;
        holder.batch_execute("ROLLBACK").await.unwrap();
    });
    applied.unwrap();
    assert_eq!(versions(&world).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_runner_waits_and_is_told_who_holds_the_lock() {
    let world = world().await;
    let gate = world.shop().await;
    gate.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let slow = migration("1", "SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock(42);");
    let (first, second) = (world.migrator(), world.migrator());
    let running = async {
        until(
            &world.shop().await,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%xact_lock(42)%' AND pid <> pg_backend_pid()",
        )
        .await;
        let error = second.apply(&migration("2", "SELECT 2;"), &|_, _| ()).await.unwrap_err();
        gate.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
        error
    };
    let (applied, error) = tokio::join!(first.apply(&slow, &|_, _| ()), running);
    applied.unwrap();
    assert_eq!(error.failure, Failure::Transient);
    assert!(error.chain().contains("another migration is running there: process "), "{}", error.chain());
    assert!(error.chain().contains("user Owner of all, greenlight/r0000001/7"), "{}", error.chain());
    assert_eq!(versions(&world).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_commit_is_uncertain_and_a_lost_session_before_it_is_not() {
    let world = world().await;
    let gate = world.shop().await;
    gate.batch_execute(
        "SELECT pg_advisory_lock(42);
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN SET LOCAL lock_timeout = 0; PERFORM pg_advisory_xact_lock(42); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    .await
    .unwrap();
    let cases = [
        ("UPDATE t SET a = a + 1;", "COMMIT", Failure::Uncertain),
        (
            "SET LOCAL lock_timeout = 0;\nSELECT pg_advisory_xact_lock(42);",
            "SELECT pg_advisory_xact_lock(42);",
            Failure::Transient,
        ),
        (
            "-- greenlight: no-transaction\nSET lock_timeout = 0;\nSELECT pg_advisory_lock(42);",
            "SELECT pg_advisory_lock(42);",
            Failure::Uncertain,
        ),
    ];
    for (up, query, failure) in cases {
        let (migrator, up) = (world.migrator(), migration("1", up));
        let kill = async {
            let session = format!("FROM pg_stat_activity WHERE query = '{query}' AND wait_event_type = 'Lock'");
            until(&gate, &format!("SELECT count(*) = 1 {session}")).await;
            gate.batch_execute(&format!("SELECT pg_terminate_backend(pid) {session}")).await.unwrap();
        };
        let (applied, ()) = tokio::join!(migrator.apply(&up, &|_, _| ()), kill);
        let error = applied.unwrap_err();
        assert_eq!(error.failure, failure, "{}", error.chain());
        assert!(versions(&world).await.is_empty());
        assert_eq!(count(&world, "SELECT a::bigint FROM t").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runner_passes_greenlights_own_fence() {
    let world = world().await;
    let sql = "CREATE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('greenlight.pass', true) IS DISTINCT FROM 'a secret' THEN RAISE EXCEPTION 'fenced'; END IF; RETURN NULL;
        END $$;
        CREATE TRIGGER fence BEFORE UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION fence();
        ALTER SYSTEM SET default_transaction_read_only = on;";
    let client = world.shop().await;
    for statement in
        sql.split(";\n        C").enumerate().map(|(no, one)| if no == 0 { one.to_owned() } else { format!("C{one}") })
    {
        for one in statement
            .split(";\n        ALTER")
            .enumerate()
            .map(|(no, one)| if no == 0 { one.to_owned() } else { format!("ALTER{one}") })
        {
            client.batch_execute(&one).await.unwrap();
        }
    }
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(&client, "SELECT current_setting('default_transaction_read_only') = 'on'").await;
    assert!(client.batch_execute("BEGIN READ WRITE; UPDATE t SET a = 5").await.is_err());
    let migrator = world.migrator().passing(Secret::new("a secret"));
    migrator.apply(&migration("1", "UPDATE t SET a = 5;"), &|_, _| ()).await.unwrap();
    assert_eq!(count(&world, "SELECT a::bigint FROM t").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_taken_back_with_its_row_and_only_once() {
    let world = world().await;
    let down = |text: &str| Some(text.to_owned());
    let one =
        Migration { down: down("UPDATE t SET a = a - 1;\nSET ROLE pg_monitor;"), ..migration("1", "UPDATE t SET a = a + 1;") };
    world.migrator().apply(&one, &|_, _| ()).await.unwrap();
    world.migrator().revert(&one, &|_, _| ()).await.unwrap();
    world.migrator().revert(&one, &|_, _| ()).await.unwrap();
    assert_eq!((count(&world, "SELECT a::bigint FROM t").await, versions(&world).await.len()), (1, 0));

    let index = migration("2", "-- greenlight: no-transaction\nCREATE INDEX CONCURRENTLY t_a ON t (a);");
    let index = Migration { down: down("-- greenlight: no-transaction\nDROP INDEX CONCURRENTLY t_a;"), ..index };
    world.migrator().apply(&index, &|_, _| ()).await.unwrap();
    world.migrator().revert(&index, &|_, _| ()).await.unwrap();
    assert_eq!(count(&world, "SELECT count(*) FROM pg_class WHERE relname = 't_a'").await, 0);
    assert!(versions(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_fails_leaves_the_migration_as_it_was() {
    let world = world().await;
    let lost = migration("1", "ALTER TABLE t ADD b int;");
    world.migrator().apply(&lost, &|_, _| ()).await.unwrap();
    let error = world.migrator().revert(&lost, &|_, _| ()).await.unwrap_err();
    assert!(error.failure == Failure::Refused && error.chain().contains("there is no `1_change.down.sql`"), "{}", error.chain());
    let wrong = Migration { down: Some("ALTER TABLE t DROP b;\nALTER TABLE t\n DROP c;".to_owned()), ..lost };
    let error = world.migrator().revert(&wrong, &|_, _| ()).await.unwrap_err();
    assert!(error.chain().contains("`1_change.down.sql` line 2 (statement 2 of 2)"), "{}", error.chain());
    assert_eq!(count(&world, "SELECT count(b) FROM t").await, 0);
    assert_eq!(versions(&world).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_blue_a_commit_waits_as_the_server_says_and_on_green_for_nobody() {
    let world = world().await;
    let noted = "CREATE TABLE noted AS SELECT current_setting('synchronous_commit') AS said;";
    for (migrator, wanted) in [(world.migrator(), "local"), (world.migrator().on(Side::Blue), "on")] {
        migrator.apply(&migration("1", noted), &|_, _| ()).await.unwrap();
        let said: String = world.shop().await.query_one("SELECT said FROM noted", &[]).await.unwrap().get(0);
        assert_eq!(said, wanted);
        let gone = Migration { down: Some("DROP TABLE noted;".to_owned()), ..migration("1", noted) };
        migrator.revert(&gone, &|_, _| ()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_as_the_role_that_is_named_and_what_they_make_belongs_to_it() {
    let world = world().await;
    let roles = "CREATE ROLE \"app Owner\" NOLOGIN; CREATE ROLE app LOGIN; CREATE SCHEMA shop AUTHORIZATION \"app Owner\"; \
        CREATE TABLE shop.orders (id int PRIMARY KEY, n int); ALTER TABLE shop.orders OWNER TO \"app Owner\"; \
        GRANT SELECT ON shop.orders TO app; \
        ALTER DEFAULT PRIVILEGES FOR ROLE \"app Owner\" IN SCHEMA shop GRANT SELECT ON TABLES TO app";
    world.shop().await.batch_execute(roles).await.unwrap();
    let named = greenlight::plan::HistorySpec { role: Some("app Owner".to_owned()), ..crate::world::history() };
    let migrator = world.migrator_with(named);
    let whole = migration("1", "CREATE TABLE shop.invoices (id int);\nCREATE VIEW shop.recent AS SELECT id FROM shop.orders;");
    let alone =
        "-- greenlight: no-transaction\nCREATE TABLE shop.alone (id int);\nCREATE INDEX CONCURRENTLY late ON shop.alone (id);";
    let batches = "-- greenlight: batches of 2\nUPDATE shop.orders SET n = id WHERE :batch;";
    world.shop().await.batch_execute("INSERT INTO shop.orders (id) SELECT generate_series(1, 5)").await.unwrap();
    for one in [whole, migration("2", alone), migration("3", batches)] {
        migrator.apply(&one, &|_, _| ()).await.unwrap();
    }
    let theirs = "SELECT count(*) FROM pg_class WHERE relname IN ('invoices', 'recent', 'alone') \
        AND pg_get_userbyid(relowner) = 'app Owner' AND has_table_privilege('app', oid, 'SELECT')";
    assert_eq!(count(&world, theirs).await, 3);
    // What Greenlight keeps is its own, and what the role may not do is refused.
    assert_eq!(versions(&world).await, ["1", "2", "3"]);
    let error = migrator.apply(&migration("4", "DROP TABLE t;"), &|_, _| ()).await.unwrap_err();
    assert!(error.chain().contains("must be owner of table t"), "{}", error.chain());
    assert_eq!(versions(&world).await, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_tells_what_is_made_and_the_survey_who_uses_the_schema() {
    let world = world().await;
    let sql = "CREATE ROLE owner NOLOGIN; CREATE ROLE other NOLOGIN; CREATE ROLE app LOGIN; CREATE TABLE orders (id int); \
        ALTER TABLE orders OWNER TO owner; GRANT SELECT ON orders TO app; CREATE TABLE foreigner (id int); \
        ALTER TABLE foreigner OWNER TO other; ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT ON TABLES TO PUBLIC";
    world.shop().await.batch_execute(sql).await.unwrap();
    let up = "CREATE TABLE invoices (id bigint GENERATED ALWAYS AS IDENTITY, n serial) PARTITION BY RANGE (id);\n\
        CREATE TABLE invoices_1 PARTITION OF invoices FOR VALUES FROM (1) TO (9);\n\
        GRANT SELECT ON invoices TO app;\nCREATE VIEW recent AS SELECT id FROM invoices;\nALTER TABLE recent OWNER TO owner;";
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    let made: Vec<String> = report
        .made
        .iter()
        .map(|made| format!("{} {} {:?} {}", made.kind, made.name, made.owner.as_deref(), made.granted.join(",")))
        .collect();
    let expected =
        ["table public.invoices None app", "sequence public.invoices_n_seq None ", "view public.recent Some(\"owner\") "];
    assert_eq!(made, expected);
    let options = greenlight::postgres::client::SessionOptions::reading("a test");
    let at = world.endpoint(crate::world::DATABASE);
    let session = greenlight::postgres::client::Session::open(&at, &options, "blue").await.unwrap();
    let rights = greenlight::postgres::rights::read(&session, Some("owner")).await.unwrap();
    let users: Vec<&str> = rights.users["public"].iter().map(String::as_str).collect();
    // The superuser's own table says nothing of applications.
    assert_eq!((rights.user.as_str(), users), ("Owner of all", vec!["app", "other", "owner"]));
    let defaults: Vec<(&str, &str)> =
        rights.defaults.iter().map(|grant| (grant.owner.as_str(), grant.grantee.as_str())).collect();
    assert_eq!(defaults, [("owner", "public")]);
    let role = rights.role.unwrap();
    let foreign: Vec<(&str, u64)> = role.foreign.iter().map(|(owner, count)| (owner.as_str(), *count)).collect();
    assert_eq!((role.exists, foreign), (true, vec![("Owner of all", 1), ("other", 1)]));
    assert_eq!(role.closed_schemas, ["public"]);
    let absent = greenlight::postgres::rights::read(&session, Some("nobody at all")).await.unwrap().role.unwrap();
    assert!(!absent.exists);
}

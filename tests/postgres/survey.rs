//! The survey of real servers, and that looking at them changes nothing.

use crate::world::{World, app, ask, sql};
use greenlight::plan::{
    Answer, Gate, GreenSurvey, HistorySpec, LimitsSpec, LongTransactions, OnFailure, Plan, PlanInput, ServerSpec, ServerSurvey,
    SoakSpec, Survey, ValidateSpec, WindowSpec, compile,
};
use greenlight::postgres::survey;
use greenlight::schema::fingerprint;
use greenlight::word::{Endpoint, Failure, RelationName, Side, Template, Timestamp};

const SCHEMA: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, total numeric, twice numeric GENERATED ALWAYS AS (total * 2) STORED);
    CREATE UNLOGGED TABLE sessions (id bigint PRIMARY KEY);
    CREATE TABLE keyless (a int);
    CREATE TABLE parts (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE SEQUENCE numbers CYCLE;
    INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) n;
    CREATE MATERIALIZED VIEW totals AS SELECT sum(total) FROM orders;
    SELECT lo_create(0), lo_create(0);
    CREATE FUNCTION noop() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION noop();
    CREATE ROLE etl LOGIN;
    ALTER ROLE etl SET session_replication_role = replica;
    CREATE PUBLICATION others FOR TABLE orders;
    CREATE SUBSCRIPTION prices CONNECTION 'host=127.0.0.1 port=1' PUBLICATION x WITH (connect = false);
    ANALYZE orders";

pub(crate) async fn look(at: &Endpoint) -> ServerSurvey {
    survey::read(at, "the server").await.unwrap()
}

pub(crate) fn plan(blue: ServerSurvey, green: ServerSurvey) -> Plan {
    let url = |host: &str| ServerSpec { url: Template(format!("postgresql://{host}/shop")), peer_url: None };
    let input = PlanInput {
        strategy: greenlight::plan::Strategy::Sync,
        name: "test".to_owned(),
        blue: url("127.0.0.1:1"),
        green: url("127.0.0.1:2"),
        standby: None,
        restore_into: None,
        shadow: None,
        routes: Vec::new(),
        window: WindowSpec {
            max_pause_ms: 5_000,
            max_lag_bytes: 1 << 20,
            long_transactions: LongTransactions::Wait,
            transaction_age_max_ms: 1_000,
            sequence_margin: 1_000,
            reads_on_blue: false,
        },
        validate: ValidateSpec { rows: true, chunk_rows: 10_000, parallel: 2, exclude: Vec::new(), assertions: Vec::new() },
        history: HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 1_000, lock_retries: 3 },
        soak: SoakSpec { for_secs: 60, then_finish: false },
        limits: LimitsSpec { wal_kept_bytes_max: 1 << 20 },
        on_failure: OnFailure::Rollback,
        on_failure_of: greenlight::plan::FailurePhases::default(),
        snapshot: None,
        green_snapshot: None,
        before_migrate: Gate::default(),
        before_window: Gate::default(),
        accept: Vec::new(),
        migrations: Vec::new(),
    };
    let survey = Survey {
        blue,
        green: GreenSurvey::Standby(Box::new(green)),
        shadow: Err("nothing is to be migrated".to_owned()),
        routes: Vec::new(),
        applied: Vec::new(),
        rights: None,
        direct_sessions: Ok(Vec::new()),
        snapshots: None,
        access: None,
    };
    compile(input, &survey, "r1234567".parse().unwrap(), Timestamp::UNIX_EPOCH)
}

#[tokio::test]
async fn both_servers_are_seen_as_they_are() {
    let world = World::pair(SCHEMA).await;
    let (blue_at, green_at) = (world.endpoint(Side::Blue), world.endpoint(Side::Green));
    sql(&blue_at, "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')").await;
    sql(&blue_at, "CREATE DATABASE crm").await;
    let client = app(&blue_at).await;
    ask(&client, "BEGIN; INSERT INTO orders VALUES (-1, 1); PREPARE TRANSACTION 'forgotten'").await;
    ask(&client, "BEGIN; SELECT pg_sleep(1.1)").await;

    let blue = look(&blue_at).await;
    assert_eq!((blue.in_recovery, blue.superuser, blue.timeline, blue.major()), (false, true, 1, 15));
    assert_eq!(blue.wal_level, "logical");
    assert_eq!(blue.database, blue_at.database);
    assert_eq!(
        blue.slots.iter().map(|slot| (slot.name.as_str(), slot.logical)).collect::<Vec<_>>(),
        [("debezium", true), ("standby", false)]
    );
    assert_eq!(blue.standbys.len(), 1);
    assert_eq!(blue.standbys[0].slot.as_deref(), Some("standby"));
    assert_eq!(blue.senders_used, 1);
    assert_eq!(
        blue.subscriptions.iter().map(|found| (found.name.as_str(), found.enabled)).collect::<Vec<_>>(),
        [("prices", false)]
    );
    assert_eq!(blue.publications, ["others"]);
    assert_eq!(blue.large_objects, 2);
    assert_eq!(blue.prepared_transactions, [format!("forgotten ({})", blue_at.database)]);
    assert!(
        blue.long_transactions.iter().any(|transaction| transaction.state == "idle in transaction"),
        "{:?}",
        blue.long_transactions
    );
    assert_eq!(blue.other_databases, ["crm"]);
    assert_eq!(blue.event_triggers, ["audit"]);
    assert_eq!(blue.replica_roles, ["etl"]);
    assert!(blue.disk_free_bytes.is_some_and(|free| free > 0), "the server runs on this machine");
    assert!(blue.available_extensions.contains(&"plpgsql".to_owned()));
    assert_eq!(blue.setting("session_replication_role"), "origin");
    assert!(blue.catalog.tables.contains_key("public.orders"));
    let orders = blue.table_sizes.iter().find(|size| size.table == RelationName::new("public", "orders")).unwrap();
    assert!(orders.bytes > 0 && orders.rows_estimate == 1000, "{orders:?}");
    assert_eq!((blue.claimed_by.as_deref(), blue.upstream.as_deref(), blue.replay_lsn), (None, None, None));

    let green = look(&green_at).await;
    assert_eq!(green.system_identifier, blue.system_identifier);
    assert!(green.in_recovery && green.streaming && !green.replay_paused);
    assert_eq!(green.upstream_slot.as_deref(), Some("standby"));
    assert_eq!(green.upstream_name.as_ref(), Some(&blue.standbys[0].application_name));
    let upstream = green.upstream.clone().unwrap();
    assert!(upstream.contains(&format!("port={}", blue_at.port)) && !upstream.contains("pass"), "{upstream}");
    assert!(green.replay_lsn.is_some_and(|lsn| lsn <= green.wal_lsn));

    let plan = plan(blue, green);
    let asks: Vec<&str> = plan.obstacles().map(|finding| finding.code.as_str()).collect();
    let expected = [
        "other-logical-slots:debezium",
        "other-databases:crm",
        "no-archive",
        "event-triggers:audit",
        "prepared-transactions",
        "large-objects",
        "unlogged-tables:public.sessions",
        "replica-roles:etl",
        "table:public.keyless",
        "no-routes",
    ];
    assert_eq!(asks, expected);
    assert_eq!(plan.green_physical_slot.as_deref(), Some("standby"));
    assert_eq!(plan.inherited_subscriptions, ["prices"]);
    for end in ["ROLLBACK", "ROLLBACK PREPARED 'forgotten'"] {
        ask(&client, end).await;
    }
}

/// Everything of a server that a look could change.
async fn state(at: &Endpoint) -> Vec<String> {
    let client = app(at).await;
    let mut state = Vec::new();
    for query in [
        "SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_snapshot_xmax(pg_current_snapshot())::text END",
        "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn() END",
        "SELECT slot_name, restart_lsn FROM pg_replication_slots WHERE slot_type = 'logical' ORDER BY 1",
        "SELECT string_agg(name || setting, ',' ORDER BY name) FROM pg_settings WHERE source = 'configuration file'",
        "SELECT count(*) FROM pg_class",
        "SELECT string_agg(rolname || rolsuper, ',' ORDER BY 1) FROM pg_roles",
    ] {
        state.extend(ask(&client, query).await);
    }
    state.push(format!("{:?}", fingerprint(&look(at).await.catalog)));
    state
}

#[tokio::test]
async fn looking_changes_nothing() {
    let world = World::pair(SCHEMA).await;
    let (blue_at, green_at) = (world.endpoint(Side::Blue), world.endpoint(Side::Green));
    // So that nothing is left for the server itself to tidy up when a catalogue is read.
    sql(&blue_at, "VACUUM").await;
    sql(&blue_at, "CHECKPOINT").await;
    let mut states = Vec::new();
    // The server notes its running transactions in its log by itself now and then; hardly three times in a row.
    for _ in 0..4 {
        let before = (state(&blue_at).await, state(&green_at).await);
        plan(look(&blue_at).await, look(&green_at).await);
        let after = (state(&blue_at).await, state(&green_at).await);
        if before == after {
            return;
        }
        states.push((before, after));
    }
    panic!("{states:#?}");
}

#[tokio::test]
async fn a_role_without_rights_learns_what_it_lacks() {
    let world = World::pair("CREATE TABLE orders (id bigint PRIMARY KEY); CREATE ROLE guest LOGIN PASSWORD 'guest'").await;
    let guest = |side| Endpoint {
        user: "guest".to_owned(),
        password: Some(greenlight::word::Secret::new("guest")),
        ..world.endpoint(side)
    };
    let plan = plan(look(&guest(Side::Blue)).await, look(&guest(Side::Green)).await);
    for code in ["superuser:blue", "superuser:green"] {
        let finding = plan.findings.iter().find(|finding| finding.code == code).unwrap();
        assert!(matches!(finding.answer, Answer::Refused { .. }), "{finding:?}");
    }
}

#[tokio::test]
async fn ten_thousand_tables_are_surveyed_and_planned() {
    let world = World::blue().await;
    let at = world.endpoint(Side::Blue);
    let client = app(&at).await;
    for block in 0..20 {
        let sql = format!(
            "DO $$ BEGIN FOR n IN 1..500 LOOP EXECUTE format('CREATE TABLE t_{block}_%s (id bigint GENERATED ALWAYS AS IDENTITY \
             PRIMARY KEY, a text NOT NULL, b int DEFAULT 0 CHECK (b >= 0))', n); END LOOP; END $$"
        );
        ask(&client, &sql).await;
    }
    let blue = look(&at).await;
    assert_eq!(blue.table_sizes.len(), 10_000);
    let mut green = blue.clone();
    green.in_recovery = true;
    let plan = plan(blue, green);
    let text = greenlight::plan::render::text(&plan, false);
    assert!(text.contains("Lossless both ways: 10,000 tables"), "{text}");
    for code in ["locks:blue", "locks:green"] {
        let finding = plan.findings.iter().find(|finding| finding.code == code).unwrap();
        assert!(matches!(finding.answer, Answer::Refused { .. }), "{finding:?}");
    }
}

#[tokio::test]
async fn a_table_that_stays_locked_ends_the_survey_with_the_reason() {
    let world = World::blue().await;
    let at = world.endpoint(Side::Blue);
    sql(&at, "CREATE TABLE busy (id bigint PRIMARY KEY)").await;
    let locker = app(&at).await;
    ask(&locker, "BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE").await;
    let pid = &ask(&locker, "SELECT pg_backend_pid()").await[0];
    let error = survey::read(&at, "blue").await.unwrap_err();
    let (text, hint) = (error.chain(), error.hint.clone().unwrap_or_default());
    assert_eq!(error.failure, Failure::Transient, "{text}");
    assert!(text.contains(&format!("busy is locked by process {pid} (user ")), "{text}");
    assert!(hint.contains(&format!("pg_terminate_backend({pid})")), "{hint}");
    ask(&locker, "ROLLBACK").await;
    survey::read(&at, "blue").await.unwrap();
}

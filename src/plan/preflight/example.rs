//! A small world in which a run could begin at once, for tests that change one thing in it.

use super::{Look, check};
use crate::migrate::{Migration, ShadowReport, StatementReport, TableWrite};
use crate::plan::{
    Access, Answer, Arrival, Day, Finding, Gate, GreenSurvey, HbaRule, HistorySpec, LimitsSpec, LongTransactions, ManagerFiles,
    ManagerSigns, OnFailure, OpenHours, Plan, PlanInput, RightsSurvey, RoleAccess, RouteKind, RouteSpec, RouteSurvey,
    RouteTarget, ServerSpec, ServerSurvey, SlotSurvey, SoakSpec, StandbySurvey, Survey, SyncTrigger, TableSize, ValidateSpec,
    WindowSpec, compile,
};
use crate::schema::{
    Catalog, Column, ComparedColumn, Constraint, Flow, Index, Moves, Partition, Persistence, ReplicaIdentity, SharedColumns,
    Table, TableFlow, Verdict,
};
use crate::word::{Lsn, RelationName, Template, Timestamp};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(in crate::plan) struct World {
    pub(in crate::plan) input: PlanInput,
    pub(in crate::plan) survey: Survey,
    pub(in crate::plan) tables: Vec<TableFlow>,
    pub(in crate::plan) sync_triggers: Vec<SyncTrigger>,
}

impl World {
    pub(in crate::plan) fn new() -> World {
        let catalog = catalog();
        let mut after = catalog.clone();
        let orders = after.tables.get_mut("public.orders").unwrap();
        orders.columns.push(column("note", "text", false));
        let shadow = ShadowReport {
            down: None,
            before: catalog.clone(),
            after,
            statements: vec![World::statement("alter table orders add column note text")],
            moves: Moves::default(),
            made: Vec::new(),
            large_objects: false,
            sequences_set: Vec::new(),
            blind: BTreeMap::new(),
            stood_on: "a throwaway PostgreSQL 15 on this machine".to_owned(),
        };
        let survey = Survey {
            blue: blue(catalog.clone()),
            green: GreenSurvey::Standby(Box::new(green(catalog))),
            shadow: Ok(shadow),
            routes: vec![RouteSurvey {
                name: "main".to_owned(),
                entry: None,
                file_unknown: None,
                namesakes: Vec::new(),
                users: vec!["app".to_owned()],
                arrival: Some(Arrival { address: Some(std::net::IpAddr::from([10, 1, 2, 3])), tls: false }),
                points_at: Some("db1:5432/shop".to_owned()),
                about: "PgBouncer 1.18, transaction pooling".to_owned(),
                problems: Vec::new(),
                answers_from_blue: Some(true),
            }],
            applied: Vec::new(),
            rights: Some(rights()),
            direct_sessions: Ok(Vec::new()),
            snapshots: None,
            access: Some(Ok((access(), access()))),
        };
        World { input: input(), survey, tables: vec![flow("orders")], sync_triggers: Vec::new() }
    }

    pub(in crate::plan) fn with(change: impl FnOnce(&mut World)) -> World {
        let mut world = World::new();
        change(&mut world);
        world
    }

    /// A migration that adds, fills, rewrites and drops, gated and accepted where it has to be.
    pub(in crate::plan) fn migrating() -> World {
        let mut world = World::new();
        world.add_tables(3);
        let up = "alter table orders add column note text;\nupdate orders set note = 'n/a';\n\
                  alter table orders alter column id type bigint;\nalter table orders drop column total;\n";
        world.input.migrations[0].up = up.to_owned();
        world.input.before_window.hours = Some(OpenHours {
            zone: "Europe/Berlin".to_owned(),
            days: vec![Day::Sat, Day::Sun],
            from: jiff::civil::time(2, 0, 0, 0),
            to: jiff::civil::time(4, 0, 0, 0),
        });
        world.input.accept = vec!["backfill:public.orders".to_owned(), "other-databases".to_owned(), "typo".to_owned()];
        world.blue().other_databases = vec!["crm".to_owned()];
        world.blue().prepared_transactions_max = 10;
        let shadow = world.survey.shadow.as_mut().unwrap();
        shadow.after.tables.get_mut("public.orders").unwrap().columns.retain(|column| column.name != "total");
        let orders = RelationName::new("public", "orders");
        let fills =
            TableWrite { table: orders.clone(), kind: "update".to_owned(), columns: vec!["note".to_owned()], fires: Vec::new() };
        shadow.statements = vec![
            World::statement("alter table orders add column note text"),
            StatementReport { line: 2, writes: vec![fills], ..World::statement("update orders set note = 'n/a'") },
            StatementReport {
                line: 3,
                rewrites: vec![orders],
                ..World::statement("alter table orders alter column id type bigint")
            },
            StatementReport { line: 4, ..World::statement("alter table orders drop column total") },
        ];
        world
    }

    /// Tables `table_0` and so on, that no migration touches.
    pub(in crate::plan) fn add_tables(&mut self, number: usize) {
        for at in 0..number {
            self.add_table(&format!("table_{at}"));
        }
    }

    pub(in crate::plan) fn add_table(&mut self, name: &str) {
        let table = table(name);
        let key = table.name.to_string();
        self.survey.blue.catalog.tables.insert(key.clone(), table.clone());
        let shadow = self.survey.shadow.as_mut().unwrap();
        shadow.before.tables.insert(key.clone(), table.clone());
        shadow.after.tables.insert(key, table);
    }

    pub(in crate::plan) fn plan(&self) -> Plan {
        compile(self.input.clone(), &self.survey, "r1a2b3c4".parse().unwrap(), Timestamp::UNIX_EPOCH)
    }

    pub(in crate::plan) fn blue(&mut self) -> &mut ServerSurvey {
        &mut self.survey.blue
    }

    pub(in crate::plan) fn green(&mut self) -> &mut ServerSurvey {
        self.survey.green.standby_mut()
    }

    pub(in crate::plan) fn table(&mut self, key: &str) -> &mut Table {
        self.survey.blue.catalog.tables.get_mut(key).unwrap()
    }

    pub(in crate::plan) fn narrow_orders(&mut self, columns: &[&str]) {
        let Flow::Both(shared) = &mut self.tables[0].flow else { panic!("orders flows") };
        shared.forward = Some(columns.iter().map(|&column| column.to_owned()).collect());
    }

    pub(in crate::plan) fn partition_orders(&mut self) {
        let mut part = self.table("public.orders").clone();
        part.name = RelationName::new("public", "orders_1");
        let root = RelationName::new("public", "orders");
        part.partition =
            Partition::Of { parent: root.clone(), root, bound: "FOR VALUES FROM (0) TO (1000)".to_owned(), key: None };
        self.table("public.orders").partition = Partition::Root { key: "RANGE (id)".to_owned() };
        self.survey.blue.catalog.tables.insert("public.orders_1".to_owned(), part);
    }

    pub(in crate::plan) fn statement(sql: &str) -> StatementReport {
        StatementReport {
            version: "0002".to_owned(),
            sql: sql.to_owned(),
            line: 1,
            locks: Vec::new(),
            rewrites: Vec::new(),
            writes: Vec::new(),
            unread: None,
            took_ms: 1.0,
        }
    }

    pub(in crate::plan) fn findings(&self) -> Vec<Finding> {
        let World { input, survey, tables, sync_triggers } = self;
        check(&Look {
            input,
            survey,
            pending: &super::super::compile::pending(input, survey),
            tables,
            sync_triggers,
            excluded: &input.validate.exclude,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    pub(in crate::plan) fn finding(&self, code: &str) -> Option<Finding> {
        self.findings().into_iter().find(|finding| finding.code == code)
    }
}

fn rights() -> RightsSurvey {
    let users = ["app_owner".to_owned(), "app".to_owned()];
    RightsSurvey {
        user: "gl_admin".to_owned(),
        users: [("public".to_owned(), users.into())].into(),
        defaults: Vec::new(),
        role: None,
    }
}

impl GreenSurvey {
    pub(in crate::plan) fn standby_mut(&mut self) -> &mut ServerSurvey {
        match self {
            GreenSurvey::Standby(green) => green,
            GreenSurvey::ToBeMade { .. } => panic!("green is to be made"),
        }
    }
}

impl ServerSurvey {
    pub(in crate::plan) fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }
}

/// `answer` is `none` (no such finding), or the answer's name.
#[track_caller]
pub(in crate::plan) fn assert_answers(world: &World, code: &str, answer: &str) {
    let findings: Vec<Finding> = world.findings().into_iter().filter(|finding| finding.code == code).collect();
    let found = match findings.first().map(|finding| &finding.answer) {
        None => "none",
        Some(Answer::Fine) => "fine",
        Some(Answer::Handled { .. }) => "handled",
        Some(Answer::Refused { .. }) => "refused",
        Some(Answer::NeedsAccept { .. }) => "needs_accept",
        Some(Answer::Accepted { .. }) => "accepted",
    };
    assert_eq!(found, answer, "{code}: {findings:?}");
}

fn input() -> PlanInput {
    PlanInput {
        strategy: crate::plan::Strategy::Sync,
        name: "shop-orders".to_owned(),
        blue: ServerSpec { url: Template("postgresql://gl_admin:${env:BLUE_PASSWORD}@db1:5432/shop".to_owned()), peer_url: None },
        green: ServerSpec {
            url: Template("postgresql://gl_admin:${env:GREEN_PASSWORD}@db2:5432/shop".to_owned()),
            peer_url: None,
        },
        standby: None,
        restore_into: None,
        shadow: None,
        routes: vec![RouteSpec {
            name: "main".to_owned(),
            green: RouteTarget::default(),
            entry: None,
            kind: RouteKind::Pgbouncer {
                admin: Template("postgresql://admin@pool:6432/pgbouncer".to_owned()),
                database: "shop".to_owned(),
                config: "/etc/pgbouncer/pgbouncer.ini".into(),
                probe: None,
            },
        }],
        window: WindowSpec {
            max_pause_ms: 5_000,
            max_lag_bytes: 1 << 20,
            long_transactions: LongTransactions::Wait,
            transaction_age_max_ms: 60_000,
            sequence_margin: 1_000,
            reads_on_blue: false,
        },
        validate: ValidateSpec { rows: true, chunk_rows: 10_000, parallel: 2, exclude: Vec::new(), assertions: Vec::new() },
        history: HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 2_000, lock_retries: 10 },
        soak: SoakSpec { for_secs: 3 * 86_400, then_finish: false },
        limits: LimitsSpec { wal_kept_bytes_max: 20 << 30 },
        on_failure: OnFailure::Rollback,
        on_failure_of: crate::plan::FailurePhases::default(),
        snapshot: None,
        green_snapshot: None,
        before_migrate: Gate::default(),
        before_window: Gate { approval: true, ..Gate::default() },
        accept: Vec::new(),
        migrations: vec![Migration {
            version: "0002".to_owned(),
            name: "add_note".to_owned(),
            up: "alter table orders add column note text;\n".to_owned(),
            down: Some("alter table orders drop column note;\n".to_owned()),
            checksum: "c2".to_owned(),
            transactional: true,
        }],
    }
}

pub(in crate::plan) fn column(name: &str, type_name: &str, not_null: bool) -> Column {
    Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        builtin_type: true,
        not_null,
        default: None,
        identity: String::new(),
        generated: None,
        collation: None,
    }
}

pub(in crate::plan) fn table(name: &str) -> Table {
    Table {
        name: RelationName::new("public", name),
        columns: vec![column("id", "bigint", true), column("total", "numeric", false)],
        constraints: vec![Constraint {
            name: format!("{name}_pkey"),
            kind: "p".to_owned(),
            definition: "PRIMARY KEY (id)".to_owned(),
            validated: true,
        }],
        indexes: vec![Index {
            name: format!("{name}_pkey"),
            definition: format!("CREATE UNIQUE INDEX {name}_pkey ON public.{name} USING btree (id)"),
            unique: true,
            valid: true,
            identity_columns: Some(vec!["id".to_owned()]),
        }],
        triggers: Vec::new(),
        identity: ReplicaIdentity::Default,
        primary_key: vec!["id".to_owned()],
        persistence: Persistence::Permanent,
        partition: Partition::None,
        inherits: Vec::new(),
        row_security: false,
        foreign: false,
    }
}

/// As the schema's own reckoning has it for a table that no migration touches.
pub(in crate::plan) fn flow(name: &str) -> TableFlow {
    let compare = |name: &str| ComparedColumn { name: name.to_owned(), cast: None };
    TableFlow {
        table: RelationName::new("public", name),
        flow: Flow::Both(SharedColumns {
            rewritten: false,
            forward: None,
            reverse: None,
            key: vec!["id".to_owned()],
            compare: vec![compare("id"), compare("total")],
            relax_on_green: Vec::new(),
            relax_on_blue: Vec::new(),
            identity: ReplicaIdentity::Default,
        }),
        verdict: Verdict::Lossless,
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.tables.insert("public.orders".to_owned(), table("orders"));
    catalog
}

#[expect(clippy::too_many_lines, reason = "one line for each thing that is seen of a server")]
fn blue(catalog: Catalog) -> ServerSurvey {
    let settings =
        [("TimeZone", "Europe/Berlin"), ("search_path", "\"$user\", public"), ("default_transaction_read_only", "off")];
    ServerSurvey {
        endpoint: "greenlight@db1:5432/shop".to_owned(),
        database: "shop".to_owned(),
        version: 150_018,
        system_identifier: 7_711_319_949_924_468_391,
        timeline: 1,
        in_recovery: false,
        upstream: None,
        upstream_name: None,
        upstream_slot: None,
        streaming: false,
        replay_paused: false,
        user: "gl_admin".to_owned(),
        superuser: true,
        wal_level: "logical".to_owned(),
        slots_max: 10,
        senders_max: 10,
        senders_used: 1,
        workers_max: 8,
        logical_workers_max: 4,
        logical_workers_used: 0,
        origins_max: 10,
        origins_used: 0,
        locks_max: 6_400,
        slots: vec![SlotSurvey {
            name: "green_phys".to_owned(),
            logical: false,
            active: true,
            database: None,
            retained_bytes: 0,
        }],
        subscriptions: Vec::new(),
        publications: Vec::new(),
        synchronous_standby_names: String::new(),
        synchronous_commit: "on".to_owned(),
        standbys: vec![StandbySurvey {
            application_name: "green".to_owned(),
            slot: Some("green_phys".to_owned()),
            client_addr: Some("10.0.0.2".to_owned()),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
        }],
        archive_mode: "on".to_owned(),
        archive_command: crate::plan::command_in_short("pgbackrest --stanza=shop archive-push %p"),
        wal_keep_bytes: 0,
        slot_wal_keep_bytes_max: None,
        disk_free_bytes: None,
        database_bytes: 8 << 30,
        large_objects: 0,
        prepared_transactions: Vec::new(),
        prepared_transactions_max: 0,
        long_transactions: Vec::new(),
        client_sessions: 24,
        other_databases: Vec::new(),
        cron_jobs: Vec::new(),
        strangers: Vec::new(),
        available_extensions: vec!["plpgsql".to_owned()],
        extensions_with_rows: Vec::new(),
        claimed_by: None,
        shared_preload_libraries: String::new(),
        managers: ManagerSigns { files: Some(ManagerFiles::default()), ..ManagerSigns::default() },
        event_triggers: Vec::new(),
        replica_roles: Vec::new(),
        tablespaces: Vec::new(),
        collation_change: None,
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        catalog,
        table_sizes: vec![TableSize { table: RelationName::new("public", "orders"), bytes: 2 << 30, rows_estimate: 9_000_000 }],
        replay_lsn: None,
        wal_lsn: Lsn(0x16_B374_D848),
    }
}

fn green(catalog: Catalog) -> ServerSurvey {
    ServerSurvey {
        endpoint: "greenlight@db2:5432/shop".to_owned(),
        in_recovery: true,
        upstream: Some("host=db1 port=5432 user=repl application_name=green".to_owned()),
        upstream_name: Some("green".to_owned()),
        upstream_slot: Some("green_phys".to_owned()),
        streaming: true,
        senders_used: 0,
        slots: Vec::new(),
        standbys: Vec::new(),
        archive_command: crate::plan::command_in_short("pgbackrest --stanza=shop-green archive-push %p"),
        client_sessions: 0,
        replay_lsn: Some(Lsn(0x16_B374_D800)),
        ..blue(catalog)
    }
}

/// Everybody gets in from everywhere.
fn access() -> Access {
    let all = || Some(vec!["all".to_owned()]);
    let rule = HbaRule {
        line: Some(1),
        kind: Some("host".to_owned()),
        databases: all(),
        users: all(),
        address: Some("all".to_owned()),
        netmask: None,
        method: Some("scram-sha-256".to_owned()),
        error: None,
    };
    let app = RoleAccess {
        name: "app".to_owned(),
        login: true,
        password: Some("hash".to_owned()),
        expired: false,
        connections: -1,
        may_connect: true,
        member_of: Vec::new(),
        settings: std::collections::BTreeMap::new(),
    };
    Access { tls: true, rules: vec![rule], roles: vec![app] }
}

//! What each step will send, for a person to read. Values that are known only at run time stand as `<...>`, and what is sent
//! for each of many objects stands once.

use super::figures::count;
use super::{Plan, RouteKind, SCHEMA, ServerSurvey, StandbySpec, Strategy, shadow_database, sql_for};
use crate::postgres::{MAKE_TRIAL, PublishedTable, published_forward, published_reverse, published_whole};
use crate::schema::{Flow, SharedColumns};
// The same statements as are sent, with names written out that would hide something.
use crate::word::{RelationName, Side, shown, shown_ident as quote_ident, shown_literal as quote_literal};

const CLOSED: &str = "CREATE OR REPLACE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS \
                      $$ BEGIN <pass our own sessions>; RAISE EXCEPTION <this server is fenced>; END $$";
const BORN: &str = "CREATE OR REPLACE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS \
                    $$ BEGIN <pass all where no mark is, and our own>; RAISE EXCEPTION <this server is fenced>; END $$";
const OPEN: &str =
    "CREATE OR REPLACE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$";

const FOLLOWED: &str = "SELECT pg_current_wal_insert_lsn(), made durable: <where blue will follow from>";

/// The fence of a restored green goes with the schema.
pub(super) fn finish_restored() -> Vec<String> {
    vec![green(format!("DROP TRIGGER greenlight_fence ON <each table>; DROP SCHEMA {SCHEMA} CASCADE"))]
}

/// The statements of one plan.
pub(super) struct Statements<'a> {
    plan: &'a Plan,
    blue: &'a ServerSurvey,
    /// Quoted.
    forward: String,
    reverse: String,
    database: String,
}

pub(super) fn blue(sql: impl AsRef<str>) -> String {
    sql_for(Side::Blue, sql.as_ref())
}

fn green(sql: impl AsRef<str>) -> String {
    sql_for(Side::Green, sql.as_ref())
}

impl<'a> Statements<'a> {
    pub(super) fn new(plan: &'a Plan, blue: &'a ServerSurvey) -> Statements<'a> {
        Statements {
            plan,
            blue,
            forward: quote_ident(&plan.names.forward),
            reverse: quote_ident(&plan.names.reverse),
            database: quote_ident(&blue.database),
        }
    }

    pub(super) fn prepare_blue(&self) -> Vec<String> {
        let run = quote_literal(self.plan.run.as_str());
        let mut sql = vec![
            blue(format!("CREATE SCHEMA {SCHEMA}")),
            blue(
                "CREATE TABLE greenlight.claim (id int PRIMARY KEY CHECK (id = 1), run text NOT NULL, claimed_at timestamptz NOT NULL DEFAULT now())",
            ),
            blue("CREATE TABLE greenlight.marker (id int PRIMARY KEY, value bigint NOT NULL, run text NOT NULL)"),
            blue(format!("INSERT INTO greenlight.claim (id, run) VALUES (1, {run}) ON CONFLICT DO NOTHING")),
            blue(format!("INSERT INTO greenlight.marker (id, value, run) VALUES (1, 0, {run}) ON CONFLICT DO NOTHING")),
            blue(BORN),
        ];
        if self.plan.strategy != Strategy::InPlace || self.plan.restore_into.is_some() {
            sql.push(blue(self.fence_triggers()));
        }
        sql.push(blue(format!("SELECT pg_create_restore_point({})", quote_literal(&self.plan.names.restore_point))));
        // See `step::routes::hasten`.
        sql.extend(self.routes(|_| "SET server_login_retry = 0.2, until the run ends".to_owned()));
        sql
    }

    /// Green is closed before it is promoted.
    fn close_ahead(&self) -> [String; 2] {
        [
            green(format!(
                "ALTER SYSTEM SET max_standby_archive_delay = <the mark of {}>, by which the fence is closed from the promotion on",
                self.plan.run
            )),
            green("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()"),
        ]
    }

    fn put_configuration_back() -> String {
        green(
            "ALTER SYSTEM RESET max_standby_archive_delay, default_transaction_read_only, as they were; SELECT pg_reload_conf()",
        )
    }

    pub(super) fn create_standby(&self, spec: &StandbySpec) -> Vec<String> {
        let (folder, slot) = (spec.data_dir.display(), &self.plan.names.standby_slot);
        vec![
            blue(format!("SELECT pg_create_physical_replication_slot({}, true)", quote_literal(slot))),
            format!("this machine: pg_basebackup --slot {slot} --wal-method=stream --checkpoint=fast --pgdata {folder}"),
            format!("this machine: pg_ctl start --pgdata {folder}, as a standby on port {}", spec.port),
        ]
    }

    pub(super) fn publish_blue(&self) -> Vec<String> {
        vec![
            blue(format!(
                "CREATE PUBLICATION {} FOR TABLE greenlight.marker WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
                self.forward
            )),
            blue(add_tables(&self.forward, &published_whole(&self.plan.tables))),
            blue(format!(
                "SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput')",
                quote_literal(&self.plan.names.forward)
            )),
        ]
    }

    pub(super) fn attach_green(&self) -> Vec<String> {
        let mut sql = vec![green("SELECT pg_last_wal_replay_lsn(), until it is at least <the slot's start>")];
        sql.extend(self.close_ahead());
        sql.extend([
            green("SELECT pg_promote()"),
            green("SELECT pg_read_file('pg_wal/<its new timeline>.history'): <the fork point>"),
        ]);
        sql.extend(self.close_connections(Side::Green));
        sql.push(green(CLOSED));
        sql.push(green(self.fence_triggers()));
        sql.push(green(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.database)));
        for name in &self.plan.inherited_subscriptions {
            let name = quote_ident(name);
            sql.push(green(format!("ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")));
        }
        sql.push(Statements::put_configuration_back());
        sql
    }

    pub(super) fn subscribe_green(&self) -> Vec<String> {
        let name = quote_literal(&self.plan.names.forward);
        let mut sql = vec![
            green(create_subscription(&self.forward, &self.plan.names.forward, Side::Blue)),
            green(format!(
                "SELECT pg_replication_origin_advance('pg_' || oid, <the fork point>) FROM pg_subscription WHERE subname = {name}"
            )),
        ];
        sql.extend(enable(Side::Green, &self.forward));
        sql.extend(self.dropped_physical_slot());
        sql.extend(marker(Side::Blue));
        sql
    }

    pub(super) fn shadow_green(&self) -> Vec<String> {
        let database = quote_ident(&shadow_database(&self.plan.run));
        vec![
            green(format!("CREATE DATABASE {database} TEMPLATE template0")),
            format!("this machine: pg_dump --schema-only <blue>, loaded into {database}"),
            green(format!("<there: the statements of {}, one by one>", count(self.plan.migrations.len(), "migration"))),
            green(format!("DROP DATABASE {database} WITH (FORCE)")),
        ]
    }

    pub(super) fn narrow_flow(&self) -> Vec<String> {
        let narrowed = published_forward(&self.plan.tables).into_iter().filter(|table| table.columns.is_some());
        let narrowed: Vec<PublishedTable> = narrowed.collect();
        if narrowed.is_empty() {
            return Vec::new();
        }
        let mut sql = self.not_null(Side::Green, "DROP", |shared| &shared.relax_on_green);
        let names = narrowed.iter().map(|table| table.table.shown_sql()).collect::<Vec<_>>().join(", ");
        let add = add_tables(&self.forward, &narrowed);
        sql.push(blue(format!("ALTER PUBLICATION {} DROP TABLE {names}; {add}", self.forward)));
        sql.extend(marker(Side::Blue));
        sql
    }

    pub(super) fn migrate_green(&self) -> Vec<String> {
        let waits = !self.plan.sync_triggers.is_empty();
        let mut sql = Vec::new();
        if waits {
            sql.push(green(format!("ALTER SUBSCRIPTION {} DISABLE, until the triggers below are there and fire", self.forward)));
        }
        sql.extend(self.migrate(Side::Green));
        for trigger in &self.plan.sync_triggers {
            sql.push(green(format!(
                "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}",
                trigger.table.shown_sql(),
                quote_ident(&trigger.name)
            )));
        }
        if waits {
            sql.extend(enable(Side::Green, &self.forward));
        }
        sql
    }

    pub(super) fn migrate_blue(&self) -> Vec<String> {
        self.migrate(Side::Blue)
    }

    fn migrate(&self, on: Side) -> Vec<String> {
        let history = RelationName::new(&self.plan.history.schema, "schema_migrations").shown_sql();
        let mut sql = Vec::new();
        for migration in &self.plan.migrations {
            let whole = match migration.batch_rows() {
                Some(rows) => format!("in batches of {rows} rows, each a transaction of its own"),
                None if migration.transactional => "in one transaction".to_owned(),
                None => "without a transaction".to_owned(),
            };
            let text = format!("-- {} {}, {whole}\n{}", migration.version, shown(&migration.name), migration.up.trim_end());
            sql.push(sql_for(on, &text));
            let row = format!(
                "INSERT INTO {history} (version, checksum, execution_time_ms) VALUES ({}, {}, <ms>)",
                quote_literal(&migration.version),
                quote_literal(&migration.checksum)
            );
            sql.push(sql_for(on, &row));
        }
        sql
    }

    pub(super) fn warm_green(&self) -> Vec<String> {
        let mut sql = vec![green(format!("ANALYZE <each of {}>", count(published_whole(&self.plan.tables).len(), "table")))];
        let views = self.blue.catalog.views.values().filter(|view| view.materialized && view.populated);
        sql.extend(views.map(|view| green(format!("REFRESH MATERIALIZED VIEW {}", view.name.shown_sql()))));
        if self.blue.catalog.extensions.contains_key("pg_prewarm") {
            sql.push(green("SELECT pg_prewarm(<each table and index>)"));
        }
        sql
    }

    pub(super) fn arm_reverse(&self) -> Vec<String> {
        vec![
            green(format!(
                "CREATE PUBLICATION {} FOR TABLE greenlight.marker WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
                self.reverse
            )),
            green(add_tables(&self.reverse, &published_reverse(&self.plan.tables))),
            green(format!(
                "SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput')",
                quote_literal(&self.plan.names.reverse)
            )),
            blue(create_subscription(&self.reverse, &self.plan.names.reverse, Side::Green)),
        ]
    }

    pub(super) fn validate_green(&self) -> Vec<String> {
        self.assertions(Side::Green)
    }

    pub(super) fn validate_blue(&self) -> Vec<String> {
        self.assertions(Side::Blue)
    }

    fn assertions(&self, on: Side) -> Vec<String> {
        let assertions = self.plan.validate.assertions.iter();
        assertions.map(|wanted| sql_for(on, &format!("{} -- must be {}", wanted.query.trim(), wanted.expect))).collect()
    }

    pub(super) fn window(&self) -> Vec<String> {
        let mut sql = self.begin_pause();
        sql.extend(marker(Side::Blue));
        sql.push(green(format!("SELECT setval(<each sequence>, <blue's value and {} steps>)", self.plan.window.sequence_margin)));
        sql.push(green(format!("ALTER SUBSCRIPTION {} DISABLE", self.forward)));
        sql.extend(self.commit(FOLLOWED));
        // The pause is over here. What follows turns blue into green's follower.
        sql.push(blue(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.database)));
        sql.extend(self.follow_back());
        sql
    }

    pub(super) fn attach_restored(&self) -> Vec<String> {
        let mut sql = vec![green(format!("CREATE SCHEMA {SCHEMA}")), green(CLOSED), green(self.fence_triggers())];
        sql.extend(self.assertions(Side::Green));
        sql
    }

    pub(super) fn window_to_restored(&self) -> Vec<String> {
        let mut sql = self.begin_pause();
        sql.push(green(format!("SELECT setval(<each sequence>, <blue's value and {} steps>)", self.plan.window.sequence_margin)));
        sql.extend(self.commit("SELECT pg_current_wal_insert_lsn(), made durable"));
        sql.push(blue(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.database)));
        sql
    }

    /// All clients wait from here on, and nobody can write to blue.
    fn begin_pause(&self) -> Vec<String> {
        let mut sql =
            self.routes(|database| format!("SET default_pool_size = <the server connections there are>; PAUSE {database}"));
        sql.extend(self.close_connections(Side::Blue));
        sql.push(blue(CLOSED));
        sql.push(blue("<a write by every path, which must be refused>"));
        sql
    }

    /// The end of the pause, whatever was done in it.
    fn commit(&self, durable: &str) -> Vec<String> {
        let mut sql = vec![green(durable)];
        sql.push("journal: COMMIT POINT".to_owned());
        sql.push(green(OPEN));
        sql.extend(self.routes(|database| format!("<green's host and port into the configuration>; RELOAD; RESUME {database}")));
        sql
    }

    fn follow_back(&self) -> Vec<String> {
        let mut sql = self.not_null(Side::Blue, "DROP", |shared| &shared.relax_on_blue);
        sql.push(blue(format!(
            "SELECT pg_replication_origin_advance('pg_' || oid, <that place>) FROM pg_subscription WHERE subname = {}",
            quote_literal(&self.plan.names.reverse)
        )));
        sql.extend(enable(Side::Blue, &self.reverse));
        sql.extend(marker(Side::Green));
        sql
    }

    pub(super) fn arm_freeze(&self) -> Vec<String> {
        let mut sql = vec![green("SELECT pg_last_wal_replay_lsn(), until it is past blue's fence")];
        sql.extend(self.close_ahead());
        sql
    }

    pub(super) fn freeze(&self) -> Vec<String> {
        let reads = self.plan.window.reads_on_blue;
        let mut sql = self.begin_pause();
        sql.push(blue(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.database)));
        if reads {
            sql.extend(self.routes(|database| format!("RESUME {database}")));
        }
        sql.push(green("SELECT pg_last_wal_replay_lsn(), until it is past blue's last record"));
        sql.push(green("SELECT pg_promote()"));
        for name in &self.plan.inherited_subscriptions {
            let name = quote_ident(name);
            sql.push(green(format!("ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")));
        }
        sql.push(Statements::put_configuration_back());
        sql.extend(self.migrate_green());
        sql.extend(self.validate_green());
        sql.extend(self.arm_reverse());
        if reads {
            sql.extend(self.routes(|database| format!("PAUSE {database}")));
        }
        sql.extend(self.commit(FOLLOWED));
        sql.extend(self.dropped_physical_slot());
        sql.extend(self.follow_back());
        sql
    }

    fn dropped_physical_slot(&self) -> Option<String> {
        let slot = self.plan.green_physical_slot.as_ref();
        let slot = slot.or(self.plan.standby.as_ref().map(|_| &self.plan.names.standby_slot));
        slot.map(|slot| blue(format!("SELECT pg_drop_replication_slot({})", quote_literal(slot))))
    }

    pub(super) fn soak(&self) -> Vec<String> {
        if self.plan.strategy == Strategy::Freeze {
            return self.plan.analyze.iter().map(|table| green(format!("ANALYZE {}", table.shown_sql()))).collect();
        }
        let slot = quote_literal(&self.plan.names.forward);
        vec![blue(format!("SELECT pg_replication_slot_advance({slot}, <blue's position>), so that a waiting slot keeps no log"))]
    }

    pub(super) fn finish(&self) -> Vec<String> {
        let names = &self.plan.names;
        let flows = self.plan.strategy == Strategy::Sync;
        let mut sql = self.routes(|_| "RELOAD".to_owned());
        sql.push(blue(drop_subscription(&self.reverse)));
        if flows {
            sql.push(blue(format!("SELECT pg_drop_replication_slot({})", quote_literal(&names.forward))));
            sql.push(blue(format!("DROP PUBLICATION {}", self.forward)));
        }
        if !self.plan.migrations.is_empty() {
            let history = RelationName::new(&self.plan.history.schema, "schema_migrations").shown_sql();
            let versions: Vec<String> = self.plan.migrations.iter().map(|migration| quote_literal(&migration.version)).collect();
            sql.push(blue(format!(
                "DELETE FROM {history} WHERE version IN ({}), where there is such a table",
                versions.join(", ")
            )));
        }
        sql.extend(self.close_connections(Side::Blue));
        sql.push(blue(format!("DROP TRIGGER greenlight_fence ON <each table>; DROP SCHEMA {SCHEMA} CASCADE")));
        sql.push(green(format!("SELECT pg_drop_replication_slot({})", quote_literal(&names.reverse))));
        sql.push(green(format!("DROP PUBLICATION {}", self.reverse)));
        if flows {
            sql.push(green(drop_subscription(&self.forward)));
        }
        for trigger in &self.plan.sync_triggers {
            sql.push(green(format!("ALTER TABLE {} ENABLE TRIGGER {}", trigger.table.shown_sql(), quote_ident(&trigger.name))));
        }
        sql.push(green(format!("DROP TRIGGER greenlight_fence ON <each table>; DROP SCHEMA {SCHEMA} CASCADE")));
        sql
    }

    fn close_connections(&self, side: Side) -> [String; 2] {
        let database = quote_literal(&self.blue.database);
        [
            sql_for(side, &format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", self.database)),
            sql_for(
                side,
                &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {database}, all but our own"),
            ),
        ]
    }

    fn fence_triggers(&self) -> String {
        let tables = self.blue.catalog.tables.values().filter(|table| !table.foreign).count();
        format!(
            "{MAKE_TRIAL}; CREATE OR REPLACE TRIGGER greenlight_fence BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON <it, and each of {}> \
             FOR EACH STATEMENT EXECUTE FUNCTION greenlight.fence()",
            count(tables, "table")
        )
    }

    fn not_null(&self, side: Side, verb: &str, columns: impl Fn(&SharedColumns) -> &Vec<String>) -> Vec<String> {
        let mut sql = Vec::new();
        for flow in &self.plan.tables {
            let Flow::Both(shared) = &flow.flow else { continue };
            for column in columns(shared) {
                let column = quote_ident(column);
                sql.push(sql_for(side, &format!("ALTER TABLE {} ALTER COLUMN {column} {verb} NOT NULL", flow.table.shown_sql())));
            }
        }
        sql
    }

    /// `command`, of the database's name, for each route's console.
    fn routes(&self, command: impl Fn(&str) -> String) -> Vec<String> {
        let routes = self.plan.routes.iter().map(|route| match &route.kind {
            RouteKind::Pgbouncer { database, .. } => format!("route {}: {}", shown(&route.name), command(&quote_ident(database))),
        });
        routes.collect()
    }
}

fn add_tables(publication: &str, tables: &[PublishedTable]) -> String {
    let listed = tables.iter().map(|table| match &table.columns {
        None => table.table.shown_sql(),
        Some(columns) => {
            let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
            format!("{} ({})", table.table.shown_sql(), columns.join(", "))
        }
    });
    format!("ALTER PUBLICATION {publication} ADD TABLE {}", listed.collect::<Vec<_>>().join(", "))
}

fn enable(side: Side, subscription: &str) -> [String; 2] {
    [
        sql_for(side, &format!("ALTER SUBSCRIPTION {subscription} ENABLE")),
        sql_for(side, &format!("ALTER SUBSCRIPTION {subscription} REFRESH PUBLICATION WITH (copy_data = false)")),
    ]
}

fn drop_subscription(subscription: &str) -> String {
    format!(
        "ALTER SUBSCRIPTION {subscription} DISABLE; ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE); DROP SUBSCRIPTION {subscription}"
    )
}

fn marker(from: Side) -> [String; 2] {
    [
        sql_for(
            from,
            "INSERT INTO greenlight.marker (id, value, run) VALUES (1, <n>, <run>) ON CONFLICT (id) DO UPDATE SET value = excluded.value",
        ),
        sql_for(from.other(), "SELECT value FROM greenlight.marker, until it is <n>"),
    ]
}

fn create_subscription(quoted: &str, name: &str, to: Side) -> String {
    format!(
        "CREATE SUBSCRIPTION {quoted} CONNECTION <{to}> PUBLICATION {quoted} WITH (enabled = false, create_slot = false, slot_name = {}, \
         copy_data = false, binary = false, streaming = off)",
        quote_literal(name)
    )
}

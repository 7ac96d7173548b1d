use super::{Access, Arrival, RouteEntry};
use crate::migrate::{Applied, ShadowReport};
use crate::schema::Catalog;
use crate::word::{Lsn, RelationName, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What was seen of the servers, routes and tools when planning: plain data, gathered without changing anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    pub blue: ServerSurvey,
    pub green: GreenSurvey,
    /// The shadow's report; `None` where no shadow can be had before the run, with the reason.
    pub shadow: Result<ShadowReport, String>,
    pub routes: Vec<RouteSurvey>,
    /// Migrations that blue's history table shows as applied.
    pub applied: Vec<Applied>,
    /// Who may use what on blue; `None` where nothing is migrated.
    #[serde(default)]
    pub rights: Option<RightsSurvey>,
    /// Sessions on blue that come by no route. Err: why that cannot be told.
    #[serde(default = "nobody_asked")]
    pub direct_sessions: Result<Vec<String>, String>,
    /// Of the store that the playbook names. Err: why it could not be looked at.
    #[serde(default)]
    pub snapshots: Option<Result<SnapshotSurvey, String>>,
    /// What decides at blue and at green who gets in, of the roles that come by the routes. `None`: green is to be made. Err:
    /// why it could not be read.
    #[serde(default)]
    pub access: Option<Result<(Access, Access), String>>,
}

/// Who owns and who may use what in blue's database: to tell what becomes of objects that the migrations make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RightsSurvey {
    /// The user of the connection.
    pub user: String,
    /// For each schema the roles, superusers left out, that own one of its tables or views, or were granted something on one;
    /// `public` for everybody.
    pub users: BTreeMap<String, BTreeSet<String>>,
    /// What `ALTER DEFAULT PRIVILEGES` says of tables and views.
    pub defaults: Vec<DefaultGrant>,
    /// The role that the playbook names, if it names one.
    pub role: Option<RoleRights>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultGrant {
    /// Of whose new objects.
    pub owner: String,
    /// In which schema; in all when absent.
    pub schema: Option<String>,
    pub grantee: String,
}

/// What the role is like as which the migrations are to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRights {
    pub exists: bool,
    /// Owners of tables, views and sequences of whom it is no member, each with how many.
    pub foreign: BTreeMap<String, u64>,
    /// Schemas with tables in which it may not create.
    pub closed_schemas: Vec<String>,
}

fn nobody_asked() -> Result<Vec<String>, String> {
    Err("nobody looked".to_owned())
}

/// One session of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSession {
    pub pid: i32,
    pub user: String,
    pub application: String,
    /// Empty: on the same machine, by a socket.
    pub address: String,
}

/// Those that are none of `by_routes`, in words: how many of whom from where.
pub fn direct_sessions(sessions: &[ClientSession], by_routes: &[i32]) -> Vec<String> {
    let mut who: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for session in sessions.iter().filter(|session| !by_routes.contains(&session.pid)) {
        *who.entry((&session.user, &session.application, &session.address)).or_default() += 1;
    }
    let words = who.into_iter().map(|((user, application, address), number)| {
        let named = if application.is_empty() { String::new() } else { format!(" (`{application}`)") };
        let from = if address.is_empty() { "a local socket" } else { address };
        format!("{} of `{user}`{named} from {from}", crate::plan::figures::count(number, "session"))
    });
    words.collect()
}

/// What a store of backups holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSurvey {
    /// Where it is, for people.
    pub place: String,
    pub newest: Option<NewestBackup>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewestBackup {
    pub id: String,
    pub ended_at: Timestamp,
    pub bytes: u64,
    /// Up to where the archive holds the log without a gap, and how much that is from the backup on.
    pub recoverable_to: Lsn,
    pub replay_bytes: u64,
    /// What a restore up to there would take, where one was ever measured.
    pub restore_ms: Option<u64>,
}

/// Green is there already, or is to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GreenSurvey {
    Standby(Box<ServerSurvey>),
    /// To be made by the run. `problems`: why that cannot work (folder not empty, port taken, programs missing).
    ToBeMade {
        problems: Vec<String>,
    },
}

/// Settings that applications would notice if green had others than blue.
pub const SETTINGS_COMPARED: &[&str] = &[
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "bytea_output",
    "default_text_search_config",
    "default_transaction_isolation",
    "idle_in_transaction_session_timeout",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "password_encryption",
    "search_path",
    "shared_preload_libraries",
    "standard_conforming_strings",
    "statement_timeout",
    "transaction_timeout",
];

/// Settings that preflight looks at one by one.
pub const SETTINGS_READ: &[&str] = &[
    "allow_alter_system",
    "archive_library",
    "cron.database_name",
    "cron.launch_active_jobs",
    "default_transaction_read_only",
    "hot_standby_feedback",
    "idle_replication_slot_timeout",
    "max_connections",
    "recovery_min_apply_delay",
    "session_replication_role",
    "synchronized_standby_slots",
];

/// What was seen of one server and of the one database that the run is about.
#[expect(clippy::struct_excessive_bools, reason = "what a server says of itself, each of them a fact of its own")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSurvey {
    /// `user@host:port/database`, never the password.
    #[serde(default)]
    pub endpoint: String,
    pub database: String,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    pub system_identifier: u64,
    pub timeline: u32,
    pub in_recovery: bool,
    /// `primary_conninfo` without passwords, on a standby.
    pub upstream: Option<String>,
    /// What a standby calls itself to its upstream (`application_name`), as `synchronous_standby_names` would name it.
    pub upstream_name: Option<String>,
    /// The physical slot on its upstream that a standby uses, if any.
    pub upstream_slot: Option<String>,
    /// `pg_stat_wal_receiver` says `streaming`.
    pub streaming: bool,
    /// `pg_wal_replay_pause` was called on this standby.
    pub replay_paused: bool,
    pub user: String,
    pub superuser: bool,
    pub wal_level: String,
    pub slots_max: u32,
    pub senders_max: u32,
    pub senders_used: u32,
    /// `max_worker_processes`.
    pub workers_max: u32,
    /// `max_logical_replication_workers`, and how many of them run now, in all databases.
    pub logical_workers_max: u32,
    pub logical_workers_used: u32,
    /// How many subscriptions this server can follow (`max_active_replication_origins`, before PostgreSQL 18
    /// `max_replication_slots`), and how many origins exist, in all databases.
    pub origins_max: u32,
    pub origins_used: u32,
    /// `max_locks_per_transaction` times the sessions that may exist: how many objects can be locked at once for sure.
    pub locks_max: u64,
    pub slots: Vec<SlotSurvey>,
    pub subscriptions: Vec<SubscriptionSurvey>,
    pub publications: Vec<String>,
    pub synchronous_standby_names: String,
    pub synchronous_commit: String,
    /// `application_name` of each walsender on this server with the physical slot that it uses, if any.
    pub standbys: Vec<StandbySurvey>,
    pub archive_mode: String,
    /// By `command_in_short`: it may hold keys.
    pub archive_command: String,
    pub wal_keep_bytes: u64,
    /// `max_slot_wal_keep_size` in bytes; `None` when unlimited.
    pub slot_wal_keep_bytes_max: Option<u64>,
    /// Free bytes on the disk of the data directory, where it can be seen.
    pub disk_free_bytes: Option<u64>,
    pub database_bytes: u64,
    pub large_objects: u64,
    /// Of all databases, as `gid (database)`.
    pub prepared_transactions: Vec<String>,
    /// `max_prepared_transactions`.
    pub prepared_transactions_max: u32,
    /// Transactions of all databases that have lasted a second or more, the oldest first, 50 at most.
    pub long_transactions: Vec<TransactionSurvey>,
    /// Sessions of this database other than our own.
    pub client_sessions: u32,
    /// Databases with somebody's data in them: without templates, and without `postgres` while that is as empty as they.
    pub other_databases: Vec<String>,
    /// Active jobs of `pg_cron` in this database, as `job 3 (0 4 * * *)`: a command may hold passwords.
    #[serde(default)]
    pub cron_jobs: Vec<String>,
    /// Extensions that could be installed on this server.
    pub available_extensions: Vec<String>,
    /// Extensions of this database with tables of their own whose rows belong to a dump (`extconfig`).
    pub extensions_with_rows: Vec<String>,
    /// The claim of another run in `greenlight.claim`, if any.
    pub claimed_by: Option<String>,
    pub shared_preload_libraries: String,
    /// What managers of high availability leave.
    #[serde(default)]
    pub managers: ManagerSigns,
    /// Enabled event triggers that no extension brought.
    pub event_triggers: Vec<String>,
    /// Roles whose sessions begin with `session_replication_role = replica`, `all roles` among them.
    pub replica_roles: Vec<String>,
    /// Tablespaces other than PostgreSQL's own two.
    pub tablespaces: Vec<String>,
    /// The version of the collation library that the database was made with, where the library now has another one:
    /// recorded, actual.
    pub collation_change: Option<(String, String)>,
    /// Those of `SETTINGS_COMPARED` and `SETTINGS_READ` that this version has, in their base units, as a new session
    /// finds them.
    pub settings: BTreeMap<String, String>,
    #[serde(default)]
    pub catalog: Catalog,
    /// Tables and materialized views. `bytes` without indexes.
    #[serde(default)]
    pub table_sizes: Vec<TableSize>,
    /// What tables call by themselves that a role without a superuser's rights made.
    #[serde(default)]
    pub strangers: Vec<Stranger>,
    pub replay_lsn: Option<Lsn>,
    /// The end of this server's log: written on a primary, received on a standby.
    pub wal_lsn: Lsn,
}

impl ServerSurvey {
    /// A setting's text; empty where this version has no such setting.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// The major version: 15 for 150018.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// What a manager of high availability, such as Patroni, leaves on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerSigns {
    /// `application_name` of every session but our own.
    pub sessions: Vec<String>,
    /// Those roles and extensions of the server whose names such a manager gives.
    pub roles: Vec<String>,
    pub extensions: Vec<String>,
    /// The server was started with settings on its command line, as Patroni does.
    pub command_line: bool,
    /// `None`: they may not be read.
    #[serde(default)]
    pub files: Option<ManagerFiles>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerFiles {
    /// Without folders: in the data folder, or where a setting comes from.
    pub names: Vec<String>,
    /// How the configuration begins.
    pub head: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSurvey {
    pub name: String,
    pub logical: bool,
    pub active: bool,
    pub database: Option<String>,
    pub retained_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionSurvey {
    pub name: String,
    pub enabled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbySurvey {
    pub application_name: String,
    pub slot: Option<String>,
    pub client_addr: Option<String>,
    pub state: String,
    pub sync_state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionSurvey {
    pub pid: i32,
    pub age_secs: u64,
    pub user: String,
    pub application_name: String,
    pub state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    pub table: RelationName,
    pub bytes: u64,
    pub rows_estimate: u64,
}

/// A function that a table calls by itself, and that its owner, who is no superuser, can make into anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    pub table: RelationName,
    pub via: StrangerVia,
    /// Of the constraint, index, column, ... that calls it.
    pub name: String,
    /// `schema.name`.
    pub function: String,
    pub owner: String,
    /// Whoever plans a query of the table runs it: it is called with constants, or may be.
    pub at_planning: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrangerVia {
    Check,
    Index,
    Default,
    Generated,
    Trigger,
    /// One that fires for rows that replication applies, too.
    TriggerAlways,
    Rule,
    Statistics,
    PartitionKey,
    /// The type of a column: a domain's constraint.
    Type,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let via = match self.via {
            StrangerVia::Check => "constraint",
            StrangerVia::Index => "index",
            StrangerVia::Default => "default of",
            StrangerVia::Generated => "generated column",
            StrangerVia::Trigger | StrangerVia::TriggerAlways => "trigger",
            StrangerVia::Rule => "rule",
            StrangerVia::Statistics => "statistics",
            StrangerVia::PartitionKey => "partition key of",
            StrangerVia::Type => "type of",
        };
        write!(f, "{} of role `{}` ({via} `{}`)", self.function, self.owner, self.name)
    }
}

/// What a route said when asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSurvey {
    pub name: String,
    /// Where its entry leads, and how that is written.
    #[serde(default)]
    pub entry: Option<RouteEntry>,
    /// `host:port/database` that it points at.
    pub points_at: Option<String>,
    /// PgBouncer's version text and pool mode.
    pub about: String,
    /// Why the route cannot be used (not reachable, no admin rights, database not found, file not writable).
    pub problems: Vec<RouteProblem>,
    /// Whether the one who answers through the route is blue.
    pub answers_from_blue: Option<bool>,
    /// Why it could not be told that PgBouncer reads the file that is edited. `None`: it does.
    #[serde(default)]
    pub file_unknown: Option<String>,
    /// Entries of the same PgBouncer under other names that lead to the same database.
    #[serde(default)]
    pub namesakes: Vec<String>,
    /// As whom it logs in to the server, as far as it can be seen now.
    #[serde(default)]
    pub users: Vec<String>,
    /// How its logins come in at blue.
    #[serde(default)]
    pub arrival: Option<Arrival>,
}

/// Why a route cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteProblem {
    pub what: String,
    pub remedy: String,
}

//! What may stand in a playbook: the one description from which the JSON Schema, the check and the reading follow. The
//! comments on the keys are what an editor shows to the person who writes one.
//!
//! Texts stay texts here; `scalar` says how each kind is read. Choices are tagged from outside (`- pgbouncer: {...}`),
//! since only then does every problem have its own place.

use super::scalar;
use crate::plan::{Day, LongTransactions, OnFailure, Strategy, WalSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Greenlight playbook: which servers, what changes, how it is proved, and when the writer may move.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Greenlight playbook", extend("if" = strategy("in-place"), "then" = {"required": ["migrations", "snapshot"]},
    "else" = {"if": strategy("restored"), "then": {"required": ["green", "routes"]},
        "else": {"required": ["green", "migrations", "routes", "window", "soak", "limits"]}}))]
pub(super) struct Shape {
    /// The format of this file.
    #[schemars(schema_with = "scalar::version")]
    pub version: u32,
    /// A name for people, shown in plans, lists and reports.
    #[schemars(schema_with = "scalar::name")]
    pub name: String,
    /// How the change is made.
    pub strategy: Strategy,
    /// The server that serves now.
    pub blue: Blue,
    /// The server that will serve: a physical standby of blue, or one that is to be made; for `restored` the server that
    /// `greenlight restore` made. For `in-place` only with `restore`.
    #[serde(default)]
    pub green: Option<Green>,
    /// A scratch server of blue's major version, on which the migrations are tried before anything else. Without it a
    /// throwaway server is started on this machine from the PostgreSQL programs found here; without those, a scratch
    /// database on green is used once green is promoted, and the plan is provisional until then. `green` asks for that place.
    #[schemars(schema_with = "scalar::shadow")]
    #[serde(default)]
    pub shadow: Option<String>,
    /// The migrations that turn blue's schema into green's. Not for `restored`.
    #[serde(default)]
    pub migrations: Option<Migrations>,
    /// The connection targets that applications use; all of them move in the window. For `in-place` only where it may be taken
    /// back by a restore.
    #[schemars(length(min = 1))]
    #[serde(default)]
    pub routes: Option<Vec<Route>>,
    /// What must be equal on both sides before the window opens.
    #[serde(default)]
    pub validate: Validate,
    /// The short pause in which the writer changes.
    #[serde(default)]
    pub window: Option<Window>,
    /// Where backups and archived WAL are kept, for `greenlight snapshot` and `greenlight restore`.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
    /// Where the run waits for a person or for certain hours.
    #[serde(default)]
    pub gates: Gates,
    /// The time after the window, in which blue follows green and rollback loses nothing.
    #[serde(default)]
    pub soak: Option<Soak>,
    /// What happens when a step fails for good while blue serves. Once green serves, a person decides.
    #[serde(default = "rollback")]
    pub on_failure: OnFailure,
    /// The same for one part of the run, where it is another.
    #[serde(default)]
    pub on_failure_of: FailureOf,
    /// Where the serving side's health goes before the run.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// Findings of `greenlight plan` that are accepted by name, with their consequences.
    #[schemars(schema_with = "scalar::accepted")]
    #[serde(default)]
    pub accept: Vec<String>,
}

/// What is needed besides depends on this.
fn strategy(name: &str) -> serde_json::Value {
    serde_json::json!({ "properties": { "strategy": { "const": name } }, "required": ["strategy"] })
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FailureOf {
    /// Everything before the migrations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare: Option<OnFailure>,
    /// The migrations, but for those of a freeze, which are a part of its window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrate: Option<OnFailure>,
    /// The comparison, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<OnFailure>,
    /// The window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<OnFailure>,
}

fn rollback() -> OnFailure {
    OnFailure::Rollback
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Blue {
    /// How Greenlight reaches the server, and the database that the run is about. The user must be able to create
    /// publications, slots and subscriptions. A password is a reference, never written out: `${env:NAME}` or `${file:/path}`.
    #[schemars(schema_with = "scalar::url")]
    pub url: String,
    /// How green's server reaches blue for its subscription, where that differs from `url`. PostgreSQL stores it on green
    /// until the end of the run: a passfile on green's machine (`?passfile=/path`) keeps the password out of it.
    #[schemars(schema_with = "scalar::peer_url")]
    #[serde(default)]
    pub peer_url: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Green {
    /// How Greenlight reaches the server, and the same database as blue's.
    #[schemars(schema_with = "scalar::url")]
    pub url: String,
    /// How blue's server reaches green for the way back, where that differs from `url`.
    #[schemars(schema_with = "scalar::peer_url")]
    #[serde(default)]
    pub peer_url: Option<String>,
    /// Where green's backups and archived WAL are, from the cutover on. The first backup is taken in the soak, and `finish` waits
    /// for it. Green archives into an archive of its own.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
    /// Make the standby with `pg_basebackup`. Without this key it must be there and follow blue.
    #[serde(default)]
    pub create: Option<Create>,
    /// Of the strategy `in-place`: where blue's backup is restored to when the run is taken back by a restore. The server listens
    /// on the port of `url`, and applications are moved there.
    #[serde(default)]
    pub restore: Option<RestoreInto>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreInto {
    /// The machine on which the server is made, `local` or `ssh://user@host:port`: that of the backups when absent.
    #[schemars(schema_with = "scalar::host")]
    #[serde(default)]
    pub host: Option<String>,
    /// Its data directory, which must be absent or empty.
    #[schemars(schema_with = "scalar::new_folder")]
    pub data_dir: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// The machine on which the standby is made.
    pub host: StandbyHost,
    /// Its data directory, which must be absent or empty.
    #[schemars(schema_with = "scalar::new_folder")]
    pub data_dir: String,
    /// The port that it will listen on: that of green's `url`.
    #[schemars(range(min = 1, max = 65_535), example = 5433)]
    pub port: u16,
    /// The folder of the PostgreSQL programs of blue's major version. Found by themselves when absent.
    #[schemars(schema_with = "scalar::programs")]
    #[serde(default)]
    pub bin_dir: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StandbyHost {
    /// The machine on which Greenlight runs.
    Local,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Migrations {
    /// The folder with `VERSION_NAME.up.sql` and `VERSION_NAME.down.sql`, relative to this file.
    #[schemars(schema_with = "scalar::migrations")]
    pub dir: String,
    /// The role as which the migrations run, written as it is named in PostgreSQL, without quotes. What they make belongs to it.
    /// Without it they run as the user of `green.url` (`in-place`: of `blue.url`), and what they make belongs to that user.
    #[schemars(schema_with = "scalar::role_name")]
    #[serde(default)]
    pub role: Option<String>,
    /// The table that remembers which migrations were applied.
    #[serde(default)]
    pub history: History,
    /// How long a statement waits for a lock before it is taken back and tried again.
    #[schemars(schema_with = "scalar::duration")]
    #[serde(default = "two_seconds")]
    pub lock_timeout: String,
    /// How often a migration is tried again after it waited for a lock in vain.
    #[schemars(range(max = 1000), example = 10)]
    #[serde(default = "ten")]
    pub lock_retries: u32,
}

fn two_seconds() -> String {
    "2s".to_owned()
}

fn ten() -> u32 {
    10
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct History {
    /// The schema in which `schema_migrations` stands, written as it is named in PostgreSQL, without quotes.
    #[schemars(schema_with = "scalar::schema_name")]
    pub schema: String,
}

impl Default for History {
    fn default() -> History {
        History { schema: "public".to_owned() }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Route {
    /// One database of one PgBouncer.
    Pgbouncer(Pgbouncer),
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pgbouncer {
    /// A name for people, different for each route.
    #[schemars(schema_with = "scalar::name")]
    pub name: String,
    /// The admin console: a URL whose database is `pgbouncer`, with a user of PgBouncer's `admin_users`.
    #[schemars(schema_with = "scalar::admin_url")]
    pub admin: String,
    /// The database that applications connect to, as PgBouncer's `[databases]` names it.
    #[schemars(schema_with = "scalar::database")]
    pub database: String,
    /// PgBouncer's configuration file, or the file that it includes, in which that database stands. It is rewritten, so that
    /// the move outlives a restart of PgBouncer.
    #[schemars(schema_with = "scalar::file")]
    pub config: String,
    /// A URL through the route, by which Greenlight reads which server answers. Made from `admin` and blue's user when absent.
    #[schemars(schema_with = "scalar::url")]
    #[serde(default)]
    pub probe: Option<String>,
    /// How PgBouncer reaches green, where that is not what `green.url` says. How it reaches blue is read from its entry.
    #[serde(default)]
    pub green: Option<RouteTarget>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTarget {
    /// A name, an address, or the folder of a Unix socket. That of `green.url` when absent.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub host: Option<String>,
    /// That of `green.url` when absent.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Validate {
    /// Compare the content of every table that is sent, in chunks, under live writes.
    pub rows: bool,
    /// Rows compared in one query.
    #[schemars(range(min = 100, max = 10_000_000), example = 50_000)]
    pub chunk_rows: u64,
    /// Tables compared at once. Each takes one connection and about one core on both servers.
    #[schemars(range(min = 1, max = 64), example = 2)]
    pub parallel: u32,
    /// Tables whose content is not compared.
    #[schemars(schema_with = "scalar::relations")]
    pub exclude: Vec<String>,
    /// Queries run on green, each of which must give one expected value.
    pub assertions: Vec<Assertion>,
}

impl Default for Validate {
    fn default() -> Validate {
        Validate { rows: true, chunk_rows: 50_000, parallel: 2, exclude: Vec::new(), assertions: Vec::new() }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Assertion {
    /// A name for people, different for each assertion.
    #[schemars(schema_with = "scalar::name")]
    pub name: String,
    /// A query that gives one row with one column.
    #[schemars(schema_with = "scalar::query")]
    pub query: String,
    /// The value that it must give, compared as text: `0`, `t`, `'a text'`.
    #[schemars(schema_with = "scalar::expected")]
    pub expect: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    /// The longest pause that clients may feel. When the drain has not finished by then, blue is opened again and the run
    /// waits for its next chance.
    #[schemars(schema_with = "scalar::duration")]
    #[serde(default = "five_seconds")]
    pub max_pause: String,
    /// Green may be this far behind blue, in bytes of WAL, when the window opens. What is still on its way then is waited for
    /// inside the pause. Has no default where green follows blue: it decides when the writer moves.
    #[schemars(schema_with = "scalar::size")]
    #[serde(default)]
    pub max_lag: Option<String>,
    /// What to do about transactions on blue that would hold the pause up.
    #[serde(default)]
    pub long_transactions: Long,
    /// Added to each sequence's value on the side that is opened, for values handed out and not yet written.
    #[schemars(range(max = 1_000_000_000), example = 1000)]
    #[serde(default = "thousand")]
    pub sequence_margin: u64,
    /// Of the strategy `freeze`: whether blue answers reads while it is frozen.
    #[serde(default)]
    pub reads: Reads,
}

/// Where nothing follows anything.
impl Default for Window {
    fn default() -> Window {
        Window {
            max_pause: five_seconds(),
            max_lag: None,
            long_transactions: Long::default(),
            sequence_margin: thousand(),
            reads: Reads::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reads {
    /// All clients wait until the writer has moved.
    #[default]
    None,
    /// Blue goes on answering; a write is refused with an error.
    Blue,
}

fn five_seconds() -> String {
    "5s".to_owned()
}

fn thousand() -> u64 {
    1000
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Long {
    /// A transaction older than this is long.
    #[schemars(schema_with = "scalar::duration")]
    pub older_than: String,
    /// Wait for them to end, or cancel them just before the window.
    pub then: LongTransactions,
}

impl Default for Long {
    fn default() -> Long {
        Long { older_than: five_seconds(), then: LongTransactions::Wait }
    }
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Gates {
    /// Before green is migrated. Until here nothing but replication was set up.
    pub before_migrate: Gate,
    /// Before the writer moves to green.
    pub before_window: Gate,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Gate {
    /// A person must say so, by `greenlight approve`.
    pub approval: bool,
    /// The step begins inside these hours only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Hours {
    /// The IANA name of the time zone that the hours are meant in.
    #[schemars(schema_with = "scalar::zone")]
    pub zone: String,
    /// The days on which the hours begin. Every day when absent.
    #[schemars(length(min = 1))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// Later than `to`: the hours reach past midnight.
    #[schemars(schema_with = "scalar::clock")]
    pub from: String,
    /// The step does not begin at or after this.
    #[schemars(schema_with = "scalar::clock")]
    pub to: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Soak {
    /// How long blue follows green at least. Has no default: after it the way back may be taken down.
    #[serde(rename = "for")]
    #[schemars(schema_with = "scalar::duration")]
    pub lasts: String,
    /// What follows the soak.
    #[serde(default)]
    pub then: AfterSoak,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AfterSoak {
    /// Go on following until a person says `greenlight finish`.
    #[default]
    Wait,
    /// Take replication down. From then on there is no way back.
    Finish,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// WAL that the run's slot may keep on the serving side. Past it the run gives its slot up, and with it the sync or the
    /// way back, so that the disk does not fill. Has no default: it depends on that disk.
    #[schemars(schema_with = "scalar::size")]
    pub wal_kept: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapshot {
    /// What takes and keeps the backups.
    pub store: Store,
    /// The machine on which the backups are: `local`, or `ssh://user@host:port` by the system's own ssh, with its
    /// configuration, keys and known hosts. Greenlight works as that user, who must be able to run PostgreSQL's programs.
    #[schemars(schema_with = "scalar::host")]
    #[serde(default = "local")]
    pub host: String,
    /// The folder on that machine: backups and WAL of `basebackup`; for either store the records of restore points and the
    /// throwaway server of a proof.
    #[schemars(schema_with = "scalar::new_folder")]
    pub dir: String,
    /// How WAL comes into `wal` below `dir`. For `basebackup` only.
    #[serde(default)]
    pub wal: Option<WalSpec>,
    /// The stanza. For `pgbackrest` only.
    #[schemars(schema_with = "scalar::name")]
    #[serde(default)]
    pub stanza: Option<String>,
    /// pgBackRest's configuration file on that machine, where it is not the usual one.
    #[schemars(schema_with = "scalar::new_folder")]
    #[serde(default)]
    pub config: Option<String>,
    /// How that machine reaches blue, where that differs from `blue.url`.
    #[schemars(schema_with = "scalar::peer_url")]
    #[serde(default)]
    pub url: Option<String>,
    /// The folder of the PostgreSQL programs on that machine. Found by themselves when absent.
    #[schemars(schema_with = "scalar::new_folder")]
    #[serde(default)]
    pub bin_dir: Option<String>,
    /// A configuration file for ssh, in place of the user's own.
    #[schemars(schema_with = "scalar::file")]
    #[serde(default)]
    pub ssh_config: Option<String>,
    /// Which backups `greenlight snapshot prune` leaves. What an open run or a restore point needs stays in any case.
    #[serde(default)]
    pub retention: Retention,
    /// A change does not begin on a backup that is older; a new one is taken then.
    #[schemars(schema_with = "scalar::duration")]
    #[serde(default = "a_day")]
    pub max_age: String,
    /// How long after its end `greenlight snapshot prune` keeps what a run needs to be taken back by a restore: the backup
    /// before it, and the WAL to its restore point.
    #[schemars(schema_with = "scalar::duration")]
    #[serde(default = "three_days")]
    pub keep_blue: String,
    /// Restore each new backup to a throwaway server, start it, and run the assertions on it.
    #[serde(default)]
    pub prove: bool,
}

fn local() -> String {
    "local".to_owned()
}

fn three_days() -> String {
    "72h".to_owned()
}

fn a_day() -> String {
    "24h".to_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Store {
    /// PostgreSQL's own programs: `pg_basebackup` into a folder, and WAL beside it.
    Basebackup,
    /// pgBackRest, as it is configured.
    Pgbackrest,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retention {
    /// So many of the newest backups stay.
    #[schemars(range(min = 1, max = 10_000), example = 7)]
    pub count: u32,
    /// Also those from which a point of this last time before the newest backup can be reached.
    #[schemars(schema_with = "scalar::duration")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { count: 7, age: None }
    }
}

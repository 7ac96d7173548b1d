//! Playbook + survey -> plan: a fixed line of steps in which no meaningful choice is left open.
//!
//! A plan is frozen, stored with its run, and never changed: a resumed run never re-reads the playbook. It holds
//! references to secrets, never secrets.
//!
//! **Invariant:** nothing here does I/O. `compile` is pure: what was seen of the world comes in as a `Survey`.

mod access;
mod compile;
mod figures;
mod finding;
mod gate;
mod init;
mod judgement;
mod line;
mod names;
mod preflight;
pub mod render;
mod snapshot;
mod statements;
mod survey;
mod touched;

pub use access::{Access, Arrival, Comparison, HbaRule, Lack, RoleAccess};
pub use compile::{FailurePhases, PlanInput, compile};
pub use figures::command_in_short;
pub use finding::{Answer, Finding};
pub use gate::{Day, Gate, OpenHours};
pub use init::{FirstLook, first_playbook};
pub use judgement::{Basis, SchemaWork};
pub use names::{Names, PREFIX, SCHEMA, WAL_PREFIX, is_of_a_run, shadow_database};
pub use snapshot::{HostSpec, RetentionSpec, SnapshotSpec, StoreSpec, WalSpec};
pub use survey::*;

use crate::migrate::Migration;
use crate::schema::{Fingerprint, TableFlow};
use crate::word::{RelationName, RunId, Side, Target, Template, Timestamp};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, time::Duration};

/// How the change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Green, a physical standby of blue, is turned into a logical one without copying a row and is migrated while it follows
    /// blue; the writer then moves in a pause of milliseconds, and blue follows green until the end, so that going back loses
    /// nothing.
    #[default]
    Sync,
    /// Blue stands still for as long as the migrations take: green, its physical standby, is promoted, migrated and compared
    /// with it exactly, and then serves. Until then the way back is to open blue again; after it blue follows green.
    Freeze,
    /// Blue itself is migrated while applications work on it, after a backup and a restore point. The way back are the down
    /// migrations, or a server that is restored to just before them.
    InPlace,
    /// Nothing is migrated: green is a server that `greenlight restore` made from a backup of blue, which is damaged. The writer
    /// moves there in a pause. What blue took since that point is not on green.
    Restored,
}

impl Strategy {
    /// As a playbook writes it.
    pub fn word(self) -> &'static str {
        match self {
            Strategy::Sync => "sync",
            Strategy::Freeze => "freeze",
            Strategy::InPlace => "in-place",
            Strategy::Restored => "restored",
        }
    }
}

/// A named move of the line. Each has one file in `step/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// A backup that is whole, verified and young enough, and WAL that is seen to reach the archive.
    Snapshot,
    /// Claim blue for this run: schema `greenlight`, marker, fence function, restore point.
    PrepareBlue,
    /// Make a physical standby with `pg_basebackup`, where the playbook asks for it.
    CreateStandby,
    /// Publication and logical slot on blue.
    PublishBlue,
    /// Wait for the slot's position, promote green, fence it, stop what it inherited.
    AttachGreen,
    /// Subscribe green from the fork point; drop its physical slot.
    SubscribeGreen,
    /// Try the migrations in a scratch database on green, where they could not be tried before the run.
    ShadowGreen,
    /// Narrow the publication to what the migrated green can take.
    NarrowFlow,
    MigrateGreen,
    /// ANALYZE, refresh materialized views, warm the caches.
    WarmGreen,
    /// Reverse publication and slot on green, disabled reverse subscription on blue.
    ArmReverse,
    ValidateGreen,
    /// See that green is close behind, with everything on it that blue's fence will need. Of the strategy `freeze`.
    ArmFreeze,
    /// The short pause in which the writer changes.
    Window,
    /// Blue follows green, rollback loses nothing.
    Soak,
    /// Take down everything that was made.
    Finish,
    /// See that blue can be restored to just before the migrations. Of the strategy `in-place`.
    ArmRestore,
    /// Run the migrations on blue, while applications work there. Of the strategy `in-place`.
    MigrateBlue,
    /// Is blue what the migrations were to make of it?
    ValidateBlue,
    /// Take the run's claim from blue, which serves on, migrated.
    ReleaseBlue,
    /// Fence a green that was restored from blue's backup. Of the strategy `restored`.
    AttachRestored,
}

impl StepName {
    /// The step's name for people, the same in plan, journal, status and documentation.
    pub fn title(self) -> &'static str {
        match self {
            StepName::Snapshot => "snapshot",
            StepName::PrepareBlue => "prepare blue",
            StepName::CreateStandby => "create standby",
            StepName::PublishBlue => "publish blue",
            StepName::AttachGreen => "attach green",
            StepName::SubscribeGreen => "subscribe green",
            StepName::ShadowGreen => "try the migrations",
            StepName::NarrowFlow => "narrow the flow",
            StepName::MigrateGreen => "migrate green",
            StepName::WarmGreen => "warm green",
            StepName::ArmReverse => "arm the way back",
            StepName::ValidateGreen => "validate green",
            StepName::ArmFreeze => "arm the freeze",
            StepName::Window => "window",
            StepName::Soak => "soak",
            StepName::Finish => "finish",
            StepName::ArmRestore => "arm the restore",
            StepName::MigrateBlue => "migrate blue",
            StepName::ValidateBlue => "validate blue",
            StepName::ReleaseBlue => "release blue",
            StepName::AttachRestored => "attach green",
        }
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// What taking a step back means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reversal {
    /// The step changes nothing.
    Nothing,
    Revert,
    /// No way back from here on.
    PointOfNoReturn,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub name: StepName,
    pub reversal: Reversal,
    pub gate: Gate,
    /// Tries before a transient failure is final.
    pub attempts_max: u32,
    pub backoff_ms: u64,
    /// What happens when it fails for good, where that is not what the plan says of all steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What the step will send, in order, for a person to read. Values known only at run time stand as `<...>`.
    pub sql: Vec<String>,
    /// One line: what it does and, where that is not plain, why.
    pub says: String,
    /// How it is taken back, for a person.
    pub way_back: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Take everything back while blue serves; hold otherwise.
    Rollback,
    /// Of the strategy `in-place`: restore to just before the migrations and move the applications there. What they wrote since is
    /// not there.
    Restore,
    /// Stop and wait for a person.
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongTransactions {
    /// Wait for them to end; the window does not open meanwhile.
    Wait,
    /// Cancel them just before the window.
    Cancel,
}

/// How a server is reached. `url` is a template: it holds references, never secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    pub url: Template,
    /// How the *other server* reaches this one for its subscription, where that differs from `url`.
    pub peer_url: Option<Template>,
}

/// The standby that the run is to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbySpec {
    pub data_dir: PathBuf,
    pub port: u16,
    /// The folder of the PostgreSQL programs; found by blue's version when absent.
    pub bin_dir: Option<PathBuf>,
}

/// Where a change in place restores blue's backup to, when it is taken back so. The port is that of green's URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSpec {
    /// The machine of the backups when absent.
    pub host: Option<HostSpec>,
    pub data_dir: PathBuf,
}

/// One PgBouncer database to be repointed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    pub name: String,
    pub kind: RouteKind,
    /// How the route reaches green, where that is not what `green.url` says.
    #[serde(default)]
    pub green: RouteTarget,
    /// Where it led when the run was planned: the way to blue. `None` until it is seen that blue answers there.
    #[serde(default)]
    pub entry: Option<RouteEntry>,
}

/// What a playbook says of a route's way to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    pub host: Option<String>,
    pub port: Option<u16>,
}

/// A route's entry: where it leads, and how that is written, which a way back restores byte by byte. Nothing else of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    pub points_at: Target,
    pub host: Option<String>,
    pub port: Option<String>,
    pub dbname: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    Pgbouncer {
        /// The admin console: a URL whose database is `pgbouncer`.
        admin: Template,
        /// The PgBouncer database that applications connect to.
        database: String,
        /// The configuration file, or the file that it includes, in which that database stands.
        config: PathBuf,
        /// A URL through the route, for reading which server answers; made from `admin` and blue's user when absent.
        probe: Option<Template>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSpec {
    pub max_pause_ms: u64,
    pub max_lag_bytes: u64,
    pub long_transactions: LongTransactions,
    /// A transaction older than this is long.
    pub transaction_age_max_ms: u64,
    /// Added to each sequence's value on the side that is opened.
    pub sequence_margin: u64,
    /// Blue goes on answering reads while it is frozen, and refuses writes; otherwise all clients wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads_on_blue: bool,
}

impl WindowSpec {
    pub fn max_pause(&self) -> Duration {
        Duration::from_millis(self.max_pause_ms)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidateSpec {
    /// Compare the content of every published table.
    pub rows: bool,
    pub chunk_rows: u64,
    /// Tables compared at once.
    pub parallel: u32,
    pub exclude: Vec<RelationName>,
    pub assertions: Vec<AssertionSpec>,
}

/// A query whose one value, as text, must be `expect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionSpec {
    pub name: String,
    pub query: String,
    pub expect: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySpec {
    /// The schema of `schema_migrations`.
    pub schema: String,
    /// As whom the migrations run; as the user of the connection when absent.
    #[serde(default)]
    pub role: Option<String>,
    pub lock_timeout_ms: u64,
    pub lock_retries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoakSpec {
    pub for_secs: u64,
    /// Finish when the soak is over; otherwise wait for a person.
    pub then_finish: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsSpec {
    /// WAL that our slot may keep on the serving side before the run gives it up.
    pub wal_kept_bytes_max: u64,
}

/// The frozen plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    pub run: RunId,
    /// The playbook's own name.
    pub name: String,
    #[serde(default)]
    pub strategy: Strategy,
    pub made_at: Timestamp,
    pub blue: ServerSpec,
    /// In place, without a place to restore to, there is no other server, and this is blue.
    pub green: ServerSpec,
    pub standby: Option<StandbySpec>,
    /// In place, where green is made when the run is taken back by a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_into: Option<RestoreSpec>,
    pub shadow: Option<Template>,
    pub routes: Vec<RouteSpec>,
    pub window: WindowSpec,
    pub validate: ValidateSpec,
    pub history: HistorySpec,
    pub soak: SoakSpec,
    pub limits: LimitsSpec,
    pub on_failure: OnFailure,
    /// Where backups are, and what they must be before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSpec>,
    /// Where green's backups are, from the cutover on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub green_snapshot: Option<SnapshotSpec>,
    pub names: Names,
    pub steps: Vec<PlannedStep>,
    /// Every table of blue, how its rows flow in each direction, and the verdict.
    pub tables: Vec<TableFlow>,
    pub migrations: Vec<Migration>,
    /// The cluster that was planned with, and its timeline: other ones later are other servers. 0: not known.
    #[serde(default)]
    pub system_identifier: u64,
    #[serde(default)]
    pub blue_timeline: u32,
    /// Blue's schema when planned; another one later is drift.
    pub blue_fingerprint: Fingerprint,
    /// The migrated schema, as the shadow has it; `None` while the shadow can stand on green only.
    pub green_fingerprint: Option<Fingerprint>,
    pub findings: Vec<Finding>,
    /// Subscriptions that green copied from blue and that must not run there.
    pub inherited_subscriptions: Vec<String>,
    /// The physical slot on blue through which green follows, to be dropped.
    pub green_physical_slot: Option<String>,
    /// Triggers that the migration made on published tables; they fire for applied rows until the end of the run.
    pub sync_triggers: Vec<SyncTrigger>,
    /// Tables of green's, of which statistics are gathered once it serves after a freeze: those that the migrations touch or
    /// make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analyze: Vec<RelationName>,
    /// Made without a shadow: what follows from the migrations is learned on green, by the step that tries them there, and
    /// replaces what stands here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
    /// Of a provisional plan, by which it is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Box<Basis>>,
}

/// A trigger that must fire for applied rows too while green follows blue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTrigger {
    pub table: RelationName,
    pub name: String,
}

impl Plan {
    /// What a person approves: SHA-256, in hex, of everything in the plan that was decided, without the run's random
    /// name and the time, so that planning the same playbook against the same world twice gives the same digest. Of the
    /// findings it takes what stands in the way and what was accepted, by name: how much of a disk is free, or who is
    /// connected, is another thing each time, and nobody's decision.
    pub fn digest(&self) -> String {
        use sha2::{Digest, Sha256};
        let decided = |finding: &&Finding| !matches!(finding.answer, Answer::Fine | Answer::Handled { .. });
        let by_name = |finding: &Finding| Finding { code: finding.code.clone(), seen: String::new(), answer: Answer::Fine };
        let findings = self.findings.iter().filter(decided).map(by_name).collect();
        // What was seen is another thing each time; what is wanted is what the tables are judged by later.
        let wanted = self.basis.as_ref().map(|basis| serde_json::to_string(&basis.input).unwrap_or_default());
        let text = serde_json::to_string(&Plan { findings, basis: None, ..self.clone() }).unwrap_or_default();
        let text = text + &wanted.unwrap_or_default();
        let made_at = serde_json::to_string(&self.made_at).unwrap_or_default();
        let neutral = text.replace(self.run.as_str(), "run").replace(&made_at, "\"\"");
        Sha256::digest(neutral.as_bytes()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    pub fn step_no(&self, name: StepName) -> Option<crate::run::StepNo> {
        self.steps.iter().position(|step| step.name == name).map(crate::run::StepNo)
    }

    /// No large object was there when it was made, nor do its migrations make one.
    pub fn is_without_large_objects(&self) -> bool {
        self.findings.iter().any(|finding| finding.code == preflight::LARGE_OBJECTS && finding.answer == Answer::Fine)
    }

    /// What was refused, and what needs a word that the playbook does not give. Empty: the plan may run.
    pub fn obstacles(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| matches!(finding.answer, Answer::Refused { .. } | Answer::NeedsAccept { .. }))
    }
}

/// Which side a statement is for, when a plan shows it.
pub fn sql_for(side: Side, sql: &str) -> String {
    format!("{side}: {sql}")
}

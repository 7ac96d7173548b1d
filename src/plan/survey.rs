use crate::migrate::{Applied, ShadowReport};
use crate::schema::Catalog;
use crate::word::{Lsn, RelationName};
use serde::{Deserialize, Serialize};

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

/// What was seen of one server and of the one database that the run is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSurvey {
    /// `user@host:port/database`, never the password.
    pub endpoint: String,
    pub database: String,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    pub system_identifier: u64,
    pub timeline: u32,
    pub in_recovery: bool,
    /// `primary_conninfo` without passwords, on a standby.
    pub upstream: Option<String>,
    /// `pg_stat_wal_receiver` says `streaming`.
    pub streaming: bool,
    pub user: String,
    pub superuser: bool,
    pub wal_level: String,
    pub slots_max: u32,
    pub senders_max: u32,
    pub senders_used: u32,
    pub workers_max: u32,
    pub slots: Vec<SlotSurvey>,
    pub subscriptions: Vec<SubscriptionSurvey>,
    pub publications: Vec<String>,
    pub synchronous_standby_names: String,
    pub synchronous_commit: String,
    /// `application_name` of each walsender on this server with the physical slot that it uses, if any.
    pub standbys: Vec<StandbySurvey>,
    pub archive_mode: String,
    pub archive_command: String,
    pub wal_keep_bytes: u64,
    /// `max_slot_wal_keep_size` in bytes; `None` when unlimited.
    pub slot_wal_keep_bytes_max: Option<u64>,
    /// Free bytes on the disk of the data directory, where it can be seen.
    pub disk_free_bytes: Option<u64>,
    pub database_bytes: u64,
    pub large_objects: u64,
    pub prepared_transactions: Vec<String>,
    /// Age of the oldest transaction in seconds, with its pid and a short text of its query.
    pub long_transactions: Vec<TransactionSurvey>,
    pub other_databases: Vec<String>,
    /// pg_cron jobs of this database, as `schedule: command`.
    pub cron_jobs: Vec<String>,
    /// Extensions that could be installed on this server.
    pub available_extensions: Vec<String>,
    /// The claim of another run in `greenlight.claim`, if any.
    pub claimed_by: Option<String>,
    pub shared_preload_libraries: String,
    pub event_triggers: Vec<String>,
    pub catalog: Catalog,
    pub table_sizes: Vec<TableSize>,
    pub replay_lsn: Option<Lsn>,
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

/// What a route said when asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSurvey {
    pub name: String,
    /// `host:port/database` that it points at.
    pub points_at: Option<String>,
    /// PgBouncer's version text and pool mode.
    pub about: String,
    /// Why the route cannot be used (not reachable, no admin rights, database not found, file not writable).
    pub problems: Vec<String>,
    /// Whether the one who answers through the route is blue.
    pub answers_from_blue: Option<bool>,
}

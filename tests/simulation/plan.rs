//! The plan that every simulated run has: one table that loses a column, two migrations, two routes, a gate at the window.

use greenlight::{
    migrate::Migration,
    plan::{
        Answer, Finding, Gate, HistorySpec, HostSpec, LimitsSpec, LongTransactions, Names, OnFailure, OpenHours, Plan,
        PlannedStep, RestoreSpec, RetentionSpec, Reversal, SchemaWork, ServerSpec, SnapshotSpec, SoakSpec, StandbySpec, StepName,
        StoreSpec, Strategy, SyncTrigger, ValidateSpec, WindowSpec,
    },
    route::Target,
    run::FORMAT,
    schema::{Fingerprint, Flow, ReplicaIdentity, SharedColumns, TableFlow, Verdict},
    word::{RelationName, RunId, Side, Template, Timestamp},
};
use std::time::Duration;

pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);
pub(crate) const INHERITED: &str = "inherited_feed";
pub(crate) const PHYSICAL_SLOT: &str = "standby_1";
pub(crate) const BLUE_SCHEMA: &str = "as planned";
pub(crate) const GREEN_SCHEMA: &str = "migrated";

/// The fingerprint of a schema that is in this state.
pub(crate) fn schema(state: &str) -> Fingerprint {
    [("table public.orders".to_owned(), state.to_owned())].into_iter().collect()
}

/// What differs between the simulated runs' plans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanKind {
    pub(crate) routes: usize,
    /// The run makes green itself.
    pub(crate) makes_standby: bool,
    pub(crate) on_failure: OnFailure,
    pub(crate) wal_kept_max: u64,
    pub(crate) strategy: Strategy,
    /// Blue answers reads in a freeze.
    pub(crate) reads_on_blue: bool,
    /// The migration with this bit is refused, always.
    pub(crate) fails_at: Option<u8>,
    /// In place, whether the migrations have a way back.
    pub(crate) has_downs: bool,
    /// The second migration works in batches.
    pub(crate) in_batches: bool,
    /// In place, whether the playbook names a place for a restored server.
    pub(crate) restores: bool,
    /// There was no shadow before the run, and this comes of the trial on green.
    pub(crate) trial: Option<Trial>,
    /// The run finishes by itself after the soak.
    pub(crate) then_finish: bool,
    /// The window opens in certain hours only: at any.
    pub(crate) has_hours: bool,
}

/// What the trial on green shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    AsApproved,
    /// What asks for a word that nobody gave.
    Worse,
    Refused,
}

impl Default for PlanKind {
    fn default() -> PlanKind {
        PlanKind {
            routes: 2,
            makes_standby: false,
            on_failure: OnFailure::Rollback,
            wal_kept_max: 1_000_000,
            strategy: Strategy::Sync,
            reads_on_blue: false,
            fails_at: None,
            has_downs: true,
            in_batches: false,
            restores: false,
            trial: None,
            then_finish: false,
            has_hours: false,
        }
    }
}

impl PlanKind {
    /// Green is there before the run, as blue's standby.
    pub(crate) fn has_standby(self) -> bool {
        !self.makes_standby && !self.restores && self.strategy != Strategy::Restored
    }
}

pub(crate) fn plan(kind: PlanKind) -> Plan {
    let run: RunId = "r0000001".parse().unwrap();
    let server = |url: &str| ServerSpec { url: Template(url.to_owned()), peer_url: None };
    let standby = kind.makes_standby.then(|| StandbySpec { data_dir: "/standby".into(), port: 2, bin_dir: None });
    Plan {
        format: FORMAT,
        name: "simulated".to_owned(),
        strategy: kind.strategy,
        made_at: Timestamp::UNIX_EPOCH,
        blue: server("blue"),
        green: server("green"),
        shadow: None,
        routes: Vec::new(),
        window: WindowSpec {
            max_pause_ms: 5_000,
            max_lag_bytes: 1_000_000,
            long_transactions: LongTransactions::Wait,
            transaction_age_max_ms: 10_000,
            sequence_margin: 10,
            reads_on_blue: kind.reads_on_blue,
        },
        validate: ValidateSpec { rows: true, chunk_rows: 1, parallel: 1, exclude: Vec::new(), assertions: Vec::new() },
        history: HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 1, lock_retries: 1 },
        soak: SoakSpec { for_secs: 3_600, then_finish: kind.then_finish },
        limits: LimitsSpec { wal_kept_bytes_max: kind.wal_kept_max },
        on_failure: kind.on_failure,
        snapshot: None,
        green_snapshot: (kind.strategy == Strategy::Freeze).then(|| SnapshotSpec {
            store: StoreSpec::Pgbackrest { stanza: "green".to_owned(), config: None },
            host: HostSpec::Local,
            dir: "/green".into(),
            url: None,
            bin_dir: None,
            ssh_config: None,
            retention: RetentionSpec { count: 1, age_secs: None },
            max_age_secs: 1,
            prove: false,
            keep_blue_secs: 0,
        }),
        names: Names::new(&run),
        steps: steps(kind),
        tables: vec![if kind.trial.is_some() { whole_table() } else { table() }],
        migrations: migrations(kind),
        system_identifier: 1,
        blue_timeline: 1,
        blue_fingerprint: schema(BLUE_SCHEMA),
        green_fingerprint: kind.trial.is_none().then(|| schema(GREEN_SCHEMA)),
        findings: Vec::new(),
        inherited_subscriptions: vec![INHERITED.to_owned()],
        green_physical_slot: kind.has_standby().then(|| PHYSICAL_SLOT.to_owned()),
        sync_triggers: sync_triggers(kind),
        analyze: if kind.strategy == Strategy::Freeze { vec![table().table] } else { Vec::new() },
        provisional: kind.trial.is_some(),
        basis: None,
        standby,
        restore_into: kind.restores.then(|| RestoreSpec { host: None, data_dir: "/restored".into() }),
        run,
    }
}

/// What the trial on green comes to.
pub(crate) fn work(kind: PlanKind) -> SchemaWork {
    let code = "not-reversible:public.orders".to_owned();
    let finding = |answer| vec![Finding { code: code.clone(), seen: "a rollback would lose notes".to_owned(), answer }];
    let mut steps = steps(kind);
    let findings = match kind.trial {
        Some(Trial::Worse) => {
            let narrow = steps.iter_mut().find(|step| step.name == StepName::NarrowFlow).unwrap();
            narrow.gate = Gate { approval: true, because: Some(code.clone()), hours: None };
            finding(Answer::NeedsAccept { consequence: "notes are lost".to_owned() })
        }
        Some(Trial::Refused) => finding(Answer::Refused { remedy: "write another migration".to_owned() }),
        Some(Trial::AsApproved) | None => Vec::new(),
    };
    SchemaWork {
        tables: vec![table()],
        sync_triggers: sync_triggers(kind),
        green_fingerprint: Some(schema(GREEN_SCHEMA)),
        findings,
        steps,
    }
}

/// One that the second migration makes, for the rows of the first.
fn sync_triggers(kind: PlanKind) -> Vec<SyncTrigger> {
    let trigger = SyncTrigger { table: table().table, name: "fills_notes".to_owned() };
    if kind.strategy == Strategy::Sync { vec![trigger] } else { Vec::new() }
}

fn steps(kind: PlanKind) -> Vec<PlannedStep> {
    use {Reversal::*, StepName::*};
    let line = [
        (Snapshot, Nothing),
        (PrepareBlue, Revert),
        (AttachRestored, Revert),
        (CreateStandby, Revert),
        (PublishBlue, Revert),
        (AttachGreen, Revert),
        (SubscribeGreen, Revert),
        (ShadowGreen, Revert),
        (NarrowFlow, Revert),
        (MigrateGreen, Revert),
        (WarmGreen, Nothing),
        (ArmReverse, Revert),
        (ValidateGreen, Nothing),
        (ArmFreeze, Revert),
        (Window, Revert),
        (Soak, Nothing),
        (Finish, PointOfNoReturn),
        (ArmRestore, Nothing),
        (MigrateBlue, Revert),
        (ValidateBlue, Nothing),
        (ReleaseBlue, PointOfNoReturn),
    ];
    let planned = |(name, reversal)| PlannedStep {
        name,
        reversal,
        gate: Gate {
            approval: name == Window || (name == PrepareBlue && kind.strategy == Strategy::InPlace),
            hours: (name == Window && kind.has_hours).then(|| OpenHours {
                zone: "UTC".to_owned(),
                days: Vec::new(),
                from: jiff::civil::time(0, 0, 0, 0),
                to: jiff::civil::time(23, 59, 59, 0),
            }),
            because: None,
        },
        attempts_max: 3,
        backoff_ms: 500,
        on_failure: None,
        sql: Vec::new(),
        says: String::new(),
        way_back: String::new(),
    };
    let is_there = |name: &StepName| match name {
        CreateStandby => kind.makes_standby,
        ShadowGreen => kind.trial.is_some(),
        Snapshot => matches!(kind.strategy, Strategy::Freeze | Strategy::InPlace),
        ArmRestore => kind.restores,
        AttachRestored => kind.strategy == Strategy::Restored,
        ArmFreeze => kind.strategy == Strategy::Freeze,
        MigrateBlue | ValidateBlue | ReleaseBlue => kind.strategy == Strategy::InPlace,
        Window | Finish => kind.strategy != Strategy::InPlace,
        Soak => matches!(kind.strategy, Strategy::Sync | Strategy::Freeze),
        PublishBlue | AttachGreen | SubscribeGreen | NarrowFlow | MigrateGreen | WarmGreen | ArmReverse | ValidateGreen => {
            kind.strategy == Strategy::Sync
        }
        PrepareBlue => true,
    };
    line.into_iter().filter(|(name, _)| is_there(name)).map(planned).collect()
}

/// The same, as a plan has it that knows nothing of the migrations.
fn whole_table() -> TableFlow {
    let shared = SharedColumns {
        rewritten: false,
        forward: None,
        reverse: None,
        key: vec!["id".to_owned()],
        compare: Vec::new(),
        relax_on_green: Vec::new(),
        relax_on_blue: Vec::new(),
        identity: ReplicaIdentity::Default,
    };
    TableFlow { flow: Flow::Both(shared), ..table() }
}

/// Loses a column that is NOT NULL without a default: the flow is narrowed forward, and blue is relaxed during the soak.
fn table() -> TableFlow {
    let kept = Some(vec!["id".to_owned()]);
    let note = vec!["note".to_owned()];
    let shared = SharedColumns {
        rewritten: false,
        forward: kept.clone(),
        reverse: kept,
        key: vec!["id".to_owned()],
        compare: Vec::new(),
        relax_on_green: note.clone(),
        relax_on_blue: note,
        identity: ReplicaIdentity::Default,
    };
    TableFlow { table: RelationName::new("public", "orders"), flow: Flow::Both(shared), verdict: Verdict::Lossless }
}

fn migrations(kind: PlanKind) -> Vec<Migration> {
    let versions: &[&str] = if kind.strategy == Strategy::Restored { &[] } else { &["0001", "0002"] };
    versions.iter().map(|version| migration(version, kind)).collect()
}

fn migration(version: &str, kind: PlanKind) -> Migration {
    Migration {
        version: version.to_owned(),
        name: "change".to_owned(),
        up: if kind.in_batches && version == "0002" {
            "-- greenlight: batches of 10\nUPDATE orders SET note = '' WHERE :batch".to_owned()
        } else {
            String::new()
        },
        down: (kind.strategy == Strategy::InPlace && kind.has_downs).then(String::new),
        checksum: String::new(),
        transactional: true,
    }
}

/// Where a route points for this side.
pub(crate) fn target(side: Side) -> Target {
    Target { host: side.to_string(), port: 1 + side as u16, database: "shop".to_owned() }
}

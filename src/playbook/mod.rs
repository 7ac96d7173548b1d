//! YAML -> `Playbook`: what a person says should happen. All problems at once, each with file, line, column and what to
//! write instead.
//!
//! The way of a file: `tree` reads YAML into nodes that know their place; `check` holds them against the JSON Schema that
//! follows from `shape`; `contradiction` looks at what no key shows by itself; and only when nothing is wrong does a
//! `Playbook` come to be. Stopping at the first mistake, as serde does, would cost a person one try for each.
//!
//! **Invariant:** reads files and the environment it is given, asks no server. A playbook holds references to secrets,
//! never secrets, and no message shows one.

mod check;
mod contradiction;
mod problem;
mod reference;
mod scalar;
mod shape;
mod tree;

pub use problem::{Problem, Problems};
pub use reference::{Environment, holds_password, resolve_url};

use crate::plan::{
    AssertionSpec, FailurePhases, Gate, HistorySpec, LimitsSpec, OnFailure, OpenHours, RestoreSpec, RetentionSpec, RouteKind,
    RouteSpec, RouteTarget, ServerSpec, SnapshotSpec, SoakSpec, StandbySpec, StoreSpec, Strategy, ValidateSpec, WalSpec,
    WindowSpec,
};
use crate::word::Template;
use problem::Flaw;
use shape::Shape;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What stands as `shadow` for a scratch database on green, once it is promoted.
pub const ON_GREEN: &str = "green";

/// A playbook without a known mistake, in the terms of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Playbook {
    /// The file; absolute.
    pub path: PathBuf,
    pub name: String,
    pub strategy: Strategy,
    pub blue: ServerSpec,
    /// In place, without a place to restore to, there is no other server, and this is blue.
    pub green: ServerSpec,
    /// Green is to be made by the run.
    pub standby: Option<StandbySpec>,
    /// In place, where green is made when the run is taken back by a restore.
    pub restore_into: Option<RestoreSpec>,
    /// A URL, or `ON_GREEN`.
    pub shadow: Option<Template>,
    /// Absolute. `None`: nothing is migrated.
    pub migrations_dir: Option<PathBuf>,
    pub history: HistorySpec,
    /// At least one where the writer may move.
    pub routes: Vec<RouteSpec>,
    pub window: WindowSpec,
    pub validate: ValidateSpec,
    pub before_migrate: Gate,
    pub before_window: Gate,
    pub soak: SoakSpec,
    pub on_failure: OnFailure,
    pub on_failure_of: FailurePhases,
    pub limits: LimitsSpec,
    pub snapshot: Option<SnapshotSpec>,
    pub green_snapshot: Option<SnapshotSpec>,
    pub accept: Vec<Accept>,
}

/// A finding that the playbook accepts: `code` or `code:object`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    pub word: String,
    /// From 1, so that one that accepts nothing can be pointed at.
    pub line: usize,
    pub column: usize,
}

/// Reads and checks a playbook. `environment` looks up a variable of the process.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Playbook, Problems> {
    let file = path.display().to_string();
    let bytes = read(path).map_err(|error| {
        let mut problems = Problems::new(file.clone(), "");
        problems.push(Flaw::new(format!("the playbook cannot be read: {}", problem::reason(&error))), None);
        problems
    })?;
    let source = String::from_utf8_lossy(&bytes);
    let mut problems = Problems::new(file, &source);
    if let Err(error) = std::str::from_utf8(&bytes) {
        let at = error.valid_up_to();
        problems.push(Flaw::new("the file is not UTF-8 text from here on").help("save it as UTF-8"), Some(at..at));
        return Err(problems);
    }
    match checked(path, &source, environment, &mut problems) {
        Some(playbook) if problems.problems.is_empty() => Ok(playbook),
        _ => {
            problems.sort();
            Err(problems)
        }
    }
}

/// No more than is needed to see that it is too much, whatever the path names.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(tree::BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `None`: the reason is among the problems.
fn checked(path: &Path, source: &str, environment: Environment<'_>, problems: &mut Problems) -> Option<Playbook> {
    let (root, flaws) = tree::parse(source);
    let syntax_error = root.is_none() && !flaws.is_empty();
    for (flaw, span) in flaws {
        problems.push(flaw, Some(span));
    }
    let Some(root) = root.filter(|root| !root.is_empty()) else {
        if !syntax_error {
            let flaw = Flaw::new("the playbook is empty").help("begin with `greenlight init`, or with `playbooks/cutover.yaml`");
            problems.push(flaw, None);
        }
        return None;
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let schema = json_schema();
    let mut checker = check::Checker { source, folder, environment, schema: &schema, problems };
    if let Some(version) = root.at(&["version"]) {
        // Of another version's file nothing else that could be said would be right.
        let before = checker.problems.problems.len();
        checker.node(version, &schema["properties"]["version"], "version");
        if checker.problems.problems.len() > before {
            return None;
        }
    }
    let json = checker.node(&root, &schema, "");
    contradiction::find(&root, &mut checker);
    if !problems.problems.is_empty() {
        return None;
    }
    let accept = root.at(&["accept"]).map_or(&[][..], tree::Node::items);
    let accept = accept.iter().filter_map(|node| {
        let (line, column) = problems.place_of(&node.span);
        Some(Accept { word: node.text()?.to_owned(), line, column })
    });
    let accept = accept.collect();
    let shape = serde_json::from_value(json).map_err(|error| Flaw::new(format!("the playbook cannot be read: {error}")));
    match shape.and_then(|shape| compose(shape, &path, folder, accept)) {
        Ok(playbook) => Some(playbook),
        Err(flaw) => {
            problems.push(flaw, None);
            None
        }
    }
}

/// Err: a text that the check let through and the reading does not, which would be a mistake of ours.
fn compose(shape: Shape, path: &Path, folder: &Path, accept: Vec<Accept>) -> Result<Playbook, Flaw> {
    let template = |text: Option<String>| text.map(Template);
    let blue = ServerSpec { url: Template(shape.blue.url), peer_url: template(shape.blue.peer_url) };
    let (green, create, restore, green_snapshot) = match shape.green {
        Some(green) => {
            let spec = ServerSpec { url: Template(green.url), peer_url: template(green.peer_url) };
            (spec, green.create, green.restore, green.snapshot)
        }
        None => (blue.clone(), None, None, None),
    };
    let migrations_dir = shape.migrations.as_ref().map(|migrations| folder.join(&migrations.dir));
    Ok(Playbook {
        path: path.to_owned(),
        name: shape.name,
        strategy: shape.strategy,
        blue,
        green,
        standby: create.map(|create| StandbySpec {
            data_dir: create.data_dir.into(),
            port: create.port,
            bin_dir: create.bin_dir.map(|dir| folder.join(dir)),
        }),
        shadow: template(shape.shadow),
        restore_into: restore.map(restore_spec).transpose()?,
        migrations_dir,
        history: history_spec(shape.migrations)?,
        routes: shape.routes.into_iter().flatten().map(|route| route_spec(route, folder)).collect(),
        window: window_spec(&shape.window.unwrap_or_default())?,
        validate: validate_spec(shape.validate)?,
        before_migrate: gate(shape.gates.before_migrate)?,
        before_window: gate(shape.gates.before_window)?,
        soak: soak_spec(shape.soak)?,
        on_failure: shape.on_failure,
        on_failure_of: FailurePhases {
            prepare: shape.on_failure_of.prepare,
            migrate: shape.on_failure_of.migrate,
            validate: shape.on_failure_of.validate,
            window: shape.on_failure_of.window,
        },
        snapshot: shape.snapshot.map(|snapshot| snapshot_spec(snapshot, folder)).transpose()?,
        green_snapshot: green_snapshot.map(|snapshot| snapshot_spec(snapshot, folder)).transpose()?,
        limits: LimitsSpec {
            // Where nothing follows anything the run has no slot that could keep any.
            wal_kept_bytes_max: shape.limits.map_or(Ok(0), |limits| scalar::read_size(&limits.wal_kept))?,
        },
        accept,
    })
}

fn restore_spec(shape: shape::RestoreInto) -> Result<RestoreSpec, Flaw> {
    let host = shape.host.as_deref().map(scalar::read_host).transpose()?;
    Ok(RestoreSpec { host, data_dir: shape.data_dir.into() })
}

/// Where nothing is migrated, nothing is ever looked up in it.
fn history_spec(shape: Option<shape::Migrations>) -> Result<HistorySpec, Flaw> {
    let Some(shape) = shape else {
        return Ok(HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 0, lock_retries: 0 });
    };
    Ok(HistorySpec {
        schema: shape.history.schema,
        role: shape.role,
        lock_timeout_ms: millis(scalar::read_duration(&shape.lock_timeout)?),
        lock_retries: shape.lock_retries,
    })
}

fn route_spec(route: shape::Route, folder: &Path) -> RouteSpec {
    let shape::Route::Pgbouncer(route) = route;
    let green = route.green.map(|green| RouteTarget { host: green.host, port: green.port });
    RouteSpec {
        name: route.name,
        green: green.unwrap_or_default(),
        entry: None,
        kind: RouteKind::Pgbouncer {
            admin: Template(route.admin),
            database: route.database,
            config: folder.join(route.config),
            probe: route.probe.map(Template),
        },
    }
}

fn window_spec(shape: &shape::Window) -> Result<WindowSpec, Flaw> {
    Ok(WindowSpec {
        max_pause_ms: millis(scalar::read_duration(&shape.max_pause)?),
        max_lag_bytes: shape.max_lag.as_deref().map_or(Ok(0), scalar::read_size)?,
        long_transactions: shape.long_transactions.then,
        transaction_age_max_ms: millis(scalar::read_duration(&shape.long_transactions.older_than)?),
        sequence_margin: shape.sequence_margin,
        reads_on_blue: shape.reads == shape::Reads::Blue,
    })
}

/// In place nothing follows anything, and there is no soak.
fn soak_spec(shape: Option<shape::Soak>) -> Result<SoakSpec, Flaw> {
    let Some(shape) = shape else { return Ok(SoakSpec { for_secs: 0, then_finish: true }) };
    Ok(SoakSpec {
        for_secs: scalar::read_duration(&shape.lasts)?.as_secs(),
        then_finish: matches!(shape.then, shape::AfterSoak::Finish),
    })
}

fn validate_spec(shape: shape::Validate) -> Result<ValidateSpec, Flaw> {
    let assertions = shape.assertions.into_iter();
    Ok(ValidateSpec {
        rows: shape.rows,
        chunk_rows: shape.chunk_rows,
        parallel: shape.parallel,
        exclude: shape.exclude.iter().map(|name| scalar::read_relation(name)).collect::<Result<_, _>>()?,
        assertions: assertions.map(|a| AssertionSpec { name: a.name, query: a.query, expect: a.expect }).collect(),
    })
}

fn snapshot_spec(shape: shape::Snapshot, folder: &Path) -> Result<SnapshotSpec, Flaw> {
    let store = match shape.store {
        shape::Store::Basebackup => StoreSpec::Basebackup { wal: shape.wal.unwrap_or(WalSpec::ArchiveCommand) },
        shape::Store::Pgbackrest => StoreSpec::Pgbackrest {
            stanza: shape.stanza.ok_or_else(|| Flaw::new("`snapshot.stanza` is missing"))?,
            config: shape.config.map(PathBuf::from),
        },
    };
    let age = shape.retention.age.as_deref().map(scalar::read_duration).transpose()?;
    Ok(SnapshotSpec {
        store,
        host: scalar::read_host(&shape.host)?,
        dir: shape.dir.into(),
        url: shape.url.map(Template),
        bin_dir: shape.bin_dir.map(PathBuf::from),
        ssh_config: shape.ssh_config.map(|file| folder.join(file)),
        retention: RetentionSpec { count: shape.retention.count, age_secs: age.map(|age| age.as_secs()) },
        max_age_secs: scalar::read_duration(&shape.max_age)?.as_secs(),
        prove: shape.prove,
        keep_blue_secs: scalar::read_duration(&shape.keep_blue)?.as_secs(),
    })
}

fn gate(shape: shape::Gate) -> Result<Gate, Flaw> {
    let hours = shape.hours.map(|hours| {
        let (from, to) = (scalar::read_clock(&hours.from)?, scalar::read_clock(&hours.to)?);
        Ok(OpenHours { zone: hours.zone, days: hours.days, from, to })
    });
    Ok(Gate { approval: shape.approval, hours: hours.transpose()?, because: None })
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// The JSON Schema of playbooks, by which editors complete and check them.
pub fn json_schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Shape>().to_value();
    without_null(&mut schema);
    schema
}

/// A key is written with a value or left out; what is optional in Rust need not be nullable in YAML.
fn without_null(schema: &mut serde_json::Value) {
    use serde_json::Value as Json;
    if let Json::Object(object) = schema {
        object.retain(|key, value| !(key == "default" && value.is_null()));
        if let Some(Json::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                object.insert("type".to_owned(), one);
            }
        }
        if let Some(Json::Array(choices)) = object.get("anyOf")
            && let [Json::Object(one), Json::Object(null)] = choices.as_slice()
            && null.get("type").is_some_and(|name| name == "null")
        {
            let one = one.clone();
            object.remove("anyOf");
            for (key, value) in one {
                object.entry(key).or_insert(value);
            }
        }
    }
    match schema {
        Json::Object(object) => object.values_mut().for_each(without_null),
        Json::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

//! What a person changed in the playbook and in the migrations since a run was created. The run goes by its own plan.

use crate::migrate::files;
use crate::plan::{Gate, Plan, RouteSpec, StepName, Strategy};
use crate::playbook::Playbook;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Each key of the playbook, and each file of migrations, that is another one now. What the plan does not keep, such as
/// `accept`, is not compared.
pub(super) fn edits(playbook: &Playbook, plan: &Plan) -> Vec<String> {
    let (now, then) = (leaves(&of_playbook(playbook)), leaves(&of_plan(plan)));
    let keys: std::collections::BTreeSet<&String> = now.keys().chain(then.keys()).collect();
    let mut edits: Vec<String> =
        keys.into_iter().filter(|key| now.get(*key) != then.get(*key)).map(|key| format!("`{key}`")).collect();
    edits.extend(of_files(playbook, plan));
    edits
}

fn of_playbook(playbook: &Playbook) -> Value {
    json!({
        "strategy": playbook.strategy, "blue": playbook.blue, "green": playbook.green, "green.create": playbook.standby,
        "green.restore": playbook.restore_into, "shadow": playbook.shadow, "routes": playbook.routes, "window": playbook.window,
        "validate": playbook.validate, "history": playbook.history, "soak": playbook.soak, "limits": playbook.limits,
        "snapshot": playbook.snapshot.as_ref().filter(|_| playbook.strategy != Strategy::Restored),
        "green.snapshot": playbook.green_snapshot, "on_failure": playbook.on_failure,
        "gates.before_migrate": words(&playbook.before_migrate), "gates.before_window": words(&playbook.before_window),
    })
}

fn of_plan(plan: &Plan) -> Value {
    let gate = |names: &[StepName]| {
        let gates = plan.steps.iter().filter(|step| names.contains(&step.name)).map(|step| &step.gate);
        // One that asks for a reason of its own is not the playbook's.
        words(gates.clone().find(|gate| **gate != Gate::default() && gate.because.is_none()).unwrap_or(&Gate::default()))
    };
    // Where a route led when it was planned was seen, and is nobody's wish.
    let routes: Vec<RouteSpec> = plan.routes.iter().map(|route| RouteSpec { entry: None, ..route.clone() }).collect();
    json!({
        "strategy": plan.strategy, "blue": plan.blue, "green": plan.green, "green.create": plan.standby,
        "green.restore": plan.restore_into, "shadow": plan.shadow, "routes": routes, "window": plan.window,
        "validate": plan.validate, "history": plan.history, "soak": plan.soak, "limits": plan.limits, "snapshot": plan.snapshot,
        "green.snapshot": plan.green_snapshot, "on_failure": plan.on_failure,
        "gates.before_migrate": gate(&[StepName::PrepareBlue, StepName::MigrateGreen]),
        "gates.before_window": gate(&[StepName::Window]),
    })
}

fn words(gate: &Gate) -> Value {
    json!({ "approval": gate.approval, "hours": gate.hours })
}

/// Each value by the keys that lead to it, as a playbook writes them.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    let Value::Object(top) = value else { return leaves };
    for (key, value) in top {
        match value {
            Value::Object(inner) if !key.starts_with("gates") => {
                for (name, value) in inner {
                    let name = ["_ms", "_secs", "_bytes", "_bytes_max"]
                        .iter()
                        .fold(name.as_str(), |name, unit| name.strip_suffix(unit).unwrap_or(name));
                    leaves.insert(format!("{key}.{name}"), value.clone());
                }
            }
            Value::Null => {}
            value => drop(leaves.insert(key.clone(), value.clone())),
        }
    }
    leaves
}

fn of_files(playbook: &Playbook, plan: &Plan) -> Vec<String> {
    let Some(folder) = &playbook.migrations_dir else { return Vec::new() };
    let Ok(found) = files::read(folder) else {
        return vec![format!("the files in `{}`, which cannot be used now", folder.display())];
    };
    let mut edits = Vec::new();
    for planned in &plan.migrations {
        match found.iter().find(|migration| migration.is_version(&planned.version)) {
            None => edits.push(format!("`{}` is gone", planned.file_name())),
            Some(now) if now.up != planned.up || now.name != planned.name => {
                edits.push(format!("`{}` has changed", planned.file_name()));
            }
            Some(now) if now.down != planned.down => edits.push(format!("`{}` has changed", planned.down_file_name())),
            Some(_) => {}
        }
    }
    // Older ones than the plan's are on blue already.
    let last = plan.migrations.iter().map(|migration| files::order(&migration.version)).max();
    let newer = found.iter().filter(|migration| last.as_ref().is_some_and(|last| files::order(&migration.version) > *last));
    edits.extend(newer.map(|migration| format!("`{}` is new", migration.file_name())));
    edits
}

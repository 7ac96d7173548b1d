//! New triggers on tables that flow. For rows that replication applies, a row trigger fires only where it is told to, and a
//! statement trigger never does.
//!
//! A trigger that fills what only green has must fire for those rows too, or they would lack it. A trigger that sets what
//! blue has too must not: its work has been done on blue, or was never meant for rows of the old application.

use super::{Catalog, Persistence, Table, Trigger};
use crate::migrate::{BodyEffects, WrittenName, body_effects};
use crate::plan::SyncTrigger;

/// The migration's own row triggers that must fire for applied rows while green follows blue: those that set columns, or
/// write tables, which only green has, and none that blue has.
pub fn sync_triggers(before: &Catalog, after: &Catalog) -> Vec<SyncTrigger> {
    let mut found = Vec::new();
    for (name, green) in &after.tables {
        let Some(blue) = before.tables.get(name).filter(|blue| blue.persistence == Persistence::Permanent) else { continue };
        for trigger in added(blue, green) {
            if trigger.row_level && trigger.enabled == "O" && only_on_green(&effects(trigger, after), before, blue) {
                found.push(SyncTrigger { table: green.name.clone(), name: trigger.name.clone() });
            }
        }
    }
    found
}

/// Says of each new trigger whether it fires for rows from blue.
pub(super) fn says(before: &Catalog, blue: &Table, after: &Catalog, green: &Table) -> Vec<String> {
    let says = |trigger: &Trigger| {
        let name = &trigger.name;
        if trigger.row_level && trigger.enabled == "O" && only_on_green(&effects(trigger, after), before, blue) {
            format!("the new trigger `{name}` fires for rows from blue too, while the run lasts")
        } else {
            format!("the new trigger `{name}` does not fire for rows from blue")
        }
    };
    added(blue, green).map(says).collect()
}

/// Whether the migration makes a trigger that keeps other tables up to date with this one's rows.
pub(super) fn kept_elsewhere(blue: &Table, after: &Catalog) -> bool {
    let Some(green) = after.tables.get(&blue.name.to_string()) else { return false };
    added(blue, green).any(|trigger| trigger.row_level && !effects(trigger, after).writes.is_empty())
}

fn added<'a>(blue: &'a Table, green: &'a Table) -> impl Iterator<Item = &'a Trigger> {
    green.triggers.iter().filter(|trigger| !blue.triggers.iter().any(|old| old.name == trigger.name))
}

fn effects(trigger: &Trigger, catalog: &Catalog) -> BodyEffects {
    let call = trigger.definition.rsplit_once("EXECUTE FUNCTION ").map_or("", |(_, call)| call);
    let function = call.split_once('(').map_or(call, |(name, _)| name);
    catalog.functions.get(&format!("{function}()")).map(|definition| body_effects(definition)).unwrap_or_default()
}

fn only_on_green(effects: &BodyEffects, before: &Catalog, blue: &Table) -> bool {
    let shared_column = effects.sets.iter().any(|column| blue.column(column).is_some());
    let is_shared = |name: &WrittenName| {
        before
            .tables
            .values()
            .map(|table| &table.name)
            .any(|known| known.name == name.name && name.schema.as_ref().is_none_or(|schema| *schema == known.schema))
    };
    let something = !(effects.sets.is_empty() && effects.writes.is_empty());
    something && !shared_column && !effects.writes.iter().any(is_shared)
}

/// Whether a trigger that was there before may write in answer to an UPDATE of these columns: it is named by the shadow.
pub(super) fn old_ones<'a>(blue: &Table, fires: &'a [String]) -> Vec<&'a str> {
    let old = |name: &&String| blue.triggers.iter().any(|trigger| trigger.row_level && trigger.name == **name);
    fires.iter().filter(old).map(String::as_str).collect()
}

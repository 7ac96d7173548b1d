use crate::word::{RunId, Side};
use serde::{Deserialize, Serialize};

/// Every name that the outside world sees, derived from the run: a repeated create finds its own work, and a sweep finds
/// the leftovers of lost runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The publication on blue and the subscription on green that follows it.
    pub forward: String,
    /// The publication on green and the subscription on blue that follows it.
    pub reverse: String,
    pub restore_point: String,
    /// The physical slot of a standby that the run makes.
    pub standby_slot: String,
}

/// The schema that holds what Greenlight keeps in a database: marker, claim, fence.
pub const SCHEMA: &str = "greenlight";

/// What every name begins with.
pub const PREFIX: &str = "greenlight_";

/// What the name of a slot begins with by which a store takes blue's log: it belongs to no run.
pub const WAL_PREFIX: &str = "greenlight_wal_";

/// Whether a slot, publication or subscription bears the name that a run would give it.
pub fn is_of_a_run(name: &str) -> bool {
    let run = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('_'));
    run.is_some_and(|(run, kind)| ["fwd", "rev", "standby"].contains(&kind) && run.parse::<RunId>().is_ok())
}

/// The scratch database in which a run's migrations are tried.
pub fn shadow_database(run: &RunId) -> String {
    format!("{PREFIX}{run}_shadow")
}

impl Names {
    pub fn new(run: &RunId) -> Names {
        Names {
            forward: format!("{PREFIX}{run}_fwd"),
            reverse: format!("{PREFIX}{run}_rev"),
            restore_point: format!("{PREFIX}{run}"),
            standby_slot: format!("{PREFIX}{run}_standby"),
        }
    }

    /// The name of the publication and slot on `from`, and of the subscription on the other side.
    pub fn flow_from(&self, from: Side) -> &str {
        match from {
            Side::Blue => &self.forward,
            Side::Green => &self.reverse,
        }
    }
}

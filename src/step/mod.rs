//! The steps, one file each: `observe` reads what is so, `advance` and `revert` move.
//!
//! **Invariant:** steps know ports, never an implementation and never the engine.

mod arm_freeze;
mod arm_restore;
mod arm_reverse;
mod attach_green;
pub(crate) mod clocks;
mod context;
mod create_standby;
mod finish;
mod marker;
mod migrate_blue;
mod migrate_green;
mod narrow_flow;
mod place;
mod prepare_blue;
mod publish_blue;
mod release_blue;
mod restored;
mod routes;
mod shadow_green;
mod snapshot;
mod soak;
mod stuck;
mod subscribe_green;
mod validate_blue;
mod validate_green;
mod warm_green;
mod watch;
mod window;

pub use context::{Guard, Ports, Records, Route, StepContext};
pub use place::Lost;
pub use routes::{Lead, LeadsTo, leads};
pub use stuck::{Stuck, stuck};
pub use watch::{Sight, look};
pub use window::{By, changes_of_green, let_clients_read, make_safe};

use crate::plan::StepName;
use crate::postgres::{FenceProbe, Server};
use crate::run::StepNo;
use crate::word::{PortError, Side};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

/// What an observation says of a step's effect on the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    Absent,
    Partial,
    Complete,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// Begun, and to be called again after this time. `note` says what is waited for, without numbers that change: a
    /// changed note is a record in the journal.
    Pending {
        poll_after: Duration,
        note: String,
    },
    /// Nothing has been changed, and the step cannot begin yet: back before its gate.
    NotYet {
        poll_after: Duration,
        note: String,
    },
}

#[async_trait]
pub trait Step: Send + Sync {
    /// Reads the world and changes nothing. Settles what a lost call came to.
    async fn observe(&self, cx: &mut StepContext<'_>) -> Result<Observed, PortError>;
    /// Moves the world towards done. Called again after `Pending`, after a failure, and after a crash.
    async fn advance(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError>;
    /// Takes back whatever `advance` did, in whole or in part.
    async fn revert(&self, cx: &mut StepContext<'_>) -> Result<Progress, PortError>;
}

/// The behaviour of a step of the plan.
pub fn named(name: StepName) -> &'static dyn Step {
    match name {
        StepName::Snapshot => &snapshot::Snapshot,
        StepName::PrepareBlue => &prepare_blue::PrepareBlue,
        StepName::CreateStandby => &create_standby::CreateStandby,
        StepName::PublishBlue => &publish_blue::PublishBlue,
        StepName::AttachGreen => &attach_green::AttachGreen,
        StepName::SubscribeGreen => &subscribe_green::SubscribeGreen,
        StepName::ShadowGreen => &shadow_green::ShadowGreen,
        StepName::NarrowFlow => &narrow_flow::NarrowFlow,
        StepName::MigrateGreen => &migrate_green::MigrateGreen,
        StepName::WarmGreen => &warm_green::WarmGreen,
        StepName::ArmReverse => &arm_reverse::ArmReverse,
        StepName::ValidateGreen => &validate_green::ValidateGreen,
        StepName::ArmFreeze => &arm_freeze::ArmFreeze,
        StepName::Window => &window::Window,
        StepName::Soak => &soak::Soak,
        StepName::Finish => &finish::Finish,
        StepName::ArmRestore => &arm_restore::ArmRestore,
        StepName::MigrateBlue => &migrate_blue::MigrateBlue,
        StepName::ValidateBlue => &validate_blue::ValidateBlue,
        StepName::ReleaseBlue => &release_blue::ReleaseBlue,
        StepName::AttachRestored => &restored::AttachRestored,
    }
}

/// Ends what a coordinator before this one, or a broken connection of this one, may still have under way on the servers:
/// looked at or repeated before it lands, it would land afterwards. Before every observation. Green is asked once the run
/// has come to it, and not any more when a person gave it up. An open window is made safe first, which does it where it
/// matters and does not wait for a server that is down.
pub async fn end_older_sessions(cx: &StepContext<'_>, step: StepNo) -> Result<(), PortError> {
    if cx.run().open_window().is_some() {
        return Ok(());
    }
    cx.ports.blue.ensure_sole_coordinator().await?;
    let attaches = [StepName::AttachGreen, StepName::ArmFreeze, StepName::AttachRestored].map(|name| cx.plan.step_no(name));
    let has_green = attaches.into_iter().flatten().any(|attaches| attaches.0 <= step.0) || cx.run().has_restored();
    if has_green && !cx.run().without_green { cx.ports.green.ensure_sole_coordinator().await } else { Ok(()) }
}

/// Err unless the fence of this side was probed and holds.
async fn fenced(server: &Arc<dyn Server>, side: Side) -> Result<(), PortError> {
    match server.probe_fence().await? {
        FenceProbe::Holds => Ok(()),
        FenceProbe::Leaks { how } => Err(PortError::transient(format!("fence {side}")).because(how)),
    }
}

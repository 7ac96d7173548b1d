//! Looked at between the steps, while the run waits: does it endanger the serving side, has anything been changed behind it?

use super::{StepContext, place, place::Lost, routes};
use crate::plan::StepName;
use crate::run::{Direction, StepNo};
use crate::word::{PortError, Side};
use tokio::join;

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Fine,
    /// The run must be given up now: blue's health outranks it.
    GiveUp {
        reason: String,
    },
    /// A server is not what it was: the run cannot go on with it, and a person is told so.
    Lost(Lost),
}

/// At the servers, and beside that at the routes, which are helped.
pub async fn look(cx: &StepContext<'_>) -> Result<Sight, PortError> {
    let (sight, ()) = join!(servers(cx), routes::help(cx));
    sight
}

/// Blue's slot while blue serves. The soak looks after green's itself. On the way back to the beginning a slot that
/// endangers blue is dropped here and now, since the steps that are taken back before its turn may wait for green.
async fn servers(cx: &StepContext<'_>) -> Result<Sight, PortError> {
    // Blue's health first: a green that does not answer hides nothing of it.
    let sight = blues_slot(cx).await?;
    if sight != Sight::Fine {
        return Ok(sight);
    }
    let run = cx.run();
    // The soak looks by itself, and going back each step that green is needed for.
    let soaks = run.present_step().is_some_and(|step| cx.plan.steps[step.0].name == StepName::Soak);
    // An open window is made safe first, by whoever holds the run.
    if run.direction == Direction::Forward
        && !soaks
        && run.open_window().is_none()
        && let Some(lost) = place::lost(cx).await?
    {
        return Ok(Sight::Lost(lost));
    }
    Ok(Sight::Fine)
}

async fn blues_slot(cx: &StepContext<'_>) -> Result<Sight, PortError> {
    let run = cx.run();
    if run.serving() != Side::Blue || run.slot_lsn(Side::Blue).is_none() {
        return Ok(Sight::Fine);
    }
    let (name, limit) = (&cx.plan.names.forward, cx.plan.limits.wal_kept_bytes_max);
    let slot = cx.ports.blue.slot(name).await?;
    if run.direction == Direction::Backward {
        if run.until == StepNo(0) && slot.is_some_and(|slot| slot.retained_bytes > limit) {
            cx.ports.blue.ensure_no_slot(name).await?;
        }
        return Ok(Sight::Fine);
    }
    let reason = match slot {
        None => "blue's slot for green is gone, so green can no longer follow".to_owned(),
        Some(slot) if slot.lost => "blue removed WAL that green had not read (`max_slot_wal_keep_size`)".to_owned(),
        Some(slot) if slot.retained_bytes > limit => {
            format!("blue kept {} bytes of WAL for green, more than `limits.wal_kept` of {limit}", slot.retained_bytes)
        }
        Some(_) => return Ok(Sight::Fine),
    };
    Ok(Sight::GiveUp { reason })
}

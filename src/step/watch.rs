//! Looked at between the steps, while the run waits: does it endanger the serving side, has anything been changed behind it?

use super::StepContext;
use crate::run::{Direction, StepNo};
use crate::word::{PortError, Side};

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Fine,
    /// The run must be given up now: blue's health outranks it.
    GiveUp {
        reason: String,
    },
}

/// Blue's slot while blue serves. The soak looks after green's itself. On the way back to the beginning a slot that
/// endangers blue is dropped here and now, since the steps that are taken back before its turn may wait for green.
pub async fn look(cx: &StepContext<'_>) -> Result<Sight, PortError> {
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

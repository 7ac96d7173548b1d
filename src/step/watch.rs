//! Looked at between the steps, while the run waits: does it endanger the serving side, has anything been changed behind it?

use super::StepContext;
use crate::postgres::SlotState;
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
    let (name, to_the_beginning) = (&cx.plan.names.forward, run.until == StepNo(0));
    let danger = danger(cx.ports.blue.slot(name).await?, cx.plan.limits.wal_kept_bytes_max);
    Ok(match (danger, run.direction) {
        (None, _) => Sight::Fine,
        (Some(reason), Direction::Forward) => Sight::GiveUp { reason },
        (Some(_), Direction::Backward) => {
            if to_the_beginning {
                cx.ports.blue.ensure_no_slot(name).await?;
            }
            Sight::Fine
        }
    })
}

fn danger(slot: Option<SlotState>, limit: u64) -> Option<String> {
    match slot {
        None => Some("blue's slot for green is gone, so green can no longer follow".to_owned()),
        Some(slot) if slot.lost => Some("blue removed WAL that green had not read (`max_slot_wal_keep_size`)".to_owned()),
        Some(slot) if slot.retained_bytes > limit => {
            Some(format!("blue kept {} bytes of WAL for green, more than `limits.wal_kept` of {limit}", slot.retained_bytes))
        }
        Some(_) => None,
    }
}

//! Looked at between the steps, while the run waits: does it endanger the serving side, has anything been changed behind it?

use super::StepContext;
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

/// Blue's slot while blue serves. The soak looks after green's itself.
pub async fn look(cx: &StepContext<'_>) -> Result<Sight, PortError> {
    if cx.run().serving() != Side::Blue || cx.run().slot_lsn(Side::Blue).is_none() {
        return Ok(Sight::Fine);
    }
    let Some(slot) = cx.ports.blue.slot(&cx.plan.names.forward).await? else {
        return Ok(Sight::GiveUp { reason: "blue's slot for green is gone, so green can no longer follow".to_owned() });
    };
    if slot.lost {
        return Ok(Sight::GiveUp { reason: "blue removed WAL that green had not read (`max_slot_wal_keep_size`)".to_owned() });
    }
    let limit = cx.plan.limits.wal_kept_bytes_max;
    Ok(if slot.retained_bytes > limit {
        Sight::GiveUp {
            reason: format!("blue kept {} bytes of WAL for green, more than `limits.wal_kept` of {limit}", slot.retained_bytes),
        }
    } else {
        Sight::Fine
    })
}

//! Why the side that follows takes no rows, as far as it can be told: looked for once, and said in the same words by all.

use super::Ports;
use crate::postgres::SubscriptionState;
use crate::word::Side;

/// What keeps a flow from arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// These rows do not fit there, by table and key: they will not arrive before somebody makes them fit.
    Rows(String),
    /// It fails, and nobody knows for how long.
    Fails(String),
    /// It does not run, and has not failed: it may be on its way.
    Rests(String),
}

impl Stuck {
    pub fn why(&self) -> &str {
        match self {
            Stuck::Rows(why) | Stuck::Fails(why) | Stuck::Rests(why) => why,
        }
    }
}

/// `None`: it streams. `to`: the side whose subscription this is.
pub async fn stuck(ports: &Ports, to: Side, subscription: &SubscriptionState) -> Option<Stuck> {
    if subscription.enabled && subscription.streaming {
        return None;
    }
    let rests =
        || Stuck::Rests(format!("{to}'s subscription is {}", if subscription.enabled { "not streaming" } else { "disabled" }));
    if subscription.apply_errors == 0 {
        return Some(rests());
    }
    let mut rows = Vec::new();
    for (_, look) in ports.refusals.iter().filter(|(side, _)| *side == to) {
        match look.check(&|_, _, _| ()).await {
            Ok(findings) => rows.extend(findings.differences.iter().filter(|row| row.key.is_some()).map(ToString::to_string)),
            Err(error) => tracing::warn!(error = %error.chain(), "could not look for the rows that {to} refuses"),
        }
    }
    if !rows.is_empty() {
        return Some(Stuck::Rows(rows.join("; ")));
    }
    let said = subscription.last_error.clone().unwrap_or_else(|| format!("{to}'s log says more"));
    Some(Stuck::Fails(format!("it does not apply what comes, after {} errors: {said}", subscription.apply_errors)))
}

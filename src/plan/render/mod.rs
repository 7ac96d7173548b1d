//! A plan as a person reads it: text for a terminal, a diagram in Mermaid. JSON is the plan's own serialisation.
//!
//! **Invariant:** returns strings, prints nothing, knows no colour, and shows no more of a URL than host and database.

mod mermaid;
mod text;

pub use mermaid::mermaid;
pub use text::text;

use super::{Gate, ServerSpec};

/// Host, port and database of a URL: neither user nor password, nor parameters.
fn address(spec: &ServerSpec) -> &str {
    let url = spec.url.0.as_str();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split_once('?').map_or(rest, |(address, _)| address)
}

/// What a gate asks for, for people; `None` for one that is always open.
fn asks_for(gate: &Gate) -> Option<String> {
    match (gate.approval, &gate.hours) {
        (false, None) => None,
        (true, None) => Some("an approval".to_owned()),
        (true, Some(hours)) => Some(format!("an approval, and {hours}")),
        (false, Some(hours)) => Some(hours.to_string()),
    }
}

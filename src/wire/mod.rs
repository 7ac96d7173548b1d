//! Playbook -> trait objects: the only place that names both sides, the ports and what implements them. Reads the
//! environment and the files that references name.

mod look;
mod pass;
mod ports;
mod store;

pub use look::{first_playbook, make_plan, route_versions};
pub use ports::ports;
pub use store::{host, restore_place, store, store_of};

use crate::playbook;
use crate::postgres::programs::Installed;
use crate::word::{Endpoint, EndpointError, Secret, Template};
use anyhow::{Context, anyhow};
use std::ffi::OsString;

/// Folders of PostgreSQL programs besides the usual ones, separated by colons.
pub const PROGRAM_FOLDERS: &str = "GREENLIGHT_PG_DIRS";

/// A variable of this process.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Resolves the references of a playbook's URL and reads it.
///
/// # Errors
/// Says which reference leads nowhere or what is wrong with the URL; never shows a secret.
pub fn endpoint(url: &Template) -> anyhow::Result<Endpoint> {
    resolved(url).context("could not use a URL of the playbook")
}

/// As `endpoint`, of a URL that was typed, as `argument`: every user of the machine can read that.
///
/// # Errors
/// As `endpoint`, and for a password that is written out in it. The URL itself is in no error.
pub fn typed_endpoint(url: &str, argument: &str) -> anyhow::Result<Endpoint> {
    let read = if playbook::holds_password(url) {
        let problem = "a password stands in it, in the clear, where the list of processes and the shell's history show it; keep it in a \
                       file or in the environment, and write `${file:/path/to/it}` or `${env:NAME}` in its place, in single quotes";
        Err(EndpointError { problem: problem.to_owned() }.into())
    } else {
        resolved(&Template(url.to_owned()))
    };
    read.with_context(|| format!("could not use the URL that was given as {argument}"))
}

fn resolved(url: &Template) -> anyhow::Result<Endpoint> {
    let text: Secret = playbook::resolve_url(url, &environment).map_err(|why| anyhow!("{why}"))?;
    Ok(Endpoint::parse(text.expose())?)
}

/// The PostgreSQL programs of this machine.
pub async fn installed() -> Installed {
    let named = environment(PROGRAM_FOLDERS).map(OsString::from);
    let path = environment("PATH").map(OsString::from);
    Installed::find(named.as_deref(), path.as_deref()).await
}

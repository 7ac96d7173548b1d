//! Playbook -> trait objects: the only place that names both sides, the ports and what implements them. Reads the
//! environment and the files that references name.

mod look;
mod ports;
mod store;

pub use look::{first_playbook, make_plan, route_versions};
pub use ports::ports;
pub use store::{host, restore_place, store, store_of};

use crate::playbook;
use crate::postgres::programs::Installed;
use crate::word::{Endpoint, Secret, Template};
use anyhow::{Context, anyhow};
use std::ffi::OsString;

/// Folders of PostgreSQL programs besides the usual ones, separated by colons.
pub const PROGRAM_FOLDERS: &str = "GREENLIGHT_PG_DIRS";

/// A variable of this process.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Resolves a URL's references and reads it.
///
/// # Errors
/// Says which reference leads nowhere or what is wrong with the URL; never shows a secret.
pub fn endpoint(url: &Template) -> anyhow::Result<Endpoint> {
    let resolved: Secret = playbook::resolve_url(url, &environment)
        .map_err(|why| anyhow!("{why}"))
        .with_context(|| format!("could not use the URL `{url}`"))?;
    Endpoint::parse(resolved.expose()).with_context(|| format!("could not use the URL `{url}`"))
}

/// The PostgreSQL programs of this machine.
pub async fn installed() -> Installed {
    let named = environment(PROGRAM_FOLDERS).map(OsString::from);
    let path = environment("PATH").map(OsString::from);
    Installed::find(named.as_deref(), path.as_deref()).await
}

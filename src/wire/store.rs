//! The playbook's section `snapshot`, as a real store.

use super::{endpoint, installed};
use crate::plan::{HostSpec, RestoreSpec, SnapshotSpec, StoreSpec};
use crate::playbook::Playbook;
use crate::snapshot::restore::Place;
use crate::snapshot::{Basebackup, Host, Notes, Pgbackrest, SnapshotStore, Source};
use crate::word::{Endpoint, SystemClock};
use anyhow::Context;
use std::path::PathBuf;
use std::sync::Arc;

/// The store of a playbook, and how blue is reached. Opens no connection.
///
/// # Errors
/// The playbook has no such section; a reference leads nowhere, or a URL cannot be used.
pub async fn store(playbook: &Playbook) -> anyhow::Result<(Arc<dyn SnapshotStore>, Source)> {
    let spec = playbook.snapshot.as_ref().context("the playbook has no section `snapshot`, which says where backups are")?;
    let at = endpoint(&playbook.blue.url)?;
    let from_host = spec.url.as_ref().map_or_else(|| Ok(at.clone()), endpoint)?;
    store_of(spec, &playbook.name, at, from_host).await
}

/// The same by its parts.
///
/// # Errors
/// None yet; what a store needs may have to be looked up.
pub async fn store_of(
    spec: &SnapshotSpec,
    name: &str,
    at: Endpoint,
    from_host: Endpoint,
) -> anyhow::Result<(Arc<dyn SnapshotStore>, Source)> {
    let source = Source { at, from_host };
    let notes = Notes { host: host(&spec.host, spec.ssh_config.clone(), spec.bin_dir.clone()).await, dir: spec.dir.clone() };
    let clock = Arc::new(SystemClock::new());
    let store: Arc<dyn SnapshotStore> = match &spec.store {
        StoreSpec::Basebackup { wal } => {
            Arc::new(Basebackup { source: source.clone(), notes, wal: *wal, slot: Basebackup::slot_of(name), clock })
        }
        StoreSpec::Pgbackrest { stanza, config } => {
            Arc::new(Pgbackrest { source: source.clone(), notes, stanza: stanza.clone(), config: config.clone(), clock })
        }
    };
    Ok((store, source))
}

/// Where a change in place restores what `snapshot` keeps in this store.
pub async fn restore_place(spec: &RestoreSpec, snapshot: &SnapshotSpec, store: &dyn SnapshotStore, port: u16) -> Place {
    let host = match &spec.host {
        Some(named) => host(named, snapshot.ssh_config.clone(), None).await,
        None => store.host().clone(),
    };
    Place { host, data_dir: spec.data_dir.clone(), port, throwaway: false }
}

/// A machine on which files are.
pub async fn host(spec: &HostSpec, ssh_config: Option<PathBuf>, bin_dir: Option<PathBuf>) -> Host {
    Host { spec: spec.clone(), ssh_config, bin_dir, installed: installed().await }
}

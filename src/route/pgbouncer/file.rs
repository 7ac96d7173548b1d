//! PgBouncer's configuration file: read, and replaced in one move.

use super::{PgBouncer, ini::EntryError};
use crate::process::files::Held;
use crate::word::PortError;
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::PoisonError,
};

/// Several routes may share one file, and move at the same time: each reads, decides and writes alone.
static EDITING: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl PgBouncer {
    /// Rewrites the configuration file by `edit`, off the async threads. `true`: it was changed.
    pub(super) async fn edit_config(
        &self,
        edit: impl FnOnce(&[u8]) -> Result<Vec<u8>, EntryError> + Send + 'static,
    ) -> Result<bool, PortError> {
        let (config, database) = (self.config.clone(), self.database.clone());
        let work = move || {
            let _one_at_a_time = EDITING.lock().unwrap_or_else(PoisonError::into_inner);
            let file = read_config(&config)?;
            let edited = edit(&file).map_err(|error| entry_refused(&config, &database, &error))?;
            if edited == file {
                return Ok(false);
            }
            replace_config(&config, &edited)?;
            Ok(true)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| PortError::uncertain(format!("edit `{}`", self.config.display())).because(error))?
    }
}

pub(super) fn read_config(config: &Path) -> Result<Vec<u8>, PortError> {
    Held::of(config).and_then(|held| fs::read(held.path())).map_err(|error| {
        PortError::refused(format!("read PgBouncer's configuration `{}`", config.display()))
            .because(error)
            .hint("the coordinator runs on PgBouncer's machine and needs to read and write that file")
    })
}

/// Replaces the file in one move, so that PgBouncer never reads half of one; owner, group and mode stay.
fn replace_config(config: &Path, content: &[u8]) -> Result<(), PortError> {
    let failed = |error: io::Error| {
        PortError::refused(format!("write PgBouncer's configuration `{}`", config.display()))
            .because(error)
            .hint("the folder must be writable, and the new file must get the same owner as the old one")
    };
    // A link stays a link: the file behind it is replaced. Its folder may be another user's, who may put links there.
    let held = Held::of(config).map_err(failed)?;
    let at = held.path();
    let temporary = write_beside(&at, content).map_err(failed)?;
    fs::rename(&temporary, &at).map_err(failed)?;
    // From here on the change has happened; what is left to fail is its survival of a power cut.
    at.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all()).map_err(|error| {
        PortError::uncertain(format!("make the new PgBouncer configuration `{}` durable", config.display())).because(error)
    })
}

/// A new file beside `file` with this content and `file`'s owner, group and mode, on the disk when it returns.
pub(super) fn write_beside(file: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".greenlight");
    let temporary = file.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made readable for nobody else first: the file may hold passwords.
    let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = (|| {
        let (old, own) = (fs::symlink_metadata(file)?, new.metadata()?);
        if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
            std::os::unix::fs::fchown(&new, Some(old.uid()), Some(old.gid()))?;
        }
        new.set_permissions(old.permissions())?;
        new.write_all(content)?;
        new.sync_all()
    })();
    if let Err(error) = written {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

pub(super) fn entry_refused(config: &Path, database: &str, error: &EntryError) -> PortError {
    let hint = match error {
        EntryError::Missing => "name the file in which the entry stands, which may be one that `pgbouncer.ini` includes",
        EntryError::Wildcard => "give the database an entry of its own; moving `*` would move every other database too",
        EntryError::Repeated(_) => "leave one entry for the database: PgBouncer takes the last",
        EntryError::SeveralHosts(_) => "a route that moves has one host",
        EntryError::NotUnicode | EntryError::Syntax(_) => "PgBouncer's manual, section `[databases]`, shows the format",
        EntryError::LineBreak(_) => "rename the database",
    };
    PortError::refused(format!("use the entry `{database}` of `{}`", config.display()))
        .because(format!("the entry {error}"))
        .hint(hint)
}

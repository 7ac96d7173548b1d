//! Which files PgBouncer reads, by its own word, and whether the one that is edited is among them.
//!
//! A file is replaced by a new one of the same name, so a second name of the same inode (a hard link, a file mounted into a
//! container) is another file: what counts is the folder, by device and inode, and the name in it.

use super::{PgBouncer, ini};
use crate::word::PortError;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A file by the folder that it stands in, and its name there.
type Place = (u64, u64, std::ffi::OsString);

/// What PgBouncer reads.
#[derive(Debug)]
pub(super) struct Files {
    /// As PgBouncer names its own.
    pub(super) named: String,
    /// Those that can be read here: its own and what it includes, as seen from here.
    pub(super) read: Vec<PathBuf>,
    /// Everything could be read, and it is known that these are PgBouncer's own: its process was found.
    whole: bool,
}

impl Files {
    /// `None`: it cannot be told here.
    pub(super) fn have(&self, config: &Path) -> Option<bool> {
        let wanted = place(config)?;
        if self.read.iter().filter_map(|path| place(path)).any(|place| place == wanted) {
            return Some(true);
        }
        self.whole.then_some(false)
    }

    pub(super) fn in_words(&self, config: &Path) -> String {
        let read: Vec<String> = self.read.iter().map(|path| format!("`{}`", path.display())).collect();
        let read = if read.is_empty() { format!("`{}`", self.named) } else { read.join(", ") };
        format!("PgBouncer was started with {read}, and the route's `config` is `{}`", config.display())
    }
}

fn place(path: &Path) -> Option<Place> {
    let path = path.canonicalize().ok()?;
    let folder = fs::metadata(path.parent()?).ok()?;
    Some((folder.dev(), folder.ino(), path.file_name()?.to_owned()))
}

impl PgBouncer {
    /// # Errors
    /// PgBouncer could not be asked.
    pub(super) async fn files(&self) -> Result<Files, PortError> {
        let named = self.setting("conffile").await?.unwrap_or_default();
        let Some(main) = self.as_we_see_it(&named).await? else {
            return Ok(Files { named, read: Vec::new(), whole: false });
        };
        let mut files = Files { named, read: Vec::new(), whole: self.process().await?.is_some() };
        let mut to_read = vec![main];
        while let Some(path) = to_read.pop() {
            if files.read.contains(&path) {
                continue;
            }
            let Ok(text) = tokio::fs::read(&path).await else {
                files.whole = false;
                continue;
            };
            for name in ini::includes(&text) {
                match self.as_we_see_it(&name).await? {
                    Some(path) => to_read.push(path),
                    None => files.whole = false,
                }
            }
            files.read.push(path);
        }
        Ok(files)
    }

    /// A path of PgBouncer's as it is reached from here: by its process, where that can be found, since it may stand in another
    /// folder, or in a container. `None`: it is relative, and its process is not found.
    pub(super) async fn as_we_see_it(&self, path: &str) -> Result<Option<PathBuf>, PortError> {
        let path = Path::new(path);
        let process = self.process().await?;
        let seen = process.map(|process| match path.strip_prefix("/") {
            Ok(inside) => process.join("root").join(inside),
            Err(_) => process.join("cwd").join(path),
        });
        let seen = seen.filter(|seen| seen.exists()).or_else(|| path.is_absolute().then(|| path.to_owned()));
        // By its plain name where that is the same: `/proc/12/root/etc` says less than `/etc`.
        Ok(seen.map(|seen| if place(&seen).is_some() && place(&seen) == place(path) { path.to_owned() } else { seen }))
    }

    /// Its folder in `/proc`, where it runs on this machine.
    async fn process(&self) -> Result<Option<PathBuf>, PortError> {
        let Some(file) = self.setting("pidfile").await?.filter(|file| !file.is_empty()) else { return Ok(None) };
        let Ok(pid) = tokio::fs::read_to_string(file).await else { return Ok(None) };
        let folder = Path::new("/proc").join(pid.trim());
        let is_it = pid.trim().parse::<u32>().is_ok()
            && tokio::fs::read_to_string(folder.join("comm")).await.is_ok_and(|name| name.trim() == "pgbouncer");
        Ok(is_it.then_some(folder))
    }
}

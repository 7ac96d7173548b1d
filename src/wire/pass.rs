//! What lets a run's own sessions through its fences: a secret of the run, kept in the state folder, where every coordinator of the
//! run and its guard read it. Lost, it is made anew: a superuser's session replaces the fence's function.

use crate::word::{RunId, Secret, Side};
use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const FOLDER: &str = "secrets";

/// The run's secret, made where there is none.
///
/// # Errors
/// The state folder cannot be written, or somebody else could have written or read the file.
pub(super) fn secret(state_dir: &Path, run: &RunId) -> anyhow::Result<Secret> {
    if !state_dir.exists() {
        // Nothing drives a run without a journal: this is a look, and a look leaves nothing behind.
        return Ok(Secret::new(uuid::Uuid::new_v4().simple().to_string()));
    }
    let folder = state_dir.join(FOLDER);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("could not make `{}`", folder.display()))?;
    let path = folder.join(run.as_str());
    if let Some(secret) = read(&path)? {
        return Ok(secret);
    }
    let new = uuid::Uuid::new_v4().simple().to_string();
    // Under its own name it is whole or absent, also where two make it at once.
    let written = folder.join(format!("{run}.{}", uuid::Uuid::new_v4().simple()));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&written).and_then(|mut file| {
        file.write_all(new.as_bytes())?;
        file.sync_all()
    });
    let made = made.and_then(|()| fs::hard_link(&written, &path));
    let _ = fs::remove_file(&written);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("could not write `{}`", path.display()));
        }
        _ => {}
    }
    read(&path)?.with_context(|| format!("could not read `{}`, which was just written", path.display()))
}

/// `None`: there is none.
fn read(path: &Path) -> anyhow::Result<Option<Secret>> {
    let context = || format!("could not read the run's secret in `{}`", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.with_context(context)?,
    };
    let folder = path.parent().map(fs::symlink_metadata).transpose().with_context(context)?;
    let is_ours = folder.is_some_and(|folder| folder.uid() == found.uid());
    let only_ours = found.is_file() && is_ours && found.permissions().mode().trailing_zeros() >= 6;
    ensure!(only_ours, "{}: it is no file of the folder's owner alone; remove it, and the run makes another", context());
    let text = fs::read_to_string(path).with_context(context)?;
    ensure!(text.len() == 32, "{}: it is damaged; remove it, and the run makes another", context());
    Ok(Some(Secret::new(text)))
}

/// Another for each side: what code on one of them could read of a session of ours is of no use on the other.
pub(super) fn of_side(secret: &Secret, side: Side) -> Secret {
    let digest = Sha256::digest(format!("{} {side}", secret.expose()));
    Secret::new(digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_kept_from_others_and_made_anew_when_it_is_lost() {
        let state = tempfile::tempdir().unwrap();
        let run: RunId = "r1234567".parse().unwrap();
        let first = secret(state.path(), &run).unwrap();
        assert!(first == secret(state.path(), &run).unwrap());
        let (folder, file) = (state.path().join(FOLDER), state.path().join(FOLDER).join("r1234567"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file), fs::read_dir(&folder).unwrap().count()), (0o700, 0o600, 1));
        assert!(of_side(&first, Side::Blue) != of_side(&first, Side::Green));

        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secret(state.path(), &run).unwrap_err().to_string().contains("owner alone"));
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(secret(state.path(), &run).is_err());
        fs::remove_file(&file).unwrap();
        assert!(first != secret(state.path(), &run).unwrap());
    }
}

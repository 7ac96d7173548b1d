//! Files where another user may have put something in the way: every step of a path is opened by itself, no link of
//! somebody else's is followed, and what was opened is what is changed.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// No more links in one path than the system itself follows.
const LINKS_MAX: usize = 40;
/// A file that says something in a few lines is no larger.
const SMALL: u64 = 1 << 20;

/// The folder in which `path` is or is to be, and its name there. A link on the way is followed only when root or this user
/// made it: any other may lead elsewhere in the next moment.
fn folder_of(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?.to_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((open_folder(parent)?, name))
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let start = if path.is_absolute() { "/" } else { "." };
    let mut at = rustix::fs::open(start, flags, Mode::empty())?;
    let mut left = steps(path);
    let mut links = 0;
    while let Some(step) = left.pop_front() {
        let seen = rustix::fs::statat(&at, &step, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(seen.st_mode) != FileType::Symlink {
            at = rustix::fs::openat(&at, &step, flags, Mode::empty())?;
            continue;
        }
        links += 1;
        if links > LINKS_MAX || !is_trusted(seen.st_uid) {
            let step = step.to_string_lossy();
            return Err(io::Error::other(format!("`{step}` on the way there is a link, and user {} made it", seen.st_uid)));
        }
        let target = PathBuf::from(OsStr::from_bytes(rustix::fs::readlinkat(&at, &step, Vec::new())?.as_bytes()));
        if target.is_absolute() {
            at = rustix::fs::open("/", flags, Mode::empty())?;
        }
        for step in steps(&target).into_iter().rev() {
            left.push_front(step);
        }
    }
    Ok(at)
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(step).collect()
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Makes a file that only this user can read. One that is there, or a link, is an error.
///
/// # Errors
/// As opening a file.
pub fn create_private(path: &Path) -> io::Result<File> {
    let (folder, name) = folder_of(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Writes a file that only this user can read, whole or not at all, in the place of what has its name.
///
/// # Errors
/// As writing a file.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let (folder, name) = folder_of(path)?;
    let mut draft = name.clone();
    draft.push(".new");
    match rustix::fs::unlinkat(&folder, &draft, AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) | Ok(()) => (),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::openat(&folder, &draft, flags, Mode::RUSR | Mode::WUSR)?.into();
    file.write_all(content)?;
    file.sync_all()?;
    Ok(rustix::fs::renameat(&folder, &draft, &folder, &name)?)
}

/// Makes a folder that only this user can enter. One of this user's that is there is closed where it is ours: empty, or
/// with the file `ours` in it. Folders above it are made too, open as usual.
///
/// # Errors
/// As making a folder; also when the one that is there belongs to somebody else, is a link of somebody else's, or is not
/// ours and others may write there.
pub fn make_private_folder(path: &Path, ours: &str) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    if path.file_name().is_some() {
        let (folder, name) = folder_of(path)?;
        match rustix::fs::mkdirat(&folder, &name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => (),
            Err(error) => return Err(error.into()),
        }
    }
    // Opened by itself, so that what is looked at is what is changed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(open_folder(path)?, ".", flags, Mode::empty())?;
    let seen = rustix::fs::fstat(&folder)?;
    if seen.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to user {}", seen.st_uid)));
    }
    if !open_to_others(seen.st_mode) {
        return Ok(());
    }
    if is_empty(&folder)? || rustix::fs::statat(&folder, ours, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(rustix::fs::fchmod(&folder, Mode::RWXU)?);
    }
    if seen.st_mode & 0o022 != 0 {
        return Err(io::Error::other("others may write there, and it holds other things; name a folder of its own"));
    }
    Ok(())
}

fn open_to_others(mode: u32) -> bool {
    mode & 0o077 != 0
}

fn is_empty(folder: impl AsFd) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        if ![c".", c".."].contains(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A file of this user's that others may read or write is closed to them.
///
/// # Errors
/// As changing a file; also when it is a link, or somebody else's.
pub fn close(path: &Path) -> io::Result<()> {
    let (folder, name) = folder_of(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&folder, &name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let seen = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no plain file"));
    }
    if open_to_others(seen.st_mode) { Ok(rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?) } else { Ok(()) }
}

/// A file's folder, held open, so that nobody can put another one into its place.
#[derive(Debug)]
pub struct Held {
    folder: OwnedFd,
    name: OsString,
}

impl Held {
    /// Where the file is that `path` leads to, by links that root or this user made and by no others.
    ///
    /// # Errors
    /// As reading a link.
    pub fn of(path: &Path) -> io::Result<Held> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let (folder, name) = folder_of(&path)?;
            let seen = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(seen.st_mode) != FileType::Symlink {
                return Ok(Held { folder, name });
            }
            if !is_trusted(seen.st_uid) {
                return Err(io::Error::other(format!("it is a link, and user {} made it", seen.st_uid)));
            }
            let target = rustix::fs::readlinkat(&folder, &name, Vec::new())?;
            path = path.parent().unwrap_or(Path::new("/")).join(OsStr::from_bytes(target.as_bytes()));
        }
        Err(io::Error::other("too many links"))
    }

    /// The file, as this process can name it while this is held.
    pub fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&self.folder).to_string()).join(&self.name)
    }
}

/// Makes a folder for another user, closed to all others, or gives one to it that is there, is empty and is this user's.
/// One that is the other's already is only closed.
///
/// # Errors
/// As making a folder; also when the one that is there is a link, belongs to a third, or holds something.
pub fn make_folder_for(path: &Path, user: u32, group: u32) -> io::Result<()> {
    let (parent, name) = folder_of(path)?;
    match rustix::fs::mkdirat(&parent, &name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => (),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(&parent, &name, flags, Mode::empty())?;
    let seen = rustix::fs::fstat(&folder)?;
    let its_own = seen.st_uid == user;
    if !its_own && seen.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to user {}", seen.st_uid)));
    }
    if !its_own && !is_empty(&folder)? {
        return Err(io::Error::other("it is not empty"));
    }
    rustix::fs::fchmod(&folder, Mode::RWXU)?;
    if !its_own {
        give_open(&folder, user, group)?;
    }
    Ok(())
}

/// Gives a file or folder of this user's to another. See `give_to_server_user`.
pub(super) fn give(path: &Path, user: u32, group: u32) -> io::Result<()> {
    let (folder, name) = folder_of(path)?;
    let opened = rustix::fs::openat(&folder, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let seen = rustix::fs::fstat(&opened)?;
    let kind = FileType::from_raw_mode(seen.st_mode);
    let one_name = kind == FileType::Directory || (kind == FileType::RegularFile && seen.st_nlink == 1);
    if one_name && seen.st_uid == user {
        return Ok(());
    }
    if !one_name || seen.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is not a file or folder that this user has made"));
    }
    give_open(&opened, user, group)
}

fn give_open(opened: impl AsFd, user: u32, group: u32) -> io::Result<()> {
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    Ok(rustix::fs::chownat(opened, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
}

/// The text of a small file in a folder that may be another user's; `None` where there is none. What is no plain file, is
/// reached by somebody's link, or is too large to be what is looked for, is an error.
///
/// # Errors
/// As reading a file.
pub fn read_small(path: &Path) -> io::Result<Option<String>> {
    let opened = folder_of(path).and_then(|(folder, name)| {
        // Without waiting: what has this name may be a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&folder, &name, flags, Mode::empty())?))
    });
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > SMALL {
        return Err(io::Error::other("it is no small plain file"));
    }
    let mut text = Vec::new();
    file.take(SMALL).read_to_end(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// Removes a file, or the link that has its name.
///
/// # Errors
/// As removing a file.
pub fn remove(path: &Path) -> io::Result<()> {
    let (folder, name) = folder_of(path)?;
    Ok(rustix::fs::unlinkat(&folder, &name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const NOBODY: u32 = 65_534;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_private_file_is_never_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "as it was").unwrap();
        for link in ["x", "x.new"] {
            symlink(at("victim"), at(link)).unwrap();
        }
        assert!(create_private(&at("x")).is_err());
        write_private(&at("x"), b"new").unwrap();
        assert_eq!(fs::read_to_string(at("victim")).unwrap(), "as it was");
        assert_eq!((fs::read_to_string(at("x")).unwrap(), mode(&at("x"))), ("new".to_owned(), 0o600));
        assert_eq!(read_small(&at("x")).unwrap().unwrap(), "new");
        assert_eq!(read_small(&at("none")).unwrap(), None);
        symlink(at("victim"), at("y")).unwrap();
        assert!(read_small(&at("y")).is_err(), "a link is not read through");
        assert!(read_small(folder.path()).is_err(), "a folder is no file");
    }

    #[test]
    fn a_folder_of_ours_is_closed_and_one_of_anothers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("a/b");
        let open = |mode: u32| fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        make_private_folder(&at, "journal.db").unwrap();
        assert_eq!(mode(&at), 0o700);
        open(0o755);
        make_private_folder(&at, "journal.db").unwrap();
        assert_eq!(mode(&at), 0o700, "an empty one that stood open is closed");
        fs::write(at.join("another"), "").unwrap();
        open(0o755);
        make_private_folder(&at, "journal.db").unwrap();
        assert_eq!(mode(&at), 0o755, "a folder for other things stays as it is");
        open(0o1777);
        assert!(make_private_folder(&at, "journal.db").unwrap_err().to_string().contains("others may write"));
        fs::write(at.join("journal.db"), "").unwrap();
        make_private_folder(&at, "journal.db").unwrap();
        assert_eq!(mode(&at), 0o700, "one of ours is closed");
        if crate::process::running_as_root() {
            std::os::unix::fs::chown(&at, Some(NOBODY), None).unwrap();
            assert!(make_private_folder(&at, "journal.db").unwrap_err().to_string().contains("65534"));
        }
    }

    /// What only root can try.
    #[test]
    fn what_another_user_put_in_the_way_is_neither_followed_nor_given_away() {
        if !crate::process::running_as_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("victim"), "as it was").unwrap();
        let theirs_link = |to: &Path, name: &str| {
            symlink(to, theirs.join(name)).unwrap();
            std::os::unix::fs::lchown(theirs.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        };
        theirs_link(&ours, "parent");
        theirs_link(&ours.join("victim"), "file");
        fs::hard_link(ours.join("victim"), theirs.join("second-name")).unwrap();
        assert!(write_private(&theirs.join("parent/victim"), b"x").unwrap_err().to_string().contains("link"));
        assert!(create_private(&theirs.join("parent/new")).is_err());
        assert!(make_folder_for(&theirs.join("parent/new"), NOBODY, NOBODY).is_err());
        assert!(make_folder_for(&theirs.join("parent"), NOBODY, NOBODY).is_err());
        assert!(make_folder_for(&ours, NOBODY, NOBODY).is_err(), "a folder that holds something is not given away");
        for name in ["file", "parent", "second-name"] {
            assert!(give(&theirs.join(name), NOBODY, NOBODY).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 1);
        assert_eq!(fs::metadata(ours.join("victim")).unwrap().uid(), 0);
        for name in ["file", "parent/victim"] {
            assert!(Held::of(&theirs.join(name)).is_err(), "{name}");
        }
        // Root's own links are followed, as everywhere.
        symlink(&ours, theirs.join("roots")).unwrap();
        make_folder_for(&theirs.join("roots/made"), NOBODY, NOBODY).unwrap();
        let held = Held::of(&theirs.join("roots/victim")).unwrap();
        fs::rename(theirs.join("roots"), theirs.join("was-roots")).unwrap();
        theirs_link(Path::new("/"), "roots");
        assert_eq!(fs::read_to_string(held.path()).unwrap(), "as it was", "what is held stays where it was");
        assert_eq!((fs::metadata(ours.join("made")).unwrap().uid(), mode(&ours.join("made"))), (NOBODY, 0o700));
    }
}

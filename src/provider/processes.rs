//! Processes of this machine that outlive the one that started them: recognised by what they are, looked at through
//! `/proc`, ended by signal.
//!
//! **Invariant:** a process is ended only after it was recognised by its arguments or its folder; a bare number from a file
//! may long belong to another.

use crate::process;
use std::{fs, path::Path, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// PgBouncer: ends at once.
    Term,
    /// A postmaster: disconnects clients, writes everything down, ends ("fast").
    Int,
    /// A postmaster: ends at once and recovers at the next start ("immediate").
    Quit,
    /// It stands still, and starts no other process.
    Stop,
    /// What a crash is to a process.
    Kill,
}

/// The process runs, belongs to the owner of `folder`, and has it as its working directory: what a postmaster makes of its
/// data folder. Whoever else happens to stand in there is not meant.
pub fn works_in(pid: u32, folder: &Path) -> bool {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let owner = |path: &Path| fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).ok();
    let process = std::path::PathBuf::from(format!("/proc/{pid}"));
    let same_owner = owner(&process).is_some_and(|user| owner(&folder) == Some(user));
    is_alive(pid) && same_owner && fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
}

/// The processes of this program that were started with `path` as one of their arguments.
pub fn started_with(program: &str, path: &Path) -> Vec<u32> {
    let path = path.as_os_str().as_encoded_bytes();
    let fits = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let name = words.next().and_then(|first| first.rsplit(|byte| *byte == b'/').next());
        name == Some(program.as_bytes()) && words.any(|word| word == path)
    };
    every_pid().filter(fits).collect()
}

/// The processes of the user with this number, by what the system says of each: the owner of its folder below `/proc` is
/// another where a process hides from its like.
pub fn of_user(user: u32) -> Vec<u32> {
    let is_its = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        ids.split_whitespace().any(|id| id.parse() == Ok(user))
    };
    every_pid().filter(|pid| is_its(pid) && is_alive(*pid)).collect()
}

/// The processes that `pid` started and that still run.
pub fn children_of(pid: u32) -> Vec<u32> {
    every_pid().filter(|child| stat(*child).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// Whether the process runs; one that ended and was not yet collected by its parent does not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Sends the signal. A process that is gone is none to complain about: whether it is gone is looked up, not believed.
pub fn signal(pids: &[u32], signal: Signal) {
    let signal = match signal {
        Signal::Term => rustix::process::Signal::TERM,
        Signal::Int => rustix::process::Signal::INT,
        Signal::Quit => rustix::process::Signal::QUIT,
        Signal::Stop => rustix::process::Signal::STOP,
        Signal::Kill => rustix::process::Signal::KILL,
    };
    for pid in pids {
        process::signal(*pid, signal);
    }
}

/// Kills the processes and waits until they are gone, 10 s at most. Blocks: for `Drop`, and for the moment it takes.
pub fn kill_and_wait(pids: &[u32]) {
    signal(pids, Signal::Kill);
    for _ in 0..1000 {
        if !pids.iter().any(|pid| is_alive(*pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn every_pid() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_arguments_and_gone_when_it_was_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = process::new_command(Path::new("sh"));
        command.args(["-c", "read line"]).arg(folder.path()).current_dir(folder.path()).stdin(std::process::Stdio::piped());
        let mut child = command.as_std_mut().spawn().unwrap();
        let pid = child.id();
        for _ in 0..1000 {
            if started_with("sh", folder.path()) == [pid] {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(started_with("sh", folder.path()), [pid]);
        assert!(works_in(pid, folder.path()) && !works_in(pid, Path::new("/")));
        assert!(children_of(std::process::id()).contains(&pid));
        kill_and_wait(&[pid]);
        assert!(!is_alive(pid));
        child.wait().unwrap();
    }
}

//! PostgreSQL's own programs on this machine: where they are, by major version.
//!
//! **Invariant:** the environment is not read here; the caller passes what it says.

use crate::process;
use crate::word::PortError;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

/// One folder of programs, all of one major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    pub major: u32,
    pub bin: PathBuf,
}

impl Programs {
    /// The programs in `bin`, asked for their version.
    ///
    /// # Errors
    /// `Refused` when none of PostgreSQL's programs that could be asked is there and runs.
    pub async fn at(bin: &Path) -> Result<Programs, PortError> {
        for name in ["postgres", "pg_basebackup", "pg_dump"] {
            let program = bin.join(name);
            if !program.is_file() {
                continue;
            }
            let Ok(output) = process::run(process::new_command(&program).arg("--version"), Duration::from_secs(10)).await else {
                continue;
            };
            if let Some(major) = major_of(&String::from_utf8_lossy(&output.stdout)) {
                return Ok(Programs { major, bin: bin.to_owned() });
            }
        }
        Err(PortError::refused(format!("find PostgreSQL's programs in `{}`", bin.display())))
    }

    /// # Errors
    /// `Refused` when the folder has no such program.
    pub fn program(&self, name: &str) -> Result<PathBuf, PortError> {
        let program = self.bin.join(name);
        if program.is_file() {
            return Ok(program);
        }
        Err(PortError::refused(format!("find `{name}` in `{}`", self.bin.display()))
            .hint(format!("install the programs of PostgreSQL {} whole, or name another folder of them", self.major)))
    }

    fn has(&self, name: &str) -> bool {
        self.bin.join(name).is_file()
    }
}

/// Every folder of PostgreSQL's programs that was found, the folders named by the operator first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub folders: Vec<Programs>,
}

impl Installed {
    /// Looks in `named` (folders of programs, or their parents, separated by colons: the environment variable
    /// `GREENLIGHT_PG_DIRS`), where packages put them, and in `path` (the variable `PATH`).
    pub async fn find(named: Option<&OsStr>, path: Option<&OsStr>) -> Installed {
        let mut bins: Vec<PathBuf> = Vec::new();
        for folder in named.iter().flat_map(std::env::split_paths) {
            bins.extend([folder.join("bin"), folder]);
        }
        bins.extend(bins_below(Path::new("/usr/lib/postgresql"), ""));
        bins.extend(bins_below(Path::new("/usr"), "pgsql-"));
        bins.extend(bins_below(Path::new("/opt/homebrew/opt"), "postgresql@"));
        bins.extend(bins_below(Path::new("/usr/local/opt"), "postgresql@"));
        bins.extend(path.iter().flat_map(std::env::split_paths));

        let mut seen: Vec<PathBuf> = Vec::new();
        let mut folders = Vec::new();
        for bin in bins.iter().filter_map(|bin| bin.canonicalize().ok()) {
            if seen.contains(&bin) {
                continue;
            }
            if let Ok(programs) = Programs::at(&bin).await {
                folders.push(programs);
            }
            seen.push(bin);
        }
        Installed { folders }
    }

    /// The major versions of which a server can be started, newest first.
    pub fn server_majors(&self) -> Vec<u32> {
        let mut majors: Vec<u32> = self.folders.iter().filter(|folder| is_server(folder)).map(|folder| folder.major).collect();
        majors.sort_unstable_by(|a, b| b.cmp(a));
        majors.dedup();
        majors
    }

    /// The first folder from which a server of this major version can be made and run.
    ///
    /// # Errors
    /// `Refused` when there is none.
    pub fn server(&self, major: u32) -> Result<Programs, PortError> {
        let found = self.folders.iter().find(|folder| folder.major == major && is_server(folder)).cloned();
        found.ok_or_else(|| self.missing("postgres", major))
    }

    /// A client program such as `pg_dump` or `pg_basebackup` for a server of this major version: of the same version, else
    /// of the next newer one that is there, since each of them works with older servers and none with newer ones. What a
    /// newer one writes need not load into an older server.
    ///
    /// # Errors
    /// `Refused` when there is none.
    pub fn client(&self, name: &str, major: u32) -> Result<PathBuf, PortError> {
        let fit =
            self.folders.iter().filter(|folder| folder.major >= major && folder.has(name)).min_by_key(|folder| folder.major);
        fit.map_or_else(|| Err(self.missing(name, major)), |folder| folder.program(name))
    }

    /// A program that reads or writes the files of a server of this very major version, such as `pg_waldump`.
    ///
    /// # Errors
    /// `Refused` when there is none.
    pub fn exact(&self, name: &str, major: u32) -> Result<PathBuf, PortError> {
        let fit = self.folders.iter().find(|folder| folder.major == major && folder.has(name));
        fit.map_or_else(|| Err(self.missing(name, major)), |folder| folder.program(name))
    }

    fn missing(&self, name: &str, major: u32) -> PortError {
        let folders: Vec<String> = self.folders.iter().map(|f| format!("{} ({})", f.bin.display(), f.major)).collect();
        let found = if folders.is_empty() { "none".to_owned() } else { folders.join(", ") };
        PortError::refused(format!("find `{name}` for PostgreSQL {major}")).hint(format!(
            "install PostgreSQL {major}, or name the folder of its programs in GREENLIGHT_PG_DIRS; found here: {found}"
        ))
    }
}

fn is_server(folder: &Programs) -> bool {
    ["postgres", "initdb", "pg_ctl"].iter().all(|name| folder.has(name))
}

/// The folders `<parent>/<prefix><number>/bin`, the highest number first.
fn bins_below(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// What `pg_basebackup --progress` says in a line such as `  24215/30941 kB (78%), 0/1 tablespace`: bytes so far and in all.
pub fn copied(line: &str) -> Option<(u64, u64)> {
    let (done, all) = line.trim_start().split_once(" kB ")?.0.split_once('/')?;
    Some((done.parse::<u64>().ok()? * 1024, all.parse::<u64>().ok()? * 1024))
}

/// From a text such as `postgres (PostgreSQL) 15.18 (Debian 15.18-1)` or `pg_dump (PostgreSQL) 19devel`.
fn major_of(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL) ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_a_program_prints() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("pg_dump (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major_of("pgbouncer 1.18.0"), None);
    }

    #[test]
    fn the_progress_of_a_copy_is_read_from_what_the_program_prints() {
        assert_eq!(copied("  24215/30941 kB (78%), 0/1 tablespace"), Some((24_215 * 1024, 30_941 * 1024)));
        assert_eq!(copied("pg_basebackup: error: connection to server failed"), None);
    }

    #[test]
    fn a_client_program_is_of_the_same_version_or_the_next_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [14, 16, 18].map(|major| {
            let bin = folder.path().join(major.to_string());
            std::fs::create_dir(&bin).unwrap();
            std::fs::write(bin.join("pg_dump"), "").unwrap();
            Programs { major, bin }
        });
        let installed = Installed { folders: folders.to_vec() };
        assert_eq!(installed.client("pg_dump", 16).unwrap(), folders[1].bin.join("pg_dump"));
        assert_eq!(installed.client("pg_dump", 15).unwrap(), folders[1].bin.join("pg_dump"));
        assert_eq!(installed.client("pg_dump", 17).unwrap(), folders[2].bin.join("pg_dump"));
        let error = installed.client("pg_dump", 19).unwrap_err();
        assert_eq!(error.to_string(), "find `pg_dump` for PostgreSQL 19");
        assert!(error.hint.unwrap().contains("GREENLIGHT_PG_DIRS"));
        assert!(installed.server(16).is_err());
    }

    #[tokio::test]
    async fn the_servers_of_this_machine_are_found() {
        let installed = Installed::find(None, Some(OsStr::new("/usr/bin:/bin"))).await;
        let newest = installed.server_majors()[0];
        let programs = installed.server(newest).unwrap();
        assert_eq!(Programs::at(&programs.bin).await.unwrap(), programs);
        assert!(programs.program("initdb").unwrap().is_file());
        assert!(installed.client("pg_basebackup", newest).is_ok());
    }
}

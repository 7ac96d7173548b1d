//! The standby that a run makes on the coordinator's own machine.
//!
//! A file `greenlight.run` in the data folder says whose it is and whether the copy is whole. **Invariant:** nothing is
//! written into, started in or removed from a folder that this run did not mark; the mark is there before anything else
//! and is the last thing to go.

use super::configuration::Configuration;
use super::server::{CopyProgress, LocalServer, OWN, StopMode};
use super::{Provider, StandbyState, as_server, processes};
use crate::plan::StandbySpec;
use crate::postgres::programs::{Installed, Programs};
use crate::process::files;
use crate::word::{Clock, Endpoint, PortError, RunId, misread_path};
use async_trait::async_trait;
use std::{
    ffi::OsStr,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const START_LIMIT: Duration = Duration::from_mins(2);
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// Makes, starts and removes the standby of one run.
pub struct LocalProvider {
    pub run: RunId,
    pub blue: Endpoint,
    /// The physical slot on blue, made here: `Names::standby_slot`.
    pub slot: String,
    pub spec: StandbySpec,
    pub installed: Installed,
    pub clock: Arc<dyn Clock>,
}

impl LocalProvider {
    /// Why the standby could not be made, found without changing anything. Blue must answer.
    ///
    /// # Errors
    /// Blue could not be asked.
    pub async fn problems(&self) -> Result<Vec<String>, PortError> {
        let mut problems = Vec::new();
        let folder = self.spec.data_dir.display();
        if self.owner()? == Owner::Other {
            problems.push(format!("the folder `{folder}` is not empty"));
        }
        if !self.spec.data_dir.is_absolute() {
            problems.push(format!("the folder `{folder}` is not an absolute path"));
        }
        if !self.spec.data_dir.parent().is_some_and(Path::is_dir) {
            problems.push(format!("the folder in which `{folder}` is to be made does not exist"));
        }
        problems.extend(misread_path(&self.spec.data_dir));
        let running = self.standby().await? == StandbyState::Running;
        if !running && std::net::TcpListener::bind(("127.0.0.1", self.spec.port)).is_err() {
            problems.push(format!("port {} is taken on this machine", self.spec.port));
        }
        let blue = super::sql::connect(&self.blue).await?;
        let major = super::sql::major(&blue).await?;
        match self.programs(major).await {
            Ok(programs) if programs.major != major => {
                problems.push(format!(
                    "blue is PostgreSQL {major}, and the programs in `{}` are of {}",
                    programs.bin.display(),
                    programs.major
                ));
            }
            Ok(_) => problems.extend(self.installed.client("pg_basebackup", major).err().map(|e| e.chain())),
            Err(error) => problems.push(error.chain()),
        }
        let tablespaces = super::sql::tablespaces(&blue).await?;
        if !tablespaces.is_empty() {
            problems.push(format!("blue has tablespaces ({}), whose folders a copy cannot share", tablespaces.join(", ")));
        }
        Ok(problems)
    }

    async fn programs(&self, major: u32) -> Result<Programs, PortError> {
        match &self.spec.bin_dir {
            Some(bin) => Programs::at(bin).await,
            None => self.installed.server(major),
        }
    }

    fn server(&self, programs: Programs) -> LocalServer {
        LocalServer {
            programs,
            data_dir: self.spec.data_dir.clone(),
            port: self.spec.port,
            log: self.own_file("log"),
            durable: true,
            clock: self.clock.clone(),
        }
    }

    /// The server in a folder that holds a copy, whether or not blue can be asked.
    async fn copied_server(&self) -> Result<LocalServer, PortError> {
        let version = files::read_small(&self.spec.data_dir.join("PG_VERSION")).ok().flatten();
        let major = version.and_then(|text| text.trim().parse().ok());
        let major = major.ok_or_else(|| PortError::refused(format!("read the version of `{}`", self.spec.data_dir.display())))?;
        Ok(self.server(self.programs(major).await?))
    }

    fn own_file(&self, name: &str) -> PathBuf {
        self.spec.data_dir.join(format!("{OWN}{name}"))
    }

    /// # Errors
    /// The folder cannot be read: then nothing is known of it.
    fn owner(&self) -> Result<Owner, PortError> {
        let unreadable = |e: io::Error| PortError::refused(format!("read `{}`", self.spec.data_dir.display())).because(e);
        match files::read_small(&self.own_file("run")) {
            Ok(Some(text)) => {
                let mut lines = text.lines();
                let ours = lines.next() == Some(self.run.as_str());
                Ok(match (ours, lines.next()) {
                    (false, _) => Owner::Other,
                    (true, Some("whole")) => Owner::UsWhole,
                    (true, _) => Owner::UsPartial,
                })
            }
            Ok(None) => match fs::read_dir(&self.spec.data_dir) {
                Ok(mut entries) => Ok(if entries.next().is_some() { Owner::Other } else { Owner::Nobody }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Owner::Nobody),
                Err(e) => Err(unreadable(e)),
            },
            Err(e) => Err(unreadable(e)),
        }
    }

    /// Marks the folder, atomically: a mark is whole or not there.
    async fn mark(&self, state: &str) -> Result<(), PortError> {
        let marked = as_server::write(&self.own_file("run"), &format!("{}\n{state}\n", self.run)).await;
        marked.map_err(|e| PortError::uncertain(format!("mark `{}`", self.spec.data_dir.display())).because(e))
    }

    /// Removes everything in our folder, the mark last, and then the folder, if we may.
    async fn remove_all(&self) -> Result<(), PortError> {
        let folder = &self.spec.data_dir;
        // A copy goes on when the coordinator that began it was killed.
        processes::kill_and_wait(&processes::started_with("pg_basebackup", &self.own_file("copy")));
        let script = r#"cd -P -- "$1" && [ -f greenlight.run ] && [ "$(head -n 1 greenlight.run)" = "$2" ] || { echo "its mark is not there" >&2; exit 1; }
            find . -mindepth 1 -maxdepth 1 ! -name greenlight.run -exec rm -rf {} + && rm -f greenlight.run"#;
        let attempted = format!("remove `{}`", folder.display());
        let removed = as_server::sh(&attempted, script, [folder.as_os_str(), OsStr::new(self.run.as_str())], "").await;
        removed.map_err(|e| PortError::uncertain(attempted).because(e))?;
        // It may be a mount point, or stand where we may not remove; an empty folder harms nobody.
        let _ = fs::remove_dir(folder);
        Ok(())
    }

    async fn copy_blue(&self, progress: CopyProgress<'_>) -> Result<(), PortError> {
        let blue = super::sql::connect(&self.blue).await?;
        let tablespaces = super::sql::tablespaces(&blue).await?;
        if !tablespaces.is_empty() {
            return Err(PortError::refused(format!("copy `{}`", self.blue))
                .because(format!("it has tablespaces ({})", tablespaces.join(", ")))
                .hint("make the standby by hand, with a mapping for each tablespace, and name it as green"));
        }
        let server = self.server(self.programs(super::sql::major(&blue).await?).await?);
        self.make_marked_folder().await?;
        super::sql::ensure_physical_slot(&blue, &self.slot).await?;
        server.base_backup(&self.installed, &self.blue, &self.slot, progress).await?;
        Configuration::read(&blue).await?.complete(&server).await?;
        self.mark("whole").await
    }

    async fn make_marked_folder(&self) -> Result<(), PortError> {
        as_server::make_folder(&self.spec.data_dir).await?;
        self.mark("begun").await
    }

    fn not_ours(&self) -> PortError {
        PortError::refused(format!("use the folder `{}`", self.spec.data_dir.display()))
            .because("it holds what this run did not put there")
            .hint("name an empty folder, or one that does not exist, as `data_dir`")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Other,
    UsPartial,
    UsWhole,
}

#[async_trait]
impl Provider for LocalProvider {
    async fn standby(&self) -> Result<StandbyState, PortError> {
        Ok(match self.owner()? {
            Owner::Nobody => StandbyState::Absent,
            Owner::Other => StandbyState::NotOurs,
            Owner::UsPartial => StandbyState::Partial,
            Owner::UsWhole if self.copied_server().await?.answers().await => StandbyState::Running,
            Owner::UsWhole => StandbyState::Stopped,
        })
    }

    async fn make_standby(&self, progress: CopyProgress<'_>) -> Result<(), PortError> {
        match self.owner()? {
            Owner::Other => return Err(self.not_ours()),
            Owner::UsWhole => return self.start_standby().await,
            Owner::UsPartial => self.remove_all().await?,
            Owner::Nobody => (),
        }
        self.copy_blue(progress).await?;
        self.start_standby().await
    }

    async fn start_standby(&self) -> Result<(), PortError> {
        match self.owner()? {
            Owner::UsWhole => self.copied_server().await?.start(START_LIMIT).await,
            Owner::UsPartial | Owner::Nobody => {
                Err(PortError::refused(format!("start the standby in `{}`", self.spec.data_dir.display()))
                    .because("there is no whole copy of blue in it"))
            }
            Owner::Other => Err(self.not_ours()),
        }
    }

    /// The slot on blue stays: it is the step's to drop, and this works while blue is down.
    async fn remove_standby(&self) -> Result<(), PortError> {
        let owner = self.owner()?;
        if owner == Owner::UsWhole {
            self.copied_server().await?.stop(StopMode::Immediate, STOP_LIMIT).await?;
        }
        if matches!(owner, Owner::UsWhole | Owner::UsPartial) {
            self.remove_all().await?;
        }
        Ok(())
    }
}

impl fmt::Debug for LocalProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalProvider").field("run", &self.run).field("spec", &self.spec).finish_non_exhaustive()
    }
}

//! pgBackRest, through its own commands: what it knows is asked with `info`, what it does is its own doing. Its
//! configuration is the operator's; nothing of it is changed.

use super::host::{Host, SHORT, quoted, text};
use super::prove::watching_size;
use super::tablespaces::tablespaces_beside;
use super::wal::{Archived, Segment};
use super::{ArchiveProof, Backup, BackupState, Notes, Progress, SnapshotStore, Source, archiving};
use crate::word::{Clock, Lsn, PortError, Timestamp};
use async_trait::async_trait;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const LONG: Duration = Duration::from_hours(24);
/// Where it runs on this machine it is given the operator's `PGBACKREST_...` variables, by which it is configured too.
pub(super) const PROGRAM: &str = "pgbackrest";

pub struct Pgbackrest {
    pub source: Source,
    pub notes: Notes,
    pub stanza: String,
    pub config: Option<PathBuf>,
    pub clock: Arc<dyn Clock>,
}

impl Pgbackrest {
    fn words(&self) -> Vec<String> {
        let mut words = vec![PROGRAM.to_owned(), format!("--stanza={}", self.stanza)];
        words.extend(self.config.as_ref().map(|config| format!("--config={}", config.display())));
        words
    }

    async fn ask(&self, attempted: &str, more: &[&str], limit: Duration) -> Result<String, PortError> {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let answer = self.notes.host.sh_within(attempted, r#""$@""#, &words, limit).await;
        answer.map_err(|error| error.hint("is pgBackRest installed there, and the stanza made (`pgbackrest stanza-create`)?"))
    }

    async fn stanza_info(&self, more: &[&str]) -> Result<Info, PortError> {
        let attempted = format!("ask pgBackRest about stanza `{}`", self.stanza);
        let said = self.ask(&attempted, &[&["info", "--output=json"], more].concat(), 2 * SHORT).await?;
        let unreadable = || PortError::refused(attempted.clone());
        let infos: Vec<Info> = serde_json::from_str(&said).map_err(|e| unreadable().because(e))?;
        let info =
            infos.into_iter().find(|info| info.name == self.stanza).ok_or_else(|| unreadable().because("it does not know it"))?;
        // 0: in order; 2: no backup yet.
        if matches!(info.status.code, 0 | 2) { Ok(info) } else { Err(unreadable().because(info.status.message)) }
    }

    /// The archive of the server's present version: the last of them.
    async fn archive_id(&self) -> Result<Option<String>, PortError> {
        Ok(self.stanza_info(&[]).await?.archive.into_iter().next_back().map(|archive| archive.id))
    }

    fn backup(of: &BackupInfo, info: &Info, segment_bytes: u64) -> Option<Backup> {
        let db = info.db.iter().find(|db| db.id == of.database.id)?;
        let stop = Segment::parse(of.archive.stop.as_deref()?, segment_bytes)?;
        Some(Backup {
            id: of.label.clone(),
            state: BackupState::Whole,
            timeline: stop.timeline,
            start: of.lsn.as_ref()?.start,
            stop: of.lsn.as_ref()?.stop,
            began_at: Timestamp::from_second(of.timestamp.start).ok()?,
            // Known to the second only: not before the next one is it certainly over.
            ended_at: Timestamp::from_second(of.timestamp.stop + 1).ok()?,
            bytes: of.info.size,
            major: db.version.split('.').next()?.parse().ok()?,
            system_identifier: db.system_id,
            segment_bytes,
            holds_own_wal: false,
            verified_at: None,
        })
    }
}

/// Of `info --output=json`, what is used here.
#[derive(Debug, Deserialize)]
struct Info {
    name: String,
    status: Status,
    #[serde(default)]
    backup: Vec<BackupInfo>,
    #[serde(default)]
    archive: Vec<ArchiveInfo>,
    #[serde(default)]
    db: Vec<DbInfo>,
}

#[derive(Debug, Deserialize)]
struct Status {
    code: u32,
    message: String,
}

#[derive(Debug, Deserialize)]
struct BackupInfo {
    label: String,
    error: Option<bool>,
    archive: SegmentRange,
    lsn: Option<LsnRange>,
    timestamp: SecondRange,
    info: SizeInfo,
    database: DatabaseRef,
    #[serde(default)]
    tablespace: Option<Vec<Tablespace>>,
}

#[derive(Debug, Deserialize)]
struct SegmentRange {
    stop: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LsnRange {
    start: Lsn,
    stop: Lsn,
}

#[derive(Debug, Deserialize)]
struct SecondRange {
    start: i64,
    stop: i64,
}

#[derive(Debug, Deserialize)]
struct SizeInfo {
    size: u64,
}

#[derive(Debug, Deserialize)]
struct DatabaseRef {
    id: u32,
}

#[derive(Debug, Deserialize)]
struct Tablespace {
    oid: u32,
}

#[derive(Debug, Deserialize)]
struct ArchiveInfo {
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DbInfo {
    id: u32,
    system_id: u64,
    version: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "type")]
    kind: String,
}

#[async_trait]
impl SnapshotStore for Pgbackrest {
    fn place(&self) -> String {
        format!("pgBackRest stanza {} ({})", self.stanza, self.notes.host.spec)
    }

    fn host(&self) -> &Host {
        &self.notes.host
    }

    fn notes(&self) -> &Notes {
        &self.notes
    }

    async fn backups(&self) -> Result<Vec<Backup>, PortError> {
        let info = self.stanza_info(&[]).await?;
        let mut backups = Vec::new();
        for of in &info.backup {
            // Segments of another size than usual are told apart by their names only when that size is known.
            let segment_bytes = segment_bytes(of).unwrap_or(16 << 20);
            let backup = Self::backup(of, &info, segment_bytes);
            backups.push(backup.ok_or_else(|| PortError::refused(format!("read what pgBackRest says of backup {}", of.label)))?);
        }
        backups.sort_by_key(|backup| backup.began_at);
        Ok(backups)
    }

    async fn take(&self, progress: Progress<'_>) -> Result<Backup, PortError> {
        let before: Vec<String> = self.backups().await?.into_iter().map(|backup| backup.id).collect();
        progress("pgBackRest copies", 0, 0);
        // What it would expire by itself may still be needed by a run: `prune` looks at that.
        let words = self.words();
        let more =
            ["--type=full", "--start-fast", "--no-expire-auto", "--log-level-stderr=info", "--log-level-console=off", "backup"];
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more).collect();
        let mut tell = |line: &str| line.contains(" INFO: ") && !line.contains("ERROR");
        self.notes.host.watched("back up with pgBackRest", &words, &mut tell).await?;
        let new = self.backups().await?.into_iter().rev().find(|backup| !before.contains(&backup.id));
        let mut backup = new.ok_or_else(|| PortError::uncertain("see the backup that pgBackRest took"))?;
        progress("verifying", 0, 0);
        self.verify(&backup).await?;
        backup.verified_at = Some(self.clock.now());
        Ok(backup)
    }

    async fn tablespaces(&self, backup: &Backup) -> Result<Vec<u32>, PortError> {
        // Only of one that is named it says which it has.
        let info = self.stanza_info(&[&format!("--set={}", backup.id)]).await?;
        let named = info.backup.into_iter().find(|of| of.label == backup.id);
        let named = named.ok_or_else(|| PortError::refused(format!("ask pgBackRest about backup {}", backup.id)))?;
        Ok(named.tablespace.into_iter().flatten().map(|tablespace| tablespace.oid).collect())
    }

    async fn tablespaces_now(&self) -> Result<Vec<u32>, PortError> {
        Ok(self.source.facts().await?.tablespaces.iter().map(|tablespace| tablespace.oid).collect())
    }

    async fn verify(&self, backup: &Backup) -> Result<(), PortError> {
        let attempted = format!("verify backup {}", backup.id);
        let said = self.ask(&attempted, &["verify", "--output=text", "--verbose", "--log-level-console=off"], LONG).await?;
        let damaged = || PortError::refused(attempted.clone()).hint("take a new one, and see what damaged it");
        let line = said.lines().find(|line| line.trim_start().starts_with(&format!("backup: {},", backup.id)));
        let info = self.stanza_info(&[]).await?;
        if info.backup.iter().any(|of| of.label == backup.id && of.error == Some(true)) {
            return Err(damaged().because("pages of the server itself were damaged when pgBackRest took it"));
        }
        match line {
            Some(line) if line.contains("status: valid") => Ok(()),
            Some(line) => Err(damaged().because(line.trim().to_owned())),
            None => Err(damaged().because(format!("pgBackRest did not look at it: {}", said.trim().replace('\n', "; ")))),
        }
    }

    async fn remove(&self, backup: &Backup) -> Result<(), PortError> {
        let attempted = format!("remove backup {}", backup.id);
        self.ask(&attempted, &["expire", &format!("--set={}", backup.id)], LONG).await.map(drop)
    }

    /// pgBackRest removes the WAL of a backup with it.
    async fn remove_wal_before(&self, _: &Backup) -> Result<u64, PortError> {
        Ok(0)
    }

    async fn ensure_archiving(&self) -> Result<(), PortError> {
        let push = self.words().join(" ");
        archiving::check(&self.source, &format!("{push} archive-push %p")).await
    }

    async fn prove_archiving(&self, limit: Duration) -> Result<ArchiveProof, PortError> {
        let segment_bytes = self.source.facts().await?.segment_bytes;
        let arrived = async |name: String| {
            let archived = self.archived(segment_bytes).await?;
            Ok(Segment::parse(&name, segment_bytes).is_some_and(|segment| archived.segments.contains(&segment)))
        };
        archiving::prove(&self.source, &*self.clock, limit, arrived).await
    }

    async fn archived(&self, segment_bytes: u64) -> Result<Archived, PortError> {
        let mut archived = Archived { segment_bytes, ..Archived::default() };
        let Some(id) = self.archive_id().await? else { return Ok(archived) };
        let attempted = "list the archive of pgBackRest";
        let path = format!("archive/{}/{id}", self.stanza);
        let config = self.config.as_ref().map(|config| format!("--config={}", config.display()));
        // Unlike the others this command takes no stanza.
        let mut words = vec!["pgbackrest"];
        words.extend(config.as_deref());
        words.extend(["repo-ls", &path, "--recurse", "--output=json"]);
        let said = self.notes.host.sh_within(attempted, r#""$@""#, &words, 10 * SHORT).await?;
        let listed: BTreeMap<String, Listed> =
            serde_json::from_str(&said).map_err(|e| PortError::refused(attempted).because(e))?;
        for path in listed.iter().filter(|(_, listed)| listed.kind == "file").map(|(path, _)| path) {
            let name = path.rsplit('/').next().unwrap_or(path);
            if let Some(timeline) = name.strip_suffix(".history") {
                archived.histories.extend(u32::from_str_radix(timeline, 16).ok());
            } else if name.as_bytes().get(24) == Some(&b'-') && !name.contains(".tmp") {
                // Segment, checksum, and how it is compressed; one that is still being written ends otherwise.
                archived.segments.extend(Segment::parse(&name[..24], segment_bytes));
            }
        }
        Ok(archived)
    }

    fn restore_command(&self) -> String {
        command(&self.words())
    }

    fn restore_command_at(&self, _: &Host, folder: &Path) -> String {
        // Else it would take the server's own folder for the place of `%p`.
        let mut words = self.words();
        words.push(format!("--pg1-path={}", folder.display()));
        command(&words)
    }

    /// By the pgBackRest of that host, whose configuration must know the repository.
    async fn fetch(&self, backup: &Backup, on: &Host, folder: &Path, progress: Progress<'_>) -> Result<(), PortError> {
        let (program, copy) = self.fetching(on, folder);
        let copy = text(&copy);
        let words = self.words();
        let set = format!("--set={}", backup.id);
        let beside = tablespaces_beside(folder);
        // One that is not named would go where the server has it.
        let mut mappings = vec![format!("--tablespace-map-all={}", beside.display())];
        let each = |oid: u32| format!("--tablespace-map={oid}={}", beside.join(oid.to_string()).display());
        mappings.extend(self.tablespaces(backup).await?.into_iter().map(each));
        let more = [&set, "--type=none", "--log-level-console=off", "--log-level-stderr=warn", "--pg1-path", &copy, "restore"];
        let words = std::iter::once(program).chain(words.iter().skip(1).chain(&mappings).map(String::as_str));
        let words: Vec<&str> = words.chain(more).collect();
        // It wants an empty folder, and this one holds our marker.
        on.sh("make the folder for the copy", r#"umask 077; mkdir "$1""#, &[&copy]).await?;
        let mut nothing = |_: &str| false;
        let restore = on.watched("restore with pgBackRest", &words, &mut nothing);
        watching_size(on, &[Path::new(&copy), &beside], backup.bytes, &*self.clock, progress, restore).await?;
        let script = r#"find "$1" -mindepth 1 -maxdepth 1 -exec mv -t "$2" {} + && rmdir "$1""#;
        on.sh("put the copy into its place", script, &[&copy, &text(folder)]).await.map(drop)
    }

    fn fetching(&self, _: &Host, folder: &Path) -> (&'static str, PathBuf) {
        ("pgbackrest", folder.join("greenlight.copy"))
    }

    async fn made_on_server(&self) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }

    async fn remove_from_server(&self) -> Result<(), PortError> {
        Ok(())
    }
}

fn command(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word).replace('%', "%%")).collect();
    format!("{} archive-get %f \"%p\"", words.join(" "))
}

/// From a backup that began and stopped in segments whose places are known: the size of which the names make sense.
fn segment_bytes(of: &BackupInfo) -> Option<u64> {
    let (stop, lsn) = (of.archive.stop.as_deref()?, of.lsn.as_ref()?);
    let fits =
        |size: &u64| Segment::parse(stop, *size).is_some_and(|segment| segment.number == lsn.stop.0.saturating_sub(1) / *size);
    // The usual one first: for places near the log's beginning several fit.
    std::iter::once(16_u64 << 20).chain((20..=30).map(|shift| 1 << shift)).find(fits)
}

impl fmt::Debug for Pgbackrest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pgbackrest").field("stanza", &self.stanza).field("notes", &self.notes).finish_non_exhaustive()
    }
}

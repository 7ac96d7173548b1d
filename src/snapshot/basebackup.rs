//! The store that needs nothing but PostgreSQL's own programs: `pg_basebackup` into a folder, WAL beside it.
//!
//! ```text
//! DIR/backups/<id>/greenlight.backup   what the backup is; there before anything else
//! DIR/backups/<id>/data/               the copy
//! DIR/backups/<id>/tablespaces/<oid>/  of each tablespace
//! DIR/wal/                             segments, by archive_command or by pg_receivewal
//! DIR/points/                          restore points
//! ```

use super::host::{Host, SHORT, Version, quoted, text};
use super::notes::json;
use super::prove::watching_size;
use super::source::Facts;
use super::tablespaces::{self, tablespaces_beside};
use super::wal::{Archived, Segment};
use super::{ArchiveProof, Backup, BackupState, Notes, Progress, SnapshotStore, Source, archiving, receive};
use crate::plan::{WAL_PREFIX, WalSpec};
use crate::postgres::{conninfo, passfile, programs::copied};
use crate::word::{Clock, Lsn, PortError, Secret, misread_path};
use async_trait::async_trait;
use serde::Deserialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Reading or removing a whole backup.
const LONG: Duration = Duration::from_hours(12);

/// Without `pg_verifybackup` the manifest is held against the files by `sha256sum`; so it is made with such sums then.
const VERIFY: &str = r#"cd "$1" || exit 1
sum=$(sed -n 's/^"Manifest-Checksum": "\([0-9a-f]*\)".*/\1/p' backup_manifest)
[ "$sum" = "$(head -n -1 backup_manifest | sha256sum | cut -d ' ' -f 1)" ] || { echo 'the manifest is damaged' >&2; exit 1; }
sums() {
    sed -n 's/^{ "Path": "\(.*\)", "Size": [0-9]*, "Last-Modified": "[^"]*", "Checksum-Algorithm": "SHA256", "Checksum": "\([0-9a-f]*\)" },*$/\2  \1/p' backup_manifest
}
[ "$(sums | wc -l)" = "$(grep -c '^{ "[A-Za-z-]*Path": ' backup_manifest)" ] || { echo 'its manifest needs pg_verifybackup, which does not run' >&2; exit 1; }
sums | sha256sum --check --quiet - >&2"#;

pub struct Basebackup {
    pub source: Source,
    pub notes: Notes,
    pub wal: WalSpec,
    /// The physical slot of the `pg_receivewal`.
    pub slot: String,
    pub clock: Arc<dyn Clock>,
}

impl Basebackup {
    /// The slot's name, from the playbook's: one store, one slot.
    pub fn slot_of(playbook: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        format!("{WAL_PREFIX}{}", playbook.chars().map(plain).take(40).collect::<String>())
    }

    pub(super) fn folder(&self, id: &str) -> PathBuf {
        self.notes.dir.join("backups").join(id)
    }

    pub(super) fn wal_folder(&self) -> PathBuf {
        self.notes.dir.join("wal")
    }

    /// What would put segments here safely: never over one that is there, never half of one under its name.
    fn archive_command(&self) -> String {
        let wal = quoted(&text(&self.wal_folder())).replace('%', "%%");
        // Green has blue's last segments too: one that is there already, and the same, is archived.
        let new = format!("test ! -f {wal}/%f && cp %p {wal}/%f.tmp && sync {wal}/%f.tmp && mv {wal}/%f.tmp {wal}/%f");
        format!("cmp -s %p {wal}/%f || {{ {new}; }}")
    }

    /// A connection string for a program on the host, of version `major` or newer, and the password file that it names, written there.
    pub(super) async fn upstream(&self, application_name: &str, file: &Path, major: u32) -> Result<String, PortError> {
        let from = &self.source.from_host;
        let password: Option<Secret> = match (&from.password, &from.passfile) {
            // A password file of the caller's need not be on that host, or readable there.
            (None, Some(path)) => passfile::password(path, from)?,
            (password, _) => password.clone(),
        };
        if let Some(password) = &password {
            self.notes.host.write(file, &conninfo::passfile(password.expose())?).await?;
        }
        Ok(conninfo::replication(from, application_name, password.map(|_| file), major))
    }

    /// PostgreSQL's own `pg_verifybackup`, where it is there and runs.
    async fn verifier(&self, major: u32) -> Option<String> {
        let program = self.notes.host.program("pg_verifybackup", major, Version::Same).await.ok()?;
        let runs = self.notes.host.sh("run `pg_verifybackup`", r#""$1" --version"#, &[&program]).await;
        runs.is_ok().then_some(program)
    }

    async fn save(&self, backup: &Backup) -> Result<(), PortError> {
        self.notes.host.write(&self.folder(&backup.id).join("greenlight.backup"), &json(backup)).await
    }

    async fn begin(&self, facts: &Facts) -> Result<Backup, PortError> {
        let id = facts.now.strftime("%Y%m%dT%H%M%S.%3fZ").to_string();
        let backup = Backup {
            id,
            state: BackupState::Partial,
            timeline: 0,
            start: Lsn(0),
            stop: Lsn(0),
            began_at: facts.now,
            ended_at: facts.now,
            bytes: facts.bytes,
            major: facts.major,
            system_identifier: facts.system_identifier,
            segment_bytes: facts.segment_bytes,
            holds_own_wal: true,
            verified_at: None,
        };
        self.notes.make_folder("wal").await?;
        self.notes.make_folder(&format!("backups/{}", backup.id)).await?;
        self.save(&backup).await?;
        Ok(backup)
    }

    async fn room_for(&self, bytes: u64) -> Result<(), PortError> {
        let free = self.notes.host.free_bytes(&self.notes.dir).await?;
        if free >= bytes {
            return Ok(());
        }
        let what = format!("the server has {} MB, and there is room for {} MB", bytes >> 20, free >> 20);
        Err(PortError::refused(format!("take a base backup into `{}`", self.notes.dir.display())).because(what))
    }

    /// What the manifest says of the WAL that the copy needs, and the copy's size.
    async fn look_into(&self, backup: &Backup) -> Result<(WalRange, u64), PortError> {
        let folder = text(&self.folder(&backup.id));
        let attempted = format!("read the manifest of backup {}", backup.id);
        // The files of the manifest may be hundreds of thousands; what is wanted stands at its end.
        let script = r#"du -sk "$1" | cut -f1; sed -n '/^"WAL-Ranges"/,/^\]/p' "$1/data/backup_manifest""#;
        let said = self.notes.host.sh_within(&attempted, script, &[&folder], LONG).await?;
        let unreadable = || PortError::refused(attempted.clone()).because("it is not as `pg_basebackup` writes it");
        let (kib, ranges) = said.split_once('\n').ok_or_else(unreadable)?;
        let list = ranges.trim().trim_start_matches("\"WAL-Ranges\":").trim_end_matches(',');
        let ranges: Vec<WalRange> = serde_json::from_str(list).map_err(|e| unreadable().because(e))?;
        let range = ranges.into_iter().next_back().ok_or_else(unreadable)?;
        Ok((range, kib.trim().parse::<u64>().map_err(|_| unreadable())? * 1024))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WalRange {
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

#[async_trait]
impl SnapshotStore for Basebackup {
    fn place(&self) -> String {
        format!("basebackup in {} ({})", self.notes.dir.display(), self.notes.host.spec)
    }

    fn host(&self) -> &Host {
        &self.notes.host
    }

    fn notes(&self) -> &Notes {
        &self.notes
    }

    async fn backups(&self) -> Result<Vec<Backup>, PortError> {
        let folder = text(&self.notes.dir.join("backups"));
        let attempted = format!("list the backups in `{folder}`");
        let script = r#"for f in "$1"/*/greenlight.backup; do [ ! -f "$f" ] || { cat "$f"; echo; }; done"#;
        let said = self.notes.host.sh(&attempted, script, &[&folder]).await?;
        let lines = said.lines().filter(|line| !line.is_empty());
        let read = |line| serde_json::from_str::<Backup>(line).map_err(|e| PortError::refused(attempted.clone()).because(e));
        let mut backups = lines.map(read).collect::<Result<Vec<_>, _>>()?;
        for backup in backups.iter_mut().filter(|backup| backup.state != BackupState::Whole) {
            // It ends with its coordinator: where it runs, somebody waits for it.
            let running = self.notes.host.started_with("pg_basebackup", &self.folder(&backup.id).join("data")).await?;
            backup.state = if running.is_empty() { BackupState::Partial } else { BackupState::Working };
        }
        backups.sort_by_key(|backup| backup.began_at);
        Ok(backups)
    }

    async fn take(&self, progress: Progress<'_>) -> Result<Backup, PortError> {
        if let Some(why) = misread_path(&self.notes.dir) {
            return Err(PortError::refused("take a base backup").because(why).hint("name another folder as `snapshot.dir`"));
        }
        let facts = self.source.facts().await?;
        let program = self.notes.host.program("pg_basebackup", facts.major, Version::SameOrNewer).await?;
        self.room_for(facts.bytes).await?;
        let mut backup = self.begin(&facts).await?;
        let folder = self.folder(&backup.id);
        let (data, pass) = (text(&folder.join("data")), folder.join("greenlight.pass"));
        let upstream = self.upstream("greenlight/snapshot", &pass, facts.major).await?;
        let mut words = vec![program.as_str(), "--dbname", &upstream, "--pgdata", &data, "--format=plain", "--wal-method=stream"];
        words.extend(["--checkpoint=fast", "--no-password", "--progress", "--label", "greenlight"]);
        if self.verifier(facts.major).await.is_none() {
            words.push("--manifest-checksums=SHA256");
        }
        let mappings = tablespaces::mappings(&facts.tablespaces, &folder.join("tablespaces"));
        words.extend(mappings.iter().map(String::as_str));
        crate::failpoint!("backup-begun");
        let mut tell = |line: &str| copied(line).map(|(done, all)| progress("copying", done, all)).is_some();
        let taken = self.notes.host.watched("take a base backup", &words, &mut tell).await;
        // Absent without a password; and one left behind is worse than an error not told.
        let _ = self.notes.host.sh("remove the password file", r#"rm -f "$1""#, &[&text(&pass)]).await;
        taken?;
        crate::failpoint!("backup-copied");
        backup.ended_at = self.source.facts().await?.now;
        let (range, bytes) = self.look_into(&backup).await?;
        (backup.timeline, backup.start, backup.stop, backup.bytes) = (range.timeline, range.start, range.end, bytes);
        tablespaces::none_elsewhere(&self.notes.host, &folder).await?;
        tablespaces::none_made_meanwhile(&self.notes.host, &folder.join("data"), &backup).await?;
        progress("verifying", 0, 0);
        self.verify(&backup).await?;
        backup.verified_at = Some(self.clock.now());
        backup.state = BackupState::Whole;
        self.save(&backup).await?;
        Ok(backup)
    }

    async fn tablespaces(&self, backup: &Backup) -> Result<Vec<u32>, PortError> {
        let folder = text(&self.folder(&backup.id).join("tablespaces"));
        let script = r#"[ ! -d "$1" ] || ls "$1""#;
        let said = self.notes.host.sh(&format!("list the tablespaces of backup {}", backup.id), script, &[&folder]).await?;
        Ok(said.lines().filter_map(|oid| oid.parse().ok()).collect())
    }

    async fn tablespaces_now(&self) -> Result<Vec<u32>, PortError> {
        Ok(self.source.facts().await?.tablespaces.iter().map(|tablespace| tablespace.oid).collect())
    }

    async fn verify(&self, backup: &Backup) -> Result<(), PortError> {
        let data = text(&self.folder(&backup.id).join("data"));
        let attempted = format!("verify backup {}", backup.id);
        let verified = match self.verifier(backup.major).await {
            Some(program) => self.notes.host.sh_within(&attempted, r#""$1" --quiet "$2""#, &[&program, &data], LONG).await,
            None => self.notes.host.sh_within(&attempted, VERIFY, &[&data], LONG).await,
        };
        verified
            .map(drop)
            .map_err(|error| error.hint("it is damaged: take a new one, and see what damaged it before you trust older ones"))
    }

    async fn remove(&self, backup: &Backup) -> Result<(), PortError> {
        let folder = text(&self.folder(&backup.id));
        // The marker goes last, so that what a crash leaves is still known as ours.
        let script = r#"[ -f "$1/greenlight.backup" ] || { echo "no backup of Greenlight's" >&2; exit 1; }
            rm -rf "$1/data" "$1/tablespaces" "$1/greenlight.pass" && rm -f "$1/greenlight.backup" && rmdir "$1""#;
        self.notes.host.sh_within(&format!("remove backup {}", backup.id), script, &[&folder], LONG).await.map(drop)
    }

    async fn remove_wal_before(&self, oldest: &Backup) -> Result<u64, PortError> {
        let first = Segment::of(oldest.start, oldest.timeline, oldest.segment_bytes).number;
        let archived = self.archived(oldest.segment_bytes).await?;
        let names: Vec<String> =
            archived.segments.iter().filter(|s| s.number < first).map(|s| s.name(oldest.segment_bytes)).collect();
        let script = r#"cd "$1" && while read -r name; do rm -f -- "$name" || exit 1; done"#;
        let lines = names.iter().fold(String::new(), |lines, name| lines + name + "\n");
        self.notes.host.feed("remove WAL that no backup needs", script, &[&text(&self.wal_folder())], &lines).await?;
        Ok(names.len() as u64)
    }

    async fn ensure_archiving(&self) -> Result<(), PortError> {
        self.notes.make_folder("wal").await?;
        match self.wal {
            WalSpec::ArchiveCommand => archiving::check(&self.source, &self.archive_command()).await,
            WalSpec::Receive => receive::ensure_running(self).await,
        }
    }

    async fn prove_archiving(&self, limit: Duration) -> Result<ArchiveProof, PortError> {
        let segment_bytes = self.source.facts().await?.segment_bytes.to_string();
        let arrived = async |name: String| {
            let script = r#"[ "$(stat -c %s "$1" 2>/dev/null)" = "$2" ] && echo yes || echo no"#;
            let said = self
                .notes
                .host
                .sh("look into the archive", script, &[&text(&self.wal_folder().join(name)), &segment_bytes])
                .await?;
            Ok(said.trim() == "yes")
        };
        archiving::prove(&self.source, &*self.clock, limit, arrived).await
    }

    async fn archived(&self, segment_bytes: u64) -> Result<Archived, PortError> {
        let script = r#"[ ! -d "$1" ] || { cd "$1" && find . -maxdepth 1 -type f -printf '%f %s\n'; }"#;
        let said = self.notes.host.sh_within("list the archive", script, &[&text(&self.wal_folder())], 5 * SHORT).await?;
        let mut archived = Archived { segment_bytes, ..Archived::default() };
        for (name, size) in said.lines().filter_map(|line| line.rsplit_once(' ')) {
            if let Some(timeline) = name.strip_suffix(".history") {
                archived.histories.extend(u32::from_str_radix(timeline, 16).ok());
            } else if let Some(name) = name.strip_suffix(".partial").filter(|_| self.wal == WalSpec::Receive) {
                archived.partial = archived.partial.max(Segment::parse(name, segment_bytes));
            } else if size.parse() == Ok(segment_bytes) {
                // One of another size is still being written, or is damaged: as good as absent.
                archived.segments.extend(Segment::parse(name, segment_bytes));
            }
        }
        Ok(archived)
    }

    fn restore_command(&self) -> String {
        let wal = quoted(&text(&self.wal_folder())).replace('%', "%%");
        match self.wal {
            WalSpec::ArchiveCommand => format!("cp {wal}/%f \"%p\""),
            // The last one is still being received: it holds what the server had written.
            WalSpec::Receive => format!("cp {wal}/%f \"%p\" 2>/dev/null || cp {wal}/%f.partial \"%p\""),
        }
    }

    fn look_command(&self) -> String {
        let wal = quoted(&text(&self.wal_folder())).replace('%', "%%");
        let link = format!("test -f {wal}/%f && ln -s {wal}/%f \"%p\"");
        match self.wal {
            WalSpec::ArchiveCommand => link,
            // That one is renamed once it is whole.
            WalSpec::Receive => format!("{{ {link}; }} || cp {wal}/%f.partial \"%p\""),
        }
    }

    fn restore_command_at(&self, on: &Host, folder: &Path) -> String {
        if on.spec == self.notes.host.spec {
            return self.restore_command();
        }
        let wal = quoted(&text(&folder.join("greenlight.wal"))).replace('%', "%%");
        format!("cp {wal}/%f \"%p\" 2>/dev/null || cp {wal}/%f.partial \"%p\"")
    }

    async fn fetch(&self, backup: &Backup, on: &Host, folder: &Path, progress: Progress<'_>) -> Result<(), PortError> {
        let from = &self.notes.host;
        let beside = tablespaces_beside(folder);
        let mut parts = vec![("data", folder)];
        if !self.tablespaces(backup).await?.is_empty() {
            parts.push(("tablespaces", &beside));
        }
        let unpack = r#"tar -C "$1" -xpf -"#;
        let copy = async {
            for (part, into) in parts {
                let (part, into) = (text(&self.folder(&backup.id).join(part)), text(into));
                if on.spec == from.spec {
                    let words = ["cp", "-a", "--reflink=auto", &format!("{part}/."), &into];
                    on.watched("copy the backup", &words, &mut |_: &str| false).await?;
                } else {
                    from.pipe("copy the backup", r#"tar -C "$1" -cf - ."#, &[&part], (on, unpack, &[&into])).await?;
                }
            }
            Ok(())
        };
        watching_size(on, &[folder, &beside], backup.bytes, &*self.clock, progress, copy).await?;
        if on.spec == from.spec {
            return Ok(());
        }
        // The other host cannot reach the archive by itself: what may be needed of it goes along.
        let wal = text(&folder.join("greenlight.wal"));
        on.sh("make the folder for WAL", r#"umask 077; mkdir -p "$1""#, &[&wal]).await?;
        let first = Segment::of(backup.start, 0, backup.segment_bytes).name(backup.segment_bytes);
        let pack = r#"cd "$1" && ls | grep -E '^[0-9A-F]{24}(\.partial)?$|\.history$' | awk -v first="$2" '/history$/ || substr($0, 9, 16) >= first' |
            tar -cf - -T -"#;
        from.pipe("copy the archived WAL", pack, &[&text(&self.wal_folder()), &first[8..]], (on, unpack, &[&wal])).await
    }

    fn fetching(&self, on: &Host, folder: &Path) -> (&'static str, PathBuf) {
        (if on.spec == self.notes.host.spec { "cp" } else { "tar" }, folder.to_owned())
    }

    async fn made_on_server(&self) -> Result<Vec<String>, PortError> {
        if self.wal == WalSpec::Receive { receive::made(self).await } else { Ok(Vec::new()) }
    }

    async fn remove_from_server(&self) -> Result<(), PortError> {
        if self.wal == WalSpec::Receive { receive::remove(self).await } else { Ok(()) }
    }
}

impl fmt::Debug for Basebackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basebackup").field("notes", &self.notes).finish_non_exhaustive()
    }
}

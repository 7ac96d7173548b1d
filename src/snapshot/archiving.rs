//! Whether WAL reaches the archive: what the server is set to do, and the proof by a segment that is seen to arrive.

use super::{ArchiveProof, Source};
use crate::word::{Clock, PortError};
use std::time::Duration;

const SETTINGS: &str = "SELECT current_setting('archive_mode'), current_setting('archive_command'), \
    coalesce(current_setting('archive_library', true), ''), \
    (SELECT CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') \
            THEN last_failed_wal || ' at ' || last_failed_time END FROM pg_stat_archiver)";

/// The server archives by itself, and did not fail with the last segment.
///
/// # Errors
/// `Refused` where it is not set up, with how; `Transient` where the last try failed, since it tries again.
pub(super) async fn check(source: &Source, command: &str) -> Result<(), PortError> {
    let attempted = "see that the server archives its WAL";
    let rows = source.session().await?.read("read how WAL is archived", SETTINGS, &[]).await?;
    let row = rows.first().ok_or_else(|| PortError::transient(attempted))?;
    let (mode, by_command, by_library): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let how = || format!("set `archive_mode = on` (which needs a restart) and `archive_command = '{command}'`");
    if mode == "off" {
        return Err(PortError::refused(attempted).because("`archive_mode` is off").hint(how()));
    }
    if by_command.is_empty() && by_library.is_empty() {
        return Err(PortError::refused(attempted).because("neither `archive_command` nor `archive_library` is set").hint(how()));
    }
    match row.get::<_, Option<String>>(3) {
        Some(failed) => Err(PortError::transient(attempted)
            .because(format!("the last try failed, with segment {failed}"))
            .hint("the server's log says why; it goes on trying by itself")),
        None => Ok(()),
    }
}

/// Ends a segment and waits until `arrived` sees it.
///
/// # Errors
/// `Transient` when it did not arrive within `limit`.
pub(super) async fn prove<F: Future<Output = Result<bool, PortError>>>(
    source: &Source,
    clock: &dyn Clock,
    limit: Duration,
    arrived: impl Fn(String) -> F,
) -> Result<ArchiveProof, PortError> {
    let begun = clock.monotonic();
    let (segment, until) = source.switch_segment().await?;
    while !arrived(segment.clone()).await? {
        if clock.monotonic().saturating_sub(begun) >= limit {
            return Err(PortError::transient(format!("see segment {segment} arrive in the archive within {} s", limit.as_secs()))
                .hint("`pg_stat_archiver` and the server's log say what keeps it; without it nothing after that segment can be recovered"));
        }
        clock.sleep(Duration::from_millis(20)).await;
    }
    Ok(ArchiveProof { segment, until, took: clock.monotonic().saturating_sub(begun) })
}

//! Whether WAL reaches the archive: what the server is set to do, and the proof by a segment that is seen to arrive.

use super::{ArchiveProof, Source};
use crate::postgres::client::cell;
use crate::word::{Clock, PortError};
use std::time::Duration;

const SETTINGS: &str = "SELECT current_setting('archive_mode'), current_setting('archive_command'), \
    coalesce(current_setting('archive_library', true), '')";
const FAILED: &str = "SELECT (SELECT CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') \
            THEN last_failed_wal || ' at ' || last_failed_time END FROM pg_stat_archiver)";

/// The server is set to archive by itself. Whether it does is seen by `prove`.
///
/// # Errors
/// `Refused` where it is not set up, with how.
pub(super) async fn check(source: &Source, command: &str) -> Result<(), PortError> {
    let attempted = "see that the server archives its WAL";
    let rows = source.session().await?.read("read how WAL is archived", SETTINGS, &[]).await?;
    let row = rows.first().ok_or_else(|| PortError::transient(attempted))?;
    let (mode, by_command, by_library): (String, String, String) = (cell(row, 0)?, cell(row, 1)?, cell(row, 2)?);
    let how = || format!("set `archive_mode = on` (which needs a restart) and `archive_command = '{command}'`");
    if mode == "off" {
        return Err(PortError::refused(attempted).because("`archive_mode` is off").hint(how()));
    }
    if by_command.is_empty() && by_library.is_empty() {
        return Err(PortError::refused(attempted).because("neither `archive_command` nor `archive_library` is set").hint(how()));
    }
    Ok(())
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
            let late = PortError::transient(format!("see segment {segment} arrive in the archive within {} s", limit.as_secs()))
                .hint("the server's log says what keeps it; without it nothing after that segment can be recovered");
            return Err(match failed(source).await? {
                Some(failed) => late.because(format!("the server failed to archive segment {failed}")),
                None => late,
            });
        }
        clock.sleep(Duration::from_millis(20)).await;
    }
    Ok(ArchiveProof { segment, until, took: clock.monotonic().saturating_sub(begun) })
}

/// The segment with which archiving failed last, where it has not succeeded since.
async fn failed(source: &Source) -> Result<Option<String>, PortError> {
    let rows = source.session().await?.read("read how archiving went", FAILED, &[]).await?;
    rows.first().map_or(Ok(None), |row| cell(row, 0))
}

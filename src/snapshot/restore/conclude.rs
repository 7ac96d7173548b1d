//! The end of a restore: the server becomes one of its own, or goes.

use super::configure::UNTIL_PROMOTED;
use super::place::{Marker, Place, State};
use crate::postgres::client::{cell, one};
use crate::postgres::sweep;
use crate::snapshot::SnapshotStore;
use crate::word::{Endpoint, PortError};
use tokio_postgres::types::Type;

/// Opens the restored server for writing, on a timeline of its own. Repeatable.
///
/// # Errors
/// `Uncertain` when it did not open within a minute.
pub async fn promote(place: &Place, like: &Endpoint) -> Result<(), PortError> {
    let marker = place.marker().await?;
    if marker.state == State::Fetching {
        return Err(PortError::refused(format!("promote the server in `{}`", place.data_dir.display()))
            .because("its backup is not copied whole")
            .hint("run the same restore again: it goes on"));
    }
    let place = Place { port: marker.port, ..place.clone() };
    if place.postmaster().await?.is_none() {
        return Err(PortError::refused(format!("promote the server in `{}`", place.data_dir.display()))
            .because("it does not run")
            .hint("run the same restore again: it goes on"));
    }
    // From here on it may serve: should we die, it must not be taken for one that can be removed.
    place.mark(&Marker { state: State::Promoted, ..marker }).await?;
    place.give_beside_away().await?;
    let session = place.session(like).await?;
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(true, 55) ELSE true END";
    let rows = session.change("promote it", sql, &[]).await?;
    if !cell::<bool>(one(&rows)?, 0)? {
        return Err(PortError::uncertain("see the restored server promoted within 55 s"));
    }
    let sql = "SELECT EXISTS (SELECT FROM pg_file_settings WHERE name = $1 AND sourcefile LIKE '%postgresql.auto.conf')";
    let rows = session.read("look whether it is set for a recovery", sql, &[(&UNTIL_PROMOTED[0], Type::TEXT)]).await?;
    if cell::<bool>(one(&rows)?, 0)? {
        // What runs had made came with the copy, claim and fence among it. Those runs work on the server, and not here.
        let at = place.endpoint(like);
        for leftover in sweep::list(&at).await? {
            sweep::remove(&at, &leftover).await?;
        }
    }
    // Those that this version knows.
    let sql = "SELECT name FROM pg_settings WHERE name = ANY ($1)";
    let known = session.read("look which settings there are", sql, &[(&UNTIL_PROMOTED.to_vec(), Type::TEXT_ARRAY)]).await?;
    for setting in known.iter().map(|row| cell::<String>(row, 0)).collect::<Result<Vec<_>, _>>()? {
        session.batch(&format!("reset `{setting}`"), &format!("ALTER SYSTEM RESET {setting}")).await?;
    }
    session.change("read the configuration again", "SELECT pg_reload_conf()", &[]).await.map(drop)
}

/// Stops the restored server and removes its folder: only one that a restore made and nobody promoted.
///
/// # Errors
/// `Refused` for any other, and while a copy into it is under way.
pub async fn discard(store: &dyn SnapshotStore, place: &Place, like: &Endpoint) -> Result<(), PortError> {
    let attempted = || format!("discard `{}`", place.data_dir.display());
    let marker = place.marker().await?;
    if marker.state == State::Promoted {
        return Err(PortError::refused(attempted()).because("it was promoted and may serve").hint("stop and remove it by hand"));
    }
    if place.is_being_copied_into(store).await? {
        return Err(PortError::refused(attempted()).because("a restore is copying into it").hint("end that one first"));
    }
    let place = Place { port: marker.port, ..place.clone() };
    if place.postmaster().await?.is_some()
        && let Ok(session) = place.session(like).await
    {
        let rows = session.read("look whether it is still in recovery", "SELECT pg_is_in_recovery()", &[]).await?;
        if !cell::<bool>(one(&rows)?, 0)? {
            return Err(PortError::refused(attempted())
                .because("somebody promoted it by hand, and it may serve")
                .hint("stop and remove it by hand"));
        }
    }
    place.stop(marker.major).await?;
    place.empty().await?;
    place.release().await
}

//! The few questions that a provider asks of blue.

use crate::postgres::client::{Session, SessionOptions};
use crate::word::{Endpoint, PortError};
use std::time::Duration;

/// A session on blue.
pub(super) async fn connect(to: &Endpoint) -> Result<Session, PortError> {
    let limit = Duration::from_mins(1);
    Session::open(to, &SessionOptions::ours("greenlight", limit, limit), "blue").await
}

/// The rows of a query whose columns are all texts; null as the empty text.
pub(super) async fn texts(blue: &Session, attempted: &str, sql: &str) -> Result<Vec<Vec<String>>, PortError> {
    let rows = blue.read(attempted, sql, &[]).await?;
    let cell = |row: &tokio_postgres::Row, column| {
        let text = row.try_get::<_, Option<String>>(column).map(Option::unwrap_or_default);
        text.map_err(|e| PortError::refused(format!("{attempted} on blue")).because(e))
    };
    rows.iter().map(|row| (0..row.len()).map(|column| cell(row, column)).collect()).collect()
}

/// Blue's major version.
pub(super) async fn major(blue: &Session) -> Result<u32, PortError> {
    let attempted = "read the version";
    let rows = texts(blue, attempted, "SELECT (current_setting('server_version_num')::int / 10000)::text").await?;
    let major = rows.first().and_then(|row| row.first()).and_then(|text| text.parse().ok());
    major.ok_or_else(|| PortError::refused(format!("{attempted} of blue")))
}

/// The tablespaces that have folders of their own.
pub(super) async fn tablespaces(blue: &Session) -> Result<Vec<String>, PortError> {
    let sql = "SELECT spcname::text FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '' ORDER BY 1";
    Ok(texts(blue, "read the tablespaces", sql).await?.into_iter().flatten().collect())
}

/// A physical slot that keeps WAL from now on, so that nothing is missing between the copy and the standby's start.
pub(super) async fn ensure_physical_slot(blue: &Session, slot: &str) -> Result<(), PortError> {
    let sql = "SELECT pg_create_physical_replication_slot($1, true) \
               WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    let created = blue.change(&format!("create the slot `{slot}`"), sql, &[(&slot, tokio_postgres::types::Type::NAME)]).await;
    created.map(drop)
}

//! Reads what decides at a server who gets in.

use super::client::{Session, cell, one};
use crate::plan::Access;
use crate::word::PortError;
use serde_json::Value;
use tokio_postgres::types::Type;

/// `salt`: the same for servers that are compared, and never used again.
///
/// # Errors
/// `Transient` when the server does not answer, `Refused` when it does not let us read: `pg_authid` and `pg_hba_file_rules` are
/// for superusers.
pub async fn read(session: &Session, roles: &[String], salt: &str) -> Result<Access, PortError> {
    let attempted = "read who gets in (`pg_hba_file_rules`, `pg_authid`)";
    let sql = include_str!("sql/access.sql");
    let rows = session.read(attempted, sql, &[(&roles, Type::TEXT_ARRAY), (&salt, Type::TEXT)]).await?;
    let seen: Value = cell(one(&rows)?, 0)?;
    serde_json::from_value(seen).map_err(|error| PortError::refused(attempted).because(error))
}

//! Whether a manager of high availability has the server: what it leaves in sessions, roles and files.

use super::failure::{Effect, of_call};
use crate::plan::{ManagerFiles, ManagerSigns};
use crate::word::PortError;
use serde::de::DeserializeOwned;
use tokio_postgres::Client;

const ATTEMPTED: &str = "look for a manager of high availability";

/// `superuser`: whether the session may read the server's files. Without, they are not known.
pub(super) async fn read(client: &Client, superuser: bool) -> Result<ManagerSigns, PortError> {
    let mut signs: ManagerSigns = ask(client, include_str!("sql/managers.sql")).await?;
    if superuser {
        signs.files = Some(ask::<ManagerFiles>(client, include_str!("sql/manager_files.sql")).await?);
    }
    Ok(signs)
}

async fn ask<T: DeserializeOwned>(client: &Client, sql: &str) -> Result<T, PortError> {
    let could_not = |error: tokio_postgres::Error| of_call(ATTEMPTED, Effect::Read, &error);
    let row = client.query_one(sql, &[]).await.map_err(could_not)?;
    let seen: serde_json::Value = row.try_get(0).map_err(could_not)?;
    serde_json::from_value(seen).map_err(|e| PortError::refused(ATTEMPTED).because(e))
}

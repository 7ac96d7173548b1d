//! The few questions that a provider asks of blue.

use crate::word::{Endpoint, Failure, PortError, quote_literal};
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A session on blue.
pub(super) struct Sql {
    client: Client,
    endpoint: String,
}

pub(super) async fn connect(to: &Endpoint) -> Result<Sql, PortError> {
    let mut config = Config::new();
    config.host(&to.host).port(to.port).user(&to.user).dbname(&to.database).application_name("greenlight");
    config.connect_timeout(Duration::from_secs(10));
    if let Some(password) = &to.password {
        config.password(password.expose());
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|e| {
        let failure = e.as_db_error().map_or(Failure::Transient, |_| Failure::Refused);
        PortError::new(failure, format!("connect to `{to}`")).because(e)
    })?;
    tokio::spawn(connection);
    Ok(Sql { client, endpoint: to.to_string() })
}

impl Sql {
    /// Rows as texts; null as the empty text.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, PortError> {
        let messages = self.client.simple_query(sql).await.map_err(|e| {
            let failure = e.as_db_error().map_or(Failure::Uncertain, |_| Failure::Refused);
            PortError::new(failure, format!("ask `{}`", self.endpoint)).because(e)
        })?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

/// Blue's major version.
pub(super) async fn major(blue: &Sql) -> Result<u32, PortError> {
    let rows = blue.rows("SELECT current_setting('server_version_num')::int / 10000").await?;
    let major = rows.first().and_then(|row| row.first()).and_then(|text| text.parse().ok());
    major.ok_or_else(|| PortError::refused(format!("read the version of `{}`", blue.endpoint)))
}

/// The tablespaces that have folders of their own.
pub(super) async fn tablespaces(blue: &Sql) -> Result<Vec<String>, PortError> {
    let rows = blue.rows("SELECT spcname FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '' ORDER BY 1").await?;
    Ok(rows.into_iter().flatten().collect())
}

/// A physical slot that keeps WAL from now on, so that nothing is missing between the copy and the standby's start.
pub(super) async fn ensure_physical_slot(blue: &Sql, slot: &str) -> Result<(), PortError> {
    let name = quote_literal(slot);
    blue.rows(&format!(
        "SELECT pg_create_physical_replication_slot({name}, true) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
    ))
    .await
    .map(drop)
}

//! The lab's own sessions: to servers and PgBouncers on loopback.

use crate::word::{Endpoint, Failure, PortError};
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Connects without TLS, which is for loopback only.
pub(super) async fn connect(to: &Endpoint) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host(&to.host).port(to.port).user(&to.user).dbname(&to.database).application_name("shop");
    config.connect_timeout(Duration::from_secs(10));
    if let Some(password) = &to.password {
        config.password(password.expose());
    }
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs statements in one session and returns their rows as texts, null as the empty one.
///
/// # Errors
/// `Transient` when it could not connect, `Uncertain` otherwise.
pub(super) async fn ask(to: &Endpoint, sql: &str) -> Result<Vec<Vec<String>>, PortError> {
    let error = |failure, e| PortError::new(failure, format!("ask `{to}`")).because(e);
    let client = connect(to).await.map_err(|e| error(Failure::Transient, e))?;
    let messages = client.simple_query(sql).await.map_err(|e| error(Failure::Uncertain, e))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).unwrap_or_default().to_owned()).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

//! Schema `greenlight`: which run has the database, the marker, and the function of the fence.

use super::{
    client::{Session, cell, one},
    failure::sqlstate,
    fence, health, mark,
    server::PgServer,
    triggers, trust,
};
use crate::plan::SCHEMA;
use crate::word::{PortError, quote_literal};
use std::time::Duration;
use tokio_postgres::types::Type;

pub(super) async fn read(server: &PgServer) -> Result<Option<String>, PortError> {
    let attempted = "read the claim of a run";
    let session = server.session().await?;
    let tables = trust::own_schema(session.client()).await?.unwrap_or_default();
    // Looked for first, since a query for a table that is not there leaves an error in the server's log.
    if !tables.iter().any(|table| table == "claim") {
        return Ok(None);
    }
    let rows = session.read(attempted, "SELECT run FROM greenlight.claim", &[]).await?;
    rows.first().map(|row| cell(row, 0)).transpose()
}

pub(super) async fn ensure(server: &PgServer) -> Result<(), PortError> {
    if is_ours(server, read(server).await?)? {
        return Ok(());
    }
    if server.options.endpoint.user == SCHEMA {
        return Err(PortError::refused("claim the database")
            .because(format!(
                "a role named `{SCHEMA}` finds the schema of that name first: what a migration makes without naming a schema \
                 would be made there, and removed with it"
            ))
            .hint(format!("use a role with another name: ALTER ROLE {SCHEMA} RENAME TO ...")));
    }
    let session = server.session().await?;
    mark::ensure_absent(server, &session).await?;
    let there = trust::own_schema(session.client()).await?;
    let made = session.batch("claim the database", &what_is_missing(server, there.as_deref())).await;
    match (is_ours(server, read(server).await?)?, made) {
        (true, _) => Ok(()),
        (false, Err(error)) => Err(error),
        (false, Ok(())) => Err(PortError::transient("claim the database").because("the claim is gone again")),
    }
}

/// Never IF NOT EXISTS: what a stranger put there between the look and this must not be taken for ours. Of two runs that come
/// at once one fails, and finds the other's claim.
fn what_is_missing(server: &PgServer, there: Option<&[String]>) -> String {
    let run = quote_literal(server.run().as_str());
    let schema = "CREATE SCHEMA greenlight;
         COMMENT ON SCHEMA greenlight IS 'Kept by Greenlight while a run lasts; `greenlight sweep` removes what a lost run left';";
    let claim = "CREATE TABLE greenlight.claim
         (id int PRIMARY KEY CHECK (id = 1), run text NOT NULL, claimed_at timestamptz NOT NULL DEFAULT now());";
    let marker = "CREATE TABLE greenlight.marker (id int PRIMARY KEY, value bigint NOT NULL, run text NOT NULL);";
    let lacks = |table: &str| !there.unwrap_or_default().iter().any(|name| name == table);
    let parts = [(there.is_none(), schema), (lacks("claim"), claim), (lacks("marker"), marker)];
    let made: String = parts.into_iter().filter_map(|(missing, sql)| missing.then_some(sql)).collect();
    format!(
        "{made}
         INSERT INTO greenlight.claim (id, run) VALUES (1, {run}) ON CONFLICT DO NOTHING;
         INSERT INTO greenlight.marker (id, value, run) VALUES (1, 0, {run}) ON CONFLICT DO NOTHING;
         {}",
        fence::born_function(server)
    )
}

/// What makes schema `greenlight` where there is none. One that is there is ours: a stranger's is refused, and one that he
/// makes meanwhile fails what follows.
pub(super) async fn schema(session: &Session) -> Result<&'static str, PortError> {
    Ok(if trust::own_schema(session.client()).await?.is_some() { "" } else { "CREATE SCHEMA greenlight;" })
}

/// # Errors
/// `Refused` when another run has the claim.
fn is_ours(server: &PgServer, claim: Option<String>) -> Result<bool, PortError> {
    match claim {
        Some(run) if run != server.run().as_str() => Err(PortError::refused("claim the database")
            .because(format!("run `{run}` has it"))
            .hint(format!("finish or abandon run `{run}`; if it is lost: greenlight sweep"))),
        claim => Ok(claim.is_some()),
    }
}

pub(super) async fn ensure_none(server: &PgServer) -> Result<(), PortError> {
    is_ours(server, read(server).await?)?;
    health::ensure_no_epoch(server).await?;
    let session = server.session().await?;
    let rows = session.read("look for schema greenlight", "SELECT to_regnamespace('greenlight') IS NOT NULL", &[]).await?;
    if !cell::<bool>(one(&rows)?, 0)? {
        return Ok(());
    }
    // One by one before the schema, whose removal would hold the locks of all tables at once.
    triggers::ensure_none(server).await?;
    let removed = server
        .poll(Duration::from_secs(20), || async {
            match session.batch("remove schema greenlight", "DROP SCHEMA IF EXISTS greenlight CASCADE").await {
                Ok(()) => Ok(Some(())),
                Err(error) if matches!(sqlstate(&error), Some("55P03" | "40P01")) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?;
    removed.ok_or_else(|| {
        PortError::transient("remove schema greenlight").because("another session holds a lock on it, see `pg_locks`")
    })
}

/// The transaction of this very row is what is awaited on the other side, so it is committed here when the call returns.
pub(super) async fn write_marker(server: &PgServer, value: i64) -> Result<(), PortError> {
    let sql = "INSERT INTO greenlight.marker AS m (id, value, run) VALUES (1, $1, $2) \
               ON CONFLICT (id) DO UPDATE SET value = excluded.value, run = excluded.run";
    let params = [(&value as _, Type::INT8), (&server.run().as_str() as _, Type::TEXT)];
    server.session().await?.change("write the marker", sql, &params).await.map(drop)
}

pub(super) async fn read_marker(server: &PgServer) -> Result<Option<i64>, PortError> {
    let session = server.session().await?;
    match session.read("read the marker", "SELECT value FROM greenlight.marker WHERE id = 1", &[]).await {
        Ok(rows) => rows.first().map(|row| cell(row, 0)).transpose(),
        Err(error) if matches!(sqlstate(&error), Some("42P01" | "3F000")) => Ok(None),
        Err(error) => Err(error),
    }
}

//! The history table, and the lock that goes with it.

use super::session::{Around, Session, failure, said};
use super::{Applied, files::checksum};
use crate::plan::HistorySpec;
use crate::word::{Endpoint, PortError, RelationName, quote_ident};
use tokio_postgres::{Client, Error};

/// The history table is always called so; its schema is the playbook's.
const TABLE: &str = "schema_migrations";

/// The history table of a database.
pub(super) fn table(history: &HistorySpec) -> RelationName {
    RelationName::new(history.schema.clone(), TABLE)
}

/// Makes the history table where there is none.
pub(super) async fn create(client: &Client, history: &HistorySpec) -> Result<(), Error> {
    let (name, schema) = (table(history).sql(), quote_ident(&history.schema));
    let row = client.query_one("SELECT to_regclass($1) IS NULL, to_regnamespace($2) IS NULL", &[&name, &schema]).await?;
    let (no_table, no_schema): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if no_schema {
        client.batch_execute(&format!("CREATE SCHEMA {}", quote_ident(&history.schema))).await?;
    }
    if no_table {
        let columns = "version varchar(50) PRIMARY KEY, applied_at timestamp NOT NULL DEFAULT now(), \
                       checksum varchar(64) NOT NULL, execution_time_ms integer";
        client.batch_execute(&format!("CREATE TABLE {} ({columns})", table(history).sql())).await?;
    }
    Ok(())
}

/// Whether there is a history table.
pub(super) async fn exists(client: &Client, history: &HistorySpec) -> Result<bool, Error> {
    client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table(history).sql()]).await?.try_get(0)
}

/// What the history table of a database holds; empty when there is no such table.
///
/// # Errors
/// As connecting and reading; `Refused` when another tool's table has the name.
pub async fn applied(endpoint: &Endpoint, history: &HistorySpec) -> Result<Vec<Applied>, PortError> {
    let on = format!("`{}`", endpoint.database);
    let session = Session::open(endpoint, "greenlight/plan", &on).await?;
    read(&session.client, history, &on).await
}

pub(super) async fn read(client: &Client, history: &HistorySpec, on: &str) -> Result<Vec<Applied>, PortError> {
    let name = table(history);
    let fail = |e: Error| {
        let error = PortError::new(failure(&e, Around::Transaction), format!("read the history table {name} on {on}"));
        // Columns that are not there: a table of the same name and another tool's.
        let other = e.code().is_some_and(|code| code.code() == "42703" || code.code() == "42883");
        let error = error.because(said(&e));
        if other { error.hint("another tool's table has that name; name another schema for the history") } else { error }
    };
    if !exists(client, history).await.map_err(fail)? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT version::text, checksum::text, applied_at AT TIME ZONE current_setting('TimeZone'), \
             coalesce(execution_time_ms, 0)::bigint FROM {} ORDER BY length(version), version",
        name.sql()
    );
    let rows = client.query(&sql, &[]).await.map_err(fail)?;
    let row = |row: &tokio_postgres::Row| {
        Ok(Applied {
            version: row.try_get(0)?,
            checksum: row.try_get(1)?,
            applied_at: row.try_get(2)?,
            execution_time_ms: row.try_get(3)?,
        })
    };
    rows.iter().map(row).collect::<Result<_, Error>>().map_err(fail)
}

/// One lock for each history: migrations of different histories do not keep each other away.
pub(super) fn lock_key(schema: &str) -> i64 {
    let digest = checksum(&format!("greenlight {TABLE} {schema}"));
    digest.as_bytes()[..16].iter().fold(0_i64, |key, byte| key << 4 | i64::from((*byte as char).to_digit(16).unwrap_or(0)))
}

/// Who has the lock, for a person.
pub(super) async fn holder(client: &Client, key: i64) -> Result<String, Error> {
    let sql = "SELECT format('process %s, user %s, %s, from %s, since %s', a.pid, a.usename, \
                   coalesce(nullif(a.application_name, ''), 'without a name'), coalesce(host(a.client_addr), 'the machine itself'), \
                   a.backend_start::timestamptz(0)) \
               FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                   AND l.classid::bigint = ($1::bigint >> 32) & 4294967295 AND l.objid::bigint = $1::bigint & 4294967295 \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = client.query(sql, &[&key]).await?;
    match rows.first() {
        Some(row) => row.try_get(0),
        None => Ok("it has just ended".to_owned()),
    }
}

//! The history table, and the lock that goes with it.
//!
//! It stands where migrations put it, mostly in a schema in which an application's role may do as it likes. So it is taken
//! only as a plain table that runs nobody's code (`trust::plain_table`), looked at anew under the lock in which it is
//! written. And what is said in a session of migrations, whose search path is the application's, names everything with its
//! schema, operators too.

use super::session::{Around, failure, said};
use super::{Applied, files::checksum};
use crate::plan::HistorySpec;
use crate::postgres::client::{Session, SessionOptions};
use crate::postgres::trust;
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
    let sql = "SELECT pg_catalog.to_regclass($1) IS NULL, pg_catalog.to_regnamespace($2) IS NULL";
    let row = client.query_one(sql, &[&name, &schema]).await?;
    let (no_table, no_schema): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if no_schema {
        client.batch_execute(&format!("CREATE SCHEMA {}", quote_ident(&history.schema))).await?;
    }
    if no_table {
        let columns = "version pg_catalog.varchar(50) PRIMARY KEY, applied_at pg_catalog.timestamp NOT NULL \
                       DEFAULT pg_catalog.now(), checksum pg_catalog.varchar(64) NOT NULL, execution_time_ms pg_catalog.int4";
        client.batch_execute(&format!("CREATE TABLE {} ({columns})", table(history).sql())).await?;
    }
    Ok(())
}

/// What the history table of a database holds; empty when there is no such table.
///
/// # Errors
/// As connecting and reading; `Refused` when another tool's table has the name.
pub async fn applied(endpoint: &Endpoint, history: &HistorySpec) -> Result<Vec<Applied>, PortError> {
    let on = format!("`{}`", endpoint.database);
    let session = Session::open(endpoint, &SessionOptions::reading("greenlight/plan"), &on).await?;
    read(session.client(), history, &on).await
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
    if !trust::plain_table(client, &name).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT version::pg_catalog.text, checksum::pg_catalog.text, \
             pg_catalog.timezone(pg_catalog.current_setting('TimeZone'), applied_at), \
             coalesce(execution_time_ms, 0)::pg_catalog.int8 FROM ONLY {} ORDER BY pg_catalog.length(version), version",
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
    let sql = "SELECT pg_catalog.format('process %s, user %s, %s, from %s, since %s', a.pid, a.usename, \
                   CASE WHEN a.application_name OPERATOR(pg_catalog.<>) '' THEN a.application_name ELSE 'without a name' END, \
                   coalesce(pg_catalog.host(a.client_addr), 'the machine itself'), \
                   pg_catalog.date_trunc('second', a.backend_start)) \
               FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid \
               WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted AND l.objsubid OPERATOR(pg_catalog.=) 1 \
                   AND l.classid OPERATOR(pg_catalog.=) $1 AND l.objid OPERATOR(pg_catalog.=) $2 \
                   AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d \
                       WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())";
    // Its two halves, as the server shows them.
    let bytes = key.to_be_bytes();
    let half = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let rows = client.query(sql, &[&half(0), &half(4)]).await?;
    match rows.first() {
        Some(row) => row.try_get(0),
        None => Ok("it has just ended".to_owned()),
    }
}

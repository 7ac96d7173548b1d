//! Small changes of the schema that a run makes and takes back, the history table, and the fingerprint that shows everybody
//! else's changes.

use super::{
    catalog,
    client::{Session, cell},
    failure::sqlstate,
    server::PgServer,
    trust,
};
use crate::plan::SyncTrigger;
use crate::schema::{Fingerprint, fingerprint};
use crate::word::{PortError, RelationName, quote_ident};
use std::time::Duration;
use tokio_postgres::types::Type;

/// How long a change is tried again while somebody holds a lock.
const LOCKED_LIMIT: Duration = Duration::from_secs(20);
/// Time for those who waited behind us, before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Looking at all rows of a large table.
const VALIDATE_LIMIT: Duration = Duration::from_hours(12);

pub(super) async fn schema_fingerprint(server: &PgServer) -> Result<Fingerprint, PortError> {
    // A session of its own, since it is read in one transaction.
    let session = server.own_session(Duration::from_mins(2), Duration::from_secs(10)).await?;
    Ok(fingerprint(&catalog::read(session.client()).await?))
}

pub(super) async fn has_large_objects(server: &PgServer) -> Result<bool, PortError> {
    let session = server.session().await?;
    let sql = "SELECT EXISTS (SELECT FROM pg_largeobject_metadata)";
    let rows = session.read("look for large objects", sql, &[]).await?;
    rows.first().map_or(Ok(false), |row| cell(row, 0))
}

pub(super) async fn ensure_not_null(
    server: &PgServer,
    table: &RelationName,
    columns: &[String],
    on: bool,
) -> Result<(), PortError> {
    let session = server.session().await?;
    let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = ANY ($2) \
               AND NOT attisdropped AND attnotnull <> $3 ORDER BY attnum";
    let params = [(&table.sql() as _, Type::TEXT), (&columns as _, Type::TEXT_ARRAY), (&on as _, Type::BOOL)];
    let attempted = format!("{} NOT NULL on {table}", if on { "set" } else { "drop" });
    let rows = session.read(&attempted, sql, &params).await?;
    let todo: Vec<String> = rows.iter().map(|row| cell(row, 0)).collect::<Result<_, _>>()?;
    for column in todo {
        if on {
            set_not_null(server, &session, table, &column).await?;
        } else {
            let sql = format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", table.sql(), quote_ident(&column));
            patiently(server, &session, &attempted, &sql).await?;
        }
    }
    Ok(())
}

/// The table may be serving: its rows are looked at under a lock that lets everyone read and write, and only then the
/// column is set, which believes the checked constraint without looking again.
async fn set_not_null(server: &PgServer, session: &Session, table: &RelationName, column: &str) -> Result<(), PortError> {
    let attempted = format!("set NOT NULL on column `{column}` of {table}");
    let (name, quoted, alter) = ("greenlight_not_null", quote_ident(column), format!("ALTER TABLE {}", table.sql()));
    let add =
        format!("{alter} DROP CONSTRAINT IF EXISTS {name}; {alter} ADD CONSTRAINT {name} CHECK ({quoted} IS NOT NULL) NOT VALID");
    patiently(server, session, &attempted, &add).await?;
    let validate = format!("{alter} VALIDATE CONSTRAINT {name}");
    let checked = match server.own_session(VALIDATE_LIMIT, LOCKED_LIMIT).await {
        Ok(long) => long.batch(&attempted, &validate).await,
        // The database takes no connections: then nobody waits for this either.
        Err(error) if sqlstate(&error) == Some("55000") => session.batch(&attempted, &validate).await,
        Err(error) => Err(error),
    };
    let drop = format!("{alter} DROP CONSTRAINT IF EXISTS {name}");
    if let Err(error) = checked {
        patiently(server, session, &attempted, &drop).await?;
        return Err(error);
    }
    patiently(server, session, &attempted, &format!("{alter} ALTER COLUMN {quoted} SET NOT NULL; {drop}")).await
}

/// Tries again while somebody holds a lock, and lets those behind us through in between.
async fn patiently(server: &PgServer, session: &Session, attempted: &str, sql: &str) -> Result<(), PortError> {
    let sql = format!("SET LOCAL lock_timeout = 200; {sql}");
    let done = server
        .poll(LOCKED_LIMIT, || async {
            match session.batch(attempted, &sql).await {
                Ok(()) => Ok(Some(())),
                Err(error) if matches!(sqlstate(&error), Some("55P03" | "40P01")) => {
                    server.options.clock.sleep(PAUSE).await;
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })
        .await?;
    done.ok_or_else(|| PortError::transient(attempted).because("another session holds a lock on it all the time, see `pg_locks`"))
}

pub(super) async fn ensure_sync_triggers(server: &PgServer, triggers: &[SyncTrigger], always: bool) -> Result<bool, PortError> {
    let session = server.session().await?;
    let mut all = true;
    for SyncTrigger { table, name } in triggers {
        let attempted = format!("set how trigger `{name}` on {table} fires");
        let sql = "SELECT tgenabled = 'A' FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = $2 AND NOT tgisinternal";
        let rows = session.read(&attempted, sql, &[(&table.sql(), Type::TEXT), (&name, Type::NAME)]).await?;
        match rows.first().map(|row| cell::<bool>(row, 0)).transpose()? {
            Some(now) if now == always => (),
            Some(_) => {
                let mode = if always { "ENABLE ALWAYS TRIGGER" } else { "ENABLE TRIGGER" };
                let sql = format!("ALTER TABLE {} {mode} {}", table.sql(), quote_ident(name));
                patiently(server, &session, &attempted, &sql).await?;
            }
            None => all = false,
        }
    }
    Ok(all)
}

pub(super) async fn ensure_history_without(server: &PgServer, versions: &[String]) -> Result<(), PortError> {
    let attempted = "take the run's migrations out of the history table";
    let table = RelationName::new(server.options.history.schema.clone(), "schema_migrations");
    // In one of its own, since it is several statements: what is found of the table holds until it is written.
    let session = server.own_session(Duration::from_mins(1), Duration::from_secs(5)).await?;
    if !trust::plain_table(session.client(), &table).await? {
        return Ok(());
    }
    session.batch(attempted, &format!("BEGIN; LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE", table.sql())).await?;
    trust::plain_table(session.client(), &table).await?;
    let sql = format!("DELETE FROM ONLY {} WHERE version = ANY ($1)", table.sql());
    session.change(attempted, &sql, &[(&versions, Type::TEXT_ARRAY)]).await?;
    session.batch(attempted, "COMMIT").await
}

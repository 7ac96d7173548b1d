//! A cold server is a slow one: statistics, materialized views and caches, before anybody waits for them.

use super::{
    client::{Session, cell},
    server::PgServer,
};
use crate::validate::Progress;
use crate::word::{PortError, RelationName, quote_ident};
use std::time::Duration;
use tokio_postgres::types::Type;

/// One table, view or index.
const LIMIT: Duration = Duration::from_hours(12);

pub(super) async fn warm(server: &PgServer, tables: &[RelationName], progress: Progress<'_>) -> Result<(), PortError> {
    let session = server.own_session(LIMIT, Duration::from_mins(1)).await?;
    for (done, table) in (0..).zip(tables) {
        progress("analyze", done, tables.len() as u64);
        gather(&session, table).await?;
    }
    progress("analyze", tables.len() as u64, tables.len() as u64);
    refresh(&session, progress).await?;
    prewarm(&session, tables, progress).await
}

/// While applications work: what they wait for is not waited for long.
pub(super) async fn analyze(server: &PgServer, table: &RelationName) -> Result<(), PortError> {
    gather(&server.own_session(LIMIT, Duration::from_secs(5)).await?, table).await
}

async fn gather(session: &Session, table: &RelationName) -> Result<(), PortError> {
    session.batch(&format!("analyze {table}"), &format!("ANALYZE {}", table.sql())).await.map(drop)
}

/// In the order of their making, since one may read another.
async fn refresh(session: &Session, progress: Progress<'_>) -> Result<(), PortError> {
    let sql = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid";
    let rows = session.read("list the materialized views", sql, &[]).await?;
    let total = rows.len() as u64;
    for (done, row) in (0..).zip(&rows) {
        progress("refresh materialized views", done, total);
        let view = RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?);
        let sql = format!("REFRESH MATERIALIZED VIEW {}", view.sql());
        session.batch(&format!("refresh materialized view {view}"), &sql).await?;
    }
    progress("refresh materialized views", total, total);
    Ok(())
}

/// Tables, their partitions and their indexes, where the extension is there.
async fn prewarm(session: &Session, tables: &[RelationName], progress: Progress<'_>) -> Result<(), PortError> {
    let sql = "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_prewarm'";
    let found = session.read("look for pg_prewarm", sql, &[]).await?;
    let Some(row) = found.first() else { return Ok(()) };
    let schema: String = cell(row, 0)?;
    let names: Vec<String> = tables.iter().map(RelationName::sql).collect();
    let sql = "WITH RECURSIVE t (oid) AS (SELECT to_regclass(name)::oid FROM unnest($1::text[]) AS name \
                 UNION SELECT i.inhrelid FROM pg_inherits i JOIN t ON i.inhparent = t.oid) \
               SELECT c.oid, c.relname FROM t JOIN pg_class c ON c.oid = t.oid WHERE c.relkind = 'r' \
               UNION ALL SELECT c.oid, c.relname FROM t JOIN pg_index x ON x.indrelid = t.oid AND x.indisvalid \
                 JOIN pg_class c ON c.oid = x.indexrelid WHERE c.relkind = 'i'";
    let rows = session.read("list what to warm", sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    let total = rows.len() as u64;
    // With all that it takes, by their exact types: whoever may make functions there could have made one that takes fewer.
    let sql = format!(
        "SELECT {}.pg_prewarm($1::oid::regclass, 'buffer'::text, 'main'::text, NULL::int8, NULL::int8)",
        quote_ident(&schema)
    );
    for (done, row) in (0..).zip(&rows) {
        progress("warm the caches", done, total);
        let (oid, name): (u32, &str) = (cell(row, 0)?, cell(row, 1)?);
        session.read(&format!("warm `{name}`"), &sql, &[(&oid, Type::OID)]).await?;
    }
    progress("warm the caches", total, total);
    Ok(())
}

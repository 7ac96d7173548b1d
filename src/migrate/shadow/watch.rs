//! The watch on tables: statement triggers that note what a statement does to them, rows or not. A trigger for each column
//! shows which of them an UPDATE sets.

use super::super::session::Session;
use crate::word::{RelationName, quote_ident, quote_literal};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Error;

/// What was noted of one table: by kind of write, the columns that are set and the row triggers that fire.
pub(super) type Noted = BTreeMap<(u32, String), (BTreeSet<String>, BTreeSet<String>)>;

/// What the watch needs in the shadow. Each function reads names and operators as PostgreSQL's own, whatever the search path
/// of the migration is that runs around it, and is called by its whole name.
pub(super) const WATCH: &str = "
    CREATE SCHEMA greenlight;
    CREATE TABLE greenlight.noted (relation oid, kind text, column_name text, fires text[]);
    GRANT USAGE ON SCHEMA greenlight TO PUBLIC;
    GRANT SELECT ON greenlight.noted TO PUBLIC;
    CREATE FUNCTION greenlight.note_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO greenlight.noted SELECT TG_RELID, lower(TG_OP), TG_ARGV[0], array(
            SELECT t.tgname::text FROM pg_trigger t
            WHERE t.tgrelid = TG_RELID AND NOT t.tgisinternal AND t.tgtype & 1 = 1
                AND t.tgtype & CASE TG_OP WHEN 'INSERT' THEN 4 WHEN 'DELETE' THEN 8 WHEN 'UPDATE' THEN 16 ELSE 32 END <> 0
                AND t.tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
                AND (t.tgattr::text = '' OR coalesce((SELECT a.attnum FROM pg_attribute a
                    WHERE a.attrelid = TG_RELID AND a.attname = TG_ARGV[0]) = ANY (t.tgattr::int2[]), true)));
        RETURN NULL;
    END $$;
    CREATE FUNCTION greenlight.columns(tables oid[]) RETURNS TABLE (schema_name text, table_name text, names text[])
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT n.nspname::text, c.relname::text, coalesce(array_agg(a.attname::text) FILTER (WHERE a.attnum > 0
            AND NOT a.attisdropped AND a.attgenerated = ''), '{}')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.oid = ANY (tables) GROUP BY c.oid, n.nspname, c.relname
    $$;
    CREATE FUNCTION greenlight.files() RETURNS TABLE (relation oid, file oid)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT oid, relfilenode FROM pg_class WHERE relkind IN ('r', 'i', 'm')
    $$;";

/// A trigger that notes writes of one kind.
struct Watch {
    create: String,
    /// Quoted.
    table: String,
    no: usize,
}

/// Puts the watch on these tables, in the transaction that is open. A trigger for a column keeps a statement from changing
/// that column's type or dropping it; without them, UPDATE is noted without columns.
pub(super) async fn watch(session: &Session, tables: &BTreeSet<u32>, columns: bool) -> Result<(), Error> {
    let watches = watches(session, tables, columns).await?;
    session.client.batch_execute(&watches.into_iter().map(|watch| watch.create).collect::<String>()).await
}

/// The triggers that watch these tables. They fire whatever the session's replication role is.
async fn watches(session: &Session, tables: &BTreeSet<u32>, columns: bool) -> Result<Vec<Watch>, Error> {
    let sql = "SELECT schema_name, table_name, names FROM greenlight.columns($1)";
    let oids: Vec<u32> = tables.iter().copied().collect();
    let mut watches = Vec::new();
    for row in session.client.query(sql, &[&oids]).await? {
        let table = RelationName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?).sql();
        let names: Vec<String> = row.try_get(2)?;
        let mut events = ["INSERT", "DELETE", "TRUNCATE"].map(|event| (event.to_owned(), String::new())).to_vec();
        if columns {
            let event = |name: &String| (format!("UPDATE OF {}", quote_ident(name)), quote_literal(name));
            events.extend(names.iter().map(event));
        } else {
            events.push(("UPDATE".to_owned(), String::new()));
        }
        watches.extend(events.iter().enumerate().map(|(no, (event, argument))| Watch {
            create: format!(
                "CREATE TRIGGER greenlight_watch_{no} BEFORE {event} ON {table} FOR EACH STATEMENT \
                 EXECUTE FUNCTION greenlight.note_write({argument}); \
                 ALTER TABLE {table} ENABLE ALWAYS TRIGGER greenlight_watch_{no};"
            ),
            table: table.clone(),
            no,
        }));
    }
    Ok(watches)
}

/// What was noted so far.
pub(super) async fn noted(session: &Session) -> Result<Noted, Error> {
    // The statement may have left the session another role or search path.
    session.client.batch_execute("RESET SESSION AUTHORIZATION; RESET ROLE").await?;
    let sql = "SELECT relation, kind, column_name, fires FROM greenlight.noted";
    let mut noted = Noted::new();
    for row in session.client.query(sql, &[]).await? {
        let (columns, fires) = noted.entry((row.try_get(0)?, row.try_get(1)?)).or_default();
        columns.extend(row.try_get::<_, Option<String>>(2)?);
        fires.extend(row.try_get::<_, Vec<String>>(3)?);
    }
    Ok(noted)
}

/// A watch on every table, for a statement that ends transactions itself.
pub(super) async fn watch_all(session: &Session, tables: &[u32]) -> Result<(), Error> {
    // A few at once: each takes a lock until the end of its transaction.
    for some in tables.chunks(100) {
        let watches = watches(session, &some.iter().copied().collect(), false).await?;
        session.client.batch_execute(&watches.into_iter().map(|watch| watch.create).collect::<String>()).await?;
    }
    Ok(())
}

pub(super) async fn unwatch_all(session: &Session, tables: &[u32]) -> Result<(), Error> {
    for some in tables.chunks(100) {
        let watches = watches(session, &some.iter().copied().collect(), false).await?;
        let drop = |watch: Watch| format!("DROP TRIGGER IF EXISTS greenlight_watch_{} ON {};", watch.no, watch.table);
        session.client.batch_execute(&watches.into_iter().map(drop).collect::<String>()).await?;
    }
    session.client.batch_execute("TRUNCATE greenlight.noted").await
}

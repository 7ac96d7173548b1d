//! The fence's triggers: one on every table that applications may write to. Whether they refuse is their function's business.
//!
//! **Invariant:** on a serving server no table is locked for longer than its trigger takes, and nobody waits longer than
//! `LOCK_LIMIT_MS` behind us: one table at a time, tried again, more and more seldom, while somebody is in the way. Who holds one
//! for longer is seen before, and nobody has to wait behind us in vain.

use super::{
    client::{Session, cell},
    failure::sqlstate,
    fence,
    server::PgServer,
};
use crate::word::{PortError, RelationName, quote_literal};
use futures_util::{StreamExt, stream};
use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};
use tokio_postgres::types::Type;

pub(super) const TRIGGER: &str = "greenlight_fence";
/// A table of ours that has the trigger as all others: on it writes are tried.
pub(super) const TRIAL: &str = "greenlight.trial";
/// With a key, without which a publication of all tables refuses UPDATE and DELETE before any trigger is called.
pub const MAKE_TRIAL: &str = "CREATE TABLE IF NOT EXISTS greenlight.trial (id int PRIMARY KEY)";

const LOCK_LIMIT_MS: u32 = 200;
const LIMIT: Duration = Duration::from_mins(1);
/// Time for those who waited behind us, before a table is tried again: at first, and twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(16);
/// What is in the way of dropping a trigger, and without the first two, which do not write, of a new one.
const ANY: &[&str] = &[
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];
const WRITING: &[&str] = ANY.split_at(2).1;
/// Statements sent ahead of their answers.
const AHEAD: usize = 16;

/// Tables of users: ordinary ones, partitioned ones and their partitions, which can be written to directly; and the one of ours
/// for trying. Not those that belong to an extension, whose own workers a refused write would stop.
const USER_TABLES: &str = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND (n.nspname NOT IN ('pg_catalog', 'information_schema', 'greenlight')
           OR n.nspname = 'greenlight' AND c.relname = 'trial') AND n.nspname !~ '^pg_(toast|temp)'
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// A trigger of ours on table `c`, which calls our function for every write and under no condition. 62: before, for each
/// statement, of INSERT, DELETE, UPDATE and TRUNCATE. A table's owner may make one that is called so and is less.
const FENCED: &str = "EXISTS (SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid AND f.proname = 'fence'
      JOIN pg_namespace s ON s.oid = f.pronamespace AND s.nspname = 'greenlight'
      WHERE t.tgrelid = c.oid AND t.tgname = 'greenlight_fence' AND t.tgtype = 62 AND t.tgenabled IN ('O', 'A')
        AND NOT t.tgisinternal AND t.tgconstraint = 0 AND t.tgqual IS NULL AND t.tgnargs = 0
        AND cardinality(t.tgattr::int2[]) = 0)";

/// The triggers are on every table, closed or open as their function is; where there is none it is made as the claim makes it.
pub(super) async fn ensure_installed(server: &PgServer) -> Result<(), PortError> {
    let session = server.session().await?;
    fence::ensure_function(server, &session).await?;
    install(server, &session).await
}

/// As `ensure_installed`, with the function there.
pub(super) async fn install(server: &PgServer, session: &Session) -> Result<(), PortError> {
    let attempted = "install the fence";
    session.batch("make a table for trying the fence", MAKE_TRIAL).await?;
    each(server, session, attempted, &format!("NOT {FENCED}"), WRITING, |table| {
        // OR REPLACE, since a disabled one of the same name may be there.
        format!(
            "CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} \
             FOR EACH STATEMENT EXECUTE FUNCTION greenlight.fence()",
            table.sql()
        )
    })
    .await?;
    server.triggers_seen.store(true, Ordering::SeqCst);
    Ok(())
}

pub(super) async fn ensure_none(server: &PgServer) -> Result<(), PortError> {
    let session = server.session().await?;
    server.triggers_seen.store(false, Ordering::SeqCst);
    let has_one = format!("EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = {})", quote_literal(TRIGGER));
    each(server, &session, "remove the fence's triggers", &has_one, ANY, |table| {
        format!("DROP TRIGGER IF EXISTS {TRIGGER} ON {}", table.sql())
    })
    .await
}

/// Tables without the trigger, or with one that does not fire.
pub(super) async fn missing(session: &Session) -> Result<Vec<RelationName>, PortError> {
    tables(session, &format!("NOT {FENCED}")).await
}

async fn tables(session: &Session, which: &str) -> Result<Vec<RelationName>, PortError> {
    let sql = format!("SELECT n.nspname, c.relname FROM {USER_TABLES} AND {which} ORDER BY 1, 2");
    let rows = session.read("list the tables and their fence", &sql, &[]).await?;
    rows.iter().map(|row| Ok(RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?))).collect()
}

/// Runs a statement for each table for which `which` holds, until it holds for none. `conflicting`: the locks that are in its way.
async fn each(
    server: &PgServer,
    session: &Session,
    attempted: &str,
    which: &str,
    conflicting: &[&str],
    statement: impl Fn(&RelationName) -> String,
) -> Result<(), PortError> {
    let clock = &server.options.clock;
    let (until, mut pause) = (clock.monotonic() + LIMIT, PAUSE);
    loop {
        let todo = tables(session, which).await?;
        if todo.is_empty() {
            return Ok(());
        }
        let held = held_for_long(session, conflicting).await?;
        let calls: Vec<_> = todo
            .iter()
            .filter(|table| !held.contains_key(*table))
            .map(|table| locked_briefly(session, attempted, table, statement(table)))
            .collect();
        let results: Vec<Result<(), PortError>> = stream::iter(calls).buffered(AHEAD).collect().await;
        // A table that somebody had locked, or dropped meanwhile, is seen again or no more at the next look.
        let passing = |error: &PortError| matches!(sqlstate(error), Some("55P03" | "40P01" | "42P01" | "3F000"));
        let failed: Vec<PortError> = results.into_iter().filter_map(Result::err).collect();
        let held_up = !failed.is_empty();
        if let Some(error) = failed.into_iter().find(|error| !passing(error)) {
            return Err(error);
        }
        let in_the_way = todo.iter().find_map(|table| held.get(table).map(|holder| format!("{table} is held by {holder}")));
        if clock.monotonic() >= until {
            let why = in_the_way.unwrap_or_else(|| format!("{} tables were locked by others all the time", todo.len()));
            return Err(PortError::transient(attempted).because(why));
        }
        if !held_up && in_the_way.is_none() {
            continue;
        }
        if let Some(why) = in_the_way {
            tracing::warn!("waiting to {attempted}: {why}");
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Tables on which others hold such a lock for longer than we would wait for it, and who does. There we do not even ask for ours:
/// whoever came after us would wait behind it, and in vain.
async fn held_for_long(session: &Session, modes: &[&str]) -> Result<BTreeMap<RelationName, String>, PortError> {
    let sql = format!(
        "SELECT n.nspname, c.relname, string_agg(DISTINCT CASE WHEN l.pid IS NULL THEN 'a prepared transaction' ELSE \
             format('pid %s (%s, %s, %s)', l.pid, coalesce(a.usename, 'nobody'), \
                    coalesce(nullif(a.application_name, ''), a.backend_type, '?'), \
                    coalesce(nullif(upper(split_part(ltrim(a.query), ' ', 1)), ''), a.state, '?')) END, ', ') \
         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'relation' AND l.granted AND l.mode = ANY ($1) AND l.pid IS DISTINCT FROM pg_backend_pid() \
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
           AND (a.xact_start IS NULL OR clock_timestamp() - a.xact_start > interval '{LOCK_LIMIT_MS} ms') \
         GROUP BY 1, 2"
    );
    let rows = session.read("read who holds locks", &sql, &[(&modes, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| Ok((RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?), cell(row, 2)?))).collect()
}

async fn locked_briefly(session: &Session, attempted: &str, table: &RelationName, sql: String) -> Result<(), PortError> {
    // One message is one transaction, so that LOCAL holds for it alone.
    let sql = format!("SET LOCAL lock_timeout = {LOCK_LIMIT_MS}; {sql}");
    session.batch(&format!("{attempted} of {table}"), &sql).await
}

//! What keeps applications from writing: the door (`ALLOW_CONNECTIONS`), closed for the window, and the triggers, closed for
//! as long as this side follows the other.
//!
//! **Invariant:** the door is opened only when the triggers are closed, or when this side is to serve.

use super::{
    Fence, claim,
    client::{PASS, Session, cell, one},
    failure::sqlstate,
    health::HARMLESS,
    mark,
    server::PgServer,
    triggers,
};
use crate::word::{PortError, Secret, quote_ident, quote_literal};
use futures_util::future;
use sha2::{Digest, Sha256};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_postgres::types::Type;

/// Sessions in the database ($1), but for ours ($2), by which somebody could still write: all of them, whatever they call
/// themselves, but for those that are known not to.
pub(super) fn writers() -> String {
    format!("pg_stat_activity AS a WHERE datname = $1 AND pid <> ALL($2) AND NOT {HARMLESS}")
}

/// How long sessions may take to end.
const EVICTION_LIMIT: Duration = Duration::from_secs(5);

const FUNCTION: &str = "CREATE OR REPLACE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS";

/// The function of a fence that lets everyone pass.
fn open_function() -> String {
    format!("{FUNCTION} $fence$ BEGIN RETURN NULL; END $fence$")
}

/// The function of a fence that is closed where the run's mark is in force, and open elsewhere.
pub(super) fn born_function(server: &PgServer) -> String {
    let unmarked = format!(
        "IF pg_catalog.current_setting('{}') OPERATOR(pg_catalog.<>) '{}' THEN RETURN NULL; END IF;",
        mark::PARAMETER,
        mark::shown(server.run())
    );
    refusing(server, &unmarked)
}

/// The function of a fence that lets pass only our own sessions. Apply workers never call it: their role is `replica`.
fn closed_function(server: &PgServer) -> String {
    refusing(server, "")
}

/// The pass is known to the run alone; whoever reads the function has only its hash, and whoever reads the pass in a session of ours
/// is another user still.
fn refusing(server: &PgServer, unless: &str) -> String {
    let body = refusing_body(server, unless);
    // Whoever owns it could change it.
    format!("{FUNCTION} $fence${body}$fence$; ALTER FUNCTION greenlight.fence() OWNER TO CURRENT_USER")
}

fn refusing_body(server: &PgServer, unless: &str) -> String {
    let (run, hash) = (server.run(), hash_of(&server.options.pass));
    let user = quote_literal(&server.options.endpoint.user);
    let says = quote_literal(&format!("greenlight run {run} has fenced this server: it is not the one to write to"));
    format!(
        " BEGIN
           {unless}
           IF pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.current_setting('{PASS}', true), 'UTF8')), 'hex')
                OPERATOR(pg_catalog.=) '{hash}' AND session_user OPERATOR(pg_catalog.=) {user} THEN RETURN NULL; END IF;
           RAISE EXCEPTION {says} USING ERRCODE = '25006',
             HINT = 'Connect through the route that the run moves; `greenlight status` says which server serves.';
         END "
    )
}

fn hash_of(pass: &Secret) -> String {
    Sha256::digest(pass.expose()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The function is there, and where it refuses it knows our pass: a copy has the other side's, and a run whose secret was lost has
/// a new one. Whether it refuses stays as it is.
pub(super) async fn ensure_function(server: &PgServer, session: &Session) -> Result<(), PortError> {
    let sql = "SELECT prosrc LIKE '%RAISE EXCEPTION%' AND strpos(prosrc, $1) = 0, strpos(prosrc, $2) > 0 FROM pg_proc \
               WHERE pronamespace = to_regnamespace('greenlight') AND proname = 'fence'";
    let params = [(&hash_of(&server.options.pass) as _, Type::TEXT), (&mark::PARAMETER as _, Type::TEXT)];
    let rows = session.read("look for the fence", sql, &params).await?;
    let function = match rows.first() {
        None => born_function(server),
        Some(row) => match (cell(row, 0)?, cell(row, 1)?) {
            (false, _) => return Ok(()),
            (true, true) => born_function(server),
            (true, false) => closed_function(server),
        },
    };
    session.batch("make the fence's function", &format!("{} {function}", claim::schema(session).await?)).await
}

pub(super) async fn read(server: &PgServer) -> Result<Fence, PortError> {
    if !door_is_open(server).await? {
        return Ok(Fence::Connections);
    }
    let sql = "SELECT strpos(prosrc, $1) = 0, current_setting($1) = $2 FROM pg_proc \
               WHERE pronamespace = to_regnamespace('greenlight') AND proname = 'fence' AND prosrc LIKE '%RAISE EXCEPTION%'";
    let params = [(&mark::PARAMETER as _, Type::TEXT), (&mark::shown(server.run()) as _, Type::TEXT)];
    let rows = server.session().await?.read("read the fence", sql, &params).await?;
    let Some(row) = rows.first() else { return Ok(Fence::Open) };
    Ok(match (cell(row, 0)?, cell(row, 1)?) {
        (true, _) => Fence::Triggers,
        (false, true) => Fence::Marked,
        (false, false) => Fence::Open,
    })
}

pub(super) async fn damage(server: &PgServer) -> Result<Vec<String>, PortError> {
    if !door_is_open(server).await? {
        return Ok(Vec::new());
    }
    let session = server.session().await?;
    let sql = "SELECT f.prosrc = $1, r.rolname, r.rolsuper OR r.rolname = session_user FROM pg_proc f \
               JOIN pg_roles r ON r.oid = f.proowner WHERE f.oid = to_regprocedure('greenlight.fence()')";
    let rows = session.read("look at the fence", sql, &[(&refusing_body(server, "") as _, Type::TEXT)]).await?;
    let mut damage = Vec::new();
    match rows.first() {
        None => damage.push("the fence's function is gone".to_owned()),
        Some(row) => {
            if !cell::<bool>(row, 0)? {
                damage.push("the fence's function was changed".to_owned());
            }
            if !cell::<bool>(row, 2)? {
                damage.push(format!("the fence's function belongs to {}", cell::<&str>(row, 1)?));
            }
        }
    }
    let missing = triggers::missing(&session).await?;
    if let Some(first) = missing.first() {
        damage.push(format!("tables have no closed trigger, such as {first}"));
    }
    Ok(damage)
}

pub(super) async fn ensure(server: &PgServer, fence: Fence) -> Result<(), PortError> {
    match fence {
        Fence::Open => open(server).await,
        Fence::Marked => triggers::ensure_installed(server).await,
        Fence::Triggers => close_triggers(server).await,
        Fence::Connections => close_connections(server).await,
    }
}

async fn open(server: &PgServer) -> Result<(), PortError> {
    if let Some(session) = server.session_if_open().await {
        // Side by side, since this is in the pause. Whichever comes first, it is this side that is to serve.
        future::try_join(open_door(server), replace_function(&session, "open the fence", &open_function())).await?;
        return Ok(());
    }
    open_door(server).await?;
    replace_function(&*server.session().await?, "open the fence", &open_function()).await
}

async fn close_triggers(server: &PgServer) -> Result<(), PortError> {
    let closed = !door_is_open(server).await?;
    if closed && server.session_if_open().await.is_none() {
        // There is no other way in. The function was closed together with the door.
        open_door(server).await?;
    }
    let session = server.session().await?;
    let sql = format!("{} {}", claim::schema(&session).await?, closed_function(server));
    session.batch("close the fence", &sql).await?;
    triggers::install(server, &session).await?;
    if closed { open_door(server).await } else { Ok(()) }
}

async fn close_connections(server: &PgServer) -> Result<(), PortError> {
    let outside = server.outside().await?;
    // Ours is kept through the closed door: without it nobody could write the marker.
    let inside = match server.session().await {
        Ok(session) => Some(session),
        Err(error) if sqlstate(&error) == Some("55000") => None,
        Err(error) => return Err(error),
    };
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quote_ident(server.database()));
    let door = outside.batch("refuse new connections", &sql);
    match &inside {
        Some(session) => {
            let function = closed_function(server);
            future::try_join(door, replace_function(session, "close the fence", &function)).await?;
        }
        None => door.await?,
    }
    evict(server, &outside).await?;
    match inside {
        // Nobody is there any more to be held up by it.
        Some(session) if !server.triggers_seen.load(Ordering::SeqCst) && has_function(&session).await? => {
            triggers::install(server, &session).await
        }
        _ => Ok(()),
    }
}

/// Ends every session that could write, and sees them gone. The door is closed already.
async fn evict(server: &PgServer, outside: &Arc<Session>) -> Result<(), PortError> {
    let attempted = "end the sessions in the database";
    let (database, ours) = (server.database(), server.own_pids().await);
    let params = [(&database as _, Type::NAME), (&ours as _, Type::INT4_ARRAY)];
    // Who read the database's row before the door closed holds a lock on the database until it shows among the sessions. So
    // the locks are read before the sessions: both empty, in this order, is the proof that nobody is left.
    let entering = "SELECT FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass \
        AND mode = 'RowExclusiveLock' AND objid = (SELECT oid FROM pg_database WHERE datname = $1) AND pid <> ALL($2)";
    let ending = format!("SELECT pg_terminate_backend(pid) FROM {}", writers());
    let gone = server
        .poll(EVICTION_LIMIT, || async {
            let entering = outside.read(attempted, entering, &params);
            let ended = outside.change(attempted, &ending, &params);
            // Sent together, answered in order.
            let (entering, ended) = future::try_join(entering, ended).await?;
            Ok((entering.is_empty() && ended.is_empty()).then_some(()))
        })
        .await?;
    if gone.is_some() {
        return Ok(());
    }
    let sql = format!(
        "SELECT coalesce(string_agg(format('pid %s (%s, %s, %s)', pid, backend_type, coalesce(usename, '?'), application_name), ', '), '') FROM {}",
        writers()
    );
    let rows = outside.read(attempted, &sql, &params).await?;
    let left: String = cell(one(&rows)?, 0)?;
    Err(PortError::uncertain(format!("{attempted} of {}", server.options.side))
        .because(format!("after {} s these are still there: {left}", EVICTION_LIMIT.as_secs())))
}

async fn has_function(session: &Session) -> Result<bool, PortError> {
    let rows = session.read("look for the fence", "SELECT to_regproc('greenlight.fence') IS NOT NULL", &[]).await?;
    cell(one(&rows)?, 0)
}

/// Nothing to do where the schema is gone: there are no triggers then.
async fn replace_function(session: &Session, attempted: &str, function: &str) -> Result<(), PortError> {
    match session.batch(attempted, function).await {
        Err(error) if sqlstate(&error) == Some("3F000") => Ok(()),
        result => result,
    }
}

async fn door_is_open(server: &PgServer) -> Result<bool, PortError> {
    let sql = "SELECT datallowconn FROM pg_database WHERE datname = $1";
    let attempted = "read whether the database takes connections";
    // The session inside does as well and is as quick; outside is asked where there is none.
    let session = match server.session_if_open().await {
        Some(session) => session,
        None => server.outside().await?,
    };
    let rows = session.read(attempted, sql, &[(&server.database(), Type::NAME)]).await?;
    let row =
        rows.first().ok_or_else(|| PortError::refused(attempted).because(format!("there is no `{}`", server.database())))?;
    cell(row, 0)
}

async fn open_door(server: &PgServer) -> Result<(), PortError> {
    if door_is_open(server).await? {
        return Ok(());
    }
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quote_ident(server.database()));
    server.outside().await?.batch("take connections again", &sql).await
}

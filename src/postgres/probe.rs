//! The fence is tried, not believed: by the paths that an application would take.
//!
//! **Invariant:** nothing that somebody else wrote is run. A write to a table of the applications, even one that touches no row,
//! runs their code with our rights: triggers for statements whose names sort before ours, rules, and already at planning the
//! immutable functions of defaults, indexes and statistics. To become another role for it is no way out, since code that runs
//! in a superuser's session says `RESET ROLE`. So the write is tried on `greenlight.trial`, a table of ours under the very
//! trigger that all tables have, and of the others the trigger is looked for in the catalogue, where it cannot be disguised:
//! same function, same events, no condition, no list of columns. A trigger before it cannot keep it from being called, as the
//! answer of one for statements is not looked at, and what a rule makes of a write ends at a table that has the trigger too.

use super::{
    Fence, FenceProbe,
    client::{Session, SessionOptions, cell},
    failure::sqlstate,
    fence,
    server::PgServer,
    triggers,
};
use crate::word::PortError;
use futures_util::future;
use std::time::Duration;
use tokio_postgres::types::Type;

/// What is tried as an application would do it: each must come as far as the fence.
const WRITES: [(&str, &str); 4] = [
    ("INSERT", "INSERT INTO greenlight.trial (id) VALUES (1)"),
    ("UPDATE", "UPDATE greenlight.trial SET id = 2"),
    ("DELETE", "DELETE FROM greenlight.trial"),
    ("TRUNCATE", "TRUNCATE greenlight.trial"),
];

pub(super) async fn probe(server: &PgServer) -> Result<FenceProbe, PortError> {
    let leak = match fence::read(server).await? {
        Fence::Open => Some("there is no fence".to_owned()),
        Fence::Connections => {
            let (entered, left) = future::try_join(can_connect(server), somebody_inside(server)).await?;
            entered.or(left)
        }
        Fence::Marked | Fence::Triggers => {
            let (unfenced, written) = future::try_join(unfenced_table(server), can_write(server)).await?;
            unfenced.or(written)
        }
    };
    Ok(leak.map_or(FenceProbe::Holds, |how| FenceProbe::Leaks { how }))
}

/// A new session as an application would open it: without our pass, and with the server's own settings but for the way in
/// which names are found.
async fn outsider(server: &PgServer) -> Result<Session, PortError> {
    let options = SessionOptions::untouched("greenlight probe", Duration::from_secs(10)).with_our_names();
    Session::open(&server.options.endpoint, &options, server.options.side.to_string()).await
}

async fn can_connect(server: &PgServer) -> Result<Option<String>, PortError> {
    match outsider(server).await {
        Ok(_) => Ok(Some(format!("a new connection as `{}` was let in", server.options.endpoint.user))),
        Err(error) if sqlstate(&error) == Some("55000") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn somebody_inside(server: &PgServer) -> Result<Option<String>, PortError> {
    let (database, ours) = (server.database(), server.own_pids().await);
    let sql = format!("SELECT format('pid %s (%s, %s)', pid, backend_type, usename) FROM {}", fence::writers());
    let params = [(&database as _, Type::NAME), (&ours as _, Type::INT4_ARRAY)];
    let rows = server.outside().await?.read("look for sessions in the database", &sql, &params).await?;
    rows.first().map(|row| Ok(format!("{} is connected", cell::<&str>(row, 0)?))).transpose()
}

async fn unfenced_table(server: &PgServer) -> Result<Option<String>, PortError> {
    let missing = triggers::missing(&*server.session().await?).await?;
    Ok(missing.first().map(|first| format!("{} tables have no closed trigger, such as {first}", missing.len())))
}

/// Tries to write, as this (super)user, in a transaction that says READ WRITE, and takes back what got through.
async fn can_write(server: &PgServer) -> Result<Option<String>, PortError> {
    let session = outsider(server).await?;
    session.batch("set limits for the probe", "SET lock_timeout = '2s'; SET statement_timeout = '5s'").await?;
    for (kind, write) in WRITES {
        let tried = session.batch("try a write", &format!("BEGIN READ WRITE; {write}")).await;
        session.batch("take the tried write back", "ROLLBACK").await?;
        match tried {
            Ok(()) => return Ok(Some(format!("{kind} on {} got through in a new session", triggers::TRIAL))),
            Err(error) if is_ours(&error) => (),
            Err(error) if error.failure == crate::word::Failure::Refused => {
                return Ok(Some(format!("a tried {kind} did not come as far as the fence: {}", error.chain())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Refused by the fence's trigger, and not by a read-only transaction, which has the same code.
fn is_ours(error: &PortError) -> bool {
    sqlstate(error) == Some("25006") && error.chain().contains("has fenced this server")
}

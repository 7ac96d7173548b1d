//! The fence is tried, not believed: by the paths that an application would take.

use super::{
    Fence, FenceProbe,
    client::{Session, SessionOptions, cell},
    failure::sqlstate,
    fence::{self, WRITERS},
    server::PgServer,
    triggers,
};
use crate::word::{PortError, RelationName};
use futures_util::future;
use std::time::Duration;
use tokio_postgres::types::Type;

/// Tables on which a write is tried; on the others the trigger is looked for.
const TRIED: i64 = 5;

pub(super) async fn probe(server: &PgServer) -> Result<FenceProbe, PortError> {
    let leak = match fence::read(server).await? {
        Fence::Open => Some("there is no fence".to_owned()),
        Fence::Connections => {
            let (entered, left) = future::try_join(can_connect(server), somebody_inside(server)).await?;
            entered.or(left)
        }
        Fence::Triggers => {
            let (unfenced, written) = future::try_join(unfenced_table(server), can_write(server)).await?;
            unfenced.or(written)
        }
    };
    Ok(leak.map_or(FenceProbe::Holds, |how| FenceProbe::Leaks { how }))
}

/// A new session as an application would open it: without our pass, and with the server's own settings.
async fn outsider(server: &PgServer) -> Result<Session, PortError> {
    let mut options = SessionOptions::named("greenlight probe");
    options.limit = Duration::from_secs(10);
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
    let sql = format!("SELECT format('pid %s (%s, %s)', pid, backend_type, usename) FROM {WRITERS}");
    let params = [(&database as _, Type::NAME), (&ours as _, Type::INT4_ARRAY)];
    let rows = server.outside().await?.read("look for sessions in the database", &sql, &params).await?;
    rows.first().map(|row| Ok(format!("{} is connected", cell::<&str>(row, 0)?))).transpose()
}

async fn unfenced_table(server: &PgServer) -> Result<Option<String>, PortError> {
    let missing = triggers::missing(&*server.session().await?).await?;
    Ok(missing.first().map(|first| format!("{} tables have no closed trigger, such as {first}", missing.len())))
}

/// Tries to write, as this (super)user, in a transaction that says READ WRITE, and takes back what got through. The
/// statements touch no row even then.
async fn can_write(server: &PgServer) -> Result<Option<String>, PortError> {
    let tables = triggers::some_fenced(&*server.session().await?, TRIED).await?;
    if tables.is_empty() {
        return Ok(None);
    }
    let session = outsider(server).await?;
    session.batch("set limits for the probe", "SET lock_timeout = '2s'; SET statement_timeout = '5s'").await?;
    let mut refused = 0;
    let mut other = None;
    for table in &tables {
        for (kind, write) in writes(table) {
            let tried = session.batch("try a write", &format!("BEGIN READ WRITE; {write}")).await;
            session.batch("take the tried write back", "ROLLBACK").await?;
            match tried {
                Ok(()) => return Ok(Some(format!("{kind} on {table} got through in a new session"))),
                Err(error) if is_ours(&error) => refused += 1,
                Err(error) if error.failure == crate::word::Failure::Refused => other = Some(error.chain()),
                Err(error) => return Err(error),
            }
        }
    }
    // A write may be refused for a reason of the table's own (no replica identity, rules), but not every one.
    Ok(if refused > 0 { None } else { other.map(|why| format!("no tried write came as far as the fence: {why}")) })
}

fn writes(table: &RelationName) -> [(&'static str, String); 2] {
    let table = table.sql();
    [
        ("DELETE", format!("DELETE FROM {table} WHERE false")),
        (
            "INSERT",
            format!(
                "MERGE INTO {table} USING (SELECT WHERE false) AS nothing ON true WHEN NOT MATCHED THEN INSERT DEFAULT VALUES"
            ),
        ),
    ]
}

/// Refused by the fence's trigger, and not by a read-only transaction, which has the same code.
fn is_ours(error: &PortError) -> bool {
    sqlstate(error) == Some("25006") && error.chain().contains("has fenced this server")
}

//! What runs made on a server, found by name, and its removal: for runs whose journal is lost.

use super::client::{Session, SessionOptions, cell};
use super::{failure, mark, trust};
use crate::plan::{PREFIX, SCHEMA};
use crate::word::{Endpoint, PortError, RunId, quote_ident};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// One thing that a run made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    pub kind: Kind,
    pub name: String,
    /// The run by its name; empty where the thing does not say.
    pub run: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Subscription,
    Slot,
    Publication,
    /// The run's mark in the server's own configuration, by which a promoted green is closed.
    Mark,
    Schema,
    /// A scratch database in which migrations were tried.
    Database,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Subscription => "subscription",
            Kind::Slot => "slot",
            Kind::Publication => "publication",
            Kind::Mark => "setting",
            Kind::Schema => "schema",
            Kind::Database => "database",
        };
        write!(f, "{kind} {} (run {})", self.name, if self.run.is_empty() { "not known" } else { &self.run })
    }
}

/// Everything on this server, in the endpoint's database, that bears Greenlight's names. In an order in which it can be
/// removed.
///
/// # Errors
/// The server could not be asked.
pub async fn list(at: &Endpoint) -> Result<Vec<Leftover>, PortError> {
    let session = open(at).await?;
    let pattern = format!("^{PREFIX}[a-z][a-z0-9]{{7}}_(fwd|rev|standby|shadow)$");
    let named = [
        (
            Kind::Subscription,
            "SELECT subname::text FROM pg_subscription JOIN pg_database d ON d.oid = subdbid \
            WHERE d.datname = current_database() AND subname ~ $1 ORDER BY 1",
        ),
        (
            Kind::Slot,
            "SELECT slot_name::text FROM pg_replication_slots \
            WHERE slot_name ~ $1 AND (database IS NULL OR database = current_database()) ORDER BY 1",
        ),
        (Kind::Database, "SELECT datname::text FROM pg_database WHERE datname ~ $1 ORDER BY 1"),
        (Kind::Publication, "SELECT pubname::text FROM pg_publication WHERE pubname ~ $1 ORDER BY 1"),
    ];
    let mut found = Vec::new();
    for (kind, sql) in named {
        let rows = session.read("list what runs have made", sql, &[(&pattern, tokio_postgres::types::Type::TEXT)]).await?;
        for row in &rows {
            let name: String = cell(row, 0)?;
            let run = name.trim_start_matches(PREFIX).split('_').next().unwrap_or_default().to_owned();
            found.push(Leftover { kind, name, run });
        }
    }
    if let Some(tables) = trust::own_schema(session.client()).await? {
        let rows = if tables.iter().any(|table| table == "claim") {
            session.read("read the claim", &format!("SELECT run::text FROM {SCHEMA}.claim"), &[]).await?
        } else {
            Vec::new()
        };
        let run: String = rows.first().map(|row| cell(row, 0)).transpose()?.unwrap_or_default();
        if let Ok(id) = run.parse::<RunId>()
            && mark::is_set(&session, &id).await?
        {
            found.push(Leftover { kind: Kind::Mark, name: mark::PARAMETER.to_owned(), run: run.clone() });
        }
        found.push(Leftover { kind: Kind::Schema, name: SCHEMA.to_owned(), run });
    }
    Ok(found)
}

/// Sessions of a coordinator that works for `run` on this server now, by where they come from. Not its replication, which goes
/// on without one.
///
/// # Errors
/// The server could not be asked.
pub async fn coordinators(at: &Endpoint, run: &str) -> Result<Vec<String>, PortError> {
    let sql = "SELECT DISTINCT coalesce(host(client_addr), 'a local socket') FROM pg_stat_activity \
               WHERE starts_with(application_name, 'greenlight/' || $1 || '/') AND backend_type = 'client backend' ORDER BY 1";
    let rows = open(at).await?.read("look for coordinators", sql, &[(&run, tokio_postgres::types::Type::TEXT)]).await?;
    rows.iter().map(|row| cell(row, 0)).collect()
}

/// Removes one thing. A subscription is dropped without touching its slot on the other server; a slot in use has its sender
/// ended first.
///
/// # Errors
/// The server refused, or could not be asked.
pub async fn remove(at: &Endpoint, leftover: &Leftover) -> Result<(), PortError> {
    let session = open(at).await?;
    let name = quote_ident(&leftover.name);
    let attempted = format!("remove {leftover}");
    if leftover.kind == Kind::Schema {
        nothing_is_half_done(&session, &attempted).await?;
    }
    let statements = match leftover.kind {
        Kind::Subscription => vec![
            format!("ALTER SUBSCRIPTION {name} DISABLE"),
            format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
            format!("DROP SUBSCRIPTION {name}"),
        ],
        Kind::Publication => vec![format!("DROP PUBLICATION IF EXISTS {name}")],
        Kind::Database => vec![format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")],
        Kind::Mark => vec![format!("ALTER SYSTEM RESET {}", mark::PARAMETER), "SELECT pg_reload_conf()".to_owned()],
        Kind::Schema => vec![
            // With it go the fence's triggers on every table.
            format!("DROP SCHEMA IF EXISTS {name} CASCADE"),
            format!("ALTER DATABASE {} RESET greenlight.epoch", quote_ident(&at.database)),
        ],
        Kind::Slot => return remove_slot(&session, &attempted, &leftover.name).await,
    };
    for statement in statements {
        session.batch(&attempted, &statement).await?;
    }
    Ok(())
}

/// With the schema would go the record of how far a migration in batches has come: begun anew, it would write the same rows again.
async fn nothing_is_half_done(session: &Session, attempted: &str) -> Result<(), PortError> {
    let tables = trust::own_schema(session.client()).await?.unwrap_or_default();
    if !tables.iter().any(|table| table == "batches") {
        return Ok(());
    }
    let sql = "SELECT format('version %s in %s up to (%s) = (%s)', version, relation::regclass, array_to_string(key, ', '), \
               array_to_string(reached, ', ')) FROM greenlight.batches ORDER BY 1";
    let half: Vec<String> = session.read(attempted, sql, &[]).await?.iter().map(|row| cell(row, 0)).collect::<Result<_, _>>()?;
    if half.is_empty() {
        return Ok(());
    }
    Err(PortError::refused(attempted)
        .because(format!("a migration is half done: {}", half.join("; ")))
        .hint("bring it to its end or back by hand, and `TRUNCATE greenlight.batches`"))
}

/// A follower whose sender was ended comes again, at once the first time and then a few seconds later.
async fn remove_slot(session: &Session, attempted: &str, name: &str) -> Result<(), PortError> {
    let slot = crate::word::quote_literal(name);
    let end =
        format!("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = {slot} AND active");
    let drop = format!("SELECT pg_drop_replication_slot({slot})");
    let mut tries = 0;
    loop {
        session.batch(attempted, &end).await?;
        match session.batch(attempted, &drop).await {
            Err(error) if failure::sqlstate(&error) == Some("55006") && tries < 10 => tries += 1,
            dropped => return dropped,
        }
    }
}

async fn open(at: &Endpoint) -> Result<Session, PortError> {
    let limit = Duration::from_mins(1);
    Session::open(at, &SessionOptions::ours("greenlight/sweep", limit, limit), at.to_string()).await
}

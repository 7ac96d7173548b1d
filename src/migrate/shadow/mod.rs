//! The shadow: blue's schema without rows in a scratch database, in which the migrations run first. It shows their errors,
//! the locks and rewrites that PostgreSQL really takes, which rows they write, and the schema that comes out.
//!
//! What cannot be seen there: a loop over rows that are not there runs no turn (the text of a DO block is read besides, a
//! function that it calls is not); a statement that works outside of transactions only shows no locks.
//!
//! **Invariant:** the scratch database is gone when this returns, whatever happened in between, and no other database is
//! touched. Roles that were missing and made for it go with it; what a killed process leaves of both, the next trial on that
//! server takes away.
//!
//! Blue's functions and triggers run here with the rights of the session that loads and migrates. So a throwaway server for
//! it owns nothing, and what Greenlight itself asks is asked in another session.

mod blind;
mod bodies;
mod dump;
mod known;
mod made;
mod on_green;
mod scratch;
mod trial;
mod watch;

pub use dump::{SchemaDump, dump};
pub use on_green::OnGreen;

use super::files::order;
use super::session::{line_of, said};
use super::{DownReport, Migration, ShadowReport, statements};
use crate::plan::HistorySpec;
use crate::postgres::catalog;
use crate::schema::{Catalog, fingerprint};
use crate::word::{Endpoint, PortError, RunId};
use scratch::Scratch;
use tokio_postgres::Client;
use trial::Trial;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// The shadow could not be had.
    #[error(transparent)]
    Unavailable(#[from] PortError),
    /// A migration fails: green was not touched.
    #[error(transparent)]
    Migration(#[from] MigrationError),
}

/// A migration that fails in the shadow would fail on green too.
#[derive(Debug, thiserror::Error)]
#[error("run `{file}` line {line} in the shadow: {statement}")]
pub struct MigrationError {
    pub file: String,
    /// From 1.
    pub line: u32,
    /// Shortened.
    pub statement: String,
    source: Said,
}

/// PostgreSQL's own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Said(pub String);

/// Runs the migrations on blue's schema in a scratch database on the server at `scratch`, as a superuser there.
///
/// # Errors
/// `Migration` when one of them fails, `Unavailable` for everything that is not their fault.
pub async fn run(
    scratch: &Endpoint,
    dump: &SchemaDump,
    migrations: &[Migration],
    history: &HistorySpec,
    run: &RunId,
) -> Result<ShadowReport, ShadowError> {
    let mut scratch = Scratch::create(scratch, dump, run).await?;
    let report = report(&mut scratch, dump, migrations, history).await;
    let dropped = scratch.drop().await;
    let report = report?;
    dropped?;
    Ok(report)
}

async fn report(
    scratch: &mut Scratch,
    dump: &SchemaDump,
    migrations: &[Migration],
    history: &HistorySpec,
) -> Result<ShadowReport, ShadowError> {
    scratch.load(dump).await?;
    // What Greenlight asks, it asks in a session in which no name of blue's can stand for PostgreSQL's own.
    let look = scratch.look(dump).await?;
    let look = look.client();
    let before = catalog::read(look).await?;
    let read_made = |e: tokio_postgres::Error| PortError::refused("read what the migrations make").because(said(&e));
    let known = made::known(look).await.map_err(read_made)?;
    let mut trial = Trial::begin(look, scratch, dump).await?;
    if !migrations.is_empty() {
        let made = super::history::create(look, history).await;
        made.map_err(|e| PortError::refused("make the history table in the shadow").because(said(&e)))?;
    }
    let mut statements = Vec::new();
    for migration in migrations {
        statements.extend(trial.migration(migration).await?);
    }
    let after = catalog::read(look).await?;
    let made = made::read(look, &known, &super::history::table(history)).await.map_err(read_made)?;
    let moves = trial.moves().await?;
    let sequences_set = trial.sequences_set().await?;
    let large_objects = large_objects(look).await?;
    let blind = blind::read(look).await?;
    let down = down(scratch, dump, look, migrations, &before, history).await;
    let stood_on = scratch.stood_on.clone();
    Ok(ShadowReport { before, after, statements, moves, down, made, large_objects, sequences_set, blind, stood_on })
}

async fn large_objects(look: &Client) -> Result<bool, ShadowError> {
    let found = look.query_one("SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)", &[]).await;
    let there_are = found.and_then(|row| row.try_get(0));
    Ok(there_are.map_err(|e| PortError::refused("look for large objects in the shadow").because(said(&e)))?)
}

/// Whether the down migrations lead back. Only told, since nothing depends on it: green is given up whole.
async fn down(
    scratch: &Scratch,
    dump: &SchemaDump,
    look: &Client,
    migrations: &[Migration],
    before: &Catalog,
    history: &HistorySpec,
) -> Option<DownReport> {
    let mut newest_first: Vec<&Migration> = migrations.iter().collect();
    newest_first.sort_by(|a, b| order(&b.version).cmp(&order(&a.version)));
    if newest_first.iter().all(|migration| migration.down.is_none()) {
        return None;
    }
    let fails = |says: String| Some(DownReport { restores: false, says });
    for migration in newest_first {
        let file = migration.down_file_name();
        let Some(text) = &migration.down else { return fails(format!("there is no `{file}`")) };
        let in_transaction = statements::is_transactional(text);
        // As on a server: what one sets is gone for the next.
        let session = match scratch.session(dump).await {
            Ok(session) => session,
            Err(error) => return fails(error.chain()),
        };
        if in_transaction && let Err(e) = session.client.batch_execute("BEGIN").await {
            return fails(said(&e));
        }
        for statement in statements::read(text).statements {
            if let Err(e) = session.client.batch_execute(&statement.text).await {
                return fails(format!("`{file}` line {} fails: {}", line_of(&statement, &e), said(&e)));
            }
        }
        if in_transaction && let Err(e) = session.client.batch_execute("COMMIT").await {
            return fails(format!("`{file}` fails: {}", said(&e)));
        }
    }
    let mut left = match catalog::read(look).await {
        Ok(left) => left,
        Err(error) => return fails(error.chain()),
    };
    let table = super::history::table(history);
    if !before.tables.contains_key(&table.to_string()) {
        left.tables.remove(&table.to_string());
        left.schemas.retain(|schema| *schema != table.schema || before.schemas.contains(schema));
    }
    let restores = fingerprint(before) == fingerprint(&left);
    let differs: Vec<String> = crate::schema::difference(before, &left).iter().map(ToString::to_string).collect();
    let says = if restores { "up and down lead back to the same schema".to_owned() } else { differs.join("; ") };
    Some(DownReport { restores, says })
}

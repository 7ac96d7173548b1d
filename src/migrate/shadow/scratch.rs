use super::super::session::{Around, Session, failure, said};
use super::super::statements::{dump_entries, short};
use super::{Said, SchemaDump};
use crate::plan::shadow_database;
use crate::postgres::client::{self, SessionOptions};
use crate::word::{Endpoint, PortError, RunId, quote_ident, quote_literal};
use std::time::Duration;
use tokio_postgres::{Client, Error};

/// Statements that are sent at once: fewer round trips, and not all locks in one transaction.
const ENTRIES_AT_ONCE: usize = 100;
/// Making and dropping a database waits for a checkpoint.
const ADMIN_LIMIT: Duration = Duration::from_mins(10);

/// The scratch database.
pub(super) struct Scratch {
    admin: client::Session,
    at: Endpoint,
    /// The roles that were made for it.
    roles: Vec<String>,
    /// Whether roles that the schema or the migrations name, and that the server has not, are made for a while.
    pub(super) lends_roles: bool,
    application_name: String,
    /// For a person.
    pub(super) stood_on: String,
}

impl Scratch {
    /// Makes the database, empty, as like blue's as the server knows how.
    pub(super) async fn create(server: &Endpoint, dump: &SchemaDump, run: &RunId) -> Result<Scratch, PortError> {
        let application_name = format!("greenlight/{run}/shadow");
        let options = SessionOptions::ours(&application_name, ADMIN_LIMIT, ADMIN_LIMIT);
        let admin = client::Session::open(server, &options, "the scratch server").await?;
        let version = admin.client().query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await;
        let major: i32 = version.and_then(|row| row.try_get(0)).map_err(|e| refused("read the scratch server's version", &e))?;
        if u32::try_from(major) != Ok(dump.major) {
            return Err(PortError::refused("use the scratch server")
                .because(format!("it runs PostgreSQL {major} and blue {}", dump.major))
                .hint("a migration may work on one version and fail on the other; use a scratch server of blue's version"));
        }
        let name = shadow_database(run);
        let database = quote_ident(&name);
        let drop = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
        let attempted = format!("create the scratch database {name}");
        admin.client().batch_execute(&drop).await.map_err(|e| refused(&attempted, &e))?;
        let create = |collate: &str, ctype: &str| {
            let (encoding, collate, ctype) = (quote_literal(&dump.encoding), quote_literal(collate), quote_literal(ctype));
            format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING {encoding} LC_COLLATE {collate} LC_CTYPE {ctype}")
        };
        // A locale that this machine has not got changes the order of texts, and nothing that the shadow is asked.
        if admin.client().batch_execute(&create(&dump.collate, &dump.ctype)).await.is_err() {
            admin.client().batch_execute(&create("C", "C")).await.map_err(|e| {
                refused(&attempted, &e).hint("the shadow needs a superuser, and a server that is not in use for anything else")
            })?;
        }
        let stood_on = format!("database {name} of PostgreSQL {major} at {}:{}", server.host, server.port);
        let at = Endpoint { database: name, ..server.clone() };
        Ok(Scratch { admin, at, roles: Vec::new(), lends_roles: true, application_name, stood_on })
    }

    /// Removes the database and the roles.
    pub(super) async fn drop(self) -> Result<(), PortError> {
        let attempted = format!("drop the scratch database {}", self.at.database);
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&self.at.database));
        self.admin.client().batch_execute(&sql).await.map_err(|e| refused(&attempted, &e))?;
        for role in &self.roles {
            let sql = format!("DROP ROLE IF EXISTS {}", quote_ident(role));
            self.admin.client().batch_execute(&sql).await.map_err(|e| refused(&format!("drop the role {role}"), &e))?;
        }
        Ok(())
    }

    /// A session in which names and values are read as blue's user reads them.
    pub(super) async fn session(&self, dump: &SchemaDump) -> Result<Session, PortError> {
        let session = self.plain_session().await?;
        for (name, value) in &dump.settings {
            let set = session.client.execute("SELECT pg_catalog.set_config($1, $2, false)", &[name, value]).await;
            set.map_err(|e| refused(&format!("set `{name}` in the shadow"), &e))?;
        }
        Ok(session)
    }

    async fn plain_session(&self) -> Result<Session, PortError> {
        let session = Session::open(&self.at, &self.application_name, "the shadow").await?;
        // Missing roles are known by the words of the error.
        let settings = "SET lc_messages = 'C'; SET synchronous_commit = off";
        session.client.batch_execute(settings).await.map_err(|e| refused("prepare the shadow", &e))?;
        Ok(session)
    }

    /// Loads blue's schema.
    pub(super) async fn load(&mut self, dump: &SchemaDump) -> Result<(), PortError> {
        let session = self.plain_session().await?;
        let entries = dump_entries(&dump.sql);
        let (settings, entries) = entries.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
        let is_setting = |line: &&str| line.starts_with("SET ") || line.starts_with("SELECT pg_catalog.set_config");
        for line in settings.lines().filter(is_setting) {
            match session.client.batch_execute(line).await {
                Ok(()) => {}
                // A newer program's setting.
                Err(e) if e.code().is_some_and(|code| code.code() == "42704") => {}
                Err(e) => return Err(refused("load blue's schema into the shadow", &e)),
            }
        }
        // The triggers of Greenlight's own fences, whose function is not dumped.
        let ours = |entry: &&str| entry.contains("; Type: TRIGGER;") && entry.contains("EXECUTE FUNCTION greenlight.");
        let entries: Vec<String> = entries.iter().filter(|entry| !ours(entry)).map(|entry| without_end(entry)).collect();
        for some in entries.chunks(ENTRIES_AT_ONCE) {
            if session.client.batch_execute(&some.concat()).await.is_ok() {
                continue;
            }
            // All of them were taken back; one by one, it shows which it was.
            for entry in some {
                self.load_entry(&session.client, entry).await?;
            }
        }
        Ok(())
    }

    async fn load_entry(&mut self, client: &Client, entry: &str) -> Result<(), PortError> {
        loop {
            let Err(e) = client.batch_execute(entry).await else { return Ok(()) };
            if self.made_missing_role(&e).await? {
                continue;
            }
            // Its heading only: the text may hold a password.
            let heading = entry.lines().find_map(|line| line.strip_prefix("-- Name: ")).unwrap_or("a statement");
            let (name, more) = heading.split_once("; ").unwrap_or((heading, ""));
            if more.starts_with("Type: EXTENSION") {
                return Err(PortError::refused(format!("create extension `{name}` in the shadow")).because(said(&e)).hint(
                    format!("install the package of `{name}` where the shadow stands, or name a server that has it as `shadow:`"),
                ));
            }
            return Err(refused(&format!("load blue's schema into the shadow at {}", short(heading)), &e));
        }
    }

    /// Makes the role whose absence the error tells of; whether it did.
    pub(super) async fn made_missing_role(&mut self, error: &Error) -> Result<bool, PortError> {
        let lent = |role: &String| self.lends_roles && !self.roles.contains(role);
        let Some(role) = missing_role(error).filter(lent) else { return Ok(false) };
        // Of every right and without a login: the shadow is not there to find missing grants.
        let sql = format!("CREATE ROLE {} SUPERUSER NOLOGIN", quote_ident(&role));
        match self.admin.client().batch_execute(&sql).await {
            Ok(()) => self.roles.push(role),
            Err(e) => return Err(refused(&format!("make the role {role} for the shadow"), &e)),
        }
        Ok(true)
    }
}

/// A dump ends with a command of psql.
fn without_end(entry: &str) -> String {
    entry.split_inclusive('\n').filter(|line| !line.starts_with("\\unrestrict ")).collect()
}

fn missing_role(error: &Error) -> Option<String> {
    let db = error.as_db_error()?;
    let role = db.message().strip_prefix("role \"")?.strip_suffix("\" does not exist")?;
    (db.code().code() == "42704").then(|| role.to_owned())
}

/// Nothing in the shadow is worth keeping, so whatever fails there is done again as a whole, or not at all; after a lost
/// connection only once what it had under way is ended.
pub(super) fn refused(attempted: &str, error: &Error) -> PortError {
    PortError::new(failure(error, Around::Nothing), attempted).because(Said(said(error)))
}

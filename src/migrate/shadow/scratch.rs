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

/// How long a question of our own may take; catalogues of ten thousand tables take seconds.
const LOOK_LIMIT: Duration = Duration::from_mins(10);

/// The settings of blue's by which a catalogue's texts are written.
const AS_WRITTEN: [&str; 6] =
    ["TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings", "bytea_output", "xmloption"];

/// What is written on a role that is lent, before the run's name.
const LENT: &str = "lent by Greenlight to the shadow of run ";

/// The scratch database.
pub(super) struct Scratch {
    admin: client::Session,
    at: Endpoint,
    /// The roles that were made for it.
    roles: Vec<String>,
    /// They have every right.
    roles_may_all: bool,
    run: RunId,
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
        let options = SessionOptions::ours(application_name.clone(), LOOK_LIMIT, LOOK_LIMIT);
        let admin = client::Session::open(server, &options, "the scratch server").await?;
        let version = admin.client().query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await;
        let major: i32 = version.and_then(|row| row.try_get(0)).map_err(|e| refused("read the scratch server's version", &e))?;
        if u32::try_from(major) != Ok(dump.major) {
            return Err(PortError::refused("use the scratch server")
                .because(format!("it runs PostgreSQL {major} and blue {}", dump.major))
                .hint("a migration may work on one version and fail on the other; use a scratch server of blue's version"));
        }
        remove_leftovers(admin.client()).await?;
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
        let stood_on = format!("database {name} of PostgreSQL {major} at {}", where_is(server));
        let at = Endpoint { database: name, ..server.clone() };
        let (roles, run) = (Vec::new(), run.clone());
        Ok(Scratch { admin, at, roles, roles_may_all: false, run, lends_roles: true, application_name, stood_on })
    }

    /// Removes the database and the roles. One that stays keeps no other from going.
    pub(super) async fn drop(self) -> Result<(), PortError> {
        let attempted = format!("drop the scratch database {}", self.at.database);
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&self.at.database));
        let mut done = self.admin.client().batch_execute(&sql).await.map_err(|e| refused(&attempted, &e));
        for role in &self.roles {
            let sql = format!("DROP ROLE IF EXISTS {}", quote_ident(role));
            let dropped =
                self.admin.client().batch_execute(&sql).await.map_err(|e| refused(&format!("drop the role {role}"), &e));
            done = done.and(dropped);
        }
        done
    }

    /// A session of our own in the database: names are PostgreSQL's own, values are written as on blue.
    pub(super) async fn look(&self, dump: &SchemaDump) -> Result<client::Session, PortError> {
        let options = SessionOptions::ours(self.application_name.clone(), LOOK_LIMIT, LOOK_LIMIT);
        let session = client::Session::open(&self.at, &options, "the shadow").await?;
        for (name, value) in dump.settings.iter().filter(|(name, _)| AS_WRITTEN.contains(&name.as_str())) {
            let set = session.client().execute("SELECT set_config($1, $2, false)", &[name, value]).await;
            set.map_err(|e| refused(&format!("set `{name}` in the shadow"), &e))?;
        }
        Ok(session)
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
        let (name, lent) = (quote_ident(&role), quote_literal(&format!("{LENT}{}", self.run)));
        // In one transaction: what is made is known as ours.
        let sql = format!("BEGIN; CREATE ROLE {name} NOLOGIN; COMMENT ON ROLE {name} IS {lent}; COMMIT");
        if let Err(e) = self.admin.client().batch_execute(&sql).await {
            let _ = self.admin.client().batch_execute("ROLLBACK").await;
            return Err(refused(&format!("make the role {role} for the shadow"), &e));
        }
        self.roles.push(role);
        if self.roles_may_all {
            self.give_rights().await?;
        }
        Ok(true)
    }

    /// Gives the lent roles every right once a statement has failed, which may be for the want of one, whatever the error
    /// says: without a right on a schema its tables are not found. The shadow is not there to find missing grants. Whether
    /// the statement is worth another try.
    pub(super) async fn gave_lent_roles_rights(&mut self) -> Result<bool, PortError> {
        if self.roles.is_empty() || self.roles_may_all {
            return Ok(false);
        }
        self.give_rights().await?;
        self.roles_may_all = true;
        Ok(true)
    }

    async fn give_rights(&self) -> Result<(), PortError> {
        for role in &self.roles {
            let sql = format!("ALTER ROLE {} SUPERUSER", quote_ident(role));
            self.admin.client().batch_execute(&sql).await.map_err(|e| refused(&format!("lend rights to the role {role}"), &e))?;
        }
        Ok(())
    }
}

/// Removes what a killed process left on this server: a scratch database in which nobody of ours is any more, and the roles
/// that were lent to it.
async fn remove_leftovers(admin: &Client) -> Result<(), PortError> {
    let error = |e: Error| refused("look for what earlier trials left", &e);
    // A trial that goes on has a session outside of its database too, by the same name.
    let alive = "SELECT split_part(application_name, '/', 2) FROM pg_stat_activity \
                 WHERE application_name ~ '^greenlight/[a-z0-9]+/shadow$'";
    let lent = "SELECT r.rolname::text, d.description FROM pg_roles AS r JOIN pg_shdescription AS d ON d.objoid = r.oid \
                WHERE d.classoid = 'pg_authid'::regclass AND starts_with(d.description, $1) AND NOT r.rolcanlogin";
    let alive: Vec<String> = texts(&admin.query(alive, &[]).await.map_err(error)?, 0).map_err(error)?;
    let rows = admin.query(lent, &[&LENT]).await.map_err(error)?;
    let (roles, notes) = (texts(&rows, 0).map_err(error)?, texts(&rows, 1).map_err(error)?);
    for (role, note) in roles.iter().zip(notes) {
        let run = note.trim_start_matches(LENT);
        let Ok(run) = run.parse::<RunId>() else { continue };
        if alive.contains(&run.to_string()) {
            continue;
        }
        for sql in [
            format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&shadow_database(&run))),
            format!("DROP ROLE IF EXISTS {}", quote_ident(role)),
        ] {
            admin.batch_execute(&sql).await.map_err(|e| refused(&format!("remove what the trial of run {run} left"), &e))?;
        }
    }
    Ok(())
}

fn texts(rows: &[tokio_postgres::Row], column: usize) -> Result<Vec<String>, Error> {
    rows.iter().map(|row| row.try_get(column)).collect()
}

/// For a person.
fn where_is(server: &Endpoint) -> String {
    if server.is_socket() { format!("the socket in {}", server.host) } else { format!("{}:{}", server.host, server.port) }
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

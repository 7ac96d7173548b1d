use super::super::session::{Session, said};
use crate::postgres::client::{self, SessionOptions};
use crate::postgres::programs::Installed;
use crate::postgres::{conninfo, locks};
use crate::process;
use crate::word::{Endpoint, PortError, quote_ident};
use std::{path::PathBuf, time::Duration};

/// A database's schema as text, and what is needed to load it elsewhere and to run migrations on it as there.
#[derive(Clone, Debug)]
pub struct SchemaDump {
    /// What `pg_dump --schema-only` wrote, without owners and grants. It may hold the passwords of foreign servers: never
    /// shown.
    pub(super) sql: String,
    /// The server's major version.
    pub(super) major: u32,
    pub(super) encoding: String,
    pub(super) collate: String,
    pub(super) ctype: String,
    /// Settings of the database and the user by which names and values are read, such as `search_path`.
    pub(super) settings: Vec<(String, String)>,
}

/// How long `pg_dump` may take; ten thousand tables take seconds.
const LIMIT: Duration = Duration::from_mins(10);

/// Dumps the schema of the database at `endpoint`, a server of version `major`. Takes no lock that a reader would not take,
/// and gives up when it waits long for one.
///
/// # Errors
/// `Refused` when there is no fitting `pg_dump` or it fails, and as connecting.
pub async fn dump(installed: &Installed, endpoint: &Endpoint, major: u32) -> Result<SchemaDump, PortError> {
    let program = installed.client("pg_dump", major)?;
    let mut command = process::new_command(&program);
    command.args(["--schema-only", "--no-owner", "--no-privileges", "--no-comments", "--no-security-labels"]);
    command.args(["--no-tablespaces", "--no-publications", "--no-subscriptions", "--exclude-schema=greenlight"]);
    command.args(["--lock-wait-timeout=5000", "--no-password", "--encoding=UTF8"]);
    command.envs(libpq_environment(endpoint));
    let output = match process::run(&mut command, LIMIT).await {
        Ok(output) => output,
        Err(error) => return Err(held_up(endpoint, error).await),
    };
    let sql = String::from_utf8(output.stdout)
        .map_err(|e| PortError::refused(format!("read the schema of `{}`", endpoint.database)).because(e))?;
    let session = Session::open(endpoint, "greenlight/dump", &format!("`{}`", endpoint.database)).await?;
    let error = |e: tokio_postgres::Error| PortError::transient("read the settings of the database").because(said(&e));
    let row = session.client.query_one(DATABASE, &[]).await.map_err(error)?;
    let rows = session.client.query(SETTINGS, &[]).await.map_err(error)?;
    let settings = rows.iter().map(|row| {
        let value: String = row.try_get(1)?;
        Ok((row.try_get(0)?, value.replace("\"$user\"", &quote_ident(&endpoint.user))))
    });
    Ok(SchemaDump {
        sql,
        major,
        encoding: row.try_get(0).map_err(error)?,
        collate: row.try_get(1).map_err(error)?,
        ctype: row.try_get(2).map_err(error)?,
        settings: settings.collect::<Result<_, _>>().map_err(error)?,
    })
}

/// A dump that failed, with whoever has a table locked for himself. It does not say in a code that it is for that.
async fn held_up(endpoint: &Endpoint, error: PortError) -> PortError {
    let on = format!("`{}`", endpoint.database);
    match client::Session::open(endpoint, &SessionOptions::reading("greenlight/dump"), on).await {
        Ok(session) => locks::with_holders(session.client(), error).await,
        Err(_) => error,
    }
}

const DATABASE: &str = "SELECT pg_catalog.pg_encoding_to_char(encoding)::pg_catalog.text, \
    datcollate::pg_catalog.text, coalesce(datctype::pg_catalog.text, 'C') \
    FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) ANY ('{search_path,TimeZone,DateStyle,IntervalStyle,standard_conforming_strings,\
        bytea_output,xmloption,default_table_access_method}'::pg_catalog.text[]) \
    OR (name OPERATOR(pg_catalog.~~) '%.%' \
        AND source OPERATOR(pg_catalog.=) ANY ('{database,user,database user}'::pg_catalog.text[])) ORDER BY name";

/// The variables by which libpq finds the server. Nothing of them is an argument, which others could read.
fn libpq_environment(to: &Endpoint) -> impl Iterator<Item = (&'static str, String)> {
    let path = |path: Option<&PathBuf>| path.map(|path| path.display().to_string());
    let variables = [
        ("PGHOST", Some(to.host.clone())),
        ("PGPORT", Some(to.port.to_string())),
        ("PGUSER", Some(to.user.clone())),
        ("PGDATABASE", Some(to.database.clone())),
        ("PGPASSWORD", to.password.as_ref().map(|password| password.expose().to_owned())),
        ("PGPASSFILE", path(to.passfile.as_ref())),
        ("PGSSLMODE", Some(to.tls.as_str().to_owned())),
        ("PGSSLROOTCERT", path(conninfo::root_cert(to).as_ref())),
        ("PGSSLCERT", path(to.client_cert.as_ref())),
        ("PGSSLKEY", path(to.client_key.as_ref())),
        // One older than 16 does not know it.
        ("PGREQUIREAUTH", to.auth_methods().forbidden()),
        ("PGAPPNAME", Some("greenlight/dump".to_owned())),
        ("PGCONNECT_TIMEOUT", Some("10".to_owned())),
    ];
    variables.into_iter().filter_map(|(name, value)| Some((name, value?)))
}

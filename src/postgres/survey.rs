//! Looks at one server and the one database that a run is about, and changes nothing: what it returns is plain data, from
//! which preflight and the plan are made.
//!
//! **Invariant:** only reads, in transactions that are read-only and rolled back, and that wait for nobody's lock for long.

use super::client::{Session, SessionOptions, cell};
use super::failure::{Effect, of_call};
use super::{catalog, locks, managers, strangers, trust};
use crate::plan::{SETTINGS_COMPARED, SETTINGS_READ, ServerSurvey, TableSize, command_in_short};
use crate::process;
use crate::word::{Endpoint, PortError, RelationName};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio_postgres::{Client, types::Type};

/// The oldest PostgreSQL that can be looked at. Preflight asks for a newer one, and can say so only of what it has seen.
const VERSION_MIN: u32 = 140_000;
const SETTINGS_LIMIT: Duration = Duration::from_secs(10);

/// Everything that can be seen of the server at `endpoint` and of the database that it names. `on` names it in errors.
///
/// # Errors
/// `Transient` when the server does not answer or a lock does not come, then with who has it; `Refused` when it does not let
/// us read.
pub async fn read(endpoint: &Endpoint, on: &str) -> Result<ServerSurvey, PortError> {
    let session = Session::open(endpoint, &SessionOptions::reading("greenlight/plan"), on).await?;
    session.batch("begin to look", "BEGIN READ ONLY").await?;
    let seen = read_here(session.client(), endpoint).await;
    session.batch("end looking", "ROLLBACK").await?;
    let mut survey = match seen {
        Ok(survey) => survey,
        Err(error) => return Err(locks::explained(session.client(), error).await),
    };
    survey.catalog = catalog::read(session.client()).await?;
    survey.settings = settings(endpoint, on).await?;
    Ok(survey)
}

/// The settings wanted, as a new session of anybody's finds them: ours has its own, so they are read in one that has not.
async fn settings(endpoint: &Endpoint, on: &str) -> Result<BTreeMap<String, String>, PortError> {
    let session = Session::open(endpoint, &SessionOptions::untouched("greenlight/plan", SETTINGS_LIMIT), on).await?;
    let names: Vec<&str> = SETTINGS_COMPARED.iter().chain(SETTINGS_READ).copied().collect();
    let sql = "SELECT name, reset_val FROM pg_catalog.pg_settings \
               WHERE name OPERATOR(pg_catalog.=) ANY ($1) AND reset_val IS NOT NULL";
    let rows = session.read("read the settings", sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| Ok((cell(row, 0)?, cell(row, 1)?))).collect()
}

async fn read_here(client: &Client, endpoint: &Endpoint) -> Result<ServerSurvey, PortError> {
    let version = version(client).await?;
    if version < VERSION_MIN {
        return Err(PortError::refused(format!("survey `{endpoint}`"))
            .because(format!("it runs PostgreSQL {}", version / 10_000))
            .hint("Greenlight works with PostgreSQL 15 and later"));
    }
    let row = client.query_one(include_str!("sql/survey.sql"), &[]).await.map_err(could_not("survey the server"))?;
    let seen: Value = row.try_get(0).map_err(could_not("survey the server"))?;
    let mut survey: ServerSurvey = serde_json::from_value(seen.clone())
        .map_err(|e| PortError::refused("read the answer of the server's survey").because(e))?;
    survey.endpoint = endpoint.to_string();
    survey.archive_command = command_in_short(&survey.archive_command);
    if survey.in_recovery {
        let upstream = Upstream::seen(&seen);
        survey.upstream = Some(upstream.shown);
        survey.upstream_name = Some(upstream.name);
    }
    survey.collation_change = if version < 150_000 { None } else { collation_change(client).await? };
    survey.cron_jobs = cron_jobs(client).await?;
    survey.managers = managers::read(client, survey.superuser).await?;
    survey.claimed_by = claimed_by(client).await?;
    survey.table_sizes = table_sizes(client).await?;
    survey.strangers = strangers::read(client).await?;
    survey.disk_free_bytes = disk_free(&seen).await;
    Ok(survey)
}

async fn version(client: &Client) -> Result<u32, PortError> {
    let asked = "read the server's version";
    let row = client.query_one("select current_setting('server_version_num')", &[]).await.map_err(could_not(asked))?;
    let text: String = row.try_get(0).map_err(could_not(asked))?;
    text.parse().map_err(|e| PortError::refused(asked).because(e))
}

/// The version of the library that sorts text, recorded and actual, where they differ. Columns of PostgreSQL 15 and later.
async fn collation_change(client: &Client) -> Result<Option<(String, String)>, PortError> {
    let sql = "select datcollversion, actual from pg_database, pg_database_collation_actual_version(oid) as actual \
               where datname = current_database() and datcollversion <> actual";
    let attempted = "read the collation's version";
    let row = client.query_opt(sql, &[]).await.map_err(could_not(attempted))?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose().map_err(could_not(attempted))
}

/// Of the extension's own table only: anybody may call a view so. Who is no superuser could not read it, for its row security.
async fn cron_jobs(client: &Client) -> Result<Vec<String>, PortError> {
    let attempted = "read pg_cron's jobs";
    let there = "select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace
            join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
            join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
            join pg_roles o on o.oid = c.relowner
        where n.nspname = 'cron' and c.relname = 'job' and c.relkind = 'r' and e.extname = 'pg_cron' and o.rolsuper
            and (select rolsuper from pg_roles where rolname = current_user)";
    if client.query_opt(there, &[]).await.map_err(could_not(attempted))?.is_none() {
        return Ok(Vec::new());
    }
    let sql = "select format('job %s (%s)', jobid, schedule) from cron.job where active and database = current_database() order by jobid";
    texts(client, sql, attempted).await
}

/// The run that holds this database. As JSON, since another version's claim may have other columns.
async fn claimed_by(client: &Client) -> Result<Option<String>, PortError> {
    let tables = trust::own_schema(client).await?.unwrap_or_default();
    if !tables.iter().any(|table| table == "claim") {
        return Ok(None);
    }
    let sql = "select coalesce(to_jsonb(c) ->> 'run', c::text) from greenlight.claim c limit 1";
    Ok(texts(client, sql, "read the claim of a run").await?.into_iter().next())
}

async fn texts(client: &Client, sql: &str, attempted: &str) -> Result<Vec<String>, PortError> {
    let rows = client.query(sql, &[]).await.map_err(could_not(attempted))?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(could_not(attempted))
}

/// Waits for whoever has a table locked for himself, as long as the session's `lock_timeout` says.
async fn table_sizes(client: &Client) -> Result<Vec<TableSize>, PortError> {
    let attempted = "measure the tables";
    let sql = "select n.nspname, c.relname, coalesce(pg_table_size(c.oid), 0)::bigint,
                greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0)
         from pg_class c
         join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'm') and c.relpersistence <> 't'
           and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'greenlight')
         order by 1, 2";
    let rows = client.query(sql, &[]).await.map_err(could_not(attempted))?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    rows.iter()
        .map(|row| {
            let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok(TableSize {
                table: RelationName::new(schema, name),
                bytes: count(row.try_get(2)?),
                rows_estimate: count(row.try_get(3)?),
            })
        })
        .collect::<Result<_, _>>()
        .map_err(could_not(attempted))
}

/// Free bytes on the disk of the data directory, where the server runs on this machine: the folder is there and holds the
/// `postmaster.pid` of a server that was started at the very same second. `None` when that cannot be told.
async fn disk_free(seen: &Value) -> Option<u64> {
    let folder = Path::new(seen["data_directory"].as_str()?);
    let pid_file = tokio::fs::read_to_string(folder.join("postmaster.pid")).await.ok()?;
    let started: u64 = pid_file.lines().nth(2)?.trim().parse().ok()?;
    if started.abs_diff(seen["started_epoch"].as_u64()?) > 1 {
        return None;
    }
    let mut command = process::new_command(Path::new("df"));
    command.args(["-P", "-k", "--"]).arg(folder);
    let output = process::run(&mut command, Duration::from_secs(5)).await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let free_kib: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(free_kib * 1024)
}

/// How a standby reaches the server that it follows.
struct Upstream {
    /// Without passwords, for people.
    shown: String,
    /// As the upstream sees it: `application_name`.
    name: String,
}

impl Upstream {
    /// The receiver's own connection string has every default in it and its secrets taken out; the setting stands in for
    /// it while the receiver is not running.
    fn seen(seen: &Value) -> Upstream {
        let text = |key: &str| seen[key].as_str().filter(|text| !text.is_empty());
        let fields = conninfo_fields(text("receiver_conninfo").or(text("primary_conninfo")).unwrap_or_default());
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        // Named one by one, so that no field with a secret can ever slip through.
        let shown = ["host", "hostaddr", "port", "user", "application_name", "sslmode"];
        let shown = shown.iter().filter_map(|name| field(name).map(|value| format!("{name}={value}")));
        let cluster = text("cluster_name");
        let name = field("application_name").or(field("fallback_application_name")).or(cluster).unwrap_or("walreceiver");
        Upstream { shown: shown.collect::<Vec<_>>().join(" "), name: name.to_owned() }
    }
}

/// The fields of a connection string in libpq's `key=value` form; of one in URL form the parameters behind the `?`.
fn conninfo_fields(conninfo: &str) -> Vec<(String, String)> {
    if let Some((_, rest)) = conninfo.split_once("://") {
        let parameters = rest.split_once('?').map_or("", |(_, parameters)| parameters);
        let pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
        return pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    }
    let mut fields = Vec::new();
    let mut rest = conninfo.trim_start();
    while let Some((key, value)) = rest.split_once('=') {
        let value = value.trim_start();
        let (quoted, value) = value.strip_prefix('\'').map_or((false, value), |inner| (true, inner));
        let mut text = String::new();
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => text.extend(chars.next()),
                '\'' if quoted => break,
                c if !quoted && c.is_whitespace() => break,
                c => text.push(c),
            }
        }
        fields.push((key.trim().to_owned(), text));
        rest = chars.as_str().trim_start();
    }
    fields
}

fn could_not(attempted: &str) -> impl FnOnce(tokio_postgres::Error) -> PortError {
    move |error| of_call(attempted, Effect::Read, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(conninfo: &str) -> Vec<(String, String)> {
        conninfo_fields(conninfo)
    }

    #[test]
    fn a_connection_string_is_read_with_its_quotes() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            fields(r"host=db1 password='it\'s = me' application_name = 'green one' port=5432"),
            [pair("host", "db1"), pair("password", "it's = me"), pair("application_name", "green one"), pair("port", "5432")]
        );
        assert_eq!(fields("postgresql://u:p@h:1/d?application_name=g"), [pair("application_name", "g")]);
        assert_eq!(fields(""), []);
    }

    #[test]
    fn what_is_shown_of_an_upstream_never_holds_its_password() {
        let seen = serde_json::json!({"primary_conninfo": "host=db1 password=hunter2 user=rep", "cluster_name": "g"});
        let upstream = Upstream::seen(&seen);
        assert_eq!((upstream.shown.as_str(), upstream.name.as_str()), ("host=db1 user=rep", "g"));
    }
}

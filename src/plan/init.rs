use super::ServerSurvey;
use crate::word::Template;

/// What a first playbook is made from.
#[derive(Clone, Copy, Debug)]
pub struct FirstLook<'a> {
    pub blue: &'a ServerSurvey,
    pub green: &'a ServerSurvey,
    pub blue_url: &'a Template,
    pub green_url: &'a Template,
    /// The URL of PgBouncer's admin console.
    pub pgbouncer: Option<&'a str>,
}

/// A playbook for two servers that were looked at, with what could not be seen marked `CHANGE`.
pub fn first_playbook(look: &FirstLook<'_>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let database = &look.blue.database;
    let state = if look.green.in_recovery { "a standby, as it must be" } else { "NO standby: rebuild it as one of blue first" };
    format!(
        "# yaml-language-server: $schema=playbook.schema.json
version: 1
name: {name}
strategy: sync

# {blue_endpoint}, PostgreSQL {major}, {tables} tables
blue:
  url: {blue}
# {green_endpoint}: {state}
green:
  url: {green}

migrations:
  dir: migrations          # CHANGE: files <version>_<name>.up.sql and .down.sql

routes:
  - pgbouncer:
      name: main
      admin: {admin}
      database: {database}
      config: /etc/pgbouncer/pgbouncer.ini   # CHANGE: the file in which that database stands

window:
  max_pause: 5s            # longer, and the window goes back by itself
  max_lag: 1MiB            # green must be this close before the pause begins

gates:
  before_window: {{approval: true}}          # `greenlight approve` opens the window

soak: {{for: 72h, then: wait}}               # how long blue follows green, as the way back
on_failure: rollback
limits: {{wal_kept: 10GiB}}                  # more WAL kept for green than this, and the run gives up
accept: []
",
        name = quoted(database),
        blue_endpoint = look.blue.endpoint,
        major = look.blue.version / 10_000,
        tables = look.blue.catalog.tables.len(),
        blue = quoted(&look.blue_url.0),
        green_endpoint = look.green.endpoint,
        green = quoted(&look.green_url.0),
        admin = quoted(look.pgbouncer.unwrap_or("postgresql://CHANGE:${env:PGBOUNCER_PASSWORD}@127.0.0.1:6432/pgbouncer")),
        database = quoted(database),
    )
}

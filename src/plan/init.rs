//! A first playbook for two servers that were looked at: what can be known is filled in, what only a person knows is marked.

use super::figures::capital;
use super::{
    Answer, Finding, Gate, GreenSurvey, HistorySpec, LimitsSpec, LongTransactions, OnFailure, PlanInput, ServerSpec,
    ServerSurvey, SoakSpec, Survey, ValidateSpec, WindowSpec, compile,
};
use crate::word::{RunId, Template, Timestamp, is_hidden, shown};
use std::collections::BTreeMap;
use std::fmt::Write;

const GIB: u64 = 1 << 30;

/// What `first_playbook` knows.
#[derive(Debug)]
pub struct FirstLook<'a> {
    pub blue: &'a ServerSurvey,
    pub green: &'a ServerSurvey,
    pub blue_url: &'a Template,
    pub green_url: &'a Template,
    /// URL of PgBouncer's admin console.
    pub pgbouncer: Option<&'a str>,
    /// The path of its configuration file, where it is known.
    pub pgbouncer_config: Option<&'a str>,
    /// Its names for blue's database.
    pub pgbouncer_entries: &'a [String],
}

/// The text of a playbook, with comments. Passwords that stood in the URLs have become references. What preflight already
/// sees is written down: what has to be done first, and what would have to be accepted, each with its consequence.
pub fn first_playbook(look: &FirstLook<'_>) -> String {
    let database = &look.blue.database;
    let wal_kept = wal_kept(look.blue);
    let findings = findings(look, wal_kept);
    let mut text = format!("# A first playbook for database {database}. Fill in what is marked with FILL IN, then:\n");
    text.push_str("#   greenlight check FILE    reads it, asks no server\n");
    text.push_str("#   greenlight plan FILE     looks at everything, changes nothing\n");
    text.push_str(&to_be_done(&findings));
    let _ = write!(
        text,
        "
version: 1
name: {}
strategy: sync

# The server that serves now: PostgreSQL {}.{}.
blue:
  url: {}
  # How green's server reaches blue for its subscription, where that differs. PostgreSQL keeps this text until the end of the
  # run: a passfile on green's machine keeps a password out of it.
  # peer_url: postgresql://USER@HOST:PORT/DATABASE?passfile=/path

# The server that will serve.
green:
  url: {}
  # How blue's server reaches green for the way back.
  # peer_url: postgresql://USER@HOST:PORT/DATABASE?passfile=/path

migrations:
  dir: migrations            # FILL IN: the folder with VERSION_NAME.up.sql and VERSION_NAME.down.sql, relative to this file
",
        yaml(&name_of(database)),
        look.blue.major(),
        look.blue.version % 10_000,
        yaml(&without_password(&look.blue_url.0, "BLUE_PASSWORD")),
        yaml(&without_password(&look.green_url.0, "GREEN_PASSWORD")),
    );
    text.push_str(&route(look));
    text.push_str(&rest(look, wal_kept));
    text.push_str(&acceptance(&findings));
    text
}

fn route(look: &FirstLook<'_>) -> String {
    let console = look.pgbouncer.map(|url| without_password(url, "PGBOUNCER_PASSWORD"));
    let (admin, mark) = match console {
        Some(url) => (url, ""),
        None => ("postgresql://USER:${env:PGBOUNCER_PASSWORD}@HOST:6432/pgbouncer".to_owned(), "   # FILL IN: the admin console"),
    };
    let (database, which) = match look.pgbouncer_entries {
        [name] => (name, String::new()),
        [name, others @ ..] => {
            (name, format!("   # or {}: each entry that applications use needs a route", one_line(&others.join(", "))))
        }
        [] => (&look.blue.database, "   # FILL IN: as PgBouncer's [databases] names it".to_owned()),
    };
    let (config, what) = match look.pgbouncer_config {
        Some(path) => (path, "   # it is rewritten when the writer moves, so Greenlight runs on that machine"),
        None => ("/etc/pgbouncer/pgbouncer.ini", "   # FILL IN: the file in which that database stands; it is rewritten"),
    };
    format!(
        "
# What the applications connect to. All routes are paused and moved together.
routes:
  - pgbouncer:
      name: main
      admin: {}{mark}
      database: {}{which}
      config: {}{what}
",
        yaml(&admin),
        yaml(database),
        yaml(config)
    )
}

fn rest(look: &FirstLook<'_>, wal_kept: u64) -> String {
    let disk = match look.blue.disk_free_bytes {
        Some(free) => format!("blue's disk has {} GiB free now", free / GIB),
        None => "FILL IN: blue's disk cannot be seen from here".to_owned(),
    };
    format!(
        "
# What must be equal on both sides before the window opens, besides the schema, the rows and the sequences.
# validate:
#   assertions:
#     - name: no order without a customer
#       query: select count(*) from orders o where not exists (select from customers c where c.id = o.customer_id)
#       expect: 0

window:
  max_pause: 5s              # then blue is opened again, and the run waits for its next chance
  max_lag: 1MiB
  long_transactions: {{older_than: 5s, then: wait}}

# Where the run waits for a person (`greenlight approve`) or for certain hours.
gates:
  before_window:
    approval: true
    # hours: {{zone: Europe/Berlin, days: [sat, sun], from: \"02:00\", to: \"04:00\"}}

# Blue follows green, and going back loses nothing.
soak:
  for: 72h
  then: wait                 # for `greenlight finish`; or: finish

# WAL that the run may keep on the serving side before it gives up ({disk}).
limits:
  wal_kept: {}GiB
",
        wal_kept / GIB
    )
}

/// A quarter of what is free, where that is known, and no more than a careful guess.
fn wal_kept(blue: &ServerSurvey) -> u64 {
    let room = [blue.disk_free_bytes.map(|free| free / 4), blue.slot_wal_keep_bytes_max];
    let room = room.into_iter().flatten().min().unwrap_or(u64::MAX);
    (room.min(10 * GIB) / GIB).max(1) * GIB
}

/// What preflight says of a run of nothing, with the playbook's defaults.
fn findings(look: &FirstLook<'_>, wal_kept: u64) -> Vec<Finding> {
    let input = PlanInput {
        strategy: crate::plan::Strategy::Sync,
        name: "first".to_owned(),
        blue: ServerSpec { url: look.blue_url.clone(), peer_url: None },
        green: ServerSpec { url: look.green_url.clone(), peer_url: None },
        standby: None,
        restore_into: None,
        shadow: None,
        routes: Vec::new(),
        window: WindowSpec {
            max_pause_ms: 5_000,
            max_lag_bytes: 1 << 20,
            long_transactions: LongTransactions::Wait,
            transaction_age_max_ms: 5_000,
            sequence_margin: 1_000,
            reads_on_blue: false,
        },
        validate: ValidateSpec { rows: true, chunk_rows: 50_000, parallel: 2, exclude: Vec::new(), assertions: Vec::new() },
        history: HistorySpec { schema: "public".to_owned(), role: None, lock_timeout_ms: 2_000, lock_retries: 10 },
        soak: SoakSpec { for_secs: 72 * 3600, then_finish: false },
        limits: LimitsSpec { wal_kept_bytes_max: wal_kept },
        on_failure: OnFailure::Rollback,
        on_failure_of: crate::plan::FailurePhases::default(),
        snapshot: None,
        green_snapshot: None,
        before_migrate: Gate::default(),
        before_window: Gate::default(),
        accept: Vec::new(),
        migrations: Vec::new(),
    };
    let survey = Survey {
        blue: look.blue.clone(),
        green: GreenSurvey::Standby(Box::new(look.green.clone())),
        shadow: Err("nothing is to be migrated".to_owned()),
        routes: Vec::new(),
        applied: Vec::new(),
        rights: None,
        direct_sessions: Ok(Vec::new()),
        snapshots: None,
        access: None,
    };
    let mut findings = compile(input, &survey, RunId::random(), Timestamp::UNIX_EPOCH).findings;
    // The first playbook does name one.
    findings.retain(|finding| finding.code != "no-routes");
    findings
}

fn to_be_done(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        if let Answer::Refused { remedy } = &finding.answer {
            let _ = write!(text, "#\n# {}\n#   {}\n", one_line(&finding.seen), one_line(remedy));
        }
    }
    if text.is_empty() { text } else { format!("#\n# TO BE DONE FIRST, as it looks now:\n{text}") }
}

/// Commented out: accepting is a person's own act.
fn acceptance(findings: &[Finding]) -> String {
    // By code, so that a thousand tables of one kind are one line.
    let mut needed: BTreeMap<&str, (&Finding, &str, usize)> = BTreeMap::new();
    for finding in findings {
        if let Answer::NeedsAccept { consequence } = &finding.answer {
            let code = finding.code.split_once(':').map_or(finding.code.as_str(), |(code, _)| code);
            needed.entry(code).or_insert((finding, consequence, 0)).2 += 1;
        }
    }
    if needed.is_empty() {
        return String::new();
    }
    let mut text = "\n# What the plan needs your word for, as it looks now. To accept it with its consequence, take the # away.\n# accept:\n".to_owned();
    for (code, (first, consequence, number)) in needed {
        let more = if number > 1 { format!(" (and {} more)", number - 1) } else { String::new() };
        let word = if number > 1 { code } else { first.code.as_str() };
        let _ = write!(
            text,
            "#   # {}{more}\n#   # {}.\n#   - {}\n",
            one_line(&first.seen),
            one_line(&capital(consequence)),
            yaml(word)
        );
    }
    text
}

/// Names come from the servers and may hold anything; a comment ends with its line.
fn one_line(text: &str) -> String {
    shown(text)
}

/// A playbook's name: visible, and not too long.
fn name_of(database: &str) -> String {
    one_line(database).trim().chars().take(60).collect()
}

/// A text as YAML, plain where that is safe. A JSON string is a YAML string.
fn yaml(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(plain) && !WORDS_OF_YAML.contains(&text) {
        return text.to_owned();
    }
    let json = serde_json::to_string(text).unwrap_or_default();
    let escaped = |c: char| c.encode_utf16(&mut [0; 2]).iter().fold(String::new(), |text, unit| text + &format!("\\u{unit:04x}"));
    json.chars().map(|c| if is_hidden(c) { escaped(c) } else { c.to_string() }).collect()
}

const WORDS_OF_YAML: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// A URL with a reference where its password stood.
fn without_password(url: &str, name: &str) -> String {
    let reference = format!("${{env:{name}}}");
    let mut url = url.to_owned();
    if let Some((scheme, rest)) = url.split_once("://")
        && let Some((login, place)) = rest.rsplit_once('@')
        && let Some((user, password)) = login.split_once(':')
        && !user.contains("${")
        && !password.starts_with("${")
    {
        url = format!("{scheme}://{user}:{reference}@{place}");
    }
    let Some(at) = ["?password=", "&password="].iter().find_map(|key| url.find(key).map(|at| at + key.len())) else { return url };
    let end = url[at..].find('&').map_or(url.len(), |end| at + end);
    if !url[at..end].starts_with("${") {
        url.replace_range(at..end, &reference);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::preflight::example::World;

    fn text(world: &World, blue_url: &str, pgbouncer: Option<&str>) -> String {
        let GreenSurvey::Standby(green) = &world.survey.green else { panic!("green is there") };
        let (blue_url, green_url) = (Template(blue_url.to_owned()), Template("postgresql://greenlight@db2/shop".to_owned()));
        let (pgbouncer_config, pgbouncer_entries) = (None, &[][..]);
        let blue = &world.survey.blue;
        let (blue_url, green_url) = (&blue_url, &green_url);
        first_playbook(&FirstLook { blue, green, blue_url, green_url, pgbouncer, pgbouncer_config, pgbouncer_entries })
    }

    #[test]
    fn a_first_playbook_says_what_it_knows_and_marks_the_rest() {
        let mut world = World::new();
        world.blue().wal_level = "replica".to_owned();
        world.blue().other_databases = vec!["crm".to_owned(), "wiki".to_owned()];
        world.blue().disk_free_bytes = Some(100 * GIB);
        let pgbouncer = Some("postgresql://admin@pool:6432/pgbouncer");
        insta::assert_snapshot!(text(&world, "postgresql://greenlight:hunter2@db1:5432/shop", pgbouncer));
    }

    #[test]
    fn a_first_playbook_can_be_read_and_holds_no_password() {
        let mut world = World::new();
        let database = "Shop \"one\": {2}\nnext";
        database.clone_into(&mut world.blue().database);
        database.clone_into(&mut world.green().database);
        for url in ["postgresql://u:hunter2@db1/shop", "postgresql://u@db1/shop?password=hunter2&sslmode=require"] {
            let text = text(&world, url, None);
            assert!(!text.contains("hunter2"), "{text}");
            let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(value["routes"][0]["pgbouncer"]["database"], database);
            assert!(value["blue"]["url"].as_str().unwrap().contains("${env:BLUE_PASSWORD}"));
        }
    }

    #[test]
    fn a_reference_stays_what_it_is() {
        for url in ["postgresql://u:${env:X}@h/d", "postgresql://u:${file:/a}@h/d", "${env:URL}", "postgresql://h/d"] {
            assert_eq!(without_password(url, "P"), url);
        }
        assert_eq!(without_password("postgresql://u:p@x@h/d", "P"), "postgresql://u:${env:P}@h/d");
    }
}

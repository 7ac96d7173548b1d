//! Playbooks: the example is right, a wrong one is told everything that is wrong with it, and nothing makes the reader fail.
#![expect(clippy::unwrap_used, reason = "tests")]

use greenlight::plan::{Day, LongTransactions, OnFailure, RouteKind, Strategy};
use greenlight::playbook::{Playbook, Problems, json_schema, load};
use greenlight::word::RelationName;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[test]
fn the_example_is_read_as_it_says() {
    let world = World::new();
    let playbook = world.load(&example()).unwrap();
    assert_eq!((playbook.name.as_str(), playbook.on_failure), ("shop", OnFailure::Rollback));
    assert_eq!(playbook.migrations_dir, Some(world.path("migrations")));
    assert_eq!(
        (playbook.history.schema.as_str(), playbook.history.lock_timeout_ms, playbook.history.lock_retries),
        ("public", 2000, 10)
    );
    assert_eq!((playbook.window.max_pause(), playbook.window.max_lag_bytes), (Duration::from_secs(5), 1 << 20));
    assert_eq!(playbook.window.long_transactions, LongTransactions::Wait);
    assert_eq!((playbook.validate.rows, playbook.validate.chunk_rows, playbook.validate.parallel), (true, 50_000, 2));
    assert_eq!(playbook.validate.assertions[0].expect, "0");
    assert_eq!((playbook.soak.for_secs, playbook.soak.then_finish), (259_200, false));
    assert_eq!(playbook.limits.wal_kept_bytes_max, 10 << 30);
    assert!(!playbook.before_migrate.approval && playbook.before_window.approval);
    assert_eq!(playbook.before_window.hours.unwrap().days, [Day::Sat, Day::Sun]);
    assert!(playbook.standby.is_none() && playbook.shadow.is_none() && playbook.accept.is_empty());
}

#[test]
fn everything_that_the_example_comments_out_can_be_commented_in() {
    let world = World::new();
    let source = uncommented(&example());
    let source = source.replace("/usr/lib/postgresql/17/bin", &world.path("bin").display().to_string());
    let playbook = world.load(&source).unwrap();
    let standby = playbook.standby.unwrap();
    assert_eq!((standby.port, standby.bin_dir), (5432, Some(world.path("bin"))));
    assert!(playbook.shadow.is_some() && playbook.blue.peer_url.is_some() && playbook.green.peer_url.is_some());
    assert_eq!(playbook.validate.exclude, [RelationName::new("public", "audit_log")]);
    let RouteKind::Pgbouncer { probe, .. } = &playbook.routes[0].kind;
    assert!(probe.is_some());
    let accept = &playbook.accept[1];
    assert_eq!(accept.word, "not-reversible:public.orders");
    assert_eq!(source.lines().nth(accept.line - 1).unwrap().find("not-"), Some(accept.column - 1));
}

#[test]
fn a_change_in_place_needs_no_second_server_and_a_backup() {
    let world = World::new();
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/snapshot-then-migrate.yaml");
    let source = std::fs::read_to_string(ready).unwrap();
    let playbook = world.load(&source).unwrap();
    assert_eq!((playbook.strategy, playbook.on_failure), (Strategy::InPlace, OnFailure::Rollback));
    assert_eq!((playbook.green == playbook.blue, playbook.routes.len(), playbook.history.lock_retries), (true, 0, 60));
    let commented_in = world.load(&uncommented(&source)).unwrap();
    assert!(commented_in.before_migrate.approval && commented_in.shadow.is_some());
    assert_eq!(commented_in.on_failure_of.validate, Some(OnFailure::Hold));
    let problems = world.load(IN_PLACE).unwrap_err();
    insta::assert_snapshot!("in_place", world.shown(&problems.render(false)));
}

#[test]
fn what_moves_to_a_restored_server_needs_little_and_what_restores_names_a_place() {
    let world = World::new();
    let ready = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/restore.yaml")).unwrap();
    let playbook = world.load(&ready.replace("/etc/pgbouncer/pgbouncer.ini", "pgbouncer.ini")).unwrap();
    assert_eq!((playbook.strategy, playbook.migrations_dir, playbook.window.max_lag_bytes), (Strategy::Restored, None, 0));
    let problems = world.load(RESTORED).unwrap_err();
    insta::assert_snapshot!("restored", world.shown(&problems.render(false)));
    let problems = world.load(RESTORING).unwrap_err();
    insta::assert_snapshot!("restoring", world.shown(&problems.render(false)));
}

#[test]
fn a_file_with_many_mistakes_is_told_all_of_them_at_once() {
    let world = World::new();
    let problems = world.load(MISTAKES).unwrap_err();
    insta::assert_snapshot!("mistakes", world.shown(&problems.render(false)));
    insta::assert_snapshot!("mistakes_json", world.shown(&serde_json::to_string_pretty(&problems).unwrap()));
}

#[test]
fn what_contradicts_itself_is_told_all_at_once() {
    let world = World::new();
    let problems = world.load(CONTRADICTIONS).unwrap_err();
    insta::assert_snapshot!("contradictions", world.shown(&problems.render(false)));
}

#[test]
fn every_required_key_is_asked_for_with_an_example() {
    let world = World::new();
    let problems = world.load("version: 1\nblue: {}\ngreen: {}\nwindow: {}\nroutes: [{pgbouncer: {}}]\n").unwrap_err();
    insta::assert_snapshot!("missing", world.shown(&problems.render(false)));
}

#[test]
fn a_file_that_is_no_playbook_is_told_so() {
    let world = World::new();
    let cases = [
        ("", "the playbook is empty"),
        ("# nothing but a comment\n", "the playbook is empty"),
        ("a: [1, 2", "this is not YAML"),
        ("a:\n\tb: 1\n", "this is not YAML"),
        ("- just\n- a list\n", "the playbook must be a section with keys, not a list"),
        ("version: 2\nnonsense: 1\n", "`version`: `2` is not known here"),
        ("version: 1\n---\nversion: 1\n", "a second document begins here"),
        ("version: &a 1\nname: *a\n", "an anchor"),
        ("version: 1\nname: !secret x\n", "a tag"),
        ("? [a, b]\n: 1\n", "a key must be one word"),
    ];
    for (source, what) in cases {
        let problems = world.load(source).unwrap_err();
        assert!(problems.problems.iter().any(|problem| problem.what.contains(what)), "{source:?}: {}", problems.render(false));
    }
    let other_version = world.load("version: 2\nnonsense: 1\n").unwrap_err();
    assert_eq!(other_version.problems.len(), 1, "of another version's file nothing else is said");

    let absent = load(&world.path("absent.yaml"), &|_| None).unwrap_err();
    assert!(absent.render(false).contains("cannot be read"), "{}", absent.render(false));
    std::fs::write(world.path("latin1.yaml"), b"version: 1\nname: caf\xe9\n").unwrap();
    let latin1 = load(&world.path("latin1.yaml"), &|_| None).unwrap_err();
    assert_eq!((latin1.problems[0].line, latin1.problems[0].column), (Some(2), Some(10)));
}

#[test]
fn a_file_made_to_exhaust_its_reader_is_refused() {
    let world = World::new();
    let laughs: String = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
        let before = n - 1;
        format!("{text}a{n}: &a{n} [{}]\n", vec![format!("*a{before}"); 9].join(", "))
    });
    let sources = [
        laughs,
        "[".repeat(100_000),
        (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).take(200).collect(),
        "- x\n".repeat(100_000),
        "x".repeat(2 << 20),
        (0..9_000).fold(String::new(), |text, no| text + &format!("key{no}: 1\n")),
    ];
    for source in &sources {
        let problems = world.load(source).unwrap_err();
        assert!((1..=100).contains(&problems.problems.len()));
        assert!(!problems.render(false).is_empty());
    }
    let endless = load(Path::new("/dev/zero"), &|_| None).unwrap_err();
    assert!(endless.problems[0].what.contains("longer than 1 MiB"), "{endless:?}");
}

#[test]
fn no_password_is_shown_wherever_it_stands() {
    let world = World::new();
    let fine = example();
    let sources = [
        fine.replace("${env:BLUE_PASSWORD}", "geheim"),
        fine.replace("${env:BLUE_PASSWORD}", "geheim${env:BLUE_PASSWORD}"),
        fine.replace("gl_admin:${env:BLUE_PASSWORD}@db1.example.com", "gl_admin@db1.example.com")
            .replace("?sslmode", "?password=geheim&sslmode"),
        fine.replace("blue:\n", "blue:\n  password: geheim\n"),
        fine.replace("url: postgresql://gl_admin:${env:BLUE_PASSWORD}@", "url: [postgresql://gl_admin:geheim@"),
        fine.replace("strategy: sync", "strategy: sync # postgresql://gl_admin:geheim@db1/shop\n  nonsense: 1"),
        fine.replace(
            "url: postgresql://gl_admin:${env:BLUE_PASSWORD}@db1.example.com:5432/shop",
            "url: host=db1 user=a password=geheim",
        ),
    ];
    for source in sources {
        let problems = world.load(&source).unwrap_err();
        let shown = problems.render(true)
            + &problems.render(false)
            + &serde_json::to_string(&problems).unwrap()
            + &format!("{problems} {problems:?}");
        assert!(!shown.contains("geheim"), "{shown}");
    }
    let playbook = world.load(&fine).unwrap();
    assert!(!format!("{playbook:?}").contains(SECRET));
}

#[test]
fn the_committed_schema_is_the_present_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/playbook.schema.json");
    let present = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    if std::env::var_os("GREENLIGHT_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &present).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(committed == present, "write it anew: GREENLIGHT_WRITE_SCHEMA=1 cargo test --test playbook");
}

#[test]
fn every_key_of_the_schema_is_described_and_closed() {
    fn walk(schema: &serde_json::Value, path: &str) {
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            for (key, schema) in properties {
                let path = format!("{path}.{key}");
                let described = schema["description"].is_string() || schema["properties"].is_object();
                assert!(described || path.ends_with(".pgbouncer"), "{path}");
                assert!(!schema.to_string().contains("$ref") && !schema.to_string().contains("\"null\""), "{path}");
                walk(schema, &path);
            }
        }
        for inner in schema["oneOf"].as_array().into_iter().flatten().chain(schema.get("items")) {
            walk(inner, path);
        }
    }
    walk(&json_schema(), "");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_fail(source in any::<String>()) {
        read_and_show(&source);
    }

    #[test]
    fn no_mutilated_playbook_makes_the_reader_fail(
        at in 0..4000_usize, length in 0..300_usize, what in "[ \\-:{}\\[\\]\"'&*!|>#%@`\n\té€ -~]{0,12}",
    ) {
        let example = uncommented(&example());
        let begin = example.floor_char_boundary(at.min(example.len()));
        let end = example.floor_char_boundary((begin + length).min(example.len()));
        read_and_show(&format!("{}{what}{}", &example[..begin], &example[end..]));
    }

    #[test]
    fn no_value_makes_the_reader_fail(key in 0..60_usize, value in "[ \\-:{}\\[\\]\"'$&*!|>#%@`é€ -~]{0,20}") {
        let example = uncommented(&example());
        let mut lines: Vec<String> = example.lines().map(str::to_owned).collect();
        let with_values: Vec<usize> = (0..lines.len()).filter(|no| lines[*no].contains(": ")).collect();
        let line = &mut lines[with_values[key % with_values.len()]];
        let before = line.find(": ").unwrap() + 2;
        line.replace_range(before.., &value);
        read_and_show(&lines.join("\n"));
    }
}

/// Either a playbook or at least one problem, and every problem can be shown.
fn read_and_show(source: &str) {
    let world = World::new();
    if let Err(problems) = world.load(source) {
        assert!(!problems.problems.is_empty());
        assert!(!problems.render(true).is_empty() && !problems.render(false).is_empty());
        for problem in &problems.problems {
            assert!(problem.line.is_none_or(|line| line <= source.matches('\n').count() + 1), "{problem:?}");
        }
    }
}

const SECRET: &str = "p@ss:w/rd";

/// A folder with what a playbook needs around it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in
            [("migrations/0001_x.up.sql", "SELECT 1"), ("pgbouncer.ini", "[databases]"), ("bin/pg_basebackup", "")]
        {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        World { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self, source: &str) -> Result<Playbook, Problems> {
        let config = self.path("pgbouncer.ini").display().to_string();
        std::fs::write(self.path("shop.yaml"), source.replace("/etc/pgbouncer/pgbouncer.ini", &config)).unwrap();
        load(&self.path("shop.yaml"), &|name| name.ends_with("_PASSWORD").then(|| SECRET.to_owned()))
    }

    fn shown(&self, text: &str) -> String {
        text.replace(&self.dir.path().display().to_string(), "FOLDER")
    }
}

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/cutover.yaml")).unwrap()
}

/// With every commented key in force.
fn uncommented(source: &str) -> String {
    let is_key = |text: &str| {
        let word = text.trim_start().trim_start_matches("- ");
        let key = word.split(':').next().unwrap();
        let lower = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '-');
        lower && (word.contains(": ") || word.ends_with(':') || text.trim_start().starts_with("- "))
    };
    let line = |line: &str| match line.trim_start().strip_prefix("# ") {
        Some(text) if is_key(text) && !line.contains("yaml-language-server") => line.replacen("# ", "", 1),
        _ => line.to_owned(),
    };
    source.lines().map(|text| line(text) + "\n").collect()
}

const MISTAKES: &str = r#"version: 1
name: shop
strategy: freeze
blue:
  url: postgresql://greenlight:geheim@db1:5432/shop
  pear_url: postgresql://greenlight@db1/shop
green:
  url: postgresql://greenlight:${env:GREEN_PASWORD}@db2:5432/shop?sslmode=prefer
  create: [local]
shadow:
migrations:
  dir: migratoins
  lock_timeout: 2
  lock_retries: many
routes:
  - pgbouncer:
      name: main
      admin: mysql://root@pooler:6432/pgbouncer
      database: shop
      config: no/such/pgbouncer.ini
  - haproxy: {name: edge}
max_lag: 1MiB
validate:
  rows: yes
  chunk_rows: 50_000
  parallel: 0
  exclude: [audit_log]
  assertions:
    - {name: no orphans, query: " ", expects: 0}
window:
  max_pause: "5 parsecs"
  max_lag: 1MB
  max_lag: 2MiB
  long_transactions: {older_than: 3d, then: kill}
gates:
  before_window: {approval: "true", hours: {zone: Europe/Berln, days: [sat, sundae], from: "2:00", to: "24:00"}}
soak: 72h
on_failure: rolback
limits: {wal_kept: lots}
accept: [No Archive, "${env:X}"]
"#;

const IN_PLACE: &str = "version: 1
name: shop
strategy: in-place
blue: {url: postgresql://gl_admin@localhost:5432/shop}
green: {url: postgresql://gl_admin@localhost:5433/shop}
shadow: green
migrations: {dir: migrations}
validate: {rows: true, parallel: 2}
window: {max_lag: 1MiB, reads: blue}
gates: {before_window: {approval: true}}
on_failure: restore
on_failure_of: {window: hold}
soak: {for: 1h}
";

const RESTORED: &str = "version: 1
name: shop
strategy: restored
blue: {url: postgresql://gl_admin@localhost:5432/shop}
green: {url: postgresql://gl_admin@localhost:5433/shop, restore: {data_dir: /restored}, create: {host: local, data_dir: /a, port: 5433}}
migrations: {dir: migrations}
routes:
  - pgbouncer: {name: main, admin: postgresql://a@pooler:6432/pgbouncer, database: shop, config: pgbouncer.ini}
window: {max_pause: 1s, reads: blue}
validate: {rows: true}
gates: {before_migrate: {approval: true}}
on_failure: restore
on_failure_of: {migrate: hold}
soak: {for: 1h}
";

/// In place, with a place to restore to.
const RESTORING: &str = "version: 1
name: shop
strategy: in-place
blue: {url: postgresql://gl_admin@localhost:5432/shop}
green: {url: postgresql://gl_admin@localhost:5433/shop, restore: {host: elsewhere, data_dir: restored}, peer_url: postgresql://gl_admin@localhost:5433/shop}
migrations: {dir: migrations}
snapshot: {store: basebackup, dir: /backups}
window: {max_pause: 1s, reads: blue}
on_failure_of: {migrate: restore, validate: rollback}
limits: {wal_kept: 1GiB}
";

const CONTRADICTIONS: &str = r#"version: 1
name: shop
strategy: sync
blue:
  url: postgresql://greenlight@localhost:5432/shop
  peer_url: postgresql://greenlight@10.0.0.1:5432/store
green:
  url: postgresql://greenlight@127.0.0.1:5432/Shop
  create: {host: local, data_dir: green, port: 5433}
shadow: postgresql://greenlight@localhost/postgres
migrations: {dir: empty}
routes:
  - pgbouncer: {name: main, admin: "postgresql://greenlight@pooler:6432/shop", database: shop, config: pgbouncer.ini}
  - pgbouncer: {name: main, admin: "postgresql://greenlight@POOLER:6432/pgbouncer", database: shop, config: ., probe: "postgresql://greenlight@pooler:6432/other"}
validate:
  rows: false
  exclude: [public.a, public.a]
  assertions:
    - {name: one, query: select 1, expect: 1}
    - {name: one, query: select true, expect: true}
window: {max_lag: 1MiB}
gates:
  before_migrate: {hours: {zone: UTC, days: [mon, mon], from: "02:00", to: "02:00"}}
soak: {for: 0s}
limits: {wal_kept: 1GiB}
accept: [no-archive, no-archive]
"#;

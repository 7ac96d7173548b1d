//! What the command line says without any server: its help, and everything that is wrong with a playbook.

#![expect(clippy::unwrap_used, reason = "tests")]

use assert_cmd::Command;
use std::path::Path;

fn greenlight(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("greenlight"));
    command.args(arguments).current_dir(folder);
    for name in ["GREENLIGHT_STATE", "GREENLIGHT_PG_DIRS", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

/// The exit code, standard output and standard error, as a person sees them.
fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = greenlight(folder, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(folder.to_str().unwrap(), "/desk");
    let (out, err) = (text(output.stdout), text(output.stderr));
    let part = |title: &str, text: &str| if text.is_empty() { String::new() } else { format!("-- {title}\n{text}") };
    format!(
        "$ greenlight {}\n{}{}-- exit code {}\n",
        arguments.join(" "),
        part("out", &out),
        part("err", &err),
        output.status.code().unwrap()
    )
}

const COMMANDS: &[&str] = &[
    "",
    "check",
    "schema",
    "init",
    "plan",
    "run",
    "status",
    "approve",
    "retry",
    "mark-done",
    "rollback",
    "finish",
    "abandon",
    "sweep",
    "snapshot",
    "snapshot take",
    "snapshot list",
    "snapshot verify",
    "snapshot prove",
    "snapshot prune",
    "snapshot point",
    "snapshot forget",
    "snapshot stop",
    "restore",
    "salvage",
    "report",
    "journal",
    "journal show",
    "journal runs",
    "completions",
    "lab",
    "lab up",
    "lab down",
    "lab demo",
    "lab bench",
];

#[test]
fn every_command_has_a_help_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let name =
            format!("help_{}", if command.is_empty() { "greenlight".to_owned() } else { command.replace([' ', '-'], "_") });
        insta::assert_snapshot!(name, shown(folder.path(), &arguments));
    }
}

#[test]
fn the_help_names_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let help = shown(folder.path(), &["--help"]);
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   ")))
        .collect();
    for name in listed.iter().filter(|name| **name != "help") {
        assert!(COMMANDS.contains(name), "`{name}` has no snapshot of its help");
    }
    assert!(listed.len() > 15, "{listed:?}");
}

#[test]
fn a_wrong_playbook_is_told_everything_at_once_with_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wrong.yaml"), WRONG).unwrap();
    for (name, arguments) in [
        ("check_wrong", vec!["check", "wrong.yaml"]),
        ("check_wrong_json", vec!["check", "wrong.yaml", "--output", "json"]),
        ("check_absent", vec!["check", "absent.yaml"]),
        ("run_wrong", vec!["run", "wrong.yaml"]),
    ] {
        insta::assert_snapshot!(name, shown(folder.path(), &arguments));
    }
    assert!(!folder.path().join(".greenlight").exists());
}

/// Unknown keys, wrong types, contradictions, missing files, and a password in the clear.
const WRONG: &str = r#"version: 1
name: shop
strategy: sync
blue:
  url: postgresql://gl_admin:hunter2@db1.example.com/shop
green:
  url: postgresql://gl_admin:${env:NO_SUCH_PASSWORD}@db2.example.com/shop
migratons:
  dir: migrations
routes:
  - pgbouncer:
      name: main
      admin: postgresql://pooler_admin:${file:/no/such/file}@pooler.example.com:6432/pgbouncer
      database: shop
      config: /no/such/pgbouncer.ini
window:
  max_pause: 5 parsecs
  max_lag: yes
gates:
  before_window: {approval: true, hours: {zone: Mars/Olympus, from: "02:00", to: "04:00"}}
soak:
  for: 72h
  then: party
"#;

#[test]
fn what_is_asked_of_no_run_is_told_so_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("no_run_status", vec!["status"]),
        ("no_run_approve_json", vec!["approve", "--output", "json"]),
        ("no_run_run", vec!["run"]),
        ("no_run_journal_runs", vec!["journal", "runs"]),
        ("usage_unknown_command", vec!["rollbak"]),
        ("usage_step_zero", vec!["mark-done", "--step", "0"]),
        ("usage_short_digest", vec!["run", "shop.yaml", "--plan", "12"]),
        ("usage_url", vec!["sweep", "mysql://db1/shop"]),
        ("usage_reference", vec!["sweep", "postgresql://u:${env:NO_SUCH_PASSWORD}@h/d"]),
        ("log_json", vec!["status", "--log", "json", "--output", "json"]),
    ] {
        let text = shown(folder.path(), &arguments);
        insta::with_settings!({filters => vec![(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]")]}, {
            insta::assert_snapshot!(name, text);
        });
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_schema_is_the_one_that_is_kept_beside_the_playbooks() {
    let folder = tempfile::tempdir().unwrap();
    let output = greenlight(folder.path(), &["schema"]).output().unwrap();
    let kept = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/playbook.schema.json")).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), kept.trim());
}

#[test]
fn completions_are_generated_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = greenlight(folder.path(), &["completions", shell]).output().unwrap();
        assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("mark-done"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    #[expect(clippy::disallowed_methods, reason = "a closed pipe as standard output")]
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("greenlight"));
    let output = command.arg("schema").current_dir(folder.path()).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_url_that_cannot_be_used_is_repeated_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let wrong = [
        "postgresql://gl:S3cretWord%zz@h/x",
        "postgresql://gl:a/S3cretWord@h/x",
        "postgresql://gl:b@c/S3cretWord@h/x",
        "postgresql://gl:b@h:S3cretWord/x",
        "postgresql://gl:b@h/x?S3cretWord=1",
        "postgresql://gl:b S3cretWord@h,i/x",
        "mysql://gl:S3cretWord@h/x",
        "host=h user=gl password='S3cretWord",
        "host=h user=gl password=a S3cretWord=b",
        "postgresql://gl:${S3cretWord}@h:0/x",
        "postgresql://gl:${env:S3cretWord",
        "gl:S3cretWord@h/x",
    ];
    for url in wrong {
        std::fs::write(&file, url).unwrap();
        let by_file = format!("${{file:{}}}", file.display());
        for url in [url, &by_file] {
            for words in [
                &["sweep", url][..],
                &["salvage", "--damaged", url, "--restored", url],
                &["salvage", "--damaged", "postgresql://u@127.0.0.1:1/x", "--restored", url],
                &["init", "--blue", url, "--green", url],
                &["sweep", "postgresql://u@h/x", url],
                &["sweep", url, "--verbos"],
                &["--output", "json", "-vv", "sweep", url],
                &["--log", "json", "init", "--green", url, "--blue", url],
            ] {
                let output = greenlight(folder.path(), words).env("RUST_LOG", "trace").output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                assert!(!said.contains("S3cretWord") && !said.is_empty(), "{words:?}: {said}");
                assert!(!output.status.success(), "{words:?}");
            }
        }
    }
    let typed = shown(folder.path(), &["salvage", "--damaged", "postgresql://gl:S3cretWord@h/x", "--restored", "x"]);
    let remedy = ["given as `--damaged`", "a password stands in it, in the clear", "`${env:NAME}`", "exit code 2"];
    assert!(remedy.iter().all(|part| typed.contains(part)), "{typed}");
}

#[test]
fn nothing_is_painted_but_on_a_terminal_that_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yaml"), "version: 7\nname: \"a\\e[31mb\"\nno\u{9b}thing: \u{202e}x\n").unwrap();
    let on_terminal = |variables: &[(&str, &str)]| {
        #[expect(clippy::disallowed_methods, reason = "the program under test, on a terminal")]
        let mut command = std::process::Command::new("script");
        let greenlight = assert_cmd::cargo::cargo_bin!("greenlight").display().to_string();
        command.args(["-qec", &format!("{greenlight} check bad.yaml; true"), "/dev/null"]).current_dir(folder.path());
        command.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE").env("TERM", "xterm");
        command.envs(variables.iter().copied()).stdin(std::process::Stdio::null());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let painted = on_terminal(&[]);
    assert!(painted.contains("\u{1b}[") && painted.contains("error"), "a terminal is painted: {painted:?}");
    assert!(!painted.contains("\u{1b}[31mb") && !painted.contains(['\u{9b}', '\u{202e}']), "but not by the file: {painted:?}");
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb"), ("CLICOLOR", "0")] {
        let plain = on_terminal(&[variable]);
        assert!(plain.contains("error") && !plain.contains('\u{1b}'), "{variable:?}: {plain:?}");
    }
    let piped = shown(folder.path(), &["check", "bad.yaml"]);
    assert!(piped.contains("error") && !piped.contains('\u{1b}'), "{piped:?}");
}

//! A whole run with its way back, among servers that write down whatever they can, and people with hostile names: no secret of
//! the world is anywhere but where it was put, and nothing that others named looks like a line of ours.

use crate::world::{COMPLETED, Live, Setup, ask, connect};
use greenlight::lab::TALKATIVE;
use greenlight::word::{Endpoint, Side, quote_ident, quote_literal};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const ARCHIVE_KEY: &str = "ArchiveKeyS3cret";
/// As a role may name what it makes, and as a person may give a reason.
const HOSTILE: &str = "x\u{1b}[31mred\u{7}\nError: fake\u{202e}";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_the_world_is_seen_anywhere_and_no_name_forges_a_line() {
    let mut live = Live::up(Setup { pgbouncers: 1, playbook: crate::world::APPROVAL, ..Setup::default() }).await;
    let text = fs::read_to_string(&live.playbook).unwrap().replace("accept: [no-archive,", "accept: [green-archive,");
    fs::write(&live.playbook, text).unwrap();
    make_talkative(&live).await;
    force_a_user(&live).await;
    // The server itself starts its archive command, by a shell.
    let watch = Watch::start(secrets(&live).into_iter().filter(|secret| secret != ARCHIVE_KEY).collect());
    live.start_writing().await;

    let mut said = Vec::new();
    let playbook = live.playbook.to_str().unwrap().to_owned();
    for words in [
        &["check", &playbook][..],
        &["plan", &playbook],
        &["plan", &playbook, "--mermaid"],
        &["plan", &playbook, "--output", "json"],
    ] {
        said.push(say(&live, words).await);
    }
    assert!(said[1].contains("green-archive") && said[1].contains("sha256"), "the archive is told apart by a mark: {}", said[1]);
    said.push(say(&live, &["-vv", "--log", "json", "--output", "json", "run", &playbook, "--no-wait"]).await);
    let reason = ["--reason", HOSTILE, "--by", HOSTILE];
    said.push(say(&live, &[&["-vv", "approve", "--no-wait"][..], &reason].concat()).await);
    assert_eq!(live.serving().await, Side::Green, "{}", live.told().await);
    said.extend(look_at_everything(&live).await);
    said.push(say(&live, &[&["rollback", "--no-wait"][..], &reason].concat()).await);
    assert_eq!(live.serving().await, Side::Blue, "{}", live.told().await);
    said.extend(look_at_everything(&live).await);
    live.nothing_is_lost(Side::Blue).await;
    live.greenlight(&["status"]).await.expect(COMPLETED);

    for secret in secrets(&live) {
        for (number, text) in said.iter().enumerate() {
            assert!(!text.contains(&secret), "said in {number}: {text}");
        }
        holds_nowhere(&live.state, &secret);
        for side in [Side::Blue, Side::Green] {
            let log = String::from_utf8_lossy(&fs::read(live.lab.server(side).log).unwrap()).into_owned();
            assert!(log.contains("greenlight"), "{side}'s log is one that says what is done");
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(&secret)).collect();
            assert!(lines.is_empty(), "{side}'s log: {lines:?}");
            let kept = ask(&live.lab.endpoint(side), "SELECT query FROM pg_stat_statements").await;
            assert!(kept.len() > 10, "{side} keeps what it was asked: {kept:?}");
            let found: Vec<&String> = kept.iter().filter(|query| query.contains(&secret)).collect();
            assert!(found.is_empty(), "{side} keeps it in pg_stat_statements: {found:?}");
        }
    }
    assert_eq!(watch.stop(), BTreeSet::new(), "a secret was in the arguments of a process");
    for text in &said {
        assert!(
            !text.contains(['\u{1b}', '\u{7}']) && !text.lines().any(|line| line.trim_start().starts_with("Error: fake")),
            "{text}"
        );
    }
    assert!(said.iter().any(|text| text.contains("Error: fake")), "and it is told");
}

/// A report in each form, and whatever else looks.
async fn look_at_everything(live: &Live) -> Vec<String> {
    let (blue, green) = (live.lab.url(Side::Blue), live.lab.url(Side::Green));
    let admin = live.lab.admin_url(0);
    let mut said = Vec::new();
    for words in [
        &["status"][..],
        &["status", "--output", "json"],
        &["report"],
        &["report", "--markdown"],
        &["report", "--output", "json"],
        &["journal", "show"],
        &["journal", "show", "--output", "json"],
        &["journal", "runs"],
        &["sweep", &blue],
        &["--log", "json", "-vv", "sweep", &green, "--output", "json"],
        &["init", "--blue", &blue, "--green", &green, "--pgbouncer", &admin],
    ] {
        said.push(say(live, words).await);
    }
    said
}

async fn say(live: &Live, words: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_greenlight"));
    command.arg("--state").arg(&live.state).args(words).env("RUST_LOG", "trace");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    crate::world::wait(command.spawn().unwrap()).await.said
}

fn secrets(live: &Live) -> Vec<String> {
    let password = |endpoint: Endpoint| endpoint.password.unwrap().expose().to_owned();
    let lab = &live.lab;
    vec![
        password(lab.endpoint(Side::Blue)),
        password(lab.application(Side::Blue)),
        password(lab.admin(0)),
        ARCHIVE_KEY.to_owned(),
    ]
}

async fn make_talkative(live: &Live) {
    let lab = &live.lab;
    ask(&lab.endpoint(Side::Blue), &format!("CREATE TABLE {} (id int PRIMARY KEY)", quote_ident(HOSTILE))).await;
    ask(&lab.endpoint(Side::Blue), "CREATE EXTENSION pg_stat_statements").await;
    for side in [Side::Blue, Side::Green] {
        let command = format!("AWS_SECRET_ACCESS_KEY={ARCHIVE_KEY} /bin/true {side} %p");
        let settings = [TALKATIVE, &[("archive_mode", "on"), ("archive_command", command.as_str())]].concat();
        // The modules bring settings of their own.
        let (modules, others) = settings.split_at(1);
        for some in [modules, others] {
            let client = connect(&lab.endpoint(side)).await;
            for (name, value) in some {
                let value = if *name == "shared_preload_libraries" { (*value).to_owned() } else { quote_literal(value) };
                client.batch_execute(&format!("ALTER SYSTEM SET {name} = {value}")).await.unwrap();
            }
            drop(client);
            lab.stop(side).await.unwrap();
            lab.start(side).await.unwrap();
        }
    }
    live.until("green streams again", async || {
        ask(&lab.endpoint(Side::Green), "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'").await == ["1"]
    })
    .await;
    // What this test itself has just said is not looked for.
    for side in [Side::Blue, Side::Green] {
        ask(&lab.endpoint(side), "SELECT pg_stat_statements_reset()").await;
    }
}

/// PgBouncer logs in as one user for everybody, with the password in its entry, as many do.
async fn force_a_user(live: &Live) {
    let config = live.lab.pgbouncer_config(0);
    let application = live.lab.application(Side::Blue);
    let (user, password) = (&application.user, application.password.as_ref().unwrap().expose());
    let text = fs::read_to_string(&config).unwrap();
    let entry = text.lines().find(|line| line.starts_with(live.lab.pgbouncer_database())).unwrap();
    fs::write(&config, text.replace(entry, &format!("{entry} user={user} password='{password}'"))).unwrap();
    live.lab.restart_pgbouncer(0).await.unwrap();
}

fn holds_nowhere(folder: &Path, secret: &str) {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for path in files {
        if path.is_dir() {
            holds_nowhere(&path, secret);
        } else {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a secret", path.display());
        }
    }
}

/// Looks at the arguments of every process, again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    looks: std::thread::JoinHandle<BTreeSet<String>>,
}

impl Watch {
    fn start(secrets: Vec<String>) -> Watch {
        let stop = Arc::<AtomicBool>::default();
        let until = stop.clone();
        let looks = std::thread::spawn(move || {
            let (mut found, mut seen) = (BTreeSet::new(), 0);
            while !until.load(Ordering::SeqCst) {
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    let words = String::from_utf8_lossy(&words).replace('\0', " ");
                    seen += usize::from(words.contains("greenlight"));
                    if secrets.iter().any(|secret| words.contains(secret)) {
                        found.insert(words);
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            assert!(seen > 10, "processes of the run are seen");
            found
        });
        Watch { stop, looks }
    }

    fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.looks.join().unwrap()
    }
}

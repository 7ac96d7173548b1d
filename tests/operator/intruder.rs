//! Somebody on the coordinator's machine, and somebody in blue's database, while a plan is made.

use crate::world::{Lab, SECRET, poll};
use greenlight::process::running_as_root;
use greenlight::provider::processes;
use greenlight::word::Side;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Code of the application's owner that runs wherever its schema is loaded: in the shadow it tells what it finds, and stays.
const PLANTED: &str = r#"
    CREATE FUNCTION public.tell(what text) RETURNS void LANGUAGE plpgsql AS $f$
    BEGIN
      IF current_database() LIKE 'greenlight%shadow' THEN
        EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'sh SPY/look ' || what);
      END IF;
    END $f$;
    CREATE FUNCTION public.told() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM public.tell('trigger'); RETURN NULL; END $f$;
    CREATE TRIGGER told AFTER UPDATE ON public.customers FOR EACH STATEMENT EXECUTE FUNCTION public.told();
    CREATE FUNCTION public.collect(smallint[], smallint) RETURNS smallint[] LANGUAGE plpgsql AS $f$
    BEGIN PERFORM public.tell('aggregate'); RETURN pg_catalog.array_append($1, $2); END $f$;
    CREATE AGGREGATE public.array_agg(smallint) (sfunc = public.collect, stype = smallint[]);
    CREATE FUNCTION public.same("char", "char") RETURNS boolean LANGUAGE plpgsql AS $f$
    BEGIN PERFORM public.tell('operator'); RETURN pg_catalog.chareq($1, $2); END $f$;
    CREATE OPERATOR public.= (leftarg = "char", rightarg = "char", function = public.same);
    ALTER ROLE shop_admin SET search_path = public, pg_catalog;
"#;

/// What the planted code tries. It stays behind, too.
const LOOK: &str = r"
    { id -u; env; } >SPY/$1 2>&1
    cat FILES /proc/[0-9]*/environ >SPY/stolen.$1 2>SPY/refused.$1
    setsid sleep 1000 </dev/null >/dev/null 2>&1 &
";

struct Spy(PathBuf);

impl Spy {
    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.0.join(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn as_nobody(command: &str) -> Output {
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c", command];
    Command::new("setpriv").args(words).output().unwrap()
}

/// The folder of the shadow that this user runs.
fn shadow_of(user: u32) -> PathBuf {
    let mut entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
    let is_its = |path: &PathBuf| std::fs::metadata(path.join("own")).is_ok_and(|about| about.uid() == user);
    entries.find(|path| path.to_string_lossy().ends_with("-shadow") && is_its(path)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_closed_to_everybody_and_what_runs_in_it_finds_nothing() {
    if !running_as_root() {
        return;
    }
    let lab = Lab::up().await;
    let spy = Spy(std::env::temp_dir().join(format!("greenlight-spy-{}", greenlight::word::RunId::random())));
    std::fs::create_dir(&spy.0).unwrap();
    std::fs::set_permissions(&spy.0, PermissionsExt::from_mode(0o777)).unwrap();
    let spied = spy.0.display().to_string();
    // The state directory is there already, with a journal in it.
    lab.write("shop.yaml", &lab.playbook());
    let secrets = [lab.world.pgbouncer_config(0), lab.path(".greenlight/journal.db"), lab.path("shop.yaml")];
    let files: Vec<String> = secrets.iter().map(|path| path.display().to_string()).collect();
    std::fs::write(spy.0.join("look"), LOOK.replace("SPY", &spied).replace("FILES", &files.join(" "))).unwrap();
    lab.ask(Side::Blue, &PLANTED.replace("SPY", &spied)).await;
    lab.write(
        "migrations/20260105110000_wait.up.sql",
        "UPDATE customers SET id = id WHERE false;\nSELECT pg_catalog.pg_sleep(3);\n",
    );

    let plan = lab.begin(&["plan", "shop.yaml"]);
    poll("the planted trigger has run", async || spy.0.join("refused.trigger").exists()).await;
    let user: u32 = spy.read("trigger").lines().next().unwrap().parse().unwrap();
    let folder = shadow_of(user);
    closed(&folder);
    let said = crate::world::ended(plan).await;
    assert!([0, 4].contains(&said.code), "{}\n{}", said.out, said.err);
    let words = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&format!("user number {user}, which belongs to nobody")), "the plan says it:\n{}", said.out);

    let found = spy.read("trigger");
    assert!(found.starts_with(&format!("{user}\n")), "{found}");
    let allowed =
        |name: &str| ["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name) || name.starts_with("LC_") || name.starts_with("PG");
    let names: Vec<&str> = found.lines().skip(1).filter_map(|line| line.split('=').next()).collect();
    assert!(names.iter().all(|name| allowed(name)), "only what PostgreSQL itself sets: {names:?}");
    assert!(!found.contains("another server") && !found.contains("no-such"), "{found}");
    let stolen = spy.read("stolen.trigger");
    assert!(!stolen.contains(SECRET) && !stolen.contains("[databases]") && !stolen.contains("version: 1"), "{stolen}");
    let refused = spy.read("refused.trigger");
    assert!(files.iter().all(|file| refused.contains(file)), "{refused}");
    for mark in ["aggregate", "operator"] {
        assert!(!spy.0.join(mark).exists(), "Greenlight's own questions ran the planted {mark}");
    }
    assert_eq!(processes::of_user(user), [0_u32; 0], "what it left behind is ended");
    assert!(!folder.exists());
}

/// Neither a port nor the socket lets anybody in.
fn closed(folder: &Path) {
    let own = folder.join("own");
    let about = std::fs::metadata(&own).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o700);
    assert!((60_578..61_184).contains(&about.uid()));
    let said = as_nobody(&format!("ls {0}; ls {1}; cat {1}/data/postgresql.conf", folder.display(), own.display()));
    assert!(said.stdout.is_empty() && !said.status.success(), "{said:?}");
    let said = as_nobody(&format!("psql -h {} -U greenlight -c 'SELECT 1' postgres", own.display()));
    assert!(String::from_utf8_lossy(&said.stderr).contains("Permission denied"), "{said:?}");
    let pid_file = std::fs::read_to_string(own.join("data/postmaster.pid")).unwrap();
    let lines: Vec<&str> = pid_file.lines().collect();
    assert_eq!(lines[5].trim(), "", "it listens at no address");
    // Neither what it listens on, nor its password, is to be seen.
    let pid: u32 = lines[0].parse().unwrap();
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let to = std::fs::read_link(entry.path()).ok()?.display().to_string();
            to.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .collect();
    for list in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(list).unwrap_or_default();
        let mut listening = text.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        assert!(
            !listening.any(|line| line.split_whitespace().nth(9).is_some_and(|inode| sockets.iter().any(|own| own == inode)))
        );
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(SECRET));
    let hba = std::fs::read_to_string(own.join("data/pg_hba.conf")).unwrap();
    assert!(
        hba.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).all(|line| line.ends_with("scram-sha-256"))
    );
}

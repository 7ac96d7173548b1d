//! The attacker: the application's own role, which owns the database, leaves code of its own wherever a session with more rights
//! might come upon it. Then every command runs once, and none of that code ran but as that role.

use crate::versions::can_be_had;
use crate::world::{APPROVAL, COMPLETED, Ended, KILLED, Live, REFUSED, Setup, WAITS, wait};
use greenlight::lab::free_port;
use greenlight::run::{Event, Fact};
use greenlight::word::{Endpoint, Side};
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::PathBuf};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

const FAULT: Option<i32> = Some(1);

/// Overloads of every name of `pg_catalog` that the sources hold.
const OVERLOADS: &str = include_str!("hostile/overloads.sql");
/// Everything else that such a role may make.
const OBJECTS: &str = include_str!("hostile/objects.sql");

/// What may stand in a schema that is named as ours, or where a history table is looked for.
const IN_OUR_NAME: [&str; 3] = [
    "CREATE VIEW greenlight.claim AS SELECT 'r0000000'::pg_catalog.text AS run FROM public.planted('view greenlight.claim')",
    "CREATE TABLE greenlight.claim (id int PRIMARY KEY, run pg_catalog.text NOT NULL, claimed_at timestamptz)",
    "CREATE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.planted(TG_NAME); RETURN NULL; END'",
];
const AS_HISTORY: [(&str, &str); 3] = [
    (
        "CREATE VIEW public.schema_migrations AS SELECT '1'::pg_catalog.text AS version, ''::pg_catalog.text AS checksum, \
         pg_catalog.now() AS applied_at, 1 AS execution_time_ms FROM public.planted('view schema_migrations')",
        "it is a view",
    ),
    (
        "CREATE TABLE public.schema_migrations (version varchar(50) PRIMARY KEY, applied_at timestamp, checksum varchar(64), \
         execution_time_ms int); CREATE TRIGGER evil BEFORE INSERT ON public.schema_migrations EXECUTE FUNCTION public.planted_trigger()",
        "trigger `evil` calls `planted_trigger` of role `shop_app`",
    ),
    (
        "CREATE TABLE public.schema_migrations (version varchar(50) PRIMARY KEY, applied_at timestamp, checksum varchar(64), \
         execution_time_ms int); CREATE INDEX evil ON public.schema_migrations (public.planted_constant('index'))",
        "index `evil` calls `planted_constant` of role `shop_app`",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_elses_code_runs_with_our_rights_on_postgresql_15() {
    every_command(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_elses_code_runs_with_our_rights_on_postgresql_18() {
    if can_be_had(18).await {
        every_command(18).await;
    }
}

/// A world in which the application has planted everything.
struct Hostile {
    live: Live,
    marks: PathBuf,
    playbook: String,
}

async fn every_command(major: u32) {
    let hostile = Hostile::up(major).await;
    hostile.what_bears_our_name_is_refused().await;
    hostile.history_is_a_plain_table_or_refused().await;
    hostile.backups_and_what_is_restored().await;
    hostile.a_whole_run().await;
}

impl Hostile {
    async fn up(major: u32) -> Hostile {
        let live =
            Live::up(Setup { major, pgbouncers: 1, snapshot: true, playbook: APPROVAL, wal_kept: "1GiB", ..Setup::default() })
                .await;
        let marks = live.lab.dir().join("marks");
        fs::write(&marks, "").unwrap();
        fs::set_permissions(&marks, fs::Permissions::from_mode(0o666)).unwrap();
        let text = fs::read_to_string(&live.playbook).unwrap();
        let text =
            text.replace("backfill:public.customers\"", "backfill:public.moody\", \"always-triggers:public.called.a_row\"");
        fs::write(&live.playbook, text).unwrap();
        let folder = live.lab.dir().join("migrations");
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        for (name, sql) in [
            ("1_note.up.sql", "ALTER TABLE public.customers ADD COLUMN note pg_catalog.text, ADD COLUMN more pg_catalog.text;"),
            ("1_note.down.sql", "ALTER TABLE public.customers DROP COLUMN note, DROP COLUMN more;"),
            ("2_weight.up.sql", "ALTER TABLE public.moody ADD COLUMN weight pg_catalog.int4;"),
            ("2_weight.down.sql", "ALTER TABLE public.moody DROP COLUMN weight;"),
            ("3_weigh.up.sql", "-- greenlight: batches of 2\nUPDATE public.moody SET weight = 1 WHERE :batch;"),
            ("3_weigh.down.sql", "-- greenlight: batches of 2\nUPDATE public.moody SET weight = NULL WHERE :batch;"),
        ] {
            fs::write(folder.join(name), sql).unwrap();
        }
        let playbook = live.playbook.to_str().unwrap().to_owned();
        let hostile = Hostile { live, marks, playbook };
        let own = "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname IN ('public', 'warehouse') AND c.relkind IN ('r', 'p') LOOP \
                   EXECUTE format('ALTER TABLE %s OWNER TO shop_app', t); END LOOP; END $$; \
                   ALTER SCHEMA public OWNER TO shop_app; ALTER SCHEMA warehouse OWNER TO shop_app; ALTER DATABASE shop OWNER TO shop_app";
        hostile.superuser(Side::Blue, own).await;
        let marks = hostile.marks.display().to_string();
        let names = words_of_the_sources().into_iter().collect::<Vec<_>>().join(",");
        hostile.application(&OVERLOADS.replace("{marks}", &marks).replace("{names}", &format!("'{{{names}}}'"))).await;
        hostile.application(OBJECTS).await;
        hostile.application("ALTER DATABASE shop SET search_path = public, pg_catalog").await;
        hostile.works().await;
        hostile
    }

    /// What was planted does run, and does harm, as soon as a superuser's session comes upon it.
    async fn works(&self) {
        let blue = self.live.lab.endpoint(Side::Blue);
        ask(&blue, "a careless one", "public,pg_catalog", "SELECT name 'a' = text 'a', count(1::int4), pg_table_size(1259::oid)")
            .await;
        let marks = fs::read_to_string(&self.marks).unwrap();
        for planted in ["name operator text", "count(int4)", "pg_table_size(oid)"] {
            assert!(marks.contains(planted), "`{planted}` was not planted: {marks}");
        }
        assert_eq!(self.superuser(Side::Blue, "SELECT rolsuper FROM pg_roles WHERE rolname = 'shop_app'").await, ["t"]);
        self.superuser(Side::Blue, "ALTER ROLE shop_app NOSUPERUSER").await;
        fs::write(&self.marks, "").unwrap();
    }

    async fn superuser(&self, side: Side, sql: &str) -> Vec<String> {
        ask(&self.live.lab.endpoint(side), "the test", "pg_catalog", sql).await
    }

    async fn application(&self, sql: &str) {
        ask(&self.live.lab.application(Side::Blue), "the application", "pg_catalog,public", sql).await;
    }

    /// One command, after which nobody else's code has run.
    async fn greenlight(&self, arguments: &[&str]) -> Ended {
        let ended = self.live.greenlight(arguments).await;
        let marks = fs::read_to_string(&self.marks).unwrap();
        assert_eq!(marks, "", "`greenlight {}` ran this:\n{marks}\nand said:\n{}", arguments.join(" "), ended.said);
        for side in [Side::Blue, Side::Green] {
            // Where the database is closed, another one tells.
            let at = self.live.lab.endpoint(side).with_database("postgres");
            let sql = "SELECT rolsuper FROM pg_roles WHERE rolname = 'shop_app'";
            let is_superuser = ask(&at, "the test", "pg_catalog", sql).await;
            assert_eq!(is_superuser, ["f"], "after `greenlight {}` on {side}", arguments.join(" "));
        }
        ended
    }

    async fn what_bears_our_name_is_refused(&self) {
        let url = self.live.lab.url(Side::Blue);
        for object in IN_OUR_NAME {
            self.application(&format!("CREATE SCHEMA greenlight; {object}")).await;
            for command in [
                &["plan", &self.playbook][..],
                &["run", &self.playbook, "--no-wait"],
                &["sweep", &url],
                &["sweep", &url, "--remove"],
            ] {
                let ended = self.greenlight(command).await;
                assert!([FAULT, REFUSED].contains(&ended.code), "{}", ended.said);
                ended.says("it belongs to role `shop_app`").says("DROP SCHEMA greenlight CASCADE");
            }
            self.application("DROP SCHEMA greenlight CASCADE").await;
        }
    }

    async fn history_is_a_plain_table_or_refused(&self) {
        for (object, why) in AS_HISTORY {
            self.application(object).await;
            self.greenlight(&["plan", &self.playbook]).await.expect(FAULT).says(why);
            let kind = if why.contains("view") { "VIEW" } else { "TABLE" };
            self.application(&format!("DROP {kind} public.schema_migrations")).await;
        }
    }

    async fn backups_and_what_is_restored(&self) {
        let playbook = self.playbook.as_str();
        self.greenlight(&["snapshot", "take", playbook]).await.expect(COMPLETED);
        self.greenlight(&["snapshot", "point", playbook, "before"]).await.expect(COMPLETED);
        self.superuser(Side::Blue, "INSERT INTO public.moody (mood, other) VALUES ('late', 'late')").await;
        self.application("INSERT INTO public.called (id, v, n) VALUES (301, 'v', 'n')").await;
        for command in ["take", "list", "verify", "prove", "prune"] {
            self.greenlight(&["snapshot", command, playbook]).await.expect(COMPLETED);
        }
        let into = self.live.lab.dir().join("restored").display().to_string();
        let port = free_port().to_string();
        let to = ["restore", playbook, "--to", "point:before", "--into", &into, "--port", &port];
        self.greenlight(&to).await.expect(COMPLETED);
        let (damaged, at) = (self.live.lab.url(Side::Blue), self.live.lab.endpoint(Side::Blue).port.to_string());
        let restored = damaged.replace(&format!(":{at}/"), &format!(":{port}/"));
        let out = self.live.lab.dir().join("salvaged").display().to_string();
        let salvage = ["salvage", "--damaged", &damaged, "--restored", &restored];
        self.greenlight(&salvage).await.expect(COMPLETED).says("public.moody");
        self.greenlight(&[&salvage[..], &["--out", &out]].concat()).await.expect(COMPLETED);
        // A check that the application wrote would be called for each row of one of them.
        let applied = [&salvage[..], &["--apply-to", &damaged, "--commit"]].concat();
        let said = self.greenlight(&applied).await.expect(FAULT).says("public.called: nothing of it was written");
        said.says("would run with the rights of a superuser").says("public.moody: 0 of 1 rows written");
        self.greenlight(&["restore", playbook, "--into", &into, "--discard"]).await.expect(COMPLETED);
        self.greenlight(&["snapshot", "forget", playbook, "before"]).await.expect(COMPLETED);
        self.greenlight(&["snapshot", "stop", playbook]).await.expect(COMPLETED);
    }

    /// Killed before it has promoted green, which can be used again therefore.
    async fn a_run_that_is_taken_back(&self) {
        self.live.run_with("record-after#12:kill").await.expect(KILLED);
        assert_eq!(self.superuser(Side::Green, "SELECT pg_is_in_recovery()").await, ["t"]);
        assert_eq!(self.superuser(Side::Blue, "SELECT count(*) FROM pg_publication").await, ["1"]);
        self.greenlight(&["abandon", "--no-wait"]).await.expect(COMPLETED);
        assert_eq!(self.superuser(Side::Blue, "SELECT count(*) FROM pg_publication").await, ["0"]);
    }

    async fn a_whole_run(&self) {
        let (playbook, blue, green) = (self.playbook.as_str(), self.live.lab.url(Side::Blue), self.live.lab.url(Side::Green));
        let pgbouncer = self.live.lab.admin_url(0);
        self.greenlight(&["init", "--blue", &blue, "--green", &green, "--pgbouncer", &pgbouncer]).await.expect(COMPLETED);
        self.greenlight(&["check", playbook]).await.expect(COMPLETED);
        if self.live.lab.major() == 15 {
            // Its apply workers have the rights of the subscription's owner: that is said, and not done without a word.
            let ended = self.greenlight(&["plan", playbook]).await.expect(REFUSED);
            ended.says("apply-as-superuser:public.called");
            self.application("DROP TABLE public.called").await;
        }
        self.greenlight(&["plan", playbook]).await.expect(COMPLETED);
        self.a_run_that_is_taken_back().await;
        self.greenlight(&["run", playbook, "--no-wait"]).await.expect(WAITS).says("approval");
        let looks =
            [&["status"][..], &["report"], &["journal", "show"], &["journal", "runs"], &["sweep", &blue], &["sweep", &green]];
        for look in looks {
            self.greenlight(look).await.expect(COMPLETED);
        }
        self.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
        assert_eq!(self.live.serving().await, Side::Green);
        self.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED);
        for request in ["retry", "mark-done"] {
            let number = self.greenlight(&[request, "--no-wait"]).await;
            assert_ne!(number.code, COMPLETED, "{}", number.said);
        }
        // Once before it compares again, and once before the window.
        for _ in 0..2 {
            self.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
        }
        self.greenlight(&["status"]).await.expect(COMPLETED).says("a rollback now would lose nothing");
        // It is finished once green is backed up, by whoever drives it.
        let soaking = self.live.start(&["run", playbook], "");
        let backed_up = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::Recoverable { .. }, .. });
        self.live.see_record("green is backed up", backed_up).await;
        // The backup may be an earlier process's, and this one may have only begun.
        let driven = async || !self.greenlight(&["status"]).await.said.contains("driven by nobody");
        self.live.until("somebody drives it", driven).await;
        self.greenlight(&["finish"]).await.says("finish, by");
        wait(soaking).await.expect(COMPLETED);
        for look in looks {
            let ended = self.greenlight(look).await;
            // Blue's database takes no connections any more.
            assert!(ended.code == COMPLETED || look == ["sweep", &blue], "{}", ended.said);
        }
    }
}

/// In a session of its own, with what `planted` and the names are judged by. The rows of the last statement, by their columns.
async fn ask(at: &Endpoint, application_name: &str, search_path: &str, sql: &str) -> Vec<String> {
    let mut config = Config::new();
    config.host(&at.host).port(at.port).user(&at.user).dbname(&at.database).application_name(application_name);
    config.password(at.password.as_ref().unwrap().expose()).options(format!("-c search_path={search_path}"));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("`{sql}`: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// Every word before a parenthesis: among them is every function that Greenlight's SQL calls.
fn words_of_the_sources() -> BTreeSet<String> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut words = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let called = text.split('(').map(|before| before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next());
            words.extend(called.flatten().filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    words
}

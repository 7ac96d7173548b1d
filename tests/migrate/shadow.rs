use crate::world::{World, flows_of, history, migration};
use greenlight::migrate::shadow::ShadowError;
use greenlight::migrate::{Migration, Migrator, ShadowReport};
use greenlight::postgres::catalog;
use greenlight::schema::{
    Flow, Partition, Persistence, ReplicaIdentity, TableFlow, Verdict, difference, fingerprint, sync_triggers,
};

async fn shop() -> World {
    let world = World::up().await;
    world.shop().await.batch_execute(include_str!("shop.sql")).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_tells_what_the_flow_rules_ask() {
    let world = shop().await;
    let catalog = world.catalog().await;
    let table = |name: &str| &catalog.tables[&format!("shop.{name}")];

    assert!(!catalog.tables.keys().any(|name| name.starts_with("greenlight")));
    assert!(table("item").triggers.is_empty());
    assert_eq!(catalog.schemas, ["Odd \"Schema\"", "public", "shop"]);
    assert_eq!(catalog.tables["\"Odd \"\"Schema\"\"\".\"Tä ble\""].columns[1].default.as_deref(), Some("'it''s'::text"));

    let customer = table("customer");
    let column = |name: &str| customer.column(name).unwrap();
    assert_eq!((column("id").identity.as_str(), column("id").not_null, column("id").builtin_type), ("a", true, true));
    assert_eq!((column("email").type_name.as_str(), column("email").builtin_type), ("shop.email", false));
    assert_eq!(column("Upper Case").collation.as_deref(), Some("pg_catalog.\"C\""));
    assert!(customer.triggers[0].row_level && customer.triggers[0].enabled == "O");
    assert_eq!(customer.primary_key, ["id"]);

    let item = table("item");
    assert_eq!(item.identity, ReplicaIdentity::Index("item_sku".to_owned()));
    let fit = |name: &str| item.indexes.iter().find(|index| index.name == name).unwrap().identity_columns.clone();
    assert_eq!((fit("item_sku"), fit("item_lower")), (Some(vec!["sku".to_owned()]), None));
    assert_eq!(item.column("gross").unwrap().generated.as_deref(), Some("round((price * 1.2), 2) STORED"));

    assert_eq!(table("refund").identity, ReplicaIdentity::Full);
    // A foreign key to a partitioned table is one constraint.
    assert_eq!(table("refund").constraints.len(), 1);
    assert_eq!(table("later").indexes[0].identity_columns, None);
    assert_eq!(table("cart").persistence, Persistence::Unlogged);
    assert_eq!(table("child").inherits.len(), 1);
    assert!(matches!(&table("orders").partition, Partition::Root { key } if key == "RANGE (placed)"));
    let Partition::Of { parent, root, key: None, .. } = &table("orders_old_0").partition else { panic!() };
    assert_eq!((parent.name.as_str(), root.name.as_str()), ("orders_old", "orders"));

    assert_eq!(catalog.types["shop.status"], "ENUM 'new', 'it''s paid', 'sent'");
    assert!(catalog.types["shop.email"].starts_with("DOMAIN character varying(80) NOT NULL CHECK"));
    assert_eq!(catalog.types["shop.place"], "COMPOSITE street text, \"No\" integer");
    assert!(catalog.types["shop.prices"].starts_with("RANGE numeric"));
    assert_eq!(catalog.types.len(), 4);
    assert_eq!(catalog.functions.len(), 5);
    assert!(catalog.functions["shop.longest(text)"].starts_with("AGGREGATE"));
    assert!(catalog.views["shop.totals"].materialized && catalog.views["shop.totals"].unique_index);
    let numbers = &catalog.sequences["shop.numbers"];
    assert_eq!((numbers.increment, numbers.minimum, numbers.maximum, numbers.cycle), (-5, -10, 1000, true));
    assert_eq!(catalog.sequences["shop.item_id_seq"].owned_by.as_deref(), Some("shop.item.id"));
    let others: Vec<&String> = catalog.others.keys().collect();
    assert_eq!(others, ["policy mine on shop.parent", "rule no_delete on shop.parent", "statistics shop.item_stats"]);
    assert!(catalog.extensions.contains_key("citext"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_the_same_in_the_shadow_as_on_blue() {
    let world = shop().await;
    let blue = world.catalog().await;
    let report = world.shadow(&[]).await.unwrap();
    assert_eq!(difference(&blue, &report.before), []);
    assert_eq!(fingerprint(&blue), fingerprint(&report.before));
    assert_eq!(report.before, report.after);
    assert_eq!(report.down, None);
    // Reading leaves the session as it was.
    let client = world.shop().await;
    catalog::read(&client).await.unwrap();
    client.batch_execute("CREATE TABLE shop.more (id int PRIMARY KEY)").await.unwrap();
    let now = catalog::read(&client).await.unwrap();
    let says: Vec<String> = difference(&blue, &now).iter().map(ToString::to_string).collect();
    assert_eq!(says, ["table shop.more: added"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn green_after_the_runner_is_what_the_shadow_said() {
    let world = shop().await;
    let migrations = [
        migration(
            "0001",
            "ALTER TABLE shop.customer ADD COLUMN points integer NOT NULL DEFAULT 0, ALTER nick TYPE text;
             ALTER TABLE shop.item ALTER price TYPE numeric(10, 2), ADD CHECK (sku IN ('a', 'b'));
             ALTER TABLE shop.parent DROP COLUMN a CASCADE;",
        ),
        migration("0002", "-- greenlight: no-transaction\nCREATE INDEX CONCURRENTLY ON shop.item (doc);\nVACUUM shop.item;"),
    ];
    let report = world.shadow(&migrations).await;
    // The generated column depends on the price: PostgreSQL says so, and where.
    let ShadowError::Migration(error) = report.unwrap_err() else { panic!() };
    assert_eq!((error.file.as_str(), error.line), ("0001_change.up.sql", 2));
    let mut migrations = migrations;
    migrations[0] = migration("0001", &migrations[0].up.replace("ALTER price TYPE numeric(10, 2), ", ""));
    let report = world.shadow(&migrations).await.unwrap();
    let migrator = world.migrator();
    for one in &migrations {
        migrator.apply(one, &|_, _| ()).await.unwrap();
    }
    let green = world.catalog().await;
    assert_eq!(difference(&green, &report.after), []);
    assert_eq!(fingerprint(&green), fingerprint(&report.after));
    assert!(green.tables.contains_key("\"Tool's own\".schema_migrations"));
}

/// A small world for what statements do.
async fn small() -> World {
    let world = World::up().await;
    let sql = "CREATE SCHEMA shop; ALTER DATABASE \"the \"\"Shop\"\" = dé\" SET search_path = shop;
        CREATE TABLE shop.t (id integer PRIMARY KEY, a text, \"B b\" integer, touched timestamptz);
        CREATE TABLE shop.o (id integer PRIMARY KEY, t integer REFERENCES shop.t, v text);
        CREATE TABLE shop.log (id bigserial PRIMARY KEY, what text);
        CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.touched := now(); RETURN NEW; END';
        CREATE TRIGGER touch BEFORE UPDATE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.touch();
        CREATE FUNCTION shop.log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO shop.log (what) VALUES (''x''); RETURN NULL; END';
        CREATE TRIGGER log AFTER DELETE ON shop.o FOR EACH STATEMENT EXECUTE FUNCTION shop.log();
        CREATE PROCEDURE shop.work() LANGUAGE plpgsql AS 'BEGIN UPDATE shop.t SET a = ''x''; COMMIT; DELETE FROM shop.log; END'";
    world.shop().await.batch_execute(sql).await.unwrap();
    world
}

async fn writes(world: &World, up: &str) -> Vec<String> {
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    said(&report)
}

fn said(report: &ShadowReport) -> Vec<String> {
    let writes = report.statements.iter().flat_map(|statement| &statement.writes);
    let mut said: Vec<String> = writes
        .map(|write| {
            let fires = if write.fires.is_empty() { String::new() } else { format!(" fires {}", write.fires.join(",")) };
            format!("{} {} {}{fires}", write.kind, write.table.name, write.columns.join(",")).trim().to_owned()
        })
        .collect();
    said.sort();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_sees_every_row_that_a_migration_would_write() {
    let world = small().await;
    let cases: [(&str, &[&str]); 14] = [
        ("UPDATE t SET a = 'x', \"B b\" = 1;", &["update t B b,a fires touch"]),
        ("ALTER TABLE t ADD c int; UPDATE shop.t SET c = 1;", &["update t c fires touch"]),
        (
            "ALTER TABLE t ADD c int; ALTER TABLE t DISABLE TRIGGER touch; UPDATE t SET c = 1; ALTER TABLE t ENABLE TRIGGER touch;",
            &["update t c"],
        ),
        ("ALTER TABLE t ADD c int; SET LOCAL session_replication_role = replica; UPDATE t SET c = 1;", &["update t c"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 'y';", &["insert t", "update t a fires touch"]),
        // The trigger of the statement writes too.
        ("DELETE FROM o;", &["delete o", "insert log"]),
        ("TRUNCATE o, log;", &["truncate log", "truncate o"]),
        ("WITH x AS (DELETE FROM log RETURNING *) INSERT INTO o SELECT id FROM x;", &["delete log", "insert o"]),
        (
            "DO $$ BEGIN UPDATE t SET a = 'x'; EXECUTE 'DELETE FROM o'; END $$;",
            &["delete o", "insert log", "update t a fires touch"],
        ),
        // No turn of the loop runs without rows.
        ("DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM o LOOP UPDATE t SET a = r.v; END LOOP; END $$;", &["update t a"]),
        // Both at once, where a watch for each column is in the way.
        ("DO $$ BEGIN ALTER TABLE t ALTER \"B b\" TYPE bigint; UPDATE t SET a = 'x'; END $$;", &["update t a fires touch"]),
        ("CREATE TABLE n (id int); INSERT INTO n VALUES (1); CREATE TABLE m AS SELECT * FROM o;", &["copy o shop.m"]),
        ("ALTER TABLE t ALTER \"B b\" TYPE bigint USING \"B b\" * 100;", &["convert t B b"]),
        ("SELECT * FROM t; CREATE INDEX ON t (a); ALTER TABLE o ADD CHECK (id > 0); ANALYZE t;", &[]),
    ];
    for (up, expected) in cases {
        assert_eq!(writes(&world, up).await, expected, "{up}");
    }
    // A procedure that commits for itself, outside of a transaction.
    let up = "-- greenlight: no-transaction\nCALL work();\nUPDATE o SET v = 'x';";
    assert_eq!(writes(&world, up).await, ["delete log", "update o v", "update t a fires touch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_tells_locks_rewrites_and_lines() {
    let world = small().await;
    let up = "ALTER TABLE t ADD c int;\n\nALTER TABLE t ALTER \"B b\" TYPE bigint;\nCREATE INDEX ON o (v);\nCREATE TABLE n ();";
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    let lines: Vec<u32> = report.statements.iter().map(|statement| statement.line).collect();
    assert_eq!(lines, [1, 3, 4, 5]);
    let locks = |at: usize| {
        let locks = report.statements[at].locks.iter().map(|lock| format!("{} {}", lock.table.name, lock.mode));
        locks.collect::<Vec<_>>()
    };
    assert_eq!(locks(0), ["t AccessExclusiveLock"]);
    assert_eq!(locks(2), ["o ShareLock"]);
    assert!(locks(3).is_empty());
    let rewrites = |at: usize| report.statements[at].rewrites.iter().map(|name| name.name.as_str()).collect::<Vec<_>>();
    assert!(rewrites(0).is_empty() && rewrites(1).contains(&"t") && rewrites(2).is_empty());
    assert!(report.stood_on.contains("greenlight_r0000001_shadow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_shown_with_file_line_and_statement() {
    let world = small().await;
    let cases = [
        ("SELECT 1;\nALTER TABLE t\n  ADD c int,\n  ADD d nonsense;", 4, "type \"nonsense\" does not exist"),
        ("SELECT 1;\nSELEC 2;\n", 2, "syntax error at or near \"SELEC\""),
        ("SELECT 1;\n\nDO $$ BEGIN\n RAISE EXCEPTION 'not now'; END $$;", 3, "not now"),
        ("-- greenlight: no-transaction\nALTER TABLE t ADD c int;\nALTER TABLE t ADD c int;", 3, "already exists"),
        ("SELECT 1;\nCREATE INDEX CONCURRENTLY ON t (a);", 2, "cannot run inside a transaction block"),
        (
            "CREATE TABLE n (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO n VALUES (1), (1);",
            1,
            "duplicate key",
        ),
    ];
    for (up, line, says) in cases {
        let Err(ShadowError::Migration(error)) = world.shadow(&[migration("1", up)]).await else { panic!("{up} went through") };
        assert_eq!((error.file.as_str(), error.line), ("1_change.up.sql", line), "{up}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(says), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_roles_are_made_for_the_shadow_and_removed() {
    let world = small().await;
    let up = "GRANT SELECT ON t TO \"Read er\";\nSET ROLE \"Read er\";\nALTER TABLE t ADD c int;\nUPDATE t SET c = 1;";
    let report = world.shadow(&[migration("1", up), migration("2", "SELECT 1;")]).await.unwrap();
    assert_eq!(said(&report), ["update t c fires touch"]);
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'Read er'";
    assert_eq!(world.shop().await.query_one(roles, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// A trial that was killed leaves its database and roles; the next one on that server takes them away, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_trial_left_is_taken_away_and_lent_roles_get_rights_only_where_they_lack_one() {
    let world = small().await;
    let shop = world.shop().await;
    let left = "CREATE ROLE left_over NOLOGIN; COMMENT ON ROLE left_over IS 'lent by Greenlight to the shadow of run r0000009'; \
                CREATE ROLE anothers NOLOGIN; COMMENT ON ROLE anothers IS 'lent by somebody else'; \
                CREATE ROLE a_person LOGIN; COMMENT ON ROLE a_person IS 'lent by Greenlight to the shadow of run r0000009'";
    shop.batch_execute(left).await.unwrap();
    shop.batch_execute("CREATE DATABASE greenlight_r0000009_shadow").await.unwrap();
    // The migrations tell what the lent role is.
    let is_super = "DO $$ BEGIN IF (SELECT rolsuper FROM pg_roles WHERE rolname = 'lent') IS DISTINCT FROM RIGHTS THEN \
                    RAISE 'not as expected'; END IF; END $$;";
    let up = [
        "GRANT SELECT ON t TO lent;".to_owned(),
        is_super.replace("RIGHTS", "false"),
        "SET ROLE lent;".to_owned(),
        "ALTER TABLE t ADD by_role int;".to_owned(),
        is_super.replace("RIGHTS", "true"),
    ];
    world.shadow(&[migration("1", &up.join("\n"))]).await.unwrap();
    let roles = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles \
                 WHERE rolname IN ('left_over', 'anothers', 'a_person', 'lent')";
    assert_eq!(shop.query_one(roles, &[]).await.unwrap().get::<_, String>(0), "a_person anothers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_the_shadow_has_not_got_is_named() {
    let world = small().await;
    let sql = "CREATE EXTENSION citext; UPDATE pg_extension SET extname = 'nonesuch' WHERE extname = 'citext'";
    world.shop().await.batch_execute(sql).await.unwrap();
    let Err(ShadowError::Unavailable(error)) = world.shadow(&[]).await else { panic!() };
    assert_eq!(error.attempted, "create extension `nonesuch` in the shadow");
    assert!(error.hint.unwrap().contains("install the package of `nonesuch`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_and_exchanges_are_seen_in_any_disguise() {
    let world = small().await;
    let up = "ALTER TABLE o RENAME COLUMN v TO w;
        ALTER TABLE log RENAME TO journal;
        CREATE TABLE t2 (LIKE t INCLUDING ALL); ALTER TABLE o DROP CONSTRAINT o_t_fkey; DROP TABLE t; ALTER TABLE t2 RENAME TO t;";
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    assert_eq!(report.moves.replaced.iter().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["t"]);
    assert_eq!(report.moves.renamed[0].to.name, "journal");
    assert_eq!(report.moves.columns[0].to.as_deref(), Some("w"));
    let refused = |flow: &TableFlow| matches!(flow.verdict, Verdict::Refused { .. });
    let flows = flows_of(&report);
    for name in ["log", "o", "t"] {
        assert!(refused(flows.iter().find(|flow| flow.table.name == name).unwrap()), "{flows:#?}");
    }
    let up = "ALTER TABLE t ADD a2 text; UPDATE t SET a2 = a; ALTER TABLE t DROP a; ALTER TABLE t RENAME a2 TO a;";
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    assert_eq!((report.moves.columns[0].from.as_str(), report.moves.columns[0].to.clone()), ("a", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn real_ddl_leads_to_the_flows_of_the_rules() {
    let world = shop().await;
    let up = "ALTER TABLE shop.customer ADD COLUMN tier text NOT NULL DEFAULT 'x', DROP COLUMN home;
        ALTER TABLE shop.item ALTER id TYPE numeric, DROP COLUMN doc;
        CREATE FUNCTION shop.fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.tier := upper(NEW.kind); RETURN NEW; END';
        CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.fill();
        ALTER TYPE shop.status RENAME VALUE 'sent' TO 'gone';
        DROP TABLE shop.child;
        CREATE TABLE shop.extra (id int PRIMARY KEY);";
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    let flows = flows_of(&report);
    let flow = |name: &str| flows.iter().find(|flow| flow.table.name == name).unwrap();
    let Flow::Both(customer) = &flow("customer").flow else { panic!("{:?}", flow("customer")) };
    assert_eq!(customer.forward.as_ref().unwrap().join(" "), "id email nick kind Upper Case created");
    assert_eq!(customer.reverse.as_ref().unwrap().join(" "), "id email nick kind Upper Case created");
    let Flow::Both(item) = &flow("item").flow else { panic!("{:?}", flow("item")) };
    assert_eq!(item.key, ["sku"]);
    assert_eq!(item.forward.as_ref().unwrap().join(" "), "id sku price tags during");
    assert_eq!(item.compare.iter().find(|column| column.name == "id").unwrap().cast.as_deref(), Some("numeric"));
    // A row with the old label would stop the flow.
    let Verdict::Refused { reasons } = &flow("orders").verdict else { panic!("{:?}", flow("orders")) };
    assert!(reasons.iter().any(|reason| reason.starts_with("`state`: 'sent' of `shop.status` is renamed")), "{reasons:?}");
    assert!(matches!(&flow("refund").flow, Flow::Both(refund) if refund.key.is_empty()));
    assert!(matches!(&flow("later").verdict, Verdict::Refused { reasons } if reasons[0].contains("deferrable")));
    for name in ["orders_new", "cart", "child", "extra", "schema_migrations"] {
        assert!(matches!(flow(name).flow, Flow::Out { .. }), "{name}");
    }
    let triggers = sync_triggers(&report.before, &report.after);
    assert_eq!(triggers.iter().map(|trigger| trigger.name.as_str()).collect::<Vec<_>>(), ["fill"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_down_is_tried_and_told() {
    let world = small().await;
    let with = |up: &str, down: &str| Migration { down: Some(down.to_owned()), ..migration("1", up) };
    let up = "ALTER TABLE t ADD c int;";
    let down = |report: ShadowReport| report.down.unwrap();
    let good = down(world.shadow(&[with(up, "ALTER TABLE t DROP c;")]).await.unwrap());
    assert!(good.restores, "{good:?}");
    let short = down(world.shadow(&[with(up, "SELECT 1;")]).await.unwrap());
    assert!(!short.restores && short.says.contains("column c added"), "{short:?}");
    let broken = down(world.shadow(&[with(up, "SELECT 1;\nALTER TABLE t DROP x;")]).await.unwrap());
    assert!(!broken.restores && broken.says.contains("line 2 fails"), "{broken:?}");
    assert!(history().schema.contains('\''));
}

/// A look at each table by itself would take minutes, and the test runner's limit would end it.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tables_are_read_dumped_and_judged() {
    let world = World::up().await;
    let client = world.shop().await;
    for thousand in 0..10 {
        let columns = "id bigint PRIMARY KEY, a text NOT NULL, b numeric CHECK (b > 0), c timestamptz, UNIQUE (a, c)";
        let sql = format!(
            "DO $$ BEGIN FOR n IN {thousand}000..{thousand}999 LOOP EXECUTE format('CREATE TABLE t%s ({columns})', n); END LOOP; END $$"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let catalog = catalog::read(&client).await.unwrap();
    assert_eq!(catalog.tables.len(), 10_000);
    let report = world.shadow(&[migration("1", "ALTER TABLE t5 ADD d int;\nUPDATE t5 SET d = 1;")]).await.unwrap();
    assert_eq!(fingerprint(&catalog), fingerprint(&report.before));
    assert_eq!(flows_of(&report).len(), 10_001);
}

/// A copy goes out of date as rows go on coming from blue, in whatever form it is written.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_into_a_new_table_are_seen_in_every_form() {
    let world = World::up().await;
    let base = "CREATE TABLE post (id bigint PRIMARY KEY, title text NOT NULL, score int); CREATE VIEW seen AS SELECT id, title FROM post; \
                CREATE FUNCTION each_post() RETURNS SETOF post LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT * FROM post; END $$; \
                CREATE VIEW by_call AS SELECT id FROM each_post();";
    world.shop().await.batch_execute(base).await.unwrap();
    let new = "CREATE TABLE fast (id bigint PRIMARY KEY, title text);";
    let loops =
        "DECLARE r record; BEGIN FOR r IN SELECT id, title FROM post LOOP INSERT INTO fast VALUES (r.id, r.title); END LOOP; END";
    let forms = [
        "CREATE VIEW v AS SELECT id, title FROM seen; CREATE TABLE fast AS SELECT * FROM v;".to_owned(),
        "CREATE TABLE fast AS TABLE post;".to_owned(),
        "SELECT id INTO fast FROM by_call;".to_owned(),
        "CREATE TABLE fast AS SELECT id FROM each_post();".to_owned(),
        format!("{new} DO $$ {loops} $$;"),
        format!("{new} CREATE FUNCTION mig() RETURNS void LANGUAGE plpgsql AS $$ {loops} $$; SELECT mig();"),
        format!("{new} CREATE FUNCTION pg_temp.mig() RETURNS void LANGUAGE plpgsql AS $$ {loops} $$; SELECT pg_temp.mig();"),
        format!("{new} CREATE PROCEDURE mig() LANGUAGE sql AS 'INSERT INTO fast SELECT id, title FROM post'; CALL mig();"),
        format!("{new} CREATE PROCEDURE mig() BEGIN ATOMIC INSERT INTO fast SELECT id, title FROM seen; END; CALL mig();"),
        format!("{new} DO $$ BEGIN EXECUTE 'INSERT INTO fast SELECT id, title FROM post'; END $$;"),
        "DO $$ BEGIN EXECUTE 'CREATE TABLE fast AS SELECT id, title FROM post'; END $$;".to_owned(),
        format!("CREATE TEMP TABLE t AS SELECT id, title FROM post; {new} INSERT INTO fast SELECT * FROM t;"),
        format!("{new} INSERT INTO fast VALUES (1); UPDATE fast SET title = p.title FROM post p WHERE p.id = fast.id;"),
        format!("{new} MERGE INTO fast f USING seen s ON s.id = f.id WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.title);"),
        format!("{new} WITH p AS (SELECT * FROM post) INSERT INTO fast SELECT id, title FROM p;"),
    ];
    for up in forms {
        let report = world.shadow(&[migration("1", &up)]).await.unwrap_or_else(|error| panic!("{up}: {error}"));
        let copied = |write: &greenlight::migrate::TableWrite| {
            write.table.name == "post" && write.kind == "copy" && write.columns == ["public.fast"]
        };
        let copied = report.statements.iter().flat_map(|statement| &statement.writes).any(copied);
        assert!(copied, "{up}\n{:#?}", report.statements);
        let flows = flows_of(&report);
        let post = flows.iter().find(|flow| flow.table.name == "post").unwrap();
        assert!(matches!(&post.verdict, Verdict::Refused { .. }), "{up}: {:?}", post.verdict);
    }
}

/// Writes of shared columns and of columns that only green has, where a shadow without rows never comes to them.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_go_through_functions_are_seen_and_those_that_cannot_be_read_are_said() {
    let world = World::up().await;
    let base = "CREATE TABLE orders (id bigint PRIMARY KEY, note text); \
                CREATE FUNCTION inner_one() RETURNS void LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN \
                FOR r IN SELECT id FROM orders LOOP UPDATE orders SET note = lower(note) WHERE id = r.id; END LOOP; END $$; \
                CREATE FUNCTION normalise() RETURNS void LANGUAGE sql AS 'SELECT inner_one()'; \
                CREATE FUNCTION anything(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
                IF EXISTS (SELECT FROM orders) THEN EXECUTE what; END IF; END $$";
    world.shop().await.batch_execute(base).await.unwrap();
    let reported = async |up: &str| world.shadow(&[migration("1", up)]).await.unwrap_or_else(|error| panic!("{up}: {error}"));
    let report = reported("SELECT normalise();").await;
    let write = &report.statements[0].writes[0];
    assert_eq!(
        (write.table.name.as_str(), write.kind.as_str(), write.columns.as_slice()),
        ("orders", "update", &["note".to_owned()][..])
    );
    let verdict = |report: &ShadowReport| flows_of(report).into_iter().find(|flow| flow.table.name == "orders").unwrap().verdict;
    assert!(matches!(verdict(&report), Verdict::Refused { .. }));
    let report = reported("SELECT anything('UPDATE orders SET note = upper(note)');").await;
    assert_eq!(
        report.statements[0].unread.as_deref(),
        Some("calls `anything`, which makes statements of its own, or cannot be read")
    );
    // What a definition would do later, it does not do now.
    let later = "CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO orders VALUES (1); END; CREATE VIEW v AS SELECT * FROM orders; \
                 CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO orders VALUES (new.id, new.note);";
    let report = reported(later).await;
    assert!(report.statements.iter().all(|statement| statement.writes.is_empty() && statement.unread.is_none()));
    assert_eq!(verdict(&report), Verdict::Lossless);
}

/// An apply worker has an empty search path.
#[tokio::test(flavor = "multi_thread")]
async fn functions_that_need_a_search_path_are_told_with_what_they_would_not_find() {
    let world = World::up().await;
    let base = "CREATE TABLE orders (id bigint PRIMARY KEY, note text);
        CREATE FUNCTION squeeze(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN lower($1); END $$;
        CREATE FUNCTION norm(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            RETURN lower(squeeze($1));
        END $$;
        CREATE FUNCTION outer_one(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.norm($1)';
        CREATE FUNCTION whole(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.squeeze($1)';
        CREATE FUNCTION with_path(text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = public AS 'SELECT norm($1)';
        CREATE FUNCTION parsed(x text) RETURNS text LANGUAGE sql IMMUTABLE RETURN squeeze(x);";
    world.shop().await.batch_execute(base).await.unwrap();
    let up = "CREATE FUNCTION slug() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM 1 FROM orders WHERE id = NEW.id;
            RETURN NEW;
        END $$;";
    let report = world.shadow(&[migration("1", up)]).await.unwrap();
    let told: Vec<(&str, Vec<&str>)> =
        report.blind.iter().map(|(name, missing)| (name.as_str(), missing.iter().map(String::as_str).collect())).collect();
    assert_eq!(
        told,
        [
            ("public.norm", vec!["`squeeze` in public.norm, line 6"]),
            ("public.outer_one", vec!["`squeeze` in public.norm, line 6"]),
            ("public.slug", vec!["`orders` in public.slug, line 5"]),
        ]
    );
}

/// On a server each migration has a session of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_migration_sets_is_gone_for_the_next() {
    let world = World::up().await;
    let base =
        "CREATE SCHEMA app; CREATE TABLE app.orders (id bigint PRIMARY KEY); CREATE TABLE public.orders (id bigint PRIMARY KEY);";
    world.shop().await.batch_execute(base).await.unwrap();
    let first = "SELECT pg_catalog.set_config('search_path', 'app', false); SET TIME ZONE 'America/New_York'; \
                 SET default_transaction_read_only = off; CREATE TEMP TABLE left_over (id int); ALTER TABLE orders ADD COLUMN source text;";
    let second = "ALTER TABLE public.orders ADD COLUMN zone text DEFAULT current_setting('TimeZone'); CREATE TEMP TABLE left_over (id int);";
    let third = "DO $$ BEGIN IF current_setting('search_path') = 'app' THEN RAISE 'it is still set'; END IF; END $$;";
    let report = world.shadow(&[migration("1", first), migration("2", second), migration("3", third)]).await.unwrap();
    let columns = |table: &str| report.after.tables[table].columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    assert_eq!(columns("app.orders"), ["id", "source"]);
    assert_eq!(columns("public.orders"), ["id", "zone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_wants_no_transaction_says_how_it_gets_none() {
    let world = small().await;
    let error = world.shadow(&[migration("1", "CREATE INDEX CONCURRENTLY i ON t (a);")]).await.unwrap_err();
    let ShadowError::Migration(error) = error else { panic!("{error}") };
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("cannot run inside a transaction block") && said.contains("-- greenlight: no-transaction"), "{said}");
}

/// Drawing a number from a sequence does not set it.
#[tokio::test(flavor = "multi_thread")]
async fn sequences_that_the_migrations_set_are_told() {
    let world = World::up().await;
    let base = "CREATE SEQUENCE invoice_no; CREATE SEQUENCE others; CREATE TABLE t (id serial PRIMARY KEY);";
    world.shop().await.batch_execute(base).await.unwrap();
    let set = async |up: &str| world.shadow(&[migration("1", up)]).await.unwrap().sequences_set;
    assert_eq!(set("ALTER SEQUENCE invoice_no RESTART WITH 1000000;").await, ["public.invoice_no to 1000000"]);
    assert_eq!(set("SELECT setval('others', 77);").await, ["public.others to 77"]);
    assert_eq!(set("INSERT INTO t DEFAULT VALUES; SELECT nextval('others'), nextval('others');").await, [""; 0]);
}

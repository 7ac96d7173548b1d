//! What came after the point is found, written, and brought back.

use crate::world::{Kind, LIMIT, World, ask};
use greenlight::snapshot::restore::{self, Target};
use greenlight::snapshot::salvage::{self, OnConflict, TableDifference};
use greenlight::word::Endpoint;
use std::fs;

const TABLES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE SCHEMA \"Odd\"; \
    CREATE TABLE \"Odd\".\"Line items\" (a int, b text, kept bigint REFERENCES kept, m mood, j jsonb, x bytea, f float8, \
        t timestamptz, n numeric[], twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (b, a)); \
    CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); \
    CREATE TABLE keyless (v text)";

#[tokio::test(flavor = "multi_thread")]
async fn rows_after_the_point_are_listed_written_and_applied() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.ask(TABLES).await;
    let line = |a: i32, kept: i64| {
        format!(
            "INSERT INTO \"Odd\".\"Line items\" VALUES ({a}, E'it''s \\\\ \"{a}\"\\nä', {kept}, 'sad', '{{\"a\": [1]}}', '\\x00ff', 0.1, '2026-01-05 10:00+01', '{{1.50,NULL}}')"
        )
    };
    world.ask("INSERT INTO numbered (v) VALUES ('one'), ('two'), ('three')").await;
    world.write(1).await;
    world.ask(&line(1, 1)).await;
    world.back_up().await;
    let point = world.source.create_restore_point("before the damage").await.unwrap();
    world.store.notes().record(&point).await.unwrap();
    world.write(2).await;
    world.ask(&line(2, 2)).await;
    world.ask("INSERT INTO numbered (v) VALUES ('four'); UPDATE numbered SET v = 'changed' WHERE id = 1; DELETE FROM numbered WHERE id = 3").await;
    world.archive().await;

    let place = world.place("restored");
    let plan = world.check(&Target::Point("before the damage".to_owned()), &place).await;
    let restored = world.recover(&plan).await.unwrap();
    let (damaged, restored) = (world.source.at.clone(), restored.endpoint);
    let (tables, uncompared) = salvage::tables(&damaged, &restored).await.unwrap();
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let place_of = |name: &str| names.iter().position(|found| found == name).unwrap();
    assert!(place_of("public.kept") < place_of("\"Odd\".\"Line items\""), "what is referenced comes first: {names:?}");
    assert_eq!(uncompared[0].table.to_string(), "public.keyless");

    let numbered = &tables[place_of("public.numbered")];
    let mut found = Vec::new();
    let difference = salvage::compare(numbered, &damaged, &restored, async |change: salvage::Change| {
        found.push(change.values);
        Ok(())
    });
    assert_eq!(difference.await.unwrap(), TableDifference { missing: 1, changed: 1, only_restored: 1 });
    let texts: Vec<String> = found.iter().map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join(",")).collect();
    assert_eq!(texts, ["1,changed", "4,four"]);

    restore::promote(&place, &world.source.at).await.unwrap();
    let there = "SELECT * FROM \"Odd\".\"Line items\" ORDER BY a";
    for table in &tables {
        let tried = salvage::apply(table, &damaged, &restored, &restored, OnConflict::Stop, false).await;
        assert!(tried.is_ok_and(|tried| !tried.committed) || table.name.to_string().contains("Line items"), "{}", table.name);
    }
    assert_eq!(ask(&restored, "SELECT count(*) FROM kept").await, ["1"], "a try leaves nothing");
    // Written as SQL it can be run by hand, twice.
    let mut statements = Vec::new();
    salvage::compare(numbered, &damaged, &restored, async |change: salvage::Change| {
        statements.push(salvage::sql(numbered, &[&change.values], OnConflict::Keep));
        Ok(())
    })
    .await
    .unwrap();
    let script = statements.join("; ");
    ask(&restored, &format!("{script}; {script}")).await;
    assert_eq!(ask(&restored, "SELECT v FROM numbered ORDER BY id").await, ["one", "two", "three", "four"]);
    for table in &tables {
        salvage::apply(table, &damaged, &restored, &restored, OnConflict::Overwrite, true).await.unwrap();
    }
    assert_eq!(ask(&restored, there).await, world.ask(there).await);
    assert_eq!(ask(&restored, "SELECT v FROM numbered ORDER BY id").await, ["changed", "two", "three", "four"]);
    lists_by_command_line(&world, &damaged, &restored).await;
}

async fn lists_by_command_line(world: &World, damaged: &Endpoint, restored: &Endpoint) {
    ask(restored, "DELETE FROM \"Odd\".\"Line items\" WHERE a = 2").await;
    let url = |at: &Endpoint| format!("postgresql://postgres:${{env:BLUE_PASSWORD}}@127.0.0.1:{}/postgres", at.port);
    let out = world.path("out");
    let (damaged, restored, folder) = (url(damaged), url(restored), out.display().to_string());
    let words = ["salvage", "--damaged", &damaged, "--restored", &restored, "--format", "csv", "--out", &folder];
    let output = greenlight::process::output(&mut world.bare_command(&words), LIMIT).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Line items\": 1 only on the damaged server"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let csv = fs::read_to_string(out.join("\"Odd\".\"Line items\".csv")).unwrap();
    assert!(csv.starts_with("greenlight_change,\"a\",\"b\"") && csv.contains("missing,\"2\",\"it's \\ \"\"2\"\""), "{csv}");
}

/// Two databases of one server, the second as the first was before its last rows.
async fn two_sides(world: &World) -> (Endpoint, Endpoint) {
    let damaged = world.source.at.clone();
    let restored = Endpoint { database: "restored".to_owned(), ..damaged.clone() };
    world.ask("CREATE TABLE many (id int PRIMARY KEY, v text)").await;
    world.ask("INSERT INTO many SELECT n, 'as it was' FROM generate_series(1, 100) n").await;
    world.ask("CREATE DATABASE restored TEMPLATE postgres").await;
    world.ask("INSERT INTO many SELECT n, 'new' FROM generate_series(101, 4600) n").await;
    (damaged, restored)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_carried_a_bounded_number_at_a_time_also_into_the_server_that_they_are_compared_with() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    let (damaged, restored) = two_sides(&world).await;
    let (tables, _) = salvage::tables(&damaged, &restored).await.unwrap();
    let many = tables.iter().find(|table| table.name.name == "many").unwrap();
    let tried = salvage::apply(many, &damaged, &restored, &restored, OnConflict::Stop, false).await.unwrap();
    assert_eq!((tried.missing, tried.written, tried.batches, tried.committed), (4500, 4500, 5, false));
    assert_eq!(ask(&restored, "SELECT count(*) FROM many").await, ["100"]);
    ask(&damaged, "UPDATE many SET v = 'changed' WHERE id <= 100").await;
    let kept = salvage::apply(many, &damaged, &restored, &restored, OnConflict::Overwrite, true).await.unwrap();
    assert_eq!((kept.changed, kept.written, kept.batches, kept.committed), (100, 4600, 5, true));
    assert_eq!(ask(&restored, "SELECT count(*), count(*) FILTER (WHERE v = 'changed') FROM many").await, ["4600|100"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_not_written_to_its_end_is_not_called_as_a_whole_one() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    let (damaged, restored) = two_sides(&world).await;
    let url = |at: &Endpoint| format!("postgresql://postgres:${{env:BLUE_PASSWORD}}@127.0.0.1:{}/{}", at.port, at.database);
    let (of_damaged, of_restored, folder) = (url(&damaged), url(&restored), world.path("out"));
    let out = folder.display().to_string();
    let words = ["salvage", "--damaged", &of_damaged, "--restored", &of_restored, "--table", "public.many", "--out", &out];
    // No file may become larger than this.
    let whole = world.bare_command(&words);
    let whole = whole.as_std();
    let mut small = greenlight::process::new_command(std::path::Path::new("sh"));
    small.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]).arg(whole.get_program()).args(whole.get_args());
    small.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let failed = greenlight::process::output(&mut small, LIMIT).await.unwrap();
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("public.many.sql"), "{said}");
    assert!(folder.join("public.many.sql.unfinished").exists() && !folder.join("public.many.sql").exists());
    let whole = greenlight::process::output(&mut world.bare_command(&words), LIMIT).await.unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(fs::read_to_string(folder.join("public.many.sql")).unwrap().lines().count(), 4500);
    assert!(!folder.join("public.many.sql.unfinished").exists());
}

/// What is called when a value is written as text, read, or compared; and for each row that is put in.
const STRANGERS: &str = "CREATE ROLE app LOGIN PASSWORD 'app';
    CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND current_setting('application_name') LIKE 'greenlight%'
        THEN RAISE 'a stranger ran'; END IF; RETURN 1; END $$;
    CREATE FUNCTION called() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.evil(); RETURN NEW; END $$;
    CREATE TYPE mood AS ENUM ('ok', 'bad');
    CREATE FUNCTION said(mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'Fine' || public.evil(); END $$;
    CREATE CAST (mood AS text) WITH FUNCTION said(mood) AS IMPLICIT;
    CREATE FUNCTION heard(text) RETURNS mood LANGUAGE plpgsql AS $$ BEGIN PERFORM public.evil(); RETURN 'ok'; END $$;
    CREATE CAST (text AS mood) WITH FUNCTION heard(text) AS IMPLICIT;
    CREATE TABLE moody (id int PRIMARY KEY, m mood, w int);
    CREATE TRIGGER called BEFORE INSERT OR UPDATE ON moody FOR EACH ROW EXECUTE FUNCTION called();
    ALTER TABLE moody OWNER TO app; ALTER FUNCTION evil OWNER TO app; ALTER FUNCTION called OWNER TO app;";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_applications_role_made_is_never_run_with_a_superusers_rights() {
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    world.ask(STRANGERS).await;
    let (damaged, restored) = two_sides(&world).await;
    world.ask("INSERT INTO moody VALUES (1, 'bad'), (2, 'ok'), (3, NULL)").await;
    ask(&restored, "INSERT INTO moody VALUES (1, 'ok'), (2, 'ok')").await;
    let (tables, _) = salvage::tables(&damaged, &restored).await.unwrap();
    let moody = tables.iter().find(|table| table.name.name == "moody").unwrap();
    let refused = salvage::apply(moody, &damaged, &restored, &restored, OnConflict::Overwrite, true).await.unwrap_err();
    assert!(refused.chain().contains("public.called of role `app` (trigger `called`)"), "{}", refused.chain());
    assert!(refused.hint.unwrap().contains("no superuser"));
    let owner = Endpoint { user: "app".to_owned(), password: Some(greenlight::word::Secret::new("app")), ..restored.clone() };
    let applied = salvage::apply(moody, &damaged, &restored, &owner, OnConflict::Overwrite, true).await.unwrap();
    assert_eq!((applied.missing, applied.changed, applied.committed), (1, 1, true));
    let rows = "SELECT string_agg(id || coalesce(enum_send(m)::text, 'null'), ' ' ORDER BY id) FROM moody";
    assert_eq!(ask(&restored, rows).await, world.ask(rows).await);
}

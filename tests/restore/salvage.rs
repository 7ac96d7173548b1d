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
        statements.push(salvage::sql(numbered, &change.values, OnConflict::Keep));
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
    let cast = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION shown(odd) RETURNS text LANGUAGE plpgsql AS $$ BEGIN {body} RETURN ($1).n::text; END $$"
        )
    };
    for at in [&damaged, &restored] {
        ask(at, "CREATE TYPE odd AS (n int)").await;
        ask(at, &cast("IF ($1).n = 7 THEN RAISE 'cannot be read'; END IF;")).await;
        ask(at, "CREATE CAST (odd AS text) WITH FUNCTION shown(odd)").await;
        ask(at, "CREATE TABLE shaky (id int PRIMARY KEY, o odd)").await;
    }
    ask(&damaged, "INSERT INTO shaky SELECT n, row(n)::odd FROM generate_series(1, 9) n").await;
    let url = |at: &Endpoint| format!("postgresql://postgres:${{env:BLUE_PASSWORD}}@127.0.0.1:{}/{}", at.port, at.database);
    let (of_damaged, of_restored, folder) = (url(&damaged), url(&restored), world.path("out"));
    let out = folder.display().to_string();
    let words = ["salvage", "--damaged", &of_damaged, "--restored", &of_restored, "--table", "public.shaky", "--out", &out];
    let run = async || greenlight::process::output(&mut world.bare_command(&words), LIMIT).await.unwrap();
    let failed = run().await;
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("cannot be read"));
    assert!(folder.join("public.shaky.sql.unfinished").exists() && !folder.join("public.shaky.sql").exists());
    ask(&damaged, &cast("")).await;
    let whole = run().await;
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(fs::read_to_string(folder.join("public.shaky.sql")).unwrap().lines().count(), 9);
    assert!(!folder.join("public.shaky.sql.unfinished").exists());
}

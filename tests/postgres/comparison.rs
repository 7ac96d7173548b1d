//! Rows are compared by what their types write, found by the index of their key, and nothing of somebody else's is run for it.

use crate::survey::{look, plan};
use crate::world::{World, sql};
use greenlight::plan::Plan;
use greenlight::postgres::{PgServer, PgServerOptions, Server, strangers};
use greenlight::schema::Flow;
use greenlight::validate::{Findings, all};
use greenlight::word::{Clock, Endpoint, RelationName, Side, SystemClock};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an application's role can make so that it is called where a value is written as text, compared, read or cast; each fails
/// when it is, and so would the comparison.
const STRANGERS: &str = "CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'a stranger ran'; END $$;
    CREATE TYPE mood AS ENUM ('ok', 'bad', 'odd');
    CREATE FUNCTION said(mood) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 'Fine' || evil(); END $$;
    CREATE CAST (mood AS text) WITH FUNCTION said(mood) AS IMPLICIT;
    CREATE FUNCTION read(text) RETURNS mood LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM evil(); RETURN 'ok'; END $$;
    CREATE CAST (text AS mood) WITH FUNCTION read(text) AS IMPLICIT;
    CREATE FUNCTION less(mood, mood) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN evil() = 1; END $$;
    CREATE OPERATOR < (FUNCTION = less, LEFTARG = mood, RIGHTARG = mood);
    CREATE OPERATOR <= (FUNCTION = less, LEFTARG = mood, RIGHTARG = mood);
    CREATE OPERATOR = (FUNCTION = less, LEFTARG = mood, RIGHTARG = mood);
    CREATE OPERATOR > (FUNCTION = less, LEFTARG = mood, RIGHTARG = mood);
    CREATE FUNCTION ok(anyelement) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RETURN pg_backend_pid() > 0 AND current_setting('application_name') NOT LIKE 'greenlight%' OR evil() = 1; END $$;
    CREATE DOMAIN named AS text CHECK (ok(VALUE));
    CREATE DOMAIN number AS bigint CHECK (ok(VALUE));
    CREATE TYPE pair AS (a number, b mood);
    CREATE FUNCTION apart(text, text) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT 1.0 + public.evil()';
    CREATE TYPE span AS RANGE (SUBTYPE = text, SUBTYPE_DIFF = apart);
    CREATE EXTENSION ltree; CREATE EXTENSION citext;
    CREATE COLLATION ignoring (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false);";

/// A table for each kind of key: its name, the columns, the rows. Each has a value that is not there on the other side, a row that
/// is missing, and one that is there alone; and more rows than a chunk.
const KEYS: &[(&str, &str, &str)] = &[
    ("bigint", "id bigint", "n"),
    ("text", "id text COLLATE \"C\"", "'it''s \\ ' || n"),
    ("citext", "id citext", "CASE n % 2 WHEN 0 THEN 'Ab' ELSE 'aB' END || n"),
    ("ltree", "id ltree", "('a.' || n || '.b')::ltree"),
    ("numeric", "id numeric", "n + 0.50"),
    ("float", "id float8", "n / 3.0"),
    ("uuid", "id uuid", "md5(n::text)::uuid"),
    ("bytes", "id bytea", "decode(md5(n::text), 'hex')"),
    ("bits", "id bit varying(40)", "n::bit(12)"),
    ("times", "id timestamptz", "'2026-01-01'::timestamptz + n * interval '7 minutes'"),
    ("arrays", "id int[]", "ARRAY[n, 1]"),
    ("ranges", "id int4range", "int4range(n, n + 5)"),
    ("spans", "id span", "span(n::text || 'a', n::text || 'b')"),
    ("domains", "id number", "n"),
    ("pairs", "id pair", "ROW(n, 'ok')::pair"),
    ("domain_arrays", "id number[]", "ARRAY[n]::number[]"),
    ("names", "id name", "'n' || n"),
    ("ignoring", "id text COLLATE ignoring", "'k' || n"),
    ("padded", "id char(8)", "'k' || n"),
    ("quoted", "\"I d\" mood, \"ctid \" citext, b bigint", "('{ok,bad,odd}'::mood[])[1 + n % 3], 'C' || n % 11, n"),
    ("parts", "id int", "n"),
];

/// What equal means: each value, and what is in its place on the other side.
const VALUES: &[(&str, &str, &str, bool)] = &[
    ("mood", "'ok'", "'bad'", false),
    ("named", "'a'", "'b'", false),
    ("pair", "ROW(1, 'ok')", "ROW(1, 'bad')", false),
    ("pair", "ROW(NULL, NULL)", "NULL", false),
    ("mood[]", "'{ok}'", "'{bad}'", false),
    ("span", "'[a,b)'", "'[a,b]'", false),
    ("citext", "'a'", "'A'", false),
    ("text COLLATE ignoring", "'a'", "'A'", false),
    ("numeric", "'1.0'", "'1.00'", false),
    ("float8", "'0'", "'-0'", false),
    ("float8", "'NaN'", "'nan'", true),
    ("float8", "0.1::float8 + 0.2::float8", "'0.3'", false),
    ("interval", "'1 day'", "'24 hours'", false),
    ("interval", "'1 day'", "'1 days'", true),
    ("timestamptz", "'2026-01-01 12:00+00'", "'2026-01-01 14:00+02'", true),
    ("text", "''", "NULL", false),
    ("text", "','", "'\",\"'", false),
    ("jsonb", "'{\"a\": 1, \"b\": 2}'", "'{\"b\":2,\"a\":1}'", true),
    ("json", "'{\"a\": 1}'", "'{\"a\":1}'", false),
    ("xml", "'<a/>'", "'<b/>'", false),
    ("char(3)", "'a'", "'a  '", true),
    ("bytea", "'\\x00'", "'\\x'", false),
];

struct Sides {
    _world: World,
    left: Endpoint,
    right: Endpoint,
    marker: Arc<dyn Server>,
}

/// Two databases of one server: what crosses from the one to the other is there at once.
async fn sides(major_schema: &str, encoding: &str) -> Sides {
    let world = World::blue().await;
    let made = world.endpoint(Side::Blue);
    for name in ["left", "right"] {
        sql(&made, &format!("CREATE DATABASE \"{name}\" TEMPLATE template0 {encoding}")).await;
        sql(&made.with_database(name), major_schema).await;
    }
    let (left, right) = (made.with_database("left"), made.with_database("right"));
    let server = PgServer::new(PgServerOptions { endpoint: left.clone(), ..world.options(Side::Blue) });
    server.ensure_claimed().await.unwrap();
    Sides { left, right, marker: Arc::new(server), _world: world }
}

impl Sides {
    async fn plan(&self) -> Plan {
        let (blue, mut green) = (look(&self.left).await, look(&self.right).await);
        green.in_recovery = true;
        let mut plan = plan(blue, green);
        plan.validate.chunk_rows = 7;
        plan
    }

    async fn compare(&self, plan: &Plan) -> Findings {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let validators = all(plan, [&self.left, &self.right], [&self.marker, &self.marker], &clock);
        let rows = validators.into_iter().find(|validator| validator.name() == "rows").unwrap();
        rows.check(&|_, _, _| ()).await.unwrap_or_else(|error| panic!("{}", error.chain()))
    }
}

fn by_table(findings: &Findings) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for difference in &findings.differences {
        let place = found.entry(difference.object.clone()).or_default();
        place.push(format!("{}: {}", difference.key.clone().unwrap_or_default(), difference.what));
        place.sort();
    }
    found
}

fn tables() -> String {
    let made = KEYS.iter().map(|(name, columns, rows)| {
        let key = if columns.contains(", ") { "\"I d\", \"ctid \", b" } else { "id" };
        let parts = if *name == "parts" { " PARTITION BY HASH (id)" } else { "" };
        format!(
            "CREATE TABLE k_{name} ({columns}, v text, m mood DEFAULT 'ok', PRIMARY KEY ({key})){parts};{}
             INSERT INTO k_{name} SELECT {rows}, 'v' || n FROM generate_series(1, 40) n;",
            if parts.is_empty() {
                String::new()
            } else {
                "CREATE TABLE parts_0 PARTITION OF k_parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);".to_owned()
            }
        )
    });
    let made: String = made.collect();
    let values = VALUES.iter().enumerate().map(|(no, (kind, value, _, _))| {
        let kind_name = kind.replace(" COLLATE", "").replace(['[', ']', '(', ')', ' '], "_");
        format!("CREATE TABLE v{no:02}_{kind_name} (id int PRIMARY KEY, v {kind}); INSERT INTO v{no:02}_{kind_name} VALUES (1, {value});")
    });
    made + &values.collect::<String>()
        + "CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
           INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 10) n; INSERT INTO child SELECT n, 'c' FROM generate_series(1, 10) n;"
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_differences_are_found_for_every_kind_of_key_and_value_and_no_stranger_runs() {
    let sides = sides(&format!("{STRANGERS} {}", tables()), "").await;
    let plan = sides.plan().await;
    for flow in &plan.tables {
        assert!(matches!(flow.flow, Flow::Both(_)) || flow.table.name == "parts_0", "{flow:?}");
    }
    let equal = sides.compare(&plan).await;
    assert_eq!(by_table(&equal), BTreeMap::new());
    let rows = u64::try_from(KEYS.len() * 40 + VALUES.len() + 20).unwrap();
    assert_eq!((equal.tables, equal.rows), (u64::try_from(KEYS.len() + VALUES.len() + 2).unwrap(), rows));

    // By the whole rows' texts, so that no operator of the test's own is asked.
    for (name, _, _) in KEYS {
        sql(&sides.right, &format!("UPDATE k_{name} SET m = 'bad' WHERE v = 'v8'; DELETE FROM k_{name} WHERE v = 'v40'")).await;
        sql(&sides.left, &format!("DELETE FROM k_{name} WHERE v = 'v1'")).await;
    }
    for (no, (kind, _, other, _)) in VALUES.iter().enumerate() {
        let kind_name = kind.replace(" COLLATE", "").replace(['[', ']', '(', ')', ' '], "_");
        sql(&sides.right, &format!("UPDATE v{no:02}_{kind_name} SET v = {other}")).await;
    }
    sql(&sides.right, "UPDATE ONLY parent SET v = 'other' WHERE id = 3").await;
    let found = by_table(&sides.compare(&plan).await);
    for (name, _, _) in KEYS {
        let of_table = found.get(&format!("public.k_{name}")).unwrap_or_else(|| panic!("{name}: {found:?}"));
        let whats: Vec<&str> = of_table.iter().map(|found| found.rsplit_once(": ").unwrap().1).collect();
        let mut whats = whats.clone();
        whats.sort_unstable();
        assert_eq!(whats, ["missing on green", "on green only", "other values on green"], "{name}: {of_table:?}");
    }
    for (no, (kind, value, other, same)) in VALUES.iter().enumerate() {
        let name = format!("public.v{no:02}_{}", kind.replace(" COLLATE", "").replace(['[', ']', '(', ')', ' '], "_"));
        assert_eq!(!found.contains_key(&name), *same, "{kind}: {value} and {other}: {found:?}");
    }
    assert_eq!(found["public.parent"], ["id=3: other values on green"]);
    assert!(!found.contains_key("public.child"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_in_no_encoding_are_compared_as_they_are() {
    let table = "CREATE TABLE t (id text PRIMARY KEY, v text); \
                 INSERT INTO t SELECT E'caf\\xe9 \\\\ ''' || n::text, 'v' FROM generate_series(10, 40) n";
    let sides = sides(table, "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'").await;
    let plan = sides.plan().await;
    assert_eq!(sides.compare(&plan).await.differences, []);
    sql(&sides.right, "UPDATE t SET v = E'\\xe8' WHERE id LIKE '%33'").await;
    let found = by_table(&sides.compare(&plan).await);
    assert_eq!(found["public.t"], [r"id=caf\351 \\ '33: other values on green"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_the_place_of_a_table_is_not_read() {
    let sides = sides(&format!("{STRANGERS} CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)"), "").await;
    let plan = sides.plan().await;
    sql(&sides.left, "ALTER TABLE t RENAME TO was; CREATE VIEW t AS SELECT id, evil() AS v FROM was").await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let validators = all(&plan, [&sides.left, &sides.right], [&sides.marker, &sides.marker], &clock);
    let rows = validators.into_iter().find(|validator| validator.name() == "rows").unwrap();
    let error = rows.check(&|_, _, _| ()).await.unwrap_err().chain();
    assert!(error.contains("no table of that name"), "{error}");
    let session = greenlight::postgres::content::open(
        &sides.left,
        greenlight::postgres::client::SessionOptions::ours("greenlight/test", crate::world::LIMIT, crate::world::LIMIT),
        "blue",
    )
    .await
    .unwrap();
    let error = session.read("read a view", "SELECT * FROM public.t", &[]).await.unwrap_err().chain();
    assert!(error.contains("restricted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_calls_of_a_role_that_is_no_superuser_is_seen() {
    let schema = "CREATE FUNCTION f(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1; END $$;
        CREATE FUNCTION is_good(text) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE FUNCTION eq(text, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN true; END $$;
        CREATE OPERATOR === (FUNCTION = eq, LEFTARG = text, RIGHTARG = int);
        CREATE DOMAIN good AS text CHECK (is_good(VALUE)); CREATE TYPE held AS (a good[]);
        CREATE TABLE a (id int PRIMARY KEY, v text DEFAULT f('x'), g text GENERATED ALWAYS AS (f(v)) STORED, h held, CHECK (v === 1));
        CREATE INDEX plain ON a (f(v)); CREATE INDEX folded ON a ((v || f('x')));
        CREATE STATISTICS counted ON (v || f('y')), id FROM a;
        CREATE TRIGGER always BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION t(); ALTER TABLE a ENABLE ALWAYS TRIGGER always;
        CREATE TRIGGER usual BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION t();
        CREATE TABLE none (id int PRIMARY KEY, v text CHECK (v ~ 'a'), w int DEFAULT 7);";
    let sides = sides(schema, "").await;
    let client = crate::world::app(&sides.left).await;
    assert_eq!(strangers::read(&client).await.unwrap(), [], "all of it is a superuser's");
    sql(
        &sides.left,
        "CREATE ROLE writer; ALTER FUNCTION f OWNER TO writer; ALTER FUNCTION is_good OWNER TO writer; ALTER FUNCTION t OWNER TO writer;
         ALTER FUNCTION eq OWNER TO writer",
    )
    .await;
    let found = strangers::read(&client).await.unwrap();
    assert!(found.iter().all(|stranger| stranger.table == RelationName::new("public", "a") && stranger.owner == "writer"));
    let seen: Vec<String> =
        found.iter().map(|stranger| format!("{stranger}{}", if stranger.at_planning { " (planned)" } else { "" })).collect();
    assert_eq!(
        seen,
        [
            "public.eq of role `writer` (constraint `a_v_check`)",
            "public.f of role `writer` (default of `v`)",
            "public.f of role `writer` (generated column `g`)",
            "public.f of role `writer` (index `folded`) (planned)",
            "public.f of role `writer` (index `plain`)",
            "public.f of role `writer` (statistics `counted`) (planned)",
            "public.t of role `writer` (trigger `usual`)",
            "public.t of role `writer` (trigger `always`)",
            "public.is_good of role `writer` (type of `h`)",
        ]
    );
    assert_eq!(strangers::of_writes(&client, &RelationName::new("public", "none")).await.unwrap(), []);
}

/// A view that says who runs it, and whether he could become somebody else, write, or leave something for the transaction's end.
const CURIOUS: &str = "CREATE TABLE rows_of (id int); INSERT INTO rows_of VALUES (1), (2);
    CREATE FUNCTION tried(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; RETURN 'done'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$;
    CREATE VIEW curious AS SELECT concat_ws(' ', current_user, tried('RESET ROLE'), tried('SET ROLE NONE'), tried('RESET SESSION AUTHORIZATION'),
        tried('INSERT INTO rows_of VALUES (3)'), tried('SET transaction_read_only = off'), tried('COPY rows_of TO PROGRAM ''true'''), current_user) AS who;";

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_runs_with_the_rights_to_read_and_no_other() {
    let world = World::blue().await;
    let at = world.endpoint(Side::Blue);
    sql(&at, CURIOUS).await;
    let assertion = |query: &str, expect: &str| {
        serde_json::from_value::<greenlight::plan::AssertionSpec>(
            serde_json::json!({ "name": query, "query": query, "expect": expect }),
        )
        .unwrap()
    };
    let list = [
        assertion("select count(*) from rows_of -- all", "2"),
        assertion("SELECT id FROM rows_of WHERE id = 7;", "NULL"),
        assertion("select 3", "4"),
        assertion("SELECT who FROM curious", "?"),
    ];
    let found = greenlight::validate::assertions("blue", &at, &list).check(&|_, _, _| ()).await.unwrap();
    let whats: Vec<&str> = found.differences.iter().map(|difference| difference.what.as_str()).collect();
    let who = "is pg_read_all_data 42501 42501 42501 25006 25001 42501 pg_read_all_data, not ?";
    assert_eq!(whats, ["is NULL, not NULL", "is 3, not 4", who]);
    assert_eq!(sql(&at, "SELECT count(*) FROM rows_of").await, ["2"]);
    let refused = greenlight::validate::assertions("blue", &at, &[assertion("SELECT id FROM rows_of", "1")]);
    let error = refused.check(&|_, _, _| ()).await.unwrap_err();
    assert!(error.hint.as_ref().unwrap().contains("one row of one value"), "{}", error.chain());
}

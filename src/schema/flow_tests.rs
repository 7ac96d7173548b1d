//! The rules of the flow, one case a line, on catalogues that are built by hand. `tests/migrate.rs` goes the same way
//! through real DDL.

use super::*;
use crate::migrate::TableWrite;

/// `id integer not null`, `name text default 'x'`, `total integer generated (a + b)`.
fn column(text: &str) -> Column {
    let (name, rest) = text.split_once(' ').unwrap();
    let (rest, generated) = match rest.split_once(" generated ") {
        Some((rest, expression)) => (rest, Some(expression.to_owned())),
        None => (rest, None),
    };
    let (rest, default) = match rest.split_once(" default ") {
        Some((rest, default)) => (rest, Some(default.to_owned())),
        None => (rest, None),
    };
    let (type_name, not_null) = rest.strip_suffix(" not null").map_or((rest, false), |rest| (rest, true));
    Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        builtin_type: !type_name.contains('.'),
        not_null,
        default,
        identity: String::new(),
        generated,
        collation: None,
    }
}

fn unique(name: &str, columns: &[&str]) -> Index {
    Index {
        name: name.to_owned(),
        definition: format!("CREATE UNIQUE INDEX {name} ON shop.t USING btree ({})", columns.join(", ")),
        unique: true,
        valid: true,
        identity_columns: Some(columns.iter().map(|&column| column.to_owned()).collect()),
    }
}

fn constraint(kind: &str, name: &str, definition: &str) -> Constraint {
    Constraint { name: name.to_owned(), kind: kind.to_owned(), definition: definition.to_owned(), validated: true }
}

/// Table `shop.t` with primary key `id`.
fn t(columns: &[&str]) -> Table {
    named("t", columns)
}

fn named(name: &str, columns: &[&str]) -> Table {
    Table {
        name: RelationName::new("shop", name),
        columns: ["id integer not null"].iter().chain(columns).map(|text| column(text)).collect(),
        constraints: vec![constraint("p", "t_pkey", "PRIMARY KEY (id)")],
        indexes: vec![unique("t_pkey", &["id"])],
        triggers: Vec::new(),
        identity: ReplicaIdentity::Default,
        primary_key: vec!["id".to_owned()],
        persistence: Persistence::Permanent,
        partition: Partition::None,
        inherits: Vec::new(),
        row_security: false,
        foreign: false,
    }
}

fn without_key(columns: &[&str]) -> Table {
    Table { constraints: Vec::new(), indexes: Vec::new(), primary_key: Vec::new(), ..t(columns) }
}

fn full(table: Table) -> Table {
    Table { identity: ReplicaIdentity::Full, ..table }
}

fn catalog(tables: impl IntoIterator<Item = Table>) -> Catalog {
    Catalog { tables: tables.into_iter().map(|table| (table.name.to_string(), table)).collect(), ..Catalog::default() }
}

fn options() -> FlowOptions {
    FlowOptions { accepted: Vec::new(), history: vec![RelationName::new("shop", "schema_migrations")], major: 15, frozen: false }
}

fn flow_of(before: &Catalog, after: &Catalog, seen: &Seen, options: &FlowOptions) -> TableFlow {
    flows(before, after, seen, options).into_iter().find(|flow| flow.table.name == "t").unwrap()
}

fn change(before: Table, after: Table) -> TableFlow {
    flow_of(&catalog([before]), &catalog([after]), &Seen::default(), &options())
}

fn wrote(kind: &str, columns: &[&str], fires: &[&str]) -> Seen {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let write =
        TableWrite { table: RelationName::new("shop", "t"), kind: kind.to_owned(), columns: owned(columns), fires: owned(fires) };
    Seen { writes: vec![SeenWrite { write, by: "`1_x.up.sql` line 3".to_owned() }], moves: Moves::default() }
}

/// The verdict as one word, and all its text.
fn verdict(flow: &TableFlow) -> (&'static str, String) {
    match &flow.verdict {
        Verdict::Lossless => ("lossless", String::new()),
        Verdict::LosslessWithShim { shims } => ("shim", shims.join("\n")),
        Verdict::RollbackWouldLose { what, accepted: false } => ("loses", what.join("\n")),
        Verdict::RollbackWouldLose { what, accepted: true } => ("accepted", what.join("\n")),
        Verdict::Refused { reasons } => ("refused", reasons.join("\n")),
        Verdict::NotSent { why } => ("out", why.clone()),
    }
}

fn shared(flow: &TableFlow) -> &SharedColumns {
    match &flow.flow {
        Flow::Both(shared) => shared,
        Flow::Out { because } => panic!("out: {because}, {:?}", flow.verdict),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what it is compared with is optional")]
fn list(columns: &[&str]) -> Option<Vec<String>> {
    Some(columns.iter().map(|&column| column.to_owned()).collect())
}

#[track_caller]
fn assert_verdict(flow: &TableFlow, word: &str, says: &str) {
    let (seen, text) = verdict(flow);
    assert_eq!(seen, word, "{text}");
    assert!(text.contains(says), "`{says}` is not in: {text}");
}

#[test]
fn a_table_that_does_not_change_flows_whole() {
    let flow = change(t(&["a text"]), t(&["a text"]));
    assert_verdict(&flow, "lossless", "");
    let shared = shared(&flow);
    assert_eq!((&shared.forward, &shared.reverse, shared.key.join(",")), (&None, &None, "id".to_owned()));
    assert_eq!(shared.compare.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["id", "a"]);
}

#[test]
fn an_added_column_is_left_out_on_the_way_back() {
    let flow = change(t(&["a text"]), t(&["a text", "b integer not null default 0"]));
    assert_verdict(&flow, "shim", "`b` is green's alone");
    assert_eq!((shared(&flow).forward.clone(), shared(&flow).reverse.clone()), (None, list(&["id", "a"])));
    let flow = change(t(&[]), t(&["b uuid not null default gen_random_uuid()"]));
    assert_verdict(&flow, "shim", "its values are made on green (gen_random_uuid())");
    assert_verdict(&change(t(&[]), t(&["b integer not null"])), "refused", "NOT NULL without a default");
    // A generated column is not sent by anyone, so nothing is left out.
    let flow = change(t(&["a integer"]), t(&["a integer", "b integer not null generated (a + 1) STORED"]));
    assert_verdict(&flow, "shim", "computed on green");
    assert_eq!(shared(&flow).reverse, None);
}

#[test]
fn a_dropped_column_is_left_out_on_the_way_forward() {
    let flow = change(t(&["a text", "b text default 'x'"]), t(&["a text"]));
    assert_verdict(&flow, "shim", "get the default 'x' there on blue");
    assert_eq!((shared(&flow).forward.clone(), shared(&flow).reverse.clone()), (list(&["id", "a"]), None));
    assert!(shared(&flow).relax_on_green.is_empty());
    let flow = change(t(&["a text", "b text not null"]), t(&["a text"]));
    assert_verdict(&flow, "shim", "NOT NULL is put back at a rollback only if there is no such row");
    assert_eq!((shared(&flow).relax_on_green.join(","), shared(&flow).relax_on_blue.join(",")), ("b".to_owned(), "b".to_owned()));
    let mut blue = t(&["a text", "b text not null"]);
    blue.primary_key = vec!["id".to_owned(), "b".to_owned()];
    blue.indexes = vec![unique("t_pkey", &["id", "b"])];
    let mut green = blue.clone();
    green.columns.pop();
    assert_verdict(&change(blue, green), "refused", "drops `b`, which is part of its key");
    let generated = change(t(&["a integer", "b integer generated (a + 1) STORED"]), t(&["a integer"]));
    assert_verdict(&generated, "lossless", "");
}

#[test]
fn a_dropped_column_that_rows_cannot_do_without_is_refused_or_said() {
    let mut blue = t(&["code text not null default ''::text"]);
    blue.indexes.push(unique("t_code", &["code"]));
    assert_verdict(&change(blue, t(&[])), "refused", "would collide in `t_code`");
    let mut blue = t(&["a text", "code text not null default ''::text"]);
    blue.indexes.push(unique("t_a_code", &["a", "code"]));
    assert_verdict(&change(blue, t(&["a text"])), "shim", "must be unique in blue's `t_a_code`");
    let mut blue = t(&["code text"]);
    blue.indexes.push(unique("t_code", &["code"]));
    blue.constraints.push(constraint("c", "t_code_check", "CHECK ((code IS NOT NULL))"));
    assert_verdict(&change(blue, t(&[])), "shim", "rows must pass blue's `t_code_check`");
    let mut before = catalog([t(&["mail shop.email"])]);
    before.types.insert("shop.email".to_owned(), "DOMAIN text NOT NULL".to_owned());
    let flow = flow_of(&before, &catalog([t(&[])]), &Seen::default(), &options());
    assert_verdict(&flow, "refused", "its domain `shop.email` refuses rows without it");
}

#[test]
fn generated_columns_on_one_side_only_are_told_apart() {
    let flow = change(t(&["a integer", "b integer not null"]), t(&["a integer", "b integer not null generated (a + 1) STORED"]));
    assert_verdict(&flow, "loses", "green computes and does not send");
    assert_eq!(shared(&flow).forward, list(&["id", "a"]));
    assert_eq!((shared(&flow).reverse.clone(), shared(&flow).relax_on_blue.join(",")), (None, "b".to_owned()));
    assert!(!shared(&flow).compare.iter().any(|column| column.name == "b"));
    let flow = change(t(&["a integer", "b integer generated (a + 1) STORED"]), t(&["a integer", "b integer"]));
    assert_verdict(&flow, "refused", "makes an ordinary column of `b`");
    // A narrowed list never names one.
    let flow = change(
        t(&["a integer", "g integer generated (a + 1) STORED", "x text"]),
        t(&["a integer", "g integer generated (a + 1) STORED"]),
    );
    assert_eq!(shared(&flow).forward, list(&["id", "a"]));
    let flow =
        change(t(&["a integer", "g integer generated (a + 1) STORED"]), t(&["a integer", "g integer generated (a + 2) STORED"]));
    assert_verdict(&flow, "shim", "own expression");
    assert!(!shared(&flow).compare.iter().any(|column| column.name == "g"));
}

#[test]
fn a_changed_type_is_compared_as_greens_type() {
    let flow = change(t(&["a integer"]), t(&["a bigint"]));
    assert_verdict(&flow, "shim", "flows back as text as long as every value fits blue's `integer`");
    assert_eq!(shared(&flow).compare[1].cast.as_deref(), Some("bigint"));
    assert_verdict(&change(t(&["a numeric(8,2)"]), t(&["a numeric(8,4)"])), "loses", "rounded away");
    assert_verdict(&change(t(&["a boolean"]), t(&["a integer"])), "refused", "`boolean` cannot flow into `integer`");
    let flow = change(t(&["a integer"]), t(&["a numeric(12,2)"]));
    assert_verdict(&flow, "loses", "every row written after the cutover");
    assert_eq!(shared(&flow).reverse, list(&[]));
}

#[test]
fn a_way_back_that_cannot_be_is_taken_only_by_name() {
    let accepted = FlowOptions { accepted: vec![RelationName::new("shop", "t")], ..options() };
    let (before, after) = (catalog([full(t(&["a text"]))]), catalog([full(t(&["a text", "b text"]))]));
    let flow = flow_of(&before, &after, &Seen::default(), &accepted);
    assert_verdict(&flow, "accepted", "REPLICA IDENTITY FULL is sent whole");
    assert_eq!((shared(&flow).forward.clone(), shared(&flow).reverse.clone()), (None, list(&[])));
    assert!(crate::postgres::published_reverse(std::slice::from_ref(&flow)).is_empty());
    assert_eq!(crate::postgres::published_forward(&[flow]).len(), 1);
    // What cannot flow forward is refused, whatever is accepted.
    let flow = flow_of(&catalog([full(t(&["a text"]))]), &catalog([full(t(&[]))]), &Seen::default(), &accepted);
    assert_verdict(&flow, "refused", "REPLICA IDENTITY FULL is sent whole");
    let rounded =
        flow_of(&catalog([t(&["a date"])]), &catalog([t(&["a timestamp without time zone"])]), &Seen::default(), &accepted);
    assert_verdict(&rounded, "accepted", "time of day");
    assert_eq!(shared(&rounded).reverse, None);
}

#[test]
fn before_postgresql_15_nothing_can_be_narrowed() {
    let old = FlowOptions { major: 14, ..options() };
    let flow = flow_of(&catalog([t(&["a text"])]), &catalog([t(&[])]), &Seen::default(), &old);
    assert_verdict(&flow, "refused", "PostgreSQL 15 or later");
    let flow = flow_of(&catalog([t(&[])]), &catalog([t(&["a text"])]), &Seen::default(), &old);
    assert_verdict(&flow, "loses", "PostgreSQL 15 or later");
}

#[test]
fn a_table_needs_a_replica_identity_that_both_sides_know() {
    let bare = without_key(&["a text"]);
    assert_verdict(&change(bare.clone(), bare.clone()), "refused", "REPLICA IDENTITY FULL");
    let mut with_index = without_key(&["a text not null"]);
    with_index.indexes.push(unique("t_a", &["a"]));
    assert_verdict(&change(with_index.clone(), with_index.clone()), "refused", "REPLICA IDENTITY USING INDEX \"t_a\"");
    with_index.identity = ReplicaIdentity::Index("t_a".to_owned());
    let flow = change(with_index.clone(), with_index.clone());
    assert_verdict(&flow, "lossless", "");
    assert_eq!(shared(&flow).key, ["a"]);
    assert_verdict(&change(full(bare.clone()), full(bare.clone())), "lossless", "");
    let nothing = Table { identity: ReplicaIdentity::Nothing, ..t(&[]) };
    assert_verdict(&change(nothing.clone(), nothing), "refused", "REPLICA IDENTITY DEFAULT");
    let mut deferrable = t(&[]);
    deferrable.indexes[0].identity_columns = None;
    assert_verdict(&change(deferrable.clone(), deferrable), "refused", "its primary key is deferrable");
    let mut lost = with_index.clone();
    lost.identity = ReplicaIdentity::Nothing;
    assert_verdict(&change(with_index, lost), "refused", "without a primary key or replica identity");
    let json = full(without_key(&["a json"]));
    assert_verdict(&change(json.clone(), json), "refused", "`a` of type `json` has no equality");
}

#[test]
fn a_changed_primary_key_is_refused() {
    assert_verdict(
        &change(t(&["a text"]), Table { identity: ReplicaIdentity::Full, ..without_key(&["a text"]) }),
        "refused",
        "primary key changes",
    );
    let mut green = t(&["a text not null"]);
    green.primary_key.push("a".to_owned());
    green.indexes = vec![unique("t_pkey", &["id", "a"])];
    assert_verdict(&change(t(&["a text not null"]), green), "refused", "from (id) to (id, a)");
    // Rows of blue that come whole are found by a key of columns that blue has, and not by one that it has not.
    assert_verdict(&change(full(without_key(&["a text"])), full(t(&["a text"]))), "lossless", "");
    let mut keyed = full(t(&["a text", "k uuid not null default gen_random_uuid()"]));
    keyed.primary_key = vec!["k".to_owned()];
    assert_verdict(&change(full(without_key(&["a text"])), keyed), "refused", "`k`, which is not part of the key that is sent");
}

#[test]
fn what_is_not_published_says_why() {
    let mut unlogged = t(&[]);
    unlogged.persistence = Persistence::Unlogged;
    assert_verdict(&change(unlogged.clone(), unlogged.clone()), "out", "unlogged");
    assert_verdict(&change(t(&[]), unlogged), "refused", "unlogged");
    let foreign = Table { foreign: true, ..t(&[]) };
    assert_verdict(&change(foreign.clone(), foreign), "out", "foreign");
    let before = catalog([t(&[]), named("schema_migrations", &[])]);
    let flows =
        flows(&before, &catalog([named("schema_migrations", &["x text"]), named("new", &[])]), &Seen::default(), &options());
    let says: Vec<_> = flows.iter().map(|flow| format!("{} {}", flow.table.name, verdict(flow).1)).collect();
    assert!(says[0].starts_with("new new: only green has it"), "{says:?}");
    assert!(says[1].contains("history"), "{says:?}");
    assert!(says[2].starts_with("t dropped by the migration"), "{says:?}");
}

fn partition(name: &str, bound: &str, columns: &[&str]) -> Table {
    let root = RelationName::new("shop", "t");
    Table { partition: Partition::Of { parent: root.clone(), root, bound: bound.to_owned(), key: None }, ..named(name, columns) }
}

fn root(columns: &[&str]) -> Table {
    Table { partition: Partition::Root { key: "RANGE (id)".to_owned() }, ..t(columns) }
}

#[test]
fn a_partitioned_table_flows_through_its_root() {
    let part = partition("t_1", "FOR VALUES FROM (1) TO (9)", &["a text"]);
    let before = catalog([root(&["a text"]), part.clone()]);
    let both = flows(&before, &before, &Seen::default(), &options());
    assert_verdict(&both[0], "lossless", "");
    assert_verdict(&both[1], "out", "its rows flow through shop.t");
    let more = catalog([root(&["a text"]), part.clone(), partition("t_2", "FOR VALUES FROM (9) TO (19)", &["a text"])]);
    assert_verdict(&flow_of(&before, &more, &Seen::default(), &options()), "refused", "how it is partitioned");
    assert_verdict(&change(t(&["a text"]), root(&["a text"])), "refused", "how it is partitioned");
    let odd = catalog([root(&["a text"]), full(part.clone())]);
    assert_verdict(
        &flow_of(&odd, &odd, &Seen::default(), &options()),
        "refused",
        "its partition shop.t_1 has another replica identity",
    );
    let mut check = part.clone();
    check.constraints.push(constraint("c", "big", "CHECK ((id > 5))"));
    let flow = flow_of(&before, &catalog([root(&["a text"]), check]), &Seen::default(), &options());
    assert_verdict(&flow, "shim", "check `big` on shop.t_1");
    // What is written to a partition is written to the table.
    let mut seen = wrote("delete", &[], &[]);
    seen.writes[0].write.table.name = "t_1".to_owned();
    assert_verdict(&flow_of(&before, &before, &seen, &options()), "refused", "deletes its rows on green alone");
}

#[test]
fn rules_that_one_side_has_alone_are_conditions() {
    let with = |kind: &str, name: &str, text: &str| {
        let mut table = t(&["a text"]);
        table.constraints.push(constraint(kind, name, text));
        table
    };
    let check = with("c", "a_check", "CHECK ((a <> ''::text))");
    assert_verdict(&change(t(&["a text"]), check.clone()), "shim", "rows from blue must keep green's new check `a_check`");
    assert_verdict(&change(check.clone(), t(&["a text"])), "shim", "must keep blue's check `a_check`");
    let renamed = with("c", "other", "CHECK ((a <> ''::text))");
    assert_verdict(&change(check, renamed), "lossless", "");
    let foreign = with("f", "a_fkey", "FOREIGN KEY (a) REFERENCES shop.o(id)");
    assert_verdict(&change(t(&["a text"]), foreign), "shim", "is not checked for rows that come from blue");
    let mut indexed = t(&["a text"]);
    indexed.indexes.push(unique("t_a", &["a"]));
    assert_verdict(&change(t(&["a text"]), indexed), "shim", "unique index `t_a`");
    assert_verdict(&change(t(&["a text"]), t(&["a text not null"])), "shim", "becomes NOT NULL");
    assert_verdict(&change(t(&["a text not null"]), t(&["a text"])), "shim", "no longer NOT NULL");
}

#[test]
fn rows_written_by_a_migration_flow_only_into_what_green_has_alone() {
    let (before, after) = (catalog([t(&["a text"])]), catalog([t(&["a text", "b text"])]));
    let flow = |seen: &Seen| flow_of(&before, &after, seen, &options());
    assert_verdict(&flow(&wrote("update", &["b"], &[])), "shim", "fills `b` once");
    assert_verdict(&flow(&wrote("update", &["a", "b"], &[])), "refused", "sets `a`, which blue has too");
    assert_verdict(&flow(&wrote("update", &[], &[])), "refused", "cannot be told");
    assert_verdict(&flow(&wrote("insert", &[], &[])), "refused", "`1_x.up.sql` line 3 inserts rows into it");
    assert_verdict(&flow(&wrote("truncate", &[], &[])), "refused", "empties it");
    assert_verdict(&flow(&wrote("convert", &["a"], &[])), "refused", "converts `a` by an expression");
    assert_verdict(&flow(&wrote("copy", &["shop.new"], &[])), "refused", "copies its rows into shop.new");
    let gone = flow_of(&before, &catalog([]), &wrote("copy", &["shop.new"], &[]), &options());
    assert_verdict(&gone, "refused", "copies its rows into shop.new");
}

#[test]
fn of_a_frozen_blue_everything_is_on_green_and_what_cannot_come_back_needs_a_word() {
    let frozen = FlowOptions { frozen: true, ..options() };
    let (before, after) = (catalog([t(&["a text"])]), catalog([t(&["a text", "b text"])]));
    let flow = |seen: &Seen| flow_of(&before, &after, seen, &frozen);
    assert_verdict(&flow(&wrote("update", &["b"], &[])), "shim", "");
    assert!(!verdict(&flow(&wrote("update", &["b"], &[]))).1.contains("fills"));
    let changed = flow(&wrote("update", &["a", "b"], &[]));
    assert_verdict(&changed, "loses", "`1_x.up.sql` line 3 changes `a`");
    assert_eq!(shared(&changed).compare.iter().map(|column| &column.name).collect::<Vec<_>>(), ["id"]);
    for (kind, says) in
        [("update", "changes rows"), ("insert", "inserts rows"), ("delete", "removes rows"), ("truncate", "removes rows")]
    {
        let flow = flow(&wrote(kind, &[], &[]));
        assert_verdict(&flow, "loses", says);
        assert!(shared(&flow).rewritten, "{kind}");
    }
    assert!(!shared(&flow(&wrote("copy", &["shop.new"], &[]))).rewritten);
    // What would be refused while rows come from blue keeps them from coming back, and nothing more.
    let bare = catalog([without_key(&["a text"])]);
    assert_verdict(&flow_of(&bare, &bare, &Seen::default(), &frozen), "loses", "every row written after the cutover");
    let (boolean, integer) = (catalog([t(&["a boolean"])]), catalog([t(&["a integer"])]));
    assert_verdict(&flow_of(&boolean, &integer, &Seen::default(), &frozen), "loses", "`boolean` cannot flow into `integer`");
    let accepted = FlowOptions { accepted: vec![RelationName::new("shop", "t")], ..frozen };
    assert_verdict(&flow_of(&bare, &bare, &Seen::default(), &accepted), "accepted", "");
}

#[test]
fn of_a_frozen_blue_no_condition_speaks_of_rows_that_come_from_it() {
    let frozen = FlowOptions { frozen: true, ..options() };
    let mut after = t(&["a text not null", "c integer", "n integer not null", "u uuid default gen_random_uuid()"]);
    after.constraints.push(constraint("c", "few", "CHECK (c < 9)"));
    after.triggers.push(trigger("fill", true));
    let before = catalog([t(&["a text", "c integer generated (1)", "gone integer not null"])]);
    let (kind, says) = verdict(&flow_of(&before, &catalog([after]), &Seen::default(), &frozen));
    assert_eq!(kind, "shim", "{says}");
    assert!(!says.contains("from blue") && !says.contains("on green until then") && !says.contains("made on green"), "{says}");
    for so in ["`n` is green's alone", "`c` is not sent to blue, which computes it", "it loses NOT NULL on blue"] {
        assert!(says.contains(so), "{says}");
    }
}

fn trigger(name: &str, row_level: bool) -> Trigger {
    let definition = format!("CREATE TRIGGER {name} BEFORE UPDATE ON shop.t FOR EACH ROW EXECUTE FUNCTION shop.{name}()");
    Trigger { name: name.to_owned(), definition, enabled: "O".to_owned(), row_level }
}

#[test]
fn an_old_trigger_that_fires_for_a_backfill_is_refused() {
    let mut blue = t(&["a text"]);
    blue.triggers.push(trigger("touch", true));
    let mut green = t(&["a text", "b text"]);
    green.triggers = vec![trigger("touch", true), trigger("fill", true)];
    let flow = |fires: &[&str]| {
        flow_of(&catalog([blue.clone()]), &catalog([green.clone()]), &wrote("update", &["b"], fires), &options())
    };
    assert_verdict(&flow(&["touch", "fill"]), "refused", "blue's trigger `touch` fires");
    assert_verdict(&flow(&["fill"]), "shim", "fills `b` once");
}

#[test]
fn a_new_trigger_fires_for_applied_rows_when_it_fills_what_green_alone_has() {
    let before = catalog([t(&["a text", "updated_at timestamp without time zone"])]);
    let cases = [
        ("BEGIN NEW.b := upper(NEW.a); RETURN NEW; END", true),
        ("BEGIN new.\"b\" = NEW.a; RETURN NEW; END", true),
        ("BEGIN NEW.updated_at := now(); RETURN NEW; END", false),
        ("BEGIN IF NEW.a = 'x' THEN NEW.b := 1; END IF; RETURN NEW; END", true),
        ("BEGIN IF NEW.a = 'x' THEN RAISE EXCEPTION 'NEW.b := 1'; END IF; RETURN NEW; END", false),
        ("BEGIN INSERT INTO shop.audit SELECT NEW.*; RETURN NULL; END", true),
        ("BEGIN UPDATE shop.t SET a = 1; RETURN NULL; END", false),
        ("BEGIN INSERT INTO audit VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1; RETURN NULL; END", true),
    ];
    for (body, fires) in cases {
        let mut green = t(&["a text", "updated_at timestamp without time zone", "b text"]);
        green.triggers.push(trigger("fill", true));
        let mut after = catalog([green]);
        after.functions.insert(
            "shop.fill()".to_owned(),
            format!("CREATE FUNCTION shop.fill() RETURNS trigger LANGUAGE plpgsql AS $f$ {body} $f$"),
        );
        let expected = if fires { vec!["fill".to_owned()] } else { Vec::new() };
        let found: Vec<_> = sync_triggers(&before, &after).into_iter().map(|trigger| trigger.name).collect();
        assert_eq!(found, expected, "{body}");
        let says = if fires { "fires for rows from blue too" } else { "does not fire for rows from blue" };
        assert_verdict(&flow_of(&before, &after, &Seen::default(), &options()), "shim", says);
    }
}

#[test]
fn a_rename_or_an_exchange_is_refused_however_it_looks() {
    let (before, after) = (catalog([t(&["a text"])]), catalog([t(&["b text"])]));
    let name = || RelationName::new("shop", "t");
    let moved = |moves: Moves| flow_of(&before, &after, &Seen { writes: Vec::new(), moves }, &options());
    let column = |to: Option<&str>| MovedColumn { table: name(), from: "a".to_owned(), to: to.map(str::to_owned) };
    assert_verdict(&moved(Moves { columns: vec![column(Some("b"))], ..Moves::default() }), "refused", "renames `a` to `b`");
    assert_verdict(
        &moved(Moves { columns: vec![column(None)], ..Moves::default() }),
        "refused",
        "another column in the place of `a`",
    );
    assert_verdict(
        &moved(Moves { replaced: vec![name()], ..Moves::default() }),
        "refused",
        "another table in the place of shop.t",
    );
    let renamed = vec![Renamed { from: name(), to: RelationName::new("shop", "u") }];
    assert_verdict(&moved(Moves { renamed, ..Moves::default() }), "refused", "renames shop.t to shop.u");
}

#[test]
fn equal_schemas_have_one_fingerprint_and_no_difference() {
    let mut one = catalog([t(&["a text default 'x'::text", "b integer"])]);
    one.tables.get_mut("shop.t").unwrap().constraints.push(constraint("c", "k", "CHECK (((a)::text = ANY (ARRAY['x'::text])))"));
    let mut two = catalog([t(&["b integer", "a text default 'x'::text"])]);
    two.tables.get_mut("shop.t").unwrap().constraints.push(constraint("c", "k", "CHECK ((a = ANY (ARRAY['x'])))"));
    assert_eq!(fingerprint(&one), fingerprint(&two));
    assert_eq!(difference(&one, &two), []);
    two.tables.get_mut("shop.t").unwrap().columns[1].type_name = "bigint".to_owned();
    two.sequences.clear();
    assert_ne!(fingerprint(&one), fingerprint(&two));
    let says: Vec<String> = difference(&one, &two).iter().map(ToString::to_string).collect();
    assert_eq!(says, ["table shop.t: column b changed its type from integer to bigint"]);
    let says: Vec<String> = difference(&one, &catalog([])).iter().map(ToString::to_string).collect();
    assert_eq!(says, ["table shop.t: dropped"]);
}

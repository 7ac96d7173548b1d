//! Names that need quoting and a password that needs encoding, through a whole run.

use super::world::{Lab, playbook};
use greenlight::word::{Endpoint, Secret, Side, quote_ident, quote_literal};

const DATABASE: &str = "Shop \"Ä\" 'db'; --";
const ROLE: &str = "Gräte O'Neil \"admin\"";
const PASSWORD: &str = "p@ss:w/rd %2F?#&'\"\\ $1 ü";

#[tokio::test]
async fn names_with_spaces_quotes_capitals_and_unicode_go_through_a_whole_run() {
    let lab = Lab::with(DATABASE, true).await;
    let (role, password) = (quote_ident(ROLE), quote_literal(PASSWORD));
    lab.ask(
        Side::Blue,
        &format!("SET password_encryption = 'scram-sha-256'; CREATE ROLE {role} SUPERUSER LOGIN PASSWORD {password}"),
    )
    .await;
    let table = "\"Odd \"\"Schema\"\"\".\"Täble; --\"";
    let made = format!(
        "CREATE SCHEMA \"Odd \"\"Schema\"\"\"; CREATE TABLE {table} (\"Id\" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \"sélect\" text); \
         INSERT INTO {table} (\"sélect\") SELECT 'row ' || n FROM generate_series(1, 100) n"
    );
    assert_eq!(lab.ask(Side::Blue, &made).await, "");
    lab.until(Side::Green, &format!("SELECT count(*) FROM {table}"), "100").await;
    lab.write(
        "migrations/20260105100000_odd.up.sql",
        &format!("ALTER TABLE {table} ADD COLUMN \"new Cölumn\" text NOT NULL DEFAULT 'a';\n"),
    );
    lab.write("migrations/20260105100000_odd.down.sql", &format!("ALTER TABLE {table} DROP COLUMN \"new Cölumn\";\n"));
    lab.write("password", &format!("{PASSWORD}\n"));
    lab.write("shop.yaml", &playbook(&lab.world, &url(&lab, Side::Blue), &url(&lab, Side::Green)));

    // Who connects here is not the one for whose tables the application has default privileges.
    let text = std::fs::read_to_string(lab.path("shop.yaml")).unwrap();
    assert!(text.contains("accept: ["), "{text}");
    lab.write("shop.yaml", &text.replace("accept: [", "accept: [\"unusable:public.wishlists\", "));
    lab.say(&["check", "shop.yaml"]).await.is(0, &[]);
    let said = lab.say(&["plan", "shop.yaml", "--all-tables"]).await;
    said.is(0, &["This plan can run"]);
    assert!(!format!("{}{}", said.out, said.err).contains(PASSWORD));
    lab.say(&["run", "shop.yaml", "--no-wait"]).await.is(5, &["window closed: green serves"]);
    lab.ask(Side::Green, &format!("INSERT INTO {table} (\"sélect\", \"new Cölumn\") VALUES ('after', 'b')")).await;
    lab.until(Side::Blue, &format!("SELECT count(*) FROM {table}"), "101").await;
    lab.say(&["rollback", "--no-wait"]).await.is(0, &["window closed: blue serves"]);
    assert_eq!(
        lab.ask(Side::Blue, &format!("INSERT INTO {table} (\"sélect\") VALUES ('on blue') RETURNING \"Id\" > 101")).await,
        "t"
    );
    lab.say(&["approve", "--no-wait"]).await.is(0, &["window closed: green serves"]);
    lab.say(&["finish", "--no-wait"]).await.is(0, &["green serves; blue is retired"]);
    assert_eq!(lab.ask(Side::Green, &format!("SELECT count(*) FROM {table}")).await, "102");
    let journal = std::fs::read(lab.path(".greenlight/journal.db")).unwrap();
    assert!(!String::from_utf8_lossy(&journal).contains(PASSWORD), "the password stands in the journal");
    let at = Endpoint { user: ROLE.to_owned(), password: Some(Secret::new(PASSWORD)), ..lab.world.endpoint(Side::Green) };
    assert_eq!(super::world::ask(&at, "SELECT count(*) FROM pg_subscription").await, "0");
}

fn url(lab: &Lab, side: Side) -> String {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let (file, port) = (lab.path("password"), lab.world.endpoint(side).port);
    format!("postgresql://{}:${{file:{}}}@127.0.0.1:{port}/{}?sslmode=disable", encoded(ROLE), file.display(), encoded(DATABASE))
}

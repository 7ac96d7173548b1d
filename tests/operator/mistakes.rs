//! What a person gets wrong: each is said, with what to do about it, and nothing is changed.

use super::world::{Lab, Said, UNTOUCHED, exists, playbook};
use greenlight::word::Side;

#[tokio::test]
async fn what_is_wrong_with_a_playbook_or_a_server_is_said_and_nothing_is_changed() {
    let lab = Lab::up().await;
    // All of them, so that one text that changed does not hide the others.
    let mut wrong = Vec::new();
    connections(&lab, &mut wrong).await;
    another_cluster(&lab, &mut wrong).await;
    migrations(&lab, &mut wrong).await;
    routes(&lab, &mut wrong).await;
    state_directories(&lab, &mut wrong).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(lab.traces().await, UNTOUCHED);
    assert!(!exists(&lab.path(".greenlight")), "a run was begun");
}

/// Planned and run, it comes to this exit code and says these texts; the passwords of the lab never.
async fn refused(lab: &Lab, wrong: &mut Vec<String>, playbook: &str, code: i32, texts: &[&str]) {
    lab.write("wrong.yaml", playbook);
    for command in ["plan", "run"] {
        let said = lab.say(&[command, "wrong.yaml"]).await;
        compare(wrong, &said, code, texts);
        let password = lab.world.endpoint(Side::Blue).password.unwrap();
        assert!(!format!("{}{}", said.out, said.err).contains(password.expose()), "a password was said");
    }
}

fn compare(wrong: &mut Vec<String>, said: &Said, code: i32, texts: &[&str]) {
    let missing: Vec<&&str> = texts.iter().filter(|text| !said.err.contains(**text)).collect();
    if said.code != code || !missing.is_empty() {
        wrong.push(format!("exit code {} for {code}, without {missing:?}:\n{}", said.code, said.err));
    }
}

async fn connections(lab: &Lab, wrong: &mut Vec<String>) {
    let blue = lab.world.endpoint(Side::Blue);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let elsewhere = lab.playbook().replacen(&format!(":{}/", blue.port), &format!(":{nobody}/"), 1);
    refused(lab, wrong, &elsewhere, 1, &["could not connect to blue", "try: nothing listens there"]).await;
    lab.write("wrong-password", "not-it");
    let false_file = format!("${{file:{}}}", lab.path("wrong-password").display());
    let right = format!("${{file:{}/passwords/shop_admin}}", lab.world.dir().display());
    let text = lab.playbook();
    assert!(text.contains(&right));
    refused(
        lab,
        wrong,
        &text.replace(&right, &false_file),
        1,
        &["could not connect to blue", "password authentication failed", "try: the password is wrong"],
    )
    .await;
    let missing = text.replacen("/shop?", "/shopp?", 2);
    refused(lab, wrong, &missing, 1, &["database \"shopp\" does not exist", "try: look at the database's name"]).await;
    let json = lab.say(&["plan", "wrong.yaml", "--output", "json"]).await.json();
    assert_eq!((json["exit_code"].as_i64(), json["hint"].is_string()), (Some(1), true), "{json}");
    // The application is no superuser.
    let poor = text.replace("//shop_admin:", "//shop_app:").replace("passwords/shop_admin", "passwords/shop_app");
    refused(lab, wrong, &poor, 4, &["superuser:blue", "is not a superuser", "nothing was changed. Next:"]).await;
}

async fn another_cluster(lab: &Lab, wrong: &mut Vec<String>) {
    let other = Lab::with("shop", false).await;
    let text = playbook(&lab.world, &lab.world.url(Side::Blue), &other.world.url(Side::Blue));
    refused(lab, wrong, &text, 4, &["same-cluster"]).await;
    let itself = playbook(&lab.world, &lab.world.url(Side::Blue), &lab.world.url(Side::Blue));
    lab.write("wrong.yaml", &itself);
    compare(wrong, &lab.say(&["check", "wrong.yaml"]).await, 3, &["same"]);
    let reversed = playbook(&lab.world, &lab.world.url(Side::Green), &lab.world.url(Side::Blue));
    refused(lab, wrong, &reversed, 4, &["blue-primary"]).await;
}

async fn migrations(lab: &Lab, wrong: &mut Vec<String>) {
    std::fs::create_dir(lab.path("broken")).unwrap();
    lab.write(
        "broken/0001_colour.up.sql",
        "CREATE TABLE colours (id bigint PRIMARY KEY);\n\nALTER TABLE orders ADD COLUM colour text;\n",
    );
    lab.write("broken/0001_colour.down.sql", "DROP TABLE colours;\n");
    let text = lab.playbook().replace("dir: migrations", "dir: broken");
    refused(
        lab,
        wrong,
        &text,
        4,
        &["0001_colour.up.sql", "line 3", "could not run", "syntax error", "try: mend it and plan again"],
    )
    .await;
    std::fs::create_dir(lab.path("none")).unwrap();
    refused(lab, wrong, &lab.playbook().replace("dir: migrations", "dir: none"), 3, &["wrong.yaml:9:", "none"]).await;
}

async fn routes(lab: &Lab, wrong: &mut Vec<String>) {
    let text = lab.playbook();
    let admin = lab.world.admin_url(0);
    let application = lab.world.through_url(0).replace("/shop?", "/pgbouncer?");
    refused(lab, wrong, &text.replace(&admin, &application), 4, &["route:main", "admin_users"]).await;
    let unknown = text.replace("database: \"shop\"", "database: \"shopp\"");
    refused(lab, wrong, &unknown, 3, &["`routes.pgbouncer.probe`", "write `shopp`"]).await;
    // No file to rewrite.
    let file = lab.world.pgbouncer_config(0).display().to_string();
    lab.write("wrong.yaml", &text.replace(&file, "/nowhere/pgbouncer.ini"));
    let said = lab.say(&["plan", "wrong.yaml"]).await;
    compare(wrong, &said, 3, &["/nowhere/pgbouncer.ini"]);
}

async fn state_directories(lab: &Lab, wrong: &mut Vec<String>) {
    lab.write("shop.yaml", &lab.playbook());
    std::fs::create_dir(lab.path("newer")).unwrap();
    let journal = rusqlite::Connection::open(lab.path("newer/journal.db")).unwrap();
    journal.execute_batch(greenlight_tables()).unwrap();
    journal.pragma_update(None, "user_version", 99).unwrap();
    drop(journal);
    let said = lab.say(&["--state", "newer", "run", "shop.yaml", "--no-wait"]).await;
    compare(wrong, &said, 9, &["could not use a state directory of format 99", "try: use the Greenlight that wrote it"]);
    lab.write("file", "");
    let said = lab.say(&["--state", "file", "run", "shop.yaml", "--no-wait"]).await;
    compare(wrong, &said, 9, &["could not open the journal", "try:"]);
}

fn greenlight_tables() -> &'static str {
    include_str!("../../src/journal/tables.sql")
}

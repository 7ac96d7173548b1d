//! What a person gets wrong: each is said, with what to do about it, and nothing is changed.

use super::world::{Lab, UNTOUCHED, exists, playbook};
use greenlight::word::Side;

#[tokio::test]
async fn what_is_wrong_with_a_playbook_or_a_server_is_said_and_nothing_is_changed() {
    let lab = Lab::up().await;
    connections(&lab).await;
    another_cluster(&lab).await;
    migrations(&lab).await;
    routes(&lab).await;
    state_directories(&lab).await;
    assert_eq!(lab.traces().await, UNTOUCHED);
    assert!(!exists(&lab.path(".greenlight")), "a run was begun");
}

/// Planned and run, it comes to this exit code and says these texts; the passwords of the lab never.
async fn refused(lab: &Lab, playbook: &str, code: i32, texts: &[&str]) {
    lab.write("wrong.yaml", playbook);
    for command in ["plan", "run"] {
        let said = lab.say(&[command, "wrong.yaml"]).await;
        said.is(code, texts);
        let password = lab.world.endpoint(Side::Blue).password.unwrap();
        assert!(!format!("{}{}", said.out, said.err).contains(password.expose()), "a password was said");
    }
}

async fn connections(lab: &Lab) {
    let blue = lab.world.endpoint(Side::Blue);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let elsewhere = lab.playbook().replacen(&format!(":{}/", blue.port), &format!(":{nobody}/"), 1);
    refused(lab, &elsewhere, 1, &["could not connect to blue", "try: nothing listens there"]).await;
    lab.write("wrong-password", "not-it");
    let wrong = format!("${{file:{}}}", lab.path("wrong-password").display());
    let right = format!("${{file:{}/passwords/shop_admin}}", lab.world.dir().display());
    let text = lab.playbook();
    assert!(text.contains(&right));
    refused(
        lab,
        &text.replace(&right, &wrong),
        1,
        &["could not connect to blue", "password authentication failed", "try: the password is wrong"],
    )
    .await;
    let missing = text.replacen("/shop?", "/shopp?", 2);
    refused(lab, &missing, 1, &["database \"shopp\" does not exist", "try: look at the database's name"]).await;
    let json = lab.say(&["plan", "wrong.yaml", "--output", "json"]).await.json();
    assert_eq!((json["exit_code"].as_i64(), json["hint"].is_string()), (Some(1), true), "{json}");
    // The application is no superuser.
    let poor = text.replace("//shop_admin:", "//shop_app:").replace("passwords/shop_admin", "passwords/shop_app");
    refused(lab, &poor, 4, &["superuser:blue", "is not a superuser", "nothing was changed. Next:"]).await;
}

async fn another_cluster(lab: &Lab) {
    let other = Lab::with("shop", false).await;
    let text = playbook(&lab.world, &lab.world.url(Side::Blue), &other.world.url(Side::Blue));
    refused(lab, &text, 4, &["same-cluster", "green-standby"]).await;
    let itself = playbook(&lab.world, &lab.world.url(Side::Blue), &lab.world.url(Side::Blue));
    lab.write("wrong.yaml", &itself);
    lab.say(&["check", "wrong.yaml"]).await.is(3, &["blue and green are the same"]);
    let reversed = playbook(&lab.world, &lab.world.url(Side::Green), &lab.world.url(Side::Blue));
    refused(lab, &reversed, 4, &["blue-primary"]).await;
}

async fn migrations(lab: &Lab) {
    std::fs::create_dir(lab.path("broken")).unwrap();
    lab.write(
        "broken/0001_colour.up.sql",
        "CREATE TABLE colours (id bigint PRIMARY KEY);\n\nALTER TABLE orders ADD COLUM colour text;\n",
    );
    lab.write("broken/0001_colour.down.sql", "DROP TABLE colours;\n");
    let text = lab.playbook().replace("dir: migrations", "dir: broken");
    refused(lab, &text, 4, &["0001_colour.up.sql", "line 3", "syntax error", "nothing was changed"]).await;
    std::fs::create_dir(lab.path("none")).unwrap();
    refused(lab, &lab.playbook().replace("dir: migrations", "dir: none"), 3, &["wrong.yaml:8:", "none"]).await;
}

async fn routes(lab: &Lab) {
    let text = lab.playbook();
    let admin = lab.world.admin_url(0);
    let application = lab.world.through_url(0).replace("/shop?", "/pgbouncer?");
    refused(lab, &text.replace(&admin, &application), 4, &["route:main", "admin_users"]).await;
    let unknown = text.replace("database: \"shop\"", "database: \"shopp\"");
    refused(lab, &unknown, 4, &["route:main", "`shopp`"]).await;
    // No file to rewrite.
    let file = lab.world.pgbouncer_config(0).display().to_string();
    lab.write("wrong.yaml", &text.replace(&file, "/nowhere/pgbouncer.ini"));
    let said = lab.say(&["plan", "wrong.yaml"]).await;
    assert!([3, 4].contains(&said.code), "{said:?}");
    said.is(said.code, &["/nowhere/pgbouncer.ini"]);
}

async fn state_directories(lab: &Lab) {
    lab.write("shop.yaml", &lab.playbook());
    std::fs::create_dir(lab.path("newer")).unwrap();
    let journal = rusqlite::Connection::open(lab.path("newer/journal.db")).unwrap();
    journal.execute_batch(greenlight_tables()).unwrap();
    journal.pragma_update(None, "user_version", 99).unwrap();
    drop(journal);
    let said = lab.say(&["--state", "newer", "run", "shop.yaml", "--no-wait"]).await;
    said.is(9, &["could not use a state directory of format 99", "try: use the Greenlight that wrote it"]);
    lab.write("file", "");
    lab.say(&["--state", "file", "run", "shop.yaml", "--no-wait"]).await.is(9, &["could not open the journal", "try:"]);
}

fn greenlight_tables() -> &'static str {
    include_str!("../../src/journal/tables.sql")
}

//! A step that fails and waits for a person, Ctrl-C twice, and a run whose journal is lost.

use super::world::{Lab, UNTOUCHED, ended, poll, signal};
use greenlight::word::Side;

#[tokio::test]
async fn a_stuck_step_is_tried_again_done_by_hand_or_taken_back() {
    let lab = Lab::up().await;
    lab.write("shop.yaml", &lab.playbook());
    // The shadow has no rows, so that only green's can be in the way.
    lab.write(
        "migrations/20260105100000_no_zoe.up.sql",
        "ALTER TABLE customers ADD CONSTRAINT no_zoe CHECK (email <> 'zoe@example.com');\n",
    );
    lab.write("migrations/20260105100000_no_zoe.down.sql", "ALTER TABLE customers DROP CONSTRAINT no_zoe;\n");
    let zoe = "UPDATE customers SET email = 'zoe@example.com' WHERE id = (SELECT min(id) FROM customers)";
    lab.ask(Side::Blue, zoe).await;

    // It waits with the run, and says at once what for.
    let waiting = lab.begin(&["run", "shop.yaml"]);
    poll("the run is stuck", async || lab.say(&["status"]).await.out.contains("migrate green      stuck")).await;
    signal(&waiting, "INT");
    let said = ended(waiting).await;
    let (before, _) = said.is(130, &[]).err.split_once("stopping after").expect("the interrupt is answered");
    for text in
        ["20260105100000_no_zoe.up.sql", "is violated by some row", "Held for a person", "greenlight retry", "greenlight abandon"]
    {
        assert!(before.contains(text), "`{text}` was not said before the interrupt:\n{before}");
    }

    lab.say(&["retry", "--no-wait"]).await.is(6, &["another try, by ", "failed:", "Held for a person", "mark-done"]);
    lab.say(&["mark-done", "--step", "6"]).await.is(2, &["say why: `--reason"]);
    lab.say(&["mark-done", "--step", "5", "--reason", "x"]).await.is(2, &["step 5 is not stuck"]);
    lab.ask(Side::Blue, "UPDATE customers SET email = 'zoey@example.com' WHERE email = 'zoe@example.com'").await;
    lab.until(Side::Green, "SELECT count(*) FROM customers WHERE email = 'zoe@example.com'", "0").await;
    let said = lab.say(&["retry", "--no-wait", "--reason", "renamed her"]).await;
    said.is(0, &["renamed her", "migrated 20260105100000 no_zoe", "blue follows green"]);

    let said = lab.say(&["abandon", "--no-wait", "--reason", "enough"]).await;
    said.is(0, &["going back, by ", "enough", "blue serves as before", "must be built anew"]);
    let said = lab.say(&["status"]).await;
    said.is(
        0,
        &["rolled back; blue serves", "left behind on green", "window             taken back", "finish             never begun"],
    );
    lab.say(&["report"]).await.is(0, &["failed: could not run", "another try", "left behind\n  on green"]);
}

#[tokio::test]
async fn a_lost_run_is_swept_from_both_servers_and_blue_is_as_before() {
    let lab = Lab::up().await;
    lab.write("shop.yaml", &lab.playbook().replace("soak:", "gates:\n  before_window: {approval: true}\nsoak:"));
    interrupted_while_planning(&lab).await;
    lab.say(&["run", "shop.yaml", "--no-wait"]).await.is(5, &[]);
    let part = lab.say(&["--state", "other", "run", "shop.yaml"]).await;
    part.is(4, &["refused by preflight", "claimed: Blue is part of run", "greenlight sweep", "nothing was changed"]);
    std::fs::remove_dir_all(lab.path(".greenlight")).unwrap();
    for side in [Side::Blue, Side::Green] {
        let url = lab.world.url(side);
        lab.say(&["sweep", &url]).await.is(0, &["schema greenlight", "nothing was changed. Next: be sure"]);
        // One thing that cannot be removed keeps no other.
        lab.ask(side, "CREATE DATABASE greenlight_r0000000_shadow IS_TEMPLATE true").await;
        lab.say(&["sweep", &url, "--remove"]).await.is(1, &["remove database greenlight_r0000000_shadow", "template"]);
        let left = lab.say(&["sweep", &url, "--output", "json"]).await.json()["leftovers"].clone();
        assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
        lab.ask(side, "ALTER DATABASE greenlight_r0000000_shadow IS_TEMPLATE false").await;
        lab.say(&["sweep", &url, "--remove"]).await.is(0, &["removed from", "Next: the same for the run's other server"]);
        lab.say(&["sweep", &url]).await.is(0, &["no lost run left anything"]);
    }
    assert_eq!(lab.traces().await, "blue 0|0|0|t|f|t; green 0|0|0|t|f|t");
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%greenlight%'";
    assert_eq!((lab.ask(Side::Blue, triggers).await, lab.ask(Side::Green, triggers).await), ("0".to_owned(), "0".to_owned()));
}

/// Planning starts a throwaway server for the shadow: it goes with the command.
async fn interrupted_while_planning(lab: &Lab) {
    let planning = lab.begin(&["run", "shop.yaml"]);
    let pid = planning.id().unwrap().to_string();
    poll("something was started", async || has_children(&pid)).await;
    signal(&planning, "INT");
    ended(planning).await.is(130, &["interrupted while planning; nothing was changed"]);
    assert_eq!(lab.traces().await, UNTOUCHED);
}

fn has_children(pid: &str) -> bool {
    let parent_of = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1).map(str::to_owned));
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.any(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        parent_of(stat).as_deref() == Some(pid)
    })
}

#[tokio::test]
async fn a_second_interrupt_ends_the_coordinator_at_once_and_leaves_nobody_paused() {
    let lab = Lab::up().await;
    // So much time that no slow machine comes to the end of either.
    let window = "window:\n  max_pause: 60s\n  long_transactions: {older_than: 1h, then: wait}";
    let text = lab.playbook().replace("window:", window).replace("soak:", "gates:\n  before_window: {approval: true}\nsoak:");
    lab.write("shop.yaml", &text);
    lab.say(&["run", "shop.yaml", "--no-wait"]).await.is(5, &[]);
    // A transaction inside the pooler holds PAUSE, and so the window, open for as long as we like.
    let (client, connection) = connect(&lab).await;
    tokio::spawn(connection);
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let approving = lab.begin(&["approve"]);
    poll("the window is open", async || lab.say(&["journal", "show"]).await.out.contains("window 1 opened")).await;
    // A terminal that goes away ends nothing, and what comes at once is one word.
    for name in ["HUP", "INT", "INT", "TERM"] {
        signal(&approving, name);
    }
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    signal(&approving, "INT");
    let said = ended(approving).await;
    said.is(130, &["stopped at once", "its guard closes it", "`greenlight run` looks"]);
    client.batch_execute("COMMIT").await.unwrap();
    drop(client);
    // Nobody waits for a RESUME that does not come, and blue serves.
    poll("the route answers", async || super::world::ask(&lab.world.through(0), "SELECT 1").await == "1").await;
    poll("the guard has closed the window", async || lab.say(&["journal", "show"]).await.out.contains("by the guard")).await;
    lab.say(&["status"]).await.is(0, &["blue serves"]);
    lab.say(&["run", "--no-wait"]).await.is(5, &["window closed: green serves"]);
}

async fn connect(
    lab: &Lab,
) -> (tokio_postgres::Client, tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>) {
    let at = lab.world.through(0);
    let mut config = tokio_postgres::Config::new();
    config.host(&at.host).port(at.port).user(&at.user).dbname(&at.database).password(at.password.unwrap().expose());
    config.connect(tokio_postgres::NoTls).await.unwrap()
}

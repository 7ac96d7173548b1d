//! One run by hand, command by command, from the first playbook to the finish.

use super::world::{Lab, UNTOUCHED, ended, exists, poll, signal};
use greenlight::word::Side;

#[tokio::test]
async fn every_command_says_what_is_true_now_and_what_can_be_done_next() {
    let lab = Lab::up().await;
    first_playbook(&lab).await;
    planning(&lab).await;
    let run = to_the_gate(&lab).await;
    two_coordinators(&lab, &run).await;
    forth_and_back(&lab, &run).await;
    looking(&lab, &run).await;
    sweeping_nothing_that_lives(&lab, &run).await;
    finishing(&lab, &run).await;
}

async fn first_playbook(lab: &Lab) {
    let world = &lab.world;
    let (blue, green, admin) = (world.url(Side::Blue), world.url(Side::Green), world.admin_url(0));
    let said = lab.say(&["init", "--blue", &blue, "--green", &green, "--pgbouncer", &admin]).await;
    said.is(0, &["name: shop", "database: shop", &world.pgbouncer_config(0).display().to_string(), "nothing was changed. Next:"]);
    let text = said.out.replace("# accept:", "accept: [no-archive, \"backfill:public.customers\"]");
    lab.write("shop.yaml", &text.replace("max_lag: 1MiB", "max_lag: 4MiB"));
    lab.say(&["check", "shop.yaml"]).await.is(0, &["shop.yaml is in order. Next: `greenlight plan shop.yaml`"]);
    let json = lab.say(&["--output", "json", "init", "--blue", &blue, "--green", &green]).await.json();
    assert!(json["playbook"].as_str().unwrap().contains("FILL IN: the admin console"), "{json}");
}

async fn planning(lab: &Lab) {
    let json = lab.say(&["plan", "shop.yaml", "--output", "json"]).await.json();
    let digest = json["digest"].as_str().unwrap();
    lab.say(&["plan", "shop.yaml"]).await.is(0, &["This plan can run", digest, &format!("--plan {}", &digest[..12])]);
    lab.say(&["plan", "shop.yaml", "--mermaid"]).await.is(0, &["flowchart"]);
    lab.say(&["run", "shop.yaml", "--plan", "0123456789ab"]).await.is(4, &["the plan is now", "nothing was changed"]);
    let said = lab.say(&["run", "shop.yaml", "--plan", "0123456789ab", "--output", "json"]).await;
    assert_eq!((&said.json()["code"], &said.json()["exit_code"]), (&"other_plan".into(), &4.into()));
    lab.say(&["run", "shop.yaml", "--plan", "012"]).await.is(2, &["at least 8 hexadecimal digits"]);
    let said = lab.say(&["run", "shop.yaml", "--dry-run"]).await;
    said.is(0, &["what is there by looking", "prepare blue       to do; nothing of it is there", "nothing was changed"]);
    // Who only looks leaves no state directory behind.
    for command in ["status", "approve", "report", "run"] {
        lab.say(&[command]).await.is(2, &["there is no run in the state directory `.greenlight`", "greenlight run PLAYBOOK"]);
    }
    lab.say(&["journal", "runs"]).await.is(0, &["0 runs"]);
    assert!(!exists(&lab.path(".greenlight")));
    assert_eq!(lab.traces().await, UNTOUCHED);
}

async fn to_the_gate(lab: &Lab) -> String {
    let said = lab.say(&["run", "shop.yaml", "--no-wait"]).await;
    said.is(5, &["[10/12] window waits for an approval", "blue serves", "`greenlight approve", "Nobody drives the run now"]);
    let json = lab.say(&["status", "--output", "json"]).await.json();
    assert_eq!((&json["serving"], &json["outcome"]), (&"blue".into(), &serde_json::Value::Null));
    assert_eq!(json["way_back"]["state"], "not_needed");
    let run = json["run"].as_str().unwrap().to_owned();
    lab.say(&["rollback"]).await.is(2, &["blue serves: there is nothing to roll back", "nothing was changed", "Next:"]);
    lab.say(&["finish"]).await.is(2, &["there is nothing to finish yet"]);
    lab.say(&["retry"]).await.is(2, &["no step of the run has failed"]);
    lab.say(&["mark-done", "--step", "3", "--reason", "x"]).await.is(2, &["step 3 is not stuck"]);
    for unknown in ["nosuch", "r0000000"] {
        lab.say(&["status", unknown]).await.is(2, &[&format!("is called `{unknown}`"), "greenlight journal runs"]);
    }
    // By the beginning of its id, and by its playbook's name.
    for name in [&run[..4], "shop"] {
        lab.say(&["status", name, "--offline"]).await.is(0, &[&format!("run {run} of `shop`")]);
    }
    lab.say(&["run", "--dry-run"]).await.is(0, &["migrate green      done; some of it may be there"]);
    lab.say(&["run", "--plan", "0123456789ab"]).await.is(4, &["the open run", "greenlight abandon"]);
    run
}

/// Two on one run: the second is refused and told who holds it; what people ask reaches the first.
async fn two_coordinators(lab: &Lab, run: &str) {
    let first = lab.begin(&["run", "shop.yaml"]);
    let holder = format!("pid {} on", first.id().unwrap());
    poll("the first holds the run", async || lab.say(&["status", "--offline"]).await.out.contains(&holder)).await;
    let said = lab.say(&["run"]).await;
    said.is(8, &["could not take the run over", &holder, "try: the run goes on there"]);
    let said = lab.say(&["approve", "--reason", "seen the figures", "--no-wait"]).await;
    assert!(!said.err.contains("ceo"), "whoever types is known by the system, not by the environment:\n{}", said.err);
    said.is(0, &["asked the coordinator", &holder, "approved by ", "seen the figures", "window closed: green serves"]);
    said.is(0, &["green serves since", "after a pause of", "nothing lost", "`greenlight finish", "`greenlight rollback"]);
    signal(&first, "INT");
    let said = ended(first).await;
    said.is(
        130,
        &["going on with run", "stopping after the present act", "interrupted, in good order", "Nobody drives the run now"],
    );
    // It waited with the run, so it said what for and what helps.
    said.is(130, &[&format!("`greenlight finish {run}` ends the soak")]);
}

async fn forth_and_back(lab: &Lab, run: &str) {
    let json = lab.say(&["status", "--output", "json"]).await.json();
    assert_eq!((json["serving"].as_str(), json["way_back"]["state"].as_str()), (Some("green"), Some("lossless")), "{json}");
    let said = lab.say(&["rollback", run, "--by", "Zoë", "--reason", "slow", "--no-wait"]).await;
    said.is(
        0,
        &[
            "going back, by Zoë (as claimed by ",
            "window closed: blue serves",
            "green follows blue again",
            "waiting for an approval",
        ],
    );
    said.is(0, &["blue serves since", "after a pause of", "nothing lost", "Nobody drives the run now"]);
    assert!(!said.err.contains("waiting for going on"), "{}", said.err);
    let watch = lab.begin(&["status", "--watch", "--output", "json"]);
    // Past the validation, which waits since the rollback, and then through the window's own gate.
    let said = lab.say(&["approve", "--no-wait"]).await;
    said.is(0, &["[10/12] window waits for an approval", "step 9, validate green, is done"]);
    lab.say(&["approve"]).await.is(0, &["window closed: green serves"]);
    signal(&watch, "KILL");
    let watched = ended(watch).await.out;
    let first = watched.lines().next().expect("it shows what is so at once");
    assert!(serde_json::from_str::<serde_json::Value>(first).is_ok(), "{first}");
}

async fn looking(lab: &Lab, run: &str) {
    let said = lab.say(&["report"]).await;
    said.is(
        0,
        &[
            "open; green serves",
            "commit point",
            "validation\n  20",
            "migrations\n  2026",
            "going back, by Zoë (as claimed by ",
            "left behind\n  nothing",
        ],
    );
    assert_eq!(said.out.matches("\nwindow at ").count(), 3, "{}", said.out);
    let said = lab.say(&["report", run, "--markdown"]).await;
    said.is(
        0,
        &[
            "# Run",
            "## Windows",
            "| green serves after a pause of",
            "## Validation\n\n- 2",
            "## Deviations from the plan\n\n- 2",
            "## Timeline",
        ],
    );
    let json = lab.say(&["report", "--output", "json"]).await.json();
    assert_eq!(json["windows"].as_array().unwrap().len(), 3);
    assert_eq!(json["windows"][1]["serving"], "blue");
    assert!(json["windows"][0]["phases"].as_array().unwrap().iter().any(|phase| phase["name"] == "drain"));
    assert_eq!(json["migrations"].as_array().unwrap().len(), 4);
    let json = lab.say(&["journal", "show", "--output", "json"]).await.json();
    assert_eq!(json[0]["event"]["event"], "run_created");
    lab.say(&["journal", "show"])
        .await
        .is(0, &["    1  20", "created by pid", "window 3 opened, towards green", "green serves; run"]);
    lab.say(&["journal", "runs"]).await.is(0, &[run, "open", "1 run in `.greenlight`, 1 open"]);
    let said = lab.say(&["status", "--log", "json"]).await;
    for line in said.err.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    for secret in [lab.world.endpoint(Side::Blue), lab.world.admin(0)] {
        let password = secret.password.unwrap().expose().to_owned();
        let journal = std::fs::read(lab.path(".greenlight/journal.db")).unwrap();
        assert!(!String::from_utf8_lossy(&journal).contains(&password), "a password stands in the journal");
    }
}

/// Another state directory knows nothing of the run; the servers do.
async fn sweeping_nothing_that_lives(lab: &Lab, run: &str) {
    let blue = lab.world.url(Side::Blue);
    lab.say(&["sweep", &blue]).await.is(0, &[&format!("of run {run} stay"), "nothing was changed"]);
    let driver = lab.begin(&["run"]);
    lab.until(
        Side::Blue,
        &format!("SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'greenlight/{run}/%'"),
        "t",
    )
    .await;
    let said = lab.say(&["--state", "elsewhere", "sweep", "--remove", &blue]).await;
    said.is(1, &["a coordinator of that run is connected", "greenlight abandon"]);
    signal(&driver, "TERM");
    ended(driver).await.is(130, &["interrupted, in good order"]);
    let said = lab.say(&["--state", "elsewhere", "sweep", &blue, "--output", "json"]).await;
    let kinds: Vec<_> = said.json()["leftovers"].as_array().unwrap().iter().map(|left| left["kind"].clone()).collect();
    assert_eq!(kinds, ["subscription", "slot", "publication", "schema"]);
    said.is(0, &["nothing was changed. Next: be sure"]);
    assert!(!exists(&lab.path("elsewhere")));
}

async fn finishing(lab: &Lab, run: &str) {
    let said = lab.say(&["finish", "--no-wait"]).await;
    said.is(0, &["finish, by ", &format!("run {run} is completed"), "green serves; blue is retired", "greenlight report"]);
    lab.say(&["status", "--watch"]).await.is(0, &["completed; green serves"]);
    lab.say(&["finish"]).await.is(2, &["no run is open", "is over", "greenlight report"]);
    lab.say(&["sweep", &lab.world.url(Side::Green)]).await.is(0, &["nothing was changed: no lost run left anything"]);
    // Retired for good: nobody is let in, and the error says why that may be.
    lab.say(&["sweep", &lab.world.url(Side::Blue)]).await.is(1, &["not currently accepting connections", "try: a run fences"]);
}

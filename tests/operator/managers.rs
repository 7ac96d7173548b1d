//! Managers of high availability: seen in the plan, and what they do to a run is said at once and never waited for.

use super::world::{Lab, connected_as, ended, poll, signal};
use greenlight::word::Side;

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_at_work_is_refused_and_a_demoted_green_is_said_and_can_be_left() {
    let lab = Lab::up().await;
    lab.write(
        "shop.yaml",
        &lab.playbook()
            .replace("soak:", "gates:\n  before_window: {approval: true}\nsoak:")
            .replace("wal_kept: 20GiB", "wal_kept: 2GiB"),
    );
    the_plan_refuses_what_it_sees(&lab).await;

    let driver = lab.begin(&["run", "shop.yaml"]);
    poll("it waits", async || lab.say(&["status", "--offline"]).await.out.contains("waits for an approval")).await;
    // As Patroni does with a server that it did not promote itself.
    lab.world.crash(Side::Green);
    let green = lab.world.server(Side::Green);
    std::fs::write(green.data_dir.join("standby.signal"), "").unwrap();
    lab.world.start(Side::Green).await.unwrap();
    poll("it is noticed", async || lab.say(&["status", "--offline"]).await.out.contains("green is a standby again")).await;
    let said = lab.say(&["approve"]).await;
    said.is(6, &["green is a standby again", "Held for a person", "greenlight abandon"]);
    lab.say(&["abandon"]).await.is(0, &["blue served all the time, nothing lost", "blue serves as before"]);
    signal(&driver, "INT");
    let said = ended(driver).await;
    assert!(said.err.contains("noticed: green is a standby again"), "{}", said.err);
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical') + (SELECT count(*) FROM pg_publication) \
                + (SELECT count(*) FROM pg_subscription), to_regnamespace('greenlight') IS NULL";
    assert_eq!(lab.ask(Side::Blue, left).await, "0|t");
}

/// The very traces that managers leave, on real servers.
async fn the_plan_refuses_what_it_sees(lab: &Lab) {
    lab.say(&["plan", "shop.yaml"]).await.is(0, &["Nothing shows a manager of high availability"]);
    for (side, name, manager) in [
        (Side::Green, "Patroni", "Patroni manages green"),
        (Side::Blue, "Patroni restapi", "Patroni manages blue"),
        (Side::Green, "repmgrd", "repmgr manages green"),
        (Side::Green, "cnpg_metrics_exporter", "CloudNativePG manages green"),
        (Side::Blue, "pg_auto_failover monitor health check worker", "pg_auto_failover manages blue"),
    ] {
        let session = connected_as(&lab.world.endpoint(side), name).await;
        lab.say(&["plan", "shop.yaml"]).await.is(4, &[manager, "demotes green", "is not supported yet", "nothing was changed"]);
        drop(session);
        let there = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
        lab.until(side, &there, "0").await;
    }
    let folder = lab.world.server(Side::Green).data_dir;
    for (file, manager) in [
        ("patroni.dynamic.json", "Green bears the marks of Patroni"),
        ("postgresql-auto-failover.conf", "Green bears the marks of pg_auto_failover"),
    ] {
        std::fs::write(folder.join(file), "").unwrap();
        lab.say(&["plan", "shop.yaml"]).await.is(4, &[manager, &format!("file `{file}`")]);
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    lab.ask(Side::Blue, "SELECT pg_create_physical_replication_slot('repmgr_slot_2')").await;
    lab.say(&["plan", "shop.yaml"]).await.is(4, &["Blue bears the marks of repmgr", "repmgr_slot_2"]);
    lab.ask(Side::Blue, "SELECT pg_drop_replication_slot('repmgr_slot_2')").await;
}

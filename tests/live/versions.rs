//! A whole run on each version of PostgreSQL: to green, back, to green again, finish.

use crate::world::{COMPLETED, Live, Setup, WAITS, ask, installed};
use greenlight::lab::Outcome;
use greenlight::word::{Endpoint, Side};

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_15_is_cut_over_taken_back_and_cut_over_again() {
    whole_run(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_16_is_cut_over_taken_back_and_cut_over_again() {
    whole_run(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_17_is_cut_over_taken_back_and_cut_over_again() {
    whole_run(17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_18_is_cut_over_taken_back_and_cut_over_again() {
    whole_run(18).await;
}

/// Whether a run on this version can be tested here; says so where it cannot.
pub(crate) async fn can_be_had(major: u32) -> bool {
    let found = installed().await;
    let missing =
        found.server(major).is_err() || found.client("pg_basebackup", major).is_err() || found.client("pg_dump", major).is_err();
    if missing {
        eprintln!("NOT TESTED: a whole run on PostgreSQL {major}, whose server or client tools are not on this machine");
    }
    !missing
}

async fn whole_run(major: u32) {
    if !can_be_had(major).await {
        return;
    }
    let mut live = Live::up(Setup { major, ..Setup::default() }).await;
    let (blue, green) = (live.lab.endpoint(Side::Blue), live.lab.endpoint(Side::Green));
    live.start_writing().await;

    live.run().await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(100).await;
    live.greenlight(&["status"]).await.expect(COMPLETED).says("a rollback now would lose nothing");

    live.greenlight(&["rollback", "--no-wait", "--reason", "a drill"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(100).await;

    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(100).await;

    live.greenlight(&["finish", "--no-wait"]).await.expect(COMPLETED);
    live.see_writes(50).await;
    let report = live.nothing_is_lost(Side::Green).await;
    assert_eq!(report.count(Outcome::Acknowledged), report.requests.len(), "clients saw {:?}", report.errors);

    // The shop's migrations, and nothing of ours.
    let columns = "select attname from pg_attribute where attrelid = 'customers'::regclass and attname = 'search_name'";
    assert_eq!(ask(&green, columns).await, ["search_name"]);
    assert_eq!(
        ask(&green, "select count(*) from customers where search_name is distinct from lower(name || ' ' || email)").await,
        ["0"]
    );
    let ours = "select slot_name::text from pg_replication_slots union all select subname::text from pg_subscription
                union all select roname::text from pg_replication_origin";
    let here =
        "select pubname::text from pg_publication union all select nspname::text from pg_namespace where nspname = 'greenlight'
                union all select tgname::text from pg_trigger where tgname like 'greenlight%'";
    assert_eq!(ask(&green, &format!("{ours} union all {here}")).await, Vec::<String>::new(), "left behind on green");
    // Blue is retired: nobody may write to it by mistake.
    let blue = Endpoint { database: "postgres".to_owned(), ..blue };
    assert_eq!(ask(&blue, ours).await, Vec::<String>::new(), "left behind on blue");
    assert_eq!(ask(&blue, "select datallowconn from pg_database where datname = 'shop'").await, ["f"]);
}

//! A whole run on each version of PostgreSQL: to green, back, to green again, finish.

use crate::world::{COMPLETED, Live, Setup, WAITS, ask, installed, try_connect};
use greenlight::lab::Outcome;
use greenlight::word::{Endpoint, Side};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

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

/// Clients that write to green by every means from before its promotion on.
struct Hammer {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<(u32, u32)>>,
}

impl Hammer {
    fn start(green: &Endpoint) -> Hammer {
        let stop = Arc::<AtomicBool>::default();
        let client = |_| {
            let (green, stop) = (green.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut got_in, mut refused) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    // Its sessions are ended, and it comes again.
                    let Ok(client) = try_connect(&green).await else { continue };
                    while !client.is_closed() && !stop.load(Ordering::SeqCst) {
                        let write = "BEGIN READ WRITE; INSERT INTO reviews (product_id, customer_id, stars, body) VALUES (1, 1, 5, 'hammered'); COMMIT";
                        match client.batch_execute(write).await {
                            Ok(()) => got_in += 1,
                            Err(_) => refused += 1,
                        }
                        let _ = client.batch_execute("ROLLBACK").await;
                    }
                }
                (got_in, refused)
            })
        };
        let clients = (0..3).map(client).collect();
        Hammer { stop, clients }
    }

    async fn never_got_in(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            let (got_in, refused) = client.await.unwrap();
            assert!(got_in == 0 && refused > 0, "{got_in} writes got in, {refused} were refused");
        }
    }
}

async fn whole_run(major: u32) {
    if !can_be_had(major).await {
        return;
    }
    let playbook = "gates:\n  before_migrate: {approval: true}\n";
    let mut live = Live::up(Setup { major, playbook, ..Setup::default() }).await;
    let (blue, green) = (live.lab.endpoint(Side::Blue), live.lab.endpoint(Side::Green));
    live.start_writing().await;
    // Green has a setting of its own where the run's mark is put.
    ask(&green, "ALTER SYSTEM SET max_standby_archive_delay = '45s'").await;
    ask(&green, "SELECT pg_reload_conf()").await;

    let hammer = Hammer::start(&live.lab.application(Side::Green));
    live.run().await.expect(WAITS);
    hammer.never_got_in().await;
    assert_eq!(ask(&green, "SELECT count(*) FROM reviews WHERE body = 'hammered'").await, ["0"]);
    assert_eq!(ask(&green, "SHOW max_standby_archive_delay").await, ["45s"]);
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
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

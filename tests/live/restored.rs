//! A restored server takes blue's place: by itself when a change in place fails, or by a person's hand.

use crate::inplace::{die_until, up_with, with_a_failing_one};
use crate::world::{COMPLETED, HELD, Live, REFUSED, ROLLED_BACK, USAGE, ask, connect, routes};
use greenlight::lab::{LedgerReport, World};
use greenlight::run::{Event, Fact, StepNo};
use greenlight::word::{Side, Timestamp};
use std::collections::HashSet;

/// Lines of a playbook that may take a change back by a restore.
pub(crate) fn restoring(lab: &World, on_failure: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "green: {{url: {}, restore: {{data_dir: {}}}}}\nroutes:\n{}window: {{max_pause: 2s}}\non_failure: {on_failure}\n\
         accept: [\"lock:public.orders\", restore-loses-writes]\n",
        quoted(&lab.url(Side::Green)),
        quoted(lab.dir().join("restored").to_str().unwrap()),
        routes(lab),
    )
}

impl Live {
    /// When the run's restore point was not there yet, and when it was.
    pub(crate) async fn named_its_point(&self) -> (Timestamp, Timestamp) {
        let records = self.records().await;
        let at = |wanted: &dyn Fn(&Event) -> bool| records.iter().find(|record| wanted(&record.event)).unwrap().at;
        let is_point = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::RestorePoint { .. }, .. });
        let claims = |event: &Event| matches!(event, Event::StepStarted { step: StepNo(1), .. });
        (at(&claims), at(&is_point))
    }

    async fn moved_at(&self) -> Timestamp {
        let records = self.records().await;
        let opened = |event: &Event| matches!(event, Event::FactLearned { fact: Fact::WindowOpened { .. }, .. });
        records.iter().rev().find(|record| opened(&record.event)).unwrap().at
    }

    /// Every acknowledged write from before the restore point is on green, and none from after it until the writer moved; those
    /// are on blue.
    pub(crate) async fn is_as_at_the_point(&self, report: &LedgerReport, (before, after): (Timestamp, Timestamp)) {
        let moved = self.moved_at().await;
        let not_on_green: HashSet<(i32, i64)> = report.lost(&self.lab.endpoint(Side::Green)).await.unwrap().into_iter().collect();
        let not_on_blue: HashSet<(i32, i64)> = report.lost(&self.lab.endpoint(Side::Blue)).await.unwrap().into_iter().collect();
        assert!(not_on_green.is_disjoint(&not_on_blue), "lost on both");
        let acknowledged = report.requests.iter().filter(|request| request.outcome == greenlight::lab::Outcome::Acknowledged);
        let (mut early, mut between, mut late) = (0, 0, 0);
        for request in acknowledged {
            let ended = request.started + jiff::SignedDuration::try_from(request.latency).unwrap();
            let missing = not_on_green.contains(&(request.client, request.seq));
            if ended < before {
                early += 1;
                assert!(!missing, "from before the point, and not on green");
            } else if request.started > after && ended < moved {
                between += 1;
                assert!(missing, "from after the point, and on green");
            } else if request.started > moved && !not_on_blue.contains(&(request.client, request.seq)) {
                assert!(missing, "on both sides");
            } else if request.started > moved {
                late += 1;
            }
        }
        assert!(early > 20 && between > 20 && late > 20, "{early} before, {between} between, {late} after");
    }

    /// Blue can be read, and not written to.
    pub(crate) async fn blue_is_kept_closed(&self) {
        let blue = connect(&self.lab.endpoint(Side::Blue)).await;
        assert!(!crate::world::rows(&blue, "SELECT count(*) FROM orders").await.is_empty());
        let refused = blue.batch_execute("UPDATE orders SET status = status WHERE id = 1").await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("has fenced this server"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_change_in_place_is_taken_back_by_a_restore_under_its_clients() {
    a_failed_change_is_taken_back(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_change_in_place_is_taken_back_by_a_restore_on_18() {
    a_failed_change_is_taken_back(18).await;
}

async fn a_failed_change_is_taken_back(major: u32) {
    sees_it_taken_back(up_with(major, &with_a_failing_one(false), |lab| restoring(lab, "restore")).await).await;
}

/// The change fails under clients, who are then moved to a server as blue was before; what came between can be salvaged.
pub(crate) async fn sees_it_taken_back(mut live: Live) {
    let playbook = live.playbook.to_str().unwrap().to_owned();
    live.greenlight(&["plan", &playbook]).await.expect(COMPLETED).says("restore-place").says("restore-loses-writes");
    live.start_writing().await;
    let ran = live.run().await.expect(ROLLED_BACK).says("is whole and verified").says("restored into");
    ran.says("orders_are_free").says("green serves, as blue was before the migrations");
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(60).await;
    let report = live.stop_writing().await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    live.is_as_at_the_point(&report, live.named_its_point().await).await;
    live.blue_is_kept_closed().await;
    let green = live.lab.endpoint(Side::Green);
    assert_eq!(ask(&green, LEFT).await, ["0", "0"]);

    // What came between is salvaged, from a server that nobody writes to any more.
    let (damaged, restored) = (live.lab.url(Side::Blue), live.lab.url(Side::Green));
    let words = ["salvage", "--damaged", &damaged, "--restored", &restored, "--table", "public.ledger"];
    live.greenlight(&[&words[..], &["--apply-to", &restored, "--commit"]].concat()).await.expect(COMPLETED);
    assert_eq!(report.lost(&green).await.unwrap(), []);
}

/// How many of our schema, and of the migrations' column, there are.
const LEFT: &str = "SELECT count(*) FROM pg_namespace WHERE nspname = 'greenlight' UNION ALL \
    SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'notes'";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_had_made_on_blue_is_taken_off_a_copy_that_is_promoted() {
    let live = up_with(15, &with_a_failing_one(false), |lab| restoring(lab, "hold")).await;
    live.run().await.expect(HELD);
    let playbook = live.playbook.to_str().unwrap().to_owned();
    let run = live.stored().await.0.run.to_string();
    let into = live.lab.dir().join("restored").display().to_string();
    let green = live.lab.endpoint(Side::Green);
    let (to, port) = (format!("run:{run}"), green.port.to_string());
    live.greenlight(&["restore", &playbook, "--to", &to, "--into", &into, "--port", &port]).await.expect(COMPLETED);
    assert_eq!(ask(&green, LEFT).await, ["1", "0"], "the claim came with the copy");
    live.greenlight(&["restore", &playbook, "--into", &into, "--promote"]).await.expect(COMPLETED);
    assert_eq!(ask(&green, LEFT).await, ["0", "0"]);
    assert_eq!(ask(&live.lab.endpoint(Side::Blue), LEFT).await, ["1", "1"], "the run goes on there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_again_and_again_still_moves_the_applications_to_a_restored_server() {
    let mut live = up_with(15, &with_a_failing_one(false), |lab| restoring(lab, "restore")).await;
    live.start_writing().await;
    let places = [
        "in-place-migrated",
        "restore-claimed",
        "restore-fetched",
        "restore-started",
        "restored",
        "restored-promoted",
        "window-opened",
        "window-fenced",
        "window-before-commit",
        "window-committed",
        "settle-fenced",
    ];
    let deaths = die_until(&live, &places, ROLLED_BACK).await;
    assert!(deaths > places.len(), "{deaths}");
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(60).await;
    let report = live.stop_writing().await;
    live.is_as_at_the_point(&report, live.named_its_point().await).await;
    live.blue_is_kept_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_change_is_taken_back_by_a_restore_when_a_person_says_so() {
    let mut live = up_with(15, &with_a_failing_one(false), |lab| restoring(lab, "hold")).await;
    live.start_writing().await;
    live.run().await.expect(HELD).says("abandon").says("`--restore`");
    assert_eq!(live.applied().await.len(), 2);
    live.greenlight(&["abandon", "--restore", "--reason", "worse than thought", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(60).await;
    let report = live.stop_writing().await;
    live.is_as_at_the_point(&report, live.named_its_point().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_which_nothing_can_be_restored_is_said_before_anything_is_changed() {
    let live = up_with(15, &with_a_failing_one(true), |lab| restoring(lab, "restore")).await;
    let folder = live.lab.dir().join("restored");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("precious"), "").unwrap();
    live.run().await.expect(REFUSED).says("restore-place").says("is not empty");
    std::fs::remove_file(folder.join("precious")).unwrap();
    // In use only after the plan was made, and before the migrations.
    let taken = std::net::TcpListener::bind(("127.0.0.1", live.lab.endpoint(Side::Green).port)).unwrap();
    live.run().await.expect(REFUSED).says("is taken");
    drop(taken);
    let changed = "SELECT count(*) FROM pg_class WHERE relname IN ('schema_migrations', 'claim')";
    assert_eq!(ask(&live.lab.endpoint(Side::Blue), changed).await, ["0"]);
    live.greenlight(&["abandon", "--restore"]).await.says("there is no run");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_to_restore_to_nobody_is_moved() {
    let live = up_with(15, &with_a_failing_one(true), |_| {
        "gates: {before_migrate: {approval: true}}\naccept: [\"lock:public.orders\"]\n".to_owned()
    })
    .await;
    live.run().await;
    live.greenlight(&["abandon", "--restore"]).await.expect(USAGE).says("`green.restore`");
    live.greenlight(&["abandon", "--no-wait"]).await.expect(COMPLETED);
}

//! Runs that could have no shadow before they began: the migrations are tried in a scratch database on green.

use crate::world::{COMPLETED, KILLED, Live, ROLLED_BACK, Setup, WAITS, ask};
use greenlight::plan::StepName;
use greenlight::postgres::sweep;
use greenlight::run::{Event, Fact};
use greenlight::word::Side;

const ON_GREEN: &str = "shadow: green\n";

async fn scratch_databases(live: &Live) -> Vec<String> {
    // A green that was given up takes no connections to the run's own.
    ask(
        &live.lab.endpoint(Side::Green).with_database("postgres"),
        "select datname from pg_database where datname like 'greenlight%'",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisional_run_goes_forth_and_back_under_writes_and_narrows_what_the_trial_showed() {
    let mut live = Live::up(Setup { playbook: ON_GREEN, ..Setup::default() }).await;
    live.start_writing().await;
    let path = live.playbook.to_str().unwrap().to_owned();
    let planned = live.greenlight(&["plan", &path]).await.expect(COMPLETED).says("Tables, PROVISIONAL").says("read-only:");
    let digest = planned.said.split_once("--plan ").unwrap().1[..12].to_owned();
    live.greenlight(&["run", &path, "--no-wait", "--plan", &digest]).await.expect(WAITS);
    assert_eq!(live.serving().await, Side::Green);
    let (plan, run) = live.stored().await;
    assert!(run.is_judged() && !plan.provisional && plan.step_no(StepName::ShadowGreen).is_some());
    assert!(greenlight::postgres::published_forward(&plan.tables).iter().any(|table| table.columns.is_some()));
    assert_eq!(scratch_databases(&live).await, [""; 0]);
    live.see_writes(50).await;
    // The digest that was approved is the run's for good.
    live.greenlight(&["run", &path, "--no-wait", "--plan", &digest]).await.expect(WAITS);
    live.greenlight(&["rollback", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Blue);
    live.see_writes(50).await;
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(20).await;
    live.greenlight(&["finish", "--no-wait"]).await.expect(COMPLETED);
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_accepted_waits_for_an_approval_before_anything_is_migrated() {
    let migration = "ALTER TABLE products ADD COLUMN label text; UPDATE products SET label = name;";
    let mut live = Live::up(Setup { playbook: ON_GREEN, migration: Some(migration), ..Setup::default() }).await;
    live.start_writing().await;
    live.run().await.expect(WAITS).says("backfill:public.products");
    assert!(!live.records().await.iter().any(|r| matches!(r.event, Event::FactLearned { fact: Fact::Migrated { .. }, .. })));
    live.see_writes(20).await;
    live.greenlight(&["approve", "--no-wait"]).await.expect(COMPLETED);
    assert_eq!(live.serving().await, Side::Green);
    live.see_writes(20).await;
    live.nothing_is_lost(Side::Green).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_or_makes_roles_takes_the_run_back_and_leaves_no_scratch_database() {
    // Hidden from a reader.
    let makes_role = "DO $$ BEGIN EXECUTE 'cre' || 'ate role greenlight_test_reader'; END $$;";
    for (migration, says) in [("SELECT 1 / 0;", "division by zero"), (makes_role, "all its databases share")] {
        let mut live = Live::up(Setup { playbook: ON_GREEN, migration: Some(migration), ..Setup::default() }).await;
        live.start_writing().await;
        live.run().await.expect(ROLLED_BACK).says(says);
        live.see_writes(20).await;
        let left = ask(&live.lab.endpoint(Side::Blue), "select slot_name from pg_replication_slots").await;
        assert_eq!((left.len(), scratch_databases(&live).await.len()), (0, 0));
        live.nothing_is_lost(Side::Blue).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_was_killed_is_found_again_going_on_and_going_back() {
    for (request, serving) in [("run", Side::Green), ("abandon", Side::Blue)] {
        let mut live = Live::up(Setup { playbook: ON_GREEN, ..Setup::default() }).await;
        live.start_writing().await;
        live.run_with("trial-on-green:kill").await.expect(KILLED);
        assert_eq!(scratch_databases(&live).await.len(), 1);
        let left = sweep::list(&live.lab.endpoint(Side::Green)).await.unwrap();
        assert!(left.iter().any(|left| left.kind == sweep::Kind::Database), "{left:?}");
        if request == "run" {
            live.run().await.expect(WAITS);
        } else {
            live.greenlight(&["abandon", "--reason", "it was killed", "--no-wait"]).await.expect(COMPLETED);
        }
        assert_eq!((scratch_databases(&live).await.len(), live.serving().await), (0, serving));
        live.nothing_is_lost(serving).await;
    }
}

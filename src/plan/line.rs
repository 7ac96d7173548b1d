//! The line of steps of each strategy: what each does, how it is taken back, and what it will send.

use super::figures::{bytes, count, milliseconds};
use super::statements::{self, Statements, blue};
use super::{
    FailurePhases, Gate, LongTransactions, OnFailure, Plan, PlanInput, PlannedStep, Reversal, SCHEMA, ServerSurvey, SnapshotSpec,
    StepName, Strategy,
};
use crate::migrate::Migration;
use crate::postgres::{published_forward, published_whole};
use crate::schema::{Flow, TableFlow};

/// The steps, in order. `plan` is whole but for them.
pub(super) fn steps(plan: &Plan, blue: &ServerSurvey, input: &PlanInput) -> Vec<PlannedStep> {
    let sql = Statements::new(plan, blue);
    let mut steps: Vec<PlannedStep> = plan.snapshot.as_ref().map(snapshot).into_iter().collect();
    match plan.strategy {
        Strategy::InPlace => steps.extend(in_place(plan, &sql, input)),
        Strategy::Restored => steps.extend([
            prepare_blue(&sql),
            attach_restored(plan, &sql),
            PlannedStep { gate: input.before_window.clone(), ..window_to_restored(plan, &sql) },
            finish_restored(),
        ]),
        Strategy::Sync | Strategy::Freeze => {
            steps.push(prepare_blue(&sql));
            steps.extend(with_green(plan, &sql, input));
        }
    }
    for step in &mut steps {
        step.on_failure = on_failure(step.name, input.on_failure_of);
    }
    steps
}

/// The gate stands before the restore point: the later that is made, the less a restore to it would lose.
fn in_place(plan: &Plan, sql: &Statements<'_>, input: &PlanInput) -> Vec<PlannedStep> {
    let mut steps = vec![PlannedStep { gate: input.before_migrate.clone(), ..prepare_blue(sql) }];
    if let Some(into) = &plan.restore_into {
        let says = format!(
            "See that blue can be restored to this restore point: the backup is whole, the log reaches to it, and `{}` is empty, with room \
             enough and a free port.",
            into.data_dir.display()
        );
        steps.push(step(StepName::ArmRestore, says, "Nothing to take back.", Vec::new()));
    }
    steps.extend([migrate_blue(plan, sql), validate_blue(plan, sql), release_blue()]);
    steps
}

/// Those of the strategies that move the writer, from the preparation of blue on.
fn with_green(plan: &Plan, sql: &Statements<'_>, input: &PlanInput) -> Vec<PlannedStep> {
    let mut steps = Vec::new();
    if let Some(standby) = &plan.standby {
        let says = format!("Copy blue into `{}` and start it there as a standby.", standby.data_dir.display());
        let way_back = "The standby is stopped and its folder removed; its slot on blue is dropped.";
        steps.push(step(StepName::CreateStandby, says, way_back, sql.create_standby(standby)));
    }
    let before_window = input.before_window.clone();
    if plan.strategy == Strategy::Freeze {
        steps.push(arm_freeze(sql));
        steps.push(PlannedStep { gate: before_window, ..freeze(plan, sql) });
    } else {
        steps.extend([publish_blue(plan, sql), attach_green(sql), subscribe_green(sql)]);
        if plan.provisional {
            steps.push(shadow_green(sql));
        }
        steps.push(narrow_flow(plan, sql));
        steps.push(PlannedStep { gate: input.before_migrate.clone(), ..migrate_green(plan, sql) });
        steps.extend([warm_green(sql), arm_reverse(sql), validate_green(plan, sql)]);
        steps.push(PlannedStep { gate: before_window, ..window(plan, sql) });
    }
    steps.extend([soak(plan, sql), finish(sql)]);
    steps
}

fn on_failure(name: StepName, of: FailurePhases) -> Option<OnFailure> {
    match name {
        StepName::MigrateGreen | StepName::ShadowGreen | StepName::MigrateBlue => of.migrate,
        StepName::WarmGreen | StepName::ValidateGreen | StepName::ValidateBlue => of.validate,
        StepName::Window => of.window,
        StepName::Soak | StepName::Finish | StepName::ReleaseBlue => None,
        StepName::Snapshot
        | StepName::PrepareBlue
        | StepName::CreateStandby
        | StepName::PublishBlue
        | StepName::AttachGreen
        | StepName::SubscribeGreen
        | StepName::NarrowFlow
        | StepName::ArmReverse
        | StepName::ArmFreeze
        | StepName::ArmRestore
        | StepName::AttachRestored => of.prepare,
    }
}

fn step(name: StepName, says: impl Into<String>, way_back: impl Into<String>, sql: Vec<String>) -> PlannedStep {
    let (attempts_max, backoff_ms) = patience(name);
    PlannedStep {
        name,
        reversal: reversal(name),
        gate: Gate::default(),
        attempts_max,
        backoff_ms,
        on_failure: None,
        sql,
        says: says.into(),
        way_back: way_back.into(),
    }
}

fn reversal(name: StepName) -> Reversal {
    match name {
        StepName::Snapshot | StepName::WarmGreen | StepName::ValidateGreen | StepName::ArmRestore | StepName::ValidateBlue => {
            Reversal::Nothing
        }
        StepName::Finish | StepName::ReleaseBlue => Reversal::PointOfNoReturn,
        StepName::PrepareBlue
        | StepName::CreateStandby
        | StepName::PublishBlue
        | StepName::AttachGreen
        | StepName::SubscribeGreen
        | StepName::ShadowGreen
        | StepName::NarrowFlow
        | StepName::MigrateGreen
        | StepName::MigrateBlue
        | StepName::ArmReverse
        | StepName::ArmFreeze
        | StepName::AttachRestored
        | StepName::Window
        | StepName::Soak => Reversal::Revert,
    }
}

/// How often a step is tried again, and how long it waits at first (twice as long each time). The engine counts over the
/// whole life of a step, so those that last for days, and those by which applications get away from a half-open window,
/// have more.
fn patience(name: StepName) -> (u32, u64) {
    match name {
        StepName::Soak => (1_000, 1_000),
        StepName::Window | StepName::ValidateGreen => (50, 500),
        StepName::Finish | StepName::ReleaseBlue => (20, 2_000),
        StepName::Snapshot
        | StepName::PrepareBlue
        | StepName::CreateStandby
        | StepName::PublishBlue
        | StepName::AttachGreen
        | StepName::SubscribeGreen
        | StepName::ShadowGreen
        | StepName::NarrowFlow
        | StepName::MigrateGreen
        | StepName::MigrateBlue
        | StepName::ValidateBlue
        | StepName::WarmGreen
        | StepName::ArmReverse
        | StepName::ArmFreeze
        | StepName::ArmRestore
        | StepName::AttachRestored => (8, 1_000),
    }
}

fn snapshot(spec: &SnapshotSpec) -> PlannedStep {
    let proof =
        if spec.prove { ", and restore the newest backup to a throwaway server, on which the assertions must hold" } else { "" };
    let says = format!(
        "See a whole backup that is at most {} old and read all of it against its manifest, or take one now; see WAL reach the \
         archive{proof}.",
        milliseconds(spec.max_age_secs.saturating_mul(1000)),
    );
    step(StepName::Snapshot, says, "Nothing to take back: a backup stays.", vec![blue("SELECT pg_switch_wal()")])
}

fn prepare_blue(sql: &Statements<'_>) -> PlannedStep {
    let says = "Claim blue for this run, and name a restore point before anything else is changed.";
    step(
        StepName::PrepareBlue,
        says,
        "Schema greenlight is dropped. The restore point is a name in the log and stays.",
        sql.prepare_blue(),
    )
}

fn publish_blue(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let says =
        format!("Publish {}, and keep blue's log from here on for green.", count(published_whole(&plan.tables).len(), "table"));
    step(StepName::PublishBlue, says, "Slot and publication are dropped.", sql.publish_blue())
}

fn attach_green(sql: &Statements<'_>) -> PlannedStep {
    let says =
        "Wait until green has replayed past the slot's start and blue's fence, close it, and promote it: nobody can write to it.";
    let way_back = "A promoted server cannot become a standby again: green is left taking no connections, to be rebuilt. Blue is not touched.";
    step(StepName::AttachGreen, says, way_back, sql.attach_green())
}

fn subscribe_green(sql: &Statements<'_>) -> PlannedStep {
    let says =
        "Let green follow blue from the very place where it left blue's log: nothing twice, nothing missing, no row copied.";
    step(StepName::SubscribeGreen, says, "The subscription is dropped.", sql.subscribe_green())
}

fn shadow_green(sql: &Statements<'_>) -> PlannedStep {
    let says = "Try the migrations on blue's schema, without rows, in a scratch database on green. What follows from them takes the \
                place of this plan's provisional verdicts and statements; where it needs a word that the playbook does not give, the \
                next step waits for an approval, and where it is refused, the run goes no further.";
    step(StepName::ShadowGreen, says, "The scratch database is dropped.", sql.shadow_green())
}

fn narrow_flow(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let narrowed = published_forward(&plan.tables).iter().filter(|table| table.columns.is_some()).count();
    let says = if plan.provisional && plan.green_fingerprint.is_none() {
        "Stop sending what a migrated green cannot take, as the trial will have shown, and see that arrive.".to_owned()
    } else if narrowed == 0 {
        "Nothing to do: a migrated green can take every column that blue sends.".to_owned()
    } else {
        format!("Stop sending the columns that green is about to drop ({}), and see that arrive.", count(narrowed, "table"))
    };
    step(StepName::NarrowFlow, says, "Goes with publication and green.", sql.narrow_flow())
}

fn migrate_green(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let says = match plan.migrations.len() {
        0 => "Nothing to do: there is no pending migration.".to_owned(),
        number => format!("Run {} on green, while changes keep streaming in.", count(number, "migration")),
    };
    step(StepName::MigrateGreen, says, "Nothing is undone on green, which is given up whole.", sql.migrate_green())
}

fn migrate_blue(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let says = match plan.migrations.len() {
        0 => "Nothing to do: there is no pending migration.".to_owned(),
        number => format!(
            "Run {} on blue, while applications work there: nobody is paused. What does not get a lock within {} is taken back and \
             tried again, {} times at most.",
            count(number, "migration"),
            milliseconds(plan.history.lock_timeout_ms),
            plan.history.lock_retries,
        ),
    };
    let lacking: Vec<String> =
        plan.migrations.iter().filter(|migration| migration.down.is_none()).map(Migration::file_name).collect();
    let by_down = match lacking.as_slice() {
        [] => "Their down migrations, newest first; blue's schema must then be as it was.".to_owned(),
        names => format!(
            "The run is held for a person once one of these is applied, which have no down migration: {}.",
            names.join(", ")
        ),
    };
    let way_back = match &plan.restore_into {
        None => by_down,
        Some(into) => format!(
            "{by_down} By a restore (`on_failure: restore`, or `abandon --restore`): blue's backup is restored to the restore point in `{}`, \
             and applications are moved there in one pause. What they wrote since stays on blue.",
            into.data_dir.display()
        ),
    };
    step(StepName::MigrateBlue, says, way_back, sql.migrate_blue())
}

fn validate_blue(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let assertions = match plan.validate.assertions.len() {
        0 => String::new(),
        number => format!(", and {} of the playbook", count(number, "assertion")),
    };
    let says = format!("See that blue's schema is the one that the migrations made in the shadow{assertions}.");
    step(StepName::ValidateBlue, says, "Nothing to take back.", sql.validate_blue())
}

fn release_blue() -> PlannedStep {
    let says = "Take from blue what the run made there. Blue serves on, migrated.";
    step(
        StepName::ReleaseBlue,
        says,
        "None. From here on only a backup leads back.",
        vec![blue(format!("DROP SCHEMA {SCHEMA} CASCADE"))],
    )
}

fn warm_green(sql: &Statements<'_>) -> PlannedStep {
    let says =
        "Gather statistics, refresh materialized views, read tables and indexes into memory: a cold green is a slow green.";
    step(StepName::WarmGreen, says, "Nothing to take back.", sql.warm_green())
}

fn arm_reverse(sql: &Statements<'_>) -> PlannedStep {
    let says = "Make everything for the way back ahead of the window: green's publication and slot, blue's subscription (still disabled) \
                and fence (still open).";
    step(StepName::ArmReverse, says, "Subscription, slot and publication are dropped.", sql.arm_reverse())
}

fn validate_green(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let excluded = match plan.validate.exclude.len() {
        0 => String::new(),
        number => format!(" but {}", count(number, "table")),
    };
    let rows = if plan.validate.rows {
        format!(
            "the rows of every published table{excluded}, in chunks of {}",
            count(usize::try_from(plan.validate.chunk_rows).unwrap_or(usize::MAX), "row")
        )
    } else {
        "no rows, as the playbook says".to_owned()
    };
    let assertions = match plan.validate.assertions.len() {
        0 => String::new(),
        number => format!(", {}", count(number, "assertion")),
    };
    let says =
        format!("Compare green with blue: schema, membership of every table in the flow, apply errors{assertions}; {rows}.");
    step(StepName::ValidateGreen, says, "Nothing to take back.", sql.validate_green())
}

fn window(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let window = &plan.window;
    let long = match window.long_transactions {
        LongTransactions::Wait => "is waited for",
        LongTransactions::Cancel => "is cancelled",
    };
    let says = format!(
        "Move the writer from blue to green in one pause of at most {}. It begins when the lag is under {}; a transaction older than {} \
         {long}. Before the commit point every way leads back to blue, after it forward to green.",
        milliseconds(window.max_pause_ms),
        bytes(window.max_lag_bytes),
        milliseconds(window.transaction_age_max_ms),
    );
    let way_back = "The same window in the other direction: blue has every write that green took.";
    let way_back = match plan.tables.iter().filter(|flow| loses(flow)).count() {
        0 => way_back.to_owned(),
        number => format!("{way_back} Except for {}, see the verdicts.", count(number, "table")),
    };
    step(StepName::Window, says, way_back, sql.window())
}

fn attach_restored(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let assertions = match plan.validate.assertions.len() {
        0 => String::new(),
        number => format!(", and check {}", count(number, "assertion")),
    };
    let says = format!("See that green is a restored copy of blue, and fence it before anybody is led there{assertions}.");
    step(StepName::AttachRestored, says, "Green's fence is taken away: it is as it was.", sql.attach_restored())
}

fn window_to_restored(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let says = format!(
        "Move the writer from blue to green in one pause of at most {}. Blue is left closed for writes. Before the commit point every way \
         leads back to blue, after it forward to green.",
        milliseconds(plan.window.max_pause_ms),
    );
    let way_back =
        "Until the commit point blue is opened again at once. After it none that keeps what green took: blue does not follow it.";
    step(StepName::Window, says, way_back, sql.window_to_restored())
}

fn finish_restored() -> PlannedStep {
    let says = "Take down what was made on green. Blue keeps its data, closed for writes and readable, for `greenlight salvage`.";
    step(StepName::Finish, says, "None.", statements::finish_restored())
}

fn arm_freeze(sql: &Statements<'_>) -> PlannedStep {
    let says = "Put blue's fence in place, still open, and see that green has it too and is close behind.";
    let way_back = "A green that was promoted is given up: it is left taking no connections, to be rebuilt. Blue is not touched.";
    step(StepName::ArmFreeze, says, way_back, sql.arm_freeze())
}

fn freeze(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let migrations = count(plan.migrations.len(), "migration");
    let compared =
        match published_whole(&plan.tables).iter().filter(|table| !plan.validate.exclude.contains(&table.table)).count() {
            _ if !plan.validate.rows => "the schemas".to_owned(),
            number => format!("{} that they touch with blue's", count(number, "table")),
        };
    let reads =
        if plan.window.reads_on_blue { "Blue answers reads meanwhile and refuses writes" } else { "All clients wait meanwhile" };
    let says = format!(
        "Freeze blue, promote green once it has replayed everything, run {migrations} on it, compare {compared} exactly, and move \
         the writer. {reads}: at most {}. Before the commit point every way leads back to blue, after it forward to green.",
        milliseconds(plan.window.max_pause_ms),
    );
    let way_back = "Until the commit point blue is opened again at once. After it the same window in the other direction, with every \
                    write that green took.";
    let way_back = match plan.tables.iter().filter(|flow| loses(flow)).count() {
        0 => way_back.to_owned(),
        number => format!("{way_back} Except for {}, see the verdicts.", count(number, "table")),
    };
    step(StepName::Window, says, way_back, sql.freeze())
}

fn loses(flow: &TableFlow) -> bool {
    matches!(flow.flow, Flow::Both(_)) && matches!(flow.verdict, crate::schema::Verdict::RollbackWouldLose { .. })
}

fn soak(plan: &Plan, sql: &Statements<'_>) -> PlannedStep {
    let length = milliseconds(plan.soak.for_secs.saturating_mul(1000));
    let then = if plan.soak.then_finish { "Then the run finishes by itself." } else { "Then it waits for a person's `finish`." };
    let first = match plan.analyze.len() {
        0 => String::new(),
        number => format!("Gather statistics of {} that the migrations change. ", count(number, "table")),
    };
    let says = format!("{first}Blue follows green for {length}, and the way back is looked at all the time. {then}");
    step(StepName::Soak, says, "Nothing of its own; `greenlight rollback` takes the window back.", sql.soak())
}

fn finish(sql: &Statements<'_>) -> PlannedStep {
    let says = "Take down everything that was made. Blue keeps its data and takes no connections, so that nobody writes to it by mistake.";
    step(StepName::Finish, says, "None. From here on only a backup leads back.", sql.finish())
}

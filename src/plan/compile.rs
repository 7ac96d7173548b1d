use super::preflight::{self, Look};
use super::touched::Touched;
use super::{
    Basis, Gate, GreenSurvey, HistorySpec, LimitsSpec, Names, OnFailure, Plan, RestoreSpec, RouteSpec, ServerSpec, SnapshotSpec,
    SoakSpec, StandbySpec, Strategy, Survey, ValidateSpec, WindowSpec, line,
};
use crate::migrate::{Migration, pending as yet_to_run};
use crate::schema::{self, Catalog, FlowOptions, Seen, SeenWrite};
use crate::word::{RelationName, RunId, Template, Timestamp};
use serde::{Deserialize, Serialize};

/// The format of plans that this version writes.
const FORMAT: u32 = 1;

/// What a plan takes from a playbook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanInput {
    pub name: String,
    #[serde(default)]
    pub strategy: Strategy,
    pub blue: ServerSpec,
    pub green: ServerSpec,
    /// Green is to be made by the run.
    pub standby: Option<StandbySpec>,
    #[serde(default)]
    pub restore_into: Option<RestoreSpec>,
    pub shadow: Option<Template>,
    pub routes: Vec<RouteSpec>,
    pub window: WindowSpec,
    pub validate: ValidateSpec,
    pub history: HistorySpec,
    pub soak: SoakSpec,
    pub limits: LimitsSpec,
    pub on_failure: OnFailure,
    /// Where it is another one than `on_failure`.
    #[serde(default)]
    pub on_failure_of: FailurePhases,
    #[serde(default)]
    pub snapshot: Option<SnapshotSpec>,
    #[serde(default)]
    pub green_snapshot: Option<SnapshotSpec>,
    pub before_migrate: Gate,
    pub before_window: Gate,
    /// `code` or `code:object` of findings that the operator accepts.
    pub accept: Vec<String>,
    /// In order. Those that blue has already are left out of the plan; one that blue has with another content is refused.
    pub migrations: Vec<Migration>,
}

/// What happens on a failure in each part of the line; `None`: what the playbook says of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailurePhases {
    /// Everything before the migrations.
    pub prepare: Option<OnFailure>,
    pub migrate: Option<OnFailure>,
    pub validate: Option<OnFailure>,
    /// The window; a freeze is one, with its migrations and its comparison in it.
    pub window: Option<OnFailure>,
}

/// The plan that follows from what a person wants and what was seen. Always a plan: what stands in the way of running it
/// is in its findings.
pub fn compile(input: PlanInput, survey: &Survey, run: RunId, now: Timestamp) -> Plan {
    let pending = pending(&input, survey);
    // Without a shadow nothing is known of the schema to come, until the migrations are tried on green.
    let provisional = survey.shadow.is_err() && !pending.is_empty() && input.strategy == Strategy::Sync;
    let basis = provisional.then(|| Box::new(Basis { input: input.clone(), survey: survey.clone() }));
    let wanted = input.clone();
    let names = Names::new(&run);
    let mut plan = Plan {
        format: FORMAT,
        run,
        name: input.name,
        strategy: input.strategy,
        made_at: now,
        blue: input.blue,
        green: input.green,
        standby: input.standby,
        restore_into: input.restore_into,
        shadow: input.shadow,
        routes: with_entries(input.routes, survey),
        window: input.window,
        validate: input.validate,
        history: input.history,
        soak: input.soak,
        limits: input.limits,
        on_failure: input.on_failure,
        // A damaged blue need not archive any more, and what green was made from is no basis of a change.
        snapshot: input.snapshot.filter(|_| input.strategy != Strategy::Restored),
        green_snapshot: input.green_snapshot,
        names,
        steps: Vec::new(),
        tables: Vec::new(),
        migrations: pending,
        system_identifier: survey.blue.system_identifier,
        blue_timeline: survey.blue.timeline,
        blue_fingerprint: schema::fingerprint(&survey.blue.catalog),
        green_fingerprint: None,
        findings: Vec::new(),
        inherited_subscriptions: survey.blue.subscriptions.iter().map(|subscription| subscription.name.clone()).collect(),
        green_physical_slot: green_physical_slot(survey),
        sync_triggers: Vec::new(),
        analyze: Vec::new(),
        provisional,
        basis,
    };
    settle(&mut plan, &wanted, survey);
    plan
}

/// Each route with its way to blue, where it was seen that blue answers there.
fn with_entries(routes: Vec<RouteSpec>, survey: &Survey) -> Vec<RouteSpec> {
    let seen = |name: &str| survey.routes.iter().find(|seen| seen.name == name && seen.answers_from_blue == Some(true));
    routes.into_iter().map(|route| RouteSpec { entry: seen(&route.name).and_then(|seen| seen.entry.clone()), ..route }).collect()
}

/// Fills in what the two schemas mean for the plan. A provisional plan's tables are judged as if no migration touched them.
pub(super) fn settle(plan: &mut Plan, input: &PlanInput, survey: &Survey) {
    let blue = &survey.blue.catalog;
    let (before, after, mut seen) = match &survey.shadow {
        Ok(shadow) => (&shadow.before, &shadow.after, Seen { writes: writes(shadow), moves: shadow.moves.clone() }),
        Err(_) => (blue, blue, Seen::default()),
    };
    let frozen = survey.shadow.as_ref().ok().filter(|_| input.strategy == Strategy::Freeze);
    let touched = frozen.map(|shadow| (shadow, Touched::read(shadow, &seen.writes)));
    if let Some((_, touched)) = &touched {
        seen.writes.extend(touched.in_answer.iter().cloned());
    }
    let options = FlowOptions {
        accepted: accepted(input, before),
        history: vec![RelationName::new(&input.history.schema, "schema_migrations")],
        major: survey.blue.major(),
        frozen: input.strategy == Strategy::Freeze,
    };
    plan.tables = match input.strategy {
        Strategy::Sync | Strategy::Freeze => schema::flows(before, after, &seen, &options),
        // No row goes anywhere.
        Strategy::InPlace | Strategy::Restored => Vec::new(),
    };
    if let Some((shadow, touched)) = touched {
        // Green's are copies of blue's files, and to read all of them once more would only make a freeze longer.
        let untouched = plan.tables.iter().map(|flow| &flow.table).filter(|table| !touched.contains(table)).cloned();
        plan.validate.exclude = input.validate.exclude.iter().cloned().chain(untouched).collect();
        plan.analyze = touched.analyze(shadow, &options.history[0]);
    }
    plan.sync_triggers = match input.strategy {
        Strategy::Sync => schema::sync_triggers(before, after),
        // No row comes from blue.
        Strategy::Freeze | Strategy::InPlace | Strategy::Restored => Vec::new(),
    };
    plan.green_fingerprint = survey.shadow.as_ref().ok().map(|shadow| schema::fingerprint(&shadow.after));
    plan.findings = preflight::check(&Look {
        input,
        survey,
        pending: &plan.migrations,
        tables: &plan.tables,
        sync_triggers: &plan.sync_triggers,
        excluded: &plan.validate.exclude,
        now: plan.made_at,
    });
    plan.steps = line::steps(plan, &survey.blue, input);
}

/// The migrations that blue has not.
pub(super) fn pending(input: &PlanInput, survey: &Survey) -> Vec<Migration> {
    yet_to_run(&input.migrations, &survey.applied)
}

/// The slot on blue through which green follows physically; `None` when it follows without one, or another server.
fn green_physical_slot(survey: &Survey) -> Option<String> {
    let GreenSurvey::Standby(green) = &survey.green else { return None };
    let name = green.upstream_slot.as_ref()?;
    survey.blue.slots.iter().any(|slot| !slot.logical && slot.name == *name).then(|| name.clone())
}

fn writes(shadow: &crate::migrate::ShadowReport) -> Vec<SeenWrite> {
    let of_statement = |statement: &crate::migrate::StatementReport| {
        let by = format!("migration {} line {}", statement.version, statement.line);
        statement.writes.iter().map(|write| SeenWrite { write: write.clone(), by: by.clone() }).collect::<Vec<_>>()
    };
    shadow.statements.iter().flat_map(of_statement).collect()
}

/// Tables that the playbook names as not reversible.
fn accepted(input: &PlanInput, before: &Catalog) -> Vec<RelationName> {
    let named = |table: &RelationName| input.accept.contains(&format!("not-reversible:{table}"));
    before.tables.values().map(|table| &table.name).filter(|table| named(table)).cloned().collect()
}

//! Planning: everything is looked at, and nothing is changed. What must be tried is tried on a throwaway server.

use super::{endpoint, ports, typed_endpoint};
use crate::lab::Watcher;
use crate::migrate::{self, Migration, ShadowReport};
use crate::plan::{
    self, Access, GreenSurvey, NewestBackup, Plan, PlanInput, RouteSurvey, ServerSurvey, SnapshotSurvey, Strategy, Survey,
};
use crate::playbook::{ON_GREEN, Playbook};
use crate::postgres::client::{Session, SessionOptions, cell, one};
use crate::postgres::programs::Programs;
use crate::postgres::{CLIENT_SESSIONS, access, client_session, rights, survey};
use crate::process::ServerUser;
use crate::provider::{LocalProvider, Throwaway, end_throwaway, spare_user};
use crate::route::{PgBouncer, Router};
use crate::snapshot::restore;
use crate::snapshot::{History, newest_before, reach};
use crate::word::{Clock, Endpoint, PortError, RunId, SystemClock, Template};
use anyhow::Context;
use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

/// Looks at the world and compiles the playbook's plan.
///
/// # Errors
/// When something cannot be looked at: unknown is never good, so there is no plan then.
pub async fn make_plan(playbook: &Playbook) -> anyhow::Result<Plan> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let folder = playbook.migrations_dir.as_deref();
    let migrations = folder.map_or_else(|| Ok(Vec::new()), migrate::files::read).map_err(migrate::files::Unusable)?;
    let run = RunId::random();
    let survey = look(playbook, &migrations, &run, &clock).await?;
    Ok(plan::compile(input(playbook, migrations), &survey, run, clock.now()))
}

fn input(playbook: &Playbook, migrations: Vec<Migration>) -> PlanInput {
    let playbook = playbook.clone();
    PlanInput {
        name: playbook.name,
        strategy: playbook.strategy,
        blue: playbook.blue,
        green: playbook.green,
        standby: playbook.standby,
        restore_into: playbook.restore_into,
        shadow: playbook.shadow,
        routes: playbook.routes,
        window: playbook.window,
        validate: playbook.validate,
        history: playbook.history,
        soak: playbook.soak,
        limits: playbook.limits,
        on_failure: playbook.on_failure,
        on_failure_of: playbook.on_failure_of,
        snapshot: playbook.snapshot,
        green_snapshot: playbook.green_snapshot,
        before_migrate: playbook.before_migrate,
        before_window: playbook.before_window,
        accept: playbook.accept.into_iter().map(|accept| accept.word).collect(),
        migrations,
    }
}

async fn look(playbook: &Playbook, migrations: &[Migration], run: &RunId, clock: &Arc<dyn Clock>) -> anyhow::Result<Survey> {
    let (blue_at, green_at) = (endpoint(&playbook.blue.url)?, endpoint(&playbook.green.url)?);
    let blue = look_at(&blue_at, "blue").await?;
    let in_place = playbook.strategy == Strategy::InPlace;
    let green = match &playbook.standby {
        None if in_place => GreenSurvey::ToBeMade { problems: place_problems(playbook, green_at.port).await? },
        None => GreenSurvey::Standby(Box::new(look_at(&green_at, "green").await?)),
        Some(spec) => {
            let provider = LocalProvider {
                run: run.clone(),
                blue: blue_at.clone(),
                slot: plan::Names::new(run).standby_slot,
                spec: spec.clone(),
                installed: super::installed().await,
                clock: clock.clone(),
            };
            GreenSurvey::ToBeMade { problems: provider.problems().await? }
        }
    };
    // Without rights nothing could be tried: preflight says that, before a program of PostgreSQL's own does in its words.
    let migrates = playbook.migrations_dir.is_some() && blue.superuser;
    let applied = if migrates { migrate::applied(&blue_at, &playbook.history).await? } else { Vec::new() };
    let pending = migrate::files::pending(migrations, &applied);
    let shadow = if migrates {
        shadow(playbook, &blue_at, &blue, &pending, run, clock).await?
    } else if blue.superuser {
        Err("nothing is migrated".to_owned())
    } else {
        Err(format!("`{}` is not a superuser on blue", blue.user))
    };
    let routes = look_at_routes(playbook, &blue_at, clock).await?;
    let direct_sessions = look_at_clients(playbook, &blue_at, clock).await.map_err(|error| format!("{error:#}"));
    let snapshots = match &playbook.snapshot {
        None => None,
        Some(_) => Some(look_at_snapshots(playbook).await.map_err(|error| format!("{error:#}"))),
    };
    let rights = if migrates {
        let session = Session::open(&blue_at, &SessionOptions::reading("greenlight/plan"), "blue").await?;
        Some(rights::read(&session, playbook.history.role.as_deref()).await?)
    } else {
        None
    };
    let access = match &green {
        GreenSurvey::ToBeMade { .. } => None,
        GreenSurvey::Standby(_) => Some(look_at_access(&routes, &blue_at, &green_at).await.map_err(|error| error.chain())),
    };
    Ok(Survey { blue, green, shadow, routes, applied, rights, direct_sessions, snapshots, access })
}

/// Why blue could not be restored to where the playbook says.
async fn place_problems(playbook: &Playbook, port: u16) -> anyhow::Result<Vec<String>> {
    let (Some(spec), Some(snapshot)) = (&playbook.restore_into, &playbook.snapshot) else { return Ok(Vec::new()) };
    let (store, _) = super::store(playbook).await?;
    let place = super::restore_place(spec, snapshot, store.as_ref(), port).await;
    Ok(restore::look_at_place(store.as_ref(), &place).await?)
}

async fn look_at_snapshots(playbook: &Playbook) -> anyhow::Result<SnapshotSurvey> {
    let (store, _) = super::store(playbook).await?;
    let backups = store.backups().await?;
    let newest = match newest_before(&backups, |_| true) {
        None => None,
        Some(backup) => {
            let archived = store.archived(backup.segment_bytes).await?;
            let from = if backup.holds_own_wal { backup.stop } else { backup.start };
            let recoverable_to = reach(&archived, &History::alone(backup.timeline), from).end;
            let replay_bytes = recoverable_to.bytes_since(backup.stop);
            let estimate = store.notes().estimate().await?;
            Some(NewestBackup {
                id: backup.id.clone(),
                ended_at: backup.ended_at,
                bytes: backup.bytes,
                recoverable_to,
                replay_bytes,
                restore_ms: estimate.map(|estimate| estimate.of(backup.bytes, replay_bytes)),
            })
        }
    };
    Ok(SnapshotSurvey { place: store.place(), newest })
}

async fn look_at(at: &Endpoint, name: &str) -> anyhow::Result<ServerSurvey> {
    Ok(survey::read(at, name).await?)
}

async fn look_at_routes(playbook: &Playbook, blue: &Endpoint, clock: &Arc<dyn Clock>) -> anyhow::Result<Vec<RouteSurvey>> {
    let signature = {
        let session = Session::open(blue, &SessionOptions::reading("greenlight/plan"), "blue").await?;
        let rows = session.read("read who blue is", crate::postgres::SIGNATURE_SQL, &[]).await?;
        cell::<String>(one(&rows)?, 0)?
    };
    let routers: Vec<PgBouncer> =
        playbook.routes.iter().map(|spec| ports::pgbouncer(spec, blue, clock)).collect::<anyhow::Result<_>>()?;
    let mut routes = Vec::new();
    for router in &routers {
        let mut survey = router.survey().await;
        survey.answers_from_blue = router.who_answers().await.ok().map(|answer| answer == signature);
        if survey.problems.is_empty() {
            survey.problems.extend(router.strangers(&routers).await?);
        }
        // Those that are routes themselves move, too.
        survey.namesakes.retain(|name| !routers.iter().any(|other| other.is_of(router, name)));
        routes.push(survey);
    }
    Ok(routes)
}

/// What decides on either side who of the routes' users gets in.
async fn look_at_access(routes: &[RouteSurvey], blue: &Endpoint, green: &Endpoint) -> Result<(Access, Access), PortError> {
    let users: BTreeSet<&String> = routes.iter().flat_map(|route| &route.users).collect();
    let users: Vec<String> = users.into_iter().cloned().collect();
    // Of no use to anybody but this one comparison.
    let salt = RunId::random().to_string();
    let read = async |at: &Endpoint, name: &str| {
        let session = Session::open(at, &SessionOptions::reading("greenlight/plan"), name).await?;
        access::read(&session, &users, &salt).await
    };
    Ok((read(blue, "blue").await?, read(green, "green").await?))
}

/// Who is on blue and comes by no route. The routes are asked before and after, since they open and close sessions meanwhile.
async fn look_at_clients(playbook: &Playbook, blue: &Endpoint, clock: &Arc<dyn Clock>) -> anyhow::Result<Vec<String>> {
    let routers: Vec<PgBouncer> =
        playbook.routes.iter().map(|spec| ports::pgbouncer(spec, blue, clock)).collect::<anyhow::Result<_>>()?;
    let session = Session::open(blue, &SessionOptions::reading("greenlight/plan"), "blue").await?;
    let mut by_routes = Vec::new();
    let mut sessions = Vec::new();
    for is_after in [false, true] {
        for router in &routers {
            let pids = router.server_pids().await?;
            by_routes.extend(pids.with_context(|| format!("route `{}` does not tell its sessions apart", router.name()))?);
        }
        if !is_after {
            let of_database = [(&blue.database as _, tokio_postgres::types::Type::NAME)];
            let rows = session.read("read who is connected", CLIENT_SESSIONS, &of_database).await?;
            sessions = rows.iter().map(client_session).collect::<Result<_, _>>()?;
        }
    }
    Ok(plan::direct_sessions(&sessions, &by_routes))
}

/// Runs the migrations where they can do no harm. `Ok(Err(why))`: there is no such place before the run.
async fn shadow(
    playbook: &Playbook,
    blue: &Endpoint,
    seen: &ServerSurvey,
    pending: &[Migration],
    run: &RunId,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Result<ShadowReport, String>> {
    let installed = super::installed().await;
    let dump = migrate::shadow::dump(&installed, blue, seen.version / 10_000).await?;
    if playbook.shadow.as_ref().is_some_and(|shadow| shadow.0 == ON_GREEN) {
        return Ok(Err("the playbook says `shadow: green`".to_owned()));
    }
    if let Some(url) = &playbook.shadow {
        let report = migrate::shadow::run(&endpoint(url)?, &dump, pending, &playbook.history, run).await;
        return Ok(Ok(report.context("could not try the migrations in the shadow")?));
    }
    let programs = match installed.server(seen.version / 10_000) {
        Ok(programs) => programs,
        Err(error) => return Ok(Err(error.chain())),
    };
    let scratch = Scratch::make(run).await?;
    let tried = shadow_on(&scratch, &programs, &dump, pending, playbook, run, clock).await;
    // Also when the trial failed; but then its error is the one to tell.
    let removed = scratch.remove();
    let tried = tried.context("could not try the migrations in the shadow")?;
    removed?;
    Ok(Ok(tried))
}

/// A folder for a throwaway server. Ctrl-C and `kill -9` while planning leave neither: a watcher of its own takes them away.
struct Scratch {
    folder: std::path::PathBuf,
    user: ServerUser,
    watcher: Watcher,
}

impl Scratch {
    async fn make(run: &RunId) -> anyhow::Result<Scratch> {
        let folder = std::env::temp_dir().join(format!("greenlight-{run}-shadow"));
        let user = spare_user().await?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("could not make the folder `{}`", folder.display()))?;
        let folder = folder.canonicalize()?;
        let watcher = Watcher::over(&folder, user)?;
        Ok(Scratch { folder, user, watcher })
    }

    fn remove(self) -> anyhow::Result<()> {
        end_throwaway(&self.folder, self.user);
        self.watcher.dismiss();
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("could not remove the folder `{}`", self.folder.display()))
    }
}

async fn shadow_on(
    scratch: &Scratch,
    programs: &Programs,
    dump: &migrate::shadow::SchemaDump,
    pending: &[Migration],
    playbook: &Playbook,
    run: &RunId,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<ShadowReport> {
    let settings = [("fsync", "off"), ("max_locks_per_transaction", "4096")];
    let server = Throwaway::start(programs, &scratch.folder, scratch.user, &settings, clock).await?;
    let mut report = migrate::shadow::run(&server.endpoint(), dump, pending, &playbook.history, run).await?;
    report.stood_on = format!("{}, {}", report.stood_on, server.runs_as());
    Ok(report)
}

/// Looks at two servers and writes a first playbook for them.
///
/// # Errors
/// When one of them cannot be looked at.
pub async fn first_playbook(blue: &str, green: &str, pgbouncer: Option<&str>) -> anyhow::Result<String> {
    let (blue_url, green_url) = (Template(blue.to_owned()), Template(green.to_owned()));
    let blue = look_at(&typed_endpoint(blue, "`--blue`")?, "blue").await?;
    let green = look_at(&typed_endpoint(green, "`--green`")?, "green").await?;
    let (config, entries) = match pgbouncer {
        None => (None, Vec::new()),
        Some(url) => look_at_pgbouncer(&typed_endpoint(url, "`--pgbouncer`")?, &blue.database).await?,
    };
    Ok(plan::first_playbook(&plan::FirstLook {
        blue: &blue,
        green: &green,
        blue_url: &blue_url,
        green_url: &green_url,
        pgbouncer,
        pgbouncer_config: config.as_deref(),
        pgbouncer_entries: &entries,
    }))
}

/// The configuration file of a PgBouncer, where it says an absolute path, and its names for `database`.
async fn look_at_pgbouncer(admin: &Endpoint, database: &str) -> anyhow::Result<(Option<String>, Vec<String>)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (name, config) = ("main".to_owned(), std::path::PathBuf::new());
    let pgbouncer = PgBouncer::new(name, admin.clone(), database.to_owned(), config, admin.clone(), clock);
    Ok((pgbouncer.config_path().await?.filter(|path| path.starts_with('/')), pgbouncer.entries_for(database).await?))
}

/// What each route says of its version.
///
/// # Errors
/// A URL that cannot be used.
pub async fn route_versions(playbook: &Playbook) -> anyhow::Result<Vec<String>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let blue = endpoint(&playbook.blue.url)?;
    let mut versions = Vec::new();
    for spec in &playbook.routes {
        versions.push(ports::pgbouncer(spec, &blue, &clock)?.survey().await.about);
    }
    Ok(versions)
}

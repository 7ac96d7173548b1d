//! A plan's ports, as real things.

use super::{endpoint, pass, restore_place, store_of};
use crate::engine::ProcessGuard;
use crate::migrate::{PgMigrator, shadow::OnGreen};
use crate::plan::{Plan, RestoreSpec, RouteKind, RouteSpec, ServerSpec, SnapshotSpec, Strategy};
use crate::postgres::programs::Installed;
use crate::postgres::{PgServer, PgServerOptions, Server};
use crate::provider::{LocalProvider, Provider};
use crate::route::{PgBouncer, Target};
use crate::snapshot::{BeforeChange, Look, Snapshots};
use crate::step::{Ports, Route};
use crate::validate;
use crate::word::{Clock, Endpoint, PortError, Reference, Side, SystemClock};
use anyhow::Context;
use futures_util::future::BoxFuture;
use std::path::Path;
use std::sync::{Arc, atomic::AtomicU64};
use std::time::Duration;
use tokio::sync::Mutex;

/// The outside world of a run. Opens no connection yet. `epoch`: the lease under which its sessions work.
///
/// # Errors
/// A reference that leads nowhere, or a URL that cannot be used.
pub async fn ports(plan: &Plan, epoch: &Arc<AtomicU64>, state_dir: &Path) -> anyhow::Result<Ports> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (blue_at, green_at) = (endpoint(&plan.blue.url)?, endpoint(&plan.green.url)?);
    let secret = pass::secret(state_dir, &plan.run)?;
    let server = |side: Side, at: &Endpoint, peer: Endpoint| -> Arc<dyn Server> {
        Arc::new(PgServer::new(PgServerOptions {
            side,
            endpoint: at.clone(),
            peer,
            maintenance_database: None,
            run: plan.run.clone(),
            epoch: epoch.clone(),
            history: plan.history.clone(),
            pass: pass::of_side(&secret, side),
            clock: clock.clone(),
        }))
    };
    let blue = server(Side::Blue, &blue_at, peer(&plan.green, &green_at)?);
    let green = server(Side::Green, &green_at, peer(&plan.blue, &blue_at)?);
    let routes = plan.routes.iter().map(|spec| route(spec, &blue_at, &green_at, &clock)).collect::<anyhow::Result<_>>()?;
    let provider: Option<Arc<dyn Provider>> = match &plan.standby {
        None => None,
        Some(spec) => Some(Arc::new(LocalProvider {
            run: plan.run.clone(),
            blue: blue_at.clone(),
            slot: plan.names.standby_slot.clone(),
            spec: spec.clone(),
            installed: super::installed().await,
            clock: clock.clone(),
        })),
    };
    let program = std::env::current_exe().context("could not find this program's own file, which the guard runs")?;
    Ok(Ports {
        routes,
        provider,
        snapshots: match &plan.snapshot {
            Some(spec) => Some(snapshots(plan, spec, &plan.name, &blue_at, restore_into(plan, green_at.port), &clock).await?),
            None => None,
        },
        green_snapshots: match &plan.green_snapshot {
            Some(spec) => Some(snapshots(plan, spec, &format!("{}_green", plan.name), &green_at, None, &clock).await?),
            None => None,
        },
        migrator: Arc::new(migrator(plan, [&blue_at, &green_at], epoch, &clock).passing(pass::of_side(&secret, Side::Green))),
        shadow: Arc::new(OnGreen {
            blue: blue_at.clone(),
            green: green_at.clone(),
            run: plan.run.clone(),
            installed: if plan.provisional { super::installed().await } else { Installed::default() },
        }),
        validators: validate::all(plan, [&blue_at, &green_at], [&blue, &green], &clock),
        last_looks: validate::last_looks(plan, [&blue_at, &green_at]),
        refusals: validate::refusals(plan, [&blue_at, &green_at], [&blue, &green], &clock),
        guard: Arc::new(ProcessGuard::new(program, state_dir.to_owned(), plan.run.clone(), secrets(plan))),
        blue,
        green,
        clock,
        provisional: plan.provisional,
    })
}

/// The variables of the environment by which a run's servers and routes are reached.
fn secrets(plan: &Plan) -> Vec<String> {
    let servers = [&plan.blue, &plan.green].into_iter().flat_map(|server| [Some(&server.url), server.peer_url.as_ref()]);
    let routes = plan.routes.iter().flat_map(|route| match &route.kind {
        RouteKind::Pgbouncer { admin, probe, .. } => [Some(admin), probe.as_ref()],
    });
    let references = servers.chain(routes).flatten().flat_map(|url| url.references().unwrap_or_default());
    let named = references.filter_map(|reference| match reference {
        Reference::Env(name) => Some(name),
        Reference::File(_) => None,
    });
    named.collect()
}

/// Of the server that the strategy migrates.
fn migrator(plan: &Plan, at: [&Endpoint; 2], epoch: &Arc<AtomicU64>, clock: &Arc<dyn Clock>) -> PgMigrator {
    let side = match plan.strategy {
        Strategy::Sync | Strategy::Freeze | Strategy::Restored => Side::Green,
        Strategy::InPlace => Side::Blue,
    };
    let at = at[side as usize].clone();
    PgMigrator::new(at, plan.run.clone(), epoch.clone(), plan.history.clone(), clock.clone()).on(side)
}

/// Where a change in place restores blue to, with green's port.
fn restore_into(plan: &Plan, port: u16) -> Option<(&RestoreSpec, u16)> {
    plan.restore_into.as_ref().map(|spec| (spec, port))
}

async fn snapshots(
    plan: &Plan,
    spec: &SnapshotSpec,
    name: &str,
    of: &Endpoint,
    restore_into: Option<(&RestoreSpec, u16)>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn Snapshots>> {
    let from_host = spec.url.as_ref().map_or_else(|| Ok(of.clone()), endpoint)?;
    let (store, source) = store_of(spec, name, of.clone(), from_host).await?;
    let assertions = plan.validate.assertions.clone();
    let look = move |at: Endpoint| -> BoxFuture<'static, Result<(), PortError>> {
        let assertions = assertions.clone();
        Box::pin(async move { validate::hold(&at, &assertions).await })
    };
    let restore_into = match restore_into {
        Some((into, port)) => Some(restore_place(into, spec, store.as_ref(), port).await),
        None => None,
    };
    Ok(Arc::new(BeforeChange {
        store,
        server: source.at,
        age_max: Duration::from_secs(spec.max_age_secs),
        prove: spec.prove.then(|| Arc::new(look) as Look),
        restore_into,
        clock: clock.clone(),
        beside: Mutex::default(),
    }))
}

/// How the other server reaches this one.
fn peer(spec: &ServerSpec, at: &Endpoint) -> anyhow::Result<Endpoint> {
    spec.peer_url.as_ref().map_or_else(|| Ok(at.clone()), endpoint)
}

pub(super) fn route(spec: &RouteSpec, blue: &Endpoint, green: &Endpoint, clock: &Arc<dyn Clock>) -> anyhow::Result<Route> {
    let router = pgbouncer(spec, blue, clock)?;
    let target = |at: &Endpoint| Target { host: at.host.clone(), port: at.port, database: at.database.clone() };
    let (host, port) = (spec.green.host.clone(), spec.green.port);
    let green = target(green);
    let green = Target { host: host.unwrap_or(green.host), port: port.unwrap_or(green.port), database: green.database };
    let blue = spec.entry.as_ref().map_or_else(|| target(blue), |entry| entry.points_at.clone());
    Ok(Route { router: Arc::new(router), blue, green })
}

pub(super) fn pgbouncer(spec: &RouteSpec, blue: &Endpoint, clock: &Arc<dyn Clock>) -> anyhow::Result<PgBouncer> {
    let RouteKind::Pgbouncer { admin, database, config, probe } = &spec.kind;
    let admin = endpoint(admin)?;
    let probe = match probe {
        Some(url) => endpoint(url)?,
        // Through the same PgBouncer, as blue's user.
        None => {
            Endpoint { database: database.clone(), user: blue.user.clone(), password: blue.password.clone(), ..admin.clone() }
        }
    };
    let router = PgBouncer::new(spec.name.clone(), admin, database.clone(), config.clone(), probe, clock.clone());
    Ok(router.with_entry(spec.entry.clone()))
}

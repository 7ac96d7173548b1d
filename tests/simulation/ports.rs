//! The other ports of the simulated world: clock, routes, guard, migrator, validator, provider.

use crate::{
    fault::{Call, Kind, Part, answer},
    plan::{MAX_PAUSE, target, work},
    server::FakeServer,
    world::{Node, Shared, StandingGuard, World},
};
use async_trait::async_trait;
use greenlight::{
    migrate::{Applied, Migration, Migrator, Progress as Told, Shadow, Unfinished},
    plan::{Arrival, Plan, SchemaWork, Strategy},
    provider::{CopyProgress, Provider, StandbyState},
    route::{Rehearsal, RouteState, Router, Target},
    snapshot::{ArchiveProof, Basis, Snapshots, Stands},
    step::{Guard, Ports, Route},
    validate::{Difference, Findings, Progress, Validator},
    word::{Clock, Failure, Lsn, PortError, Side, Timestamp},
};
use jiff::SignedDuration;
use std::{sync::Arc, time::Duration};

/// Everything that one process uses.
pub(crate) fn ports(world: &Shared, process: usize) -> Ports {
    let (plan, routes) = {
        let world = world.lock();
        (world.plan.clone(), world.routes.len())
    };
    let one = || OfProcess { world: world.clone(), process };
    let server = |side| Arc::new(FakeServer { world: world.clone(), process, side, names: plan.names.clone() });
    let route = |at: usize| Route {
        router: Arc::new(FakeRouter { of: one(), at }),
        blue: target(Side::Blue),
        green: target(Side::Green),
    };
    Ports {
        blue: server(Side::Blue),
        green: server(Side::Green),
        routes: (0..routes).map(route).collect(),
        snapshots: matches!(plan.strategy, Strategy::Freeze | Strategy::InPlace)
            .then(|| Arc::new(FakeSnapshots(one())) as Arc<dyn Snapshots>),
        green_snapshots: plan.green_snapshot.is_some().then(|| Arc::new(FakeSnapshots(one())) as Arc<dyn Snapshots>),
        provider: plan.standby.is_some().then(|| Arc::new(FakeProvider(one())) as Arc<dyn Provider>),
        migrator: Arc::new(FakeMigrator {
            of: one(),
            on: if plan.strategy == Strategy::InPlace { Side::Blue } else { Side::Green },
        }),
        shadow: Arc::new(FakeShadow(one())),
        provisional: plan.provisional,
        validators: vec![Arc::new(FakeValidator(one()))],
        last_looks: vec![(Side::Blue, Arc::new(FakeValidator(one())))],
        refusals: Vec::new(),
        guard: Arc::new(FakeGuard(one())),
        clock: Arc::new(FakeClock(one())),
    }
}

/// A port's world, and the process that it belongs to.
#[derive(Clone, Debug)]
struct OfProcess {
    world: Shared,
    process: usize,
}

impl OfProcess {
    fn call(&self, name: &'static str, on: Option<Side>, kind: Kind) -> Call {
        Call { process: self.process, name, on, kind }
    }
}

#[derive(Debug)]
struct FakeClock(OfProcess);

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.0.world.lock().timestamp()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.world.lock().now)
    }

    /// What a process cannot see that was started after it.
    fn jumped(&self) -> SignedDuration {
        SignedDuration::ZERO
    }

    async fn sleep(&self, duration: Duration) {
        let alive = {
            let mut world = self.0.world.lock();
            // To a killed process no time passes.
            if world.processes[self.0.process].alive {
                world.pass(u64::try_from(duration.as_micros()).unwrap());
            }
            if world.processes[self.0.process].alive {
                world.rival_tries(self.0.process);
            }
            world.violation.is_none() && world.processes[self.0.process].alive
        };
        answer(alive.then_some(())).await;
    }
}

#[derive(Debug)]
struct FakeRouter {
    of: OfProcess,
    at: usize,
}

impl FakeRouter {
    async fn touch(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut World, usize) -> Result<(), PortError> + Send + 'static,
    ) -> Result<(), PortError> {
        let (call, at) = (self.of.call(name, None, Kind::Touch), self.at);
        self.of.world.change(call, move |world, _| effect(world, at)).await
    }
}

#[async_trait]
impl Router for FakeRouter {
    fn name(&self) -> &str {
        ["first", "second", "third"][self.at]
    }

    async fn connect(&self) -> Result<(), PortError> {
        self.of.world.read(self.of.call("route: connect", None, Kind::Read), |_| Ok(())).await
    }

    async fn observe(&self) -> Result<RouteState, PortError> {
        let call = self.of.call("route: observe", None, Kind::Look);
        let odd = RouteState { points_at: target(Side::Blue), paused: true };
        let look = |world: &World| {
            let route = &world.routes[self.at];
            Ok(RouteState { points_at: target(route.points_at), paused: route.paused_since.is_some() })
        };
        self.of.world.look(call, look, Some(odd)).await
    }

    async fn settle(&self) -> Result<(), PortError> {
        self.touch("route: settle", |world, at| {
            (world.routes[at].settled, world.routes[at].is_hasty) = (true, true);
            Ok(())
        })
        .await
    }

    async fn pause(&self, limit: Duration) -> Result<(), PortError> {
        assert!(limit <= MAX_PAUSE);
        let process = self.of.process;
        self.touch("route: pause", move |world, at| {
            let now = world.now;
            world.check_pause(process, at);
            world.routes[at].paused_since.get_or_insert(now);
            Ok(())
        })
        .await
    }

    async fn point_at(&self, target: &Target) -> Result<(), PortError> {
        let side = side_of(target);
        let call = self.of.call("route: point_at", None, Kind::Touch);
        self.touch("route: point_at", move |world, at| {
            if at == 0 && side == Side::Green && world.now < world.unmovable_until {
                return Err(call.error(Failure::Uncertain).because("it does not read its file"));
            }
            let route = &mut world.routes[at];
            if route.is_unmovable && route.points_at != side {
                return Err(call.error(Failure::Uncertain).because("after RELOAD it points where it did"));
            }
            route.points_at = if route.is_stubborn { route.points_at } else { side };
            route.rehearses = false;
            Ok(())
        })
        .await
    }

    async fn rehearse(&self, target: &Target) -> Result<Rehearsal, PortError> {
        let (side, at) = (side_of(target), self.at);
        let call = self.of.call("route: rehearse", None, Kind::TouchInParts);
        let effect = move |world: &mut World, part: Part| {
            world.routes[at].rehearses = part == Part::First;
            let node = &world.nodes[side as usize];
            if world.routes[at].is_unmovable || !node.up || !node.allow_connections {
                return Err(call.error(Failure::Transient).because("it cannot be moved"));
            }
            Ok(Rehearsal {
                answers: side.to_string(),
                arrival: Arrival { address: None, tls: false },
                refused: Vec::new(),
                let_in: Vec::new(),
            })
        };
        self.of.world.change(call, effect).await
    }

    async fn hasten(&self) -> Result<(), PortError> {
        let is_hasty = self.of.world.lock().routes[self.at].is_hasty;
        if is_hasty {
            return self.of.world.read(self.of.call("route: hasten", None, Kind::Read), |_| Ok(())).await;
        }
        self.touch("route: hasten", |world, at| {
            world.routes[at].is_hasty = true;
            Ok(())
        })
        .await
    }

    async fn tidy(&self) -> Result<(), PortError> {
        let is_tidy = {
            let world = self.of.world.lock();
            !world.routes[self.at].rehearses && !world.routes[self.at].is_hasty
        };
        if is_tidy {
            return self.of.world.read(self.of.call("route: tidy", None, Kind::Read), |_| Ok(())).await;
        }
        self.touch("route: tidy", |world, at| {
            (world.routes[at].rehearses, world.routes[at].is_hasty) = (false, false);
            Ok(())
        })
        .await
    }

    async fn resume(&self) -> Result<(), PortError> {
        let call = self.of.call("route: resume", None, Kind::Touch);
        let lasts = self.of.world.lock().next_call_lasts();
        let _lasting = lasts.then(|| LastingResume::new(self));
        self.touch("route: resume", move |world, at| {
            if at == 0 && world.now < world.unresumable_until {
                return Err(call.error(Failure::Uncertain).because("it does not answer"));
            }
            (world.routes[at].paused_since, world.routes[at].settled) = (None, false);
            world.routes[at].is_hasty = true;
            Ok(())
        })
        .await
    }

    async fn who_answers(&self) -> Result<String, PortError> {
        let call = self.of.call("route: who_answers", None, Kind::Look);
        let look = |world: &World| {
            let route = &world.routes[self.at];
            let node = &world.nodes[route.points_at as usize];
            if route.paused_since.is_some() || !node.up || !node.allow_connections {
                return Err(call.error(Failure::Transient).because("nobody answers"));
            }
            Ok(node.side.to_string())
        };
        self.of.world.look(call, look, Some("somebody else".to_owned())).await
    }

    async fn users(&self) -> Result<Vec<String>, PortError> {
        self.of.world.read(self.of.call("route: users", None, Kind::Read), |_| Ok(vec!["app".to_owned()])).await
    }

    async fn trouble(&self) -> Result<Option<String>, PortError> {
        let call = self.of.call("route: trouble", None, Kind::Look);
        let look = |world: &World| {
            let node = &world.nodes[world.routes[self.at].points_at as usize];
            Ok((!node.up).then(|| "clients wait".to_owned()))
        };
        self.of.world.look(call, look, Some(Some("clients wait".to_owned()))).await
    }
}

/// A RESUME that is under way, and lasts.
struct LastingResume<'a>(&'a FakeRouter);

impl LastingResume<'_> {
    fn new(router: &FakeRouter) -> LastingResume<'_> {
        router.of.world.lock().routes[router.at].resume_lasts_until = Some(u64::MAX);
        LastingResume(router)
    }
}

impl Drop for LastingResume<'_> {
    fn drop(&mut self) {
        let mut world = self.0.of.world.lock();
        world.routes[self.0.at].resume_lasts_until = Some(world.now);
    }
}

fn side_of(target: &Target) -> Side {
    if target.port == 1 { Side::Blue } else { Side::Green }
}

struct FakeGuard(OfProcess);

#[async_trait]
impl Guard for FakeGuard {
    async fn stand_by(&self, within: Duration) -> Result<(), PortError> {
        let call = self.0.call("guard: stand_by", None, Kind::Touch);
        self.0
            .world
            .change(call, move |world, _| {
                let deadline = world.now + u64::try_from(within.as_micros()).unwrap();
                world.guard = Some(StandingGuard { deadline, coordinator: call.process, died_at: None });
                Ok(())
            })
            .await
    }

    async fn stand_down(&self) -> Result<(), PortError> {
        let call = self.0.call("guard: stand_down", None, Kind::Touch);
        self.0
            .world
            .change(call, move |world, _| {
                world.check_stand_down();
                world.guard = None;
                Ok(())
            })
            .await
    }

    async fn is_standing(&self) -> bool {
        self.0.world.lock().guard.is_some_and(|guard| guard.died_at.is_none())
    }
}

struct FakeMigrator {
    of: OfProcess,
    on: Side,
}

fn bit(version: &str) -> u8 {
    if version == "0001" { 0b01 } else { 0b10 }
}

#[async_trait]
impl Migrator for FakeMigrator {
    async fn applied(&self) -> Result<Vec<Applied>, PortError> {
        let call = self.of.call("migrator: applied", Some(self.on), Kind::Read);
        let look = |world: &World| {
            let node = &world.nodes[self.on as usize];
            if !node.up || !node.allow_connections {
                return Err(call.error(Failure::Transient));
            }
            let done = ["0001", "0002"].into_iter().filter(|version| node.migrated & bit(version) != 0);
            let applied = |version: &str| Applied {
                version: version.to_owned(),
                checksum: String::new(),
                applied_at: Timestamp::UNIX_EPOCH,
                execution_time_ms: 1,
            };
            Ok(done.map(applied).collect())
        };
        self.of.world.read(call, look).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, PortError> {
        let call = self.of.call("migrator: unfinished", Some(self.on), Kind::Read);
        let look = |world: &World| {
            let node = &world.nodes[self.on as usize];
            let half = Unfinished { version: "0002".to_owned(), down: false, reached: "orders up to (id) = (1)".to_owned() };
            if node.up { Ok(Vec::from_iter((node.half != 0).then_some(half))) } else { Err(call.error(Failure::Transient)) }
        };
        self.of.world.read(call, look).await
    }

    async fn apply(&self, migration: &Migration, _: Told<'_>) -> Result<u64, PortError> {
        let in_batches = migration.batch_rows().is_some();
        let kind = if in_batches { Kind::ChangeInParts } else { Kind::Change };
        let (call, bit, on) = (self.of.call("migrator: apply", Some(self.on), kind), bit(&migration.version), self.on);
        self.of
            .world
            .change(call, move |world, part| {
                let fails = world.kind.fails_at == Some(bit);
                let node = world.node(on);
                if !node.up || !node.allow_connections || node.in_recovery {
                    return Err(call.error(Failure::Transient));
                }
                if in_batches && (fails || part == Part::First) && node.migrated & bit == 0 {
                    node.half |= bit;
                }
                if fails {
                    return Err(call.error(Failure::Refused).because("a row is in its way"));
                }
                if node.migrated & bit != 0 {
                    // The history table's key refuses it; a living coordinator should not have tried.
                    if !world.landing {
                        world.violated("a migration was applied twice");
                    }
                    return Err(call.error(Failure::Refused));
                }
                if part == Part::Whole {
                    node.migrated |= bit;
                    node.half &= !bit;
                }
                Ok(1)
            })
            .await
    }

    async fn revert(&self, migration: &Migration, _: Told<'_>) -> Result<(), PortError> {
        let kind = if migration.batch_rows().is_some() { Kind::ChangeInParts } else { Kind::Change };
        let (call, bit, on) = (self.of.call("migrator: revert", Some(self.on), kind), bit(&migration.version), self.on);
        let has_down = migration.down.is_some();
        self.of
            .world
            .change(call, move |world, part| {
                let later = (world.nodes[on as usize].migrated | world.nodes[on as usize].half) & 0b10;
                if !world.landing && (!has_down || (bit == 0b01 && later != 0)) {
                    world.violated("a migration is taken back without a way, or out of its order");
                }
                let node = world.node(on);
                if !node.up {
                    return Err(call.error(Failure::Transient));
                }
                if part == Part::Whole {
                    node.migrated &= !bit;
                    node.half &= !bit;
                }
                Ok(())
            })
            .await
    }
}

struct FakeShadow(OfProcess);

#[async_trait]
impl Shadow for FakeShadow {
    async fn judge(&self, plan: &Plan) -> Result<SchemaWork, PortError> {
        assert!(plan.provisional);
        let call = self.0.call("shadow: judge", Some(Side::Green), Kind::ChangeInParts);
        self.0
            .world
            .change(call, move |world, part| {
                // What lands of a dead session is the statement that makes the database.
                let is_left = part == Part::First || world.landing;
                world.green_beside(call)?.has_scratch = is_left;
                Ok(work(world.kind))
            })
            .await
    }

    async fn ensure_gone(&self) -> Result<(), PortError> {
        let call = self.0.call("shadow: ensure_gone", Some(Side::Green), Kind::Change);
        self.0
            .world
            .change(call, move |world, _| {
                world.green_beside(call)?.has_scratch = false;
                Ok(())
            })
            .await
    }
}

impl World {
    /// Green, for what needs a session outside of the run's database.
    fn green_beside(&mut self, call: Call) -> Result<&mut Node, PortError> {
        let green = self.node(Side::Green);
        if !green.up || green.in_recovery {
            return Err(call.error(Failure::Transient));
        }
        Ok(green)
    }
}

#[derive(Debug)]
struct FakeValidator(OfProcess);

#[async_trait]
impl Validator for FakeValidator {
    fn name(&self) -> &'static str {
        "rows"
    }

    async fn check(&self, progress: Progress<'_>) -> Result<Findings, PortError> {
        progress("public.orders", 0, 1);
        let call = self.0.call("validator: check", None, Kind::Look);
        let difference = Difference { object: "public.orders".to_owned(), key: None, what: "differs".to_owned() };
        let different = Findings { differences: vec![difference], tables: 1, rows: 1 };
        let equal = Findings { differences: Vec::new(), tables: 1, rows: 1 };
        let look = |world: &World| {
            let [blue, green] = &world.nodes;
            if !blue.up || !(green.up || world.plan.strategy == Strategy::InPlace) {
                return Err(call.error(Failure::Transient));
            }
            let broken = green.subscriptions.iter().flatten().any(|subscription| subscription.stuck.is_some());
            Ok(if broken || world.differs { different.clone() } else { equal })
        };
        self.0.world.look(call, look, Some(different.clone())).await
    }
}

fn basis() -> Basis {
    Basis {
        backup: "first".to_owned(),
        ended_at: Timestamp::UNIX_EPOCH,
        place: "a store".to_owned(),
        archived_ms: 1,
        restore_ms: None,
    }
}

/// Backups. What they are for is looked at by tests on real servers.
#[derive(Debug)]
struct FakeSnapshots(OfProcess);

#[async_trait]
impl Snapshots for FakeSnapshots {
    async fn ensure(&self, progress: greenlight::snapshot::Progress<'_>) -> Result<Basis, PortError> {
        progress("copying", 1, 2);
        let call = self.0.call("snapshots: ensure", Some(Side::Blue), Kind::Change);
        let basis = basis();
        self.0
            .world
            .change(call, move |world, _| world.node(Side::Blue).up.then_some(basis).ok_or(call.error(Failure::Transient)))
            .await
    }

    async fn ensure_since(&self, _: Timestamp) -> Result<Option<Basis>, PortError> {
        let call = self.0.call("snapshots: ensure_since", Some(Side::Green), Kind::Look);
        let basis = basis();
        let look = |world: &World| {
            world.nodes[Side::Green as usize].up.then(|| Some(basis.clone())).ok_or(call.error(Failure::Transient))
        };
        self.0.world.look(call, look, Some(None)).await
    }

    async fn ensure_archived(&self) -> Result<ArchiveProof, PortError> {
        let call = self.0.call("snapshots: ensure_archived", Some(Side::Blue), Kind::Change);
        let proof = ArchiveProof { segment: "1".to_owned(), until: Lsn(1), took: Duration::from_millis(1) };
        self.0
            .world
            .change(call, move |world, _| world.node(Side::Blue).up.then_some(proof).ok_or(call.error(Failure::Transient)))
            .await
    }

    async fn ensure_restorable(&self, _: &str, lsn: Lsn) -> Result<(), PortError> {
        let call = self.0.call("snapshots: ensure_restorable", None, Kind::Read);
        let look = |world: &World| {
            let point = world.nodes[Side::Blue as usize].restore_point;
            assert!(point.is_some_and(|point| point as u64 <= lsn.0));
            Ok(())
        };
        self.0.world.read(call, look).await
    }

    async fn restore(&self, _: &str, progress: greenlight::snapshot::Progress<'_>) -> Result<Option<Stands>, PortError> {
        progress("copying", 1, 2);
        self.touch("snapshots: restore", |world, part| {
            if world.standby == StandbyState::Running && !world.nodes[Side::Green as usize].in_recovery {
                return Ok(None);
            }
            if part == Part::Whole && world.standby != StandbyState::Running {
                world.restore_green();
            }
            Ok(Some(Stands { place: "/restored".to_owned(), replayed: Lsn(1), last_commit: None }))
        })
        .await
    }

    async fn promote_restored(&self) -> Result<(), PortError> {
        let call = self.0.call("snapshots: promote", Some(Side::Green), Kind::Change);
        self.0
            .world
            .change(call, move |world, _| {
                let green = world.node(Side::Green);
                if !green.up {
                    return Err(call.error(Failure::Transient));
                }
                let was_standby = green.in_recovery;
                (green.in_recovery, green.timeline) = (false, 2);
                world.check_born(was_standby);
                Ok(())
            })
            .await
    }
}

impl FakeSnapshots {
    async fn touch<T: Send + 'static>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        self.0.world.change(self.0.call(name, None, Kind::TouchInParts), effect).await
    }
}

#[derive(Debug)]
struct FakeProvider(OfProcess);

#[async_trait]
impl Provider for FakeProvider {
    async fn standby(&self) -> Result<StandbyState, PortError> {
        self.0.world.read(self.0.call("provider: standby", None, Kind::Read), |world| Ok(world.standby)).await
    }

    async fn make_standby(&self, progress: CopyProgress<'_>) -> Result<(), PortError> {
        progress(0, 1);
        let call = self.0.call("provider: make_standby", None, Kind::TouchInParts);
        self.0
            .world
            .change(call, move |world, part| {
                if !matches!(world.standby, StandbyState::Absent | StandbyState::Partial) {
                    return Err(call.error(Failure::Refused).because("the folder is not empty"));
                }
                world.node(Side::Blue).physical_slot = true;
                world.standby = StandbyState::Partial;
                if part == Part::Whole {
                    world.standby = StandbyState::Running;
                    world.make_green();
                }
                Ok(())
            })
            .await
    }

    async fn start_standby(&self) -> Result<(), PortError> {
        let call = self.0.call("provider: start_standby", None, Kind::Touch);
        self.0
            .world
            .change(call, move |world, _| {
                world.standby = StandbyState::Running;
                world.node(Side::Green).up = true;
                Ok(())
            })
            .await
    }

    async fn remove_standby(&self) -> Result<(), PortError> {
        let call = self.0.call("provider: remove_standby", None, Kind::TouchInParts);
        self.0
            .world
            .change(call, move |world, part| {
                world.check_removal();
                (world.node(Side::Green).up, world.node(Side::Green).back_at) = (false, None);
                world.standby = if part == Part::Whole { StandbyState::Absent } else { StandbyState::Partial };
                Ok(())
            })
            .await
    }
}

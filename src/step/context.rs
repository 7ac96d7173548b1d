use crate::migrate::{Migrator, Shadow};
use crate::plan::Plan;
use crate::postgres::Server;
use crate::provider::Provider;
use crate::route::{Router, Target};
use crate::run::{Fact, Run};
use crate::snapshot::Snapshots;
use crate::validate::Validator;
use crate::word::{Clock, PortError, Side};
use async_trait::async_trait;
use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// The outside world of one run, as ports. Made by `wire`, or of fakes by the simulation.
#[derive(Clone)]
pub struct Ports {
    pub blue: Arc<dyn Server>,
    pub green: Arc<dyn Server>,
    pub routes: Vec<Route>,
    pub provider: Option<Arc<dyn Provider>>,
    /// Where the playbook says that there are backups of blue.
    pub snapshots: Option<Arc<dyn Snapshots>>,
    /// And of green, once it serves.
    pub green_snapshots: Option<Arc<dyn Snapshots>>,
    /// Migrates green, or blue in place.
    pub migrator: Arc<dyn Migrator>,
    /// Tries the migrations on green, where they could not be tried before the run.
    pub shadow: Arc<dyn Shadow>,
    pub validators: Vec<Arc<dyn Validator>>,
    /// What is asked once more right before a window to this side.
    pub last_looks: Vec<(Side, Arc<dyn Validator>)>,
    /// What is asked where the flow to this side stands still: the rows that it refuses.
    pub refusals: Vec<(Side, Arc<dyn Validator>)>,
    pub guard: Arc<dyn Guard>,
    pub clock: Arc<dyn Clock>,
    /// Made by a plan that was provisional: some of them know of its tables only.
    pub provisional: bool,
}

/// A route, and where it points for each side.
#[derive(Clone, Debug)]
pub struct Route {
    pub router: Arc<dyn Router>,
    pub blue: Target,
    pub green: Target,
}

impl Route {
    pub fn target(&self, side: Side) -> &Target {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

impl Ports {
    pub fn server(&self, side: Side) -> &Arc<dyn Server> {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// The second process that holds a deadline over the window.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Starts it and returns when it is ready to act: it will take the run over and drive to safety when this process
    /// dies, or `within` from now unless it is stood down first.
    async fn stand_by(&self, within: Duration) -> Result<(), PortError>;
    /// It ends without acting.
    async fn stand_down(&self) -> Result<(), PortError>;
    /// Whether it lives. Nobody is paused without it.
    async fn is_standing(&self) -> bool;
}

/// Where a step's facts go. Durable when `learn` returns; the engine's journal behind it.
#[async_trait]
pub trait Records: Send + Sync {
    async fn learn(&mut self, fact: Fact) -> Result<(), PortError>;
    /// The same for the commit point, of which it must be known whether it is on record: read back until it is. `Some`: it is
    /// certain that it is not, and why.
    async fn commit(&mut self, fact: Fact) -> Result<Option<String>, PortError>;
    /// Before a window: what it will have to record has its room, and nobody else writes until it is closed.
    async fn hold(&mut self) -> Result<(), PortError>;
    fn run(&self) -> &Run;
    /// Somebody else has taken the run over: nothing may be done any more.
    fn is_superseded(&self) -> bool;
}

/// What a step is given.
pub struct StepContext<'a> {
    pub plan: &'a Plan,
    pub ports: &'a Ports,
    pub records: &'a mut dyn Records,
    /// Set when this process is asked to end.
    pub interrupted: Arc<AtomicBool>,
    /// Told what the step is doing, for people; not recorded.
    pub progress: &'a (dyn Fn(&str) + Send + Sync),
}

impl StepContext<'_> {
    pub fn run(&self) -> &Run {
        self.records.run()
    }

    /// Durable before it returns: a crash after it cannot forget the fact. Err `Uncertain`: stop at once, since the run
    /// may have been taken over.
    pub async fn learn(&mut self, fact: Fact) -> Result<(), PortError> {
        self.records.learn(fact).await
    }

    pub fn server(&self, side: Side) -> Arc<dyn Server> {
        self.ports.server(side).clone()
    }
}

impl fmt::Debug for StepContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext").field("run", &self.plan.run).finish_non_exhaustive()
    }
}

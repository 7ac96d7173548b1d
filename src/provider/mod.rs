//! Who can create, promote, restart and remove a server. The port is `Provider`.

mod as_server;
mod configuration;
mod local;
pub mod processes;
mod server;
mod sql;
mod throwaway;

pub use local::LocalProvider;
pub use server::{CopyProgress, LocalServer, Login, NewServer, StopMode, crash_in};
pub use throwaway::{Throwaway, end as end_throwaway, spare_user};

use crate::word::PortError;
use async_trait::async_trait;
use std::fmt;

/// What is there of the standby that a run is to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandbyState {
    /// The folder is absent or empty.
    Absent,
    /// A copy was begun and not finished: nothing in it is of worth.
    Partial,
    /// The copy is whole, and the server answers.
    Running,
    /// The copy is whole, and the server is stopped.
    Stopped,
    /// The folder holds what this run did not put there. Never touched.
    NotOurs,
}

#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug {
    async fn standby(&self) -> Result<StandbyState, PortError>;
    /// Copies blue into the folder and starts the server as blue's standby. Returns when it accepts connections.
    async fn make_standby(&self, progress: CopyProgress<'_>) -> Result<(), PortError>;
    async fn start_standby(&self) -> Result<(), PortError>;
    /// Stops the server and removes the folder, only where this run made it.
    async fn remove_standby(&self) -> Result<(), PortError>;
}

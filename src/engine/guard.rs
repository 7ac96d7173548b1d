//! The coordinator's side of the guard: a second process of the same binary, detached, so that Ctrl-C and a dying terminal
//! do not reach it.

use crate::process;
use crate::step::Guard;
use crate::word::{PortError, RunId};
use async_trait::async_trait;
use std::{path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Child,
    sync::Mutex,
};

/// How long the guard may take to open its connections.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Starts `greenlight guard` for each window.
#[derive(Debug)]
pub struct ProcessGuard {
    program: PathBuf,
    state_dir: PathBuf,
    run: RunId,
    /// The variables that the plan's URLs name: the guard logs in as the coordinator does, and is given no others.
    secrets: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl ProcessGuard {
    /// `program`: this binary. `state_dir`: where the journal is. `secrets`: the variables that the plan's URLs name.
    pub fn new(program: PathBuf, state_dir: PathBuf, run: RunId, secrets: Vec<String>) -> ProcessGuard {
        ProcessGuard { program, state_dir, run, secrets, child: Mutex::new(None) }
    }
}

#[async_trait]
impl Guard for ProcessGuard {
    async fn stand_by(&self, within: Duration) -> Result<(), PortError> {
        self.stand_down().await?;
        let failed = |what: &str| PortError::transient(format!("start the guard of the window: {what}"));
        let mut command = process::detached_command(&self.program, &self.secrets);
        let within_ms = within.as_millis().to_string();
        command.arg("--state").arg(&self.state_dir).arg("guard").args(["--run", self.run.as_str(), "--within-ms", &within_ms]);
        command.args(["--parent", &std::process::id().to_string()]);
        let mut child = command.spawn().map_err(|error| failed("it could not be started").because(error))?;
        let output = child.stdout.take().ok_or_else(|| failed("it has no output"))?;
        let mut line = String::new();
        let mut reader = BufReader::new(output);
        #[expect(clippy::disallowed_methods, reason = "only a read is dropped; a guard that is not ready in time is ended")]
        let ready = tokio::time::timeout(READY_LIMIT, reader.read_line(&mut line)).await;
        if !matches!(ready, Ok(Ok(_))) || line.trim() != "ready" {
            let _ = child.kill().await;
            return Err(failed("it was not ready in time"));
        }
        *self.child.lock().await = Some(child);
        Ok(())
    }

    async fn stand_down(&self) -> Result<(), PortError> {
        let Some(mut child) = self.child.lock().await.take() else { return Ok(()) };
        if let Some(mut input) = child.stdin.take() {
            // A guard that is gone already needs no word.
            let _ = input.write_all(b"stand down\n").await;
        }
        let _ = child.wait().await;
        Ok(())
    }

    async fn is_standing(&self) -> bool {
        let mut child = self.child.lock().await;
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

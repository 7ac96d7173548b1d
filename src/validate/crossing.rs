//! A marker from blue to green, for the validators: what was so on blue before it was written is so on green when it arrives.

use crate::postgres::Server;
use crate::word::{Clock, PortError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a marker may take before a comparison is given up.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Crossing {
    blue: Arc<dyn Server>,
    green: Arc<dyn Server>,
    clock: Arc<dyn Clock>,
    /// Tables are compared side by side and share the one marker row.
    turn: Mutex<()>,
}

impl Crossing {
    pub(super) fn new(blue: &Arc<dyn Server>, green: &Arc<dyn Server>, clock: &Arc<dyn Clock>) -> Crossing {
        Crossing { blue: blue.clone(), green: green.clone(), clock: clock.clone(), turn: Mutex::default() }
    }

    /// Returns when everything that blue had committed before the call is on green.
    pub(super) async fn cross(&self) -> Result<(), PortError> {
        let _turn = self.turn.lock().await;
        let last = self.blue.read_marker().await?.unwrap_or(0);
        let value = self.clock.now().as_microsecond().max(last + 1);
        self.blue.write_marker(value).await?;
        let until = self.clock.monotonic() + LIMIT;
        while self.green.read_marker().await?.is_none_or(|seen| seen < value) {
            if self.clock.monotonic() > until {
                return Err(PortError::transient("see a marker arrive on green").because("it did not come within 30 s"));
            }
            self.clock.sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

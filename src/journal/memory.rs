//! A journal in memory, for the simulation and for tests. It keeps the same contract as the durable ones, which
//! `tests/journal.rs` proves, except that it is gone with the process.

use super::{Journal, JournalError, Lease, RunEntry, next_epoch};
use crate::run::{Event, Record, Request, RequestKind};
use crate::word::{RunId, Timestamp};
use async_trait::async_trait;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Clones share their content, as processes share a state directory.
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal {
    runs: Arc<Mutex<Vec<StoredRun>>>,
}

#[derive(Debug)]
struct StoredRun {
    entry: RunEntry,
    records: Vec<Record>,
    lease: Option<Lease>,
    requests: Vec<(Request, Option<String>)>,
    progress: Option<String>,
}

impl MemoryJournal {
    pub fn new() -> MemoryJournal {
        MemoryJournal::default()
    }

    /// From here on the holder of the run counts as a process that is gone.
    pub fn holder_died(&self, run: &RunId) -> Result<(), JournalError> {
        let mut runs = self.lock();
        if let Some(lease) = &mut stored(&mut runs, run)?.lease {
            lease.free = true;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StoredRun>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stored<'a>(runs: &'a mut [StoredRun], run: &RunId) -> Result<&'a mut StoredRun, JournalError> {
    runs.iter_mut().find(|stored| stored.entry.run == *run).ok_or_else(|| JournalError::UnknownRun(run.to_string()))
}

fn request(stored: &mut StoredRun, id: i64) -> Result<&mut (Request, Option<String>), JournalError> {
    let found = stored.requests.iter_mut().find(|(request, _)| request.id == id);
    found.ok_or_else(|| JournalError::NotWritten {
        attempted: format!("find request {id}"),
        source: "there is no such request".into(),
    })
}

impl StoredRun {
    fn holds(&self, epoch: u64) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.epoch == epoch && !lease.free)
    }

    fn last_seq(&self) -> u64 {
        self.records.len() as u64
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn runs(&self) -> Result<Vec<RunEntry>, JournalError> {
        Ok(self.lock().iter().rev().map(|stored| stored.entry.clone()).collect())
    }

    async fn create(&self, event: &Event, at: Timestamp) -> Result<(), JournalError> {
        let Event::RunCreated { plan, .. } = event else {
            let source = "the first record of a run must hold its plan".into();
            return Err(JournalError::Unreachable { attempted: "create a run".to_owned(), source });
        };
        let mut runs = self.lock();
        if stored(&mut runs, &plan.run).is_ok() {
            return Err(JournalError::Superseded { expected: 0 });
        }
        runs.push(StoredRun {
            entry: RunEntry { run: plan.run.clone(), name: plan.name.clone(), created_at: at },
            records: vec![Record { seq: 1, at, epoch: 0, event: event.clone() }],
            lease: None,
            requests: Vec::new(),
            progress: None,
        });
        Ok(())
    }

    async fn read(&self, run: &RunId) -> Result<Vec<Record>, JournalError> {
        Ok(stored(&mut self.lock(), run)?.records.clone())
    }

    async fn append(&self, run: &RunId, expected: u64, epoch: u64, event: &Event, at: Timestamp) -> Result<(), JournalError> {
        let mut runs = self.lock();
        let stored = stored(&mut runs, run)?;
        if stored.last_seq() != expected || !stored.holds(epoch) {
            return Err(JournalError::Superseded { expected });
        }
        stored.records.push(Record { seq: expected + 1, at, epoch, event: event.clone() });
        Ok(())
    }

    async fn hold(&self, run: &RunId) -> Result<(), JournalError> {
        stored(&mut self.lock(), run).map(drop)
    }

    async fn let_go(&self) {}

    async fn lease(&self, run: &RunId) -> Result<Option<Lease>, JournalError> {
        Ok(stored(&mut self.lock(), run)?.lease.clone())
    }

    async fn take_lease(
        &self,
        run: &RunId,
        holder: &str,
        ttl: Duration,
        force: bool,
        now: Timestamp,
    ) -> Result<u64, JournalError> {
        let mut runs = self.lock();
        let stored = stored(&mut runs, run)?;
        let epoch = next_epoch(stored.lease.as_ref(), force, now)?;
        stored.lease = Some(Lease { epoch, holder: holder.to_owned(), expires_at: expiry(now, ttl)?, left: None, free: false });
        Ok(epoch)
    }

    async fn renew_lease(&self, run: &RunId, epoch: u64, ttl: Duration, now: Timestamp) -> Result<(), JournalError> {
        let mut runs = self.lock();
        let stored = stored(&mut runs, run)?;
        let expected = stored.last_seq();
        match &mut stored.lease {
            Some(lease) if lease.epoch == epoch && !lease.free => lease.expires_at = expiry(now, ttl)?,
            _ => return Err(JournalError::Superseded { expected }),
        }
        Ok(())
    }

    async fn release_lease(&self, run: &RunId, epoch: u64) -> Result<(), JournalError> {
        match &mut stored(&mut self.lock(), run)?.lease {
            Some(lease) if lease.epoch == epoch => lease.free = true,
            _ => {}
        }
        Ok(())
    }

    async fn file_request(
        &self,
        run: &RunId,
        by: &str,
        reason: Option<&str>,
        kind: &RequestKind,
        at: Timestamp,
    ) -> Result<i64, JournalError> {
        let mut runs = self.lock();
        let id = 1 + runs.iter().map(|stored| stored.requests.len() as u64).sum::<u64>().cast_signed();
        let stored = stored(&mut runs, run)?;
        let request = Request { id, at, by: by.to_owned(), reason: reason.map(str::to_owned), kind: kind.clone() };
        stored.requests.push((request, None));
        Ok(id)
    }

    async fn open_requests(&self, run: &RunId) -> Result<Vec<Request>, JournalError> {
        let mut runs = self.lock();
        let open = stored(&mut runs, run)?.requests.iter().filter(|(_, answer)| answer.is_none());
        Ok(open.map(|(request, _)| request.clone()).collect())
    }

    async fn answer_request(&self, run: &RunId, id: i64, answer: &str) -> Result<(), JournalError> {
        let mut runs = self.lock();
        request(stored(&mut runs, run)?, id)?.1.get_or_insert_with(|| answer.to_owned());
        Ok(())
    }

    async fn request_answer(&self, run: &RunId, id: i64) -> Result<Option<String>, JournalError> {
        let mut runs = self.lock();
        Ok(request(stored(&mut runs, run)?, id)?.1.clone())
    }

    async fn set_progress(&self, run: &RunId, text: &str) -> Result<(), JournalError> {
        stored(&mut self.lock(), run)?.progress = Some(text.to_owned());
        Ok(())
    }

    async fn progress(&self, run: &RunId) -> Result<Option<String>, JournalError> {
        Ok(stored(&mut self.lock(), run)?.progress.clone())
    }
}

fn expiry(now: Timestamp, ttl: Duration) -> Result<Timestamp, JournalError> {
    now.checked_add(ttl).map_err(|e| JournalError::Unreachable { attempted: "take the run".to_owned(), source: e.into() })
}

//! What others ask of a running agent, entered into the archive's audit log.
//!
//! Asking waits for no store: entries are handed over, each with the time at which it was made, and put
//! as soon as the store takes them. An agent that is killed before loses those that were waiting; the
//! same stands in its log.

use std::time::Duration;

use redwind_archive::audit::{self, AuditEntry, AuditEvent};
use redwind_archive::store::{Advice, SourceStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::error::describe;

/// Entries that wait for the store.
const WAITING_MAX: usize = 64;
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last entries may take when the agent stops.
const LAST_TIME_MAX: Duration = Duration::from_secs(1);

/// Takes entries.
#[derive(Clone, Debug)]
pub struct AuditLog {
    archive: Ulid,
    entries: mpsc::Sender<AuditEntry>,
}

/// Puts them; [`run`](Self::run) it.
#[derive(Debug)]
pub struct AuditWriter {
    store: SourceStore,
    entries: mpsc::Receiver<AuditEntry>,
}

/// Too many entries wait for the store.
#[derive(Debug, thiserror::Error)]
#[error("the store has not taken the last {WAITING_MAX} entries of the audit log yet")]
pub struct AuditFull;

impl AuditLog {
    /// The log of the archive with that id.
    #[must_use]
    pub fn new(store: SourceStore, archive: Ulid) -> (Self, AuditWriter) {
        let (sender, entries) = mpsc::channel(WAITING_MAX);
        (Self { archive, entries: sender }, AuditWriter { store, entries })
    }

    /// Hands an entry over.
    ///
    /// # Errors
    /// When too many wait.
    pub fn enter(&self, event: AuditEvent) -> Result<(), AuditFull> {
        tracing::info!(?event, "for the audit log");
        self.entries.try_send(AuditEntry::now(self.archive, event)).map_err(|_| AuditFull)
    }
}

impl AuditWriter {
    /// Puts entries until `closing` is cancelled and those that waited then are put, or their time is up.
    pub async fn run(mut self, closing: CancellationToken) {
        let overdue = async {
            closing.cancelled().await;
            tokio::time::sleep(LAST_TIME_MAX).await;
        };
        let putting = async {
            while let Some(entry) = next(&mut self.entries, &closing).await {
                put(&self.store, &entry).await;
            }
        };
        tokio::select! {
            () = putting => {}
            () = overdue => {}
        }
    }
}

async fn next(entries: &mut mpsc::Receiver<AuditEntry>, closing: &CancellationToken) -> Option<AuditEntry> {
    tokio::select! {
        biased;
        entry = entries.recv() => entry,
        () = closing.cancelled() => None,
    }
}

async fn put(store: &SourceStore, entry: &AuditEntry) {
    while let Err(error) = audit::put(store, entry).await {
        let problem = describe(&error);
        if error.advice() == Advice::Refused {
            tracing::warn!(error = %problem, "the store takes no entry of the audit log");
            return;
        }
        tracing::debug!(error = %problem, "an entry of the audit log waits for the store");
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use redwind_archive::store::Store;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_waits_when_the_agent_stops_is_put() {
        let store = Store::over(Arc::new(InMemory::new()), "memory://").source(&"default".parse().unwrap());
        let (log, writer) = AuditLog::new(store.clone(), Ulid(5));
        let event = AuditEvent::Snapshot { peer: "127.0.0.1:9".into(), role: "operator".into() };
        for _ in 0..3 {
            log.enter(event.clone()).unwrap();
        }
        let closing = CancellationToken::new();
        closing.cancel();
        writer.run(closing).await;
        let entries = audit::read_all(&store, Ulid(5)).await.unwrap();
        assert!(entries.len() == 3 && entries.iter().all(|found| found.entry.as_ref().unwrap().event == event));
    }

    #[tokio::test]
    async fn more_than_can_wait_is_refused() {
        let store = Store::over(Arc::new(InMemory::new()), "memory://").source(&"default".parse().unwrap());
        let (log, _writer) = AuditLog::new(store, Ulid(5));
        let enter = || log.enter(AuditEvent::Snapshot { peer: String::new(), role: String::new() });
        assert!((0..WAITING_MAX).all(|_| enter().is_ok()) && enter().is_err());
    }
}

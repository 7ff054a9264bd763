//! How far the stream has come on its way: the watermarks, and their order as an invariant.
//!
//! Acknowledgements, gRPC, metrics and readiness all read what this module publishes; it publishes
//! nothing that breaks `received >= spooled >= stored >= durable`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redwind_archive::documents::Manifest;
use redwind_archive::position::{HistoryId, Offset, Position, Term};
use redwind_archive::time::Timestamp;
use tokio::sync::watch;
use ulid::Ulid;

use super::pending::Pending;
use super::resume::{LogEnd, StoredLog};
use super::term::Tenure;

/// The watermarks of the newest history. All offsets are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The term in which this agent writes.
    pub term: Term,
    /// The newest history; `None` until the archive's first has begun, with offsets of 0.
    pub history: Option<HistoryId>,
    /// Where the history begins.
    pub history_start: Offset,
    /// Read from the socket, as of the last publication; [`ReceivedMark`] is always current.
    pub received: Offset,
    /// When the byte before `received` arrived.
    pub received_at: Timestamp,
    /// Written to the spool and synced.
    pub spooled: Offset,
    /// Contiguous in the store, and the writer was not fenced when it got there.
    pub stored: Offset,
    /// When `stored` last advanced.
    pub stored_at: Option<Timestamp>,
    /// Stored and joined to a complete snapshot: can be restored. `None` until the history has one.
    pub durable: Option<Offset>,
    /// When `durable` last advanced.
    pub durable_at: Option<Timestamp>,
    /// Arrival of the oldest write handed to the journal that is not durable, wherever it is by now. Writes
    /// that the log reader still holds are in [`ReceivedMark::unsent_write`].
    pub oldest_undurable_write: Option<Timestamp>,
    /// Until when everything that the server had sent is stored.
    pub complete_until: Option<Timestamp>,
    /// Since when the store has not taken what it was given; `None` while it does.
    pub store_failing_since: Option<Timestamp>,
    /// What it says; `None` while it takes what it is given.
    pub store_error: Option<Arc<str>>,
    /// Whether another agent has taken the archive over.
    pub fenced: bool,
}

impl Progress {
    /// Whether `position` can be restored.
    #[must_use]
    pub fn is_durable(&self, position: Position) -> bool {
        self.history == Some(position.history) && self.durable.is_some_and(|durable| durable >= position.offset)
    }

    fn check(&self) {
        let durable = self.durable.unwrap_or(self.history_start);
        let ordered = self.received >= self.spooled && self.spooled >= self.stored && self.stored >= durable;
        assert!(ordered, "received >= spooled >= stored >= durable does not hold: {self:?}");
    }
}

/// How far the socket has been read: cheap to write at every read.
#[derive(Debug, Default)]
pub struct ReceivedMark {
    offset: AtomicU64,
    at: AtomicU64,
    unsent_write: AtomicU64,
}

impl ReceivedMark {
    /// Notes that everything before `offset` had been read at `at`.
    pub fn raise(&self, offset: Offset, at: Timestamp) {
        self.at.store(at.0, Ordering::Relaxed);
        self.offset.fetch_max(offset.0, Ordering::Release);
    }

    /// Notes the arrival of the oldest write that was read and not yet handed to the journal; `None` when
    /// there is none.
    pub fn set_unsent_write(&self, arrival: Option<Timestamp>) {
        self.unsent_write.store(arrival.unwrap_or_default().0, Ordering::Relaxed);
    }

    /// A new link session reads on at `offset`: what had been read beyond it and not handed over is
    /// forgotten.
    pub fn reset(&self, offset: Offset) {
        self.offset.store(offset.0, Ordering::Release);
        self.set_unsent_write(None);
    }

    pub(super) fn begin(&self, start: Offset, at: Timestamp) {
        self.at.store(at.0, Ordering::Relaxed);
        self.reset(start);
    }

    /// Offset after the last byte read.
    #[must_use]
    pub fn offset(&self) -> Offset {
        Offset(self.offset.load(Ordering::Acquire))
    }

    /// When it was read.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        Timestamp(self.at.load(Ordering::Relaxed))
    }

    /// Arrival of the oldest write that was read and not yet handed to the journal.
    #[must_use]
    pub fn unsent_write(&self) -> Option<Timestamp> {
        let micros = self.unsent_write.load(Ordering::Relaxed);
        (micros != 0).then_some(Timestamp(micros))
    }
}

/// The state of the snapshots, for `status` and for deciding when the next is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// The newest complete one of the newest history, if the log can be restored from it.
    pub last: Option<Arc<Manifest>>,
    /// The newest complete one of the archive, of whatever history.
    pub newest: Option<Ulid>,
    /// The one that is being taken.
    pub running: Option<SnapshotProgress>,
    /// Why the last one that was begun since the start was not completed; `None` if it was.
    pub last_error: Option<String>,
}

/// A snapshot that is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Its id.
    pub id: Ulid,
    /// When it was begun.
    pub started: Timestamp,
    /// Where it stands, once the server has said so.
    pub position: Option<Position>,
    /// Bytes of RDB received so far.
    pub received_bytes: u64,
    /// Length of the RDB in bytes, if the server has said so.
    pub total_bytes: Option<u64>,
    /// Bytes of chunk objects stored so far.
    pub stored_bytes: u64,
}

/// Where progress is noted by those who make it, and published.
#[derive(Debug, Default)]
pub(super) struct Board {
    progress: watch::Sender<Progress>,
    ledger: Mutex<Ledger>,
    received: Arc<ReceivedMark>,
}

/// What the watermarks are worked out from. Locked before the watch, never after it.
#[derive(Debug, Default)]
struct Ledger {
    /// Writes that were handed over and are not stored: where a stretch of them ends, and when its first
    /// arrived.
    unstored: VecDeque<(Position, Timestamp)>,
    /// Arrival of the oldest write that is stored and waits for a snapshot.
    unjoined: Option<Timestamp>,
    /// The lowest complete snapshot of the newest history behind which no hole and no damage is known.
    snapshot: Option<Offset>,
}

impl Board {
    /// The watermarks with which a tenure starts: `end` is the log's with what the spool adds to it.
    pub(super) fn after_start(
        tenure: &Tenure,
        stored: &StoredLog,
        end: Option<&LogEnd>,
        pending: &[Pending],
        received: Arc<ReceivedMark>,
    ) -> Self {
        let mut progress = Progress { term: tenure.identity.term, ..Progress::default() };
        let mut ledger = Ledger::default();
        if let Some(end) = end {
            let history = end.point.position.history;
            let same = stored.end.as_ref().filter(|stored| stored.point.position.history == history);
            progress.history = Some(history);
            progress.history_start = end.history_start;
            progress.spooled = end.point.position.offset;
            progress.stored = same.map_or(end.history_start, |stored| stored.point.position.offset);
            progress.complete_until = same.map(|stored| stored.point.read_until);
            ledger.snapshot = stored.base(end).map(|snapshot| snapshot.position.offset);
            // Of what an earlier run stored it is not known when its first write arrived: no earlier
            // than this.
            ledger.unjoined = same.map(|stored| stored.started).filter(|_| progress.stored > progress.history_start);
            received.begin(end.point.position.offset, end.newest_time);
        }
        for segment in pending.iter().filter_map(Pending::segment).filter(|segment| segment.writes > 0) {
            ledger.unstored.push_back((segment.end(), segment.name.time));
        }
        let board = Self { progress: watch::Sender::new(progress), ledger: Mutex::new(ledger), received };
        board.publish(|progress, ledger| ledger.join(progress, None));
        board
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How far the socket has been read.
    pub(super) fn received(&self) -> &ReceivedMark {
        &self.received
    }

    /// Whether the history is the newest and has a complete snapshot.
    pub(super) fn has_snapshot(&self, history: HistoryId) -> bool {
        let ledger = self.lock();
        self.progress.borrow().history == Some(history) && ledger.snapshot.is_some()
    }

    /// A history has begun in the spool.
    pub(super) fn begin(&self, history: HistoryId, start: Offset) {
        self.publish(|progress, ledger| {
            ledger.snapshot = None;
            ledger.unjoined = None;
            *progress = Progress {
                term: progress.term,
                history: Some(history),
                history_start: start,
                received: start,
                spooled: start,
                stored: start,
                store_failing_since: progress.store_failing_since,
                store_error: progress.store_error.take(),
                fenced: progress.fenced,
                ..Progress::default()
            };
        });
    }

    /// The journal has been handed writes up to `end`, of which the first arrived then.
    pub(super) fn handed_over(&self, end: Position, first_write: Timestamp) {
        let mut ledger = self.lock();
        ledger.unstored.push_back((end, first_write));
        self.progress.send_if_modified(|progress| {
            let oldest = ledger.oldest_write();
            std::mem::replace(&mut progress.oldest_undurable_write, oldest) != oldest
        });
    }

    /// Everything up to `end` is in the spool.
    pub(super) fn spooled(&self, end: Position) {
        self.publish(|progress, _| {
            if progress.history == Some(end.history) {
                progress.spooled = progress.spooled.max(end.offset);
            }
        });
    }

    /// Everything up to `end` is stored, and this writer was not fenced when it got there.
    pub(super) fn stored(&self, end: Position, read_until: Timestamp, now: Timestamp) {
        self.publish(|progress, ledger| {
            let first = ledger.take_stored(end);
            if progress.history != Some(end.history) {
                return;
            }
            if end.offset > progress.stored {
                progress.stored = end.offset;
                progress.stored_at = Some(now);
            }
            progress.complete_until = progress.complete_until.max(Some(read_until));
            ledger.unjoined = ledger.unjoined.or(first);
            ledger.join(progress, Some(now));
        });
    }

    /// A snapshot at `position` is complete, and this writer was not fenced when it was.
    pub(super) fn snapshot(&self, position: Position, now: Timestamp) {
        self.publish(|progress, ledger| {
            if progress.history == Some(position.history) {
                let lowest = ledger.snapshot.map_or(position.offset, |lowest| lowest.min(position.offset));
                ledger.snapshot = Some(lowest);
                ledger.join(progress, Some(now));
            }
        });
    }

    /// The store does not take what it is given: since when, and what it says.
    pub(super) fn store_failing(&self, since: Timestamp, error: Arc<str>) {
        self.publish(|progress, _| {
            progress.store_failing_since = Some(since);
            progress.store_error = Some(error);
        });
    }

    /// The store takes what it is given again.
    pub(super) fn store_answers(&self) {
        self.publish(|progress, _| {
            progress.store_failing_since = None;
            progress.store_error = None;
        });
    }

    /// Another agent has taken the archive over.
    pub(super) fn fenced(&self) {
        self.publish(|progress, _| progress.fenced = true);
    }

    fn publish(&self, change: impl FnOnce(&mut Progress, &mut Ledger)) {
        let mut ledger = self.lock();
        self.progress.send_modify(|progress| {
            change(progress, &mut ledger);
            progress.received = progress.spooled.max(self.received.offset());
            progress.received_at = self.received.at();
            progress.oldest_undurable_write = ledger.oldest_write();
            progress.check();
        });
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Arrival of the oldest write that is not durable.
    fn oldest_write(&self) -> Option<Timestamp> {
        self.unjoined.or(self.unstored.front().map(|entry| entry.1))
    }

    /// Takes out the writes up to `end`, and tells when the first of them arrived.
    fn take_stored(&mut self, end: Position) -> Option<Timestamp> {
        let stored = |entry: &(Position, Timestamp)| entry.0.history == end.history && entry.0.offset <= end.offset;
        let count = self.unstored.iter().rposition(stored).map_or(0, |last| last + 1);
        self.unstored.drain(..count).next().map(|entry| entry.1)
    }

    /// What is stored is durable if there is a snapshot in it to begin with.
    fn join(&mut self, progress: &mut Progress, now: Option<Timestamp>) {
        if self.snapshot.is_none_or(|snapshot| snapshot > progress.stored) {
            return;
        }
        self.unjoined = None;
        if progress.durable != Some(progress.stored) {
            progress.durable = Some(progress.stored);
            progress.durable_at = now;
        }
    }
}

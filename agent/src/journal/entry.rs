//! What the log reader hands to the journal, and the bounded queue through which it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use redwind_archive::documents::HistoryStart;
use redwind_archive::position::{Offset, Position, Term};
use redwind_archive::segment::{Mark, ReplicationId};
use redwind_archive::time::Timestamp;
use redwind_stream::{Framer, FramerState};
use tokio::sync::mpsc;

use super::error::JournalError;
use super::progress::{Board, ReceivedMark};

/// Most bytes of stream in a [`Batch`].
pub const BATCH_BYTES_MAX: usize = 512 << 10;
/// Silence after which the log reader ends a segment, which says that nothing was missed, and that we live.
///
/// With it an idle source costs 59 requests in an hour, less than one a minute: 48 segments, five looks at the term
/// (`uploader`), six for watchers (`heartbeat`).
pub const IDLE_SEAL: Duration = Duration::from_secs(75);
/// Entries that lie between the log reader and the sealer: with full batches, 4 MiB.
const QUEUE_ENTRIES: usize = 8;
/// Newest replication IDs remembered: as many as a segment's header holds.
const REPLICATION_IDS_KEPT: usize = 4;
/// Buffers kept for reuse: one in the reader's hand, one in the sealer's, the rest in the queue.
const BUFFERS_KEPT: usize = QUEUE_ENTRIES + 2;

/// One step of the log, in the order of the stream.
#[derive(Debug)]
pub enum Entry {
    /// A new history begins; what follows belongs to it. Its document is spooled at once and stored
    /// before its first segment. `predecessor`, `predecessor_complete_until` and `term` are filled
    /// in by [`EntrySender::send`], which knows them.
    Begin(HistoryStart),
    /// A link session starts at the current end of the current history: also right after `Begin`.
    Attach {
        /// The server's replication ID, and the offset from which on it holds here.
        replication_id: ReplicationId,
        /// The server's TIME minus the agent's clock in microseconds, when it could be asked.
        clock_offset: Option<i64>,
    },
    /// The server's TIME minus the agent's clock in microseconds has been asked for again.
    ClockOffset(Option<i64>),
    /// More of the stream.
    Append(Batch),
    /// End the current segment now: age, a GETACK, [`IDLE_SEAL`], a stop. Where nothing has come
    /// since the last one, an empty segment tells that time passed, unless that was told before.
    Seal {
        /// Until when the socket is known to have been read: everything that the server had sent by
        /// then has been appended.
        read_until: Timestamp,
    },
}

/// Consecutive bytes of the stream, as read.
#[derive(Debug)]
pub struct Batch {
    /// Offset before the first byte: the end of the batch before.
    pub start: Offset,
    /// The bytes: 1 to [`BATCH_BYTES_MAX`].
    pub bytes: BytesMut,
    /// The reads that brought them, in order; the last one ends with the bytes.
    pub marks: Vec<Mark>,
    /// Records that end in the bytes.
    pub records: u64,
    /// Those of them that are writes.
    pub writes: u64,
    /// Arrival of the first byte of the first write that ends or is open in the bytes.
    pub first_write: Option<Timestamp>,
    /// State of the stream's parser at the end of the bytes.
    pub framer_end: FramerState,
    /// `Some` when the bytes were read late: the last moment before them at which the socket had been
    /// read empty. A change of this value starts a new page.
    pub late_since: Option<Timestamp>,
}

impl Batch {
    /// Offset after the last byte.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.start.advance(self.bytes.len() as u64)
    }
}

/// Where the stream must continue: after the last byte that the journal has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// The history, and the offset after its last byte here.
    pub position: Position,
    /// State of the stream's parser there.
    pub framer: FramerState,
    /// The server's replication IDs in this history, oldest first, the current one last.
    pub replication_ids: Vec<ReplicationId>,
    /// The last moment at which the socket is known to have been read empty.
    pub read_until: Timestamp,
    /// Whether the history has a complete snapshot.
    pub has_snapshot: bool,
    /// Whether what the archive holds behind it is damaged, so that a new history, if one has to begin
    /// here, is to be put down to that.
    pub damaged: bool,
}

impl ResumePoint {
    /// The beginning of a history.
    pub(super) fn at_start_of(start: &HistoryStart) -> Self {
        let id = start.replication_id.as_bytes().try_into().ok();
        Self {
            position: Position { history: start.history, offset: start.start },
            framer: Framer::new(None).state(),
            replication_ids: id.map(|id| ReplicationId { id, since: start.start }).into_iter().collect(),
            read_until: start.started,
            has_snapshot: false,
            damaged: false,
        }
    }

    /// Notes that `id` is the current replication ID. Tells whether that is news.
    pub(super) fn attach(&mut self, id: &ReplicationId) -> bool {
        let news = self.replication_ids.last().is_none_or(|last| last.id != id.id);
        if news {
            // IDs of a link that brought nothing say nothing about any byte.
            self.replication_ids.retain(|earlier| earlier.since < id.since);
            self.replication_ids.push(id.clone());
            let surplus = self.replication_ids.len().saturating_sub(REPLICATION_IDS_KEPT);
            self.replication_ids.drain(..surplus);
        }
        news
    }

    /// Moves behind a batch.
    pub(super) fn append(&mut self, batch: &Batch) {
        self.position.offset = batch.end();
        self.framer = batch.framer_end.clone();
        self.damaged = false;
        let arrived = batch.marks.last().map(|mark| mark.time);
        self.read_until = self.read_until.max(batch.late_since.or(arrived).unwrap_or_default());
    }
}

/// The way into the journal, for its one user: the log reader.
///
/// The queue is short. The sealer behind it may have to wait for the disk, never for the store, so that the
/// socket is read whatever the store does.
#[derive(Debug)]
pub struct EntrySender {
    term: Term,
    queue: mpsc::Sender<Entry>,
    tail: Tail,
    buffers: Buffers,
    board: Arc<Board>,
}

impl EntrySender {
    /// Makes a queue whose stream continues at `tail`; the other end is the sealer's.
    pub(super) fn new(term: Term, tail: Tail, buffers: Buffers, board: Arc<Board>) -> (Self, mpsc::Receiver<Entry>) {
        let (queue, entries) = mpsc::channel(QUEUE_ENTRIES);
        (Self { term, queue, tail, buffers, board }, entries)
    }

    /// Hands over an entry; waits while the queue is full. What has been handed over is what
    /// [`Journal::resume_point`](super::Journal::resume_point) tells from then on.
    ///
    /// Not to be cancelled: an entry whose handing over was given up may be lost, and the next one would
    /// not follow.
    ///
    /// # Errors
    /// [`JournalError::Closed`] when the journal has ended: nothing more will be archived.
    ///
    /// # Panics
    /// If the entry does not follow the one before it: a batch without a history, one that starts
    /// elsewhere than where the last ended, an empty one, or one over [`BATCH_BYTES_MAX`].
    pub async fn send(&self, mut entry: Entry) -> Result<(), JournalError> {
        let place = self.queue.reserve().await.map_err(|_| JournalError::Closed)?;
        self.note(&mut entry);
        place.send(entry);
        Ok(())
    }

    fn note(&self, entry: &mut Entry) {
        let mut tail = self.tail.lock();
        match entry {
            Entry::Begin(start) => {
                start.term = self.term;
                start.predecessor = tail.as_ref().map(|tail| tail.position);
                start.predecessor_complete_until = tail.as_ref().map(|tail| tail.read_until);
                self.received().begin(start.start, start.started);
                *tail = Some(ResumePoint::at_start_of(start));
            }
            Entry::Attach { replication_id, .. } => {
                let tail = tail.as_mut().expect("a link session belongs to a history");
                tail.attach(replication_id);
            }
            Entry::ClockOffset(_) => {}
            Entry::Append(batch) => {
                let tail = tail.as_mut().expect("a batch belongs to a history");
                assert_eq!(batch.start, tail.position.offset, "a batch starts where the last one ended");
                assert!((1..=BATCH_BYTES_MAX).contains(&batch.bytes.len()), "a batch of {} bytes", batch.bytes.len());
                self.received().raise(batch.end(), batch.marks.last().map(|mark| mark.time).unwrap_or_default());
                tail.append(batch);
                if let Some(arrival) = batch.first_write {
                    self.board.handed_over(tail.position, arrival);
                }
            }
            Entry::Seal { read_until } => {
                if let Some(tail) = tail.as_mut() {
                    tail.read_until = tail.read_until.max(*read_until);
                }
            }
        }
    }

    /// An empty buffer of [`BATCH_BYTES_MAX`] for the next batch, one that has been used before when
    /// there is one.
    #[must_use]
    pub fn buffer(&self) -> BytesMut {
        self.buffers.take()
    }

    /// The mark that tells others how far the socket has been read.
    #[must_use]
    pub fn received(&self) -> &ReceivedMark {
        self.board.received()
    }
}

#[cfg(test)]
impl EntrySender {
    /// Whether everything handed over has been taken out of the queue.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.capacity() == self.queue.max_capacity()
    }

    /// A sender whose entries the test receives itself.
    pub(crate) fn for_tests(point: Option<ResumePoint>) -> (Self, mpsc::Receiver<Entry>) {
        Self::new(Term(1), Tail::new(point), Buffers::default(), Arc::default())
    }
}

/// The end of what has been handed over, shared between the sender and the journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<Option<ResumePoint>>>);

impl Tail {
    pub(super) fn new(point: Option<ResumePoint>) -> Self {
        Self(Arc::new(Mutex::new(point)))
    }

    pub(super) fn get(&self) -> Option<ResumePoint> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<ResumePoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers that go round between the log reader and the sealer.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<BytesMut>>>);

impl Buffers {
    fn take(&self) -> BytesMut {
        self.lock().pop().unwrap_or_else(|| BytesMut::with_capacity(BATCH_BYTES_MAX))
    }

    pub(super) fn give_back(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut kept = self.lock();
        // One that shares its memory with something else cannot be filled again without a new one.
        if kept.len() < BUFFERS_KEPT && buffer.try_reclaim(BATCH_BYTES_MAX) {
            kept.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The spool writer: puts what the sealer has encoded on disk, in order, and says when it is safe there.
//!
//! A thread of its own, the only one of the log's that waits for the disk. A disk takes milliseconds to
//! sync at best and seconds at worst; meanwhile the sealer goes on compressing, so that a pause of the
//! disk has to outlast what may wait here before the socket is no longer read. It promises:
//! - a segment's bytes count as spooled, and the segment goes to the uploader, only once they are synced;
//! - at most [`WAITING_BYTES_MAX`] encoded bytes wait, whatever the disk does.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redwind_archive::documents::HistoryStart;
use redwind_archive::position::Position;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::JournalError;
use super::pending::{Pending, PendingSegment};
use super::progress::{Board, SnapshotState};
use super::spool::{SegmentFile, Spool, failed, is_no_room};

/// Most encoded bytes that wait for the disk: a fifth of a second of what one primary can send, compressed.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Most orders that wait. Those without bytes are small.
const ORDERS_QUEUED: usize = 256;
/// Buffers kept for reuse.
const BUFFERS_KEPT: usize = 8;
/// How often it is tried again where there was no room.
pub(super) const NO_ROOM_PAUSE: Duration = Duration::from_millis(250);

/// What the spool writer works with.
pub(super) struct SpoolWriterParts {
    pub(super) spool: Arc<Spool>,
    pub(super) board: Arc<Board>,
    pub(super) snapshots: watch::Sender<SnapshotState>,
    /// Takes what is safe in the spool and waits for the store.
    pub(super) sealed: mpsc::UnboundedSender<Pending>,
    /// The journal is stopped: wait no longer for room on a full disk.
    pub(super) stop: CancellationToken,
    /// End at once: nothing that is written would be stored.
    pub(super) kill: CancellationToken,
}

/// What is to be done next. Segments follow each other: one is begun, grows and is sealed.
enum Order {
    Begin { seq: u64, start: Box<HistoryStart> },
    Open { seq: u64 },
    Append { bytes: Vec<u8>, _room: OwnedSemaphorePermit },
    Sync { end: Position },
    Seal { segment: PendingSegment },
}

/// The sealer's side: gives orders, and waits only when too many bytes wait for the disk.
pub(super) struct SpoolQueue {
    runtime: Handle,
    orders: mpsc::Sender<Order>,
    room: Arc<Semaphore>,
    spare: Spare,
    thread: JoinHandle<Result<(), JournalError>>,
}

impl SpoolQueue {
    /// Starts the spool writer's thread.
    pub(super) fn start(parts: SpoolWriterParts, runtime: Handle) -> Result<Self, JournalError> {
        let (orders, queue) = mpsc::channel(ORDERS_QUEUED);
        let spare = Spare::default();
        let dir = parts.spool.dir().to_owned();
        let writer = SpoolWriter { parts, open: None, spare: spare.clone() };
        let spawned = thread::Builder::new().name("redwind-spool".to_owned()).spawn(move || writer.run(queue));
        let thread = spawned.map_err(|source| failed("start a thread for", &dir, source))?;
        Ok(Self { runtime, orders, room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)), spare, thread })
    }

    /// A history begins: its document is spooled and handed on.
    pub(super) fn begin(&self, seq: u64, start: HistoryStart) -> Result<(), JournalError> {
        self.order(Order::Begin { seq, start: Box::new(start) })
    }

    /// A segment begins.
    pub(super) fn open(&self, seq: u64) -> Result<(), JournalError> {
        self.order(Order::Open { seq })
    }

    /// Appends to the segment at hand.
    pub(super) fn append(&self, bytes: Vec<u8>) -> Result<(), JournalError> {
        let count = bytes.len().min(WAITING_BYTES_MAX) as u32;
        let room = self.runtime.block_on(Arc::clone(&self.room).acquire_many_owned(count));
        let _room = room.map_err(|_| JournalError::Closed)?;
        self.order(Order::Append { bytes, _room })
    }

    /// Makes what has been appended count as spooled, up to `end`.
    pub(super) fn sync(&self, end: Position) -> Result<(), JournalError> {
        self.order(Order::Sync { end })
    }

    /// The segment at hand is complete: syncs it and hands it on.
    pub(super) fn seal(&self, segment: PendingSegment) -> Result<(), JournalError> {
        self.order(Order::Seal { segment })
    }

    /// An empty buffer for the next bytes.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.spare.take()
    }

    /// Waits until the thread has ended, which it does by itself only when it has failed.
    pub(super) async fn failed(&self) {
        self.orders.closed().await;
    }

    /// Waits until every order has been carried out, or none can be any more.
    ///
    /// # Errors
    /// What the disk refused.
    pub(super) fn finish(self) -> Result<(), JournalError> {
        drop(self.orders);
        match self.thread.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// [`JournalError::Closed`] when the thread has ended; [`finish`](Self::finish) tells why.
    fn order(&self, order: Order) -> Result<(), JournalError> {
        self.runtime.block_on(self.orders.send(order)).map_err(|_| JournalError::Closed)
    }
}

/// Buffers that go round between the sealer and the spool writer.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT {
            kept.push(buffer);
        }
    }
}

/// The thread's side; see the module.
struct SpoolWriter {
    parts: SpoolWriterParts,
    open: Option<SegmentFile>,
    spare: Spare,
}

impl SpoolWriter {
    fn run(mut self, mut queue: mpsc::Receiver<Order>) -> Result<(), JournalError> {
        while let Some(order) = queue.blocking_recv() {
            if self.parts.kill.is_cancelled() {
                break;
            }
            self.carry_out(order)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, order: Order) -> Result<(), JournalError> {
        let Self { parts, open, spare } = self;
        match order {
            Order::Begin { seq, start } => {
                let file = with_room(parts, || parts.spool.write_history(seq, &start))?;
                parts.snapshots.send_modify(|state| state.last = None);
                parts.board.begin(start.history, start.start);
                hand_on(parts, Pending::History { file, start });
            }
            Order::Open { seq } => *open = Some(with_room(parts, || parts.spool.create(seq))?),
            Order::Append { bytes, .. } => {
                let file = open.as_mut().expect(OPEN);
                with_room(parts, || file.append(&bytes))?;
                spare.give_back(bytes);
            }
            Order::Sync { end } => {
                open.as_ref().expect(OPEN).sync()?;
                parts.board.spooled(end);
            }
            Order::Seal { segment } => {
                open.take().expect(OPEN).sync()?;
                parts.board.spooled(segment.end());
                hand_on(parts, Pending::Segment(segment));
            }
        }
        Ok(())
    }
}

/// What the sealer's order of orders guarantees.
const OPEN: &str = "a segment's file is created before anything else is done with it";

fn hand_on(parts: &SpoolWriterParts, pending: Pending) {
    // Nobody takes it any more when the uploader has failed or its time is up: the spool has it.
    drop(parts.sealed.send(pending));
}

/// Writes to the spool; waits where there is no room. [`JournalError::Closed`] when the journal is
/// stopped meanwhile.
fn with_room<T>(
    parts: &SpoolWriterParts,
    mut write: impl FnMut() -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    let mut waited = false;
    loop {
        match write() {
            Err(JournalError::Spool { verb, path, source }) if is_no_room(&source) => {
                if !std::mem::replace(&mut waited, true) {
                    tracing::warn!(verb, path = %path.display(), error = %source, "there is no room for the spool");
                }
                parts.spool.no_room();
                if parts.stop.is_cancelled() || parts.kill.is_cancelled() {
                    return Err(JournalError::Closed);
                }
                thread::sleep(NO_ROOM_PAUSE);
            }
            Ok(written) => {
                if waited {
                    tracing::info!("there is room for the spool again");
                    parts.spool.has_room();
                }
                return Ok(written);
            }
            Err(error) => return Err(error),
        }
    }
}

//! Reading a plan's objects ahead of whoever consumes them, in order and within a budget of memory.
//!
//! A dispatcher takes memory for one object after the other, in the order in which they will be
//! consumed, and starts a task for each: the request waits on the runtime, decoding runs on blocking
//! threads. What an object takes is given back when the last of its bytes is dropped, so memory is
//! bounded however fast the store is and however slow the consumer.

mod buffers;
mod rdb;
mod stream;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redwind_archive::chain::ChainError;
use redwind_archive::chunk::ChunkError;
use redwind_archive::read::ReadError;
use redwind_archive::store::StoreError;
use redwind_stream::{ExpiryError, RdbError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub use rdb::RdbReader;
pub use stream::{StreamPiece, StreamReader};

/// Memory that one reader takes for fetched, decoded and not yet consumed objects, in bytes. An
/// object that needs more by itself is read alone. Enough for two of the largest that agents make; more
/// would only leave the processor's cache before it is consumed.
pub const MEMORY_BYTES: usize = 32 << 20;

/// Requests under way at once. Segments of one second are small, so that their number and not their
/// size is what a long log costs.
const REQUESTS_AT_ONCE: usize = 32;

/// How often a request is tried that the store did not answer well. The store's client has tried
/// each several times by itself.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Why the archive does not give what the plan needs.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A segment is missing, damaged, misplaced, or out of reach.
    #[error(transparent)]
    Segment(#[from] ReadError),
    /// A sound segment that is not the continuation of the one before.
    #[error("{object} does not continue {before}")]
    Chain {
        /// The later segment.
        object: String,
        /// The one before it.
        before: String,
        /// What does not fit.
        source: ChainError,
    },
    /// The first segment begins after the snapshot.
    #[error("{object} begins at offset {start}, after the snapshot at {snapshot}: what lies between is missing")]
    AfterSnapshot {
        /// The segment.
        object: String,
        /// Offset at which it begins.
        start: u64,
        /// Offset of the snapshot.
        snapshot: u64,
    },
    /// The segments do not cover the plan.
    #[error("the log ends at offset {end}, before the target at {cut}")]
    Short {
        /// Where the last segment ends.
        end: u64,
        /// Where the target is.
        cut: u64,
    },
    /// The stream in a segment cannot be read.
    #[error("{object} cannot be replayed")]
    Stream {
        /// The segment.
        object: String,
        /// What is wrong with its bytes.
        source: ExpiryError,
    },
    /// A piece of the snapshot is not there.
    #[error("{object} is missing")]
    MissingChunk {
        /// Which object.
        object: String,
    },
    /// A piece of the snapshot is damaged.
    #[error("{object} cannot be used")]
    Chunk {
        /// Which object.
        object: String,
        /// What is wrong with it.
        source: ChunkError,
    },
    /// The snapshot's pieces do not make up a sound RDB.
    #[error("snapshot {snapshot} cannot be used")]
    Rdb {
        /// The snapshot's manifest.
        snapshot: String,
        /// What is wrong with it.
        source: RdbError,
    },
    /// The snapshot is another RDB than its manifest says.
    #[error("snapshot {snapshot} cannot be used: its {field} is {found}, its manifest says {expected}")]
    Manifest {
        /// The snapshot's manifest.
        snapshot: String,
        /// What differs.
        field: &'static str,
        /// What the RDB has.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A decoding thread panicked or was shut down with the runtime.
    #[error("a decoding task ended early")]
    Task(#[source] tokio::task::JoinError),
}

impl FetchError {
    /// Whether the archive is damaged, rather than the store out of reach.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Segment(error) => error.is_damage(),
            Self::Store(error) => error.is_damage(),
            Self::Chunk { source, .. } => source.is_damage(),
            Self::Task(_) => false,
            _ => true,
        }
    }

    /// Whether it is the snapshot that is damaged, rather than the log behind it.
    #[must_use]
    pub fn is_snapshot_damage(&self) -> bool {
        matches!(self, Self::MissingChunk { .. } | Self::Chunk { .. } | Self::Rdb { .. } | Self::Manifest { .. })
    }

    /// Whether the store could not be reached or refused.
    #[must_use]
    pub fn is_store(&self) -> bool {
        match self {
            Self::Segment(ReadError::Store(error)) | Self::Store(error) => !error.is_damage(),
            _ => false,
        }
    }
}

/// Memory taken from the budget; given back when the last clone is dropped.
pub(crate) type Memory = Arc<OwnedSemaphorePermit>;

/// Bytes that have been fetched and checked, and the memory that they take.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The bytes themselves.
    pub bytes: Bytes,
    /// `None` for bytes that came from elsewhere.
    _memory: Option<Memory>,
}

impl Piece {
    pub(crate) fn new(bytes: Bytes, memory: Memory) -> Self {
        Self { bytes, _memory: Some(memory) }
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, _memory: None }
    }
}

/// Objects being read ahead; yields them in order.
pub(crate) struct Ahead<T> {
    tasks: mpsc::Receiver<AbortOnDropHandle<Result<T, FetchError>>>,
    /// The one that is being waited for.
    current: Option<AbortOnDropHandle<Result<T, FetchError>>>,
    _dispatcher: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Begins to read. `jobs` tell how many bytes of memory each takes.
    pub(crate) fn start<J, F>(
        jobs: impl IntoIterator<Item = (u64, J), IntoIter: Send + 'static>,
        read: impl Fn(J, Memory) -> F + Send + 'static,
    ) -> Self
    where
        J: Send + 'static,
        F: Future<Output = Result<T, FetchError>> + Send + 'static,
    {
        let (sender, tasks) = mpsc::channel(REQUESTS_AT_ONCE);
        let jobs = jobs.into_iter();
        let dispatch = async move {
            let budget = Arc::new(Semaphore::new(MEMORY_BYTES));
            for (bytes, job) in jobs {
                let bytes = bytes.clamp(1, MEMORY_BYTES as u64) as u32;
                // A slot first: whoever waits for a slot must not hold memory that others need.
                let Ok(slot) = sender.reserve().await else { return };
                let Ok(memory) = Arc::clone(&budget).acquire_many_owned(bytes).await else { return };
                slot.send(AbortOnDropHandle::new(tokio::spawn(read(job, Arc::new(memory)))));
            }
        };
        Self { tasks, current: None, _dispatcher: AbortOnDropHandle::new(tokio::spawn(dispatch)) }
    }

    /// The next object; `None` after the last. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<T, FetchError>> {
        if self.current.is_none() {
            self.current = self.tasks.recv().await;
        }
        let outcome = self.current.as_mut()?.await;
        self.current = None;
        Some(outcome.map_err(FetchError::Task).flatten())
    }
}

/// Runs a request until the store answers it well, or refuses, or has been asked often enough.
pub(crate) async fn patiently<T, E, F>(request: impl Fn() -> F, may_retry: impl Fn(&E) -> bool) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match request().await {
            Err(error) if may_retry(&error) => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    request().await
}

//! The journal: takes the stream to the spool on disk, and from there to the store.
//!
//! ```text
//! log reader --Entry--> queue --> sealer (thread: compress) --> spool writer (thread: write, sync)
//!                                                                             |
//!        progress <-- fence check <-- contiguous <-- uploader (parallel puts) <-+
//! ```
//!
//! It owns the archive's tenure (the term; whose turn it is, `candidacy` finds out), the spool's folder,
//! and the order in which anything becomes visible. It promises:
//! - `received >= spooled >= stored >= durable` ([`Progress`]), asserted at every publication;
//! - nothing counts as stored before everything before it is in the store and, after its put had
//!   returned, no later term existed: what a fenced writer puts is never acknowledged;
//! - a file leaves the spool only when its content counts as stored, so that kill -9 at any point
//!   loses nothing that was reported;
//! - memory stays bounded whatever disk and store do: the queue is 4 MiB, the sealer holds one batch, at
//!   most 8 MiB of encoded bytes wait for the disk, the uploader holds at most 8 MiB; everything else
//!   lies on disk, up to the spool's limit.

mod candidacy;
mod entry;
mod error;
mod heartbeat;
mod lineage;
mod pages;
mod pending;
mod persistence;
mod progress;
mod recovery;
mod resume;
mod sealer;
mod signs;
mod snapshot_chunks;
mod snapshot_writer;
mod spool;
mod spool_writer;
mod term;
#[cfg(test)]
mod tests;
mod uploader;

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use redwind_archive::documents::SnapshotReason;
use redwind_archive::keys::Recipients;
use redwind_archive::store::SourceStore;
use redwind_archive::time::Clock;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

pub use candidacy::{Candidacy, Mandate, Standing};
pub use entry::{BATCH_BYTES_MAX, Batch, Entry, EntrySender, IDLE_SEAL, ResumePoint};
pub use error::{JournalError, Verdict};
pub use progress::{Progress, ReceivedMark, SnapshotProgress, SnapshotState};
pub use snapshot_writer::{SnapshotFacts, SnapshotWriter};
pub use spool::SpoolUsage;
pub use term::host;

use entry::{Buffers, Tail};
use heartbeat::{Heartbeat, Pulse};
use persistence::Persistence;
use progress::Board;
use recovery::Survivors;
use resume::StoredLog;
use sealer::{Sealer, SealerParts};
use spool::Spool;
use spool_writer::{SpoolQueue, SpoolWriterParts};
use term::Tenure;
use uploader::{Uploader, Upstream};

/// How long a journal that is stopped goes on storing what it has.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(9);

/// The journal of one source, open for writing; see the module.
#[derive(Debug)]
pub struct Journal {
    upstream: Arc<Upstream>,
    tail: Tail,
    sender: Mutex<Option<EntrySender>>,
    received: Arc<ReceivedMark>,
    snapshots: watch::Sender<SnapshotState>,
    compression_level: i32,
    ended: CancellationToken,
}

/// What keeps the journal going; [`run`](Self::run) it beside whoever writes to the journal. Dropped,
/// the journal ends as if the process had been killed.
#[derive(Debug)]
pub struct JournalTasks {
    sealer: thread::JoinHandle<()>,
    sealer_ended: Ended,
    uploader: AbortOnDropHandle<Result<JournalEnd, JournalError>>,
    /// Gives the signs of life.
    heartbeat: AbortOnDropHandle<()>,
    stop: CancellationToken,
    drain_deadline: Duration,
    /// Tells the uploader that its time is up.
    deadline: CancellationToken,
    /// Ends the sealer and the snapshots when the tasks are gone.
    _ended: DropGuard,
    upstream: Arc<Upstream>,
}

/// How a journal ended that was stopped in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalEnd {
    /// Everything that was handed over is stored.
    pub complete: bool,
    /// Segments that the store did not take in time; the spool keeps them for the next start.
    pub left_segments: u64,
    /// Their length in bytes.
    pub left_bytes: u64,
}

/// The part of the configuration that the journal needs.
#[derive(Clone, Debug)]
struct Settings {
    spool_dir: PathBuf,
    spool_bytes_max: u64,
    segment_bytes_max: u64,
    compression_level: i32,
    recipients: Recipients,
    drain_deadline: Duration,
}

impl Journal {
    fn start(
        store: SourceStore,
        settings: Settings,
        clock: Arc<Clock>,
        cancel: CancellationToken,
        opened: Opened,
    ) -> Result<(Self, JournalTasks), JournalError> {
        let Opened { spool, tenure, stored, survivors } = opened;
        let identity = tenure.identity;
        let Survivors { pending, end, next_seq } = survivors;
        let received = Arc::new(ReceivedMark::default());
        let board = Arc::new(Board::after_start(&tenure, &stored, end.as_ref(), &pending, Arc::clone(&received)));
        let persistence = Persistence::new(Arc::clone(&board), Arc::clone(&clock), store.name().clone());
        let last = end.as_ref().and_then(|end| stored.base(end)).cloned();
        let snapshots =
            watch::Sender::new(SnapshotState { last, newest: stored.newest_complete, ..Default::default() });
        let (suspicion, pulse) = (Notify::new(), Pulse::new());
        let upstream = Arc::new(Upstream { store, tenure, spool, board, clock, persistence, suspicion, pulse });

        let tail = Tail::new(end.as_ref().map(|end| end.point.clone()));
        let buffers = Buffers::default();
        let (sender, entries) =
            EntrySender::new(identity.term, tail.clone(), buffers.clone(), Arc::clone(&upstream.board));
        let (sealed, incoming) = mpsc::unbounded_channel();
        let oldest = pending.first().map_or(next_seq, |first| first.file().seq);
        let (stored_seq, stored_seq_seen) = watch::channel(oldest.saturating_sub(1));
        let (ended, deadline) = (CancellationToken::new(), CancellationToken::new());
        let writer = SpoolWriterParts {
            spool: Arc::clone(&upstream.spool),
            board: Arc::clone(&upstream.board),
            snapshots: snapshots.clone(),
            sealed,
            stop: cancel.clone(),
            kill: ended.clone(),
        };
        let sealer = Sealer::new(SealerParts {
            clock: Arc::clone(&upstream.clock),
            snapshots: snapshots.subscribe(),
            identity,
            epoch: upstream.tenure.epoch.clone(),
            segment_bytes_max: settings.segment_bytes_max,
            compression_level: settings.compression_level,
            entries,
            buffers,
            spool: SpoolQueue::start(writer, Handle::current())?,
            stored_seq: stored_seq_seen,
            stop: cancel.clone(),
            kill: ended.clone(),
            next_seq,
            end,
        })?;
        let (sealer, sealer_ended) = spawn_sealer(sealer, &upstream.spool)?;
        let uploader = Uploader::new(Arc::clone(&upstream), pending, incoming, stored_seq);
        let uploader = AbortOnDropHandle::new(tokio::spawn(uploader.run(deadline.clone())));
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(Heartbeat::new(Arc::clone(&upstream)).run()));
        let tasks = JournalTasks {
            sealer,
            sealer_ended,
            uploader,
            heartbeat,
            stop: cancel,
            drain_deadline: settings.drain_deadline,
            deadline,
            _ended: ended.clone().drop_guard(),
            upstream: Arc::clone(&upstream),
        };
        // It may have taken long since the claim.
        upstream.suspicion.notify_one();
        let compression_level = settings.compression_level;
        let sender = Mutex::new(Some(sender));
        Ok((Self { upstream, tail, sender, received, snapshots, compression_level, ended }, tasks))
    }

    /// Where the stream must continue: after the last entry handed over, or, after a start, where
    /// archive and spool end. `None` in an empty archive.
    #[must_use]
    pub fn resume_point(&self) -> Option<ResumePoint> {
        let point = self.tail.get()?;
        let has_snapshot = self.upstream.board.has_snapshot(point.position.history);
        Some(ResumePoint { has_snapshot, ..point })
    }

    /// The way in, for its one user: the log reader, across its reconnects.
    ///
    /// # Panics
    /// On the second call.
    #[must_use]
    pub fn sender(&self) -> EntrySender {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.take().expect("the journal has one user")
    }

    /// How far the stream has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.upstream.board.watch()
    }

    /// How far the socket has been read: what [`Progress::received`] is sampled from.
    #[must_use]
    pub fn received(&self) -> Arc<ReceivedMark> {
        Arc::clone(&self.received)
    }

    /// Somebody has connected to the source: it may be an agent that is going to watch this one, so that a look
    /// for its sign is worth a request.
    pub fn somebody_came(&self) {
        self.upstream.pulse.somebody_came();
    }

    /// How much of the spool's limit is used. While it is full, nothing more should be read from the
    /// server.
    #[must_use]
    pub fn spool_usage(&self) -> watch::Receiver<SpoolUsage> {
        self.upstream.spool.usage()
    }

    /// Begins to store a snapshot. Drop the writer to give it up: then only chunks stay behind, which
    /// nobody sees.
    ///
    /// # Errors
    /// [`JournalError::SnapshotRunning`], or when the journal has ended.
    #[expect(clippy::unused_async, reason = "must be called within a runtime, which an async fn says best")]
    pub async fn begin_snapshot(&self, reason: SnapshotReason) -> Result<SnapshotWriter, JournalError> {
        let (tail, ended) = (self.tail.clone(), self.ended.clone());
        SnapshotWriter::begin(&self.upstream, &self.snapshots, tail, self.compression_level, reason, ended)
    }

    /// The newest complete snapshot of the newest history, and the one that is being taken.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<SnapshotState> {
        self.snapshots.subscribe()
    }
}

/// Waits for the end of the uploader, or for the failure of either. The uploader is through when the spool's queue has
/// ended, which it also does when there was no room: the sealer knows.
async fn end_of_both(
    sealed: impl Future<Output = Result<bool, JournalError>>,
    uploaded: impl Future<Output = Result<JournalEnd, JournalError>>,
) -> Result<JournalEnd, JournalError> {
    let (mut sealed, mut uploaded) = (pin!(sealed), pin!(uploaded));
    let (all, end) = tokio::select! {
        biased;
        all = &mut sealed => (all?, uploaded.await?),
        end = &mut uploaded => match end? {
            end if end.complete => (sealed.await?, end),
            end => (false, end),
        },
    };
    Ok(JournalEnd { complete: all && end.complete, ..end })
}

/// What was found and claimed, before anything runs.
struct Opened {
    spool: Arc<Spool>,
    tenure: Tenure,
    stored: StoredLog,
    survivors: Survivors,
}

fn tell_opened(store: &SourceStore, tenure: &Tenure, survivors: &Survivors) {
    let term = tenure.identity.term;
    let spooled = survivors.pending.len();
    match &survivors.end {
        Some(end) => tracing::info!(%store, %term, position = %end.point.position, spooled, "opened the archive"),
        None => tracing::info!(%store, %term, "opened a new archive"),
    }
}

/// How the sealer ended: whether everything that was handed over is in the spool.
type Ended = oneshot::Receiver<Result<bool, JournalError>>;

fn spawn_sealer(sealer: Sealer, spool: &Spool) -> Result<(thread::JoinHandle<()>, Ended), JournalError> {
    let (tell, ended) = oneshot::channel();
    let runtime = Handle::current();
    let run = move || {
        // Nobody listens any more after a kill.
        drop(tell.send(sealer.run(&runtime)));
    };
    let spawned = thread::Builder::new().name("redwind-sealer".to_owned()).spawn(run);
    let thread = spawned.map_err(|source| spool::failed("start a thread for", spool.dir(), source))?;
    Ok((thread, ended))
}

impl JournalTasks {
    /// Runs the journal until it is cancelled and has drained, or fails.
    ///
    /// # Errors
    /// [`JournalError::Fenced`], or what has failed.
    ///
    /// # Panics
    /// When a part of the journal has panicked.
    pub async fn run(self) -> Result<JournalEnd, JournalError> {
        let Self { sealer, sealer_ended, mut uploader, heartbeat, stop, drain_deadline, deadline, _ended, upstream } =
            self;
        let sealed = async {
            match sealer_ended.await {
                Ok(ended) => ended,
                Err(_) => match sealer.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => Err(JournalError::Closed),
                },
            }
        };
        let uploaded = async {
            match (&mut uploader).await {
                Ok(uploaded) => uploaded,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        };
        let timed_out = async {
            stop.cancelled().await;
            tokio::time::sleep(drain_deadline).await;
            deadline.cancel();
            std::future::pending::<Infallible>().await
        };
        let ended = tokio::select! {
            biased;
            ended = end_of_both(sealed, uploaded) => ended,
            never = timed_out => match never {},
        };
        drop(heartbeat);
        match &ended {
            Ok(JournalEnd { complete: true, .. }) => heartbeat::farewell(&upstream).await,
            Ok(left) => tracing::warn!(
                segments = left.left_segments, bytes = left.left_bytes, spool = %upstream.spool.dir().display(),
                "stopped before everything was stored; the spool keeps what is in it for the next start"
            ),
            Err(JournalError::Fenced(_)) => upstream.board.fenced(),
            Err(_) => {}
        }
        ended
    }
}

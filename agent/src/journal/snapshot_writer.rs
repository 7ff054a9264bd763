//! Snapshots on their way to the store: RDB bytes go in, chunks and a manifest come out.
//!
//! ```text
//! push --pieces--> compressor (thread) --chunks--> puts (task) --> manifest
//! ```
//!
//! The manifest is put last, and makes the snapshot visible. A snapshot that is given up leaves
//! chunks that nobody sees.

use std::sync::Arc;

use bytes::BytesMut;
use redwind_archive::documents::{ChunkEntry, Manifest, Server, SnapshotReason};
use redwind_archive::layout::{ManifestName, ObjectName};
use redwind_archive::position::Position;
use redwind_archive::store::Put;
use redwind_archive::time::Timestamp;
use redwind_stream::{RdbChecksum, RdbInfo};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use super::entry::Tail;
use super::error::JournalError;
use super::lineage;
use super::progress::{Progress, SnapshotProgress, SnapshotState};
use super::snapshot_chunks::{Shared, store_chunks};
use super::term::new_id;
use super::uploader::Upstream;
use crate::error::describe;

/// Bytes that go to the compressor at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces between the transfer and the compressor.
const PIECES_QUEUED: usize = 2;

/// What is known of a snapshot once its last byte has been received.
#[derive(Clone, Debug)]
pub struct SnapshotFacts {
    /// Where it stands: its history must be the newest one.
    pub position: Position,
    /// The replication ID under which the server gave that offset. If the log got to the offset
    /// under another ID, the two may differ and the snapshot is given up.
    pub replication_id: [u8; 40],
    /// A time at which the source held at least this state and the log had reached the offset.
    pub time: Timestamp,
    /// When the transfer began.
    pub began: Timestamp,
    /// What the check of the RDB told.
    pub rdb: RdbInfo,
    /// The server that wrote it.
    pub server: Server,
}

/// Stores an RDB in chunks while it is received; see the module.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    reason: SnapshotReason,
    piece: BytesMut,
    pieces: mpsc::Sender<BytesMut>,
    stored: AbortOnDropHandle<Result<Vec<ChunkEntry>, JournalError>>,
    tail: Tail,
    progress: watch::Receiver<Progress>,
    ended: CancellationToken,
    running: Running,
}

impl SnapshotWriter {
    pub(super) fn begin(
        upstream: &Arc<Upstream>,
        state: &watch::Sender<SnapshotState>,
        tail: Tail,
        level: i32,
        reason: SnapshotReason,
        ended: CancellationToken,
    ) -> Result<Self, JournalError> {
        if ended.is_cancelled() {
            return Err(JournalError::Closed);
        }
        let id = new_id(&upstream.clock);
        let running = Running::begin(state, id, upstream.clock.now())?;
        let shared = Arc::new(Shared::new(Arc::clone(upstream), id, level, state.clone()));
        let (pieces, taken) = mpsc::channel(PIECES_QUEUED);
        let stored = AbortOnDropHandle::new(tokio::spawn(store_chunks(Arc::clone(&shared), taken)));
        let progress = upstream.board.watch();
        let piece = BytesMut::with_capacity(PIECE_BYTES);
        Ok(Self { shared, reason, piece, pieces, stored, tail, progress, ended, running })
    }

    /// The snapshot's id.
    #[must_use]
    pub fn id(&self) -> Ulid {
        self.shared.id
    }

    /// Tells `status` where the snapshot stands and how long the RDB is, once the server has said so.
    pub fn announce(&self, position: Position, total_bytes: Option<u64>) {
        self.shared.report(|running| {
            running.position = Some(position);
            running.total_bytes = total_bytes;
        });
    }

    /// Takes the next bytes of the RDB. Waits only when the store is slower than the transfer and the
    /// snapshot has borrowed half of the spool.
    ///
    /// # Errors
    /// When the snapshot cannot be completed any more. It must be given up then.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), JournalError> {
        while !bytes.is_empty() {
            let (fits, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(fits);
            bytes = rest;
            if self.piece.len() == PIECE_BYTES {
                self.send_piece(BytesMut::with_capacity(PIECE_BYTES)).await?;
            }
        }
        Ok(())
    }

    async fn send_piece(&mut self, next: BytesMut) -> Result<(), JournalError> {
        let piece = std::mem::replace(&mut self.piece, next);
        let bytes = piece.len() as u64;
        let sent = tokio::select! {
            biased;
            () = self.ended.cancelled() => return Err(self.running.failed(JournalError::Closed)),
            sent = self.pieces.send(piece) => sent,
        };
        if sent.is_err() {
            let error = chunks_of((&mut self.stored).await).err().unwrap_or(JournalError::Closed);
            return Err(self.running.failed(error));
        }
        self.shared.report(|running| running.received_bytes += bytes);
        Ok(())
    }

    /// Completes the snapshot after the RDB's last byte: waits until every chunk is stored and the
    /// stored log has reached the snapshot's offset, then puts the manifest. To be awaited while
    /// the log goes on.
    ///
    /// The log comes first because only that the log got there under the same replication ID tells
    /// that the snapshot belongs to it.
    ///
    /// # Errors
    /// When the snapshot cannot be completed any more, for example because the history has ended.
    pub async fn finish(mut self, facts: SnapshotFacts) -> Result<Manifest, JournalError> {
        if !self.piece.is_empty() {
            self.send_piece(BytesMut::new()).await?;
        }
        let Self { shared, reason, pieces, stored, tail, mut progress, ended, mut running, .. } = self;
        drop(pieces);
        let complete = async {
            let chunks = chunks_of(stored.await)?;
            wait_for_log(&mut progress, &tail, &facts).await?;
            shared.complete(reason, facts, chunks).await
        };
        let completed = tokio::select! {
            biased;
            () = ended.cancelled() => Err(JournalError::Closed),
            completed = complete => completed,
        };
        match completed {
            Ok(manifest) => {
                running.complete(&manifest);
                Ok(manifest)
            }
            Err(error) => Err(running.failed(error)),
        }
    }
}

/// Waits until the stored log has reached the snapshot, and checks that it got there on the same
/// branch.
async fn wait_for_log(
    progress: &mut watch::Receiver<Progress>,
    tail: &Tail,
    facts: &SnapshotFacts,
) -> Result<(), JournalError> {
    let Position { history, offset } = facts.position;
    let abandoned = |reason| Err(JournalError::SnapshotAbandoned { reason });
    // A history that has been handed over begins a little later.
    let begins = || tail.get().is_some_and(|tail| tail.position.history == history);
    let there = |progress: &Progress| match progress.history == Some(history) {
        true => progress.stored >= offset,
        false => !begins(),
    };
    let reached = progress.wait_for(there).await.map_err(|_| JournalError::Closed)?.clone();
    if reached.history != Some(history) {
        return abandoned("its history has ended");
    }
    if offset < reached.history_start {
        return abandoned("it lies before the beginning of its history");
    }
    let ids = tail.get().filter(|tail| tail.position.history == history).map(|tail| tail.replication_ids);
    match ids.as_deref().and_then(|ids| lineage::id_before(ids, offset)) {
        Some(id) if *id == facts.replication_id => Ok(()),
        _ => abandoned("the log went on under another replication ID before it reached the snapshot"),
    }
}

impl Shared {
    async fn complete(
        &self,
        reason: SnapshotReason,
        facts: SnapshotFacts,
        chunks: Vec<ChunkEntry>,
    ) -> Result<Manifest, JournalError> {
        let upstream = &self.upstream;
        if chunks.iter().map(|chunk| chunk.raw).sum::<u64>() != facts.rdb.bytes {
            return Err(JournalError::SnapshotAbandoned { reason: "its length is not that of the RDB" });
        }
        let identity = upstream.tenure.identity;
        let SnapshotFacts { position, time, began, rdb, server, .. } = facts;
        let manifest = Manifest {
            snapshot: self.id,
            archive: identity.archive,
            position,
            time,
            term: identity.term,
            began,
            ended: upstream.clock.now(),
            reason,
            rdb_bytes: rdb.bytes,
            stored_bytes: chunks.iter().map(|chunk| chunk.stored).sum(),
            rdb_version: rdb.version,
            rdb_crc64: match rdb.checksum {
                RdbChecksum::Verified(crc64) => Some(format!("{crc64:016x}")),
                RdbChecksum::Disabled => None,
            },
            stream_database: rdb.repl_stream_db,
            chunks,
            previous: self.newest_complete(),
            server,
        };
        let Position { history, offset } = position;
        let name = ObjectName::Manifest(ManifestName { history, offset, time, snapshot: self.id });
        // Before, so that a fenced writer shows none; after, so that none counts that a successor may
        // not have seen.
        self.check_tenure().await?;
        let epoch = upstream.tenure.epoch.as_deref();
        let put = upstream.persistence.until_answered(|| upstream.store.put_signed(&name, &manifest, epoch)).await;
        if put != Put::Stored {
            return Err(upstream.conflict(&name).await);
        }
        self.check_tenure().await?;
        upstream.board.snapshot(position, upstream.clock.now());
        Ok(manifest)
    }

    async fn check_tenure(&self) -> Result<(), JournalError> {
        let Some(claim) = self.upstream.successor().await else { return Ok(()) };
        self.upstream.suspicion.notify_one();
        Err(JournalError::Fenced(Box::new(claim)))
    }
}

fn chunks_of(
    ended: Result<Result<Vec<ChunkEntry>, JournalError>, tokio::task::JoinError>,
) -> Result<Vec<ChunkEntry>, JournalError> {
    match ended {
        Ok(chunks) => chunks,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(JournalError::Closed),
        },
    }
}

/// The place of the running snapshot in [`SnapshotState`]; there is one.
#[derive(Debug)]
struct Running {
    state: watch::Sender<SnapshotState>,
    id: Ulid,
    outcome: Option<Result<Arc<Manifest>, String>>,
}

impl Running {
    fn begin(state: &watch::Sender<SnapshotState>, id: Ulid, started: Timestamp) -> Result<Self, JournalError> {
        let fresh =
            SnapshotProgress { id, started, position: None, received_bytes: 0, total_bytes: None, stored_bytes: 0 };
        let begun = state.send_if_modified(|state| {
            let free = state.running.is_none();
            if free {
                state.running = Some(fresh);
            }
            free
        });
        if begun { Ok(Self { state: state.clone(), id, outcome: None }) } else { Err(JournalError::SnapshotRunning) }
    }

    fn failed(&mut self, error: JournalError) -> JournalError {
        self.outcome = Some(Err(describe(&error)));
        error
    }

    fn complete(&mut self, manifest: &Manifest) {
        self.outcome = Some(Ok(Arc::new(manifest.clone())));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err("the transfer was given up".to_owned()));
        tracing::debug!(snapshot = %self.id, complete = outcome.is_ok(), "the snapshot has ended");
        self.state.send_modify(|state| {
            state.running = None;
            match outcome {
                Ok(manifest) => {
                    state.newest = Some(manifest.snapshot);
                    (state.last, state.last_error) = (Some(manifest), None);
                }
                Err(error) => state.last_error = Some(error),
            }
        });
    }
}

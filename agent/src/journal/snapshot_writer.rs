//! Snapshots on their way to the store: RDB bytes go in, chunks and a manifest come out.
//!
//! ```text
//! push --pieces--> compressor (thread) --chunks--> puts (task) --> manifest
//! ```
//!
//! A chunk that is complete waits for the store in memory, of which there are two places; when those
//! are taken, on the spool's disk, up to half of the spool's limit; and only when that is used up
//! does [`SnapshotWriter::push`] wait. So a transfer runs at the server's speed when the store is a
//! little slower, and at the store's when it is much slower.
//!
//! The manifest is put last, and makes the snapshot visible. A snapshot that is given up leaves
//! chunks that nobody sees.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redwind_archive::chunk::{ChunkEncoder, ChunkId};
use redwind_archive::documents::{ChunkEntry, Manifest, Server, SnapshotReason};
use redwind_archive::layout::{ManifestName, ObjectName};
use redwind_archive::position::Position;
use redwind_archive::store::Put;
use redwind_archive::time::Timestamp;
use redwind_stream::{RdbChecksum, RdbInfo};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use super::entry::Tail;
use super::error::JournalError;
use super::lineage;
use super::persistence::with_causes;
use super::progress::{Progress, SnapshotProgress, SnapshotState};
use super::spool::{Spool, failed};
use super::term::new_id;
use super::uploader::{Upstream, blocking};

/// Bytes of RDB in a chunk: those of one that does not compress come to 8 MiB.
const CHUNK_RAW_BYTES: u64 = (8 << 20) - (64 << 10);
/// Bytes that go to the compressor at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces between the transfer and the compressor.
const PIECES_QUEUED: usize = 2;
/// Chunks in memory besides the one that is being made.
const CHUNKS_IN_MEMORY: usize = 2;

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

#[derive(Debug)]
struct Shared {
    upstream: Arc<Upstream>,
    id: Ulid,
    level: i32,
    places: Arc<Semaphore>,
    state: watch::Sender<SnapshotState>,
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
        let shared = Arc::new(Shared {
            upstream: Arc::clone(upstream),
            id,
            level,
            places: Arc::new(Semaphore::new(CHUNKS_IN_MEMORY)),
            state: state.clone(),
        });
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
    let there = |progress: &Progress| progress.history != Some(history) || progress.stored >= offset;
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
    fn report(&self, change: impl FnOnce(&mut SnapshotProgress)) {
        self.state.send_modify(|state| {
            if let Some(running) = state.running.as_mut().filter(|running| running.id == self.id) {
                change(running);
            }
        });
    }

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
            server,
        };
        let Position { history, offset } = position;
        let name = ObjectName::Manifest(ManifestName { history, offset, time, snapshot: self.id });
        // Before, so that a fenced writer shows none; after, so that none counts that a successor may
        // not have seen.
        self.check_tenure().await?;
        let put = upstream.persistence.until_answered(|| upstream.store.put_document(&name, &manifest)).await;
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

/// A chunk that is complete and waits for the store.
#[derive(Debug)]
struct Chunk {
    number: u32,
    entry: ChunkEntry,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Bytes, OwnedSemaphorePermit),
    Disk(Borrowed),
}

/// A chunk's file in the spool; goes when it is dropped.
#[derive(Debug)]
struct Borrowed {
    spool: Arc<Spool>,
    path: PathBuf,
    bytes: u64,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.spool.give_back(&self.path, self.bytes);
    }
}

/// Compresses the pieces into chunks and stores these, in whatever order; tells them in theirs.
async fn store_chunks(shared: Arc<Shared>, pieces: mpsc::Receiver<BytesMut>) -> Result<Vec<ChunkEntry>, JournalError> {
    // Not bounded itself: what is in it has a place in memory or on disk, and those are.
    let (made, mut chunks) = mpsc::unbounded_channel();
    let maker = ChunkMaker { shared: Arc::clone(&shared), runtime: Handle::current(), made };
    let compressed = tokio::task::spawn_blocking(move || maker.run(pieces));
    let mut puts = FuturesUnordered::new();
    let mut entries = Vec::new();
    let mut more = true;
    while more || !puts.is_empty() {
        tokio::select! {
            chunk = chunks.recv(), if more => match chunk {
                Some(chunk) => puts.push(put_chunk(&shared, chunk)),
                None => more = false,
            },
            Some(put) = puts.next() => entries.push(put?),
        }
    }
    compressed.await.map_err(|error| failed("compress in", shared.upstream.spool.dir(), error.into()))??;
    entries.sort_unstable_by_key(|(number, _)| *number);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

async fn put_chunk(shared: &Shared, chunk: Chunk) -> Result<(u32, ChunkEntry), JournalError> {
    let Chunk { number, entry, place } = chunk;
    let (object, _permit, _borrowed) = match place {
        Place::Memory(object, permit) => (object, Some(permit), None),
        Place::Disk(borrowed) => {
            let permit = Arc::clone(&shared.places).acquire_owned().await.map_err(|_| JournalError::Closed)?;
            let path = borrowed.path.clone();
            let read = blocking(move || std::fs::read(&path).map_err(|source| failed("read", &path, source))).await?;
            if read.len() as u64 != entry.stored || redwind_archive::chunk::check(&read).is_err() {
                return Err(JournalError::SpoolDamaged { path: borrowed.path.clone() });
            }
            (Bytes::from(read), Some(permit), Some(borrowed))
        }
    };
    let upstream = &shared.upstream;
    let name = ObjectName::Chunk(shared.id, number);
    let put = upstream.persistence.until_answered(|| upstream.store.put_new(&name, object.clone())).await;
    if put != Put::Stored {
        return Err(upstream.conflict(&name).await);
    }
    shared.report(|running| running.stored_bytes += entry.stored);
    Ok((number, entry))
}

/// The compressor's side: runs on a thread that may block.
struct ChunkMaker {
    shared: Arc<Shared>,
    runtime: Handle,
    made: mpsc::UnboundedSender<Chunk>,
}

impl ChunkMaker {
    fn run(self, mut pieces: mpsc::Receiver<BytesMut>) -> Result<(), JournalError> {
        let mut number = 0;
        let mut encoder: Option<ChunkEncoder> = None;
        while let Some(piece) = pieces.blocking_recv() {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let chunk = match encoder.as_mut() {
                    Some(chunk) => chunk,
                    None => encoder.insert(self.begin(number)?),
                };
                let room = usize::try_from(CHUNK_RAW_BYTES - chunk.raw_bytes()).unwrap_or(usize::MAX);
                let (fits, after) = rest.split_at(rest.len().min(room));
                chunk.push(fits).map_err(JournalError::Compress)?;
                rest = after;
                if chunk.raw_bytes() == CHUNK_RAW_BYTES {
                    self.hand_on(number, encoder.take())?;
                    number += 1;
                }
            }
        }
        self.hand_on(number, encoder)
    }

    fn begin(&self, number: u32) -> Result<ChunkEncoder, JournalError> {
        let archive = self.shared.upstream.tenure.identity.archive;
        let id = ChunkId { archive, snapshot: self.shared.id, number };
        ChunkEncoder::begin(id, self.shared.level).map_err(JournalError::Compress)
    }

    fn hand_on(&self, number: u32, encoder: Option<ChunkEncoder>) -> Result<(), JournalError> {
        let Some(encoder) = encoder else { return Ok(()) };
        let (object, entry) = encoder.finish().map_err(JournalError::Compress)?;
        let place = self.place(number, object)?;
        self.made.send(Chunk { number, entry, place }).map_err(|_| JournalError::Closed)
    }

    fn place(&self, number: u32, object: Bytes) -> Result<Place, JournalError> {
        let places = Arc::clone(&self.shared.places);
        if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            return Ok(Place::Memory(object, permit));
        }
        let spool = &self.shared.upstream.spool;
        if let Some(path) = spool.borrow(self.shared.id, number, &object)? {
            return Ok(Place::Disk(Borrowed { spool: Arc::clone(spool), path, bytes: object.len() as u64 }));
        }
        let closed = async {
            tokio::select! { () = self.made.closed() => None, permit = places.acquire_owned() => permit.ok() }
        };
        let permit = self.runtime.block_on(closed).ok_or(JournalError::Closed)?;
        Ok(Place::Memory(object, permit))
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
        self.outcome = Some(Err(with_causes(&error)));
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
                Ok(manifest) => (state.last, state.last_error) = (Some(manifest), None),
                Err(error) => state.last_error = Some(error),
            }
        });
    }
}

//! The chunks of a snapshot that is being taken: made on a thread, stored in parallel.
//!
//! A chunk that is complete waits for the store in memory, of which there are two places; when those
//! are taken, on the spool's disk, up to half of the spool's limit; and only when that is used up
//! does the compressor wait, and with it the transfer. So a transfer runs at the server's speed when
//! the store is a little slower, and at the store's when it is much slower.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redwind_archive::chunk::{self, ChunkEncoder, ChunkId};
use redwind_archive::documents::ChunkEntry;
use redwind_archive::layout::ObjectName;
use redwind_archive::store::Put;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use ulid::Ulid;

use super::error::JournalError;
use super::progress::{SnapshotProgress, SnapshotState};
use super::spool::{Spool, failed};
use super::uploader::{Upstream, blocking};

/// Bytes of RDB in a chunk: those of one that does not compress come to 8 MiB.
const CHUNK_RAW_BYTES: u64 = (8 << 20) - (64 << 10);
/// Chunks in memory besides the one that is being made.
const CHUNKS_IN_MEMORY: usize = 2;

/// What the parts of one snapshot's taking share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The way to the store.
    pub(super) upstream: Arc<Upstream>,
    /// The snapshot.
    pub(super) id: Ulid,
    level: i32,
    places: Arc<Semaphore>,
    /// Memory of chunks, for the next ones.
    spare: Mutex<Vec<Vec<u8>>>,
    state: watch::Sender<SnapshotState>,
}

impl Shared {
    pub(super) fn new(upstream: Arc<Upstream>, id: Ulid, level: i32, state: watch::Sender<SnapshotState>) -> Self {
        let places = Arc::new(Semaphore::new(CHUNKS_IN_MEMORY));
        Self { upstream, id, level, places, spare: Mutex::default(), state }
    }

    /// Changes what is told of the snapshot.
    pub(super) fn report(&self, change: impl FnOnce(&mut SnapshotProgress)) {
        self.state.send_modify(|state| {
            if let Some(running) = state.running.as_mut().filter(|running| running.id == self.id) {
                change(running);
            }
        });
    }

    /// The archive's newest complete snapshot: the one before this.
    pub(super) fn newest_complete(&self) -> Option<Ulid> {
        self.state.borrow().newest
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps a chunk's memory. Nobody else holds it any more, or it is copied: then it is not kept.
    fn keep_buffer(&self, object: Bytes) {
        if object.is_unique() {
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(object.into());
        }
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
pub(super) async fn store_chunks(
    shared: Arc<Shared>,
    pieces: mpsc::Receiver<BytesMut>,
) -> Result<Vec<ChunkEntry>, JournalError> {
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
            let (path, buffer) = (borrowed.path.clone(), shared.take_buffer());
            let read = blocking(move || read(&path, buffer).map_err(|source| failed("read", &path, source))).await?;
            if read.len() as u64 != entry.stored || chunk::check(&read).is_err() {
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
    shared.keep_buffer(object);
    Ok((number, entry))
}

fn read(path: &Path, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    buffer.clear();
    File::open(path)?.read_to_end(&mut buffer)?;
    Ok(buffer)
}

/// The compressor's side: runs on a thread that may block.
struct ChunkMaker {
    shared: Arc<Shared>,
    runtime: Handle,
    made: mpsc::UnboundedSender<Chunk>,
}

impl ChunkMaker {
    fn run(self, mut pieces: mpsc::Receiver<BytesMut>) -> Result<(), JournalError> {
        let mut encoder = ChunkEncoder::new(self.shared.level).map_err(JournalError::Compress)?;
        let mut number = 0;
        while let Some(piece) = pieces.blocking_recv() {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let room = usize::try_from(CHUNK_RAW_BYTES - encoder.raw_bytes()).unwrap_or(usize::MAX);
                let (fits, after) = rest.split_at(rest.len().min(room));
                encoder.push(fits);
                rest = after;
                if encoder.raw_bytes() == CHUNK_RAW_BYTES {
                    self.hand_on(number, &mut encoder)?;
                    number += 1;
                }
            }
        }
        if encoder.raw_bytes() > 0 { self.hand_on(number, &mut encoder) } else { Ok(()) }
    }

    fn hand_on(&self, number: u32, encoder: &mut ChunkEncoder) -> Result<(), JournalError> {
        let tenure = &self.shared.upstream.tenure;
        let id = ChunkId { archive: tenure.identity.archive, snapshot: self.shared.id, number };
        let (epoch, buffer) = (tenure.epoch.as_deref(), self.shared.take_buffer());
        let (object, entry) = encoder.finish(id, epoch, buffer).map_err(JournalError::Compress)?;
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
            let bytes = object.len() as u64;
            self.shared.keep_buffer(object);
            return Ok(Place::Disk(Borrowed { spool: Arc::clone(spool), path, bytes }));
        }
        let closed = async {
            tokio::select! { () = self.made.closed() => None, permit = places.acquire_owned() => permit.ok() }
        };
        let permit = self.runtime.block_on(closed).ok_or(JournalError::Closed)?;
        Ok(Place::Memory(object, permit))
    }
}

//! The snapshot's RDB: its chunks in order, each checked against the manifest, the whole against its
//! own checksum.

use redwind_archive::chunk::{self, CHUNK_RAW_BYTES_MAX, ChunkId};
use redwind_archive::documents::{ChunkEntry, Manifest};
use redwind_archive::keys::Keyring;
use redwind_archive::layout::{ManifestName, ObjectName};
use redwind_archive::store::{Advice, SourceStore, StoreError};
use redwind_stream::{RdbCheck, RdbChecksum};

use super::buffers::Buffers;
use super::{Ahead, FetchError, Memory, Piece, patiently};

/// The bytes of a snapshot's RDB, in order.
///
/// The last of them are given out only after the whole has been found sound, so that whoever needs
/// all of it to go on (a server that loads it, a file that is renamed) never goes on with a damaged
/// one.
pub struct RdbReader {
    chunks: Ahead<Piece>,
    left: usize,
    check: RdbCheck,
    manifest: Manifest,
    /// How messages call the snapshot.
    object: String,
}

impl RdbReader {
    /// Begins to read the snapshot that `manifest` describes.
    #[must_use]
    pub fn start(store: &SourceStore, keys: &Keyring, manifest: &Manifest) -> Self {
        let Manifest { archive, snapshot, .. } = *manifest;
        let numbered = (0_u32..).zip(manifest.chunks.clone());
        let jobs = numbered.map(move |(number, entry)| {
            (entry.raw.saturating_add(entry.stored), (ChunkId { archive, snapshot, number }, entry))
        });
        let (from, keys, buffers) = (store.clone(), keys.clone(), Buffers::default());
        let chunks = Ahead::start(jobs, move |(id, entry), memory| {
            read(from.clone(), keys.clone(), buffers.clone(), id, entry, memory)
        });
        let name = ManifestName {
            history: manifest.position.history,
            offset: manifest.position.offset,
            time: manifest.time,
            snapshot,
        };
        Self {
            chunks,
            left: manifest.chunks.len(),
            check: RdbCheck::new(),
            object: store.describe(&ObjectName::Manifest(name)),
            manifest: manifest.clone(),
        }
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// When a chunk is missing or damaged, the whole is no sound RDB, or the store fails.
    pub async fn next(&mut self) -> Result<Option<Piece>, FetchError> {
        let Some(piece) = self.chunks.next().await.transpose()? else {
            return if self.left == 0 { Ok(None) } else { self.judge().map(|()| None) };
        };
        self.check.push(&piece.bytes).map_err(|source| FetchError::Rdb { snapshot: self.object.clone(), source })?;
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.judge()?;
        }
        Ok(Some(piece))
    }

    fn judge(&mut self) -> Result<(), FetchError> {
        let check = std::mem::take(&mut self.check);
        let info = check.finish().map_err(|source| FetchError::Rdb { snapshot: self.object.clone(), source })?;
        self.compare("length", info.bytes, self.manifest.rdb_bytes)?;
        self.compare("format version", info.version, self.manifest.rdb_version)?;
        let crc64 = match info.checksum {
            RdbChecksum::Verified(crc64) => Some(crc64),
            RdbChecksum::Disabled => None,
        };
        let promised = self.manifest.rdb_crc64.as_deref().map(|text| u64::from_str_radix(text, 16));
        let shown = |crc64: Option<u64>| crc64.map_or_else(|| "none".to_owned(), |crc64| format!("{crc64:016x}"));
        match promised.transpose() {
            Ok(promised) => self.compare("CRC-64", shown(crc64), shown(promised)),
            Err(_) => self.compare("CRC-64", shown(crc64), self.manifest.rdb_crc64.clone().unwrap_or_default()),
        }
    }

    fn compare<T: PartialEq + ToString>(&self, field: &'static str, found: T, expected: T) -> Result<(), FetchError> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.to_string(), expected.to_string());
        Err(FetchError::Manifest { snapshot: self.object.clone(), field, found, expected })
    }
}

async fn read(
    store: SourceStore,
    keys: Keyring,
    buffers: Buffers,
    id: ChunkId,
    entry: ChunkEntry,
    memory: Memory,
) -> Result<Piece, FetchError> {
    let name = ObjectName::Chunk(id.snapshot, id.number);
    let may_retry = |error: &StoreError| error.advice() == Advice::Retry;
    let getting = patiently(|| store.get_into(&name, |bytes| buffers.take(bytes)), may_retry);
    let object = buffers.lend(getting.await.map_err(|error| match error.is_absent() {
        true => FetchError::MissingChunk { object: store.describe(&name) },
        false => FetchError::Store(error),
    })?);
    let lender = buffers.clone();
    let decoding = buffers.decode(move || {
        let mut rdb = lender.take(entry.raw.min(CHUNK_RAW_BYTES_MAX) as usize);
        chunk::decode_into(&object, id, &entry, &keys, &mut rdb).map(|()| lender.lend(rdb))
    });
    let rdb = decoding.await?.map_err(|source| FetchError::Chunk { object: store.describe(&name), source })?;
    Ok(Piece::new(rdb, memory))
}

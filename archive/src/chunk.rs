//! Chunks: the pieces of a snapshot's RDB, each an object that can be checked by itself.
//!
//! ```text
//! head (64 bytes) | payload: one zstd frame | CRC-32 of all before it
//! ```
//!
//! In an encrypted archive the head is longer by the key's epoch and a salt, and the payload is sealed
//! together with it.
//!
//! `docs/format.md` draws every byte.

use std::io::{self, Cursor};

use bytes::Bytes;
use ulid::Ulid;
use zstd::bulk::{Compressor, Decompressor};

use crate::documents::ChunkEntry;
use crate::keys::{Cipher, Encryption, Epoch, KeyError, Keyring, TAG_BYTES};
use crate::wire::Fields;

const MAGIC: [u8; 8] = *b"RWCHKv1\n";
pub(crate) const HEAD_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 4;

/// Most bytes of RDB in one chunk: what a reader needs to hold at once.
pub const CHUNK_RAW_BYTES_MAX: u64 = 64 << 20;

/// Which chunk this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkId {
    /// The archive that it belongs to.
    pub archive: Ulid,
    /// The snapshot that it is a piece of.
    pub snapshot: Ulid,
    /// Its place in the snapshot, from 0.
    pub number: u32,
}

impl ChunkId {
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { archive: fields.ulid()?, snapshot: fields.ulid()?, number: fields.u32()? })
    }
}

/// Why bytes are not the chunk that they should be.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// It begins with something else.
    #[error("damaged: not a chunk of a snapshot")]
    NotAChunk,
    /// Written by a later release.
    #[error("a chunk of a later format version; use a newer redwind")]
    Newer,
    /// Too short, or too long.
    #[error("damaged: {actual} bytes long, should be {expected}")]
    Length {
        /// Length in the manifest.
        expected: u64,
        /// Length found.
        actual: u64,
    },
    /// Its checksum is wrong, or another than the manifest's.
    #[error("damaged: CRC-32 {actual:08x}, should be {expected:08x}")]
    Checksum {
        /// As the manifest says.
        expected: u32,
        /// Of the bytes found.
        actual: u32,
    },
    /// A sound chunk, but another than its name says.
    #[error("misplaced: it is chunk {} of snapshot {} of archive {}", .0.number, .0.snapshot, .0.archive)]
    Misplaced(ChunkId),
    /// Its checksums are right, but it was not written by one who has the key, or not so.
    #[error("forged: it is not what was encrypted, though its checksums are right")]
    Forged,
    /// A plain chunk in an encrypted archive, or the reverse.
    #[error("misplaced: {}", if *.encrypted { "encrypted, and the archive is not" } else { "not encrypted, and the archive is" })]
    Mode {
        /// Whether the chunk is encrypted.
        encrypted: bool,
    },
    /// Its contents cannot be opened.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The payload does not decompress to what the head promises.
    #[error("damaged: its payload cannot be decompressed")]
    Payload,
}

impl ChunkError {
    /// Whether the chunk is damaged, rather than the reader without its key.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        if let Self::Key(error) = self { error.is_damage() } else { true }
    }
}

/// Makes chunks, one after the other: RDB bytes go in, objects come out.
///
/// The bytes of the chunk in the making are kept until it is finished and then compressed at once: a
/// stream that is compressed as it comes is copied into a window first and, because the window is a
/// ring, searched in two parts, which costs a third more time.
pub struct ChunkEncoder {
    compressor: Compressor<'static>,
    raw: Vec<u8>,
}

impl ChunkEncoder {
    /// Begins the first chunk. `level` is the zstd level.
    ///
    /// # Errors
    /// When zstd has no memory.
    pub fn new(level: i32) -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(level)?, raw: Vec::new() })
    }

    /// Appends bytes of the RDB to the chunk in the making.
    pub fn push(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// Bytes of RDB in the chunk in the making.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Completes the chunk, which is this one, and begins the next. In an encrypted archive, `epoch` is the
    /// writer's. The object is made in memory that was used before, such as that of an earlier object
    /// (`Vec::from` gives it back): buffers of megabytes that come and go leave holes in the heap.
    ///
    /// # Errors
    /// When zstd fails.
    pub fn finish(
        &mut self,
        id: ChunkId,
        epoch: Option<&Epoch>,
        mut object: Vec<u8>,
    ) -> io::Result<(Bytes, ChunkEntry)> {
        let raw = self.raw_bytes();
        let cipher = begin_object(id, raw, epoch, &mut object);
        let payload_at = object.len();
        object.reserve(zstd::zstd_safe::compress_bound(self.raw.len()) + TAG_BYTES + CHECKSUM_BYTES);
        let mut payload = Cursor::new(&mut object);
        payload.set_position(payload_at as u64);
        self.compressor.compress_to_buffer(&self.raw, &mut payload)?;
        self.raw.clear();
        if let Some(cipher) = cipher {
            let (head, payload) = object.split_at_mut(payload_at);
            let tag = cipher.seal(0, head, payload);
            object.extend(tag);
        }
        let crc32 = crc32fast::hash(&object);
        object.extend(crc32.to_le_bytes());
        let entry = ChunkEntry { stored: object.len() as u64, raw, crc32 };
        Ok((Bytes::from(object), entry))
    }
}

/// Begins an object with its head; gives what seals its payload.
fn begin_object(id: ChunkId, raw: u64, epoch: Option<&Epoch>, object: &mut Vec<u8>) -> Option<Cipher> {
    object.clear();
    object.extend(MAGIC);
    object.extend(id.archive.to_bytes());
    object.extend(id.snapshot.to_bytes());
    object.extend(id.number.to_le_bytes());
    object.extend(u32::from(epoch.is_some()).to_le_bytes());
    object.extend(raw.to_le_bytes());
    object.resize(HEAD_BYTES, 0);
    let epoch = epoch?;
    let encryption = epoch.encryption();
    encryption.encode(object);
    Some(epoch.chunk_cipher(&encryption, id))
}

fn head_bytes(encrypted: bool) -> usize {
    HEAD_BYTES + if encrypted { Encryption::BYTES } else { 0 }
}

/// Checks a chunk against its name and its manifest, and puts the RDB bytes in it into `out`, in place
/// of what was there.
///
/// # Errors
/// [`ChunkError`] says what is wrong with it, or what key is missing; what is in `out` is void then.
pub fn decode_into(
    object: &[u8],
    id: ChunkId,
    entry: &ChunkEntry,
    keys: &Keyring,
    out: &mut Vec<u8>,
) -> Result<(), ChunkError> {
    let head = check_entry(object, id, entry, keys)?;
    let (clear, rest) = object.split_at(head_bytes(head.encryption.is_some()));
    let stored = &rest[..rest.len() - CHECKSUM_BYTES];
    let opened = match head.encryption {
        None => None,
        Some(encryption) => {
            let keys = keys.data_keys(encryption.epoch)?;
            if keys.is_empty() {
                return Err(KeyError::NoIdentity.into());
            }
            let payload = keys.iter().find_map(|key| key.chunk_cipher(&encryption, id).open(0, clear, stored));
            Some(payload.ok_or(ChunkError::Forged)?)
        }
    };
    let raw = usize::try_from(head.raw).map_err(|_| ChunkError::Payload)?;
    out.clear();
    out.reserve(raw);
    let payload = opened.as_deref().unwrap_or(stored);
    let bytes = Decompressor::default().decompress_to_buffer(payload, out).map_err(|_| ChunkError::Payload)?;
    if bytes == raw { Ok(()) } else { Err(ChunkError::Payload) }
}

fn check_entry(object: &[u8], id: ChunkId, entry: &ChunkEntry, keys: &Keyring) -> Result<Head, ChunkError> {
    let head = Head::check(object)?;
    if head.id != id {
        return Err(ChunkError::Misplaced(head.id));
    }
    if object.len() as u64 != entry.stored || head.raw > CHUNK_RAW_BYTES_MAX {
        return Err(ChunkError::Length { expected: entry.stored, actual: object.len() as u64 });
    }
    if head.crc32 != entry.crc32 {
        return Err(ChunkError::Checksum { expected: entry.crc32, actual: head.crc32 });
    }
    let encrypted = head.encryption.is_some();
    if encrypted != keys.is_encrypted() {
        return Err(ChunkError::Mode { encrypted });
    }
    if head.raw == entry.raw { Ok(head) } else { Err(ChunkError::Payload) }
}

/// As [`decode_into`], into memory of its own.
///
/// # Errors
/// [`ChunkError`] says what is wrong with it.
pub fn decode(object: &Bytes, id: ChunkId, entry: &ChunkEntry, keys: &Keyring) -> Result<Vec<u8>, ChunkError> {
    let mut bytes = Vec::new();
    decode_into(object, id, entry, keys, &mut bytes)?;
    Ok(bytes)
}

/// Under which key a chunk is encrypted; `None` when it is not, or is no sound chunk.
#[must_use]
pub fn encryption(object: &[u8]) -> Option<Encryption> {
    Head::check(object).ok()?.encryption
}

/// Checks a chunk by itself, without its manifest: its form and its checksum. Tells which it is.
///
/// # Errors
/// [`ChunkError`] says what is wrong with it.
pub fn check(object: &[u8]) -> Result<ChunkId, ChunkError> {
    Head::check(object).map(|head| head.id)
}

/// What a chunk that is sound says of itself.
struct Head {
    id: ChunkId,
    raw: u64,
    encryption: Option<Encryption>,
    crc32: u32,
}

impl Head {
    fn check(object: &[u8]) -> Result<Self, ChunkError> {
        let (content, checksum) = object.split_last_chunk::<CHECKSUM_BYTES>().ok_or(ChunkError::NotAChunk)?;
        let mut fields = Fields(content);
        match fields.array::<8>() {
            Some(MAGIC) => {}
            Some(magic) if magic.starts_with(b"RWCHKv") => return Err(ChunkError::Newer),
            _ => return Err(ChunkError::NotAChunk),
        }
        let (expected, actual) = (u32::from_le_bytes(*checksum), crc32fast::hash(content));
        if expected != actual {
            return Err(ChunkError::Checksum { expected, actual });
        }
        Self::decode(&mut fields, actual).ok_or(ChunkError::NotAChunk)
    }

    /// Reads the fields after the magic; the reserved ones must be 0. An encrypted payload has at least
    /// its tag.
    fn decode(fields: &mut Fields<'_>, crc32: u32) -> Option<Self> {
        let (id, flags) = (ChunkId::decode(fields)?, fields.u32()?);
        let (raw, reserved) = (fields.u64()?, fields.u64()?);
        let encryption = match flags {
            0 => None,
            1 => Some(Encryption::decode(fields).filter(|_| fields.0.len() >= TAG_BYTES)?),
            _ => return None,
        };
        (reserved == 0).then_some(Self { id, raw, encryption, crc32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ChunkId = ChunkId { archive: Ulid(1), snapshot: Ulid(2), number: 3 };

    fn chunk() -> (Bytes, ChunkEntry) {
        let mut encoder = ChunkEncoder::new(1).unwrap();
        encoder.push(b"REDIS0011");
        encoder.push(&[7; 5000]);
        encoder.finish(ID, None, Vec::new()).unwrap()
    }

    #[test]
    fn a_chunk_gives_its_bytes_back() {
        let (object, entry) = chunk();
        let rdb = decode(&object, ID, &entry, &Keyring::Plain).unwrap();
        assert_eq!((rdb.len(), &rdb[..9]), (5009, &b"REDIS0011"[..]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (object, entry) = chunk();
        for bit in 0..object.len() * 8 {
            let mut bad = object.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(bad), ID, &entry, &Keyring::Plain).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_any_garbage_at_the_end_is_noticed() {
        let (object, entry) = chunk();
        for length in 0..object.len() {
            assert!(decode(&object.slice(..length), ID, &entry, &Keyring::Plain).is_err(), "cut to {length}");
        }
        let longer = [&object[..], b"x"].concat();
        assert!(decode(&Bytes::from(longer), ID, &entry, &Keyring::Plain).is_err());
    }

    #[test]
    fn a_sibling_is_told_from_the_chunk_itself() {
        let (object, entry) = chunk();
        let sibling = ChunkId { number: 4, ..ID };
        assert!(
            matches!(decode(&object, sibling, &entry, &Keyring::Plain), Err(ChunkError::Misplaced(found)) if found == ID)
        );
    }
}

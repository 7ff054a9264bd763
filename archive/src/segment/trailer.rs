//! The end of a segment: what came of it.

use super::decoder::SegmentError;
use crate::keys::{EpochId, MAC_BYTES, Mac};
use crate::position::Offset;
use crate::time::Timestamp;
use crate::wire::Fields;

const MAGIC: [u8; 4] = *b"END1";
const FIELDS_BYTES: usize = 44;
const CHECKSUM_BYTES: usize = 4;
const SEAL_BYTES: usize = 16 + MAC_BYTES;

/// What a segment says of itself after its last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Number of blocks.
    pub blocks: u32,
    /// Offset after the last byte.
    pub end: Offset,
    /// Until when the socket is known to have been read: everything that the server had sent by then
    /// stands in this segment or before it.
    pub read_until: Timestamp,
    /// Records that end in the segment.
    pub records: u64,
    /// Those of them that are writes: neither PING, nor SELECT, nor REPLCONF.
    pub writes: u64,
    /// In an encrypted archive: who vouches for the segment.
    pub seal: Option<Seal>,
    /// CRC-32 of all bytes of the segment before this field, which is its last.
    pub crc32: u32,
}

/// What authenticates a segment as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The epoch of the writer that completed it: a later one than that of its blocks when their
    /// writer died.
    pub epoch: EpochId,
    /// Of all bytes of the segment before this field.
    pub mac: Mac,
}

/// What a segment is known by in the header of the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// [`Trailer::crc32`].
    pub crc32: u32,
    /// [`Seal::mac`].
    pub mac: Option<Mac>,
}

impl Trailer {
    /// Length of a trailer in bytes; it is the last thing in a segment.
    #[must_use]
    pub fn bytes(encrypted: bool) -> usize {
        FIELDS_BYTES + CHECKSUM_BYTES + if encrypted { SEAL_BYTES } else { 0 }
    }

    /// By what the next segment names this one.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { crc32: self.crc32, mac: self.seal.map(|seal| seal.mac) }
    }

    /// Appends the trailer's bytes but for the seal's MAC and the checksum, which are taken over them
    /// too.
    pub(super) fn encode_fields(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend(self.blocks.to_le_bytes());
        out.extend(self.end.0.to_le_bytes());
        out.extend(self.read_until.0.to_le_bytes());
        out.extend(self.records.to_le_bytes());
        out.extend(self.writes.to_le_bytes());
        out.extend([0; 4]); // reserved
        if let Some(seal) = &self.seal {
            out.extend(seal.epoch.0.to_bytes());
        }
    }

    /// Decodes a trailer, which must be exactly `bytes`: the last [`Trailer::bytes`] of a segment.
    ///
    /// Checks its form only; whether the checksum and the seal fit takes the whole segment.
    ///
    /// # Errors
    /// [`SegmentError::Trailer`] when these are no trailer's bytes.
    pub fn decode(bytes: &[u8], encrypted: bool) -> Result<Self, SegmentError> {
        let mut fields = Fields(bytes);
        let trailer = Self::decode_fields(&mut fields, encrypted).ok_or(SegmentError::Trailer)?;
        if fields.0.is_empty() { Ok(trailer) } else { Err(SegmentError::Trailer) }
    }

    fn decode_fields(fields: &mut Fields<'_>, encrypted: bool) -> Option<Self> {
        if fields.array()? != MAGIC {
            return None;
        }
        Some(Self {
            blocks: fields.u32()?,
            end: Offset(fields.u64()?),
            read_until: Timestamp(fields.u64()?),
            records: fields.u64()?,
            writes: fields.u64()?,
            seal: {
                (fields.u32()? == 0).then_some(())?;
                if encrypted { Some(Seal { epoch: EpochId(fields.ulid()?), mac: fields.array()? }) } else { None }
            },
            crc32: fields.u32()?,
        })
    }
}

/// Where the seal's MAC stands in a segment that ends with one.
pub(super) fn mac_at(segment_bytes: usize) -> usize {
    segment_bytes - CHECKSUM_BYTES - MAC_BYTES
}

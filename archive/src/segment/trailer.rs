//! The end of a segment: what came of it.

use super::decoder::SegmentError;
use crate::position::Offset;
use crate::time::Timestamp;
use crate::wire::Fields;

pub(super) const MAGIC: [u8; 4] = *b"END1";

/// Length of a trailer in bytes; it is the last thing in a segment.
pub const TRAILER_BYTES: usize = 48;

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
    /// CRC-32 of all bytes of the segment before this field, which is its last: the checksum that the
    /// next segment's header repeats.
    pub crc32: u32,
}

impl Trailer {
    /// Appends the trailer's bytes but for the checksum, which is taken over them too.
    pub(super) fn encode_unsigned(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend(self.blocks.to_le_bytes());
        out.extend(self.end.0.to_le_bytes());
        out.extend(self.read_until.0.to_le_bytes());
        out.extend(self.records.to_le_bytes());
        out.extend(self.writes.to_le_bytes());
        out.extend([0; 4]); // reserved
    }

    /// Decodes a trailer, which must be exactly `bytes`: the last [`TRAILER_BYTES`] of a segment.
    ///
    /// Checks its form only; whether the checksum fits takes the whole segment.
    ///
    /// # Errors
    /// [`SegmentError::Trailer`] when these are no trailer's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let mut fields = Fields(bytes);
        let trailer = Self::decode_fields(&mut fields).ok_or(SegmentError::Trailer)?;
        if fields.0.is_empty() { Ok(trailer) } else { Err(SegmentError::Trailer) }
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<Self> {
        if fields.array()? != MAGIC {
            return None;
        }
        Some(Self {
            blocks: fields.u32()?,
            end: Offset(fields.u64()?),
            read_until: Timestamp(fields.u64()?),
            records: fields.u64()?,
            writes: fields.u64()?,
            crc32: {
                (fields.u32()? == 0).then_some(())?;
                fields.u32()?
            },
        })
    }
}

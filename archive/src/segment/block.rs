//! Blocks: the pieces of stream in a segment, each compressed and checked by itself.

use std::io::{self, Cursor};

use bytes::Bytes;
use zstd::bulk::Decompressor;

use super::decoder::SegmentError;
use crate::position::Offset;
use crate::time::Timestamp;
use crate::wire::{Fields, put_varint};

pub(super) const MAGIC: [u8; 4] = *b"BLK1";
/// Length of a block's head, which its marks and its payload follow.
pub(super) const HEAD_BYTES: usize = 32;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// Most stream bytes in one block. A reader refuses more, so its memory is bounded.
pub const BLOCK_BYTES_MAX: usize = 16 << 20;

/// A read of the socket: when the bytes up to an offset had arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Offset after the last byte of the read.
    pub end: Offset,
    /// When it was read. Never decreases within a history.
    pub time: Timestamp,
}

/// Appends a block of `bytes`, which begin at `start`; `marks` end with the bytes.
pub(super) fn encode(
    compressor: &mut zstd::bulk::Compressor<'static>,
    start: Offset,
    bytes: &[u8],
    marks: &[Mark],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    assert!(!bytes.is_empty() && bytes.len() <= BLOCK_BYTES_MAX, "a block of {} bytes", bytes.len());
    assert_eq!(marks.last().map(|mark| mark.end), Some(start.advance(bytes.len() as u64)), "marks end with the block");
    let head = out.len();
    out.resize(head + HEAD_BYTES, 0);
    encode_marks(start, marks, out);
    let marks_bytes = out.len() - head - HEAD_BYTES;
    let codec = encode_payload(compressor, bytes, out)?;
    let payload_bytes = out.len() - head - HEAD_BYTES - marks_bytes;

    let mut fields = Vec::with_capacity(HEAD_BYTES);
    fields.extend(MAGIC);
    fields.extend((bytes.len() as u32).to_le_bytes());
    fields.extend((payload_bytes as u32).to_le_bytes());
    fields.extend((marks_bytes as u32).to_le_bytes());
    fields.extend([codec, 0, 0, 0]);
    fields.extend(marks[0].time.0.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&fields);
    crc.update(&out[head + HEAD_BYTES..]);
    fields.extend(crc.finalize().to_le_bytes());
    out[head..head + HEAD_BYTES].copy_from_slice(&fields);
    Ok(())
}

fn encode_marks(start: Offset, marks: &[Mark], out: &mut Vec<u8>) {
    let mut before = Mark { end: start, time: marks[0].time };
    for mark in marks {
        assert!(mark.end >= before.end && mark.time >= before.time, "marks never decrease");
        put_varint(out, mark.end.since(before.end));
        put_varint(out, mark.time.0 - before.time.0);
        before = *mark;
    }
}

/// Appends the bytes compressed, or as they are when that would not be shorter.
fn encode_payload(compressor: &mut zstd::bulk::Compressor<'static>, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<u8> {
    let at = out.len();
    // Written without being zeroed first, so that of the room for the worst case only what is used is touched.
    out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
    let mut payload = Cursor::new(&mut *out);
    payload.set_position(at as u64);
    let compressed = compressor.compress_to_buffer(bytes, &mut payload)?;
    if compressed < bytes.len() {
        Ok(CODEC_ZSTD)
    } else {
        out.truncate(at);
        out.extend_from_slice(bytes);
        Ok(CODEC_RAW)
    }
}

/// A block of a segment, its checksum found right, its payload still compressed.
#[derive(Clone, Debug)]
pub struct Block {
    /// Offset before the block's first byte.
    pub start: Offset,
    /// Stream bytes in it.
    pub raw_bytes: u32,
    codec: u8,
    first_time: Timestamp,
    encoded: Bytes,
    marks: Bytes,
    payload: Bytes,
}

impl Block {
    /// Decodes the block at the front of `bytes`, which begins at stream offset `start`; also tells
    /// its length.
    pub(super) fn decode(bytes: &Bytes, start: Offset) -> Result<(Self, usize), SegmentError> {
        let damaged = SegmentError::Block { at: start };
        let head = bytes.get(..HEAD_BYTES).ok_or(SegmentError::Truncated)?;
        let mut fields = Fields(&head[4..]);
        let mut length = || fields.u32().map(|length| length as usize);
        let (Some(raw), Some(payload), Some(marks)) = (length(), length(), length()) else {
            return Err(damaged);
        };
        let codec = fields.u32().and_then(|word| u8::try_from(word).ok()).ok_or(SegmentError::Block { at: start })?;
        let first_time = Timestamp(fields.u64().unwrap_or_default());
        let checksum = fields.u32();
        let total = HEAD_BYTES + marks + payload;
        let body = bytes.get(HEAD_BYTES..total).ok_or(SegmentError::Truncated)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..HEAD_BYTES - 4]);
        crc.update(body);
        let fits = checksum == Some(crc.finalize()) && (1..=BLOCK_BYTES_MAX).contains(&raw) && codec <= CODEC_ZSTD;
        if !fits {
            return Err(damaged);
        }
        let block = Self {
            start,
            raw_bytes: raw as u32,
            codec,
            first_time,
            encoded: bytes.slice(..total),
            marks: bytes.slice(HEAD_BYTES..HEAD_BYTES + marks),
            payload: bytes.slice(HEAD_BYTES + marks..total),
        };
        Ok((block, total))
    }

    /// When its first bytes arrived.
    #[must_use]
    pub fn first_time(&self) -> Timestamp {
        self.first_time
    }

    /// Offset after the block's last byte.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.start.advance(u64::from(self.raw_bytes))
    }

    /// The block as it stands in its segment, head included.
    pub(super) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The reads that brought the block's bytes, in order; the last ends with the block.
    ///
    /// # Errors
    /// [`SegmentError::Block`] when they do not add up to the block.
    pub fn marks(&self) -> Result<Vec<Mark>, SegmentError> {
        let damaged = || SegmentError::Block { at: self.start };
        let mut fields = Fields(&self.marks);
        let mut marks = Vec::new();
        let mut before = Mark { end: self.start, time: self.first_time };
        while !fields.0.is_empty() {
            let (bytes, micros) = fields.varint().zip(fields.varint()).ok_or_else(damaged)?;
            before.end = before.end.advance(bytes);
            before.time = Timestamp(before.time.0.checked_add(micros).ok_or_else(damaged)?);
            marks.push(before);
        }
        if before.end == self.end() && !marks.is_empty() { Ok(marks) } else { Err(damaged()) }
    }

    /// The stream bytes.
    ///
    /// # Errors
    /// [`SegmentError::Block`] when the payload does not give them.
    pub fn bytes(&self) -> Result<Bytes, SegmentError> {
        if self.codec == CODEC_RAW {
            self.check_length(self.payload.len())?;
            return Ok(self.payload.clone());
        }
        let mut bytes = Vec::new();
        self.append_bytes(&mut Decompressor::default(), &mut bytes)?;
        Ok(Bytes::from(bytes))
    }

    /// Appends the stream bytes to `out`.
    pub(super) fn append_bytes(
        &self,
        decompressor: &mut Decompressor<'static>,
        out: &mut Vec<u8>,
    ) -> Result<(), SegmentError> {
        let at = out.len();
        if self.codec == CODEC_RAW {
            out.extend_from_slice(&self.payload);
        } else {
            out.reserve(self.raw_bytes as usize);
            let mut out = Cursor::new(&mut *out);
            out.set_position(at as u64);
            decompressor.decompress_to_buffer(&self.payload, &mut out).map_err(|_| self.damaged())?;
        }
        self.check_length(out.len() - at)
    }

    fn check_length(&self, found: usize) -> Result<(), SegmentError> {
        if found == self.raw_bytes as usize { Ok(()) } else { Err(self.damaged()) }
    }

    fn damaged(&self) -> SegmentError {
        SegmentError::Block { at: self.start }
    }
}

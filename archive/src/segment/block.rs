//! Blocks: the pieces of stream in a segment, each compressed, sealed and checked by itself.
//!
//! What a writer must know to go on after a block stands beside it in the clear: an agent that holds
//! no key can continue a log, or complete a segment whose writer died.

use std::io::{self, Cursor};

use bytes::Bytes;
use redwind_stream::FramerState;
use zstd::bulk::{Compressor, Decompressor};

use super::decoder::SegmentError;
use crate::keys::{Cipher, TAG_BYTES};
use crate::position::Offset;
use crate::time::Timestamp;
use crate::wire::{Fields, put_varint};

pub(super) const MAGIC: [u8; 4] = *b"BLK1";
/// Length of a block's head, which the parser's state, the marks and the payload follow.
pub(super) const HEAD_BYTES: usize = 48;
const CHECKSUM_BYTES: usize = 4;
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

/// What goes into a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockContent<'a> {
    /// Bytes of the stream: 1 to [`BLOCK_BYTES_MAX`].
    pub bytes: &'a [u8],
    /// The reads that brought them, in order; the last ends with the bytes.
    pub marks: &'a [Mark],
    /// Records that end in the bytes.
    pub records: u64,
    /// Those of them that are writes.
    pub writes: u64,
    /// State of the stream's parser at the end of the bytes.
    pub framer_end: &'a FramerState,
}

/// A segment's key, and what its blocks are sealed together with.
pub(super) struct BlockCipher {
    pub(super) cipher: Cipher,
    /// The core of the segment's header.
    pub(super) core: Vec<u8>,
}

impl BlockCipher {
    /// What is authenticated with a block: where it belongs, and all of it that is in the clear but for
    /// the checksum.
    fn clear(&self, head: &[u8], state: &[u8]) -> Vec<u8> {
        [&self.core, &head[..HEAD_BYTES - CHECKSUM_BYTES], state].concat()
    }
}

/// Appends the block with that number, whose bytes begin at `start`.
pub(super) fn encode(
    compressor: &mut Compressor<'static>,
    sealing: Option<(&BlockCipher, u32)>,
    start: Offset,
    content: &BlockContent<'_>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let BlockContent { bytes, marks, .. } = *content;
    assert!(!bytes.is_empty() && bytes.len() <= BLOCK_BYTES_MAX, "a block of {} bytes", bytes.len());
    assert_eq!(marks.last().map(|mark| mark.end), Some(start.advance(bytes.len() as u64)), "marks end with the block");
    let head_at = out.len();
    out.resize(head_at + HEAD_BYTES, 0);
    encode_state(content.framer_end, out);
    let marks_at = out.len();
    encode_marks(start, marks, out);
    let payload_at = out.len();
    let codec = encode_payload(compressor, bytes, out)?;
    let lengths = Lengths {
        state: marks_at - head_at - HEAD_BYTES,
        marks: payload_at - marks_at,
        payload: out.len() - payload_at,
    };
    let mut head = encode_head(content, codec, &lengths);
    if let Some((block_cipher, number)) = sealing {
        let clear = block_cipher.clear(&head, &out[head_at + HEAD_BYTES..marks_at]);
        let tag = block_cipher.cipher.seal(u64::from(number), &clear, &mut out[marks_at..]);
        out.extend(tag);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..HEAD_BYTES - CHECKSUM_BYTES]);
    crc.update(&out[head_at + HEAD_BYTES..]);
    head[HEAD_BYTES - CHECKSUM_BYTES..].copy_from_slice(&crc.finalize().to_le_bytes());
    out[head_at..head_at + HEAD_BYTES].copy_from_slice(&head);
    Ok(())
}

struct Lengths {
    state: usize,
    marks: usize,
    payload: usize,
}

/// The head, but for its checksum.
fn encode_head(content: &BlockContent<'_>, codec: u8, lengths: &Lengths) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let mut rest = &mut head[..];
    let mut put = |field: &[u8]| {
        let (place, after) = std::mem::take(&mut rest).split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = after;
    };
    let BlockContent { bytes, marks, records, writes, .. } = *content;
    put(&MAGIC);
    put(&(bytes.len() as u32).to_le_bytes());
    put(&(lengths.payload as u32).to_le_bytes());
    put(&(lengths.marks as u32).to_le_bytes());
    put(&[codec, lengths.state as u8, 0, 0]);
    put(&marks[0].time.0.to_le_bytes());
    put(&marks[marks.len() - 1].time.0.to_le_bytes());
    // No more than there are bytes.
    put(&(records as u32).to_le_bytes());
    put(&(writes as u32).to_le_bytes());
    head
}

/// Appends the parser's state without its trailing zeroes: mostly one byte.
fn encode_state(state: &FramerState, out: &mut Vec<u8>) {
    state.encode(out);
    let zeroes = out.iter().rev().take(FramerState::ENCODED_LEN).take_while(|byte| **byte == 0).count();
    out.truncate(out.len() - zeroes);
}

fn decode_state(short: &[u8]) -> Option<FramerState> {
    let mut state = [0; FramerState::ENCODED_LEN];
    state.get_mut(..short.len())?.copy_from_slice(short);
    if short.last() == Some(&0) { None } else { FramerState::decode(&state).ok() }
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
fn encode_payload(compressor: &mut Compressor<'static>, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<u8> {
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
    /// When its first bytes arrived.
    pub first_time: Timestamp,
    /// When its last bytes arrived.
    pub last_time: Timestamp,
    /// Records that end in it.
    pub records: u64,
    /// Those of them that are writes.
    pub writes: u64,
    /// State of the stream's parser at its end.
    pub framer_end: FramerState,
    codec: u8,
    encoded: Bytes,
    /// Where in `encoded` the marks begin.
    marks_at: usize,
    marks_bytes: usize,
    /// The marks, then the payload: `None` while they are sealed.
    body: Option<Bytes>,
}

impl Block {
    /// Decodes the block at the front of `bytes`, which begins at stream offset `start`; also tells
    /// its length.
    pub(super) fn decode(bytes: &Bytes, start: Offset, sealed: bool) -> Result<(Self, usize), SegmentError> {
        let damaged = SegmentError::Block { at: start };
        let head = bytes.get(..HEAD_BYTES).ok_or(SegmentError::Truncated)?;
        let Some((fields, lengths)) = decode_head(&head[MAGIC.len()..]) else { return Err(damaged) };
        let tag = if sealed { TAG_BYTES } else { 0 };
        let marks_at = HEAD_BYTES + lengths.state;
        let total = marks_at + lengths.marks + lengths.payload + tag;
        let rest = bytes.get(HEAD_BYTES..total).ok_or(SegmentError::Truncated)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..HEAD_BYTES - CHECKSUM_BYTES]);
        crc.update(rest);
        let fits = fields.checksum == crc.finalize()
            && (1..=BLOCK_BYTES_MAX).contains(&(fields.raw as usize))
            && fields.codec <= CODEC_ZSTD
            && fields.first_time <= fields.last_time;
        let Some(framer_end) = decode_state(&rest[..lengths.state]).filter(|_| fits) else { return Err(damaged) };
        let block = Self {
            start,
            raw_bytes: fields.raw,
            first_time: fields.first_time,
            last_time: fields.last_time,
            records: u64::from(fields.records),
            writes: u64::from(fields.writes),
            framer_end,
            codec: fields.codec,
            encoded: bytes.slice(..total),
            marks_at,
            marks_bytes: lengths.marks,
            body: if sealed { None } else { Some(bytes.slice(marks_at..total)) },
        };
        Ok((block, total))
    }

    /// Decrypts the block, which has that number in its segment.
    pub(super) fn open(&mut self, number: u32, block_cipher: &BlockCipher) -> Result<(), SegmentError> {
        let (clear, sealed) = self.encoded.split_at(self.marks_at);
        let clear = block_cipher.clear(&clear[..HEAD_BYTES], &clear[HEAD_BYTES..]);
        let opened = block_cipher.cipher.open(u64::from(number), &clear, sealed).ok_or(SegmentError::Forged)?;
        self.body = Some(Bytes::from(opened));
        Ok(())
    }

    /// Whether its marks and bytes cannot be read, for want of a key.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.body.is_none()
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

    fn body(&self) -> Result<&Bytes, SegmentError> {
        self.body.as_ref().ok_or(SegmentError::Sealed)
    }

    /// The reads that brought the block's bytes, in order; the last ends with the block.
    ///
    /// # Errors
    /// [`SegmentError::Block`] when they do not add up to the block; [`SegmentError::Sealed`].
    pub fn marks(&self) -> Result<Vec<Mark>, SegmentError> {
        let damaged = || self.damaged();
        let mut fields = Fields(&self.body()?[..self.marks_bytes]);
        let mut marks = Vec::new();
        let mut before = Mark { end: self.start, time: self.first_time };
        while !fields.0.is_empty() {
            let (bytes, micros) = fields.varint().zip(fields.varint()).ok_or_else(damaged)?;
            before.end = before.end.advance(bytes);
            before.time = Timestamp(before.time.0.checked_add(micros).ok_or_else(damaged)?);
            marks.push(before);
        }
        let ends = Mark { end: self.end(), time: self.last_time };
        if marks.last() == Some(&ends) { Ok(marks) } else { Err(damaged()) }
    }

    /// The stream bytes.
    ///
    /// # Errors
    /// [`SegmentError::Block`] when the payload does not give them; [`SegmentError::Sealed`].
    pub fn bytes(&self) -> Result<Bytes, SegmentError> {
        if self.codec == CODEC_RAW {
            let payload = self.body()?.slice(self.marks_bytes..);
            self.check_length(payload.len())?;
            return Ok(payload);
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
        let payload = &self.body()?[self.marks_bytes..];
        if self.codec == CODEC_RAW {
            out.extend_from_slice(payload);
        } else {
            out.reserve(self.raw_bytes as usize);
            let mut out = Cursor::new(&mut *out);
            out.set_position(at as u64);
            decompressor.decompress_to_buffer(payload, &mut out).map_err(|_| self.damaged())?;
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

struct HeadFields {
    raw: u32,
    codec: u8,
    first_time: Timestamp,
    last_time: Timestamp,
    records: u32,
    writes: u32,
    checksum: u32,
}

/// Reads a head behind its magic; the reserved bytes must be 0.
fn decode_head(head: &[u8]) -> Option<(HeadFields, Lengths)> {
    let mut fields = Fields(head);
    let raw = fields.u32()?;
    let (payload, marks) = (fields.u32()? as usize, fields.u32()? as usize);
    let [codec, state, 0, 0] = fields.array()? else { return None };
    let head = HeadFields {
        raw,
        codec,
        first_time: Timestamp(fields.u64()?),
        last_time: Timestamp(fields.u64()?),
        records: fields.u32()?,
        writes: fields.u32()?,
        checksum: fields.u32()?,
    };
    Some((head, Lengths { state: usize::from(state), marks, payload }))
}

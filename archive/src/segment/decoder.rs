//! Reading a segment back, trusting nothing.

use bytes::Bytes;
use zstd::bulk::Decompressor;

use super::block::{self, Block};
use super::header::SegmentHeader;
use super::trailer::{TRAILER_BYTES, Trailer};
use crate::layout::SegmentName;
use crate::position::Offset;
use crate::time::Timestamp;

/// Why bytes are not a whole segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// It begins with something else.
    #[error("damaged: not a segment")]
    NotASegment,
    /// Written by a later release.
    #[error("a segment of a later format version; use a newer redwind")]
    Newer,
    /// It ends too early.
    #[error("damaged: truncated")]
    Truncated,
    /// The header's checksum or form is wrong.
    #[error("damaged: its header")]
    Header,
    /// A block's checksum or form is wrong.
    #[error("damaged: its block at stream offset {at}")]
    Block {
        /// Offset at which the block begins.
        at: Offset,
    },
    /// The trailer's checksum or form is wrong.
    #[error("damaged: its trailer")]
    Trailer,
    /// The object holds another range than its name says, or bytes that arrived at another instant.
    #[error("misplaced: it holds offsets {} to {}, from {} on", .0.start, .0.end, .0.time)]
    Name(SegmentName),
}

/// A whole segment, every checksum found right.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What it says of itself first.
    pub header: SegmentHeader,
    /// Its blocks, still compressed.
    pub blocks: Vec<Block>,
    /// What it says of itself last.
    pub trailer: Trailer,
}

impl Segment {
    /// Decodes a whole segment and checks its checksums and that its parts add up.
    ///
    /// # Errors
    /// [`SegmentError`] says which part is damaged.
    pub fn decode(bytes: &Bytes) -> Result<Self, SegmentError> {
        let body_bytes = bytes.len().checked_sub(TRAILER_BYTES).ok_or(SegmentError::Truncated)?;
        let (header, blocks_at) = SegmentHeader::decode(bytes)?;
        if blocks_at > body_bytes {
            return Err(SegmentError::Truncated);
        }
        let trailer = Trailer::decode(&bytes[body_bytes..])?;
        let (blocks, end) = decode_blocks(bytes.slice(blocks_at..body_bytes), header.start)?;
        let adds_up = trailer.end == end
            && trailer.blocks as usize == blocks.len()
            && trailer.crc32 == crc32fast::hash(&bytes[..bytes.len() - 4]);
        if adds_up { Ok(Self { header, blocks, trailer }) } else { Err(SegmentError::Trailer) }
    }

    /// The name under which it belongs into its page.
    #[must_use]
    pub fn name(&self) -> SegmentName {
        let time = self.blocks.first().map_or(self.trailer.read_until, Block::first_time);
        SegmentName { start: self.header.start, end: self.trailer.end, time }
    }

    /// Appends the stream bytes of all blocks to `out`.
    ///
    /// # Errors
    /// [`SegmentError::Block`] when a payload does not give them; what `out` ends with is void then.
    pub fn append_bytes(&self, out: &mut Vec<u8>) -> Result<(), SegmentError> {
        let mut decompressor = Decompressor::default();
        self.blocks.iter().try_for_each(|block| block.append_bytes(&mut decompressor, out))
    }

    /// Checks that this is the segment that `name` names.
    ///
    /// # Errors
    /// [`SegmentError::Name`] when it is another.
    pub fn check_name(&self, name: &SegmentName) -> Result<(), SegmentError> {
        let found = self.name();
        if found == *name { Ok(()) } else { Err(SegmentError::Name(found)) }
    }
}

fn decode_blocks(mut bytes: Bytes, start: Offset) -> Result<(Vec<Block>, Offset), SegmentError> {
    let mut blocks = Vec::new();
    let mut at = start;
    while !bytes.is_empty() {
        if !bytes.starts_with(&block::MAGIC) {
            return Err(SegmentError::Block { at });
        }
        let (block, length) = Block::decode(&bytes, at)?;
        at = block.end();
        blocks.push(block);
        bytes = bytes.slice(length..);
    }
    Ok((blocks, at))
}

/// What is left of a segment whose writer died.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Its header.
    pub header: SegmentHeader,
    /// The blocks that are whole.
    pub blocks: Vec<Block>,
    /// The trailer, when the segment had been sealed.
    pub trailer: Option<Trailer>,
    /// Offset after the last whole block.
    pub end: Offset,
    /// Arrival of the last byte in the whole blocks.
    pub last_arrival: Option<Timestamp>,
}

/// Reads as much of an unfinished segment as is valid: the header, and the blocks up to the first
/// that is not whole.
///
/// # Errors
/// [`SegmentError`] when not even the header is valid, so that nothing can be kept.
pub fn recover(bytes: &Bytes) -> Result<Recovered, SegmentError> {
    if let Ok(segment) = Segment::decode(bytes) {
        let last_arrival = last_arrival(&segment.blocks)?;
        return Ok(Recovered {
            end: segment.trailer.end,
            header: segment.header,
            blocks: segment.blocks,
            trailer: Some(segment.trailer),
            last_arrival,
        });
    }
    let (header, blocks_at) = SegmentHeader::decode(bytes)?;
    let mut rest = bytes.slice(blocks_at..);
    let mut blocks = Vec::new();
    let mut end = header.start;
    while rest.starts_with(&block::MAGIC) {
        let Ok((block, length)) = Block::decode(&rest, end) else { break };
        end = block.end();
        blocks.push(block);
        rest = rest.slice(length..);
    }
    let last_arrival = last_arrival(&blocks)?;
    Ok(Recovered { header, blocks, trailer: None, end, last_arrival })
}

fn last_arrival(blocks: &[Block]) -> Result<Option<Timestamp>, SegmentError> {
    let Some(last) = blocks.last() else { return Ok(None) };
    Ok(last.marks()?.last().map(|mark| mark.time))
}

//! Reading a segment back, trusting nothing.

use bytes::Bytes;
use redwind_stream::FramerState;
use zstd::bulk::Decompressor;

use super::block::{self, Block};
use super::encoder::block_cipher;
use super::header::{DecodedHeader, SegmentHeader};
use super::trailer::{self, Trailer};
use crate::keys::{Epoch, KeyError, Keyring};
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
    /// Its checksums are right, but it was not written by one who has the key, or not so.
    #[error("forged: it is not what was encrypted, though its checksums are right")]
    Forged,
    /// A plain segment in an encrypted archive, or the reverse.
    #[error("misplaced: {}", if *.encrypted { "encrypted, and the archive is not" } else { "not encrypted, and the archive is" })]
    Mode {
        /// Whether the segment is encrypted.
        encrypted: bool,
    },
    /// Its contents were asked for, and nobody has opened them.
    #[error("encrypted")]
    Sealed,
    /// Its contents cannot be opened.
    #[error(transparent)]
    Key(#[from] KeyError),
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
    /// Whether its MAC was found right.
    authentic: bool,
}

impl SegmentError {
    /// Whether the segment is damaged, rather than the reader without its key.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Key(error) => error.is_damage(),
            Self::Sealed => false,
            _ => true,
        }
    }
}

impl Segment {
    /// Decodes a whole segment and checks its checksums and that its parts add up. Decrypts it with
    /// what is in the keyring, and checks that it is authentic; with a closed one, it stays sealed.
    ///
    /// # Errors
    /// [`SegmentError`] says which part is damaged, or what key is missing.
    pub fn decode(bytes: &Bytes, keys: &Keyring) -> Result<Self, SegmentError> {
        let DecodedHeader { header, core_bytes, bytes: blocks_at } = SegmentHeader::decode(bytes)?;
        let encrypted = header.encryption.is_some();
        let body_bytes = bytes.len().checked_sub(Trailer::bytes(encrypted)).ok_or(SegmentError::Truncated)?;
        if blocks_at > body_bytes {
            return Err(SegmentError::Truncated);
        }
        let trailer = Trailer::decode(&bytes[body_bytes..], encrypted)?;
        let (blocks, end) = decode_blocks(bytes.slice(blocks_at..body_bytes), header.start, encrypted)?;
        let sum = |count: fn(&Block) -> u64| blocks.iter().map(count).sum::<u64>();
        let adds_up = trailer.end == end
            && trailer.blocks as usize == blocks.len()
            && (trailer.records, trailer.writes) == (sum(|block| block.records), sum(|block| block.writes))
            && trailer.crc32 == crc32fast::hash(&bytes[..bytes.len() - 4]);
        if !adds_up {
            return Err(SegmentError::Trailer);
        }
        if encrypted != keys.is_encrypted() {
            return Err(SegmentError::Mode { encrypted });
        }
        let mut segment = Self { header, blocks, trailer, authentic: false };
        segment.open(bytes, core_bytes, keys)?;
        Ok(segment)
    }

    fn open(&mut self, bytes: &Bytes, core_bytes: usize, keys: &Keyring) -> Result<(), SegmentError> {
        let Some((encryption, seal)) = self.header.encryption.zip(self.trailer.seal) else { return Ok(()) };
        let sealers = keys.data_keys(seal.epoch)?;
        if sealers.is_empty() {
            return Ok(());
        }
        let guarded = &bytes[..trailer::mac_at(bytes.len())];
        if !sealers.iter().any(|key| key.is_segment_mac(guarded, &seal.mac)) {
            return Err(SegmentError::Forged);
        }
        self.authentic = true;
        let keys = keys.data_keys(encryption.epoch)?;
        if keys.is_empty() || keys.iter().any(|key| self.open_blocks(key, &bytes[..core_bytes])) {
            return Ok(());
        }
        Err(SegmentError::Forged)
    }

    /// Whether all blocks have been encrypted with that key: they are open then.
    fn open_blocks(&mut self, key: &Epoch, core: &[u8]) -> bool {
        let Some(cipher) = block_cipher(&self.header, key, core) else { return false };
        (0..).zip(&mut self.blocks).all(|(number, block)| block.open(number, &cipher).is_ok())
    }

    /// Whether, for want of a key, its contents cannot be read, or nobody could tell that it is authentic:
    /// an empty one has no contents, and vouches for time all the same.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        let unproven = self.header.encryption.is_some() && !self.authentic;
        unproven || self.blocks.iter().any(Block::is_sealed)
    }

    /// State of the stream's parser at its end.
    #[must_use]
    pub fn framer_end(&self) -> &FramerState {
        self.blocks.last().map_or(&self.header.framer, |block| &block.framer_end)
    }

    /// The name under which it belongs into its page.
    #[must_use]
    pub fn name(&self) -> SegmentName {
        let time = self.blocks.first().map_or(self.trailer.read_until, |block| block.first_time);
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

fn decode_blocks(mut bytes: Bytes, start: Offset, sealed: bool) -> Result<(Vec<Block>, Offset), SegmentError> {
    let mut blocks = Vec::new();
    let mut at = start;
    while !bytes.is_empty() {
        if !bytes.starts_with(&block::MAGIC) {
            return Err(SegmentError::Block { at });
        }
        let (block, length) = Block::decode(&bytes, at, sealed)?;
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
    /// The blocks that are whole; sealed in an encrypted archive.
    pub blocks: Vec<Block>,
    /// The trailer, when the segment had been sealed.
    pub trailer: Option<Trailer>,
    /// Offset after the last whole block.
    pub end: Offset,
}

impl Recovered {
    /// Arrival of the last byte in the whole blocks.
    #[must_use]
    pub fn last_arrival(&self) -> Option<Timestamp> {
        self.blocks.last().map(|block| block.last_time)
    }

    /// State of the stream's parser after the whole blocks.
    #[must_use]
    pub fn framer_end(&self) -> &FramerState {
        self.blocks.last().map_or(&self.header.framer, |block| &block.framer_end)
    }
}

/// Reads as much of an unfinished segment as is valid: the header, and the blocks up to the first
/// that is not whole. Decrypts nothing.
///
/// # Errors
/// [`SegmentError`] when not even the header is valid, so that nothing can be kept.
pub fn recover(bytes: &Bytes) -> Result<Recovered, SegmentError> {
    let DecodedHeader { header, bytes: blocks_at, .. } = SegmentHeader::decode(bytes)?;
    let sealed = header.encryption.is_some();
    if let Ok(Segment { header, blocks, trailer, .. }) = Segment::decode(bytes, &Keyring::closed(sealed)) {
        return Ok(Recovered { end: trailer.end, header, blocks, trailer: Some(trailer) });
    }
    let mut rest = bytes.slice(blocks_at..);
    let mut blocks = Vec::new();
    let mut end = header.start;
    while rest.starts_with(&block::MAGIC) {
        let Ok((block, length)) = Block::decode(&rest, end, sealed) else { break };
        end = block.end();
        blocks.push(block);
        rest = rest.slice(length..);
    }
    Ok(Recovered { header, blocks, trailer: None, end })
}

//! Writing a segment: header at once, blocks as they come, a trailer to seal it.

use std::io;

use aws_lc_rs::hmac;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::block::{self, Block, BlockCipher, BlockContent};
use super::header::{EncodedHeader, SegmentHeader};
use super::trailer::{Seal, Trailer};
use crate::keys::{Epoch, EpochId, finish_mac};
use crate::layout::SegmentName;
use crate::position::Offset;
use crate::time::Timestamp;

/// A segment in the making. Appends to buffers that the caller writes to its spool in order.
///
/// Not `Clone`, and consumed by [`finish`](Self::finish): one encoder makes one segment.
pub struct SegmentEncoder {
    header: SegmentHeader,
    crc: crc32fast::Hasher,
    cipher: Option<BlockCipher>,
    mac: Option<(EpochId, hmac::Context)>,
    blocks: u32,
    end: Offset,
    first_arrival: Option<Timestamp>,
    last_arrival: Option<Timestamp>,
    records: u64,
    writes: u64,
}

/// At the fastest level a window that leaves room beside it in a core's second-level cache: on streams of
/// commands a tenth less time for two hundredths more bytes.
const FAST_WINDOW_LOG: u32 = 17;

/// The compressor for [`SegmentEncoder::block`], at a level of zstd.
///
/// # Errors
/// When zstd has no memory.
pub fn compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    if level == 1 {
        compressor.set_parameter(CParameter::WindowLog(FAST_WINDOW_LOG))?;
    }
    Ok(compressor)
}

impl SegmentEncoder {
    /// Begins a segment: appends its header to `out`. In an encrypted archive, `epoch` is the writer's.
    ///
    /// # Panics
    /// If there is an epoch and the header says nothing of encryption, or the reverse: the caller's
    /// invariant.
    pub fn begin(header: SegmentHeader, epoch: Option<&Epoch>, out: &mut Vec<u8>) -> Self {
        assert_eq!(header.encryption.is_some(), epoch.is_some(), "an archive is encrypted or is not");
        let EncodedHeader { bytes, core_bytes } = header.encode();
        let mut encoder = Self {
            crc: crc32fast::Hasher::new(),
            cipher: epoch.and_then(|epoch| block_cipher(&header, epoch, &bytes[..core_bytes])),
            mac: epoch.map(|epoch| (epoch.id(), epoch.begin_segment_mac())),
            blocks: 0,
            end: header.start,
            first_arrival: None,
            last_arrival: None,
            records: 0,
            writes: 0,
            header,
        };
        encoder.written(&bytes);
        out.extend(bytes);
        encoder
    }

    /// Appends a block to `out`. The compressor is the caller's, who keeps it for the next segment.
    ///
    /// # Errors
    /// When zstd fails.
    ///
    /// # Panics
    /// If the content is empty or over [`BLOCK_BYTES_MAX`](super::BLOCK_BYTES_MAX), its marks do not
    /// end with it, or the segment was begun under another epoch than the writer's: the caller's
    /// invariants.
    pub fn block(
        &mut self,
        compressor: &mut Compressor<'static>,
        content: &BlockContent<'_>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        assert_eq!(self.cipher.is_some(), self.mac.is_some(), "an epoch's blocks are written by its own writer");
        let at = out.len();
        let sealing = self.cipher.as_ref().map(|cipher| (cipher, self.blocks));
        block::encode(compressor, sealing, self.end, content, out)?;
        self.written(&out[at..]);
        let (bytes, marks) = (content.bytes.len() as u64, content.marks);
        self.added(bytes, marks[0].time, marks[marks.len() - 1].time);
        self.records += content.records;
        self.writes += content.writes;
        Ok(())
    }

    /// Appends a block of another segment to `out`, byte for byte: how what a dead writer left is
    /// put under another header.
    ///
    /// # Panics
    /// If it does not begin where this segment ends so far: the caller's invariant.
    pub fn copy_block(&mut self, block: &Block, out: &mut Vec<u8>) {
        assert_eq!(block.start, self.end, "a block that does not follow");
        out.extend_from_slice(block.encoded());
        self.written(block.encoded());
        self.added(u64::from(block.raw_bytes), block.first_time, block.last_time);
        self.records += block.records;
        self.writes += block.writes;
    }

    fn written(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        if let Some((_, mac)) = self.mac.as_mut() {
            mac.update(bytes);
        }
    }

    fn added(&mut self, stream_bytes: u64, first_time: Timestamp, last_time: Timestamp) {
        self.blocks += 1;
        self.end = self.end.advance(stream_bytes);
        self.first_arrival = self.first_arrival.or(Some(first_time));
        self.last_arrival = Some(last_time);
    }

    /// The header that the segment began with.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Offset after the bytes appended so far.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Arrival of the last byte appended so far.
    #[must_use]
    pub fn last_arrival(&self) -> Option<Timestamp> {
        self.last_arrival
    }

    /// Seals the segment: appends its trailer to `out`, and tells its name and trailer.
    ///
    /// `read_until` is raised to the last arrival, should it lie before it.
    #[must_use]
    pub fn finish(mut self, read_until: Timestamp, out: &mut Vec<u8>) -> (SegmentName, Trailer) {
        let mut trailer = Trailer {
            blocks: self.blocks,
            end: self.end,
            read_until: read_until.max(self.last_arrival.unwrap_or_default()),
            records: self.records,
            writes: self.writes,
            seal: self.mac.as_ref().map(|(epoch, _)| Seal { epoch: *epoch, mac: Default::default() }),
            crc32: 0,
        };
        let at = out.len();
        out.reserve(Trailer::bytes(trailer.seal.is_some()));
        trailer.encode_fields(out);
        self.written(&out[at..]);
        if let Some(((_, context), seal)) = self.mac.take().zip(trailer.seal.as_mut()) {
            seal.mac = finish_mac(context);
            self.crc.update(&seal.mac);
            out.extend(seal.mac);
        }
        trailer.crc32 = self.crc.finalize();
        out.extend(trailer.crc32.to_le_bytes());
        let name = SegmentName {
            start: self.header.start,
            end: self.end,
            time: self.first_arrival.unwrap_or(trailer.read_until),
        };
        (name, trailer)
    }
}

/// What a segment's blocks are sealed with; `None` if they are another epoch's, and can only be copied.
pub(super) fn block_cipher(header: &SegmentHeader, epoch: &Epoch, core: &[u8]) -> Option<BlockCipher> {
    let encryption = header.encryption.filter(|encryption| encryption.epoch == epoch.id())?;
    let cipher = epoch.segment_cipher(&encryption, header.history, header.start);
    Some(BlockCipher { cipher, core: core.to_vec() })
}

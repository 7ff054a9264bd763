//! The front of a segment: what it is, where it stands, and how to start reading there.
//!
//! It has two parts. The *core* holds whatever the reader of the stream knew, and the blocks of an
//! encrypted segment are sealed together with it. The *tenure* says who put the segment into the
//! archive, and after which other one; an agent that finds a dead one's segments in its spool writes
//! it anew.

use redwind_stream::FramerState;
use ulid::Ulid;

use super::decoder::SegmentError;
use super::trailer::Fingerprint;
use crate::keys::{Encryption, MAC_BYTES, Mac};
use crate::position::{HistoryId, Offset, Term};
use crate::time::Timestamp;
use crate::wire::Fields;

pub(super) const MAGIC: [u8; 8] = *b"RWSEGv1\n";
const FLAGS_AT: usize = 10;
const ENCRYPTED: u16 = 1;
const CLOCK_OFFSET_UNKNOWN: i64 = i64::MIN;
/// Newest replication IDs kept in a header: the current one and those before it.
const REPLICATION_IDS_MAX: usize = 4;

/// A replication ID of the server, and from which offset of the history on it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationId {
    /// Forty characters, as `master_replid` in INFO.
    pub id: [u8; 40],
    /// The first offset that the server gave under this ID, as far as we saw.
    pub since: Offset,
}

impl ReplicationId {
    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.id).unwrap_or_default()
    }
}

/// What a segment says of itself before its first block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The archive that the segment belongs to.
    pub archive: Ulid,
    /// The writer that claimed the term.
    pub writer: Ulid,
    /// The history of every byte in it.
    pub history: HistoryId,
    /// The writer's term.
    pub term: Term,
    /// Offset before the first byte.
    pub start: Offset,
    /// The segment before it in the history; `None` in a history's first.
    pub predecessor: Option<Fingerprint>,
    /// When the segment was opened.
    pub opened: Timestamp,
    /// `Some` when the bytes were read late: the last moment before them at which the socket had been
    /// read empty.
    pub late_since: Option<Timestamp>,
    /// The server's TIME minus the agent's clock, in microseconds, as last measured; `None` when it
    /// could not be asked.
    pub clock_offset: Option<i64>,
    /// The server's replication IDs in this history, oldest first, the current one last; at most four.
    pub replication_ids: Vec<ReplicationId>,
    /// State of the stream's parser at `start`.
    pub framer: FramerState,
    /// The archive's newest complete snapshot that the writer knew of: should its manifest be lost,
    /// this tells.
    pub snapshot: Option<Ulid>,
    /// How its blocks are encrypted; `None` in an archive that is not.
    pub encryption: Option<Encryption>,
}

/// A header's bytes.
pub(super) struct EncodedHeader {
    pub(super) bytes: Vec<u8>,
    pub(super) core_bytes: usize,
}

/// A header as it was read.
pub(super) struct DecodedHeader {
    pub(super) header: SegmentHeader,
    pub(super) core_bytes: usize,
    pub(super) bytes: usize,
}

impl SegmentHeader {
    /// The offset at which the record that is open at the segment's start began; `start` itself
    /// when it starts between records.
    #[must_use]
    pub fn open_record_start(&self) -> Offset {
        self.start.back(self.framer.record_bytes())
    }

    pub(super) fn encode(&self) -> EncodedHeader {
        let mut out = Vec::with_capacity(512);
        out.extend(MAGIC);
        out.extend([0; 2]); // length
        out.extend(if self.encryption.is_some() { ENCRYPTED } else { 0 }.to_le_bytes());
        out.extend(self.archive.to_bytes());
        out.extend(self.history.0.to_bytes());
        out.extend(self.start.0.to_le_bytes());
        out.extend(self.opened.0.to_le_bytes());
        out.extend(self.late_since.unwrap_or_default().0.to_le_bytes());
        out.extend(self.clock_offset.unwrap_or(CLOCK_OFFSET_UNKNOWN).to_le_bytes());
        self.encode_replication_ids(&mut out);
        self.encode_framer(&mut out);
        out.extend(self.snapshot.unwrap_or_default().to_bytes());
        if let Some(encryption) = &self.encryption {
            encryption.encode(&mut out);
        }
        let core_bytes = out.len();
        let length = u16::try_from(core_bytes + self.tenure_bytes() + 4).expect("a header is under 64 KiB");
        out[8..FLAGS_AT].copy_from_slice(&length.to_le_bytes());
        self.encode_tenure(&mut out);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        EncodedHeader { bytes: out, core_bytes }
    }

    fn encode_replication_ids(&self, out: &mut Vec<u8>) {
        let newest = &self.replication_ids[self.replication_ids.len().saturating_sub(REPLICATION_IDS_MAX)..];
        out.push(newest.len() as u8);
        for id in newest {
            out.extend(id.id);
            out.extend(id.since.0.to_le_bytes());
        }
    }

    fn encode_framer(&self, out: &mut Vec<u8>) {
        let mut state = Vec::new();
        self.framer.encode(&mut state);
        let length = u16::try_from(state.len()).expect("a parser's state is under 64 KiB");
        out.extend(length.to_le_bytes());
        out.extend(state);
    }

    fn tenure_bytes(&self) -> usize {
        16 + 8 + 1 + 4 + if self.encryption.is_some() { MAC_BYTES } else { 0 }
    }

    fn encode_tenure(&self, out: &mut Vec<u8>) {
        out.extend(self.writer.to_bytes());
        out.extend(self.term.0.to_le_bytes());
        out.push(u8::from(self.predecessor.is_some()));
        out.extend(self.predecessor.map_or(0, |before| before.crc32).to_le_bytes());
        if self.encryption.is_some() {
            out.extend(self.predecessor.and_then(|before| before.mac).unwrap_or_default());
        }
    }

    /// Decodes a header at the front of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<DecodedHeader, SegmentError> {
        let mut fields = Fields(bytes);
        match fields.array::<8>() {
            Some(MAGIC) => {}
            Some(magic) if magic.starts_with(b"RWSEGv") => return Err(SegmentError::Newer),
            _ => return Err(SegmentError::NotASegment),
        }
        let length = usize::from(fields.u16().ok_or(SegmentError::Truncated)?);
        let header = bytes.get(..length).ok_or(SegmentError::Truncated)?;
        let (content, checksum) = header.split_last_chunk::<4>().ok_or(SegmentError::Header)?;
        if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
            return Err(SegmentError::Header);
        }
        let mut fields = Fields(content.get(FLAGS_AT..).ok_or(SegmentError::Header)?);
        let flags = fields.u16().ok_or(SegmentError::Header)?;
        if flags & !ENCRYPTED != 0 {
            return Err(SegmentError::Newer);
        }
        let header = Self::decode_fields(&mut fields, flags == ENCRYPTED).ok_or(SegmentError::Header)?;
        if !fields.0.is_empty() {
            return Err(SegmentError::Header);
        }
        Ok(DecodedHeader { core_bytes: content.len() - header.tenure_bytes(), bytes: length, header })
    }

    fn decode_fields(fields: &mut Fields<'_>, encrypted: bool) -> Option<Self> {
        Some(Self {
            archive: fields.ulid()?,
            history: HistoryId(fields.ulid()?),
            start: Offset(fields.u64()?),
            opened: Timestamp(fields.u64()?),
            late_since: fields.u64().map(|micros| (micros != 0).then_some(Timestamp(micros)))?,
            clock_offset: fields.i64().map(|micros| (micros != CLOCK_OFFSET_UNKNOWN).then_some(micros))?,
            replication_ids: decode_replication_ids(fields)?,
            framer: {
                let length = usize::from(fields.u16()?);
                FramerState::decode(fields.take(length)?).ok()?
            },
            snapshot: fields.ulid().map(|snapshot| (!snapshot.is_nil()).then_some(snapshot))?,
            encryption: if encrypted { Some(Encryption::decode(fields)?) } else { None },
            writer: fields.ulid()?,
            term: Term(fields.u64()?),
            predecessor: {
                let (has, crc32) = (fields.u8()?, fields.u32()?);
                let mac: Option<Mac> = if encrypted { Some(fields.array()?) } else { None };
                match has {
                    0 if crc32 == 0 && mac.unwrap_or_default() == Mac::default() => None,
                    1 => Some(Fingerprint { crc32, mac }),
                    _ => return None,
                }
            },
        })
    }
}

fn decode_replication_ids(fields: &mut Fields<'_>) -> Option<Vec<ReplicationId>> {
    let count = usize::from(fields.u8()?);
    let id = |_| Some(ReplicationId { id: fields.array()?, since: Offset(fields.u64()?) });
    if count > REPLICATION_IDS_MAX { None } else { (0..count).map(id).collect() }
}

//! The front of a segment: what it is, where it stands, and how to start reading there.

use redwind_stream::FramerState;
use ulid::Ulid;

use super::decoder::SegmentError;
use crate::position::{HistoryId, Offset, Term};
use crate::time::Timestamp;
use crate::wire::Fields;

pub(super) const MAGIC: [u8; 8] = *b"RWSEGv1\n";
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
    /// Checksum of the segment before it in the history ([`Trailer::crc32`](super::Trailer::crc32));
    /// `None` in a history's first.
    pub predecessor: Option<u32>,
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
}

impl SegmentHeader {
    /// The offset at which the record that is open at the segment's start began; `start` itself
    /// when it starts between records.
    #[must_use]
    pub fn open_record_start(&self) -> Offset {
        self.start.back(self.framer.record_bytes())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend(MAGIC);
        out.extend([0; 4]); // length and flags
        out.extend(self.archive.to_bytes());
        out.extend(self.writer.to_bytes());
        out.extend(self.history.0.to_bytes());
        out.extend(self.term.0.to_le_bytes());
        out.extend(self.start.0.to_le_bytes());
        out.push(u8::from(self.predecessor.is_some()));
        out.extend(self.predecessor.unwrap_or_default().to_le_bytes());
        out.extend(self.opened.0.to_le_bytes());
        out.extend(self.late_since.unwrap_or_default().0.to_le_bytes());
        out.extend(self.clock_offset.unwrap_or(CLOCK_OFFSET_UNKNOWN).to_le_bytes());
        self.encode_replication_ids(&mut out);
        self.encode_framer(&mut out);
        out.extend(self.snapshot.unwrap_or_default().to_bytes());
        let length = u16::try_from(out.len() + 4).expect("a header is under 64 KiB");
        out[8..10].copy_from_slice(&length.to_le_bytes());
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out
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

    /// Decodes a header at the front of `bytes`; also tells its length.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), SegmentError> {
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
        let mut fields = Fields(content.get(10..).ok_or(SegmentError::Header)?);
        if fields.u16() != Some(0) {
            return Err(SegmentError::Newer);
        }
        let header = Self::decode_fields(&mut fields).ok_or(SegmentError::Header)?;
        if fields.0.is_empty() { Ok((header, length)) } else { Err(SegmentError::Header) }
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            archive: fields.ulid()?,
            writer: fields.ulid()?,
            history: HistoryId(fields.ulid()?),
            term: Term(fields.u64()?),
            start: Offset(fields.u64()?),
            predecessor: {
                let (has, crc32) = (fields.u8()?, fields.u32()?);
                match has {
                    0 if crc32 == 0 => None,
                    1 => Some(crc32),
                    _ => return None,
                }
            },
            opened: Timestamp(fields.u64()?),
            late_since: fields.u64().map(|micros| (micros != 0).then_some(Timestamp(micros)))?,
            clock_offset: fields.i64().map(|micros| (micros != CLOCK_OFFSET_UNKNOWN).then_some(micros))?,
            replication_ids: decode_replication_ids(fields)?,
            framer: {
                let length = usize::from(fields.u16()?);
                FramerState::decode(fields.take(length)?).ok()?
            },
            snapshot: fields.ulid().map(|snapshot| (!snapshot.is_nil()).then_some(snapshot))?,
        })
    }
}

fn decode_replication_ids(fields: &mut Fields<'_>) -> Option<Vec<ReplicationId>> {
    let count = usize::from(fields.u8()?);
    let id = |_| Some(ReplicationId { id: fields.array()?, since: Offset(fields.u64()?) });
    if count > REPLICATION_IDS_MAX { None } else { (0..count).map(id).collect() }
}

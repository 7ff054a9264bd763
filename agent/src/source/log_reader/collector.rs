//! The batch in the making: bytes as they were read, where records end in them, when they came.
//!
//! Pure bookkeeping over one buffer. Bytes are read into the buffer itself, scanned in place, and
//! leave with it; only the unfinished record at a batch's end is copied, into the next.

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use redwind_archive::position::Offset;
use redwind_archive::segment::Mark;
use redwind_archive::time::Timestamp;
use redwind_stream::{FrameError, Framer, FramerState, RecordKind};

use crate::journal::{BATCH_BYTES_MAX, Batch};
use crate::source::attention::Moment;

/// Bytes of a full batch.
const BATCH_BYTES: usize = BATCH_BYTES_MAX;
/// A batch with less room than this is as good as full: reading into it would be reading in crumbs.
pub(super) const ROOM_MIN: usize = 64 << 10;

/// How much of the batch is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Up to the end of the last whole record. What follows is kept: it cannot be restored yet.
    Records,
    /// Everything, be it in the middle of a record.
    Everything,
}

/// What a read brought, besides bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// `REPLCONF GETACK`s.
    pub(super) getacks: u64,
    /// Whether writes ended: when the first byte of the first of them arrived.
    pub(super) write_since: Option<tokio::time::Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Collector {
    framer: Framer,
    /// The framer met bytes that are no stream, and its state says nothing any more.
    broken: bool,
    /// The framer's state at `start`.
    framer_start: FramerState,
    start: Offset,
    bytes: BytesMut,
    /// How many of `bytes` the framer has seen; fewer only between a read and its scan.
    scanned: usize,
    marks: Vec<Mark>,
    /// Where the last record that ended in `bytes` ends.
    record_end: usize,
    records: u64,
    writes: u64,
    first_write: Option<Timestamp>,
    /// When the first byte of the record arrived that is open after `scanned`.
    open_since: Option<Moment>,
    late_since: Option<Timestamp>,
}

impl Collector {
    /// Continues the stream at `start`, where the parser had the given state.
    pub(super) fn new(start: Offset, framer: FramerState, open_since: Moment, bytes: BytesMut) -> Self {
        let open = framer.record_bytes() > 0;
        let mut collector = Self {
            framer: Framer::resume(framer.clone()),
            broken: false,
            framer_start: framer,
            start,
            bytes,
            scanned: 0,
            marks: Vec::new(),
            record_end: 0,
            records: 0,
            writes: 0,
            first_write: None,
            open_since: open.then_some(open_since),
            late_since: None,
        };
        collector.bytes.clear();
        collector
    }

    /// Offset after the last byte read.
    pub(super) fn end(&self) -> Offset {
        self.start.advance(self.bytes.len() as u64)
    }

    /// Offset of the first byte that has not been handed over.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// Whether there is no room for another read.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() + ROOM_MIN > BATCH_BYTES
    }

    /// Whether a whole record is there to be handed over.
    pub(super) fn has_records(&self) -> bool {
        self.record_end > 0
    }

    /// Whether a whole write is.
    pub(super) fn has_writes(&self) -> bool {
        self.writes > 0
    }

    /// Arrival of the first byte of the first whole write.
    pub(super) fn first_write(&self) -> Option<Timestamp> {
        self.first_write
    }

    /// Since when the bytes may have waited before they were read, if too long.
    pub(super) fn late_since(&self) -> Option<Timestamp> {
        self.late_since
    }

    /// What is read from now on, and what is here already, was read late or not.
    pub(super) fn set_late_since(&mut self, late_since: Option<Timestamp>) {
        self.late_since = late_since;
    }

    /// Where to read to. What is read must be [`scan`](Self::scan)ned before anything else is done
    /// but handing over whole records.
    pub(super) fn room(&mut self) -> Limit<&mut BytesMut> {
        let room = BATCH_BYTES.saturating_sub(self.bytes.len());
        self.bytes.reserve(room);
        (&mut self.bytes).limit(room)
    }

    /// Puts bytes in that were read elsewhere; the same holds as of [`room`](Self::room).
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that were read and not scanned.
    pub(super) fn unscanned(&self) -> usize {
        self.bytes.len() - self.scanned
    }

    /// Scans what was read at `now`.
    ///
    /// # Errors
    /// It is no replication stream. Whole records before the error can be handed over.
    pub(super) fn scan(&mut self, now: Moment) -> Result<Arrived, FrameError> {
        let mut arrived = Arrived::default();
        let from = self.scanned;
        let open_before = if self.framer.record_bytes() > 0 { self.open_since } else { None };
        let mut began = open_before.unwrap_or(now);
        self.scanned = self.bytes.len();
        self.marks.push(Mark { end: self.start.advance(self.scanned as u64), time: now.time });
        let (record_end, records, writes) = (&mut self.record_end, &mut self.records, &mut self.writes);
        let first_write = &mut self.first_write;
        let outcome = self.framer.push(&self.bytes[from..], |record| {
            *records += 1;
            *record_end = from + record.end;
            match record.kind {
                RecordKind::Write => {
                    *writes += 1;
                    first_write.get_or_insert(began.time);
                    arrived.write_since.get_or_insert(began.instant);
                }
                RecordKind::Getack => arrived.getacks += 1,
                RecordKind::Idle => {}
            }
            began = now;
        });
        self.open_since = (self.framer.record_bytes() > 0).then_some(began);
        self.broken = outcome.is_err();
        outcome.map(|()| arrived)
    }

    /// Takes the batch, or that part of it, out; the rest goes on in `fresh`. `None` when there is
    /// nothing to take.
    pub(super) fn take(&mut self, extent: Extent, mut fresh: BytesMut) -> Option<Batch> {
        let cut = match extent {
            Extent::Records => self.record_end,
            Extent::Everything => {
                debug_assert_eq!(self.unscanned(), 0, "a batch leaves scanned");
                self.bytes.len()
            }
        };
        if cut == 0 {
            return None;
        }
        let framer_end = self.framer_at(cut);
        let open_write = if cut > self.record_end && !self.broken { self.open_write() } else { None };
        let first_write = self.first_write.or(open_write);
        let end = self.start.advance(cut as u64);
        let marks = self.split_marks(end);

        fresh.clear();
        fresh.extend_from_slice(&self.bytes[cut..]);
        let mut bytes = std::mem::replace(&mut self.bytes, fresh);
        bytes.truncate(cut);
        let batch = Batch {
            start: self.start,
            bytes,
            marks,
            records: std::mem::take(&mut self.records),
            writes: std::mem::take(&mut self.writes),
            first_write,
            framer_end: framer_end.clone(),
            late_since: self.late_since,
        };
        self.start = end;
        self.framer_start = framer_end;
        self.scanned -= cut;
        self.record_end = 0;
        self.first_write = None;
        Some(batch)
    }

    fn open_write(&self) -> Option<Timestamp> {
        self.framer.state().holds_write().then_some(self.open_since?.time)
    }

    /// The parser's state at `cut`, which is the end of a record or of everything scanned.
    fn framer_at(&self, cut: usize) -> FramerState {
        let state = self.framer.state();
        if cut == self.scanned && !self.broken {
            return state;
        }
        if !state.in_transaction() && !self.broken {
            // A SELECT takes effect as it ends, so that a command that is open has changed nothing.
            return Framer::new(state.database()).state();
        }
        // The open transaction may have selected another database: go the way again.
        let mut framer = Framer::resume(self.framer_start.clone());
        let outcome = framer.push(&self.bytes[..cut], |_| {});
        debug_assert!(outcome.is_ok(), "these bytes were scanned before");
        framer.state()
    }

    /// Takes out the marks up to `end`, splitting the one that reaches beyond it.
    fn split_marks(&mut self, end: Offset) -> Vec<Mark> {
        let whole = self.marks.partition_point(|mark| mark.end <= end);
        let rest = self.marks.split_off(whole);
        let mut taken = std::mem::replace(&mut self.marks, rest);
        if taken.last().is_none_or(|mark| mark.end < end) {
            let time = self.marks.first().map(|mark| mark.time).expect("every byte that was scanned has a mark");
            taken.push(Mark { end, time });
        }
        taken
    }
}

#[cfg(test)]
mod tests;

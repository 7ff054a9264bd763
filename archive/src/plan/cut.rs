//! Where to stop: a boundary between records, found by reading one segment.

use redwind_stream::{FrameError, Framer};

use crate::position::{HistoryId, Offset, Position};
use crate::segment::{Mark, Segment, SegmentError};
use crate::time::Timestamp;

/// Where a restore stops: after a whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Offset after the last byte included.
    pub offset: Offset,
    /// Arrival of the last record included; `None` when no record is.
    pub time: Option<Timestamp>,
    /// Id of the last record included; `None` when the snapshot stands exactly there.
    pub last_record: Option<Position>,
}

/// A record that ends in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) time: Timestamp,
}

impl Ended {
    pub(super) fn cut(self, history: HistoryId) -> Cut {
        let last_record = Some(Position { history, offset: self.start });
        Cut { offset: self.end, time: Some(self.time), last_record }
    }
}

/// Why a segment could not be scanned.
#[derive(Debug)]
pub(super) enum ScanError {
    Segment(SegmentError),
    Frame { at: Offset, source: FrameError },
}

/// Calls `on_record` for every record that ends in the segment, in order, until it returns `false`.
pub(super) fn scan(segment: &Segment, mut on_record: impl FnMut(Ended) -> bool) -> Result<(), ScanError> {
    let mut framer = Framer::resume(segment.header.framer.clone());
    let mut start = segment.header.open_record_start();
    let mut more = true;
    for block in &segment.blocks {
        let bytes = block.bytes().map_err(ScanError::Segment)?;
        let marks = block.marks().map_err(ScanError::Segment)?;
        let mut arrivals = Arrivals { marks: &marks };
        let at = block.start;
        let report = |record: redwind_stream::Record| {
            let end = at.advance(record.end as u64);
            if more {
                more = on_record(Ended { start, end, time: arrivals.of(end) });
            }
            start = end;
        };
        framer.push(&bytes, report).map_err(|source| ScanError::Frame { at, source })?;
        if !more {
            break;
        }
    }
    Ok(())
}

/// Looks up arrival times of growing offsets.
struct Arrivals<'a> {
    marks: &'a [Mark],
}

impl Arrivals<'_> {
    fn of(&mut self, end: Offset) -> Timestamp {
        let earlier = self.marks.iter().take_while(|mark| mark.end < end).count();
        // The last mark ends with the block, so one always remains.
        self.marks = &self.marks[earlier.min(self.marks.len() - 1)..];
        self.marks[0].time
    }
}

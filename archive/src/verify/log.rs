//! Verifying one history's log, segment by segment, as a replay would read it.

use futures::stream::{self, StreamExt};
use redwind_stream::{Framer, FramerState, RecordKind};

use super::Report;
use crate::catalog::HistoryLog;
use crate::chain::Chain;
use crate::documents::Marker;
use crate::layout::{ObjectName, PageName, Reading, SegmentName};
use crate::position::Offset;
use crate::read::{self, ReadError};
use crate::segment::{Segment, SegmentError};
use crate::store::{SourceStore, StoreError};
use crate::time::Timestamp;

/// Segments fetched and decoded ahead.
const AHEAD: usize = 6;

/// Checks every segment of a history: those that count for all that they promise, the others for
/// their checksums.
pub(super) async fn check(
    store: &SourceStore,
    marker: &Marker,
    history: &HistoryLog,
    report: &mut Report,
    progress: &mut (impl FnMut(&Report) + Send),
) -> Result<(), StoreError> {
    let mut replay = Replay::new(history);
    for (index, page) in history.pages.iter().enumerate() {
        let limit = history.limit(index).unwrap_or(Offset(u64::MAX));
        let segments = store.segments(page).await?;
        replay.begin_page(page, &segments, report);
        let mut decoded = stream::iter(segments.clone())
            .map(|(name, length)| decode(store, marker, page, name, length))
            .buffered(AHEAD);
        while let Some((name, length, segment)) = decoded.next().await {
            let object = ObjectName::Segment(page.clone(), name);
            match segment {
                Ok(segment) if name.end > limit => drop(segment),
                Ok(segment) => replay.push(&object, page, &name, &segment, report),
                Err(ReadError::Store(error)) => return Err(error),
                Err(error) => {
                    report.damage(&object, describe(&error));
                    replay.lost(name.end);
                }
            }
            report.read(length);
            progress(report);
        }
    }
    replay.finish(history, report);
    Ok(())
}

async fn decode(
    store: &SourceStore,
    marker: &Marker,
    page: &PageName,
    name: SegmentName,
    length: u64,
) -> (SegmentName, u64, Result<Segment, ReadError>) {
    (name, length, read::read(store, marker, page, &name).await)
}

fn describe(error: &ReadError) -> String {
    match error {
        ReadError::Damaged { source, .. } => source.to_string(),
        ReadError::Misplaced { belongs, .. } => format!("misplaced: it belongs to {belongs}"),
        ReadError::Missing { .. } => "missing".to_owned(),
        ReadError::Store(error) => error.to_string(),
    }
}

/// The log as read so far.
struct Replay {
    chain: Chain,
    /// Where the next segment must start; `None` after a loss or at the first.
    end: Option<Offset>,
    framer: Option<FramerState>,
    last_arrival: Timestamp,
    last_page: Option<PageName>,
    /// Below this offset missing pages have expired: it is the oldest complete snapshot's.
    expired_below: Offset,
}

impl Replay {
    fn new(history: &HistoryLog) -> Self {
        let expired_below = history.snapshots.first().map_or(history.start.start, |snapshot| snapshot.offset);
        Self {
            chain: Chain::new(),
            end: Some(history.start.start),
            framer: None,
            last_arrival: Timestamp(0),
            last_page: None,
            expired_below,
        }
    }

    fn begin_page(&mut self, page: &PageName, segments: &[(SegmentName, u64)], report: &mut Report) {
        let first = segments.first().map(|(first, _)| first);
        let object = |name: &SegmentName| ObjectName::Segment(page.clone(), *name);
        if let Some(first) = first
            && (first.start != page.start || (page.reading == Reading::Live && first.time != page.time))
        {
            report.damage(&object(first), "the segments of this page that came before it are missing");
        }
        let skipped = self.last_page.replace(page.clone()).is_some_and(|last| {
            last.term == page.term && last.number + 1 != page.number && last.history == page.history
        });
        if skipped && page.start > self.expired_below {
            report.add(super::Severity::Damage, format!("log/{page}"), "the page before it is missing");
        }
        if self.end.is_some_and(|end| end != page.start) {
            self.hole(page, report);
        }
    }

    /// Bytes are missing before a page: they have expired, or are lost.
    fn hole(&mut self, page: &PageName, report: &mut Report) {
        let end = self.end.unwrap_or_default();
        if page.start > end {
            let what = format!("the log from offset {end} to {} is missing", page.start);
            if page.start <= self.expired_below {
                report.note(format!("log/{page}"), format!("{what}: expired, no snapshot before it needs it"));
            } else {
                report.add(super::Severity::Damage, format!("log/{page}"), what);
            }
        }
        self.forget();
    }

    /// A segment could not be read: what follows cannot be compared with it.
    fn lost(&mut self, end: Offset) {
        self.forget();
        self.end = Some(end);
    }

    fn forget(&mut self) {
        self.chain = Chain::new();
        self.framer = None;
        self.end = None;
    }

    fn push(
        &mut self,
        object: &ObjectName,
        page: &PageName,
        name: &SegmentName,
        segment: &Segment,
        report: &mut Report,
    ) {
        report.segments += 1;
        if let Some(end) = self.end.filter(|end| *end != name.start) {
            report.damage(object, format!("the log from offset {end} to {} before it is missing", name.start));
            self.forget();
        }
        if let Err(error) = self.chain.push(segment) {
            report.damage(object, error);
            self.chain = Chain::new();
        }
        if segment.header.late_since.is_some_and(|since| since != page.time) {
            report.damage(object, "its blur begins at another instant than its page's name says");
        }
        if self.framer.as_ref().is_some_and(|state| *state != segment.header.framer) {
            report.damage(object, "its header has another state of the stream's parser than what precedes it gives");
        }
        match self.replay(name, segment) {
            Ok(framer) => self.framer = Some(framer),
            Err(problem) => {
                report.damage(object, problem);
                self.framer = None;
            }
        }
        self.end = Some(name.end);
    }

    /// Parses the segment's stream; gives the parser's state at its end.
    fn replay(&mut self, name: &SegmentName, segment: &Segment) -> Result<FramerState, String> {
        let mut framer = Framer::resume(segment.header.framer.clone());
        let (mut records, mut writes) = (0, 0);
        let mut first_arrival = None;
        let damaged = |error: SegmentError| error.to_string();
        for block in &segment.blocks {
            for mark in block.marks().map_err(damaged)? {
                if mark.time < self.last_arrival {
                    return Err(format!("its arrival times go back, to {}", mark.time));
                }
                self.last_arrival = mark.time;
                first_arrival = first_arrival.or(Some(mark.time));
            }
            let count = |record: redwind_stream::Record| {
                records += 1;
                writes += u64::from(record.kind == RecordKind::Write);
            };
            let bytes = block.bytes().map_err(damaged)?;
            framer.push(&bytes, count).map_err(|error| format!("its stream cannot be parsed: {error}"))?;
        }
        let trailer = &segment.trailer;
        if (records, writes) != (trailer.records, trailer.writes) {
            return Err(format!("it has {records} records, {writes} of them writes; its trailer says otherwise"));
        }
        if first_arrival.unwrap_or(trailer.read_until) != name.time {
            return Err("its name gives another instant than its content".to_owned());
        }
        Ok(framer.state())
    }

    fn finish(self, history: &HistoryLog, report: &mut Report) {
        if let (Some(closed), Some(end)) = (history.closed.map(|closure| closure.at), self.end)
            && end < closed
        {
            let name = ObjectName::History(history.start.history);
            report.damage(&name, format!("its log ends at offset {end}; its successor says that it reached {closed}"));
        }
    }
}

//! Verifying one history's log, segment by segment, as a replay would read it.

use futures::stream::{self, StreamExt};
use redwind_stream::{Framer, FramerState, RecordKind};

use super::documents::Writers;
use super::{Mentions, Report, Severity, describe};
use crate::catalog::{Catalog, HistoryLog};
use crate::chain::Chain;
use crate::layout::{ObjectName, PageName, Reading, SegmentName};
use crate::position::Offset;
use crate::read::{self, ReadError};
use crate::segment::{Block, Segment, SegmentError};
use crate::store::{SourceStore, StoreError};
use crate::time::Timestamp;

/// Segments fetched and decoded ahead.
const AHEAD: usize = 6;

/// Checks every segment of a history: those that count for all that they promise, the others for
/// their checksums. Below `expired_below` they may be missing.
pub(super) async fn check(
    store: &SourceStore,
    catalog: &Catalog,
    history: &HistoryLog,
    expired_below: Option<Offset>,
    mentions: &mut Mentions,
    report: &mut Report,
    progress: &mut (impl FnMut(&Report) + Send),
) -> Result<(), StoreError> {
    let mut replay = Replay::new(history, expired_below);
    for (index, page) in history.pages.iter().enumerate() {
        let segments = store.segments(page).await?;
        let counting: Vec<bool> = history.counting(index, &segments);
        let first = segments.iter().zip(&counting).find(|(_, counts)| **counts).map(|((first, _), _)| *first);
        replay.begin_page(page, first, report);
        if counting.last() == Some(&false) && history.limit(index).is_none() {
            report.note(
                format!("log/{page}"),
                "its end is under way, or was never acknowledged: segments before it are not there",
            );
        }
        let mut decoded = stream::iter(segments.into_iter().zip(counting))
            .map(|(segment, counts)| decode(store, catalog, page, segment, counts))
            .buffered(AHEAD);
        while let Some((name, length, counts, segment)) = decoded.next().await {
            let object = ObjectName::Segment(page.clone(), name);
            report.read(length);
            match segment {
                Ok(segment) => {
                    check_writer(&object, &segment, &mut mentions.writers, report);
                    note_keys(&object, &segment, report);
                    if counts {
                        if let Some(snapshot) = segment.header.snapshot {
                            mentions.snapshots.entry(snapshot).or_insert_with(|| object.clone());
                        }
                        replay.push(&object, &name, &segment, report);
                    }
                }
                Err(ReadError::Store(error)) if !error.is_damage() => return Err(error),
                Err(error) => {
                    report.foreign += u64::from(matches!(error, ReadError::Misplaced { .. }));
                    if counts {
                        report.damage(&object, describe_read(&error));
                        replay.lost(name.end);
                    } else {
                        report
                            .note(object, format!("{}; a newer term's log stands in its place", describe_read(&error)));
                    }
                }
            }
            progress(report);
        }
    }
    replay.finish(history, report);
    Ok(())
}

async fn decode(
    store: &SourceStore,
    catalog: &Catalog,
    page: &PageName,
    (name, length): (SegmentName, u64),
    counts: bool,
) -> (SegmentName, u64, bool, Result<Segment, ReadError>) {
    let Catalog { marker, keys, .. } = catalog;
    (name, length, counts, read::read(store, marker, keys, page, &name).await)
}

/// Checks that the term was claimed by the writer of its segments; says so once.
fn check_writer(object: &ObjectName, segment: &Segment, writers: &mut Writers, report: &mut Report) {
    let (term, writer) = (segment.header.term, segment.header.writer);
    if writers.get(&term).is_some_and(|claimed| *claimed != writer) {
        writers.remove(&term);
        report.damage(&ObjectName::Term(term), format!("it names another writer than {object} does, {writer}"));
    }
}

fn note_keys(object: &ObjectName, segment: &Segment, report: &mut Report) {
    let epochs = segment.header.encryption.map(|encryption| encryption.epoch);
    epochs.into_iter().chain(segment.trailer.seal.map(|seal| seal.epoch)).for_each(|epoch| report.needs(epoch, object));
    report.undecrypted += u64::from(segment.is_sealed());
}

fn describe_read(error: &ReadError) -> String {
    match error {
        ReadError::Damaged { source, .. } => source.to_string(),
        ReadError::Misplaced { belongs, .. } => format!("misplaced: it belongs to {belongs}"),
        ReadError::Missing { .. } => "missing".to_owned(),
        ReadError::Store(error) => describe(error),
    }
}

/// The log as read so far.
struct Replay {
    chain: Chain,
    /// Where the next segment must start.
    end: Offset,
    /// Whether nothing of the history has been read or lost yet.
    at_start: bool,
    framer: Option<FramerState>,
    last_arrival: Timestamp,
    expired_below: Option<Offset>,
}

impl Replay {
    fn new(history: &HistoryLog, expired_below: Option<Offset>) -> Self {
        Self {
            chain: Chain::new(),
            end: history.start.start,
            at_start: true,
            framer: None,
            last_arrival: Timestamp(0),
            expired_below,
        }
    }

    /// `first` is the page's first segment that counts.
    fn begin_page(&mut self, page: &PageName, first: Option<SegmentName>, report: &mut Report) {
        self.reach(page.start, format!("log/{page}"), report);
        let Some(first) = first else { return };
        if first.start == page.start && page.reading == Reading::Live && first.time != page.time {
            let object = ObjectName::Segment(page.clone(), first);
            self.miss(page.start, object.to_string(), "the page's first segment is missing".to_owned(), report);
        }
    }

    /// Goes on at `start`, where something begins; what lies before it is missing if that is not
    /// where the log has been read to.
    fn reach(&mut self, start: Offset, object: String, report: &mut Report) {
        if start == self.end {
            return;
        }
        let what = format!("the log before it ends at offset {}, and it begins at {start}", self.end);
        self.miss(start, object, what, report);
        self.end = start;
    }

    fn miss(&mut self, start: Offset, object: String, what: String, report: &mut Report) {
        if self.expired_below.is_some_and(|below| start <= below) {
            report.note(object, format!("{what}: expired, no snapshot needs what is missing"));
        } else {
            report.add(Severity::Damage, object, what);
        }
        self.forget();
    }

    /// A segment could not be read: what follows cannot be compared with it.
    fn lost(&mut self, end: Offset) {
        self.forget();
        self.end = end;
    }

    fn forget(&mut self) {
        self.chain = Chain::new();
        self.framer = None;
        self.at_start = false;
    }

    fn push(&mut self, object: &ObjectName, name: &SegmentName, segment: &Segment, report: &mut Report) {
        report.segments += 1;
        self.reach(name.start, object.to_string(), report);
        if self.at_start && segment.header.predecessor.is_some() {
            let what = "it names a segment before it, which is missing".to_owned();
            self.miss(name.start, object.to_string(), what, report);
        }
        if let Err(error) = self.chain.push(&segment.header, &segment.trailer) {
            report.damage(object, error);
            self.chain = Chain::new();
        }
        if self.framer.as_ref().is_some_and(|state| *state != segment.header.framer) {
            report.damage(object, "its header has another state of the stream's parser than what precedes it gives");
        }
        self.framer = match self.replay(segment) {
            Ok(framer) => Some(framer),
            Err(problem) => {
                report.damage(object, problem);
                None
            }
        };
        self.at_start = false;
        self.end = name.end;
    }

    /// Parses the segment's stream; gives the parser's state at its end. Of a sealed one, that is what it
    /// says itself.
    fn replay(&mut self, segment: &Segment) -> Result<FramerState, String> {
        for block in &segment.blocks {
            self.arrive(block.first_time)?;
            self.arrive(block.last_time)?;
        }
        let read_until = segment.trailer.read_until;
        if !segment.blocks.is_empty() && read_until < self.last_arrival {
            return Err(format!("its trailer vouches until {read_until}, before its last arrival"));
        }
        if segment.is_sealed() {
            return Ok(segment.framer_end().clone());
        }
        let mut framer = Framer::resume(segment.header.framer.clone());
        for block in &segment.blocks {
            replay_block(block, &mut framer)?;
        }
        Ok(framer.state())
    }

    fn arrive(&mut self, time: Timestamp) -> Result<(), String> {
        if time < self.last_arrival {
            return Err(format!("its arrival times go back, to {time}"));
        }
        self.last_arrival = time;
        Ok(())
    }

    fn finish(mut self, history: &HistoryLog, report: &mut Report) {
        let Some(closed) = history.closed.map(|closure| closure.at) else { return };
        if self.end < closed {
            let what = format!("its log ends at offset {}; its successor says that it reached {closed}", self.end);
            self.miss(closed, ObjectName::History(history.start.history).to_string(), what, report);
        }
    }
}

/// Parses a block's stream, and compares what the block says of it.
fn replay_block(block: &Block, framer: &mut Framer) -> Result<(), String> {
    let damaged = |error: SegmentError| error.to_string();
    block.marks().map_err(damaged)?;
    let (mut records, mut writes) = (0, 0);
    let count = |record: redwind_stream::Record| {
        records += 1;
        writes += u64::from(record.kind == RecordKind::Write);
    };
    let bytes = block.bytes().map_err(damaged)?;
    framer.push(&bytes, count).map_err(|error| format!("its stream cannot be parsed: {error}"))?;
    let at = block.start;
    if (records, writes) != (block.records, block.writes) {
        return Err(format!("its block at {at} has {records} records, {writes} of them writes, and says otherwise"));
    }
    if framer.state() != block.framer_end {
        return Err(format!("its block at {at} ends in another state of the stream's parser than it says"));
    }
    Ok(())
}

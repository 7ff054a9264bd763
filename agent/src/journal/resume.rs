//! Where the stored log ends, and what a writer needs to know to continue it.

use std::collections::BTreeSet;
use std::sync::Arc;

use redwind_archive::catalog::{Catalog, HistoryLog};
use redwind_archive::documents::{Manifest, Marker};
use redwind_archive::layout::{PageName, SegmentName};
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::read;
use redwind_archive::segment::{Block, Segment, SegmentError};
use redwind_archive::store::{SourceStore, StoreError};
use redwind_archive::time::Timestamp;
use redwind_stream::{FrameError, Framer, FramerState, RecordKind};

use super::entry::ResumePoint;
use super::error::JournalError;

/// The end of a log, in the store or in the spool.
#[derive(Clone, Debug)]
pub(super) struct LogEnd {
    /// Where the history began.
    pub(super) history_start: Offset,
    /// When the history began.
    pub(super) started: Timestamp,
    /// Where it ends. Whether there is a snapshot is not filled in.
    pub(super) point: ResumePoint,
    /// No arrival in it is later.
    pub(super) newest_time: Timestamp,
    /// The checksum of its last segment; `None` when the history has none.
    pub(super) last_crc32: Option<u32>,
}

/// What the store tells at the start of a tenure.
#[derive(Debug)]
pub(super) struct StoredLog {
    /// The end of the newest history; `None` in an empty archive.
    pub(super) end: Option<LogEnd>,
    /// Every history that the store knows.
    pub(super) histories: BTreeSet<HistoryId>,
    /// Offset of the newest history's lowest complete snapshot.
    pub(super) lowest_snapshot: Option<Offset>,
    /// The newest history's newest complete snapshot; `None` if it cannot be read, too.
    pub(super) newest_snapshot: Option<Arc<Manifest>>,
}

/// Reads where the stored log ends. To be called after the term has been claimed: from then on no
/// other writer's put counts.
pub(super) async fn find_end(store: &SourceStore, marker: &Marker) -> Result<StoredLog, JournalError> {
    let catalog = Catalog::open(store).await?;
    let histories = catalog.histories.iter().map(|log| log.start.history).collect();
    let Some(newest) = catalog.histories.last() else {
        return Ok(StoredLog { end: None, histories, lowest_snapshot: None, newest_snapshot: None });
    };
    let lowest_snapshot = newest.snapshots.iter().map(|snapshot| snapshot.offset).min();
    let newest_snapshot = newest_snapshot(&catalog, newest, store).await?;
    let end = Some(end_of(newest, store, marker).await?);
    Ok(StoredLog { end, histories, lowest_snapshot, newest_snapshot })
}

async fn newest_snapshot(
    catalog: &Catalog,
    log: &HistoryLog,
    store: &SourceStore,
) -> Result<Option<Arc<Manifest>>, StoreError> {
    let Some(name) = log.snapshots.iter().max_by_key(|snapshot| snapshot.time) else { return Ok(None) };
    match catalog.manifest(store, name).await {
        Ok(manifest) => Ok(Some(Arc::new(manifest))),
        Err(error) if error.is_damage() || error.is_absent() => {
            tracing::warn!(snapshot = %name.snapshot, %error, "the newest snapshot's manifest cannot be used");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn end_of(log: &HistoryLog, store: &SourceStore, marker: &Marker) -> Result<LogEnd, JournalError> {
    let mut end = LogEnd {
        history_start: log.start.start,
        started: log.start.started,
        newest_time: log.start.started,
        point: ResumePoint::at_start_of(&log.start),
        last_crc32: None,
    };
    let Some((page, name)) = last_segment(log, store).await? else { return Ok(end) };
    let segment = read::read(store, marker, &page, &name).await.map_err(JournalError::End)?;
    let Segment { header, blocks, trailer } = segment;
    let scanned = scan(header.framer, &blocks).map_err(|error| JournalError::Damaged {
        what: format!("the log's last segment {name} in page {page} holds no replication stream: {error}"),
    })?;
    end.point.position.offset = trailer.end;
    end.point.framer = scanned.framer;
    end.point.replication_ids = header.replication_ids;
    end.point.read_until = header.late_since.unwrap_or(trailer.read_until);
    end.newest_time = trailer.read_until;
    end.last_crc32 = Some(trailer.crc32);
    Ok(end)
}

/// The last segment that is joined to those before it. Segments are put in parallel, so that behind
/// it there may be some whose predecessor never arrived; pages are begun only when the one before is
/// complete.
async fn last_segment(log: &HistoryLog, store: &SourceStore) -> Result<Option<(PageName, SegmentName)>, StoreError> {
    let mut limit = Offset(u64::MAX);
    for page in log.pages.iter().rev() {
        let listed = store.segments(page).await?;
        let names = listed.into_iter().map(|(name, _)| name).filter(|name| name.end <= limit);
        if let Some(last) = joined(page.start, names).last() {
            return Ok(Some((page.clone(), last)));
        }
        limit = page.start;
    }
    Ok(None)
}

/// The segments that follow each other from `start` on; `names` are in the order of the stream.
fn joined(start: Offset, names: impl Iterator<Item = SegmentName>) -> impl Iterator<Item = SegmentName> {
    let mut at = start;
    names.filter(move |name| {
        let follows = name.start == at;
        at = if follows { name.end } else { at };
        follows
    })
}

/// What a scan of a segment's stream tells.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The parser's state at the end.
    pub(super) framer: FramerState,
    /// Records that end in it.
    pub(super) records: u64,
    /// Those of them that are writes.
    pub(super) writes: u64,
}

/// Why a segment's stream cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error(transparent)]
    Block(#[from] SegmentError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Scans the blocks of a segment, whose parser starts in `state`.
pub(super) fn scan(state: FramerState, blocks: &[Block]) -> Result<Scanned, ScanError> {
    let mut framer = Framer::resume(state);
    let (mut records, mut writes) = (0, 0);
    for block in blocks {
        framer.push(&block.bytes()?, |record| {
            records += 1;
            writes += u64::from(record.kind == RecordKind::Write);
        })?;
    }
    Ok(Scanned { framer: framer.state(), records, writes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(start: u64, end: u64) -> SegmentName {
        SegmentName { start: Offset(start), end: Offset(end), time: Timestamp(1) }
    }

    #[test]
    fn the_log_ends_before_the_first_segment_that_is_missing() {
        let stored = [name(10, 20), name(20, 20), name(20, 30), name(40, 50)];
        assert_eq!(joined(Offset(10), stored.into_iter()).last(), Some(name(20, 30)));
        assert_eq!(joined(Offset(5), stored.into_iter()).last(), None);
    }
}

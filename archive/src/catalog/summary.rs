//! What can be restored: windows, blurs, gaps and snapshots, for people and scripts.

use serde::Serialize;

use super::{Catalog, HistoryLog, Run};
use crate::documents::{Cause, Manifest};
use crate::layout::{ManifestName, ObjectName, PageName, SegmentName};
use crate::position::{HistoryId, Offset};
use crate::segment::{TRAILER_BYTES, Trailer};
use crate::store::{SourceStore, StoreError};
use crate::time::Timestamp;

/// A stretch in which any instant can be restored, but for the blurs in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The history.
    pub history: HistoryId,
    /// Offset of the first snapshot.
    pub from_offset: Offset,
    /// The first instant.
    pub from: Timestamp,
    /// Offset after the last byte stored.
    pub to_offset: Offset,
    /// Until when the window is known to be complete: the last instant.
    pub complete_until: Timestamp,
}

/// A stretch of a window whose records are all there, but not their times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blur {
    /// The history.
    pub history: HistoryId,
    /// Offset before the first byte that was read late.
    pub from_offset: Offset,
    /// The last instant before it that can be restored by time.
    pub from: Timestamp,
    /// Offset after the last byte that was read late.
    pub to_offset: Offset,
    /// The first instant after it that can be restored by time.
    pub to: Timestamp,
}

/// Time between two windows in which writes may have happened that the archive never saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last instant before it that can be restored; `None` when nothing can be.
    pub from: Option<Timestamp>,
    /// The first instant after it that can be restored; `None` when nothing can be yet.
    pub to: Option<Timestamp>,
    /// The history that ended.
    pub ended: HistoryId,
    /// The history that began.
    pub began: HistoryId,
    /// Why the one could not be continued; `None` when objects are missing within one history.
    pub cause: Option<Cause>,
    /// The cause in words.
    pub because: String,
}

/// A complete snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotSummary {
    /// Its id.
    pub snapshot: ulid::Ulid,
    /// The history in which it stands.
    pub history: HistoryId,
    /// Where.
    pub offset: Offset,
    /// When.
    pub time: Timestamp,
    /// Length of the RDB; `None` when the manifest cannot be read.
    pub rdb_bytes: Option<u64>,
    /// Length of its objects; `None` when the manifest cannot be read.
    pub stored_bytes: Option<u64>,
    /// Why it was taken; `None` when the manifest cannot be read.
    pub reason: Option<crate::documents::SnapshotReason>,
}

/// What an archive offers to restore.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Oldest first.
    pub windows: Vec<Window>,
    /// Oldest first.
    pub blurs: Vec<Blur>,
    /// Oldest first.
    pub gaps: Vec<Gap>,
    /// Oldest first.
    pub snapshots: Vec<SnapshotSummary>,
}

/// Where a run of pages ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) offset: Offset,
    pub(crate) read_until: Timestamp,
}

impl Catalog {
    /// Sums up what can be restored. Takes two small requests per window and per blur.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn summary(&self, store: &SourceStore) -> Result<Summary, StoreError> {
        let mut summary = Summary::default();
        for history in &self.histories {
            summary.windows.extend(history.windows(store).await?);
            summary.blurs.extend(history.blurs(store).await?);
            for name in &history.snapshots {
                summary.snapshots.push(self.summarise(store, name).await?);
            }
        }
        summary.gaps = self.gaps(&summary.windows);
        Ok(summary)
    }

    async fn summarise(&self, store: &SourceStore, name: &ManifestName) -> Result<SnapshotSummary, StoreError> {
        let manifest: Option<Manifest> = match self.manifest(store, name).await {
            Ok(manifest) => Some(manifest),
            Err(error) if error.is_damage() || error.is_absent() => None,
            Err(error) => return Err(error),
        };
        Ok(SnapshotSummary {
            snapshot: name.snapshot,
            history: name.history,
            offset: name.offset,
            time: name.time,
            rdb_bytes: manifest.as_ref().map(|manifest| manifest.rdb_bytes),
            stored_bytes: manifest.as_ref().map(|manifest| manifest.stored_bytes),
            reason: manifest.as_ref().map(|manifest| manifest.reason),
        })
    }

    /// The gaps between windows, given all windows.
    fn gaps(&self, windows: &[Window]) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for pair in windows.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            if before.history == after.history {
                gaps.push(Gap {
                    from: Some(before.complete_until),
                    to: Some(after.from),
                    ended: before.history,
                    began: after.history,
                    cause: None,
                    because: format!("objects of the log are missing from offset {} on", before.to_offset),
                });
            }
        }
        for history in &self.histories {
            gaps.extend(self.gap_before(history, windows));
        }
        gaps.sort_by_key(|gap| (gap.began, gap.from));
        gaps
    }

    fn gap_before(&self, history: &HistoryLog, windows: &[Window]) -> Option<Gap> {
        let start = &history.start;
        let ended = start.predecessor?.history;
        let last_before = windows.iter().rfind(|window| window.history == ended);
        Some(Gap {
            from: last_before.map(|window| window.complete_until),
            to: windows.iter().find(|window| window.history == start.history).map(|window| window.from),
            ended,
            began: start.history,
            cause: Some(start.cause),
            because: start.cause.describe().to_owned(),
        })
    }
}

impl HistoryLog {
    async fn windows(&self, store: &SourceStore) -> Result<Vec<Window>, StoreError> {
        let mut windows: Vec<Window> = Vec::new();
        for run in self.runs() {
            let Some(end) = self.end_of(store, run).await? else { continue };
            let from = self.pages[run.first].start;
            let within = |snapshot: &&ManifestName| (from..=end.offset).contains(&snapshot.offset);
            if let Some(first) = self.snapshots.iter().find(within) {
                windows.push(self.window(first, end));
            }
        }
        for snapshot in &self.snapshots {
            let covered = |window: &Window| (window.from_offset..=window.to_offset).contains(&snapshot.offset);
            if !windows.iter().any(covered) {
                windows.push(self.window(snapshot, End { offset: snapshot.offset, read_until: snapshot.time }));
            }
        }
        windows.sort_by_key(|window| window.from_offset);
        Ok(windows)
    }

    fn window(&self, first: &ManifestName, end: End) -> Window {
        Window {
            history: self.start.history,
            from_offset: first.offset,
            from: first.time,
            to_offset: end.offset,
            complete_until: end.read_until.max(first.time),
        }
    }

    async fn blurs(&self, store: &SourceStore) -> Result<Vec<Blur>, StoreError> {
        let mut blurs = Vec::new();
        for run in self.late_runs() {
            let Some(end) = self.end_of(store, run).await? else { continue };
            let first = &self.pages[run.first];
            blurs.push(Blur {
                history: self.start.history,
                from_offset: first.start,
                from: first.time,
                to_offset: end.offset,
                to: end.read_until,
            });
        }
        Ok(blurs)
    }

    /// Where the last segment of a run ends, and until when it vouches; `None` when the run has no
    /// segment that counts. Takes one listing and one small read, more where pages are empty.
    pub(crate) async fn end_of(&self, store: &SourceStore, run: Run) -> Result<Option<End>, StoreError> {
        for page in (run.first..=run.last).rev() {
            if let Some((segment, length)) = self.segments(store, page).await?.last() {
                return read_end(store, &self.pages[page], segment, *length).await.map(Some);
            }
        }
        Ok(None)
    }
}

async fn read_end(store: &SourceStore, page: &PageName, segment: &SegmentName, length: u64) -> Result<End, StoreError> {
    let name = ObjectName::Segment(page.clone(), *segment);
    let tail = store.get_tail(&name, length, TRAILER_BYTES as u64).await?;
    // A damaged trailer vouches for nothing beyond what the name says; verify will name it.
    let read_until = Trailer::decode(&tail).ok().filter(|trailer| trailer.end == segment.end);
    Ok(End { offset: segment.end, read_until: read_until.map_or(segment.time, |trailer| trailer.read_until) })
}

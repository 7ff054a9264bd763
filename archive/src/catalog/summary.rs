//! What can be restored: windows, blurs, gaps and snapshots, for people and scripts.

use bytes::Bytes;
use futures::FutureExt;
use serde::Serialize;

use super::{Catalog, HistoryLog, LostHistory, Run};
use crate::concurrent;
use crate::documents::{Cause, Manifest};
use crate::keys::EpochId;
use crate::layout::{ManifestName, ObjectName, PageName, SegmentName};
use crate::position::{HistoryId, Offset};
use crate::segment::Trailer;
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
    /// Whether that is because its manifest is signed under an epoch whose key is wrapped to others.
    pub locked: bool,
    /// Why it was taken; `None` when the manifest cannot be read.
    pub reason: Option<crate::documents::SnapshotReason>,
}

/// A history that another identity opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LockedHistory {
    /// The history.
    pub history: HistoryId,
    /// The epoch under which its document is signed.
    #[serde(serialize_with = "epoch_as_text")]
    pub epoch: EpochId,
}

fn epoch_as_text<S: serde::Serializer>(epoch: &EpochId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(epoch)
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
    /// Histories of which nothing can be restored, because their document is lost.
    pub lost_histories: Vec<HistoryId>,
    /// Histories of which this identity can restore nothing, because their document is signed under an
    /// epoch whose key is wrapped to others.
    pub locked_histories: Vec<LockedHistory>,
    /// The oldest pages of the log, which were not looked into: a segment that is missing inside one
    /// is found by a plan that needs it, and by `verify`.
    pub pages_not_looked_into: usize,
}

/// Where a run of pages ends.
#[derive(Clone, Copy, Debug)]
struct End {
    offset: Offset,
    read_until: Timestamp,
}

/// What of one history can be restored.
#[derive(Clone, Debug)]
struct Restorable {
    windows: Vec<Window>,
    /// Where its log ends, holes or not.
    log_end: Option<Offset>,
}

impl Restorable {
    /// The gap behind the last window, when there is more of the log, which no window reaches.
    fn cut_off(&self) -> Option<Gap> {
        let last = self.windows.last()?;
        self.log_end.filter(|end| *end > last.to_offset).map(|_| last.missing_after(None))
    }
}

impl Window {
    /// The gap behind a window that ends because objects are missing.
    fn missing_after(&self, to: Option<Timestamp>) -> Gap {
        Gap {
            from: Some(self.complete_until),
            to,
            ended: self.history,
            began: self.history,
            cause: None,
            because: format!("objects of the log are missing from offset {} on", self.to_offset),
        }
    }
}

impl Catalog {
    /// Sums up what can be restored, as far as names tell: those of all pages, and in the newest ones
    /// those of the segments.
    ///
    /// Takes two requests per window and per blur, one per snapshot and per change of term, and one for
    /// each of some dozens of pages; some of them run at once.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn summary(&self, store: &SourceStore) -> Result<Summary, StoreError> {
        let encrypted = self.marker.encrypted;
        let windows = self.histories.iter().map(|history| history.windows(store, encrypted).boxed()).collect();
        let blurs = self.histories.iter().map(|history| history.blurs(store, encrypted).boxed()).collect();
        let (windows, blurs) = (concurrent::all(windows), concurrent::all(blurs));
        let manifests = self.histories.iter().flat_map(|history| &history.snapshots);
        let snapshots = concurrent::all(manifests.map(|name| self.summarise(store, name).boxed()).collect());
        let (restorable, blurs, snapshots) = futures::try_join!(windows, blurs, snapshots)?;
        let windows: Vec<Window> = restorable.iter().flat_map(|log| log.windows.clone()).collect();
        let blurs = blurs.concat();
        let locked = |lost: &LostHistory| lost.locked().map(|epoch| LockedHistory { history: lost.history, epoch });
        let mut gaps = self.gaps(&windows);
        gaps.extend(restorable.iter().filter_map(Restorable::cut_off));
        gaps.sort_by_key(|gap| (gap.began, gap.from));
        Ok(Summary {
            gaps,
            windows,
            blurs,
            snapshots,
            lost_histories: self.lost.iter().filter(|lost| lost.locked().is_none()).map(|lost| lost.history).collect(),
            locked_histories: self.lost.iter().filter_map(locked).collect(),
            pages_not_looked_into: self.histories.iter().map(HistoryLog::pages_not_looked_into).sum(),
        })
    }

    async fn summarise(&self, store: &SourceStore, name: &ManifestName) -> Result<SnapshotSummary, StoreError> {
        let (manifest, locked): (Option<Manifest>, bool) = match self.manifest(store, name).await {
            Ok(manifest) => (Some(manifest), false),
            Err(error) if error.is_loss() => (None, error.locked_epoch().is_some()),
            Err(error) => return Err(error),
        };
        Ok(SnapshotSummary {
            snapshot: name.snapshot,
            history: name.history,
            offset: name.offset,
            time: name.time,
            rdb_bytes: manifest.as_ref().map(|manifest| manifest.rdb_bytes),
            stored_bytes: manifest.as_ref().map(|manifest| manifest.stored_bytes),
            locked,
            reason: manifest.as_ref().map(|manifest| manifest.reason),
        })
    }

    /// The gaps between windows, given all windows.
    fn gaps(&self, windows: &[Window]) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for pair in windows.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            if before.history == after.history {
                gaps.push(before.missing_after(Some(after.from)));
            }
        }
        for history in &self.histories {
            gaps.extend(self.gap_before(history, windows));
        }
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
    async fn windows(&self, store: &SourceStore, encrypted: bool) -> Result<Restorable, StoreError> {
        let mut windows: Vec<Window> = Vec::new();
        let stretches = self.stretches(store, encrypted).await?;
        let log_end = stretches.last().map(|(_, end)| end.offset);
        for (from, end) in stretches {
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
        Ok(Restorable { windows, log_end })
    }

    /// The stretches of the log without a hole: where each begins and ends.
    async fn stretches(&self, store: &SourceStore, encrypted: bool) -> Result<Vec<(Offset, End)>, StoreError> {
        let runs = self.unbroken_runs(store).await?;
        let ends =
            concurrent::all(runs.iter().map(|run| self.end_of(store, encrypted, *run).boxed()).collect()).await?;
        let holes = self.holes(store).await?;
        let mut stretches = Vec::new();
        for (run, end) in runs.into_iter().zip(ends) {
            let Some(end) = end else { continue };
            let begin = self.pages[run.first].start;
            let mut from = begin;
            for hole in holes.iter().filter(|hole| begin <= hole.from && hole.to <= end.offset) {
                let read_until = match &hole.before {
                    Some((page, segment, length)) if from < hole.from => {
                        read_end(store, encrypted, &self.pages[*page], segment, *length).await?.read_until
                    }
                    _ => self.pages[run.first].time,
                };
                stretches.push((from, End { offset: hole.from, read_until }));
                from = hole.to;
            }
            stretches.push((from, end));
        }
        Ok(stretches)
    }

    /// The runs, divided also where pages are missing at the end of a term. That a term's last page is
    /// the last it wrote shows only in where its segments end.
    async fn unbroken_runs(&self, store: &SourceStore) -> Result<Vec<Run>, StoreError> {
        let changes = (1..self.pages.len()).filter(|&page| self.pages[page - 1].term != self.pages[page].term);
        let changes: Vec<usize> = changes.collect();
        let ended =
            concurrent::all(changes.iter().map(|page| self.segments(store, page - 1).boxed()).collect()).await?;
        let joins = |page: usize, last: Option<&(SegmentName, u64)>| {
            let reached = last.map_or(self.pages[page - 1].start, |(last, _)| last.end);
            reached == self.pages[page].start
        };
        let breaks = changes.into_iter().zip(ended).filter(|(page, ended)| !joins(*page, ended.last()));
        let breaks: Vec<usize> = breaks.map(|(page, _)| page).collect();
        let mut runs = Vec::new();
        for Run { mut first, last } in self.runs() {
            let inside = first + 1..=last;
            for &page in breaks.iter().filter(|page| inside.contains(page)) {
                runs.push(Run { first, last: page - 1 });
                first = page;
            }
            runs.push(Run { first, last });
        }
        Ok(runs)
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

    async fn blurs(&self, store: &SourceStore, encrypted: bool) -> Result<Vec<Blur>, StoreError> {
        let runs = self.late_runs();
        let ends =
            concurrent::all(runs.iter().map(|run| self.end_of(store, encrypted, *run).boxed()).collect()).await?;
        Ok(runs.into_iter().zip(ends).filter_map(|(run, end)| Some(self.blur(run, end?))).collect())
    }

    fn blur(&self, run: Run, end: End) -> Blur {
        let first = &self.pages[run.first];
        Blur {
            history: self.start.history,
            from_offset: first.start,
            from: first.time,
            to_offset: end.offset,
            to: end.read_until,
        }
    }

    /// Where the last segment of a run ends, and until when it vouches; `None` when the run has no
    /// segment that counts. Takes one listing and one small read, more where pages are empty.
    async fn end_of(&self, store: &SourceStore, encrypted: bool, run: Run) -> Result<Option<End>, StoreError> {
        for page in (run.first..=run.last).rev() {
            if let Some((segment, length)) = self.segments(store, page).await?.last() {
                return read_end(store, encrypted, &self.pages[page], segment, *length).await.map(Some);
            }
        }
        Ok(None)
    }
}

async fn read_end(
    store: &SourceStore,
    encrypted: bool,
    page: &PageName,
    segment: &SegmentName,
    length: u64,
) -> Result<End, StoreError> {
    let name = ObjectName::Segment(page.clone(), *segment);
    let tail_bytes = Trailer::bytes(encrypted) as u64;
    let tail = if length < tail_bytes { Bytes::new() } else { store.get_tail(&name, length, tail_bytes).await? };
    // A damaged trailer vouches for nothing beyond what the name says; verify will name it.
    let read_until = Trailer::decode(&tail, encrypted).ok().filter(|trailer| trailer.end == segment.end);
    Ok(End { offset: segment.end, read_until: read_until.map_or(segment.time, |trailer| trailer.read_until) })
}

//! One history's log: which pages of which terms make it up.

use crate::documents::HistoryStart;
use crate::layout::{ManifestName, PageName, Reading, SegmentName};
use crate::position::Offset;
use crate::store::{SourceStore, StoreError};

/// A stretch of a history's log that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Offset after the last byte before it; `None` when a whole page before it is gone and only
    /// its successor's start is known.
    pub after: Option<Offset>,
    /// Offset before the first byte after it.
    pub before: Offset,
}

/// One history: its document, its pages as far as they count, and its snapshots.
///
/// Of a segment that an older term's writer put after a newer term had taken over, nothing counts: a
/// newer term's page ends what older ones say from its start on, and a successor's document fixes
/// the end of a history that was not continued.
#[derive(Clone, Debug)]
pub struct HistoryLog {
    /// The history's document.
    pub start: HistoryStart,
    /// Its pages, in the order of the stream.
    pub pages: Vec<PageName>,
    /// Its complete snapshots, by offset.
    pub snapshots: Vec<ManifestName>,
    /// Where the history ends for good, when another followed it.
    pub closed_at: Option<Offset>,
}

/// Consecutive pages without a hole between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first page.
    pub first: usize,
    /// Index of the last page.
    pub last: usize,
}

impl HistoryLog {
    /// Puts a history together from all pages that carry its id, in order of term and number.
    pub(super) fn new(
        start: HistoryStart,
        listed: Vec<PageName>,
        snapshots: Vec<ManifestName>,
        closed_at: Option<Offset>,
    ) -> Self {
        let mut pages: Vec<PageName> = Vec::with_capacity(listed.len());
        for page in listed {
            while pages.last().is_some_and(|last| last.term < page.term && last.start > page.start) {
                pages.pop();
            }
            pages.push(page);
        }
        Self { start, pages, snapshots, closed_at }
    }

    /// The offset beyond which a page's segments do not count; `None` for an open end.
    #[must_use]
    pub fn limit(&self, page: usize) -> Option<Offset> {
        match self.pages.get(page + 1) {
            Some(next) => Some(next.start),
            None => self.closed_at,
        }
    }

    /// The segments of a page that count, with their lengths, in order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn segments(&self, store: &SourceStore, page: usize) -> Result<Vec<(SegmentName, u64)>, StoreError> {
        let Some(name) = self.pages.get(page) else { return Ok(Vec::new()) };
        let limit = self.limit(page).unwrap_or(Offset(u64::MAX));
        let mut segments = store.segments(name).await?;
        segments.retain(|(segment, _)| segment.end <= limit);
        Ok(segments)
    }

    /// The stretches of pages between which no page is missing, as far as the pages' numbers tell.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, page) in self.pages.iter().enumerate() {
            let follows = index.checked_sub(1).is_some_and(|before| {
                let before = &self.pages[before];
                before.term != page.term || before.number + 1 == page.number
            });
            match runs.last_mut() {
                Some(run) if follows => run.last = index,
                _ => runs.push(Run { first: index, last: index }),
            }
        }
        runs
    }

    /// The last page that begins at or before `offset`.
    #[must_use]
    pub fn page_at(&self, offset: Offset) -> Option<usize> {
        self.pages.partition_point(|page| page.start <= offset).checked_sub(1)
    }

    /// Runs of late pages as (first, last) indices: each is a blur.
    #[must_use]
    pub fn late_runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, page) in self.pages.iter().enumerate() {
            if page.reading != Reading::Late {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.last + 1 == index && self.pages[run.last].time == page.time => run.last = index,
                _ => runs.push(Run { first: index, last: index }),
            }
        }
        runs
    }
}

//! One history's log: which pages of which terms make it up, and which of their segments count.

use std::collections::BTreeSet;

use crate::documents::HistoryStart;
use crate::layout::{ManifestName, PageName, Reading, SEGMENTS_UNDER_WAY_MAX, SegmentName};
use crate::position::{HistoryId, Offset, Term};
use crate::store::{SourceStore, StoreError};
use crate::time::Timestamp;

/// One history: its document, its pages as far as they count, and its snapshots.
///
/// Of what an older term's writer put after a newer term had taken over, nothing counts: a newer
/// term's page ends what older ones say from its start on, and a successor's document fixes the end
/// of a history that was not continued.
#[derive(Clone, Debug)]
pub struct HistoryLog {
    /// The history's document.
    pub start: HistoryStart,
    /// Its pages, in the order of the stream.
    pub pages: Vec<PageName>,
    /// Its complete snapshots, by offset.
    pub snapshots: Vec<ManifestName>,
    /// Where the history ends for good, when another followed it.
    pub closed: Option<Closure>,
    /// Indices of the pages before which a page of their term is missing.
    orphans: BTreeSet<usize>,
}

/// The end of a history that could not be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closure {
    /// Where it ends: what its log says beyond is void.
    pub at: Offset,
    /// Until when it is known to be complete.
    pub complete_until: Option<Timestamp>,
    /// The history that followed it.
    pub by: HistoryId,
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
    /// `begun` holds the pages of all histories.
    pub(super) fn new(
        start: HistoryStart,
        listed: Vec<PageName>,
        begun: &BTreeSet<(Term, u32)>,
        snapshots: Vec<ManifestName>,
    ) -> Self {
        let mut pages: Vec<PageName> = Vec::with_capacity(listed.len());
        for page in listed {
            while pages.last().is_some_and(|last| last.term < page.term && last.start > page.start) {
                pages.pop();
            }
            pages.push(page);
        }
        let orphan =
            |page: &PageName| page.number.checked_sub(1).is_some_and(|last| !begun.contains(&(page.term, last)));
        let orphans = pages.iter().enumerate().filter(|(_, page)| orphan(page)).map(|(index, _)| index).collect();
        Self { start, pages, snapshots, closed: None, orphans }
    }

    /// The newest term that wrote to the history.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.pages.last().map_or(self.start.term, |page| page.term.max(self.start.term))
    }

    /// The offset beyond which a page's segments do not count; `None` for an open end.
    #[must_use]
    pub fn limit(&self, page: usize) -> Option<Offset> {
        let next = self.pages.get(page + 1).map(|next| next.start);
        let closed = self.closed.map(|closure| closure.at);
        next.into_iter().chain(closed).min()
    }

    /// The segments of a page that count, with their lengths, in order.
    ///
    /// Where the log has an open end, a hole with no more behind it than a writer has under way is
    /// the log's end: what lies behind will count when the hole is filled, which may be never.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn segments(&self, store: &SourceStore, page: usize) -> Result<Vec<(SegmentName, u64)>, StoreError> {
        let Some(name) = self.pages.get(page) else { return Ok(Vec::new()) };
        let segments = store.segments(name).await?;
        let counting = self.counting(page, &segments);
        Ok(segments.into_iter().zip(counting).filter(|(_, counts)| *counts).map(|(segment, _)| segment).collect())
    }

    /// Which of a page's segments count, given all of them in order.
    pub(crate) fn counting(&self, page: usize, segments: &[(SegmentName, u64)]) -> Vec<bool> {
        let Some(name) = self.pages.get(page) else { return vec![false; segments.len()] };
        if let Some(limit) = self.limit(page) {
            return segments.iter().map(|(segment, _)| segment.end <= limit).collect();
        }
        let joined = joined(name.start, segments);
        let under_way = segments.len() - joined < SEGMENTS_UNDER_WAY_MAX;
        (0..segments.len()).map(|index| index < joined || !under_way).collect()
    }

    /// Whether a page of the same term is missing right before this one.
    #[must_use]
    pub fn is_orphan(&self, page: usize) -> bool {
        self.orphans.contains(&page)
    }

    /// The stretches of pages between which no page is missing, as far as the pages' numbers tell.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for index in 0..self.pages.len() {
            match runs.last_mut() {
                Some(run) if !self.is_orphan(index) => run.last = index,
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

    /// The last page whose instant is `time` or before.
    ///
    /// Not found by bisection: a fenced writer may have vouched for later instants than those at
    /// which its successor began.
    #[must_use]
    pub fn page_at_time(&self, time: Timestamp) -> Option<usize> {
        self.pages.iter().rposition(|page| page.time <= time)
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

/// How many segments follow each other from `start` on.
fn joined(start: Offset, segments: &[(SegmentName, u64)]) -> usize {
    let mut reached = start;
    let follows = |(segment, _): &&(SegmentName, u64)| {
        let follows = segment.start == reached;
        reached = segment.end;
        follows
    };
    segments.iter().take_while(follows).count()
}

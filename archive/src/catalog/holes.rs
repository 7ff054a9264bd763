//! Holes inside a history's pages, as far as it is cheap to look for them.

use std::ops::Range;

use futures::FutureExt;

use super::HistoryLog;
use crate::concurrent;
use crate::layout::SegmentName;
use crate::position::Offset;
use crate::store::{SourceStore, StoreError};

/// The newest pages of a history that are listed to look for holes in them: at a segment a second some
/// hours, of a quiet source weeks.
pub(super) const PAGES_LOOKED_INTO: usize = 32;

/// A stretch of a history's log of which the segments are missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    /// Where it begins: the end of the segment before, or of the page's beginning.
    pub(super) from: Offset,
    /// Where the log goes on.
    pub(super) to: Offset,
    /// The segment before it, the page in which that lies, and its length.
    pub(super) before: Option<(usize, SegmentName, u64)>,
}

impl HistoryLog {
    /// How many of its pages are too old to be looked into by [`holes`](Self::holes).
    pub(super) fn pages_not_looked_into(&self) -> usize {
        self.pages.len().saturating_sub(PAGES_LOOKED_INTO)
    }

    /// From where on nothing of the log is missing, as far as names tell: those of all pages, and those of the
    /// segments in the pages from the one of `since` on. Takes a request for each of these pages, of
    /// which only some dozens of the newest are looked into.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn unbroken_from(&self, store: &SourceStore, since: Offset) -> Result<Offset, StoreError> {
        let Some(run) = self.runs().last().copied() else { return Ok(self.start.start) };
        let oldest = self.page_at(since).unwrap_or(0).max(run.first).max(self.pages_not_looked_into());
        let holes = self.holes_in(store, oldest..self.pages.len()).await?;
        Ok(holes.last().map_or(self.pages[run.first].start, |hole| hole.to))
    }

    /// The holes in the newest pages, in order. Takes a request for each of these pages.
    pub(super) async fn holes(&self, store: &SourceStore) -> Result<Vec<Hole>, StoreError> {
        self.holes_in(store, self.pages_not_looked_into()..self.pages.len()).await
    }

    async fn holes_in(&self, store: &SourceStore, pages: Range<usize>) -> Result<Vec<Hole>, StoreError> {
        let listed = concurrent::all(pages.clone().map(|page| self.segments(store, page).boxed()).collect()).await?;
        let mut holes = Vec::new();
        let Some(first) = self.pages.get(pages.start) else { return Ok(holes) };
        let (mut reached, mut before) = (first.start, None);
        for (page, segments) in pages.zip(listed) {
            // Whole pages that are missing are told by their numbers, too.
            if self.pages[page].start > reached {
                holes.push(Hole { from: reached, to: self.pages[page].start, before });
                reached = self.pages[page].start;
            }
            for (segment, length) in segments {
                if segment.start > reached {
                    holes.push(Hole { from: reached, to: segment.start, before });
                }
                reached = reached.max(segment.end);
                before = Some((page, segment, length));
            }
        }
        Ok(holes)
    }
}

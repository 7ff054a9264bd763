//! Holes inside a history's pages, as far as it is cheap to look for them.

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

    /// The holes in the newest pages, in order. Takes a request for each of these pages.
    pub(super) async fn holes(&self, store: &SourceStore) -> Result<Vec<Hole>, StoreError> {
        let pages = self.pages_not_looked_into()..self.pages.len();
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

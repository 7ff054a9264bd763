//! Finding segments and boundaries in one history's log.

use std::collections::HashMap;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::SegmentRef;
use super::cut::{Cut, Ended, ScanError, scan};
use super::error::PlanError;
use crate::catalog::HistoryLog;
use crate::documents::Marker;
use crate::layout::SegmentName;
use crate::position::Offset;
use crate::read::{self, ReadError};
use crate::segment::Segment;
use crate::store::SourceStore;
use crate::time::Timestamp;

/// Listings that are under way at once.
const LISTINGS_AT_ONCE: usize = 16;

/// Reads a history's log, listing each page at most once.
pub(super) struct Locator<'a> {
    store: &'a SourceStore,
    marker: &'a Marker,
    log: &'a HistoryLog,
    listed: HashMap<usize, Vec<(SegmentName, u64)>>,
}

impl<'a> Locator<'a> {
    pub(super) fn new(store: &'a SourceStore, marker: &'a Marker, log: &'a HistoryLog) -> Self {
        Self { store, marker, log, listed: HashMap::new() }
    }

    async fn page(&mut self, page: usize) -> Result<&[(SegmentName, u64)], PlanError> {
        if !self.listed.contains_key(&page) {
            let segments = self.log.segments(self.store, page).await?;
            self.listed.insert(page, segments);
        }
        Ok(&self.listed[&page])
    }

    /// The last offset that the log reaches, or a snapshot beyond it.
    pub(super) async fn end(&mut self) -> Result<Offset, PlanError> {
        let snapshot = self.log.snapshots.last().map_or(Offset(0), |snapshot| snapshot.offset);
        let last = self.last_segment(usize::MAX, |_| true).await?;
        Ok(last.map_or(snapshot, |(_, segment)| segment.end.max(snapshot)))
    }

    /// The last segment, in pages up to `page`, that fits.
    async fn last_segment(
        &mut self,
        page: usize,
        fits: impl Fn(&SegmentName) -> bool,
    ) -> Result<Option<(usize, SegmentName)>, PlanError> {
        let pages = self.log.pages.len().min(page.saturating_add(1));
        for page in (0..pages).rev() {
            let found = self.page(page).await?.iter().rev().find(|(segment, _)| fits(segment)).copied();
            if let Some((segment, _)) = found {
                return Ok(Some((page, segment)));
            }
        }
        Ok(None)
    }

    /// The edges of the blur that `time` lies in, if it does.
    pub(super) async fn blur_around(&mut self, time: Timestamp) -> Result<Option<(Timestamp, Timestamp)>, PlanError> {
        for run in self.log.late_runs() {
            let from = self.log.pages[run.first].time;
            if time <= from {
                break;
            }
            // What follows the blur on a live page bounds it without a request.
            let followed = self.log.pages.get(run.last + 1).is_some_and(|next| next.time <= time);
            if followed {
                continue;
            }
            if let Some(end) = self.log.end_of(self.store, run).await?
                && time < end.read_until
            {
                return Ok(Some((from, end.read_until)));
            }
        }
        Ok(None)
    }

    /// The last boundary between records that had been reached at `time`.
    pub(super) async fn cut_at_time(&mut self, time: Timestamp) -> Result<Cut, PlanError> {
        let Some(page) = self.log.pages.partition_point(|page| page.time <= time).checked_sub(1) else {
            return Ok(self.cut_at_history_start());
        };
        let Some((page, segment)) = self.last_segment(page, |segment| segment.time <= time).await? else {
            return Ok(self.cut_at_history_start());
        };
        self.cut_in(page, segment, |ended| ended.time <= time).await
    }

    /// The last boundary between records at or before `offset`.
    pub(super) async fn cut_at_offset(&mut self, offset: Offset) -> Result<Cut, PlanError> {
        let Some(page) = self.log.page_at(offset) else {
            return Ok(self.cut_at_history_start());
        };
        let Some((page, segment)) = self.last_segment(page, |segment| segment.start < offset).await? else {
            return Ok(self.cut_at_history_start());
        };
        self.cut_in(page, segment, |ended| ended.end <= offset).await
    }

    /// The end of the record that starts at `offset`.
    pub(super) async fn record_end_after(&mut self, offset: Offset) -> Result<Option<Cut>, PlanError> {
        let Some(first) = self.log.page_at(offset) else { return Ok(None) };
        for page in first..self.log.pages.len() {
            for (segment, _) in self.page(page).await?.to_vec() {
                if segment.end <= offset {
                    continue;
                }
                let mut found = None;
                self.scan(page, &segment, |ended| {
                    found = (ended.end > offset).then_some(ended);
                    found.is_none()
                })
                .await?;
                if let Some(ended) = found {
                    return Ok(Some(ended.cut(self.log.start.history)));
                }
            }
        }
        Ok(None)
    }

    /// The last record that ends in the segment and satisfies `within`; if there is none, the one
    /// that ended where the segment's first record began.
    async fn cut_in(
        &mut self,
        page: usize,
        segment: SegmentName,
        within: impl Fn(&Ended) -> bool,
    ) -> Result<Cut, PlanError> {
        let mut last = None;
        let read = self
            .scan(page, &segment, |ended| {
                let included = within(&ended);
                if included {
                    last = Some(ended);
                }
                included
            })
            .await?;
        match last {
            Some(ended) => Ok(ended.cut(self.log.start.history)),
            None => self.cut_at_boundary(read.header.open_record_start()).await,
        }
    }

    /// The cut at a boundary that is known to be one: names the record that ends there.
    async fn cut_at_boundary(&mut self, boundary: Offset) -> Result<Cut, PlanError> {
        let page = self.log.page_at(boundary).unwrap_or_default();
        let before = |segment: &SegmentName| segment.start < boundary && boundary <= segment.end;
        let Some((page, segment)) = self.last_segment(page, before).await? else {
            return Ok(Cut { offset: boundary, time: None, last_record: None });
        };
        let mut last = None;
        self.scan(page, &segment, |ended| {
            if ended.end == boundary {
                last = Some(ended);
            }
            ended.end < boundary
        })
        .await?;
        let unnamed = Cut { offset: boundary, time: None, last_record: None };
        Ok(last.map_or(unnamed, |ended| ended.cut(self.log.start.history)))
    }

    fn cut_at_history_start(&self) -> Cut {
        Cut { offset: self.log.start.start, time: None, last_record: None }
    }

    async fn scan(
        &self,
        page: usize,
        segment: &SegmentName,
        on_record: impl FnMut(Ended) -> bool,
    ) -> Result<Segment, PlanError> {
        let page = &self.log.pages[page];
        let segment = read::read(self.store, self.marker, page, segment).await?;
        let history = self.log.start.history;
        scan(&segment, on_record).map_err(|error| match error {
            ScanError::Frame { at, source } => PlanError::Stream { history, at, source },
            ScanError::Segment(source) => {
                let name =
                    SegmentName { start: segment.header.start, end: segment.trailer.end, time: segment.header.opened };
                PlanError::Read(ReadError::Damaged { object: format!("log/{page}/{name}"), source })
            }
        })?;
        Ok(segment)
    }

    /// Every segment from `from` to `to`, proved to follow each other without a hole.
    pub(super) async fn segments_between(&self, from: Offset, to: Offset) -> Result<Vec<SegmentRef>, PlanError> {
        if from == to {
            return Ok(Vec::new());
        }
        let first = self.log.page_at(from).unwrap_or_default();
        let last = self.log.page_at(to).unwrap_or_default();
        let pages: Vec<(usize, Vec<(SegmentName, u64)>)> = stream::iter(first..=last)
            .map(|page| async move {
                let segments = match self.listed.get(&page) {
                    Some(listed) => listed.clone(),
                    None => self.log.segments(self.store, page).await?,
                };
                Ok::<_, PlanError>((page, segments))
            })
            .buffered(LISTINGS_AT_ONCE)
            .try_collect()
            .await?;
        let mut chain = Vec::new();
        let mut reached = from;
        for (page, segments) in pages {
            for (name, stored) in segments {
                if name.end <= from || name.start >= to {
                    continue;
                }
                self.check_follows(reached, &name, from)?;
                reached = name.end;
                chain.push(SegmentRef { page: self.log.pages[page].clone(), name, stored });
            }
        }
        if reached < to { Err(self.hole(reached, to)) } else { Ok(chain) }
    }

    fn check_follows(&self, reached: Offset, next: &SegmentName, from: Offset) -> Result<(), PlanError> {
        let follows = next.start == reached || (reached == from && next.start < from);
        if follows { Ok(()) } else { Err(self.hole(reached, next.start)) }
    }

    fn hole(&self, from: Offset, to: Offset) -> PlanError {
        PlanError::Hole { history: self.log.start.history, from, to }
    }
}

//! Finding segments and boundaries in one history's log.
//!
//! Names are believed only as far as they join: what arrived in a segment that is missing is not
//! known, so no cut is made behind the last joined byte on the way to the target.

use std::collections::HashMap;

use futures::FutureExt;

use super::SegmentRef;
use super::cut::{Cut, Ended, ScanError, scan};
use super::error::PlanError;
use crate::catalog::{Catalog, HistoryLog};
use crate::concurrent;
use crate::layout::{ManifestName, ObjectName, SegmentName};
use crate::position::Offset;
use crate::read::{self, ReadError};
use crate::segment::Segment;
use crate::store::{SourceStore, StoreError};
use crate::time::Timestamp;

/// Reads a history's log, listing each page at most once.
pub(super) struct Locator<'a> {
    store: &'a SourceStore,
    catalog: &'a Catalog,
    log: &'a HistoryLog,
    listed: HashMap<usize, Vec<(SegmentName, u64)>>,
}

/// A segment that has been found: the page in which it lies, and its name.
type Found = (usize, SegmentName);

impl<'a> Locator<'a> {
    pub(super) fn new(store: &'a SourceStore, catalog: &'a Catalog, log: &'a HistoryLog) -> Self {
        Self { store, catalog, log, listed: HashMap::new() }
    }

    async fn page(&mut self, page: usize) -> Result<&[(SegmentName, u64)], PlanError> {
        if !self.listed.contains_key(&page) {
            let segments = self.log.segments(self.store, page).await?;
            self.listed.insert(page, segments);
        }
        Ok(&self.listed[&page])
    }

    /// The last segment, in pages up to `page`, that fits.
    async fn last_segment(
        &mut self,
        page: usize,
        fits: impl Fn(&SegmentName) -> bool,
    ) -> Result<Option<Found>, PlanError> {
        let pages = self.log.pages.len().min(page.saturating_add(1));
        for page in (0..pages).rev() {
            let found = self.page(page).await?.iter().rev().find(|(segment, _)| fits(segment)).copied();
            if let Some((segment, _)) = found {
                return Ok(Some((page, segment)));
            }
        }
        Ok(None)
    }

    /// The last offset that can be asked for: where the log ends or should end, or a snapshot beyond.
    pub(super) async fn end(&mut self) -> Result<Offset, PlanError> {
        let snapshot = self.log.snapshots.last().map(|snapshot| snapshot.offset);
        let closed = self.log.closed.map(|closure| closure.at);
        let last = self.last_segment(usize::MAX, |_| true).await?.map(|(_, segment)| segment.end);
        Ok([snapshot, closed, last].into_iter().flatten().max().unwrap_or(self.log.start.start))
    }

    /// Whether the history tells what had arrived by `time`, but for blurs and holes.
    pub(super) async fn reaches(&mut self, time: Timestamp) -> Result<bool, PlanError> {
        if self.log.snapshots.iter().any(|snapshot| snapshot.time == time) {
            return Ok(true);
        }
        if let Some(until) = self.log.closed.and_then(|closure| closure.complete_until) {
            return Ok(time <= until);
        }
        let Some((page, last)) = self.last_segment(usize::MAX, |_| true).await? else { return Ok(false) };
        Ok(time <= last.time || time <= self.segment(page, &last).await?.trailer.read_until)
    }

    /// The edges of the blur that `time` lies in, if it does.
    pub(super) async fn blur_around(&mut self, time: Timestamp) -> Result<Option<(Timestamp, Timestamp)>, PlanError> {
        for run in self.log.late_runs() {
            let from = self.log.pages[run.first].time;
            // What follows the blur on a live page bounds it without a request.
            let followed = self.log.pages.get(run.last + 1).is_some_and(|next| next.time <= time);
            if time <= from || followed {
                continue;
            }
            if let Some((page, last)) = self.last_segment(run.last, |_| true).await?
                && page >= run.first
            {
                let to = self.segment(page, &last).await?.trailer.read_until;
                if time < to {
                    return Ok(Some((from, to)));
                }
            }
        }
        Ok(None)
    }

    /// The last boundary between records that had been reached at `time`, which the history
    /// [`reaches`](Self::reaches).
    pub(super) async fn cut_at_time(&mut self, time: Timestamp) -> Result<Cut, PlanError> {
        let taken = |snapshot: &&ManifestName| snapshot.time <= time;
        let snapshot = self.log.snapshots.iter().filter(taken).max_by_key(|snapshot| snapshot.offset);
        let last = match self.log.page_at_time(time) {
            Some(page) => self.last_segment(page, |segment| segment.time <= time).await?,
            None => None,
        };
        match (last, snapshot) {
            (Some((page, segment)), snapshot) if snapshot.is_none_or(|snapshot| snapshot.offset <= segment.end) => {
                let (cut, read) = self.cut_in(page, segment, |ended| ended.time <= time).await?;
                if time > read.trailer.read_until {
                    self.check_joined(segment.end, time).await?;
                }
                Ok(cut)
            }
            (_, Some(snapshot)) => {
                let offset = snapshot.offset;
                if snapshot.time != time {
                    self.check_joined(offset, time).await?;
                }
                self.cut_at_boundary(offset).await
            }
            (_, None) => Ok(self.cut_at_history_start()),
        }
    }

    /// Checks that what follows `reached`, a point at or after the last byte that had arrived at
    /// `time` as far as names tell, begins right there.
    async fn check_joined(&mut self, reached: Offset, time: Timestamp) -> Result<(), PlanError> {
        let next = match self.log.page_at(reached) {
            None => self.log.pages.first().map(|page| page.start),
            // Its name alone tells that the bytes from there on arrived later.
            Some(page) if self.log.pages[page].start == reached && self.log.pages[page].time > time => None,
            Some(page) => {
                let next_page = self.log.pages.get(page + 1).map(|page| page.start);
                let beyond = self.page(page).await?.iter().find(|(segment, _)| segment.end > reached);
                beyond.map(|(segment, _)| segment.start).or(next_page)
            }
        };
        let closed = self.log.closed.map(|closure| closure.at);
        match next.or(closed).filter(|next| *next > reached) {
            Some(next) => Err(self.hole(reached, next)),
            None => Ok(()),
        }
    }

    /// The last boundary between records at or before `offset`.
    pub(super) async fn cut_at_offset(&mut self, offset: Offset) -> Result<Cut, PlanError> {
        if self.log.snapshots.iter().any(|snapshot| snapshot.offset == offset) {
            return self.cut_at_boundary(offset).await;
        }
        let last = match self.log.page_at(offset) {
            Some(page) => self.last_segment(page, |segment| segment.start < offset).await?,
            None => None,
        };
        match last {
            Some((page, segment)) if segment.end >= offset => {
                Ok(self.cut_in(page, segment, |ended| ended.end <= offset).await?.0)
            }
            None if offset <= self.log.start.start => Ok(self.cut_at_history_start()),
            last => {
                let reached = last.map_or(self.log.start.start, |(_, segment)| segment.end);
                let next = self.next_start(reached).await?.unwrap_or(offset);
                Err(self.hole(reached, next))
            }
        }
    }

    /// Where the log goes on behind a hole that begins at `reached`.
    async fn next_start(&mut self, reached: Offset) -> Result<Option<Offset>, PlanError> {
        let first = self.log.page_at(reached).unwrap_or_default();
        if let Some(page) = self.log.pages.get(first)
            && page.start > reached
        {
            return Ok(Some(page.start));
        }
        if first < self.log.pages.len()
            && let Some((segment, _)) = self.page(first).await?.iter().find(|(segment, _)| segment.start > reached)
        {
            return Ok(Some(segment.start));
        }
        Ok(self.log.pages.get(first + 1).map(|page| page.start))
    }

    /// The end of the record that starts at `offset`; `None` when the log ends inside it.
    pub(super) async fn record_end_after(&mut self, offset: Offset) -> Result<Option<Cut>, PlanError> {
        let Some(first) = self.log.page_at(offset) else { return Ok(None) };
        let mut reached = offset;
        for page in first..self.log.pages.len() {
            for (segment, _) in self.page(page).await?.to_vec() {
                if segment.end <= reached {
                    continue;
                }
                if segment.start > reached {
                    return Err(self.hole(reached, segment.start));
                }
                reached = segment.end;
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
    ) -> Result<(Cut, Segment), PlanError> {
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
        let cut = match last {
            Some(ended) => ended.cut(self.log.start.history),
            None => self.cut_at_boundary(read.header.open_record_start()).await?,
        };
        Ok((cut, read))
    }

    /// The cut at a boundary that is known to be one: names the record that ends there, if the log
    /// still holds its end.
    async fn cut_at_boundary(&mut self, boundary: Offset) -> Result<Cut, PlanError> {
        let unnamed = Cut { offset: boundary, time: None, last_record: None };
        let Some(page) = self.log.page_at(boundary) else { return Ok(unnamed) };
        let last = self.last_segment(page, |segment| segment.start < boundary).await?;
        let Some((page, segment)) = last.filter(|(_, segment)| boundary <= segment.end) else { return Ok(unnamed) };
        let mut last = None;
        let scanned = self
            .scan(page, &segment, |ended| {
                if ended.end == boundary {
                    last = Some(ended);
                }
                ended.end < boundary
            })
            .await;
        match scanned {
            // The snapshot there needs nothing before it.
            Err(error)
                if (error.is_damage() || error.is_locked())
                    && self.log.snapshots.iter().any(|snapshot| snapshot.offset == boundary) =>
            {
                return Ok(unnamed);
            }
            scanned => drop(scanned?),
        }
        Ok(last.map_or(unnamed, |ended| ended.cut(self.log.start.history)))
    }

    fn cut_at_history_start(&self) -> Cut {
        Cut { offset: self.log.start.start, time: None, last_record: None }
    }

    async fn segment(&self, page: usize, segment: &SegmentName) -> Result<Segment, PlanError> {
        let Catalog { marker, keys, .. } = self.catalog;
        Ok(read::read(self.store, marker, keys, &self.log.pages[page], segment).await?)
    }

    async fn scan(
        &self,
        page: usize,
        name: &SegmentName,
        on_record: impl FnMut(Ended) -> bool,
    ) -> Result<Segment, PlanError> {
        let segment = self.segment(page, name).await?;
        let history = self.log.start.history;
        scan(&segment, on_record).map_err(|error| match error {
            ScanError::Frame { at, source } => PlanError::Stream { history, at, source },
            ScanError::Segment(source) => {
                let object = self.store.describe(&ObjectName::Segment(self.log.pages[page].clone(), *name));
                PlanError::Read(ReadError::Damaged { object, source })
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
        let pages = concurrent::all((first..=last).map(|page| self.segments_of(page).boxed()).collect()).await?;
        let mut chain = Vec::new();
        let mut reached = from;
        for (page, segments) in (first..=last).zip(pages) {
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

    async fn segments_of(&self, page: usize) -> Result<Vec<(SegmentName, u64)>, StoreError> {
        match self.listed.get(&page) {
            Some(listed) => Ok(listed.clone()),
            None => self.log.segments(self.store, page).await,
        }
    }

    fn check_follows(&self, reached: Offset, next: &SegmentName, from: Offset) -> Result<(), PlanError> {
        let follows = next.start == reached || (reached == from && next.start < from);
        if follows { Ok(()) } else { Err(self.hole(reached, next.start)) }
    }

    fn hole(&self, from: Offset, to: Offset) -> PlanError {
        let after = self.log.snapshots.iter().find(|snapshot| snapshot.offset >= to).cloned();
        PlanError::Hole { history: self.log.start.history, from, to, after }
    }
}

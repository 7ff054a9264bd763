//! Which page a segment goes to.

use redwind_archive::layout::{PageName, Reading, SEGMENTS_PER_PAGE};
use redwind_archive::position::Term;
use redwind_archive::time::Timestamp;

use super::pending::PendingSegment;

/// The pages of one term, begun one after the other.
#[derive(Debug)]
pub(super) struct Pages {
    term: Term,
    open: Option<OpenPage>,
}

#[derive(Debug)]
struct OpenPage {
    name: PageName,
    late_since: Option<Timestamp>,
    segments: u32,
}

impl Pages {
    pub(super) fn new(term: Term) -> Self {
        Self { term, open: None }
    }

    /// Whether a segment goes to the page that the last one went to.
    pub(super) fn continues(&self, segment: &PendingSegment) -> bool {
        let fits = |page: &OpenPage| {
            let same = (page.name.history, page.late_since) == (segment.history, segment.late_since);
            same && page.segments < SEGMENTS_PER_PAGE
        };
        self.open.as_ref().is_some_and(fits)
    }

    /// The page of the next segment in order; begins one where it must.
    pub(super) fn assign(&mut self, segment: &PendingSegment) -> PageName {
        if !self.continues(segment) {
            let number = self.open.as_ref().map_or(0, |page| page.name.number + 1);
            let name = PageName {
                term: self.term,
                number,
                history: segment.history,
                start: segment.name.start,
                time: segment.late_since.unwrap_or(segment.name.time),
                reading: if segment.late_since.is_some() { Reading::Late } else { Reading::Live },
            };
            self.open = Some(OpenPage { name, late_since: segment.late_since, segments: 0 });
        }
        let page = self.open.as_mut().expect("a page was begun if there was none");
        page.segments += 1;
        page.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::spool::{Kind, Spooled};
    use redwind_archive::layout::SegmentName;
    use redwind_archive::position::{HistoryId, Offset};
    use redwind_archive::segment::Fingerprint;
    use ulid::Ulid;

    fn segment(history: u128, start: u64, late_since: Option<u64>) -> PendingSegment {
        PendingSegment {
            file: Spooled { seq: 1, kind: Kind::Segment, bytes: 0 },
            name: SegmentName { start: Offset(start), end: Offset(start + 1), time: Timestamp(1_000 + start) },
            history: HistoryId(Ulid(history)),
            late_since: late_since.map(Timestamp),
            read_until: Timestamp(0),
            predecessor: None,
            fingerprint: Fingerprint { crc32: 0, mac: None },
            writes: 1,
            urgent: true,
        }
    }

    #[test]
    fn a_change_of_history_or_of_reading_begins_a_page() {
        let mut pages = Pages::new(Term(7));
        let mut assign = |segment| {
            let page = pages.assign(&segment);
            (page.number, page.start.0, page.time.0, page.reading)
        };
        assert_eq!(assign(segment(1, 10, None)), (0, 10, 1_010, Reading::Live));
        assert_eq!(assign(segment(1, 11, None)), (0, 10, 1_010, Reading::Live));
        assert_eq!(assign(segment(1, 12, Some(900))), (1, 12, 900, Reading::Late));
        assert_eq!(assign(segment(1, 13, Some(901))), (2, 13, 901, Reading::Late));
        assert_eq!(assign(segment(1, 14, None)), (3, 14, 1_014, Reading::Live));
        assert_eq!(assign(segment(2, 15, None)), (4, 15, 1_015, Reading::Live));
    }

    #[test]
    fn a_full_page_is_followed_by_another() {
        let mut pages = Pages::new(Term(7));
        for index in 0..u64::from(SEGMENTS_PER_PAGE) {
            assert_eq!(pages.assign(&segment(1, index, None)).number, 0);
        }
        assert_eq!(pages.assign(&segment(1, 9_999, None)).number, 1);
    }
}

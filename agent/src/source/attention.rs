//! Whether bytes are read as they come or late.
//!
//! An arrival time is worth something only if we were looking when the bytes arrived. We were as long
//! as the socket is seen empty every now and then: what is read next came after that. When it has
//! not been seen empty for longer than [`LATE`], be it that the process was stopped, the machine
//! slept, the link was down or the disk held us up, then the bytes read may have waited since, and
//! they are late until the socket is seen empty again: a blur begins at the last moment at which it
//! was empty.

use std::time::Duration;

use redwind_archive::time::{Clock, Timestamp};
use tokio::time::Instant;

/// Bytes that may have waited longer than this have no arrival time worth the name.
pub(super) const LATE: Duration = Duration::from_millis(500);

/// A moment by both clocks: the wall clock counts the sleep of a machine, the monotonic one does
/// not, and only the latter is meant to pass evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) time: Timestamp,
}

impl Moment {
    pub(super) fn now(clock: &Clock) -> Self {
        Self { instant: Instant::now(), time: clock.now() }
    }

    fn since(self, earlier: Self) -> Duration {
        self.instant.saturating_duration_since(earlier.instant).max(self.time.since(earlier.time))
    }
}

/// When the socket was last seen empty, and whether what is read now is late.
#[derive(Debug)]
pub(super) struct Attention {
    seen_empty: Moment,
    late_since: Option<Timestamp>,
}

impl Attention {
    /// A session that `continues` a history begins late, however short the absence: what is read
    /// first may have been read before, at its true time, by an agent that was killed with it.
    pub(super) fn new(seen_empty: Moment, continues: bool) -> Self {
        Self { seen_empty, late_since: continues.then_some(seen_empty.time) }
    }

    /// Everything that arrived before `now` has been read.
    pub(super) fn empty(&mut self, now: Moment) {
        self.seen_empty = now;
        self.late_since = None;
    }

    /// Bytes have been read at `now`. Tells since when they may have waited, if that is too long.
    pub(super) fn read(&mut self, now: Moment) -> Option<Timestamp> {
        if self.late_since.is_none() && now.since(self.seen_empty) > LATE {
            self.late_since = Some(self.seen_empty.time);
        }
        self.late_since
    }

    /// Until when the stream is known to have been read.
    pub(super) fn read_until(&self) -> Timestamp {
        self.seen_empty.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(start: Instant, millis: u64) -> Moment {
        Moment { instant: start + Duration::from_millis(millis), time: Timestamp(1_000_000 + millis * 1000) }
    }

    #[test]
    fn bytes_are_late_from_the_last_empty_moment_until_the_next() {
        let start = Instant::now();
        let mut attention = Attention::new(moment(start, 0), false);
        assert_eq!(attention.read(moment(start, 500)), None);
        assert_eq!(attention.read(moment(start, 501)), Some(Timestamp(1_000_000)));
        assert_eq!(attention.read(moment(start, 502)), Some(Timestamp(1_000_000)));
        attention.empty(moment(start, 503));
        assert_eq!(attention.read(moment(start, 900)), None);
    }

    #[test]
    fn what_a_continued_session_reads_first_is_late_however_short_the_absence() {
        let start = Instant::now();
        let mut attention = Attention::new(moment(start, 0), true);
        assert_eq!(attention.read(moment(start, 20)), Some(Timestamp(1_000_000)));
        attention.empty(moment(start, 21));
        assert_eq!(attention.read(moment(start, 40)), None);
    }

    #[test]
    fn a_sleep_of_the_machine_shows_in_the_wall_clock_alone() {
        let start = Instant::now();
        let mut attention = Attention::new(moment(start, 0), false);
        let woken = Moment { instant: start, time: Timestamp(9_000_000) };
        assert_eq!(attention.read(woken), Some(Timestamp(1_000_000)));
    }
}

//! When what was read goes to the store.
//!
//! Three things ask for it: age (the first write that has not gone yet is as old as the flush
//! interval), `REPLCONF GETACK` (somebody on the server waits for an acknowledgement), and silence
//! ([`IDLE_SEAL`] after the last segment one more says that nothing was missed). Pings alone do not.
//!
//! GETACK is a group commit: one flush of its kind in flight, and a least time between two, however
//! many ask. Eight clients in SET and WAIT ask thousands of times a second.

use std::time::Duration;

use redwind_archive::position::Offset;
use tokio::time::Instant;

use crate::journal::IDLE_SEAL;

/// See the module.
#[derive(Debug)]
pub(super) struct FlushSchedule {
    flush_interval: Duration,
    getack_interval: Duration,
    /// Arrival of the first byte of the oldest whole write that has not been sealed.
    oldest_write: Option<Instant>,
    last_seal: Instant,
    /// Somebody waits for what has been read so far.
    asked: bool,
    last_asked_flush: Option<Instant>,
    /// The end of the last flush that was asked for, until it is durable.
    in_flight: Option<Offset>,
}

impl FlushSchedule {
    pub(super) fn new(flush_interval: Duration, getack_interval: Duration, now: Instant) -> Self {
        Self {
            flush_interval,
            getack_interval,
            oldest_write: None,
            last_seal: now,
            asked: false,
            last_asked_flush: None,
            in_flight: None,
        }
    }

    /// A write has been read to its end; its first byte arrived at `since`.
    pub(super) fn wrote(&mut self, since: Instant) {
        self.oldest_write.get_or_insert(since);
    }

    /// Somebody waits.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// Everything up to `offset` is durable.
    pub(super) fn durable(&mut self, offset: Offset) {
        self.in_flight = self.in_flight.filter(|&end| end > offset);
    }

    /// Whether a flush that was asked for waits for one before it to become durable.
    pub(super) fn awaits_durable(&self) -> bool {
        self.asked && self.in_flight.is_some()
    }

    /// The next moment at which a flush is due; may lie in the past.
    pub(super) fn due_at(&self) -> Instant {
        let idle = self.last_seal + IDLE_SEAL;
        let aged = self.oldest_write.map_or(idle, |since| since + self.flush_interval);
        let asked = match (self.asked, self.in_flight, self.last_asked_flush) {
            (true, None, Some(last)) => last + self.getack_interval,
            (true, None, None) => self.last_seal,
            _ => idle,
        };
        idle.min(aged).min(asked)
    }

    /// Everything up to `end` has been sealed at `now`.
    pub(super) fn sealed(&mut self, end: Offset, now: Instant) {
        self.oldest_write = None;
        self.last_seal = now;
        if std::mem::take(&mut self.asked) {
            self.last_asked_flush = Some(now);
            self.in_flight = Some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn a_write_is_flushed_when_it_is_as_old_as_the_interval() {
        let start = Instant::now();
        let mut schedule = FlushSchedule::new(SECOND, TENTH, start);
        assert_eq!(schedule.due_at(), start + IDLE_SEAL);
        schedule.wrote(start + TENTH);
        schedule.wrote(start + 3 * TENTH);
        assert_eq!(schedule.due_at(), start + TENTH + SECOND);
        schedule.sealed(Offset(10), start + 2 * SECOND);
        assert_eq!(schedule.due_at(), start + 2 * SECOND + IDLE_SEAL);
    }

    #[test]
    fn flushes_that_are_asked_for_follow_each_other_only_when_durable_and_not_too_soon() {
        let start = Instant::now();
        let mut schedule = FlushSchedule::new(SECOND, TENTH, start);
        schedule.ask();
        assert!(schedule.due_at() <= start);
        schedule.sealed(Offset(10), start);
        schedule.ask();
        assert!(schedule.awaits_durable());
        assert_eq!(schedule.due_at(), start + IDLE_SEAL);
        schedule.durable(Offset(9));
        assert!(schedule.awaits_durable());
        schedule.durable(Offset(10));
        assert_eq!(schedule.due_at(), start + TENTH);
    }

    #[test]
    fn a_store_that_hangs_does_not_hold_up_the_flushes_by_age() {
        let start = Instant::now();
        let mut schedule = FlushSchedule::new(SECOND, TENTH, start);
        schedule.ask();
        schedule.sealed(Offset(10), start);
        schedule.ask();
        schedule.wrote(start);
        assert_eq!(schedule.due_at(), start + SECOND);
    }
}

//! Instants, and the one clock that reads them.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// An instant in microseconds since the Unix epoch, UTC.
///
/// Serialised as RFC 3339 text with microseconds, so that documents read well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The instant `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// The instant `duration` earlier, not before the epoch.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<Timestamp> for jiff::Timestamp {
    fn from(time: Timestamp) -> Self {
        let micros = i64::try_from(time.0).unwrap_or(i64::MAX);
        Self::from_microsecond(micros).unwrap_or(Self::MAX)
    }
}

impl TryFrom<jiff::Timestamp> for Timestamp {
    type Error = std::num::TryFromIntError;

    fn try_from(time: jiff::Timestamp) -> Result<Self, Self::Error> {
        u64::try_from(time.as_microsecond()).map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", jiff::Timestamp::from(*self))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time = jiff::Timestamp::deserialize(deserializer)?;
        Self::try_from(time).map_err(|_| serde::de::Error::custom("a time before 1970"))
    }
}

/// The wall clock as the archive needs it: it never goes back.
///
/// Monotonic time carried forward from the wall clock. When the wall clock has been stepped forward
/// the clock follows at once; when it has been stepped back, the clock runs at half speed until the
/// wall clock has caught up, so that arrival times neither decrease nor stand still.
#[derive(Debug)]
pub struct Clock(Mutex<Reading>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    monotonic: Instant,
    reported: Timestamp,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Reading { monotonic: Instant::now(), reported: wall_clock() }))
    }

    /// A clock that never reports an instant before `floor`: the newest arrival time of the history
    /// that a restarted agent continues.
    #[must_use]
    pub fn not_before(floor: Timestamp) -> Self {
        let clock = Self::new();
        clock.raise(floor);
        clock
    }

    /// From now on never report an instant before `floor`.
    pub fn raise(&self, floor: Timestamp) {
        let mut reading = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reading.reported = reading.reported.max(floor);
    }

    /// The time now, never before a time reported earlier.
    pub fn now(&self) -> Timestamp {
        let mut reading = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (monotonic, wall) = (Instant::now(), wall_clock());
        reading.reported = advance(reading.reported, monotonic - reading.monotonic, wall);
        reading.monotonic = monotonic;
        reading.reported
    }
}

fn advance(reported: Timestamp, elapsed: Duration, wall: Timestamp) -> Timestamp {
    let expected = reported.after(elapsed);
    if wall >= expected {
        return wall;
    }
    // Behind by less than an adjustment of the clock's rate explains: follow the wall clock, but
    // never below what was reported.
    wall.max(reported.after(elapsed / 2))
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(micros(since_epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_step_forward_is_followed_at_once() {
        assert_eq!(advance(Timestamp(10), SECOND, Timestamp(9_000_000)), Timestamp(9_000_000));
    }

    #[test]
    fn a_step_back_is_met_at_half_speed() {
        let hours_back = Timestamp(1_000_000);
        assert_eq!(advance(Timestamp(50_000_000), SECOND, hours_back), Timestamp(50_500_000));
    }

    #[test]
    fn a_clock_starts_no_earlier_than_the_history_it_continues() {
        let future = wall_clock().after(Duration::from_secs(3600));
        let clock = Clock::not_before(future);
        let first = clock.now();
        assert!(first >= future);
        assert!(clock.now() >= first);
    }

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        let time = Timestamp(1_763_733_787_250_001);
        assert_eq!(time.to_string(), "2025-11-21T14:03:07.250001Z");
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
    }
}

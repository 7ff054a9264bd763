//! Durations and sizes as people write them in options.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// A duration such as `1s`, `500ms`, `24h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval(pub(crate) Duration);

/// A text that is no [`Interval`].
#[derive(Debug, thiserror::Error)]
#[error("expected a duration such as 1s, 500ms, 24h or 7d")]
pub(crate) struct IntervalError;

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let span: Span = text.trim().parse().map_err(|_| IntervalError)?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| IntervalError)?;
        Duration::try_from(duration).map(Self).map_err(|_| IntervalError)
    }
}

impl fmt::Display for Interval {
    /// The shortest whole number of one unit, so that defaults read as people write them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let units =
            [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
        match units.iter().find(|(_, unit)| nanos >= *unit && nanos.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", nanos / unit),
            None => write!(f, "{nanos}ns"),
        }
    }
}

const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// A number of bytes such as `8MiB`, `4 GB` or `65536`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

/// A text that is no [`ByteSize`].
#[derive(Debug, thiserror::Error)]
#[error("expected a size such as 8MiB, 4GB or 65536")]
pub(crate) struct ByteSizeError;

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let text = text.trim().to_ascii_lowercase();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "" => 1,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or(ByteSizeError)?.1,
        };
        let number: u64 = number.parse().map_err(|_| ByteSizeError)?;
        number.checked_mul(factor).map(Self).ok_or(ByteSizeError)
    }
}

impl fmt::Display for ByteSize {
    /// Exact when it is a whole number of a unit, else with one digit after the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) if self.0.is_multiple_of(*unit) => write!(f, "{}{name}", self.0 / unit),
            #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
            Some((name, unit)) => write!(f, "{:.1}{name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        for (text, millis, shown) in [
            ("1s", 1_000, "1s"),
            ("500ms", 500, "500ms"),
            ("24h", 86_400_000, "24h"),
            ("1 day", 86_400_000, "24h"),
            ("7d", 604_800_000, "168h"),
            ("1h 30m", 5_400_000, "90m"),
            ("0s", 0, "0ns"),
        ] {
            let interval: Interval = text.parse().unwrap();
            assert_eq!((interval.0.as_millis(), interval.to_string().as_str()), (millis, shown), "{text}");
        }
        for bad in ["", "1", "s", "-1s", "1 month", "1s ago", "never", "99999999999999999999s"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_as_people_do() {
        for (text, bytes, shown) in [
            ("8MiB", 8 << 20, "8MiB"),
            ("4 gib", 4 << 30, "4GiB"),
            ("65536", 65536, "64KiB"),
            ("1kB", 1000, "1000B"),
            ("1536 KiB", 1536 << 10, "1.5MiB"),
            ("0", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5GiB", "1 x", "99999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn whatever_is_given_is_read_or_refused() {
        let seeds = ["1h 30m", "250ms", "never", "64 MiB", "1.5GiB", "4096", "-1s", "1e9"];
        redwind_fuzz::Fuzz::of("quantity").seeds(seeds).run(|input| {
            let text = String::from_utf8_lossy(input);
            let (interval, size) = (text.parse::<Interval>(), text.parse::<ByteSize>());
            format!("{} {}", interval.is_ok(), size.is_ok())
        });
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_is_read_back(micros in 0u64..u64::MAX / 1000) {
            let interval = Interval(Duration::from_micros(micros));
            proptest::prop_assert_eq!(interval.to_string().parse::<Interval>().ok().map(|i| i.0), Some(interval.0));
        }
    }
}

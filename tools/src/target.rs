//! What people write for a target: an instant, an offset, a record.
//!
//! A text has one meaning or is refused with an example. In particular a local time that a change of
//! the clocks makes double or skips is refused with both readings, and a time in the future is never
//! taken for `latest`.

use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{AmbiguousOffset, Offset as UtcOffset, TimeZone};
use jiff::{Span, Zoned};
use redwind_archive::plan::Target;
use redwind_archive::position::{HistoryId, Offset, Position};
use redwind_archive::time::Timestamp;

/// A text that is no target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(
        "{0:?} is not a target; write a time (2026-11-20T14:03:07.250Z, '2026-11-20 14:03:07[Europe/Berlin]', \
         '15m ago', 1795183387.25), latest, offset:4711, or before: or after: a record (before:<history>:<offset>)"
    )]
    Form(String),
    #[error("{0:?} is not an offset: write offset:4711 or offset:01K9ZJ3V5X0000000000000000:4711")]
    Offset(String),
    #[error("{0:?} is not a record's id: write its history and offset, such as 01K9ZJ3V5X0000000000000000:4711")]
    Record(String),
    #[error(
        "{0:?} is no time zone that this machine knows; write one such as Europe/Berlin, or the time in UTC with a Z"
    )]
    Zone(String),
    #[error("{0:?} has no time of day; write one, such as {0}T00:00:00")]
    NoTimeOfDay(String),
    #[error("{text:?} has an offset that {zone} did not have then; leave out one of the two")]
    Conflict { text: String, zone: String },
    #[error("{text} happened twice in {zone}, because the clocks were set back: write {first} or {second}")]
    Twice { text: String, zone: String, first: String, second: String },
    #[error("{text} never happened in {zone}, because the clocks were set forward: {first} and {second} are nearest")]
    Skipped { text: String, zone: String, first: String, second: String },
    #[error("{0} is in the future; write latest for the newest state there is")]
    Future(Timestamp),
    #[error("{0:?} lies before 1970 or beyond the calendar")]
    Range(String),
}

/// Reads a target. `now` is the present in the local zone, by which times without a zone are read.
///
/// # Errors
/// [`TargetError`] says what to write instead.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<Target, TargetError> {
    let text = text.trim();
    if text == "latest" {
        return Ok(Target::Latest);
    }
    if let Some(offset) = text.strip_prefix("offset:") {
        return parse_offset(offset).ok_or_else(|| TargetError::Offset(offset.to_owned()));
    }
    if let Some(record) = text.strip_prefix("before:") {
        return parse_record(record).map(Target::Before);
    }
    if let Some(record) = text.strip_prefix("after:") {
        return parse_record(record).map(Target::After);
    }
    let time = parse_time(text, now)?;
    match Timestamp::try_from(now.timestamp()) {
        Ok(now) if time > now => Err(TargetError::Future(time)),
        _ => Ok(Target::Time(time)),
    }
}

fn parse_offset(text: &str) -> Option<Target> {
    let (history, offset) = match text.split_once(':') {
        Some((history, offset)) => (Some(history.parse::<HistoryId>().ok()?), offset),
        None => (None, text),
    };
    Some(Target::Offset { history, offset: Offset(offset.parse().ok()?) })
}

fn parse_record(text: &str) -> Result<Position, TargetError> {
    text.parse().map_err(|_| TargetError::Record(text.to_owned()))
}

fn parse_time(text: &str, now: &Zoned) -> Result<Timestamp, TargetError> {
    let range = |_| TargetError::Range(text.to_owned());
    if text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return parse_unix(text).ok_or_else(|| TargetError::Form(text.to_owned()));
    }
    if text.ends_with(" ago") {
        let span: Span = text.parse().map_err(|_| TargetError::Form(text.to_owned()))?;
        let then = now.checked_add(span).map_err(|_| TargetError::Range(text.to_owned()))?;
        return Timestamp::try_from(then.timestamp()).map_err(range);
    }
    // Where a zone's name stands behind a space, as `date` prints it.
    let (written, zone) = match text.rsplit_once(' ') {
        Some((written, zone)) if zone.starts_with(|first: char| first.is_ascii_alphabetic()) => (written, Some(zone)),
        _ => (text, None),
    };
    let pieces = Pieces::parse(written).map_err(|_| TargetError::Form(text.to_owned()))?;
    let annotation = pieces.time_zone_annotation().map(|_| annotated(written));
    let zone = match (annotation, zone) {
        (Some(_), Some(_)) => return Err(TargetError::Form(text.to_owned())),
        (annotated, behind) => annotated.or(behind),
    };
    let zone = match zone {
        Some(name) => Some(TimeZone::get(name).map_err(|_| TargetError::Zone(name.to_owned()))?),
        None => None,
    };
    let Some(time) = pieces.time() else {
        return Err(TargetError::NoTimeOfDay(text.to_owned()));
    };
    let local = pieces.date().to_datetime(time);
    let offset = pieces.to_numeric_offset();
    resolve(text, local, offset, zone, now).and_then(|instant| Timestamp::try_from(instant).map_err(range))
}

/// The name between brackets.
fn annotated(text: &str) -> &str {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(name, _)| name);
    inner.trim_start_matches('!')
}

fn resolve(
    text: &str,
    local: DateTime,
    offset: Option<UtcOffset>,
    zone: Option<TimeZone>,
    now: &Zoned,
) -> Result<jiff::Timestamp, TargetError> {
    let range = |_| TargetError::Range(text.to_owned());
    let at = |offset: UtcOffset| offset.to_timestamp(local);
    let name = |zone: &TimeZone| zone.iana_name().unwrap_or("the local time zone").to_owned();
    match (offset, zone) {
        (Some(offset), None) => at(offset).map_err(range),
        (Some(offset), Some(zone)) => {
            let instant = at(offset).map_err(range)?;
            if zone.to_offset(instant) == offset || offset == UtcOffset::UTC && text.contains('Z') {
                return Ok(instant);
            }
            Err(TargetError::Conflict { text: text.to_owned(), zone: name(&zone) })
        }
        (None, zone) => {
            let zone = zone.unwrap_or_else(|| now.time_zone().clone());
            let reading = |offset: UtcOffset| format!("{local}{}", with_minutes(offset));
            let readings = |before, after| (text.to_owned(), name(&zone), reading(before), reading(after));
            match zone.to_ambiguous_timestamp(local).offset() {
                AmbiguousOffset::Unambiguous { offset } => at(offset).map_err(range),
                AmbiguousOffset::Fold { before, after } => {
                    let (text, zone, first, second) = readings(before, after);
                    Err(TargetError::Twice { text, zone, first, second })
                }
                AmbiguousOffset::Gap { before, after } => {
                    // By the offset of the other side of the gap each reading is a time that was.
                    let shown = |instant: jiff::Timestamp| {
                        let zoned = instant.to_zoned(zone.clone());
                        format!("{}{}", zoned.datetime(), with_minutes(zoned.offset()))
                    };
                    let (first, second) = (at(after).map_err(range)?, at(before).map_err(range)?);
                    let (text, zone) = (text.to_owned(), name(&zone));
                    Err(TargetError::Skipped { text, zone, first: shown(first), second: shown(second) })
                }
            }
        }
    }
}

/// `+02:00`, as RFC 3339 takes it.
fn with_minutes(offset: UtcOffset) -> String {
    let seconds = offset.seconds();
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.unsigned_abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// Seconds, or from twelve digits on milliseconds, since the Unix epoch: seconds of twelve digits
/// lie three thousand years ahead.
fn parse_unix(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let unit = if whole.len() >= 12 { 1_000 } else { 1_000_000 };
    if whole.len() > 14 || fraction.contains('.') || (text.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut micros = whole.parse::<u64>().ok()? * unit;
    let mut place = unit / 10;
    for digit in fraction.bytes() {
        micros += u64::from(digit - b'0') * place;
        place /= 10;
    }
    Some(Timestamp(micros))
}

#[cfg(test)]
mod tests;

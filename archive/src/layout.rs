//! Object names: the only code that makes or parses them.
//!
//! Every name of one source lies under `<root>/<source>/`. Names carry what planning needs, zero
//! padded so that they sort by position, so that a listing answers where an instant lies without
//! opening an object and without an index that would have to be rewritten.

use std::fmt;
use std::str::FromStr;

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::keys::KeyName;
use crate::position::{HistoryId, Offset, Term};
use crate::time::Timestamp;

/// Most segments in one page: a listing of a page is one request on S3, GCS and Azure.
pub const SEGMENTS_PER_PAGE: u32 = 1000;

/// Most segments that a writer has under way at once: so many names at the end of the log, but for
/// one, may be there while one before them is not there yet, or never will be.
pub const SEGMENTS_UNDER_WAY_MAX: usize = 8;

/// Folders with names that begin so are no sources: in them `redwind check` tries the store, and leaves
/// something behind where it may not delete.
pub const TRIAL_PREFIX: &str = "redwind-check-";

/// The name of a source, and of the folder that holds its archive.
///
/// 1 to 64 of `a-z A-Z 0-9 . _ -`, not starting with a dot: safe in every store and shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

/// A name that cannot be a source's.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} cannot name a source: use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', not starting with '.'")]
pub struct SourceNameError(String);

impl FromStr for SourceName {
    type Err = SourceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
        if fits { Ok(Self(text.to_owned())) } else { Err(SourceNameError(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for SourceName {
    type Error = SourceNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the bytes of a page were read as they came, or late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// Read as they came: arrival times are exact to the millisecond.
    Live,
    /// Read late: the page is (part of) a blur, and its records' times are unknown.
    Late,
}

impl Reading {
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Late => "late",
        }
    }
}

/// The name of a page: about a thousand consecutive segments of one history and one term.
///
/// A change of history, of term, or between live and late reading starts a page, so that the pages
/// alone tell every window and every blur. A late page and the page after it bound the blur: it
/// lasts from the `time` of the first late page to the `time` of the next live one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageName {
    /// The writer's term.
    pub term: Term,
    /// Counts the term's pages from 0 without a hole.
    pub number: u32,
    /// The history of every segment in the page.
    pub history: HistoryId,
    /// Start of the page's first segment.
    pub start: Offset,
    /// Live: arrival of the page's first bytes. Late: the last moment before them at which the
    /// socket had been read empty.
    pub time: Timestamp,
    /// How the page's bytes were read.
    pub reading: Reading,
}

impl fmt::Display for PageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:010}-{:06}-{}-{:019}-{:016}-{}",
            self.term.0,
            self.number,
            self.history,
            self.start.0,
            self.time.0,
            self.reading.as_str()
        )
    }
}

impl PageName {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let page = Self {
            term: Term(digits(fields.next()?, 10)?),
            number: u32::try_from(digits(fields.next()?, 6)?).ok()?,
            history: fields.next()?.parse().ok()?,
            start: Offset(digits(fields.next()?, 19)?),
            time: Timestamp(digits(fields.next()?, 16)?),
            reading: match fields.next()? {
                "live" => Reading::Live,
                "late" => Reading::Late,
                _ => return None,
            },
        };
        (fields.next().is_none() && page.to_string() == text).then_some(page)
    }
}

/// The name of a segment within its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentName {
    /// Offset before the segment's first byte.
    pub start: Offset,
    /// Offset after its last byte; equal to `start` in a segment that only tells that time passed.
    pub end: Offset,
    /// Arrival of its first bytes; of an empty segment, the moment until which it vouches.
    pub time: Timestamp,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:019}-{:019}-{:016}", self.start.0, self.end.0, self.time.0)
    }
}

impl SegmentName {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let segment = Self {
            start: Offset(digits(fields.next()?, 19)?),
            end: Offset(digits(fields.next()?, 19)?),
            time: Timestamp(digits(fields.next()?, 16)?),
        };
        (fields.next().is_none() && segment.start <= segment.end).then_some(segment)
    }
}

/// The name of a snapshot's manifest, which makes the snapshot visible.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ManifestName {
    /// The history in which the snapshot stands.
    pub history: HistoryId,
    /// The offset up to which the snapshot contains every effect of the stream, and none after.
    pub offset: Offset,
    /// A time at which the source held at least this state and the log had reached the offset.
    pub time: Timestamp,
    /// The snapshot, whose chunks lie under this id.
    pub snapshot: Ulid,
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:019}-{:016}-{}", self.history, self.offset.0, self.time.0, self.snapshot)
    }
}

impl ManifestName {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let manifest = Self {
            history: fields.next()?.parse().ok()?,
            offset: Offset(digits(fields.next()?, 19)?),
            time: Timestamp(digits(fields.next()?, 16)?),
            snapshot: Ulid::from_string(fields.next()?).ok()?,
        };
        fields.next().is_none().then_some(manifest)
    }
}

/// The name of an entry of the audit log, which sorts by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditName {
    /// When it was written.
    pub time: Timestamp,
    /// The entry.
    pub entry: Ulid,
}

impl fmt::Display for AuditName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}-{}", self.time.0, self.entry)
    }
}

impl Serialize for AuditName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl AuditName {
    fn parse(text: &str) -> Option<Self> {
        let (time, entry) = text.split_once('-')?;
        Some(Self { time: Timestamp(digits(time, 16)?), entry: Ulid::from_string(entry).ok()? })
    }
}

/// A sign of life: who says that they are there.
///
/// The only objects that are overwritten. They are hints, on which no promise rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// The archive's writer.
    Holder,
    /// Whoever wants to know whether the writer lives.
    Watcher,
}

/// The name of any object below a source's folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// `archive`: says that this is an archive, and its id.
    Marker,
    /// `term/<n>`: a writer's claim.
    Term(Term),
    /// `history/<ulid>`: where a history begins and why.
    History(HistoryId),
    /// `key/<epoch>-<crc32>`: the key of what one run of an agent has encrypted.
    Key(KeyName),
    /// `log/<page>/<segment>`: a piece of the command stream.
    Segment(PageName, SegmentName),
    /// `chunk/<snapshot>/<n>`: a piece of a snapshot.
    Chunk(Ulid, u32),
    /// `snapshot/<manifest>`: a complete snapshot.
    Manifest(ManifestName),
    /// `audit/<entry>`: something that was done.
    Audit(AuditName),
    /// `sign/holder`, `sign/watcher`: hints of life, which are overwritten.
    Sign(Sign),
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marker => write!(f, "archive"),
            Self::Term(term) => write!(f, "term/{:010}", term.0),
            Self::History(history) => write!(f, "history/{history}"),
            Self::Key(key) => write!(f, "key/{key}"),
            Self::Segment(page, segment) => write!(f, "log/{page}/{segment}"),
            Self::Chunk(snapshot, number) => write!(f, "chunk/{snapshot}/{number:08}"),
            Self::Manifest(manifest) => write!(f, "snapshot/{manifest}"),
            Self::Audit(name) => write!(f, "audit/{name}"),
            Self::Sign(Sign::Holder) => write!(f, "sign/holder"),
            Self::Sign(Sign::Watcher) => write!(f, "sign/watcher"),
        }
    }
}

impl ObjectName {
    /// Parses a name below the source's folder; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Only the one canonical spelling: digits and ULIDs have others that parse.
        Self::parse_lenient(text).filter(|name| name.to_string() == text)
    }

    fn parse_lenient(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('/').unwrap_or((text, ""));
        match kind {
            "archive" if rest.is_empty() => Some(Self::Marker),
            "term" => digits(rest, 10).map(|n| Self::Term(Term(n))),
            "history" => rest.parse().ok().map(Self::History),
            "key" => KeyName::parse(rest).map(Self::Key),
            "log" => {
                let (page, segment) = rest.split_once('/')?;
                Some(Self::Segment(PageName::parse(page)?, SegmentName::parse(segment)?))
            }
            "chunk" => {
                let (snapshot, number) = rest.split_once('/')?;
                let number = u32::try_from(digits(number, 8)?).ok()?;
                Some(Self::Chunk(Ulid::from_string(snapshot).ok()?, number))
            }
            "snapshot" => ManifestName::parse(rest).map(Self::Manifest),
            "audit" => AuditName::parse(rest).map(Self::Audit),
            "sign" => match rest {
                "holder" => Some(Self::Sign(Sign::Holder)),
                "watcher" => Some(Self::Sign(Sign::Watcher)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What can be listed: a kind of object, or the objects of one page or snapshot.
#[derive(Clone, Debug)]
pub enum Folder {
    /// Every term.
    Terms,
    /// Every history.
    Histories,
    /// Every wrapped key.
    Keys,
    /// Every page of the log (folders, not objects).
    Pages,
    /// The segments of one page.
    Page(PageName),
    /// Every manifest.
    Manifests,
    /// Every snapshot that has chunks (folders, not objects), complete or not.
    ChunkFolders,
    /// The chunks of one snapshot.
    Chunks(Ulid),
    /// The whole audit log.
    Audit,
    /// The signs of life.
    Signs,
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terms => write!(f, "term"),
            Self::Histories => write!(f, "history"),
            Self::Keys => write!(f, "key"),
            Self::Pages => write!(f, "log"),
            Self::Page(page) => write!(f, "log/{page}"),
            Self::Manifests => write!(f, "snapshot"),
            Self::ChunkFolders => write!(f, "chunk"),
            Self::Chunks(snapshot) => write!(f, "chunk/{snapshot}"),
            Self::Audit => write!(f, "audit"),
            Self::Signs => write!(f, "sign"),
        }
    }
}

/// Parses the last part of a path as a page's name.
pub(crate) fn page_of(path: &Path) -> Option<PageName> {
    PageName::parse(path.filename()?)
}

/// Exactly `width` decimal digits.
fn digits(text: &str, width: usize) -> Option<u64> {
    let all_digits = text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::EpochId;
    use proptest::prelude::*;

    fn ulids() -> impl Strategy<Value = Ulid> {
        any::<u128>().prop_map(Ulid::from)
    }

    fn names() -> impl Strategy<Value = ObjectName> {
        let offsets = 0..=i64::MAX.unsigned_abs();
        let times = 0..=9_999_999_999_999_999_u64;
        let page = (0..=9_999_999_999_u64, 0..=999_999_u32, ulids(), offsets.clone(), times.clone(), any::<bool>())
            .prop_map(|(term, number, history, start, time, late)| PageName {
                term: Term(term),
                number,
                history: HistoryId(history),
                start: Offset(start),
                time: Timestamp(time),
                reading: if late { Reading::Late } else { Reading::Live },
            });
        let segment = (offsets.clone(), 0..=1_u64 << 40, times.clone()).prop_map(|(start, length, time)| {
            let end = Offset(start.saturating_add(length).min(i64::MAX.unsigned_abs()));
            SegmentName { start: Offset(start), end, time: Timestamp(time) }
        });
        prop_oneof![
            Just(ObjectName::Marker),
            (0..=9_999_999_999_u64).prop_map(|n| ObjectName::Term(Term(n))),
            ulids().prop_map(|id| ObjectName::History(HistoryId(id))),
            (ulids(), any::<u32>()).prop_map(|(id, crc32)| ObjectName::Key(KeyName { epoch: EpochId(id), crc32 })),
            (page, segment).prop_map(|(page, segment)| ObjectName::Segment(page, segment)),
            (ulids(), 0..=99_999_999_u32).prop_map(|(id, n)| ObjectName::Chunk(id, n)),
            (times.clone(), ulids())
                .prop_map(|(time, entry)| { ObjectName::Audit(AuditName { time: Timestamp(time), entry }) }),
            prop_oneof![Just(Sign::Holder), Just(Sign::Watcher)].prop_map(ObjectName::Sign),
            (ulids(), offsets, times, ulids()).prop_map(|(history, offset, time, snapshot)| {
                ObjectName::Manifest(ManifestName {
                    history: HistoryId(history),
                    offset: Offset(offset),
                    time: Timestamp(time),
                    snapshot,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_name_survives_its_text(name in names()) {
            prop_assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in ".*") {
            let _ = ObjectName::parse(&text);
        }
    }

    #[test]
    fn a_source_name_is_safe_everywhere() {
        assert!("prod-eu_1.orders".parse::<SourceName>().is_ok());
        for bad in ["", ".hidden", "a/b", "ä", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad:?}");
        }
    }
}

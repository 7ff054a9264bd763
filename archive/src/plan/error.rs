//! Why there is no plan.

use std::fmt;
use std::sync::Arc;

use super::SnapshotsBeside;
use crate::catalog::{HistoryLog, LostHistory, Summary, Window};
use crate::keys::KeyError;
use crate::layout::ManifestName;
use crate::position::{HistoryId, Offset, Position};
use crate::read::ReadError;
use crate::segment::SegmentError;
use crate::store::StoreError;
use crate::time::Timestamp;

use ulid::Ulid;

/// Why a target cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The time lies in a gap, before the first window, or after what is known to be complete.
    OutsideWindows {
        /// The time.
        time: Timestamp,
    },
    /// The records around that time were read late, so which of them had arrived is not known.
    InBlur {
        /// The time.
        time: Timestamp,
        /// Start of the blur.
        from: Timestamp,
        /// End of the blur.
        to: Timestamp,
    },
    /// No history that can be restored reaches that offset.
    NoSuchOffset {
        /// The offset.
        offset: Offset,
    },
    /// The offset lies before the first snapshot.
    BeforeFirstSnapshot {
        /// The offset.
        offset: Offset,
    },
    /// No record begins there.
    NoSuchRecord {
        /// What was taken for a record's id.
        record: Position,
        /// The nearest boundary between records at or before it.
        boundary: Offset,
    },
    /// The record's end is not in the archive.
    UnfinishedRecord {
        /// The record.
        record: Position,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideWindows { time } => write!(f, "{time} lies in no window"),
            Self::InBlur { time, from, to } => write!(
                f,
                "{time} lies in a blur: what arrived between {from} and {to} was read late, so its times are not known \
                 (its records can be restored by offset)"
            ),
            Self::NoSuchOffset { offset } => write!(f, "offset {offset} lies in no window"),
            Self::BeforeFirstSnapshot { offset } => write!(f, "offset {offset} lies before the first snapshot"),
            Self::NoSuchRecord { record, boundary } => write!(
                f,
                "no record begins at {record}; the nearest boundary at or before it is {}:{boundary}",
                record.history
            ),
            Self::UnfinishedRecord { record } => write!(f, "the end of record {record} has not been stored"),
        }
    }
}

/// A point that can be restored instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// `before` or `after` the target.
    pub side: &'static str,
    /// Where it lies: an instant for a target that is one, else an offset.
    pub point: Point,
    /// The history in which it lies.
    pub history: HistoryId,
}

/// An instant or an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// An instant.
    Time(Timestamp),
    /// An offset.
    Offset(Offset),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "{time}"),
            Self::Offset(offset) => write!(f, "offset {offset}"),
        }
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The target cannot be restored.
    #[error("{why}{}", describe(nearest))]
    Refused {
        /// Why not.
        why: Refusal,
        /// What can be restored instead.
        nearest: Vec<Nearest>,
    },
    /// Several histories could be meant.
    #[error("several histories have it, because the source's history forked; choose one with --history: {}", join(.0))]
    Ambiguous(Vec<HistoryId>),
    /// No such history.
    #[error("there is no history {0} in the archive; `redwind list` shows those there are")]
    NoSuchHistory(HistoryId),
    /// No snapshot is complete yet.
    #[error("nothing can be restored yet: the archive has no complete snapshot")]
    NothingToRestore,
    /// Segments are missing.
    #[error(
        "the log of history {history} is missing from offset {from} to {to}: objects have been deleted; \
         `redwind list` shows what can still be restored{}", from_newer(after.as_ref())
    )]
    Hole {
        /// The history.
        history: HistoryId,
        /// Offset after the last byte before the hole.
        from: Offset,
        /// Offset before the first byte after it.
        to: Offset,
        /// The oldest snapshot behind it.
        after: Option<ManifestName>,
    },
    /// What was asked for may lie in a history whose document is lost or locked.
    #[error(
        "history {history} may be the one that is asked for, and its document is {}; to restore from another one, \
         choose it with --history", if source.locked_epoch().is_some() { "locked" } else { "lost" }
    )]
    LostHistory {
        /// The history.
        history: HistoryId,
        /// What is wrong with its document.
        source: Arc<StoreError>,
    },
    /// The snapshot that was chosen cannot lead to the target.
    #[error("snapshot {snapshot} does not lead to the target: it is not in history {history} at or before it")]
    NoSuchSnapshot {
        /// The snapshot.
        snapshot: Ulid,
        /// The history of the target.
        history: HistoryId,
    },
    /// The manifest of the snapshot to build on is damaged or locked.
    #[error(
        "the snapshot to build on is {}{}", if source.locked_epoch().is_some() { "locked" } else { "damaged" },
        .beside.describe()
    )]
    Snapshot {
        /// Ways round.
        beside: Box<SnapshotsBeside>,
        /// What is wrong with its manifest.
        source: StoreError,
    },
    /// The archive cannot be opened without an identity.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A segment is missing or damaged, or cannot be fetched or opened.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The bytes of a segment are no replication stream.
    #[error("the stream in history {history} cannot be parsed at offset {at}")]
    Stream {
        /// The history.
        history: HistoryId,
        /// Offset before the first byte of the segment's part that could not be parsed.
        at: Offset,
        /// What the parser says.
        source: redwind_stream::FrameError,
    },
    /// The store failed, or a document is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SnapshotsBeside {
    /// The ways round a snapshot that is damaged, to be read behind what is the matter; empty when there
    /// are none.
    #[must_use]
    pub fn describe(&self) -> String {
        let older = self.older.as_ref().map(|older| {
            format!("; the snapshot before it, of {}, is a way round: add --snapshot {}", older.time, older.snapshot)
        });
        older.unwrap_or_default() + &from_newer(self.newer.as_ref())
    }

    /// The way round damage in the log, to be read behind what is the matter; empty when there is none.
    #[must_use]
    pub fn describe_newer(&self) -> String {
        from_newer(self.newer.as_ref())
    }
}

fn from_newer(newer: Option<&ManifestName>) -> String {
    let text = |newer: &ManifestName| {
        format!("; targets from {} on (offset {}) build on another snapshot", newer.time, newer.offset)
    };
    newer.map(text).unwrap_or_default()
}

impl PlanError {
    pub(super) fn refused(why: Refusal, summary: &Summary) -> Self {
        Self::Refused { nearest: nearest(&why, summary), why }
    }

    pub(super) fn lost(lost: &LostHistory) -> Self {
        Self::LostHistory { history: lost.history, source: Arc::clone(&lost.problem) }
    }

    pub(super) fn ambiguous(logs: &[&HistoryLog]) -> Self {
        Self::Ambiguous(logs.iter().map(|log| log.start.history).collect())
    }

    /// Whether the archive is damaged, rather than the target out of reach or the store.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Hole { .. } | Self::Stream { .. } => true,
            Self::LostHistory { source, .. } => source.locked_epoch().is_none(),
            Self::Snapshot { source, .. } => source.locked_epoch().is_none(),
            Self::Read(error) => error.is_damage(),
            Self::Store(error) => error.is_damage() || error.is_absent(),
            _ => false,
        }
    }

    /// Whether a segment cannot be read because its key is wrapped to others.
    pub(super) fn is_locked(&self) -> bool {
        let Self::Read(ReadError::Damaged { source, .. }) = self else { return false };
        matches!(source, SegmentError::Key(KeyError::Locked(_)))
    }

    /// Whether the target cannot be restored, or not without being told more.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Ambiguous(_)
                | Self::NoSuchHistory(_)
                | Self::NoSuchSnapshot { .. }
                | Self::NothingToRestore
        )
    }
}

fn nearest(why: &Refusal, summary: &Summary) -> Vec<Nearest> {
    match *why {
        Refusal::InBlur { from, to, .. } => {
            let history = summary.blurs.iter().find(|blur| blur.from == from).map(|blur| blur.history);
            let at = |side, time| Some(Nearest { side, point: Point::Time(time), history: history? });
            [at("before", from), at("after", to)].into_iter().flatten().collect()
        }
        Refusal::OutsideWindows { time } => {
            let ended = summary.windows.iter().filter(|window| window.complete_until < time);
            let begins = summary.windows.iter().filter(|window| window.from > time);
            let before = ended.max_by_key(|window| window.complete_until);
            let after = begins.min_by_key(|window| window.from);
            beside(before.map(|w| (w, Point::Time(w.complete_until))), after.map(|w| (w, Point::Time(w.from))))
        }
        Refusal::NoSuchOffset { offset } | Refusal::BeforeFirstSnapshot { offset } => {
            let ended = summary.windows.iter().filter(|window| window.to_offset < offset);
            let begins = summary.windows.iter().filter(|window| window.from_offset > offset);
            let before = ended.max_by_key(|window| window.to_offset);
            let after = begins.min_by_key(|window| window.from_offset);
            beside(before.map(|w| (w, Point::Offset(w.to_offset))), after.map(|w| (w, Point::Offset(w.from_offset))))
        }
        Refusal::NoSuchRecord { .. } | Refusal::UnfinishedRecord { .. } => Vec::new(),
    }
}

fn beside(before: Option<(&Window, Point)>, after: Option<(&Window, Point)>) -> Vec<Nearest> {
    let nearest = |side, (window, point): (&Window, Point)| Nearest { side, point, history: window.history };
    before.map(|at| nearest("before", at)).into_iter().chain(after.map(|at| nearest("after", at))).collect()
}

fn describe(nearest: &[Nearest]) -> String {
    let points: Vec<String> =
        nearest.iter().map(|point| format!("{} ({} it, history {})", point.point, point.side, point.history)).collect();
    match points.as_slice() {
        [] => String::new(),
        [point] => format!("; the nearest point that can be restored is {point}"),
        several => format!("; the nearest points that can be restored are {}", several.join(" and ")),
    }
}

fn join(histories: &[HistoryId]) -> String {
    histories.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

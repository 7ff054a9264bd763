//! Fetching a segment and trusting it: every check that needs no other object.

use bytes::Bytes;

use crate::documents::Marker;
use crate::keys::Keyring;
use crate::layout::{ObjectName, PageName, Reading, SegmentName};
use crate::segment::{Segment, SegmentError};
use crate::store::{SourceStore, StoreError};

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there although its place in the log is known.
    #[error("{object} is missing")]
    Missing {
        /// Which object.
        object: String,
    },
    /// It is there, and damaged, or another than its name says, or it takes a key that is not at hand.
    #[error("{object} cannot be used")]
    Damaged {
        /// Which object.
        object: String,
        /// What is wrong with it.
        source: SegmentError,
    },
    /// A sound segment that does not belong where it lies.
    #[error("{object} is misplaced: it belongs to {belongs}")]
    Misplaced {
        /// Which object.
        object: String,
        /// What its header says it belongs to.
        belongs: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl ReadError {
    /// Whether the archive is damaged, rather than the store out of reach.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => error.is_damage(),
            Self::Damaged { source, .. } => source.is_damage(),
            Self::Missing { .. } | Self::Misplaced { .. } => true,
        }
    }

    /// Whether a later release wrote it, so that nothing can be said of it.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Damaged { source: SegmentError::Newer, .. })
    }
}

/// Fetches a segment's bytes.
///
/// # Errors
/// When it is missing or the store cannot be read.
pub async fn fetch(
    store: &SourceStore,
    page: &PageName,
    segment: &SegmentName,
    take: impl FnOnce(usize) -> Vec<u8>,
) -> Result<Vec<u8>, ReadError> {
    let name = ObjectName::Segment(page.clone(), *segment);
    store.get_into(&name, take).await.map_err(|error| {
        if error.is_absent() { ReadError::Missing { object: store.describe(&name) } } else { ReadError::Store(error) }
    })
}

/// Decodes a segment and checks that it is the one that its name says, of this archive. With a closed
/// keyring, one that is encrypted stays sealed.
///
/// # Errors
/// When it is damaged or misplaced, or its key is not in the keyring.
pub fn decode(
    store: &SourceStore,
    marker: &Marker,
    keys: &Keyring,
    page: &PageName,
    name: &SegmentName,
    bytes: &Bytes,
) -> Result<Segment, ReadError> {
    let object = || store.describe(&ObjectName::Segment(page.clone(), *name));
    let damaged = |source| ReadError::Damaged { object: object(), source };
    let segment = Segment::decode(bytes, keys).map_err(damaged)?;
    segment.check_name(name).map_err(damaged)?;
    let header = &segment.header;
    let late_since = (page.reading == Reading::Late).then_some(page.time);
    let belongs = (header.archive, header.history, header.term, header.late_since);
    if belongs == (marker.archive, page.history, page.term, late_since) {
        Ok(segment)
    } else {
        let reading = header.late_since.map_or("live".to_owned(), |since| format!("late, since {since}"));
        let belongs =
            format!("history {}, term {} of archive {} ({reading})", header.history, header.term, header.archive);
        Err(ReadError::Misplaced { object: object(), belongs })
    }
}

/// Fetches and decodes a segment.
///
/// # Errors
/// As [`fetch`] and [`decode`].
pub async fn read(
    store: &SourceStore,
    marker: &Marker,
    keys: &Keyring,
    page: &PageName,
    name: &SegmentName,
) -> Result<Segment, ReadError> {
    let bytes = fetch(store, page, name, Vec::with_capacity).await?;
    decode(store, marker, keys, page, name, &Bytes::from(bytes))
}

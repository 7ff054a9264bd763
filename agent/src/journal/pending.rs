//! What is in the spool and waits to be stored, in the order of the log.

use bytes::Bytes;
use redwind_archive::documents::HistoryStart;
use redwind_archive::keys::Keyring;
use redwind_archive::layout::SegmentName;
use redwind_archive::position::{HistoryId, Position};
use redwind_archive::segment::{Fingerprint, Segment, SegmentEncoder};
use redwind_archive::time::Timestamp;

use super::error::JournalError;
use super::recovery::rehead;
use super::spool::{Spool, Spooled};
use super::term::Tenure;

/// Something to be stored.
#[derive(Debug)]
pub(super) enum Pending {
    /// A history's document.
    History {
        /// Its file.
        file: Spooled,
        /// The document, under this agent's term.
        start: Box<HistoryStart>,
    },
    /// A segment.
    Segment(PendingSegment),
}

/// A sealed segment. A few hundred bytes each, so that a long outage of the store is remembered in
/// little memory; the segment itself is read from its file when its turn comes.
#[derive(Clone, Debug)]
pub(super) struct PendingSegment {
    /// Its file.
    pub(super) file: Spooled,
    /// The range and time that it will be named by.
    pub(super) name: SegmentName,
    /// Its history.
    pub(super) history: HistoryId,
    /// As in its header.
    pub(super) late_since: Option<Timestamp>,
    /// Until when everything that the server had sent stands in it or before it.
    pub(super) read_until: Timestamp,
    /// The segment before it, under this agent's term.
    pub(super) predecessor: Option<Fingerprint>,
    /// What it is known by itself, under this agent's term.
    pub(super) fingerprint: Fingerprint,
    /// Writes that end in it.
    pub(super) writes: u64,
    /// Whether somebody may wait for it: an idle source's is not urgent.
    pub(super) urgent: bool,
}

impl Pending {
    /// Its file.
    pub(super) fn file(&self) -> &Spooled {
        match self {
            Self::History { file, .. } => file,
            Self::Segment(segment) => &segment.file,
        }
    }

    /// The segment, if it is one.
    pub(super) fn segment(&self) -> Option<&PendingSegment> {
        match self {
            Self::History { .. } => None,
            Self::Segment(segment) => Some(segment),
        }
    }
}

impl PendingSegment {
    /// Where it ends.
    pub(super) fn end(&self) -> Position {
        Position { history: self.history, offset: self.name.end }
    }

    /// Reads the object from the spool, under this agent's term, and checks every byte of it.
    pub(super) fn load(&self, spool: &Spool, tenure: &Tenure) -> Result<Bytes, JournalError> {
        let damaged = || JournalError::SpoolDamaged { path: spool.path(self.file.kind, self.file.seq) };
        let bytes = spool.read(&self.file)?;
        let epoch = tenure.epoch.as_deref();
        let segment = Segment::decode(&bytes, &Keyring::closed(epoch.is_some())).map_err(|_| damaged())?;
        let (object, trailer) = if segment.header.writer == tenure.identity.writer {
            (bytes, segment.trailer)
        } else {
            let mut out = Vec::with_capacity(bytes.len());
            let header = rehead(&segment.header, tenure.identity, self.predecessor);
            let mut encoder = SegmentEncoder::begin(header, epoch, &mut out);
            segment.blocks.iter().for_each(|block| encoder.copy_block(block, &mut out));
            let (_, trailer) = encoder.finish(segment.trailer.read_until, &mut out);
            (Bytes::from(out), trailer)
        };
        if trailer.fingerprint() == self.fingerprint { Ok(object) } else { Err(damaged()) }
    }
}

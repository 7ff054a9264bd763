//! The chain of segments: each names the one before it in its history, by its
//! checksum and, in an encrypted archive, by what authenticates it.

use crate::position::{Offset, Term};
use crate::segment::{Fingerprint, SegmentHeader, Trailer};

/// Why a segment does not follow the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There are bytes between them, or in both.
    #[error("does not follow the segment before it: that one ends at offset {end}, this one starts at {start}")]
    Offset {
        /// Where the one before ends.
        end: Offset,
        /// Where this one starts.
        start: Offset,
    },
    /// It was written after another segment than the one that lies before it: one of the two has
    /// been exchanged.
    #[error("does not follow the segment before it: it names another checksum than that one's")]
    Checksum,
    /// An older term's segment after a newer term's.
    #[error("does not follow the segment before it: its term {term} is older than that one's, {before}")]
    Term {
        /// Its term.
        term: Term,
        /// The term of the one before.
        before: Term,
    },
}

/// Checks that segments follow each other, in the order of the stream.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    before: Option<Link>,
}

#[derive(Clone, Debug)]
struct Link {
    end: Offset,
    term: Term,
    /// The fingerprints that a successor may name, the last segment's last. Where a term ends there may
    /// be several: its writer, not knowing yet that it had been succeeded, may have put empty
    /// segments that its successor did not see.
    fingerprints: Vec<Fingerprint>,
}

impl Chain {
    /// A chain whose first segment may be any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that the segment with this header and trailer follows those pushed before it, and
    /// remembers it.
    ///
    /// # Errors
    /// [`ChainError`] says how it does not follow.
    pub fn push(&mut self, header: &SegmentHeader, trailer: &Trailer) -> Result<(), ChainError> {
        let mut fingerprints = Vec::new();
        if let Some(before) = self.before.take() {
            before.check(header)?;
            if header.start == trailer.end {
                fingerprints = before.fingerprints;
            }
        }
        fingerprints.push(trailer.fingerprint());
        self.before = Some(Link { end: trailer.end, term: header.term, fingerprints });
        Ok(())
    }
}

impl Link {
    fn check(&self, header: &SegmentHeader) -> Result<(), ChainError> {
        if header.start != self.end {
            return Err(ChainError::Offset { end: self.end, start: header.start });
        }
        if header.term < self.term {
            return Err(ChainError::Term { term: header.term, before: self.term });
        }
        let names = |fingerprint: &Fingerprint| header.predecessor == Some(*fingerprint);
        let follows = if header.term == self.term {
            self.fingerprints.last().is_some_and(names)
        } else {
            self.fingerprints.iter().any(names)
        };
        if follows { Ok(()) } else { Err(ChainError::Checksum) }
    }
}

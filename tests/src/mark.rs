//! A moment to which a restore must lead back.

use std::time::Duration;

use redwind_archive::time::Timestamp;

use crate::dataset::Dataset;
use crate::oracle::{capture_live, digest};
use crate::server::Server;

/// What a primary held at a quiet moment, and two names of that moment.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What the story was doing.
    pub label: String,
    /// The replication offset. PINGs may have advanced it without changing anything.
    pub offset: u64,
    /// The wall clock, after the last write before the mark and before the first after it.
    pub at: Timestamp,
    /// What the server held.
    pub dataset: Dataset,
}

/// Between the last write, the mark's time and the next write: arrival times are taken by another
/// process, which may read a little late.
const DISTANCE: Duration = Duration::from_millis(30);

impl Mark {
    /// Takes a mark on `primary`, to which nobody else writes.
    ///
    /// `settle` gets the offset and returns once whoever is to have a time for every write so far
    /// has received them all: a time means nothing to a reader that is behind.
    ///
    /// # Panics
    /// When the primary is not quiet.
    pub fn take(label: &str, primary: &Server, mut settle: impl FnMut(u64)) -> Self {
        let mut cli = primary.cli();
        for _ in 0..20 {
            let dataset = capture_live(primary);
            let offset = cli.offset();
            settle(offset);
            std::thread::sleep(DISTANCE);
            let at = now();
            std::thread::sleep(DISTANCE);
            // a key that expired meanwhile is in the stream as a deletion: not a moment to restore
            if digest(&mut cli) == dataset.digest {
                return Self { label: label.to_owned(), offset, at, dataset };
            }
        }
        panic!("the server is not quiet: its dataset changes around the mark {label}");
    }
}

/// The wall clock, as another process on this machine reads it.
pub fn now() -> Timestamp {
    redwind_archive::time::Clock::new().now()
}

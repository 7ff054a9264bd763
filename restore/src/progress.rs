//! How far a restore has come, for whoever draws it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::recording::Recording;

/// Counters that a restore moves and a progress bar reads. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    rdb: AtomicU64,
    stream: AtomicU64,
    clock_offset: OnceLock<i64>,
}

impl Progress {
    /// Bytes of the snapshot's RDB that have been handed on.
    #[must_use]
    pub fn rdb_bytes(&self) -> u64 {
        self.0.rdb.load(Ordering::Relaxed)
    }

    /// Bytes of the stream that have been handed on.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.0.stream.load(Ordering::Relaxed)
    }

    /// Whether everything of `recording` has been handed on, so that what remains is up to the server
    /// or the disk.
    #[must_use]
    pub fn is_all(&self, recording: &Recording) -> bool {
        self.rdb_bytes() >= recording.rdb_bytes() && self.stream_bytes() >= recording.stream_bytes()
    }

    /// The source's clock minus the agent's in microseconds, as last recorded before the target;
    /// `None` until the stream has been read, or when it was never measured.
    #[must_use]
    pub fn clock_offset_micros(&self) -> Option<i64> {
        self.0.clock_offset.get().copied()
    }

    pub(crate) fn clock_offset(&self, micros: Option<i64>) {
        if let Some(micros) = micros {
            self.0.clock_offset.get_or_init(|| micros);
        }
    }

    /// A replica, or a file, begins from the start.
    pub(crate) fn begin(&self) {
        self.0.rdb.store(0, Ordering::Relaxed);
        self.0.stream.store(0, Ordering::Relaxed);
    }

    pub(crate) fn rdb(&self, bytes: usize) {
        self.0.rdb.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn stream(&self, bytes: usize) {
        self.0.stream.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

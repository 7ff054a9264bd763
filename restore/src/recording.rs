//! What is replayed: a plan, bound to the store that holds its objects.

use redwind_archive::documents::Server;
use redwind_archive::plan::RestorePlan;
use redwind_archive::position::Offset;
use redwind_archive::store::SourceStore;
use redwind_link::Version;
use redwind_stream::encode_command;

use crate::fetch::{RdbReader, StreamReader};

/// The first version that replicates points in time instead of spans, and has multi-part AOFs.
const ABSOLUTE_EXPIRIES: Version = Version::new(7, 0, 0);

/// A snapshot, and the stream from there to the cut: what every kind of output is made from.
///
/// Cheap to read more than once: a replica that reconnects is sent all of it again.
#[derive(Clone, Debug)]
pub struct Recording {
    store: SourceStore,
    plan: RestorePlan,
}

impl Recording {
    /// Binds a plan to its archive.
    #[must_use]
    pub fn new(store: SourceStore, plan: RestorePlan) -> Self {
        Self { store, plan }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &RestorePlan {
        &self.plan
    }

    /// Begins to read the snapshot's RDB.
    #[must_use]
    pub fn rdb(&self) -> RdbReader {
        RdbReader::start(&self.store, &self.plan.keys, &self.plan.snapshot)
    }

    /// Length of the snapshot's RDB in bytes.
    #[must_use]
    pub fn rdb_bytes(&self) -> u64 {
        self.plan.snapshot.rdb_bytes
    }

    /// Begins to read the stream after the snapshot. [`select`](Self::select) goes before it.
    #[must_use]
    pub fn stream(&self) -> StreamReader {
        StreamReader::start(&self.store, &self.plan, self.has_relative_expiries())
    }

    /// Length of the stream as archived, in bytes; rewritten it is a little longer.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.plan.stream_bytes()
    }

    /// Whether the target is the snapshot itself.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.cut() <= self.snapshot_offset()
    }

    /// The command that selects the database of the stream's first commands: a replica's stream goes
    /// on without one, and whoever replays begins in database 0. Empty when the stream selects one
    /// itself.
    #[must_use]
    pub fn select(&self) -> Vec<u8> {
        match self.plan.snapshot.stream_database {
            Some(database) => encode_command(&[b"SELECT", database.to_string().as_bytes()]),
            None => Vec::new(),
        }
    }

    /// Where the snapshot stands.
    #[must_use]
    pub fn snapshot_offset(&self) -> Offset {
        self.plan.snapshot.position.offset
    }

    /// Where the stream is cut.
    #[must_use]
    pub fn cut(&self) -> Offset {
        self.plan.cut.offset
    }

    /// The server that wrote the snapshot.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.plan.snapshot.server
    }

    /// The oldest version that can load the snapshot and understands the stream: the newest that
    /// wrote any of it, as far as is known.
    #[must_use]
    pub fn version_min(&self) -> Option<Version> {
        let version = |server: &Server| server.version.parse::<Version>().ok();
        version(&self.plan.snapshot.server).max(version(&self.plan.history.server))
    }

    /// Whether the source replicated spans, which would begin anew when they are replayed. A history
    /// can begin before an upgrade and its snapshot stand after it.
    #[must_use]
    pub fn has_relative_expiries(&self) -> bool {
        let old = |server: &Server| {
            server.vendor == "redis" && server.version.parse().is_ok_and(|version: Version| version < ABSOLUTE_EXPIRIES)
        };
        old(&self.plan.snapshot.server) || old(&self.plan.history.server)
    }

    /// Whether servers of the snapshot's version keep their append-only file in several parts.
    #[must_use]
    pub fn has_multipart_aof(&self) -> bool {
        let version = self.server().version.parse::<Version>();
        self.server().vendor != "redis" || version.is_ok_and(|version| version >= ABSOLUTE_EXPIRIES)
    }
}

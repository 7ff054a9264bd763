//! The archive's documents: what the marker, terms, histories and manifests say.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::document::Document;
use crate::layout::{ManifestName, SourceName};
use crate::position::{HistoryId, Offset, Position, Term};
use crate::time::Timestamp;

/// `archive`: put once, when the first agent opens the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Names this archive; stands in every binary object, so that one from another archive is noticed.
    pub archive: Ulid,
    /// The source whose folder this is.
    pub source: SourceName,
    /// When the archive was made.
    pub created: Timestamp,
    /// Whether everything in it that came from the server is encrypted, and what steers a restore is
    /// signed. Settled when the archive is made: the two are never mixed.
    #[serde(default)]
    pub encrypted: bool,
    /// The release that made it.
    pub redwind: String,
}

impl Document for Marker {
    const KIND: &'static str = "archive";
    const VERSION: u32 = 1;
}

/// `term/<n>`: an agent's claim to be the only writer from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermClaim {
    /// The term claimed, as in the object's name.
    pub term: Term,
    /// Names the writer: one run of one agent.
    pub writer: Ulid,
    /// The machine on which it runs.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it claimed the term.
    pub claimed: Timestamp,
    /// Its release.
    pub redwind: String,
    /// Names its spool, by which the next run on the same spool knows that it succeeds itself.
    #[serde(default)]
    pub spool: Option<Ulid>,
}

impl Document for TermClaim {
    const KIND: &'static str = "term";
    const VERSION: u32 = 1;
}

/// `sign/holder`: the archive's writer says that it lives, or that it has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderSign {
    /// The term that it holds.
    pub term: Term,
    /// The writer, as in the term's document.
    pub writer: Ulid,
    /// How often it has given this sign in its term.
    pub count: u64,
    /// When it gave it.
    pub given: Timestamp,
    /// What it says.
    pub state: HolderState,
}

/// What the archive's writer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderState {
    /// It goes on; the next sign comes when it has nothing to store for a while.
    Writing,
    /// It goes on, and gives the next sign within seconds, because somebody watches.
    Watched,
    /// It has stopped, with everything stored that it had received.
    Stopped,
}

impl Document for HolderSign {
    const KIND: &'static str = "holder";
    const VERSION: u32 = 1;
}

/// `sign/watcher`: an agent wants to know whether the archive's writer lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherSign {
    /// Names one run of one agent.
    pub watcher: Ulid,
    /// The machine on which it runs.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it gave the sign.
    pub given: Timestamp,
}

impl Document for WatcherSign {
    const KIND: &'static str = "watcher";
    const VERSION: u32 = 1;
}

/// Why a history was begun instead of continuing the one before: the cause of the gap between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The archive was empty.
    First,
    /// The server no longer had the bytes after the archive's last: its backlog was too small for
    /// the time the agent was away, or was dropped, or belongs to another replication ID.
    BacklogLost,
    /// The server's data is another or an older one: its offset is behind the archive's.
    OffsetsWentBack,
    /// The spool was full, and the server no longer had the bytes when there was room again.
    SpoolFull,
    /// The stream could not be followed: bytes that are no replication stream.
    StreamBroken,
    /// The end of the log in the archive was damaged, and the server no longer had those bytes.
    LogDamaged,
}

impl Cause {
    /// The cause in words, for `list` and messages.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::First => "the archive began here",
            Self::BacklogLost => {
                "the server no longer had the bytes that followed (backlog overrun, dropped, or a new replication ID)"
            }
            Self::OffsetsWentBack => "the server came back with other or older data",
            Self::SpoolFull => "the spool was full and the server had moved on when there was room again",
            Self::LogDamaged => {
                "objects at the end of the archive's log were damaged, and the server no longer had those bytes"
            }
            Self::StreamBroken => "the server sent bytes that are no replication stream",
        }
    }
}

/// `history/<ulid>`: where a history begins, of what server, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStart {
    /// The history, as in the object's name.
    pub history: HistoryId,
    /// The term in which it began.
    pub term: Term,
    /// Offset before its first byte.
    pub start: Offset,
    /// When the log connection went online.
    pub started: Timestamp,
    /// Why it was begun.
    pub cause: Cause,
    /// Where the archive stood before: the end of the history that could not be continued. Bytes of
    /// that history beyond it are void.
    pub predecessor: Option<Position>,
    /// Until when `predecessor` is known to be complete.
    pub predecessor_complete_until: Option<Timestamp>,
    /// The server's replication ID at the start.
    pub replication_id: String,
    /// The server that was followed.
    pub server: Server,
}

impl Document for HistoryStart {
    const KIND: &'static str = "history";
    const VERSION: u32 = 1;
}

/// The server that a history or snapshot came from, as far as restoring depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `redis`, `valkey`, `redict`, …: lower case, as the server names itself.
    pub vendor: String,
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// Modules loaded, by name, with their versions; empty when unknown.
    #[serde(default)]
    pub modules: Vec<Module>,
    /// Where it was reached, without credentials.
    pub address: String,
    /// The server's run id.
    pub run_id: String,
    /// `master` or `slave`.
    pub role: String,
    /// Whether it ran in cluster mode.
    #[serde(default)]
    pub cluster: bool,
}

/// A module of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its name, such as `graph`.
    pub name: String,
    /// Its version as `MODULE LIST` shows it.
    pub version: u64,
}

/// `snapshot/<manifest>`: a complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The snapshot, as in the object's name and in its chunks' names.
    pub snapshot: Ulid,
    /// The archive that it belongs to.
    pub archive: Ulid,
    /// Where it stands.
    pub position: Position,
    /// As in the object's name.
    pub time: Timestamp,
    /// The term whose writer took it.
    pub term: Term,
    /// When the transfer began (the server forked) and ended.
    pub began: Timestamp,
    /// When the last chunk had been stored.
    pub ended: Timestamp,
    /// What caused it to be taken.
    pub reason: SnapshotReason,
    /// Length of the RDB in bytes.
    pub rdb_bytes: u64,
    /// Length of all chunk objects in bytes.
    pub stored_bytes: u64,
    /// Version in the RDB's header, such as 10 (`REDIS0010`) or 80 (`VALKEY080`).
    pub rdb_version: u32,
    /// CRC-64 of the RDB as the server wrote it, in sixteen lower-case hex digits; `None` when the server writes none
    /// (`rdbchecksum no`).
    pub rdb_crc64: Option<String>,
    /// The database that the stream has selected at the snapshot's offset (`repl-stream-db`);
    /// `None` when the next keyed command selects one anyway.
    pub stream_database: Option<u32>,
    /// Every chunk, in order.
    pub chunks: Vec<ChunkEntry>,
    /// The archive's newest complete snapshot before this one, of whatever history: should its
    /// manifest be lost, this tells.
    #[serde(default)]
    pub previous: Option<Ulid>,
    /// The server that wrote the RDB.
    pub server: Server,
}

impl Document for Manifest {
    const KIND: &'static str = "snapshot";
    const VERSION: u32 = 1;
}

impl Manifest {
    /// The name under which the manifest is put.
    #[must_use]
    pub fn name(&self) -> ManifestName {
        ManifestName {
            history: self.position.history,
            offset: self.position.offset,
            time: self.time,
            snapshot: self.snapshot,
        }
    }
}

/// Why a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotReason {
    /// The history had none to build on.
    First,
    /// The snapshot interval had passed.
    Interval,
    /// Somebody asked for it.
    Requested,
    /// The log connection was answered with a full resync, whose RDB this is.
    FullResync,
}

/// A chunk, as its manifest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// Length of the object in bytes.
    pub stored: u64,
    /// Bytes of the RDB in it.
    pub raw: u64,
    /// CRC-32 of the whole object but its last four bytes, which repeat it.
    pub crc32: u32,
}

//! Why a link could not be taken up, and why following ends.

use redwind_link::{LinkError, Version};
use redwind_stream::{PayloadError, RdbError};

use crate::error::AgentExit;
use crate::journal::JournalError;

/// Why following a source ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server refuses us at the very start, and waiting would not help (exit status 7).
    #[error("the source cannot be followed")]
    Refused(#[source] AttachError),
    /// The journal has ended, which says why itself.
    #[error("the journal takes nothing more")]
    JournalEnded,
    /// The thread that reads the log could not be started.
    #[error("cannot start the thread that reads the log")]
    Thread(#[source] std::io::Error),
}

impl SourceError {
    /// What it means to whoever started the agent.
    #[must_use]
    pub fn exit(&self) -> AgentExit {
        match self {
            Self::Refused(_) => AgentExit::Source,
            Self::JournalEnded | Self::Thread(_) => AgentExit::Failed,
        }
    }
}

/// Why a link to the server could not be taken up, or a snapshot not be transferred.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The connection, or the server's answer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The server is too old: it cannot send a snapshot and the log on two connections.
    #[error("the server is version {found}; Redis 6.2 or later, or Valkey, is needed")]
    TooOld {
        /// Its version.
        found: Version,
    },
    /// A Sentinel was given instead of the server that it watches.
    #[error("this is a Sentinel; give the address of a server that it watches")]
    Sentinel,
    /// PSYNC was answered by something that is no answer to it.
    #[error("unexpected answer to PSYNC: \"{answer}\"")]
    Answer {
        /// The answer, made safe to print.
        answer: String,
    },
    /// The server is about to exit.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A replica that has not yet read what we have.
    #[error("the replica is {bytes} bytes behind what was read from the server before it")]
    Behind {
        /// How many bytes.
        bytes: u64,
    },
    /// A full resync whose payload did not come.
    #[error("the full resync failed")]
    Payload(#[from] PayloadError),
    /// The RDB of a full resync is damaged.
    #[error("the full resync brought no good RDB")]
    Rdb(#[from] RdbError),
    /// The RDB tells of another point of the stream than the answer to PSYNC.
    #[error("the RDB stands at {found} of the stream, and not at {announced} as announced")]
    RdbElsewhere {
        /// What the RDB says: `repl-id:repl-offset`.
        found: String,
        /// What PSYNC was answered.
        announced: String,
    },
    /// The snapshot belongs to another stream than the log.
    #[error("the snapshot is of replication ID {found}, while the log is of {expected}")]
    OtherStream {
        /// The snapshot's replication ID.
        found: String,
        /// The log's.
        expected: String,
    },
    /// The snapshot stands before the first byte of the log.
    #[error("the snapshot stands at offset {found}, before the log's start at {start}")]
    BeforeLog {
        /// The snapshot's offset.
        found: u64,
        /// The log's first.
        start: u64,
    },
    /// A snapshot that was under way is of no use any more.
    #[error("the snapshot was given up: {reason}")]
    SnapshotEnded {
        /// Why.
        reason: &'static str,
    },
    /// The journal does not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl AttachError {
    /// Whether the same may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Link(error) => error.is_retryable(),
            Self::TooOld { .. } | Self::Sentinel | Self::Answer { .. } => false,
            _ => true,
        }
    }
}

//! What can be seen from outside of the link to the server.

use std::fmt;
use std::time::Duration;

use redwind_archive::documents::{Cause, Server};
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::time::Timestamp;
use tokio::sync::watch;

/// What the link is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reaching the server and asking what it is.
    Connecting,
    /// Agreeing with the server on where the stream goes on. With a full resync this lasts until
    /// the server's payload has been read.
    Negotiating,
    /// The stream is being read.
    Streaming,
    /// No link, for a reason that waiting may mend.
    Down {
        /// What happened.
        reason: String,
        /// Time from the loss, or the last try, to the next try.
        retry_in: Duration,
    },
    /// No link because the spool is full; it is taken up again below half.
    SpoolFull,
    /// The server, which was followed before, refuses us now: a password was changed, a right taken
    /// away. It is asked again now and then.
    Refused {
        /// What it says.
        reason: String,
        /// Time from the last try to the next.
        retry_in: Duration,
    },
    /// Another agent writes the archive; this one waits until that is gone.
    StandingBy {
        /// Who writes, in words.
        holder: String,
        /// The writer gives signs within seconds, so that its end would be noticed within seconds.
        armed: bool,
        /// Why the source could not be followed now, if so.
        trouble: Option<String>,
    },
    /// The follower has ended.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Negotiating => f.write_str("negotiating"),
            Self::Streaming => f.write_str("streaming"),
            Self::Down { reason, .. } => write!(f, "down: {reason}"),
            Self::SpoolFull => f.write_str("the spool is full"),
            Self::Refused { reason, .. } => write!(f, "refused: {reason}"),
            Self::StandingBy { holder, .. } => write!(f, "standing by for {holder}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// A stretch of time whose writes the archive may never have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Until when the history before is known to be complete.
    pub from: Timestamp,
    /// When the log went on, in another history.
    pub until: Timestamp,
    /// Why.
    pub cause: Cause,
    /// The history that began then.
    pub history: HistoryId,
}

/// The link, as it last was. What is known of the server stays when the link goes down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// What the link is doing.
    pub phase: Phase,
    /// Since when it has been doing that.
    pub phase_since: Timestamp,
    /// The server that was last reached.
    pub server: Option<Server>,
    /// The server's end of stream (`master_repl_offset`) and when it told us; asked for every few
    /// seconds while streaming.
    pub master_repl_offset: Option<(Offset, Timestamp)>,
    /// The server's TIME minus our clock, in microseconds; `None` when it could not be asked.
    pub clock_offset: Option<i64>,
    /// The replication ID that the stream has now.
    pub replication_id: Option<String>,
    /// How often a link was taken up by a full resync of the log connection, since the start.
    pub full_resyncs: u64,
    /// How often by a partial one.
    pub partial_resyncs: u64,
    /// How often a history could not be continued.
    pub gaps: u64,
    /// The last time that happened.
    pub last_gap: Option<Gap>,
    /// While what is read is late: since when it may have waited, and from which offset on.
    pub late_since: Option<(Timestamp, Offset)>,
}

impl LinkState {
    /// Before the first link.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            phase: Phase::Connecting,
            phase_since: now,
            server: None,
            master_repl_offset: None,
            clock_offset: None,
            replication_id: None,
            full_resyncs: 0,
            partial_resyncs: 0,
            gaps: 0,
            last_gap: None,
            late_since: None,
        }
    }
}

/// The writing end of the watch.
#[derive(Clone, Debug)]
pub(super) struct LinkStateSender(watch::Sender<LinkState>);

impl LinkStateSender {
    pub(super) fn new(now: Timestamp) -> Self {
        Self(watch::Sender::new(LinkState::new(now)))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.0.subscribe()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut LinkState)) {
        self.0.send_modify(change);
    }

    pub(super) fn clock_offset(&self) -> Option<i64> {
        self.0.borrow().clock_offset
    }

    pub(super) fn enter(&self, phase: Phase, now: Timestamp) {
        self.0.send_modify(|state| {
            if state.phase != phase {
                state.phase = phase;
                state.phase_since = now;
            }
        });
    }
}

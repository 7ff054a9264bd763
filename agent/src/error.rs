//! How an agent ends other than by being told to.

use std::io;
use std::net::SocketAddr;

use redwind_archive::store::StoreError;

use crate::api::{AccessError, MetricsError};
use crate::config::ConfigError;
use crate::journal::{JournalError, Verdict};
use crate::source::SourceError;

/// What the end of an agent means to whoever started it. The command line has an exit status for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentExit {
    /// Failed for a reason that has no kind of its own; another try may go better.
    Failed,
    /// The settings, or the files that they name, cannot be worked with, or do not fit the archive.
    Usage,
    /// The store cannot be reached, refuses, or is unfit.
    Store,
    /// Another agent is the archive's writer now, or holds the spool.
    Fenced,
    /// The source refuses: user, password, ACL, no PSYNC.
    Source,
}

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The settings cannot be worked with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address to serve on cannot be had.
    #[error("cannot listen on {address} for --{option}")]
    Listen {
        /// The option that names the address.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The operating system refuses something that every agent needs.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The source cannot be followed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file of certificates or tokens cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Metrics cannot be kept.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// gRPC or HTTP cannot be served any more.
    #[error("cannot serve {0} any more")]
    Serve(&'static str, #[source] io::Error),
    /// Told to stop a second time, before the first stop was done.
    #[error("stopped at once by a second signal; what was not stored is kept in the spool")]
    Interrupted,
    /// A part of the agent ended though nothing was wrong with it, or panicked.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl AgentError {
    /// What it means to whoever started the agent.
    #[must_use]
    pub fn exit(&self) -> AgentExit {
        match self {
            Self::Store(_) => AgentExit::Store,
            Self::Journal(error) => match error.verdict() {
                Verdict::Failed => AgentExit::Failed,
                Verdict::Store => AgentExit::Store,
                Verdict::Fenced => AgentExit::Fenced,
                Verdict::Settings => AgentExit::Usage,
            },
            Self::Source(error) => error.exit(),
            Self::Config(_) | Self::Access(_) => AgentExit::Usage,
            Self::Listen { .. }
            | Self::System { .. }
            | Self::Metrics(_)
            | Self::Serve(..)
            | Self::Interrupted
            | Self::Ended(_) => AgentExit::Failed,
        }
    }
}

/// An error with all its sources, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::AttachError;
    use redwind_link::LinkError;

    #[test]
    fn each_end_has_its_meaning() {
        let refused = LinkError::from_server(&[b"PSYNC"], b"NOPERM no");
        let store = redwind_archive::store::Store::open(&"file:///nowhere/at/all".parse().unwrap()).unwrap_err();
        for (error, exit) in [
            (AgentError::from(SourceError::Refused(AttachError::Link(refused))), AgentExit::Source),
            (SourceError::JournalEnded.into(), AgentExit::Failed),
            (store.into(), AgentExit::Store),
            (JournalError::Unfit { object: "term/1".into() }.into(), AgentExit::Store),
            (JournalError::Conflict { object: "log/1".into() }.into(), AgentExit::Fenced),
            (JournalError::SpoolLocked { dir: "/spool".into() }.into(), AgentExit::Fenced),
            (JournalError::Encrypted { place: "store".into() }.into(), AgentExit::Usage),
            (JournalError::Closed.into(), AgentExit::Failed),
            (AgentError::Interrupted, AgentExit::Failed),
        ] {
            assert_eq!(error.exit(), exit, "{error}");
        }
    }
}

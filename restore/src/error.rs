//! Why a restore failed, sorted by what it says about the archive.

use redwind_link::LinkError;

use crate::engine::EngineError;
use crate::fetch::FetchError;
use crate::into::IntoError;
use crate::place::PlaceError;
use crate::primary::PrimaryError;

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive does not give what the plan needs.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The destination's files cannot be written.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// No server could be used as engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The recording could not be served to a replica.
    #[error(transparent)]
    Primary(#[from] PrimaryError),
    /// The target of `--into` is unfit, or was lost.
    #[error(transparent)]
    Into(#[from] IntoError),
    /// A server that takes part could not be talked to.
    #[error("cannot talk to {who}")]
    Link {
        /// The engine or the target.
        who: String,
        /// Why not.
        source: Box<LinkError>,
    },
    /// It was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl RestoreError {
    /// Whether the archive is damaged (exit status 4).
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.fetch_error().is_some_and(FetchError::is_damage)
    }

    /// Whether it is the snapshot that is damaged, rather than the log behind it.
    #[must_use]
    pub fn is_snapshot_damage(&self) -> bool {
        self.fetch_error().is_some_and(FetchError::is_snapshot_damage)
    }

    /// Whether the store could not be reached or refused (exit status 5).
    #[must_use]
    pub fn is_store(&self) -> bool {
        self.fetch_error().is_some_and(FetchError::is_store)
    }

    /// What the archive did not give, if that was the cause.
    fn fetch_error(&self) -> Option<&FetchError> {
        match self {
            Self::Fetch(error) | Self::Primary(PrimaryError::Fetch(error)) => Some(error),
            Self::Into(IntoError::LeftReplica { source, .. }) => source.fetch_error(),
            _ => None,
        }
    }
}

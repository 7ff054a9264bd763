//! What can go wrong with the store, by what the caller must do.

use crate::document::DocumentError;
use crate::keys::{EpochId, KeyError};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Setting up the client.
    Open,
    /// Creating an object.
    Put,
    /// Reading an object or a part of one.
    Get,
    /// Asking whether an object exists.
    Head,
    /// Listing.
    List,
    /// Deleting.
    Delete,
}

impl Operation {
    /// The operation as a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// What a failed request calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again later: the store did not answer, or not well.
    Retry,
    /// Do not try again unchanged: the store refuses, or cannot do this.
    Refused,
    /// The object is not there.
    Absent,
    /// The object is there, and damaged.
    Damaged,
    /// The object is there, and takes a key that is not at hand.
    Locked,
}

/// A request that failed, or an object that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A request failed.
    #[error("cannot {} {object}", .operation.as_str())]
    Request {
        /// What was asked.
        operation: Operation,
        /// Of which object or folder.
        object: String,
        /// What the client says.
        source: object_store::Error,
    },
    /// An object is there, and longer than any that an agent makes.
    #[error("{object} cannot be used: damaged, it is longer than any object of an archive")]
    TooLong {
        /// Which object.
        object: String,
    },
    /// An object was read and is damaged, or takes a key that is not at hand.
    #[error("{object} cannot be used")]
    Damaged {
        /// Which object.
        object: String,
        /// What is wrong with it.
        source: Box<DocumentError>,
    },
}

impl StoreError {
    pub(super) fn new(operation: Operation, object: String, source: object_store::Error) -> Self {
        Self::Request { operation, object, source }
    }

    /// What the error calls for.
    #[must_use]
    pub fn advice(&self) -> Advice {
        use object_store::Error;
        let (operation, source) = match self {
            Self::Request { operation, source, .. } => (operation, source),
            Self::TooLong { .. } => return Advice::Damaged,
            Self::Damaged { source, .. } if source.is_damage() => return Advice::Damaged,
            Self::Damaged { .. } => return Advice::Locked,
        };
        match source {
            Error::NotFound { .. } => Advice::Absent,
            Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. } => Advice::Refused,
            _ if *operation == Operation::Open => Advice::Refused,
            _ => Advice::Retry,
        }
    }

    /// Whether the object is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.advice() == Advice::Absent
    }

    /// Whether a later release wrote the object, so that nothing can be said of it.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Damaged { source, .. } if matches!(**source, DocumentError::Newer { .. }))
    }

    /// The epoch whose key is wrapped to others, where that is why an object cannot be used.
    #[must_use]
    pub fn locked_epoch(&self) -> Option<EpochId> {
        match self {
            Self::Damaged { source, .. } => match **source {
                DocumentError::Key(KeyError::Locked(epoch)) => Some(epoch),
                _ => None,
            },
            Self::Request { .. } | Self::TooLong { .. } => None,
        }
    }

    /// Whether the object is there or was, and cannot be used: absent, damaged, or locked to others.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.is_damage() || self.is_absent() || self.locked_epoch().is_some()
    }

    /// Whether an object was found damaged.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.advice() == Advice::Damaged
    }
}

//! Why something encrypted cannot be read, and why keys cannot be used.

use std::io;
use std::path::PathBuf;

use super::epoch::EpochId;

/// Why something encrypted cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No identity was given.
    #[error("the archive is encrypted: give --identity-file FILE with an identity of one of its recipients")]
    NoIdentity,
    /// None of the identities opens anything.
    #[error(
        "wrong identity: none of those given with --identity-file opens any of the archive's {epochs} key epochs; use \
         an identity of one of its recipients"
    )]
    WrongIdentity {
        /// How many epochs there are.
        epochs: usize,
    },
    /// The identities open other epochs, but not that one.
    #[error(
        "key epoch {0} is locked: it was wrapped to other recipients; add an --identity-file of one of them, or let \
         one run `redwind rewrap`"
    )]
    Locked(EpochId),
    /// There is no key of the epoch in the archive.
    #[error("key epoch {0} is missing: there is no object key/{0}-*")]
    Missing(EpochId),
    /// Every key of the epoch in the archive is damaged.
    #[error("key epoch {0} is damaged: no object key/{0}-* is sound")]
    Damaged(EpochId),
    /// Identities were given, but there is nothing to open with them.
    #[error(
        "the archive is not encrypted, so that nothing proves who wrote it; if that is meant to be, leave out \
         --identity-file"
    )]
    NotEncrypted,
}

impl KeyError {
    /// Whether the archive is damaged, rather than the identities wrong.
    #[must_use]
    pub fn is_damage(self) -> bool {
        matches!(self, Self::Missing(_) | Self::Damaged(_))
    }
}

/// Why an identity or a recipient cannot be used. Never repeats what may be secret.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("cannot {verb} {}", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no identity file.
    #[error("{}:{line}: not an age identity (AGE-SECRET-KEY-1…, without a passphrase)", .path.display())]
    NotAnIdentity {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file holds none.
    #[error("{} holds no age identity", .0.display())]
    NoIdentity(PathBuf),
    /// A file of recipients holds none.
    #[error("{} holds no age recipient (age1…), so that nobody could read what is encrypted", .0.display())]
    NoRecipient(PathBuf),
    /// There are more than a wrapped key can take.
    #[error("too many recipients: a key can be wrapped to {}", super::identity::RECIPIENTS_MAX)]
    TooManyRecipients,
    /// A file of recipients has a line that is none.
    #[error("{}:{line}: not an age recipient (age1…)", .path.display())]
    NotARecipient {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The text is no recipient.
    #[error("{0:?} is no age recipient: expected age1…, as `redwind keygen` prints it")]
    Recipient(String),
    /// The text is a secret, where a public recipient belongs.
    #[error("that is an identity, which is secret; give its recipient (age1…) instead, and make a new identity")]
    Secret,
    /// The data key cannot be wrapped.
    #[error("cannot wrap a key to the recipients")]
    Wrap(#[source] io::Error),
}

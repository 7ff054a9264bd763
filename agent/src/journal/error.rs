//! What can end a journal, or keep it from being opened.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use redwind_archive::catalog::CatalogError;
use redwind_archive::documents::TermClaim;
use redwind_archive::keys::IdentityError;
use redwind_archive::layout::SourceName;
use redwind_archive::read::ReadError;
use redwind_archive::store::StoreError;
use ulid::Ulid;

/// Why a journal cannot be opened, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store cannot be reached or refuses, at start.
    #[error("the archive cannot be opened")]
    Store(#[from] StoreError),
    /// The store does what must not be done to an archive.
    #[error(
        "the store is unfit: {object} was overwritten by a put that was only to create it, so two agents could \
         destroy each other's work; use a store with conditional writes (S3, GCS, Azure, MinIO, a local disk)"
    )]
    Unfit {
        /// The object that the store let be overwritten.
        object: String,
    },
    /// Another agent writes the archive and lives.
    #[error(
        "another agent writes this archive and lives: process {} on {}, in term {} since {}; stop that one, wait \
         beside it with --standby, or take the archive from it with --takeover", .0.pid, .0.host, .0.term, .0.claimed
    )]
    Held(Box<TermClaim>),
    /// Another agent wrote the archive, and it cannot be told yet whether it lives.
    #[error(
        "the agent that writes this archive (process {} on {}, in term {}) gave its last sign of life {} s ago, which \
         may only mean that it has little to do; start again once it has been silent for {} s, or, if you know that it \
         is gone, take the archive over with --takeover", .claim.pid, .claim.host, .claim.term, .silent.as_secs(),
        super::signs::SILENCE_MAX.as_secs()
    )]
    Unclear {
        /// Its claim.
        claim: Box<TermClaim>,
        /// Time since its last sign of life, by the store's clock.
        silent: Duration,
    },
    /// The folder in the store holds another source's archive.
    #[error("the archive in {place} is that of source {found}, not of {wanted}: it was copied or renamed")]
    OtherSource {
        /// Where it lies.
        place: String,
        /// Whose it says it is.
        found: SourceName,
        /// Whose it should be.
        wanted: SourceName,
    },
    /// The archive is encrypted, and there is nobody to encrypt to.
    #[error(
        "the archive in {place} is encrypted: give --recipient (or --recipients-file); nothing is written in the clear \
         to an archive that was begun encrypted"
    )]
    Encrypted {
        /// Where it lies.
        place: String,
    },
    /// The archive is not encrypted, and should be written as if it were.
    #[error(
        "the archive in {place} was begun without encryption, and the two are never mixed: leave out --recipient and \
         --recipients-file, or begin another archive with another --name"
    )]
    NotEncrypted {
        /// Where it lies.
        place: String,
    },
    /// The run's data key cannot be wrapped.
    #[error("the archive cannot be encrypted")]
    Key(#[source] IdentityError),
    /// The stored end of the log cannot be read, so that nothing can be written after it.
    #[error("the end of the archive's log cannot be read")]
    End(#[source] ReadError),
    /// A listing promises what a document does not hold.
    #[error("the archive is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// Another agent has claimed the archive since.
    #[error(
        "fenced: another agent took this archive over (term {}, on {}, process {}, at {}); this one has stopped \
         writing, and what it had not stored by then is void", .0.term, .0.host, .0.pid, .0.claimed
    )]
    Fenced(Box<TermClaim>),
    /// A name that only this agent may use is taken by another object.
    #[error("{object} was written by somebody else although this agent holds the archive; stop whatever writes there")]
    Conflict {
        /// The object.
        object: String,
    },
    /// Another process works in the spool's folder.
    #[error("the spool in {} is in use by another process: does an agent run already?", .dir.display())]
    SpoolLocked {
        /// The folder.
        dir: PathBuf,
    },
    /// The spool belongs to another archive.
    #[error(
        "the spool in {} belongs to archive {spool}, but the store holds archive {archive}: if the store is the right \
         one, choose another spool folder or remove this one", .dir.display()
    )]
    OtherSpool {
        /// The folder.
        dir: PathBuf,
        /// The archive that the spool belongs to.
        spool: Ulid,
        /// The archive in the store.
        archive: Ulid,
    },
    /// The spool cannot be read or written.
    #[error("cannot {verb} {}", .path.display())]
    Spool {
        /// What was tried.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file in the spool is not what was written to it.
    #[error("{} has changed on disk since it was written; restart to resume before it", .path.display())]
    SpoolDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The compressor failed.
    #[error("cannot compress")]
    Compress(#[source] io::Error),
    /// A snapshot was not completed; the next one may be.
    #[error("the snapshot was given up: {reason}")]
    SnapshotAbandoned {
        /// Why.
        reason: &'static str,
    },
    /// A snapshot is being taken already.
    #[error("a snapshot is being taken already")]
    SnapshotRunning,
    /// The journal has ended: it was stopped, or its own error tells.
    #[error("the journal has ended")]
    Closed,
}

/// What a [`JournalError`] means to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something failed; starting again may help.
    Failed,
    /// The store cannot be reached, refuses, or is unfit.
    Store,
    /// Another agent has the archive or the spool.
    Fenced,
    /// The settings do not fit the archive.
    Settings,
}

impl JournalError {
    /// What the error means to the process.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Store(error) if error.is_damage() => Verdict::Failed,
            Self::End(error) if error.is_damage() => Verdict::Failed,
            Self::Store(_) | Self::Unfit { .. } | Self::End(_) => Verdict::Store,
            Self::Fenced(_)
            | Self::Held(_)
            | Self::Unclear { .. }
            | Self::Conflict { .. }
            | Self::SpoolLocked { .. } => Verdict::Fenced,
            Self::Encrypted { .. } | Self::NotEncrypted { .. } => Verdict::Settings,
            Self::OtherSource { .. }
            | Self::Key(_)
            | Self::Damaged { .. }
            | Self::OtherSpool { .. }
            | Self::Spool { .. }
            | Self::SpoolDamaged { .. }
            | Self::Compress(_)
            | Self::SnapshotAbandoned { .. }
            | Self::SnapshotRunning
            | Self::Closed => Verdict::Failed,
        }
    }
}

impl From<CatalogError> for JournalError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Store(error) => Self::Store(error),
            error @ CatalogError::MarkerMissing(_) => Self::Damaged { what: error.to_string() },
            CatalogError::Key(error) => Self::Damaged { what: error.to_string() },
            CatalogError::Absent(place) => Self::Damaged { what: format!("{place} holds no archive any more") },
        }
    }
}

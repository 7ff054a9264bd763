//! What the process says last: its exit status, on which scripts rely, and its error, once.

use std::process::ExitCode;

use redwind_agent::config::ConfigError;
use redwind_agent::error::{AgentError, AgentExit};
use redwind_archive::catalog::CatalogError;
use redwind_archive::chunk::ChunkError;
use redwind_archive::document::DocumentError;
use redwind_archive::keys::{IdentityError, KeyError};
use redwind_archive::plan::PlanError;
use redwind_archive::segment::SegmentError;
use redwind_archive::store::StoreError;
use redwind_link::LinkError;
use redwind_restore::RestoreError;

use crate::settings_file::SettingsError;
use crate::target::TargetError;

/// The exit statuses. Their numbers are a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Done = 0,
    /// Failed, for a reason that has no status of its own.
    Failed = 1,
    /// The command line or the settings make no sense, or the archive is encrypted and the identity is
    /// missing or wrong.
    Usage = 2,
    /// The target lies in a gap, in a blur, or outside every window.
    Unrestorable = 3,
    /// Damage was found in the archive.
    Damage = 4,
    /// The store cannot be reached, refuses, or is unfit.
    Store = 5,
    /// Another agent is the archive's writer, or another process holds the spool.
    Fenced = 6,
    /// The source refuses: user, password, ACL, no PSYNC.
    Source = 7,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Something wrong with the command line that only shows after it was read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(String);

impl UsageError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// The status that an error ends the process with: that of the first cause which has one.
pub(crate) fn status_of(error: &anyhow::Error) -> Status {
    // Whatever could not be opened meets it as the cause of an error of its own.
    if let Some(error) = error.chain().find_map(key_error) {
        return if error.is_damage() { Status::Damage } else { Status::Usage };
    }
    error.chain().find_map(status_of_cause).unwrap_or(Status::Failed)
}

/// The key that a cause lacks: the errors that pass one on show it as themselves.
fn key_error(cause: &(dyn std::error::Error + 'static)) -> Option<KeyError> {
    if let Some(CatalogError::Key(error)) = cause.downcast_ref() {
        return Some(*error);
    }
    if let Some(PlanError::Key(error)) = cause.downcast_ref() {
        return Some(*error);
    }
    if let Some(SegmentError::Key(error)) = cause.downcast_ref() {
        return Some(*error);
    }
    if let Some(ChunkError::Key(error)) = cause.downcast_ref() {
        return Some(*error);
    }
    let boxed = cause.downcast_ref::<Box<DocumentError>>().map(Box::as_ref);
    if let Some(DocumentError::Key(error)) = cause.downcast_ref().or(boxed) {
        return Some(*error);
    }
    cause.downcast_ref::<KeyError>().copied()
}

fn status_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Status> {
    if cause.is::<UsageError>()
        || cause.is::<IdentityError>()
        || cause.is::<SettingsError>()
        || cause.is::<ConfigError>()
    {
        return Some(Status::Usage);
    }
    if let Some(error) = cause.downcast_ref::<TargetError>() {
        // No window reaches into the future.
        return Some(if matches!(error, TargetError::Future(_)) { Status::Unrestorable } else { Status::Usage });
    }
    if let Some(error) = cause.downcast_ref::<AgentError>() {
        return Some(match error.exit() {
            AgentExit::Failed => Status::Failed,
            AgentExit::Usage => Status::Usage,
            AgentExit::Store => Status::Store,
            AgentExit::Fenced => Status::Fenced,
            AgentExit::Source => Status::Source,
        });
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return Some(status_of_store(error));
    }
    match cause.downcast_ref::<CatalogError>() {
        Some(CatalogError::Store(error)) => return Some(status_of_store(error)),
        Some(CatalogError::MarkerMissing(_)) => return Some(Status::Damage),
        // What a key lacks was told before.
        Some(CatalogError::Absent(_) | CatalogError::Key(_)) | None => {}
    }
    if let Some(error) = cause.downcast_ref::<PlanError>() {
        return Some(match error {
            _ if error.is_refusal() => Status::Unrestorable,
            _ if error.is_damage() => Status::Damage,
            _ => Status::Store,
        });
    }
    if let Some(error) = cause.downcast_ref::<RestoreError>() {
        // A server that refuses here is no source, whatever the causes say.
        return Some(match error {
            _ if error.is_damage() => Status::Damage,
            _ if error.is_store() => Status::Store,
            _ => Status::Failed,
        });
    }
    let error = cause.downcast_ref::<LinkError>()?;
    (!error.is_retryable()).then_some(Status::Source)
}

fn status_of_store(error: &StoreError) -> Status {
    if error.is_damage() { Status::Damage } else { Status::Store }
}

/// Says what went wrong, on stderr, and what the process ends with.
#[expect(clippy::print_stderr, reason = "the one place that tells an error to whoever ran the command")]
pub(crate) fn report(error: &anyhow::Error) -> Status {
    eprintln!("error: {}", describe(error));
    status_of(error)
}

/// An error with its causes on one line. A cause that the text before it repeats is left out, since
/// errors of other crates often end with that of their cause.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let one_line =
        |cause: &(dyn std::error::Error + 'static)| cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    error.chain().map(one_line).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        _ if text.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use redwind_archive::keys::RewrapError;

    fn link_error(text: &str) -> LinkError {
        LinkError::from_server(&[b"PSYNC"], text.as_bytes())
    }

    #[test]
    fn the_cause_decides_on_the_status() {
        let refused = anyhow::Error::from(link_error("NOPERM no")).context("cannot follow the source");
        assert_eq!(status_of(&refused), Status::Source);
        assert_eq!(status_of(&link_error("LOADING").into()), Status::Failed);
        assert_eq!(status_of(&UsageError::new("no").into()), Status::Usage);
        assert_eq!(status_of(&anyhow::anyhow!("anything else")), Status::Failed);
        let url = "file:///nowhere/at/all".parse().unwrap();
        let unfit = redwind_archive::store::Store::open(&url).unwrap_err();
        assert_eq!(status_of(&unfit.into()), Status::Store);
    }

    #[test]
    fn what_keeps_keys_from_being_wrapped_has_its_own_status() {
        let url = "file:///nowhere/at/all".parse().unwrap();
        let unfit = redwind_archive::store::Store::open(&url).unwrap_err();
        assert_eq!(status_of(&RewrapError::from(unfit).into()), Status::Store);
        assert_eq!(status_of(&RewrapError::from(IdentityError::TooManyRecipients).into()), Status::Usage);
    }

    #[test]
    fn the_numbers_are_those_promised() {
        let numbers = [
            Status::Done,
            Status::Failed,
            Status::Usage,
            Status::Unrestorable,
            Status::Damage,
            Status::Store,
            Status::Fenced,
            Status::Source,
        ]
        .map(|status| status as u8);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_chain_is_told_once() {
        let inner: Result<(), _> = Err(anyhow::anyhow!("refused\n  by the peer"));
        let error = inner.context("cannot connect: refused by the peer").context("cannot restore").unwrap_err();
        assert_eq!(describe(&error), "cannot restore: cannot connect: refused by the peer");
    }
}

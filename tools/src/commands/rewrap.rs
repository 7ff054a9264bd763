//! `redwind rewrap`: let further recipients read what is in an archive already.

use std::io::Write as _;

use redwind_archive::audit::{self, AuditEntry, AuditEvent};
use redwind_archive::catalog::Catalog;
use redwind_archive::keys::{KeyError, rewrap};

use crate::archive_args::ArchiveArgs;
use crate::exit::{Status, UsageError};
use crate::key_args::{ArchiveIdentityArgs, RecipientArgs};

/// Let further recipients read what has been encrypted so far, without writing it anew
///
/// Wraps the archive's data keys, as far as the identities open them, to the recipients, beside the
/// wrappings there are. Takes nothing from those who could read it before. The agent needs its own
/// --recipient to encrypt to them what it writes from its next start on.
#[derive(clap::Args)]
pub(crate) struct RewrapArgs {
    #[command(flatten)]
    archive: ArchiveArgs,

    #[command(flatten)]
    identity: ArchiveIdentityArgs,

    #[command(flatten)]
    recipients: RecipientArgs,
}

pub(crate) async fn run(args: RewrapArgs) -> anyhow::Result<Status> {
    let (identities, recipients) = (args.identity.identities()?, args.recipients.recipients()?);
    if identities.is_empty() {
        return Err(UsageError::new("nothing to open the keys with: give --identity-file FILE").into());
    }
    if recipients.is_empty() {
        return Err(UsageError::new("nobody to wrap the keys to: give --recipient or --recipients-file").into());
    }
    let store = args.archive.open().await?;
    let catalog = Catalog::open(&store, &identities).await?;
    let (open, closed) = catalog.keys.epochs();
    let epochs = open.len() as u64;
    let event = AuditEvent::Rewrap { recipients: recipients.texts(), epochs };
    // First, so that nobody can be let in without an entry.
    audit::put(&store, &AuditEntry::now(catalog.marker.archive, event)).await?;
    rewrap(&store, &catalog.keys, &recipients).await?;
    writeln!(std::io::stdout().lock(), "source {}: the keys of {epochs} epochs are wrapped to them", store.name())?;
    match closed.first() {
        Some(epoch) => Err(KeyError::Locked(*epoch).into()),
        None => Ok(Status::Done),
    }
}

//! The options that say who can read an encrypted archive, and as whom it is read.

use std::path::PathBuf;

use redwind_archive::keys::{Identities, IdentityError, Recipients};

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct RecipientArgs {
    /// An age recipient (age1…) to encrypt to; repeat it, or separate several with commas
    ///
    /// The identity of any one of them opens what was encrypted to it; `redwind keygen` makes both. Only a
    /// new archive can begin to be encrypted, and it stays so.
    #[arg(long, value_name = "RECIPIENT", value_delimiter = ',')]
    recipient: Vec<String>,

    /// A file of recipients, one on a line, as `age -R` takes it; repeat it, or use commas
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    recipients_file: Vec<PathBuf>,
}

impl RecipientArgs {
    pub(crate) fn recipients(&self) -> Result<Recipients, IdentityError> {
        let mut recipients = Recipients::default();
        self.recipient.iter().try_for_each(|text| recipients.add(text))?;
        self.recipients_file.iter().try_for_each(|path| recipients.add_file(path))?;
        Ok(recipients)
    }
}

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct ArchiveIdentityArgs {
    /// A file with an age identity that opens the encrypted archive; repeat it, or use commas
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    identity_file: Vec<PathBuf>,
}

impl ArchiveIdentityArgs {
    pub(crate) fn identities(&self) -> Result<Identities, IdentityError> {
        let mut identities = Identities::none();
        self.identity_file.iter().try_for_each(|path| identities.add_file(path))?;
        Ok(identities)
    }
}

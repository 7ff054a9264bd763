//! Giving more recipients what was encrypted before they were known.

use super::error::IdentityError;
use super::identity::Recipients;
use super::keyring::Keyring;
use crate::layout::ObjectName;
use crate::store::{SourceStore, StoreError};

/// Why keys could not be wrapped to further recipients.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// They cannot be encrypted.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts another wrapping beside those there are, for every epoch in the keyring: nothing that was
/// encrypted is written anew, and nothing is taken from those who could open it before. Tells for how
/// many epochs.
///
/// # Errors
/// When a key cannot be wrapped or put; those before it have been.
pub async fn rewrap(store: &SourceStore, keys: &Keyring, recipients: &Recipients) -> Result<u64, RewrapError> {
    let mut wrapped = 0;
    for epoch in keys.epochs().0 {
        let (name, object) = epoch.wrap(recipients)?;
        // The name is the object's own checksum: whatever has it already is the same.
        store.put_new(&ObjectName::Key(name), object.into()).await?;
        wrapped += 1;
    }
    Ok(wrapped)
}

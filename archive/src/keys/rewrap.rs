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
    #[error("cannot wrap the keys")]
    Identity(#[from] IdentityError),
    /// The store failed.
    #[error("cannot store the wrapped keys")]
    Store(#[from] StoreError),
}

/// Puts another wrapping beside those there are, for every epoch in the keyring: nothing that was
/// encrypted is written anew, and nothing is taken from those who could open it before. Of an epoch that
/// has several data keys all are wrapped, because one of them is the writer's.
///
/// # Errors
/// When a key cannot be wrapped or put; those before it have been.
pub async fn rewrap(store: &SourceStore, keys: &Keyring, recipients: &Recipients) -> Result<(), RewrapError> {
    for epoch in keys.epochs().0.into_iter().flatten() {
        let (name, object) = epoch.wrap(recipients)?;
        // The name is the object's own checksum: whatever has it already is the same.
        store.put_new(&ObjectName::Key(name), object.into()).await?;
    }
    Ok(())
}

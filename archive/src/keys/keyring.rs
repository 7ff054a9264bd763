//! What a reader can open, and how keys come into the archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use ulid::Ulid;

use super::epoch::{Epoch, EpochId};
use super::error::KeyError;
use super::identity::Identities;
use super::wrapping::{KEY_OBJECT_BYTES_MAX, KeyName, Unopened};
use crate::concurrent;
use crate::layout::{Folder, ObjectName};
use crate::store::{SourceStore, StoreError};

/// What a reader can open; every function that reads objects takes one, and refuses what is not as the
/// archive should be: a plain object in an encrypted archive, or the reverse.
#[derive(Clone, Debug)]
pub enum Keyring {
    /// The archive is not encrypted.
    Plain,
    /// It is, and nothing can be opened: contents stay as they are, what is in the clear is read.
    Closed,
    /// It is, and some of it can be opened. What cannot is refused.
    Open(Arc<BTreeMap<EpochId, Slot>>),
    /// It is, and some of it can be opened. What cannot stays as it is.
    Partly(Arc<BTreeMap<EpochId, Slot>>),
}

/// What is known of an epoch's key.
#[derive(Clone, Debug)]
pub enum Slot {
    /// It is there. There is more than one where somebody has put a key of their own beside the writer's:
    /// what was written under the epoch shows which is which.
    Open(Vec<Arc<Epoch>>),
    /// It is wrapped to others.
    Locked,
    /// Nothing that is sound holds it.
    Damaged,
}

impl Keyring {
    /// For whoever has no identity.
    #[must_use]
    pub fn closed(encrypted: bool) -> Self {
        if encrypted { Self::Closed } else { Self::Plain }
    }

    /// A keyring that holds these epochs alone.
    #[must_use]
    pub fn holding(epochs: impl IntoIterator<Item = Arc<Epoch>>) -> Self {
        Self::Open(Arc::new(epochs.into_iter().map(|epoch| (epoch.id(), Slot::Open(vec![epoch]))).collect()))
    }

    /// Opens what the identities open. Takes a listing and a small read per key object; none for whoever
    /// has no identity.
    ///
    /// # Errors
    /// As [`of`](Self::of), or when the store cannot be read.
    pub(crate) async fn unlock(
        store: &SourceStore,
        archive: Ulid,
        encrypted: bool,
        identities: &Identities,
    ) -> Result<Self, UnlockError> {
        let is_needed = encrypted && !identities.is_empty();
        let keys = if is_needed { read_keys(store, archive, identities).await? } else { Vec::new() };
        Ok(Self::of(encrypted, identities, &keys)?)
    }

    /// What these identities have opened.
    ///
    /// # Errors
    /// When they open nothing of an archive that has keys, or the archive is not encrypted although there
    /// are identities.
    pub(crate) fn of(encrypted: bool, identities: &Identities, keys: &[WrappedKey]) -> Result<Self, KeyError> {
        match (encrypted, identities.is_empty()) {
            (_, true) => return Ok(Self::closed(encrypted)),
            (false, false) => return Err(KeyError::NotEncrypted),
            (true, false) => {}
        }
        let mut slots: BTreeMap<EpochId, Slot> = BTreeMap::new();
        for key in keys {
            slots.entry(key.name.epoch).or_insert(Slot::Damaged).add(&key.opened);
        }
        if !slots.is_empty() && slots.values().all(|slot| matches!(slot, Slot::Locked)) {
            return Err(KeyError::WrongIdentity { epochs: slots.len() });
        }
        Ok(Self::Open(Arc::new(slots)))
    }

    /// The same for whoever wants to see all that can be seen, such as one who verifies.
    #[must_use]
    pub fn lenient(self) -> Self {
        match self {
            Self::Open(slots) => Self::Partly(slots),
            other => other,
        }
    }

    /// Whether the archive is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Whether contents can be read, as far as keys go.
    ///
    /// # Errors
    /// [`KeyError::NoIdentity`] when nothing can be opened.
    pub fn check_open(&self) -> Result<(), KeyError> {
        if matches!(self, Self::Closed) { Err(KeyError::NoIdentity) } else { Ok(()) }
    }

    /// The data keys of each epoch that can be opened, oldest first, and the epochs that cannot.
    #[must_use]
    pub fn epochs(&self) -> (Vec<&[Arc<Epoch>]>, Vec<EpochId>) {
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        let (Self::Open(slots) | Self::Partly(slots)) = self else { return (open, closed) };
        for (id, slot) in slots.iter() {
            match slot {
                Slot::Open(keys) => open.push(keys.as_slice()),
                Slot::Locked | Slot::Damaged => closed.push(*id),
            }
        }
        (open, closed)
    }

    /// An epoch's data keys, of which the one with which an object is right is the writer's; none where
    /// what cannot be opened stays as it is.
    ///
    /// # Errors
    /// When the epoch is not among those that the identities open.
    pub(crate) fn data_keys(&self, id: EpochId) -> Result<&[Arc<Epoch>], KeyError> {
        let (slots, lenient) = match self {
            Self::Open(slots) => (slots, false),
            Self::Partly(slots) => (slots, true),
            Self::Plain | Self::Closed => return Ok(&[]),
        };
        match slots.get(&id) {
            Some(Slot::Open(keys)) => Ok(keys),
            _ if lenient => Ok(&[]),
            Some(Slot::Locked) => Err(KeyError::Locked(id)),
            Some(Slot::Damaged) => Err(KeyError::Damaged(id)),
            None => Err(KeyError::Missing(id)),
        }
    }
}

impl Slot {
    /// Takes in what came of one of the epoch's key objects.
    fn add(&mut self, opened: &Result<Arc<Epoch>, Unopened>) {
        match (self, opened) {
            (Self::Open(known), Ok(key)) => {
                if !known.iter().any(|known| known.is_same(key)) {
                    known.push(Arc::clone(key));
                }
            }
            (slot, Ok(key)) => *slot = Self::Open(vec![Arc::clone(key)]),
            (slot @ Self::Damaged, Err(Unopened::Locked)) => *slot = Self::Locked,
            (_, Err(_)) => {}
        }
    }
}

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The identities do not fit the archive.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A wrapped key as it lies in the archive, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct WrappedKey {
    pub(crate) name: KeyName,
    /// Length of its object.
    pub(crate) bytes: u64,
    pub(crate) opened: Result<Arc<Epoch>, Unopened>,
}

/// Reads every wrapped key of an archive, in the order of their names, and opens what the identities open.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn read_keys(
    store: &SourceStore,
    archive: Ulid,
    identities: &Identities,
) -> Result<Vec<WrappedKey>, StoreError> {
    let listed = store.list(&Folder::Keys).await?;
    let mut names: Vec<(KeyName, u64)> = listed
        .into_iter()
        .filter_map(|(name, bytes)| match name {
            ObjectName::Key(name) => Some((name, bytes)),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    let read = |(name, bytes): (KeyName, u64)| async move {
        let opened = if bytes > KEY_OBJECT_BYTES_MAX {
            Err(Unopened::TooLong)
        } else {
            name.open(&store.get(&ObjectName::Key(name)).await?, archive, identities).map(Arc::new)
        };
        Ok(WrappedKey { name, bytes, opened })
    };
    concurrent::all(names.into_iter().map(|key| read(key).boxed()).collect()).await
}

//! What a reader can open, and how keys come into the archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use ulid::Ulid;

use super::epoch::{Epoch, EpochId};
use super::error::KeyError;
use super::identity::Identities;
use super::wrapping::{self, KeyName, Unopened};
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
    /// It is there.
    Open(Arc<Epoch>),
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
        Self::Open(Arc::new(epochs.into_iter().map(|epoch| (epoch.id(), Slot::Open(epoch))).collect()))
    }

    /// Opens what the identities open. Takes a listing and a small read per epoch.
    ///
    /// # Errors
    /// [`UnlockError::Key`] when they open nothing of an archive that has keys, or the archive is not
    /// encrypted although there are identities; or when the store cannot be read.
    pub(crate) async fn unlock(
        store: &SourceStore,
        archive: Ulid,
        encrypted: bool,
        identities: &Identities,
    ) -> Result<Self, UnlockError> {
        match (encrypted, identities.is_empty()) {
            (_, true) => return Ok(Self::closed(encrypted)),
            (false, false) => return Err(KeyError::NotEncrypted.into()),
            (true, false) => {}
        }
        let mut slots: BTreeMap<EpochId, Slot> = BTreeMap::new();
        for wrapping in wrappings(store).await? {
            let slot = match wrapping.open(archive, identities) {
                Ok(epoch) => Slot::Open(Arc::new(epoch)),
                Err(Unopened::Locked) => Slot::Locked,
                Err(Unopened::Damaged) => Slot::Damaged,
            };
            let better = |known: &Slot| slot.rank() > known.rank();
            if slots.get(&wrapping.name.epoch).is_none_or(better) {
                slots.insert(wrapping.name.epoch, slot);
            }
        }
        if !slots.is_empty() && slots.values().all(|slot| matches!(slot, Slot::Locked)) {
            return Err(KeyError::WrongIdentity { epochs: slots.len() }.into());
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

    /// The epochs that can be opened, oldest first, and those that cannot.
    #[must_use]
    pub fn epochs(&self) -> (Vec<Arc<Epoch>>, Vec<EpochId>) {
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        let (Self::Open(slots) | Self::Partly(slots)) = self else { return (open, closed) };
        for (id, slot) in slots.iter() {
            match slot {
                Slot::Open(epoch) => open.push(Arc::clone(epoch)),
                Slot::Locked | Slot::Damaged => closed.push(*id),
            }
        }
        (open, closed)
    }

    /// An epoch's key; `None` where what cannot be opened stays as it is.
    ///
    /// # Errors
    /// When the epoch is not among those that the identities open.
    pub(crate) fn epoch(&self, id: EpochId) -> Result<Option<&Epoch>, KeyError> {
        let (slots, lenient) = match self {
            Self::Open(slots) => (slots, false),
            Self::Partly(slots) => (slots, true),
            Self::Plain | Self::Closed => return Ok(None),
        };
        match slots.get(&id) {
            Some(Slot::Open(epoch)) => Ok(Some(epoch)),
            _ if lenient => Ok(None),
            Some(Slot::Locked) => Err(KeyError::Locked(id)),
            Some(Slot::Damaged) => Err(KeyError::Damaged(id)),
            None => Err(KeyError::Missing(id)),
        }
    }
}

impl Slot {
    fn rank(&self) -> u8 {
        match self {
            Self::Damaged => 0,
            Self::Locked => 1,
            Self::Open(_) => 2,
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

/// A wrapped key as it lies in the archive.
#[derive(Clone, Debug)]
pub struct Wrapping {
    /// Its name.
    pub name: KeyName,
    /// An age file, if it is sound.
    pub object: Bytes,
}

impl Wrapping {
    /// Opens it, as a key of this archive.
    ///
    /// # Errors
    /// [`Unopened`] when none of the identities gives the key of its epoch.
    pub fn open(&self, archive: Ulid, identities: &Identities) -> Result<Epoch, Unopened> {
        wrapping::open(self.name, &self.object, archive, identities)
    }
}

/// Every wrapped key of an archive.
///
/// # Errors
/// When the store cannot be read.
pub async fn wrappings(store: &SourceStore) -> Result<Vec<Wrapping>, StoreError> {
    let listed = store.list(&Folder::Keys).await?;
    let names = listed.into_iter().filter_map(|(name, _)| match name {
        ObjectName::Key(name) => Some(name),
        _ => None,
    });
    let read = |name| async move { Ok(Wrapping { name, object: store.get(&ObjectName::Key(name)).await? }) };
    concurrent::all(names.map(|name| read(name).boxed()).collect()).await
}

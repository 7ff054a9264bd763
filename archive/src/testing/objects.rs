//! A set of objects that a test can change as it likes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use object_store::memory::InMemory;

use super::source_name;
use crate::document::{self, Document};
use crate::keys::Epoch;
use crate::layout::ObjectName;
use crate::store::{SourceStore, Store, StoreError};

/// The objects of one source's archive, shared by everybody who writes them.
#[derive(Clone, Debug, Default)]
pub struct Objects(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Objects {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts or replaces an object.
    pub fn put(&self, name: impl ToString, bytes: impl Into<Bytes>) {
        self.lock().insert(name.to_string(), bytes.into());
    }

    /// Puts a document.
    pub fn put_document<D: Document>(&self, name: &ObjectName, document: &D) {
        self.put(name, document::encode(document));
    }

    /// Puts a document that steers a restore.
    pub fn put_signed<D: Document>(&self, name: &ObjectName, document: &D, epoch: Option<&Epoch>) {
        self.put(name, document::encode_signed(document, name, epoch));
    }

    /// Removes an object.
    ///
    /// # Panics
    /// If there is none: a mistake in the test.
    pub fn remove(&self, name: impl ToString) -> Bytes {
        let name = name.to_string();
        self.lock().remove(&name).unwrap_or_else(|| panic!("{name} is not there to be removed"))
    }

    /// Removes every object whose name begins so.
    pub fn remove_all(&self, prefix: &str) {
        self.lock().retain(|name, _| !name.starts_with(prefix));
    }

    /// Every name below the source's folder, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The bytes of an object.
    ///
    /// # Panics
    /// If there is none: a mistake in the test.
    #[must_use]
    pub fn get(&self, name: &str) -> Bytes {
        self.lock().get(name).cloned().unwrap_or_else(|| panic!("{name} is not there"))
    }

    /// An independent copy.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// A store in memory that holds them as the archive of the source `default`.
    ///
    /// # Errors
    /// When a name is not one of the archive's, so that it could not be put.
    pub async fn store(&self) -> Result<SourceStore, StoreError> {
        let store = Store::over(Arc::new(InMemory::new()), "memory://").source(&source_name());
        let objects = self.lock().clone();
        for (name, bytes) in objects {
            let name = ObjectName::parse(&name).unwrap_or_else(|| panic!("{name} is no object's name"));
            store.put_new(&name, bytes).await?;
        }
        Ok(store)
    }

    /// Writes them as files below a folder, as a `file://` store does.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        for (name, bytes) in self.lock().iter() {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, bytes)?;
        }
        Ok(())
    }
}

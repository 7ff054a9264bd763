//! Signs of life, and the store's own clock.
//!
//! The two objects below `sign/` are the only ones that are overwritten. They are hints: a lost, late
//! or forged one makes an agent wait, or take over sooner than it should, which the term makes safe.
//!
//! When something was put is told by the store, in its own time: two hosts' clocks are never compared.

use object_store::{ObjectStoreExt, PutPayload};

use super::{Operation, SourceStore, StoreError, measured};
use crate::document::{self, Document};
use crate::layout::{Folder, ObjectName, Sign};
use crate::time::Timestamp;

impl SourceStore {
    /// Gives a sign of life, in place of the one before.
    ///
    /// # Errors
    /// When the store refuses or cannot be reached.
    pub async fn give_sign<D: Document>(&self, sign: Sign, document: &D) -> Result<(), StoreError> {
        let path = self.path(&ObjectName::Sign(sign).to_string());
        let payload = PutPayload::from(document::encode(document));
        let length = payload.content_length() as u64;
        measured(Operation::Put, self.client.put(&path, payload))
            .await
            .map_err(|source| self.error(Operation::Put, &path, source))?;
        metrics::counter!("redwind_store_written_bytes_total").increment(length);
        Ok(())
    }

    /// When an object was last put, by the store's clock; `None` when it is absent. Stores tell whole
    /// seconds, or better.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn put_time(&self, name: &ObjectName) -> Result<Option<Timestamp>, StoreError> {
        let path = self.path(&name.to_string());
        match measured(Operation::Head, self.client.head(&path)).await {
            Ok(meta) => Ok(Some(timestamp(&meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.error(Operation::Head, &path, source)),
        }
    }

    /// The objects of a folder with the times at which they were last put, by the store's clock, in no
    /// order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn put_times(&self, folder: &Folder) -> Result<Vec<(ObjectName, Timestamp)>, StoreError> {
        let listing = self.list_folder(folder).await?;
        let ours = listing.objects.iter().filter_map(|meta| Some((self.name_of(&meta.location)?, timestamp(meta))));
        Ok(ours.collect())
    }
}

fn timestamp(meta: &object_store::ObjectMeta) -> Timestamp {
    Timestamp(u64::try_from(meta.last_modified.timestamp_micros()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use ulid::Ulid;

    use super::*;
    use crate::documents::{HolderSign, HolderState};
    use crate::position::Term;
    use crate::store::Store;

    fn sign(count: u64) -> HolderSign {
        let (term, writer, given) = (Term(1), Ulid(7), Timestamp(5));
        HolderSign { term, writer, count, given, state: HolderState::Writing }
    }

    async fn a_sign_replaces_the_one_before(store: SourceStore) {
        let name = ObjectName::Sign(Sign::Holder);
        assert_eq!(store.put_time(&name).await.unwrap(), None);
        assert!(store.put_times(&Folder::Signs).await.unwrap().is_empty());
        store.give_sign(Sign::Holder, &sign(1)).await.unwrap();
        let first = store.put_time(&name).await.unwrap().unwrap();
        store.give_sign(Sign::Holder, &sign(2)).await.unwrap();
        assert_eq!(store.get_document::<HolderSign>(&name).await.unwrap(), sign(2));
        let listed = store.put_times(&Folder::Signs).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].0 == name && listed[0].1 >= first, "{listed:?}");
    }

    #[tokio::test]
    async fn signs_are_overwritten_in_memory_and_on_disk() {
        let name = "default".parse().unwrap();
        a_sign_replaces_the_one_before(Store::over(Arc::new(InMemory::new()), "memory://").source(&name)).await;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display()).parse().unwrap();
        a_sign_replaces_the_one_before(Store::create(&url).unwrap().source(&name)).await;
    }
}

//! What an archive holds, learned from a handful of listings.
//!
//! Opening a catalog takes one listing each of the histories, the pages and the manifests, and one
//! small read per history: it does not grow with the number of segments, because pages are named so
//! that they tell where and when they begin. Segments are listed page by page, when a plan needs
//! them.

mod log;
mod summary;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::documents::{HistoryStart, Manifest, Marker};
use crate::layout::{Folder, ManifestName, ObjectName, PageName};
use crate::position::{HistoryId, Offset};
use crate::store::{SourceStore, StoreError};

pub use log::{HistoryLog, Hole, Run};
pub use summary::{Blur, Gap, SnapshotSummary, Summary, Window};

/// Small reads of the catalog that are under way at once.
const READS_AT_ONCE: usize = 16;

/// Why an archive could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is none.
    #[error("there is no archive at {0}: no agent has written there yet, or --store or --name is wrong")]
    Absent(String),
    /// The store failed, or a document is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one source's archive holds.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The archive's own document.
    pub marker: Marker,
    /// Its histories, oldest first.
    pub histories: Vec<HistoryLog>,
}

impl Catalog {
    /// Reads what the archive holds.
    ///
    /// # Errors
    /// When there is no archive, the store cannot be read, or a history's document is damaged.
    pub async fn open(store: &SourceStore) -> Result<Self, CatalogError> {
        let marker = store
            .find_document::<Marker>(&ObjectName::Marker)
            .await?
            .ok_or_else(|| CatalogError::Absent(store.to_string()))?;
        let (pages, manifests, starts) =
            futures::try_join!(store.pages(), list_manifests(store), read_histories(store))?;
        Ok(Self { marker, histories: assemble(starts, &pages, &manifests) })
    }

    /// The history with that id.
    #[must_use]
    pub fn history(&self, id: HistoryId) -> Option<&HistoryLog> {
        self.histories.iter().find(|history| history.start.history == id)
    }

    /// The history that follows on `id`: the one whose document names it as predecessor.
    #[must_use]
    pub fn successor(&self, id: HistoryId) -> Option<&HistoryLog> {
        let follows = |log: &&HistoryLog| log.start.predecessor.is_some_and(|position| position.history == id);
        self.histories.iter().find(follows)
    }

    /// Reads the manifest of a snapshot.
    ///
    /// # Errors
    /// When it is absent or damaged, or the store cannot be read.
    pub async fn manifest(&self, store: &SourceStore, name: &ManifestName) -> Result<Manifest, StoreError> {
        store.get_document(&ObjectName::Manifest(name.clone())).await
    }
}

async fn list_manifests(store: &SourceStore) -> Result<Vec<ManifestName>, StoreError> {
    let listed = store.list(&Folder::Manifests).await?;
    let manifest = |(name, _)| match name {
        ObjectName::Manifest(manifest) => Some(manifest),
        _ => None,
    };
    Ok(listed.into_iter().filter_map(manifest).collect())
}

async fn read_histories(store: &SourceStore) -> Result<Vec<HistoryStart>, StoreError> {
    let mut names: Vec<ObjectName> = store.list(&Folder::Histories).await?.into_iter().map(|(name, _)| name).collect();
    names.sort_by_key(ToString::to_string);
    stream::iter(names)
        .map(|name| async move { store.get_document(&name).await })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await
}

fn assemble(mut starts: Vec<HistoryStart>, pages: &[PageName], manifests: &[ManifestName]) -> Vec<HistoryLog> {
    starts.sort_by_key(|start| (start.term, start.history));
    let void_after = |id: HistoryId| -> Option<Offset> {
        let ends = starts.iter().filter_map(|start| start.predecessor);
        ends.filter(|end| end.history == id).map(|end| end.offset).min()
    };
    let ends: Vec<Option<Offset>> = starts.iter().map(|start| void_after(start.history)).collect();
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| {
            let of_history = |page: &&PageName| page.history == start.history;
            let mut snapshots: Vec<ManifestName> =
                manifests.iter().filter(|manifest| manifest.history == start.history).cloned().collect();
            snapshots.sort_by_key(|manifest| (manifest.offset, manifest.time));
            HistoryLog::new(start.clone(), pages.iter().filter(of_history).cloned().collect(), snapshots, end)
        })
        .collect()
}

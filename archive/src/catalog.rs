//! What an archive holds, learned from a handful of listings.
//!
//! Opening a catalog takes one listing each of the histories, the pages and the manifests, and one
//! small read per history: it does not grow with the number of segments, because pages are named so
//! that they tell where and when they begin. Segments are listed page by page, when a plan needs
//! them.

mod holes;
mod log;
mod lost;
mod summary;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;

use crate::concurrent;
use crate::document::{DocumentError, Signed};
use crate::documents::{HistoryStart, Manifest, Marker};
use crate::keys::{Identities, KeyError, Keyring, UnlockError};
use crate::layout::{Folder, ManifestName, ObjectName, PageName};
use crate::position::{HistoryId, Term};
use crate::store::{SourceStore, StoreError};

pub use log::{Closure, HistoryLog, Run};
pub use lost::LostHistory;
pub use summary::{Blur, Gap, LockedHistory, SnapshotSummary, Summary, Window};

/// Why an archive could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is none.
    #[error("there is no archive at {0}: no agent has written there yet, or --store or --name is wrong")]
    Absent(String),
    /// There are objects of an archive, but not the one that says which.
    #[error(
        "{0} is missing although agents have written here: without it nothing can be told to belong to this archive; \
         put it back from a copy or an older version in the bucket"
    )]
    MarkerMissing(String),
    /// It cannot be opened with these identities, or has nothing to be opened.
    #[error(transparent)]
    Key(KeyError),
    /// The store failed, or a document is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<UnlockError> for CatalogError {
    fn from(error: UnlockError) -> Self {
        match error {
            UnlockError::Key(error) => Self::Key(error),
            UnlockError::Store(error) => Self::Store(error),
        }
    }
}

/// What one source's archive holds.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The archive's own document.
    pub marker: Marker,
    /// What of it can be opened.
    pub keys: Keyring,
    /// Its histories, oldest first: the last is the one that was written to last.
    pub histories: Vec<HistoryLog>,
    /// Histories whose document is lost, or locked to others; nothing of them can be restored.
    pub lost: Vec<LostHistory>,
}

impl Catalog {
    /// Reads what the archive holds. Whoever has no identity sees it too, and opens nothing.
    ///
    /// # Errors
    /// When there is no archive, the identities do not fit it, its own document is damaged or missing, or the store cannot be read.
    pub async fn open(store: &SourceStore, identities: &Identities) -> Result<Self, CatalogError> {
        let marker = read_marker(store).await?;
        let keys = Keyring::unlock(store, marker.archive, marker.encrypted, identities).await?;
        let (pages, manifests, mut spoken_of) =
            futures::try_join!(store.pages(), list_manifests(store), list_histories(store))?;
        spoken_of.extend(pages.iter().map(|page| page.history));
        spoken_of.extend(manifests.iter().map(|manifest| manifest.history));
        let read = spoken_of.into_iter().map(|history| find_history(store, &keys, history).boxed()).collect();
        let (mut starts, mut lost) = (Vec::new(), Vec::new());
        for (history, found) in concurrent::all(read).await? {
            match found {
                Ok(start) => starts.push(start),
                Err(error) => lost.push(LostHistory::new(history, Arc::new(error), &pages, &manifests)),
            }
        }
        Ok(Self { lost, ..Self::assemble(marker, keys, starts, &pages, &manifests) })
    }

    /// Puts a catalog together from what has been read and listed; `pages` in order of term and number.
    pub(crate) fn assemble(
        marker: Marker,
        keys: Keyring,
        starts: Vec<HistoryStart>,
        pages: &[PageName],
        manifests: &[ManifestName],
    ) -> Self {
        Self { marker, keys, histories: assemble(starts, pages, manifests), lost: Vec::new() }
    }

    /// The history with that id.
    #[must_use]
    pub fn history(&self, id: HistoryId) -> Option<&HistoryLog> {
        self.histories.iter().find(|history| history.start.history == id)
    }

    /// Reads the manifest of a snapshot.
    ///
    /// # Errors
    /// When it is absent, damaged, or another than its name says, or the store cannot be read.
    pub async fn manifest(&self, store: &SourceStore, name: &ManifestName) -> Result<Manifest, StoreError> {
        Ok(self.signed_manifest(store, name).await?.document)
    }

    /// As [`manifest`](Self::manifest), and tells who vouches for it.
    pub(crate) async fn signed_manifest(
        &self,
        store: &SourceStore,
        name: &ManifestName,
    ) -> Result<Signed<Manifest>, StoreError> {
        let object = ObjectName::Manifest(name.clone());
        let signed: Signed<Manifest> = store.get_signed(&object, &self.keys).await?;
        let manifest = &signed.document;
        if (manifest.archive, &manifest.name()) == (self.marker.archive, name) {
            return Ok(signed);
        }
        let belongs = format!("snapshot {} of archive {}", manifest.name(), manifest.archive);
        Err(store.damaged(&object, DocumentError::Misplaced { belongs }))
    }
}

/// Reads the archive's own document.
///
/// # Errors
/// When there is no archive, the document is damaged or missing, or the store cannot be read.
pub async fn read_marker(store: &SourceStore) -> Result<Marker, CatalogError> {
    find_marker(store).await?.ok_or_else(|| CatalogError::Absent(store.to_string()))
}

/// As [`read_marker`]; `None` where no agent has written yet.
///
/// # Errors
/// When the document is damaged or missing, or the store cannot be read.
pub async fn find_marker(store: &SourceStore) -> Result<Option<Marker>, CatalogError> {
    match store.find_document(&ObjectName::Marker).await? {
        None if store.is_claimed().await? => Err(CatalogError::MarkerMissing(store.describe(&ObjectName::Marker))),
        found => Ok(found),
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

async fn list_histories(store: &SourceStore) -> Result<BTreeSet<HistoryId>, StoreError> {
    let listed = store.list(&Folder::Histories).await?;
    let history = |(name, _)| match name {
        ObjectName::History(history) => Some(history),
        _ => None,
    };
    Ok(listed.into_iter().filter_map(history).collect())
}

/// A history's document, or why it is lost.
type Found = (HistoryId, Result<HistoryStart, StoreError>);

async fn find_history(store: &SourceStore, keys: &Keyring, history: HistoryId) -> Result<Found, StoreError> {
    match read_history(store, keys, history).await {
        Err(error) if error.is_newer() || !error.is_loss() => Err(error),
        found => Ok((history, found.map(|signed| signed.document))),
    }
}

/// Reads the document of a history.
///
/// # Errors
/// When it is absent, damaged, or another's, or the store cannot be read.
pub(crate) async fn read_history(
    store: &SourceStore,
    keys: &Keyring,
    history: HistoryId,
) -> Result<Signed<HistoryStart>, StoreError> {
    let object = ObjectName::History(history);
    let signed: Signed<HistoryStart> = store.get_signed(&object, keys).await?;
    let belongs = signed.document.history;
    if belongs == history {
        return Ok(signed);
    }
    Err(store.damaged(&object, DocumentError::Misplaced { belongs: format!("history {belongs}") }))
}

/// Puts the histories together, in the order in which they were last written to: that of their
/// documents' terms alone would be wrong, because a writer that has been fenced may still put one,
/// of its old term, while its successor continues the history before.
fn assemble(starts: Vec<HistoryStart>, pages: &[PageName], manifests: &[ManifestName]) -> Vec<HistoryLog> {
    let begun: BTreeSet<(Term, u32)> = pages.iter().map(|page| (page.term, page.number)).collect();
    let mut histories: Vec<HistoryLog> = starts
        .into_iter()
        .map(|start| {
            let of_history = pages.iter().filter(|page| page.history == start.history).cloned().collect();
            let mut snapshots: Vec<ManifestName> =
                manifests.iter().filter(|manifest| manifest.history == start.history).cloned().collect();
            snapshots.sort_by_key(|manifest| (manifest.offset, manifest.time));
            HistoryLog::new(start, of_history, &begun, snapshots)
        })
        .collect();
    histories.sort_by_key(|log| (log.last_term(), log.start.history));
    for index in 0..histories.len() {
        let (before, after) = histories.split_at_mut(index);
        let Some(successor) = after.first() else { break };
        let Some(predecessor) = successor.start.predecessor else { continue };
        // A later history's word replaces an earlier one's, and what a newer term has continued was
        // not ended by an older one: such a history would not come after its predecessor.
        if let Some(log) = before.iter_mut().find(|log| log.start.history == predecessor.history)
            && log.last_term() <= successor.start.term
        {
            log.closed = Some(Closure {
                at: predecessor.offset,
                complete_until: successor.start.predecessor_complete_until,
                by: successor.start.history,
            });
        }
    }
    histories
}

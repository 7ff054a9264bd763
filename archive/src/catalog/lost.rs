//! Histories of which only names are left: their document is missing or damaged, or signed under an epoch
//! that is locked to whoever reads.

use std::sync::Arc;

use crate::keys::EpochId;
use crate::layout::{ManifestName, PageName};
use crate::position::{HistoryId, Term};
use crate::store::StoreError;

/// A history whose document cannot be read, though there are pages or snapshots of it, or the damaged
/// document. Where it begins and what it followed is not known, so that nothing of it is restored;
/// and where it may be what was asked for, nothing else is restored in its place.
#[derive(Clone, Debug)]
pub struct LostHistory {
    /// The history.
    pub history: HistoryId,
    /// Its pages, in order of term and number.
    pub pages: Vec<PageName>,
    /// Its complete snapshots, by offset.
    pub snapshots: Vec<ManifestName>,
    /// What is wrong with its document.
    pub problem: Arc<StoreError>,
}

impl LostHistory {
    /// A history's names among those of all.
    pub(super) fn new(
        history: HistoryId,
        problem: Arc<StoreError>,
        pages: &[PageName],
        manifests: &[ManifestName],
    ) -> Self {
        let pages = pages.iter().filter(|page| page.history == history).cloned().collect();
        let mut snapshots: Vec<ManifestName> =
            manifests.iter().filter(|manifest| manifest.history == history).cloned().collect();
        snapshots.sort_by_key(|manifest| (manifest.offset, manifest.time));
        Self { history, pages, snapshots, problem }
    }

    /// The epoch under which its document is signed, where it is only locked to whoever reads.
    #[must_use]
    pub fn locked(&self) -> Option<EpochId> {
        self.problem.locked_epoch()
    }

    /// The newest term that is known to have written to it.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.pages.iter().map(|page| page.term).max().unwrap_or_default()
    }
}

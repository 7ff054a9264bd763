//! Holding an archive against what its running agent says is durable: the one way to see that the newest
//! objects are lost, to which no other object refers.

use super::Report;
use crate::catalog::{Catalog, CatalogError, HistoryLog};
use crate::keys::Identities;
use crate::layout::{ManifestName, ObjectName};
use crate::position::{Offset, Position, Term};
use crate::store::{SourceStore, StoreError};

/// What an agent vouched for, before the archive was looked at: what it stores later is no part of it.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The term that the agent held.
    pub term: Term,
    /// Up to where the history that it writes could be restored; `None` when nothing of it could yet.
    pub durable: Option<Position>,
    /// Its newest complete snapshot.
    pub snapshot: Option<ManifestName>,
}

impl Promise {
    /// Adds to `report` what of the promise the archive does not hold.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn check(&self, store: &SourceStore, report: &mut Report) -> Result<(), StoreError> {
        let term = ObjectName::Term(self.term);
        if !store.exists(&term).await? {
            report.damage(&term, "missing: the agent holds this term");
        }
        if let Some(manifest) = self.snapshot.clone().map(ObjectName::Manifest)
            && !store.exists(&manifest).await?
        {
            report.damage(&manifest, "missing: the agent had stored this snapshot");
        }
        let Some(durable) = self.durable else {
            report.note(store.name(), "the agent says that nothing that it writes is durable yet");
            return Ok(());
        };
        let catalog = match Catalog::open(store, &Identities::none()).await {
            Ok(catalog) => catalog,
            Err(CatalogError::Store(error)) if !error.is_damage() => return Err(error),
            // Without a sound marker there is nothing to compare with, and `verify` has named it.
            Err(_) => return Ok(()),
        };
        let object = ObjectName::History(durable.history);
        let Some(history) = catalog.history(durable.history) else {
            report.damage(&object, format!("lost: the agent said that it was durable up to offset {}", durable.offset));
            return Ok(());
        };
        let end = end_of(history, store).await?;
        if end < durable.offset {
            let what = format!(
                "the newest objects of its log are lost: it ends at offset {end}, and the agent said that it was \
                 durable up to {}",
                durable.offset
            );
            report.damage(&object, what);
        }
        Ok(())
    }
}

/// The offset after the last segment that counts.
async fn end_of(history: &HistoryLog, store: &SourceStore) -> Result<Offset, StoreError> {
    for page in (0..history.pages.len()).rev() {
        if let Some((last, _)) = history.segments(store, page).await?.last() {
            return Ok(last.end);
        }
    }
    Ok(history.start.start)
}

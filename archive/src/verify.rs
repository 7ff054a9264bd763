//! Reading every object of an archive and checking every promise of the format.
//!
//! What is found is collected, not returned at the first: somebody who verifies wants to know all of
//! it. Only a store that cannot be read ends the verification.

mod documents;
mod keys;
mod log;
mod pages;
mod promise;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};

use documents::Writers;
use futures::TryStreamExt;
use serde::Serialize;
use ulid::Ulid;

use crate::catalog::{Catalog, CatalogError};
use crate::documents::Marker;
use crate::keys::{EpochId, Identities, Keyring, read_keys};
use crate::layout::{AuditName, ManifestName, ObjectName, PageName};
use crate::position::{HistoryId, Term};
use crate::store::{SourceStore, StoreError};

pub use promise::Promise;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong; worth knowing.
    Note,
    /// Something that the archive promised cannot be restored, or could be restored wrongly.
    Damage,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object, below the source's folder.
    pub object: String,
    /// What is the matter with it.
    pub problem: String,
}

/// What a verification read and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Objects read and checked.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments among them that count.
    pub segments: u64,
    /// Complete snapshots among them.
    pub snapshots: u64,
    /// Segments and chunks among them whose contents were not decrypted, for want of an identity: checked
    /// are their checksums, and what is in the clear.
    pub undecrypted: u64,
    /// Histories and manifests among them of which it was not checked whether they are authentic, for want
    /// of an identity.
    pub unauthenticated: u64,
    /// Everything found, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Sound objects that belong to another archive.
    #[serde(skip)]
    foreign: u64,
    /// The epochs whose keys are needed, each with an object that needs it.
    #[serde(skip)]
    epochs: BTreeMap<EpochId, String>,
}

impl Report {
    /// Whether damage was found.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Damage)
    }

    fn damage(&mut self, object: &ObjectName, problem: impl ToString) {
        self.add(Severity::Damage, object.to_string(), problem);
    }

    fn note(&mut self, object: impl ToString, problem: impl ToString) {
        self.add(Severity::Note, object.to_string(), problem);
    }

    fn add(&mut self, severity: Severity, object: String, problem: impl ToString) {
        self.findings.push(Finding { severity, object, problem: problem.to_string() });
    }

    fn needs(&mut self, epoch: EpochId, object: &ObjectName) {
        self.epochs.entry(epoch).or_insert_with(|| object.to_string());
    }

    /// Somebody vouches for a document; whether it is true shows only with that one's key.
    fn vouched(&mut self, signer: Option<EpochId>, keys: &Keyring, object: &ObjectName) {
        let Some(epoch) = signer else { return };
        self.needs(epoch, object);
        self.unauthenticated += u64::from(keys.data_keys(epoch).is_ok_and(<[_]>::is_empty));
    }

    fn read(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// Reads and checks every object of a source's archive. `progress` is told of every object read.
///
/// What the objects cannot show is the loss of the newest ones, behind which nothing refers to them:
/// the end of the log, the newest term, a history without log and snapshot, a manifest that is newer
/// than every segment. Of the log's end, that is what lies behind its last joined segment, as long as no
/// more than [`SEGMENTS_UNDER_WAY_MAX`](crate::layout::SEGMENTS_UNDER_WAY_MAX) segments are concerned.
/// Nor is an entry of the audit log missed. A running agent can tell of most of it: see [`Promise`].
///
/// Whoever has no identity verifies an encrypted archive too, but for what only a key can tell: that
/// its objects are authentic, and that the stream in them can be parsed.
///
/// # Errors
/// When there is no archive, the identities do not fit it, or the store cannot be read. Damage is no
/// error: see [`Report`].
pub async fn verify(
    store: &SourceStore,
    identities: &Identities,
    mut progress: impl FnMut(&Report) + Send,
) -> Result<Report, CatalogError> {
    let mut report = Report::default();
    let objects = list(store, &mut report).await?;
    let Some(marker) = check_marker(store, &mut report).await? else {
        if objects.is_empty() {
            return Err(CatalogError::Absent(store.to_string()));
        }
        return Ok(report);
    };
    let wrapped = read_keys(store, marker.archive, identities).await?;
    let keys = Keyring::of(marker.encrypted, identities, &wrapped).map_err(CatalogError::Key)?.lenient();
    let sound_keys = keys::check(&wrapped, &mut report);
    let histories = documents::check_histories(store, &keys, &objects, &mut report).await?;
    let writers = documents::check_terms(store, &objects, &histories, &mut report).await?;
    let mut mentions = Mentions { writers, snapshots: BTreeMap::new() };
    let pages: Vec<PageName> = objects.pages.values().cloned().collect();
    let catalog = Catalog::assemble(marker, keys, histories, &pages, &objects.manifests);
    pages::check(&catalog, &pages, &mut report);
    for (index, history) in catalog.histories.iter().enumerate() {
        let expired_below = pages::expired_below(&catalog, index);
        log::check(store, &catalog, history, expired_below, &mut mentions, &mut report, &mut progress).await?;
    }
    snapshot::check_all(store, &catalog, &objects, &mut mentions, &mut report, &mut progress).await?;
    documents::check_audit(store, &catalog.marker, &objects.audit, &mut report).await?;
    keys::check_needed(&catalog.keys, &sound_keys, &mut report);
    if report.foreign > 0 && report.segments + report.snapshots == 0 {
        report.damage(&ObjectName::Marker, "it is of another archive than everything else here");
    }
    Ok(report)
}

/// What sound objects say of others.
#[derive(Debug)]
struct Mentions {
    /// The writer of each term.
    writers: Writers,
    /// Snapshots that were complete, each with an object that says so.
    snapshots: BTreeMap<Ulid, ObjectName>,
}

/// The names of an archive's objects; of segments, only the pages are remembered.
#[derive(Debug, Default)]
struct Objects {
    terms: BTreeSet<Term>,
    has_keys: bool,
    histories: BTreeSet<HistoryId>,
    /// By their text, which sorts by term and number.
    pages: BTreeMap<String, PageName>,
    chunks: BTreeSet<(Ulid, u32)>,
    manifests: Vec<ManifestName>,
    audit: Vec<AuditName>,
    has_marker: bool,
}

impl Objects {
    fn is_empty(&self) -> bool {
        let none = self.terms.is_empty() && self.histories.is_empty() && self.pages.is_empty();
        let none = none && self.chunks.is_empty() && self.manifests.is_empty() && self.audit.is_empty();
        none && !self.has_marker && !self.has_keys
    }

    fn add(&mut self, name: ObjectName) {
        match name {
            ObjectName::Marker => self.has_marker = true,
            ObjectName::Term(term) => drop(self.terms.insert(term)),
            ObjectName::Key(_) => self.has_keys = true,
            ObjectName::History(history) => drop(self.histories.insert(history)),
            ObjectName::Segment(page, _) => drop(self.pages.insert(page.to_string(), page)),
            ObjectName::Chunk(snapshot, number) => drop(self.chunks.insert((snapshot, number))),
            ObjectName::Manifest(manifest) => self.manifests.push(manifest),
            ObjectName::Audit(name) => self.audit.push(name),
            // A hint that anybody may overwrite: there is nothing to promise of it.
            ObjectName::Sign(_) => {}
        }
    }
}

/// Every object's name; what is not ours is noted.
async fn list(store: &SourceStore, report: &mut Report) -> Result<Objects, StoreError> {
    let mut ours = Objects::default();
    let mut listing = store.everything();
    while let Some((name, _)) = listing.try_next().await? {
        match name {
            Ok(name) => ours.add(name),
            Err(stranger) => report.note(stranger, "not an object of the archive; ignored"),
        }
    }
    Ok(ours)
}

async fn check_marker(store: &SourceStore, report: &mut Report) -> Result<Option<Marker>, StoreError> {
    match store.get_document::<Marker>(&ObjectName::Marker).await {
        Ok(marker) => {
            report.read(0);
            if marker.source != *store.name() {
                report.damage(&ObjectName::Marker, format!("it belongs to source {}", marker.source));
            }
            Ok(Some(marker))
        }
        Err(error) if error.is_absent() => {
            report.damage(&ObjectName::Marker, "missing: without it nothing can be told to belong to this archive");
            Ok(None)
        }
        Err(error) if error.is_damage() => {
            report.damage(&ObjectName::Marker, describe(&error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is wrong with an object, without its name.
fn describe(error: &StoreError) -> String {
    match error {
        StoreError::Damaged { source, .. } => source.to_string(),
        StoreError::TooLong { .. } => "damaged: it is longer than any object of an archive".to_owned(),
        StoreError::Request { .. } => error.to_string(),
    }
}

//! Reading every object of an archive and checking every promise of the format.
//!
//! What is found is collected, not returned at the first: somebody who verifies wants to know all of
//! it. Only a store that cannot be read ends the verification.

mod log;
mod snapshot;

use std::collections::BTreeSet;

use futures::TryStreamExt;
use serde::Serialize;

use crate::catalog::{Catalog, CatalogError};
use crate::documents::{HistoryStart, Marker, TermClaim};
use crate::layout::ObjectName;
use crate::position::{HistoryId, Term};
use crate::store::{SourceStore, StoreError};

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
    /// Everything found, in the order in which it was found.
    pub findings: Vec<Finding>,
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

    fn read(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// Reads and checks every object of a source's archive. `progress` is told of every object read.
///
/// # Errors
/// When there is no archive, or the store cannot be read. Damage is no error: see [`Report`].
pub async fn verify(store: &SourceStore, mut progress: impl FnMut(&Report) + Send) -> Result<Report, CatalogError> {
    let mut report = Report::default();
    let objects = list(store, &mut report).await?;
    let Some(marker) = check_marker(store, &mut report).await? else {
        if objects.is_empty() {
            return Err(CatalogError::Absent(store.to_string()));
        }
        return Ok(report);
    };
    check_terms(store, &objects, &mut report).await?;
    let sound = check_histories(store, &objects, &mut report).await?;
    if !sound {
        return Ok(report);
    }
    let catalog = Catalog::open(store).await?;
    for history in &catalog.histories {
        log::check(store, &marker, history, &mut report, &mut progress).await?;
    }
    snapshot::check_all(store, &catalog, &objects, &mut report, &mut progress).await?;
    Ok(report)
}

/// Every object's name; what is not ours is noted.
async fn list(store: &SourceStore, report: &mut Report) -> Result<BTreeSet<ObjectKey>, StoreError> {
    let mut ours = BTreeSet::new();
    let mut listing = store.everything();
    while let Some((name, _)) = listing.try_next().await? {
        match name {
            Ok(name) => drop(ours.insert(ObjectKey::of(&name))),
            Err(stranger) => report.note(stranger, "not an object of the archive; ignored"),
        }
    }
    Ok(ours)
}

/// What verification needs to know of all objects: segments are counted page by page instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ObjectKey {
    Term(Term),
    History(HistoryId),
    LogOf(HistoryId),
    Chunk(ulid::Ulid, u32),
    Manifest(ulid::Ulid, HistoryId),
    Marker,
}

impl ObjectKey {
    fn of(name: &ObjectName) -> Self {
        match name {
            ObjectName::Marker => Self::Marker,
            ObjectName::Term(term) => Self::Term(*term),
            ObjectName::History(history) => Self::History(*history),
            ObjectName::Segment(page, _) => Self::LogOf(page.history),
            ObjectName::Chunk(snapshot, number) => Self::Chunk(*snapshot, *number),
            ObjectName::Manifest(manifest) => Self::Manifest(manifest.snapshot, manifest.history),
        }
    }
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

async fn check_terms(
    store: &SourceStore,
    objects: &BTreeSet<ObjectKey>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut before: Option<Term> = None;
    for key in objects {
        let ObjectKey::Term(term) = key else { continue };
        let name = ObjectName::Term(*term);
        if let Some(missing) = before.map(Term::next).filter(|next| next != term) {
            report.damage(&ObjectName::Term(missing), "missing: a later term exists");
        }
        before = Some(*term);
        match store.get_document::<TermClaim>(&name).await {
            Ok(claim) if claim.term != *term => {
                report.damage(&name, format!("misplaced: it claims term {}", claim.term))
            }
            Ok(_) => report.read(0),
            Err(error) if error.is_damage() => report.damage(&name, describe(&error)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether every history that is spoken of has a sound document.
async fn check_histories(
    store: &SourceStore,
    objects: &BTreeSet<ObjectKey>,
    report: &mut Report,
) -> Result<bool, StoreError> {
    let spoken_of: BTreeSet<HistoryId> = objects
        .iter()
        .filter_map(|key| match key {
            ObjectKey::History(history) | ObjectKey::LogOf(history) | ObjectKey::Manifest(_, history) => Some(*history),
            _ => None,
        })
        .collect();
    let mut sound = true;
    for history in spoken_of {
        let name = ObjectName::History(history);
        match store.get_document::<HistoryStart>(&name).await {
            Ok(start) if start.history != history => {
                report.damage(&name, format!("misplaced: it describes history {}", start.history));
                sound = false;
            }
            Ok(_) => report.read(0),
            Err(error) if error.is_absent() => {
                report.damage(&name, "missing: there are segments or snapshots of it");
            }
            Err(error) if error.is_damage() => {
                report.damage(&name, describe(&error));
                sound = false;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sound)
}

/// What is wrong with an object, without its name.
fn describe(error: &StoreError) -> String {
    match error {
        StoreError::Damaged { source, .. } => source.to_string(),
        StoreError::Request { .. } => error.to_string(),
    }
}

//! Verifying the documents of terms and histories, and that none is missing that others speak of.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use ulid::Ulid;

use super::{Objects, Report, describe};
use crate::audit;
use crate::catalog::read_history;
use crate::concurrent;
use crate::document::Signed;
use crate::documents::{HistoryStart, Marker, TermClaim};
use crate::keys::Keyring;
use crate::layout::{AuditName, ObjectName};
use crate::position::{HistoryId, Term};
use crate::store::{SourceStore, StoreError};

/// The writer of each term, as its document says.
pub(super) type Writers = BTreeMap<Term, Ulid>;

/// Checks every term's document. Terms count from 1, and none is ever deleted.
pub(super) async fn check_terms(
    store: &SourceStore,
    objects: &Objects,
    histories: &[HistoryStart],
    report: &mut Report,
) -> Result<Writers, StoreError> {
    let written = objects.pages.values().map(|page| page.term);
    let newest = written.chain(histories.iter().map(|start| start.term)).chain(objects.terms.last().copied()).max();
    let mut writers = Writers::new();
    for term in (1..=newest.unwrap_or_default().0).map(Term) {
        let name = ObjectName::Term(term);
        match store.get_document::<TermClaim>(&name).await {
            Ok(claim) if claim.term != term => {
                report.damage(&name, format!("misplaced: it claims term {}", claim.term));
            }
            Ok(claim) => {
                report.read(0);
                writers.insert(term, claim.writer);
            }
            Err(error) if error.is_absent() => report.damage(&name, "missing: there are later terms, or objects of it"),
            Err(error) if error.is_damage() => report.damage(&name, describe(&error)),
            Err(error) => return Err(error),
        }
    }
    Ok(writers)
}

/// Checks every entry of the audit log.
pub(super) async fn check_audit(
    store: &SourceStore,
    marker: &Marker,
    names: &[AuditName],
    report: &mut Report,
) -> Result<(), StoreError> {
    let problems = names.iter().map(|name| {
        let problem = async move {
            match audit::read_entry(store, marker.archive, *name).await {
                Ok(_) => Ok(None),
                Err(error) if error.is_damage() => Ok(Some(describe(&error))),
                Err(error) => Err(error),
            }
        };
        problem.boxed()
    });
    for (name, problem) in names.iter().zip(concurrent::all(problems.collect()).await?) {
        report.read(0);
        if let Some(problem) = problem {
            report.damage(&ObjectName::Audit(*name), problem);
        }
    }
    Ok(())
}

/// Checks the document of every history that is spoken of; gives those that are sound.
pub(super) async fn check_histories(
    store: &SourceStore,
    keys: &Keyring,
    objects: &Objects,
    report: &mut Report,
) -> Result<Vec<HistoryStart>, StoreError> {
    let mut spoken_of: BTreeSet<HistoryId> = objects.histories.clone();
    spoken_of.extend(objects.pages.values().map(|page| page.history));
    spoken_of.extend(objects.manifests.iter().map(|manifest| manifest.history));
    let mut sound: Vec<HistoryStart> = Vec::new();
    // A predecessor is older, so that going from the newest to the oldest meets it in time.
    while let Some(history) = spoken_of.pop_last() {
        let name = ObjectName::History(history);
        match read_history(store, keys, history).await {
            Ok(Signed { document: start, signer }) => {
                report.read(0);
                report.vouched(signer, keys, &name);
                let before = start.predecessor.map(|position| position.history);
                spoken_of.extend(before.filter(|before| sound.iter().all(|start| start.history != *before)));
                sound.push(start);
            }
            Err(error) if error.is_absent() => {
                report.damage(&name, "missing: there are segments or snapshots of it, or a history that followed it");
            }
            Err(error) if error.is_damage() => report.damage(&name, describe(&error)),
            Err(error) => return Err(error),
        }
    }
    Ok(sound)
}

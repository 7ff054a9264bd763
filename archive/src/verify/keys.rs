//! Verifying that the keys are there, without which nothing could be read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, Severity};
use crate::keys::{Epoch, EpochId, Keyring, Unopened, WrappedKey};
use crate::layout::ObjectName;

/// Checks every wrapped key for its checksum, and what the identities open for what it holds; gives the
/// epochs of those in which nothing wrong was found.
pub(super) fn check(keys: &[WrappedKey], report: &mut Report) -> BTreeSet<EpochId> {
    let mut sound = BTreeSet::new();
    for key in keys {
        report.read(key.bytes);
        match &key.opened {
            Ok(_) | Err(Unopened::Locked) => drop(sound.insert(key.name.epoch)),
            Err(problem) => report.damage(&ObjectName::Key(key.name), problem),
        }
    }
    check_agreement(keys, report);
    sound
}

/// Checks that all keys of an epoch are wrappings of one data key. Where they are not, nothing is lost:
/// whatever was written under the epoch is right with one of them.
fn check_agreement(keys: &[WrappedKey], report: &mut Report) {
    let mut of_epochs: BTreeMap<EpochId, Vec<(&WrappedKey, &Epoch)>> = BTreeMap::new();
    for (key, epoch) in keys.iter().filter_map(|key| Some((key, key.opened.as_deref().ok()?))) {
        of_epochs.entry(epoch.id()).or_default().push((key, epoch));
    }
    for of_epoch in of_epochs.values().filter(|keys| keys.iter().any(|(_, epoch)| !epoch.is_same(keys[0].1))) {
        for (key, _) in of_epoch {
            let what = "its epoch has another object with another data key: one of them was not put by the epoch's \
                        writer, whose is the older one; what is read is opened by whichever fits";
            report.damage(&ObjectName::Key(key.name), what);
        }
    }
}

/// Checks that every epoch that was written under has a key, and says what was not decrypted.
pub(super) fn check_needed(keys: &Keyring, sound: &BTreeSet<EpochId>, report: &mut Report) {
    let needed = std::mem::take(&mut report.epochs);
    let locked: Vec<EpochId> = keys.epochs().1.into_iter().filter(|epoch| needed.contains_key(epoch)).collect();
    for (epoch, object) in needed {
        if !sound.contains(&epoch) {
            let what = format!("missing: without a key of this epoch {object} and others cannot be read");
            report.add(Severity::Damage, format!("key/{epoch}"), what);
        }
    }
    if report.undecrypted + report.unauthenticated > 0 {
        let what = format!(
            "the contents of {} objects were not decrypted, nor the signatures of {} documents checked, for want of \
             an identity (--identity-file){}: checked are checksums, the chain and the parser's states, not that \
             they are authentic",
            report.undecrypted,
            report.unauthenticated,
            describe_locked(&locked)
        );
        report.note(ObjectName::Marker, what);
    }
}

/// Which epochs others would open, to one who opens some.
fn describe_locked(epochs: &[EpochId]) -> String {
    match epochs {
        [] => String::new(),
        [epoch] => format!(" that opens key epoch {epoch}"),
        [epoch, others @ ..] => format!(" that opens key epoch {epoch} and {} others", others.len()),
    }
}

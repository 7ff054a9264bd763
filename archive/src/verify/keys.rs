//! Verifying that the keys are there, without which nothing could be read.

use std::collections::BTreeSet;

use ulid::Ulid;

use super::{Objects, Report};
use crate::keys::{EpochId, Identities, Unopened, wrappings};
use crate::layout::ObjectName;
use crate::store::{SourceStore, StoreError};

/// Checks every wrapped key for its checksum, and what the identities open for what it holds; gives the
/// epochs of those in which nothing wrong was found.
pub(super) async fn check(
    store: &SourceStore,
    objects: &Objects,
    archive: Ulid,
    identities: &Identities,
    report: &mut Report,
) -> Result<BTreeSet<EpochId>, StoreError> {
    if objects.keys.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut sound = BTreeSet::new();
    for wrapping in wrappings(store).await? {
        report.read(wrapping.object.len() as u64);
        let object = ObjectName::Key(wrapping.name);
        if !wrapping.name.fits(&wrapping.object) {
            report.damage(&object, "damaged: its checksum is not that in its name");
        } else if !identities.is_empty() && matches!(wrapping.open(archive, identities), Err(Unopened::Damaged)) {
            report.damage(&object, "forged: its checksum is right, but it holds no key of this epoch and archive");
        } else {
            sound.insert(wrapping.name.epoch);
        }
    }
    Ok(sound)
}

/// Checks that every epoch that was written under has a key, and says what was not decrypted.
pub(super) fn check_needed(sound: &BTreeSet<EpochId>, report: &mut Report) {
    for (epoch, object) in std::mem::take(&mut report.epochs) {
        if !sound.contains(&epoch) {
            let what = format!("missing: without a key of this epoch {object} and others cannot be read");
            report.add(super::Severity::Damage, format!("key/{epoch}"), what);
        }
    }
    if report.undecrypted + report.unauthenticated > 0 {
        let what = format!(
            "the contents of {} objects were not decrypted, nor the signatures of {} documents checked, for want of \
             an identity (--identity-file): checked are checksums, the chain and the parser's states, not that they \
             are authentic",
            report.undecrypted, report.unauthenticated
        );
        report.note(ObjectName::Marker, what);
    }
}

//! Verifying that the keys are there, without which nothing could be read.

use std::collections::BTreeSet;

use super::{Objects, Report};
use crate::keys::{EpochId, wrappings};
use crate::layout::ObjectName;
use crate::store::{SourceStore, StoreError};

/// Checks every wrapped key for its checksum; gives the epochs of those that are sound.
pub(super) async fn check(
    store: &SourceStore,
    objects: &Objects,
    report: &mut Report,
) -> Result<BTreeSet<EpochId>, StoreError> {
    if objects.keys.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut sound = BTreeSet::new();
    for wrapping in wrappings(store).await? {
        report.read(wrapping.object.len() as u64);
        if wrapping.name.fits(&wrapping.object) {
            sound.insert(wrapping.name.epoch);
        } else {
            report.damage(&ObjectName::Key(wrapping.name), "damaged: its checksum is not that in its name");
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
    if report.undecrypted > 0 {
        let what = format!(
            "the contents of {} objects were not decrypted, for want of an identity (--identity-file): checked are \
             checksums, the chain and the parser's states, not that they are authentic",
            report.undecrypted
        );
        report.note(ObjectName::Marker, what);
    }
}

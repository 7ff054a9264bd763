//! Verifying snapshots: every chunk, and the RDB that they make up.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt};
use redwind_stream::{RdbCheck, RdbChecksum};
use ulid::Ulid;

use super::{Mentions, Objects, Report, Severity, describe};
use crate::catalog::Catalog;
use crate::chunk::{self, ChunkError, ChunkId};
use crate::document::Signed;
use crate::documents::Manifest;
use crate::keys::{EpochId, Keyring};
use crate::layout::{ManifestName, ObjectName};
use crate::store::{SourceStore, StoreError};

/// Chunks fetched ahead.
const AHEAD: usize = 3;

/// Checks every snapshot, that none is missing which others mention, and notes chunks of none.
pub(super) async fn check_all(
    store: &SourceStore,
    catalog: &Catalog,
    objects: &Objects,
    mentions: &mut Mentions,
    report: &mut Report,
    progress: &mut (impl FnMut(&Report) + Send),
) -> Result<(), StoreError> {
    for name in &objects.manifests {
        if let Some(manifest) = check(store, catalog, name, objects, report, progress).await?
            && let Some(previous) = manifest.previous
        {
            mentions.snapshots.entry(previous).or_insert_with(|| ObjectName::Manifest(name.clone()));
        }
    }
    let complete: BTreeSet<Ulid> = objects.manifests.iter().map(|name| name.snapshot).collect();
    for (snapshot, by) in &mentions.snapshots {
        if !complete.contains(snapshot) {
            check_missing(*snapshot, by, complete.first(), objects, report);
        }
    }
    let begun: BTreeSet<Ulid> = objects.chunks.iter().map(|(snapshot, _)| *snapshot).collect();
    for snapshot in begun.difference(&complete).filter(|snapshot| !mentions.snapshots.contains_key(snapshot)) {
        report.note(format!("chunk/{snapshot}"), "chunks of a snapshot that was not completed, or is being taken");
    }
    Ok(())
}

/// Tells of a snapshot that was complete and has no manifest now. Older than all others it has expired,
/// unless its first chunk is still there, which was put before the manifest.
fn check_missing(snapshot: Ulid, by: &ObjectName, oldest: Option<&Ulid>, objects: &Objects, report: &mut Report) {
    let object = format!("snapshot/*-{snapshot}");
    let expired = oldest.is_some_and(|oldest| snapshot < *oldest) && !objects.chunks.contains(&(snapshot, 0));
    if expired {
        report.note(object, format!("expired: older than every snapshot there is; {by} names it"));
    } else {
        report.add(Severity::Damage, object, format!("the manifest is missing; {by} says that it was there"));
    }
}

/// Checks a snapshot; gives its manifest, if that is sound.
async fn check(
    store: &SourceStore,
    catalog: &Catalog,
    name: &ManifestName,
    objects: &Objects,
    report: &mut Report,
    progress: &mut (impl FnMut(&Report) + Send),
) -> Result<Option<Manifest>, StoreError> {
    let object = ObjectName::Manifest(name.clone());
    let Signed { document: manifest, signer } = match catalog.signed_manifest(store, name).await {
        Ok(signed) => signed,
        Err(error) if error.is_damage() => {
            report.damage(&object, describe(&error));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    report.read(0);
    report.vouched(signer, &catalog.keys, &object);
    note_extra_chunks(&manifest, objects, report);
    if check_chunks(store, &catalog.keys, &manifest, report, progress).await? {
        report.snapshots += 1;
    }
    Ok(Some(manifest))
}

fn note_extra_chunks(manifest: &Manifest, objects: &Objects, report: &mut Report) {
    let beyond = u32::try_from(manifest.chunks.len()).unwrap_or(u32::MAX);
    for (snapshot, number) in objects.chunks.range((manifest.snapshot, beyond)..=(manifest.snapshot, u32::MAX)) {
        report.note(ObjectName::Chunk(*snapshot, *number), "not in its snapshot's manifest; ignored");
    }
}

/// Whether all chunks are sound and make up the RDB that the manifest describes.
async fn check_chunks(
    store: &SourceStore,
    keys: &Keyring,
    manifest: &Manifest,
    report: &mut Report,
    progress: &mut (impl FnMut(&Report) + Send),
) -> Result<bool, StoreError> {
    let manifest_object = manifest_object(manifest);
    let mut rdb = RdbCheck::new();
    let (mut sound, mut readable) = (true, true);
    let mut chunks =
        stream::iter(0..manifest.chunks.len()).map(|number| read_chunk(store, keys, manifest, number)).buffered(AHEAD);
    while let Some((name, stored, chunk)) = chunks.next().await {
        report.read(stored);
        progress(report);
        let bytes = match chunk {
            Ok(bytes) => bytes,
            Err(Unreadable::Store(error)) => return Err(error),
            Err(Unreadable::Sealed(epoch)) => {
                report.undecrypted += 1;
                epoch.into_iter().for_each(|epoch| report.needs(epoch, &name));
                readable = false;
                continue;
            }
            Err(Unreadable::Damaged(problem)) => {
                report.damage(&name, problem);
                sound = false;
                continue;
            }
        };
        if sound
            && readable
            && let Err(error) = rdb.push(&bytes)
        {
            report.damage(&manifest_object, format!("its chunks make up no RDB: {error}"));
            sound = false;
        }
    }
    if sound
        && readable
        && let Err(problem) = finish(rdb, manifest)
    {
        report.damage(&manifest_object, problem);
        sound = false;
    }
    Ok(sound)
}

fn manifest_object(manifest: &Manifest) -> ObjectName {
    ObjectName::Manifest(manifest.name())
}

/// Why a chunk gave no bytes.
enum Unreadable {
    Damaged(String),
    /// It is sound as far as that shows without a key.
    Sealed(Option<EpochId>),
    Store(StoreError),
}

async fn read_chunk(
    store: &SourceStore,
    keys: &Keyring,
    manifest: &Manifest,
    index: usize,
) -> (ObjectName, u64, Result<Vec<u8>, Unreadable>) {
    let (entry, number) = (&manifest.chunks[index], u32::try_from(index).unwrap_or(u32::MAX));
    let name = ObjectName::Chunk(manifest.snapshot, number);
    let id = ChunkId { archive: manifest.archive, snapshot: manifest.snapshot, number };
    let chunk = match store.get(&name).await {
        Ok(object) => chunk::decode(&object, id, entry, keys).map_err(|error| match error {
            ChunkError::Key(_) => Unreadable::Sealed(chunk::encryption(&object).map(|encryption| encryption.epoch)),
            error => Unreadable::Damaged(error.to_string()),
        }),
        Err(error) if error.is_absent() => Err(Unreadable::Damaged("missing".to_owned())),
        Err(error) if error.is_damage() => Err(Unreadable::Damaged(describe(&error))),
        Err(error) => Err(Unreadable::Store(error)),
    };
    (name, entry.stored, chunk)
}

fn finish(rdb: RdbCheck, manifest: &Manifest) -> Result<(), String> {
    let info = rdb.finish().map_err(|error| format!("its chunks make up no whole RDB: {error}"))?;
    let crc64 = match info.checksum {
        RdbChecksum::Verified(crc64) => Some(format!("{crc64:016x}")),
        RdbChecksum::Disabled => None,
    };
    let found = (info.bytes, info.version, crc64);
    if found == (manifest.rdb_bytes, manifest.rdb_version, manifest.rdb_crc64.clone()) {
        Ok(())
    } else {
        Err("its chunks make up another RDB than it describes".to_owned())
    }
}

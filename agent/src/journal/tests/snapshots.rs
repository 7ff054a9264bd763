//! Snapshots: stored in pieces, visible when whole, counted when the log has got there.

use redwind_archive::chunk::{self, ChunkId};
use redwind_archive::documents::{Manifest, SnapshotReason};
use redwind_archive::layout::{Folder, ObjectName};
use redwind_stream::{RdbChecksum, RdbFormat, RdbInfo};

use super::*;
use crate::journal::{SnapshotFacts, SnapshotWriter};

fn facts(rig: &Rig, position: Position, bytes: u64) -> SnapshotFacts {
    facts_at(&rig.clock, position, bytes)
}

pub(super) fn facts_at(clock: &Clock, position: Position, bytes: u64) -> SnapshotFacts {
    SnapshotFacts {
        position,
        replication_id: ID,
        time: clock.now(),
        began: clock.now(),
        rdb: RdbInfo {
            format: RdbFormat::Redis,
            version: 11,
            bytes,
            checksum: RdbChecksum::Verified(0xabc),
            redis_version: None,
            valkey_version: None,
            repl_stream_db: Some(3),
            repl_id: None,
            repl_offset: None,
            created_unix_secs: None,
            used_memory_bytes: None,
        },
        server: server(),
    }
}

fn rdb(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(77);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// Takes a small one.
pub(super) async fn take(agent: &Agent, position: Position) {
    let mut writer = snapshot(agent).await;
    push(&mut writer, b"REDIS").await;
    writer.finish(facts_at(&agent.clock, position, 5)).await.unwrap();
}

async fn snapshot(agent: &Agent) -> SnapshotWriter {
    agent.journal.begin_snapshot(SnapshotReason::First).await.unwrap()
}

async fn push(writer: &mut SnapshotWriter, rdb: &[u8]) {
    for piece in rdb.chunks(100_000) {
        writer.push(piece).await.unwrap();
    }
}

async fn chunks(rig: &Rig, manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, entry) in (0..).zip(&manifest.chunks) {
        let object = rig.source().get(&ObjectName::Chunk(manifest.snapshot, number)).await.unwrap();
        let id = ChunkId { archive: manifest.archive, snapshot: manifest.snapshot, number };
        bytes.extend(chunk::decode(&object, id, entry, &rig.keys().await).unwrap());
    }
    bytes
}

async fn manifests(rig: &Rig) -> usize {
    rig.source().list(&Folder::Manifests).await.unwrap().len()
}

#[tokio::test]
async fn a_snapshot_makes_what_is_stored_durable() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(40, 30_000);
    agent.feed(&stream, 10_000, 1_000).await;
    let rdb = rdb(20 << 20);
    let mut writer = snapshot(&agent).await;
    writer.announce(position(history, 9_000), Some(rdb.len() as u64));
    push(&mut writer, &rdb).await;
    let running = agent.journal.snapshots().borrow().running.unwrap();
    assert_eq!((running.total_bytes, running.id), (Some(rdb.len() as u64), writer.id()));
    assert!(agent.journal.begin_snapshot(SnapshotReason::Requested).await.is_err());
    agent.all_stored().await;
    let manifest = writer.finish(facts(&rig, position(history, 9_000), rdb.len() as u64)).await.unwrap();
    assert_eq!(manifest.stream_database, Some(3));
    assert!(chunks(&rig, &manifest).await == rdb);
    let progress = agent.progress();
    assert_eq!((progress.durable, progress.oldest_undurable_write), (Some(progress.stored), None));
    let state = agent.journal.snapshots().borrow().clone();
    assert_eq!((state.running, state.last.as_deref()), (None, Some(&manifest)));
    assert!(agent.journal.resume_point().unwrap().has_snapshot);
    agent.feed(&stream, stream.len(), 1_000).await;
    let progress = agent.all_stored().await;
    assert_eq!(progress.durable, Some(position(history, stream.len()).offset));
    agent.stop().await;

    let agent = rig.start().await;
    assert_eq!(agent.progress().durable, Some(position(history, stream.len()).offset));
    assert!(agent.journal.resume_point().unwrap().has_snapshot);
    assert_eq!(agent.journal.snapshots().borrow().last.as_deref(), Some(&manifest));
    agent.begin(2).await;
    agent.wait_for(|progress| progress.history == Some(HistoryId(Ulid(2))) && progress.durable.is_none()).await;
    assert!(agent.journal.snapshots().borrow().last.is_none());
    agent.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_shown_only_when_the_log_has_reached_it() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(41, 30_000);
    agent.feed(&stream, 10_000, 1_000).await;
    let mut writer = snapshot(&agent).await;
    push(&mut writer, b"REDIS").await;
    let finish = tokio::spawn(writer.finish(facts(&rig, position(history, 20_000), 5)));
    agent.all_stored().await;
    assert!(!finish.is_finished());
    assert_eq!(manifests(&rig).await, 0);
    agent.feed(&stream, 20_500, 1_000).await;
    agent.all_stored().await;
    finish.await.unwrap().unwrap();
    assert_eq!(agent.progress().durable, Some(position(history, 20_500).offset));
    agent.stop().await;
}

#[tokio::test]
async fn a_snapshot_of_another_branch_is_given_up() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(42, 30_000);
    agent.feed(&stream, 10_000, 1_000).await;
    let mut writer = snapshot(&agent).await;
    push(&mut writer, b"REDIS").await;
    // The link is lost before the snapshot's offset; a promoted replica continues.
    agent.attach([b'b'; 40], position(history, 10_000).offset).await;
    agent.feed(&stream, 20_500, 1_000).await;
    agent.all_stored().await;
    let error = writer.finish(facts(&rig, position(history, 20_000), 5)).await.unwrap_err();
    assert!(matches!(error, JournalError::SnapshotAbandoned { .. }), "{error}");
    let state = agent.journal.snapshots().borrow().clone();
    assert!(state.running.is_none() && state.last_error.unwrap().contains("replication ID"));
    assert_eq!((manifests(&rig).await, agent.progress().durable), (0, None));

    let mut writer = snapshot(&agent).await;
    push(&mut writer, b"REDIS").await;
    let mut finish = tokio::spawn(writer.finish(facts(&rig, position(history, 40_000), 5)));
    agent.begin(2).await;
    let error = tokio::time::timeout(PATIENCE, &mut finish).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, JournalError::SnapshotAbandoned { .. }), "{error}");
    agent.stop().await;
}

#[tokio::test]
async fn a_slow_store_makes_a_snapshot_borrow_the_spool_and_then_wait() {
    let rig = Rig { spool_bytes_max: 64 << 20, ..Rig::new() };
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    agent.wait_until_spool_is_empty().await;
    let rdb = rdb(80 << 20);
    let mut writer = snapshot(&agent).await;
    rig.store.hang();
    let usage = agent.journal.spool_usage();
    let mut finish = tokio::spawn({
        let facts = facts(&rig, position(history, 0), rdb.len() as u64);
        let rdb = rdb.clone();
        async move {
            push(&mut writer, &rdb).await;
            writer.finish(facts).await
        }
    });
    let mut borrowed = agent.journal.spool_usage();
    tokio::time::timeout(PATIENCE, borrowed.wait_for(|usage| usage.used_bytes > (20 << 20))).await.unwrap().unwrap();
    assert!(usage.borrow().used_bytes <= 32 << 20 && !usage.borrow().full);
    rig.store.answer();
    let manifest = tokio::time::timeout(PATIENCE, &mut finish).await.unwrap().unwrap().unwrap();
    assert!(chunks(&rig, &manifest).await == rdb);
    borrowed.wait_for(|usage| usage.used_bytes == 0).await.unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_is_dropped_leaves_nothing_to_see_and_nothing_in_the_spool() {
    let rig = Rig::new();
    let agent = rig.start().await;
    agent.begin(1).await;
    agent.wait_until_spool_is_empty().await;
    rig.store.hang();
    let mut writer = snapshot(&agent).await;
    push(&mut writer, &rdb(34 << 20)).await;
    drop(writer);
    rig.store.answer();
    let mut usage = agent.journal.spool_usage();
    tokio::time::timeout(PATIENCE, usage.wait_for(|usage| usage.used_bytes == 0)).await.unwrap().unwrap();
    assert!(agent.journal.snapshots().borrow().running.is_none());
    assert_eq!(manifests(&rig).await, 0);
    drop(snapshot(&agent).await);
    agent.stop().await;
}

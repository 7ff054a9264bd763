//! Objects that were damaged or lost in the store: an agent that starts goes on as well as it can, and
//! makes nothing void that could still be read.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::*;

/// The names of all objects whose name begins so, in order.
async fn names(rig: &Rig, prefix: &str) -> Vec<Path> {
    let listed: Vec<_> = object_store::ObjectStore::list(&*rig.store.inner, None).try_collect().await.unwrap();
    let begins = |path: &Path| path.as_ref().starts_with(&format!("default/{prefix}"));
    let mut names: Vec<Path> = listed.into_iter().map(|meta| meta.location).filter(begins).collect();
    names.sort();
    names
}

async fn flip_a_bit(rig: &Rig, name: &Path) {
    let mut bytes = rig.store.inner.get(name).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    rig.store.inner.put(name, Bytes::from(bytes).into()).await.unwrap();
}

/// An archive with segments that end at every 1,000 bytes; its agent has stopped.
async fn archived(rig: &Rig, stream: &[u8], end: usize) -> HistoryId {
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    for end in (1_000..=end).step_by(1_000) {
        agent.feed(stream, end, 1_000).await;
        agent.all_stored().await;
    }
    agent.stop().await;
    history
}

#[tokio::test]
async fn the_log_goes_on_before_its_damaged_end_and_heals() {
    goes_on_before_a_damaged_end(Rig::new()).await;
    goes_on_before_a_damaged_end(Rig::encrypted()).await;
}

async fn goes_on_before_a_damaged_end(rig: Rig) {
    let stream = stream(50, 20_000);
    let history = archived(&rig, &stream, 12_000).await;
    let segments = names(&rig, "log/").await;
    for segment in &segments[10..] {
        flip_a_bit(&rig, segment).await;
    }
    let agent = rig.start().await;
    let resume = agent.journal.resume_point().unwrap();
    assert_eq!(resume.position, position(history, 10_000));
    assert!(resume.damaged, "should the server not have what follows, that is why");
    assert_eq!(agent.progress().stored, position(history, 10_000).offset, "no more than can be read is stored");
    agent.feed(&stream, stream.len(), 1_000).await;
    assert!(!agent.journal.resume_point().unwrap().damaged);
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream, "the damaged segments are void");
}

#[tokio::test]
async fn what_the_spool_holds_behind_damage_is_not_given_up() {
    keeps_what_the_spool_holds_behind_damage(Rig::new()).await;
    keeps_what_the_spool_holds_behind_damage(Rig::encrypted()).await;
}

async fn keeps_what_the_spool_holds_behind_damage(rig: Rig) {
    let stream = stream(51, 20_000);
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    agent.feed(&stream, 5_000, 1_000).await;
    agent.all_stored().await;
    snapshots::take(&agent, position(history, 2_000)).await;
    rig.store.hang();
    agent.feed(&stream, 9_000, 1_000).await;
    agent.seal().await;
    agent.wait_for(|progress| progress.spooled == position(history, 9_000).offset).await;
    agent.kill().await;
    rig.store.answer();
    let damaged = names(&rig, "log/").await.pop().unwrap();
    let good = rig.store.inner.get(&damaged).await.unwrap().bytes().await.unwrap();
    flip_a_bit(&rig, &damaged).await;

    let agent = rig.start().await;
    let resume = agent.journal.resume_point().unwrap();
    assert_eq!((resume.position, resume.damaged), (position(history, 9_000), false));
    agent.feed(&stream, stream.len(), 1_000).await;
    assert_waits_for_a_snapshot(&agent).await;
    agent.stop().await;
    rig.store.inner.put(&damaged, good.into()).await.unwrap();
    assert_eq!(rig.stored(history).await, stream, "with the damage undone, all is there");
}

#[tokio::test]
async fn a_hole_before_more_than_was_under_way_is_not_the_logs_end() {
    let rig = Rig::new();
    let stream = stream(52, 20_000);
    let history = archived(&rig, &stream, 12_000).await;
    let segments = names(&rig, "log/").await;
    rig.store.inner.delete(&segments[2]).await.unwrap();
    let agent = rig.start().await;
    assert_eq!(agent.journal.resume_point().unwrap().position, position(history, 12_000));
    agent.kill().await;
}

#[tokio::test]
async fn nothing_behind_a_hole_is_durable_without_a_snapshot_behind_it() {
    let rig = Rig::new();
    let stream = stream(56, 20_000);
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    for end in (1_000..=12_000).step_by(1_000) {
        agent.feed(&stream, end, 1_000).await;
        agent.all_stored().await;
        if end == 1_000 {
            snapshots::take(&agent, position(history, 1_000)).await;
        }
    }
    agent.stop().await;
    let segments = names(&rig, "log/").await;
    rig.store.inner.delete(&segments[2]).await.unwrap();
    let agent = rig.start().await;
    assert_eq!(agent.journal.resume_point().unwrap().position, position(history, 12_000));
    agent.feed(&stream, 13_000, 1_000).await;
    assert_waits_for_a_snapshot(&agent).await;
    agent.stop().await;

    let agent = rig.start().await;
    assert_eq!(agent.progress().durable, Some(position(history, 13_000).offset), "the new one lies behind the hole");
    agent.stop().await;
}

#[tokio::test]
async fn nothing_is_durable_with_a_snapshot_whose_manifest_is_damaged() {
    let rig = Rig::new();
    let stream = stream(57, 5_000);
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    agent.feed(&stream, 3_000, 1_000).await;
    agent.all_stored().await;
    snapshots::take(&agent, position(history, 2_000)).await;
    agent.stop().await;
    flip_a_bit(&rig, &names(&rig, "snapshot/").await[0]).await;
    let agent = rig.start().await;
    agent.feed(&stream, stream.len(), 1_000).await;
    assert_waits_for_a_snapshot(&agent).await;
    agent.stop().await;
}

/// Nothing is durable, and a first snapshot is due, which makes everything durable.
async fn assert_waits_for_a_snapshot(agent: &Agent) {
    let progress = agent.all_stored().await;
    assert_eq!(progress.durable, None, "no restore brings it back");
    assert!(progress.oldest_undurable_write.is_some());
    assert!(agent.journal.snapshots().borrow().last.is_none(), "one is due at once");
    assert!(!agent.journal.resume_point().unwrap().has_snapshot);
    let end = agent.journal.resume_point().unwrap().position;
    snapshots::take(agent, end).await;
    assert_eq!(agent.progress().durable, Some(end.offset));
}

#[tokio::test]
async fn behind_a_history_without_its_document_another_begins() {
    begins_another_behind_a_lost_history(Rig::new()).await;
    begins_another_behind_a_lost_history(Rig::encrypted()).await;
}

async fn begins_another_behind_a_lost_history(rig: Rig) {
    let stream = stream(53, 20_000);
    let history = archived(&rig, &stream, 5_000).await;
    let document = names(&rig, "history/").await.pop().unwrap();
    flip_a_bit(&rig, &document).await;
    for lost in [false, true] {
        if lost {
            rig.store.inner.delete(&document).await.unwrap();
        }
        let agent = rig.start().await;
        let resume = agent.journal.resume_point().unwrap();
        assert_eq!(resume.position, position(history, 5_000));
        assert!(resume.damaged && resume.replication_ids.is_empty(), "it cannot be continued: {resume:?}");
        agent.kill().await;
    }
    let agent = rig.start().await;
    let second = agent.begin(2).await;
    agent.feed(&stream, stream.len(), 1_000).await;
    agent.all_stored().await;
    agent.stop().await;
    let catalog = Catalog::open(&rig.source(), &rig.identities()).await.unwrap();
    let start = &catalog.history(second).unwrap().start;
    assert_eq!(start.predecessor, Some(position(history, 5_000)));
    assert_eq!(catalog.lost.len(), 1);
}

#[tokio::test]
async fn without_its_marker_an_archive_is_not_made_anew() {
    let rig = Rig::new();
    archived(&rig, &stream(54, 2_000), 1_000).await;
    rig.store.inner.delete(&Path::from("default/archive")).await.unwrap();
    let Err(error) = rig.try_start_in(&rig.spool).await else { panic!("made anew") };
    assert!(error.to_string().contains("default/archive is missing"), "{error}");
    assert_eq!(names(&rig, "archive").await, []);
}

#[tokio::test]
async fn a_term_that_was_written_in_is_not_claimed_again() {
    let rig = Rig::new();
    let stream = stream(55, 3_000);
    let history = archived(&rig, &stream, 1_000).await;
    rig.store.inner.delete(&Path::from("default/term/0000000001")).await.unwrap();
    let agent = rig.start().await;
    assert_eq!(agent.progress().term, Term(2));
    agent.feed(&stream, stream.len(), 1_000).await;
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream);
}

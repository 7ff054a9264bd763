//! What flows when nobody dies.

use redwind_archive::documents::{HolderSign, HolderState};
use redwind_archive::layout::{ObjectName, Sign};

use super::faulty::Fault;
use super::*;
use crate::journal::spool::Kind;
use crate::journal::{ReceivedMark, Verdict};

#[tokio::test]
async fn what_is_fed_is_stored_byte_for_byte() {
    let rig = Rig::new();
    let agent = rig.start().await;
    assert_eq!(agent.journal.resume_point(), None);
    let history = agent.begin(1).await;
    let stream = stream(1, 100_000);
    agent.feed(&stream, stream.len(), 3_000).await;
    let progress = agent.all_stored().await;
    assert_eq!(progress.durable, None);
    assert!(progress.oldest_undurable_write.is_some());
    assert_eq!(agent.stop().await, COMPLETE);
    assert_eq!(rig.stored(history).await, stream);

    let agent = rig.start().await;
    let resume = agent.journal.resume_point().unwrap();
    assert_eq!(resume.position, position(history, stream.len()));
    assert_eq!(resume.replication_ids, [ReplicationId { id: ID, since: START }]);
    assert!(!resume.has_snapshot);
    let mut framer = Framer::new(None);
    framer.push(&stream, |_| {}).unwrap();
    assert_eq!(resume.framer, framer.state());
    agent.stop().await;
}

#[tokio::test]
async fn a_write_counts_as_waiting_from_when_it_is_handed_over() {
    let rig = Rig::new();
    let agent = rig.start().await;
    agent.begin(1).await;
    agent.all_stored().await;
    assert_eq!(agent.progress().oldest_undurable_write, None);
    let handed_over = rig.clock.now();
    agent.feed(&stream(7, 1_000), 1_000, 1_000).await;
    let waiting = agent.progress().oldest_undurable_write;
    assert!(waiting >= Some(handed_over), "whatever the disk does: {waiting:?}");
    let progress = agent.all_stored().await;
    assert_eq!(progress.oldest_undurable_write, waiting, "there is no snapshot");
    agent.stop().await;
}

/// `/dev/full` has no room for the document of a history.
#[tokio::test]
async fn a_stop_with_bytes_that_found_no_room_is_not_told_as_complete() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let document = agent.journal.upstream.spool.path(Kind::History, 1).with_extension("new");
    std::os::unix::fs::symlink("/dev/full", document).unwrap();
    agent.begin(1).await;
    agent.feed(&stream(8, 1_000), 1_000, 1_000).await;
    let mut usage = agent.journal.spool_usage();
    tokio::time::timeout(PATIENCE, usage.wait_for(|usage| usage.full)).await.unwrap().unwrap();
    let end = agent.stop().await;
    let sign: Option<HolderSign> = rig.source().find_document(&ObjectName::Sign(Sign::Holder)).await.unwrap();
    assert_ne!(sign.map(|sign| sign.state), Some(HolderState::Stopped), "{end:?}");
    assert!(!end.complete);
}

#[tokio::test]
async fn an_outage_is_outlasted_and_told() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(2, 60_000);
    rig.store.always(Fault::Denied);
    agent.feed(&stream, stream.len(), 2_000).await;
    agent.seal().await;
    let failing = agent.wait_for(|progress| progress.store_error.is_some()).await;
    assert!(failing.store_failing_since.is_some());
    assert_eq!(failing.stored, START);
    rig.store.always(Fault::None);
    let progress = agent.all_stored().await;
    assert_eq!(progress.store_error, None);
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn puts_that_were_stored_and_failed_count_once() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(3, 60_000);
    rig.store.plan([Fault::FailAfter, Fault::TakenByItself, Fault::Fail].repeat(5));
    agent.feed(&stream, stream.len(), 2_000).await;
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn a_long_outage_makes_few_segments() {
    let rig = Rig { segment_bytes_max: 64 << 10, ..Rig::new() };
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(4, 60_000);
    rig.store.hang();
    for end in (0..stream.len()).step_by(100).chain([stream.len()]) {
        agent.feed(&stream, end, 100).await;
        agent.seal().await;
    }
    agent.wait_for(|progress| progress.spooled == position(history, stream.len()).offset).await;
    rig.store.answer();
    // The last flush only synced the spool: it becomes a segment when the store has caught up, without
    // another one.
    agent.wait_for(|progress| progress.stored == position(history, stream.len()).offset).await;
    agent.stop().await;
    assert!(rig.store.puts("/log/").len() < 80, "{}", rig.store.puts("/log/").len());
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn late_bytes_go_to_a_page_of_their_own() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(5, 60_000);
    agent.feed(&stream, 10_000, 1_000).await;
    let late_since = rig.clock.now();
    agent.feed_late(&stream, 30_000, 1_000, Some(late_since)).await;
    agent.feed(&stream, stream.len(), 1_000).await;
    agent.all_stored().await;
    agent.stop().await;
    let catalog = Catalog::open(&rig.source(), &rig.identities()).await.unwrap();
    let pages = &catalog.history(history).unwrap().pages;
    let starts: Vec<(u64, bool)> =
        pages.iter().map(|page| (page.start.since(START), page.time == late_since)).collect();
    assert_eq!(starts, [(0, false), (10_000, true), (30_000, false)]);
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn idle_minutes_are_stored_without_a_look_at_the_term_for_each() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(6, 1_000);
    agent.feed(&stream, stream.len(), 1_000).await;
    let told = agent.all_stored().await.complete_until.unwrap();
    let heads = rig.store.heads();
    let minute = |n: u64| told.after(Duration::from_secs(60 * n));
    for n in 1..=10 {
        agent.sender.send(Entry::Seal { read_until: minute(n) }).await.unwrap();
    }
    agent.wait_for(|progress| progress.complete_until == Some(minute(10))).await;
    assert_eq!(rig.store.heads() - heads, 1);
    // What was told before is not told again.
    agent.sender.send(Entry::Seal { read_until: minute(3) }).await.unwrap();
    agent.stop().await;
    assert_eq!(rig.store.puts("/log/").len(), 11);
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn an_unreachable_store_does_not_keep_an_agent_from_stopping() {
    let rig = Rig { drain_deadline: Duration::from_millis(50), ..Rig::new() };
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(7, 50_000);
    agent.feed(&stream, 10_000, 1_000).await;
    agent.all_stored().await;
    rig.store.hang();
    agent.feed(&stream, stream.len(), 1_000).await;
    agent.seal().await;
    agent.wait_for(|progress| progress.spooled == position(history, stream.len()).offset).await;
    let left = agent.stop().await;
    assert!(left.left_segments > 0 && left.left_bytes > 0, "{left:?}");
    rig.store.answer();

    let agent = rig.start().await;
    assert_eq!(agent.journal.resume_point().unwrap().position, position(history, stream.len()));
    agent.wait_for(|progress| progress.stored == position(history, stream.len()).offset).await;
    agent.kill().await;
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn a_full_spool_says_so_until_it_is_half_empty() {
    let rig = Rig { spool_bytes_max: 40_000, ..Rig::new() };
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let mut usage = agent.journal.spool_usage();
    rig.store.hang();
    let stream = stream(8, 200_000);
    let mut end = 0;
    while !usage.borrow_and_update().full {
        end += 1_000;
        agent.feed(&stream, end, 1_000).await;
        assert!(end < 150_000);
        agent.seal().await;
        agent.wait_for(|progress| progress.spooled == position(history, end).offset).await;
    }
    rig.store.answer();
    let room = usage.wait_for(|usage| !usage.full);
    let room = *tokio::time::timeout(PATIENCE, room).await.unwrap().unwrap();
    assert!(room.used_bytes < 20_000, "{room:?}");
    agent.all_stored().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_history_follows_another_in_one_spool() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let first = agent.begin(1).await;
    let (old, new) = (stream(9, 30_000), stream(10, 30_000));
    rig.store.hang();
    agent.feed(&old, old.len(), 1_000).await;
    let second = agent.begin(2).await;
    agent.feed(&new, new.len(), 1_000).await;
    rig.store.answer();
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(first).await, old);
    assert_eq!(rig.stored(second).await, new);
    let catalog = Catalog::open(&rig.source(), &rig.identities()).await.unwrap();
    let start = &catalog.history(second).unwrap().start;
    assert_eq!(start.predecessor, Some(position(first, old.len())));
    assert!(start.predecessor_complete_until.is_some());
}

#[tokio::test]
async fn a_new_replication_id_begins_a_segment() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(11, 3_000);
    agent.feed(&stream, 1_000, 1_000).await;
    agent.attach([b'b'; 40], position(history, 1_000).offset).await;
    agent.feed(&stream, stream.len(), 500).await;
    agent.all_stored().await;
    agent.stop().await;
    let agent = rig.start().await;
    let ids = agent.journal.resume_point().unwrap().replication_ids;
    assert_eq!(ids.iter().map(|id| (id.id[0], id.since.since(START))).collect::<Vec<_>>(), [(b'a', 0), (b'b', 1_000)]);
    agent.stop().await;
    assert_eq!(rig.store.puts("/log/").len(), 2);
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let rig = Rig::new();
    rig.store.always(Fault::Overwrite);
    let error = rig.try_start_in(&rig.spool).await.err().unwrap();
    assert!(matches!(error, JournalError::Unfit { .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Store);
}

#[tokio::test]
async fn a_spool_of_another_archive_or_in_use_is_refused() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let error = rig.try_start_in(&rig.spool).await.err().unwrap();
    assert!(matches!(error, JournalError::SpoolLocked { .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Fenced);
    agent.stop().await;
    let other = Rig::new();
    let error = other.try_start_in(&rig.spool).await.err().unwrap();
    assert!(matches!(error, JournalError::OtherSpool { .. }), "{error}");
}

#[test]
fn what_was_read_and_not_handed_over_is_forgotten_with_its_link() {
    let mark = ReceivedMark::default();
    mark.raise(Offset(70), Timestamp(7));
    mark.set_unsent_write(Some(Timestamp(6)));
    mark.reset(Offset(50));
    assert_eq!((mark.offset(), mark.at(), mark.unsent_write()), (Offset(50), Timestamp(7), None));
}

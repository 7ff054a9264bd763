//! Two agents on one archive: one of them writes.

use super::*;
use crate::journal::Verdict;
use redwind_archive::document;
use redwind_archive::documents::TermClaim;
use redwind_archive::layout::ObjectName;

#[tokio::test]
async fn after_the_next_term_exists_nothing_more_is_reported() {
    let rig = Rig::new();
    let mut agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(20, 30_000);
    agent.feed(&stream, 10_000, 1_000).await;
    let before = agent.all_stored().await;
    rig.store.hang();
    agent.feed(&stream, 20_000, 1_000).await;
    agent.seal().await;
    agent.wait_for(|progress| progress.spooled == position(history, 20_000).offset).await;

    let claim = TermClaim {
        term: before.term.next(),
        writer: Ulid(9),
        host: "other-host".to_owned(),
        pid: 4711,
        claimed: rig.clock.now(),
        redwind: "0.1.0".to_owned(),
        spool: None,
    };
    // Not through the faulty store, which hangs.
    let theirs = Store::over(Arc::clone(&rig.store.inner) as _, "memory://").source(&"default".parse().unwrap());
    theirs.put_new(&ObjectName::Term(claim.term), document::encode(&claim)).await.unwrap();
    rig.store.answer();
    let error = agent.failure().await;
    assert!(error.to_string().contains("other-host"), "{error}");
    assert_eq!(error.verdict(), Verdict::Fenced);
    let after = agent.progress();
    assert!(after.fenced);
    assert_eq!((after.stored, after.complete_until), (before.stored, before.complete_until));
    // The sealer's thread hears of the end a moment later; then it takes nothing any more.
    let refused = async {
        while agent.sender.send(Entry::Seal { read_until: rig.clock.now() }).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_taken_by_somebody_else_is_a_conflict() {
    let rig = Rig::new();
    let mut agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(21, 2_000);
    rig.store.hang();
    agent.feed(&stream, 1_000, 1_000).await;
    agent.seal().await;
    agent.wait_for(|progress| progress.spooled == position(history, 1_000).offset).await;
    let theirs = Store::over(Arc::clone(&rig.store.inner) as _, "memory://").source(&"default".parse().unwrap());
    theirs.put_new(&ObjectName::History(history), "theirs".into()).await.unwrap();
    rig.store.answer();
    let error = agent.failure().await;
    assert!(matches!(error, JournalError::Conflict { .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Fenced);
}

/// A machine is cut off; another takes over; the first comes back with a spool that holds what it never
/// stored.
#[tokio::test]
async fn a_spool_that_the_archive_went_on_without_is_dropped() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let ours = stream(22, 30_000);
    agent.feed(&ours, 10_000, 1_000).await;
    agent.all_stored().await;
    rig.store.hang();
    agent.feed(&ours, 20_000, 1_000).await;
    agent.wait_for(|progress| progress.spooled > position(history, 10_000).offset).await;
    agent.kill().await;
    rig.store.answer();

    // The other's server was promoted with other data from byte 10,000 on.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = rig.start_in(&elsewhere).await;
    other.attach([b'b'; 40], position(history, 10_000).offset).await;
    let mut theirs = ours[..10_000].to_vec();
    let cut = other.journal.resume_point().unwrap().framer.record_bytes() as usize;
    theirs.truncate(10_000 - cut);
    theirs.extend_from_slice(&ours[10_000 - cut..10_000]);
    theirs.extend_from_slice(&ours[10_000..18_000]);
    other.feed(&theirs, 18_000, 700).await;
    other.all_stored().await;
    other.stop().await;

    let agent = rig.start().await;
    let resume = agent.journal.resume_point().unwrap();
    assert_eq!(resume.position, position(history, 18_000));
    assert_eq!(resume.replication_ids.last().unwrap().id, [b'b'; 40]);
    agent.stop().await;
    assert_eq!(rig.stored(history).await, theirs);
}

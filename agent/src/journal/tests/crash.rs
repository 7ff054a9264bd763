//! Kill -9 and power loss: the spool as it may be found, and what becomes of it.

use std::fs;
use std::path::PathBuf;

use super::faulty::Fault;
use super::*;

/// A copy of the spool as it lies on disk now, while its agent goes on.
fn copy_of(spool: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().join("default");
    fs::create_dir(&to).unwrap();
    let listed: Vec<_> = fs::read_dir(spool.path().join("default")).unwrap().map(Result::unwrap).collect();
    for entry in listed {
        match fs::copy(entry.path(), to.join(entry.file_name())) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
    copy
}

fn newest_segment(spool: &TempDir) -> Option<PathBuf> {
    let files = fs::read_dir(spool.path().join("default")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rws")).max()
}

/// The store does not answer, so that everything lies in the spool; it is cut at every byte.
#[tokio::test]
async fn a_spool_cut_at_any_byte_is_resumed_at_its_last_whole_block() {
    cut_at_any_byte(Rig::new()).await;
}

/// The agent that resumes holds no key to what it finds.
#[tokio::test]
async fn an_encrypted_spool_cut_at_any_byte_is_resumed_without_its_key() {
    cut_at_any_byte(Rig::encrypted()).await;
}

async fn cut_at_any_byte(rig: Rig) {
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(30, 4_000);
    agent.feed(&stream, 1_000, 500).await;
    agent.all_stored().await;
    agent.feed(&stream, 2_500, 250).await;
    rig.store.hang();
    agent.seal().await;
    agent.wait_for(|progress| progress.spooled == position(history, 2_500).offset).await;
    agent.kill().await;
    rig.store.answer();
    let newest = newest_segment(&rig.spool).unwrap();
    let whole = fs::read(&newest).unwrap();

    let mut resumed = std::collections::BTreeSet::new();
    for cut in (0..=whole.len()).step_by(7).chain([whole.len()]) {
        let copy = copy_of(&rig.spool);
        let file = newest_segment(&copy).unwrap();
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(cut as u64).unwrap();
        let agent = rig.start_in(&copy).await;
        let resume = agent.journal.resume_point().unwrap();
        let offset = resume.position.offset.since(START) as usize;
        assert!((1_000..=2_500).contains(&offset), "cut at {cut}: {offset}");
        resumed.insert(offset);
        let mut framer = Framer::new(None);
        framer.push(&stream[..offset], |_| {}).unwrap();
        assert_eq!(resume.framer, framer.state(), "cut at {cut}");
        agent.kill().await;
        if resumed.len() > 1 && offset == 2_500 {
            break;
        }
    }
    assert!(resumed.len() >= 2, "{resumed:?}");
    let agent = rig.start().await;
    agent.feed(&stream, stream.len(), 300).await;
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream);
}

/// The spool is copied while its agent writes; a second agent takes over with the copy, while the
/// first, not knowing, goes on until it is fenced. What either reported is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_reported_survives_a_takeover_at_any_moment() {
    for round in 0..12_u64 {
        let rig = Rig::new();
        let stream = stream(100 + round, 120_000);
        let mut agent = rig.start().await;
        let history = agent.begin(1).await;
        rig.store.plan([Fault::FailAfter, Fault::None, Fault::Fail, Fault::TakenByItself].repeat(3));
        let end = 10_000 + 9_000 * round as usize;
        agent.feed(&stream, end, 1_700).await;

        rig.store.behave();
        let copy = copy_of(&rig.spool);
        let second = rig.start_in(&copy).await;
        let resumed = second.journal.resume_point();
        // The zombie writes on.
        let mut offset = end;
        let error = loop {
            offset = (offset + 1_000).min(stream.len());
            if agent.run.is_finished() {
                break agent.failure().await;
            }
            let ResumePoint { position, framer, .. } = agent.journal.resume_point().unwrap();
            let from = position.offset.since(START) as usize;
            if from < offset {
                let batch = agent.batch(position.offset, Framer::resume(framer), &stream[from..offset], None);
                drop(agent.sender.send(Entry::Append(batch)).await);
            }
            drop(agent.sender.send(Entry::Seal { read_until: rig.clock.now() }).await);
            tokio::task::yield_now().await;
        };
        assert!(matches!(error, JournalError::Fenced(_)), "round {round}: {error}");
        let reported = agent.progress();
        match resumed {
            Some(resume) => {
                assert!(
                    reported.history.is_none() || resume.position.offset >= reported.stored,
                    "round {round}: {resume:?} {reported:?}"
                );
            }
            None => {
                // It may have been fenced before its history was in the spool.
                assert!(reported.history.is_none() || reported.stored == START, "round {round}: {reported:?}");
                second.begin(1).await;
            }
        }
        second.feed(&stream, stream.len(), 2_000).await;
        second.all_stored().await;
        second.stop().await;
        assert_eq!(rig.stored(history).await, stream, "round {round}");
    }
}

#[tokio::test]
async fn a_lost_spool_costs_only_what_was_not_stored() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(31, 40_000);
    agent.feed(&stream, 20_000, 1_000).await;
    agent.all_stored().await;
    agent.feed(&stream, 21_000, 1_000).await;
    let reported = agent.kill().await;
    let fresh = tempfile::tempdir().unwrap();
    let agent = rig.start_in(&fresh).await;
    assert_eq!(agent.journal.resume_point().unwrap().position.offset, reported.stored);
    agent.feed(&stream, stream.len(), 1_000).await;
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream);
}

#[tokio::test]
async fn damage_in_the_spool_costs_what_lies_behind_it() {
    let rig = Rig::new();
    let agent = rig.start().await;
    let history = agent.begin(1).await;
    let stream = stream(32, 40_000);
    agent.feed(&stream, 1_000, 1_000).await;
    agent.all_stored().await;
    rig.store.hang();
    for end in [10_000, 20_000, 30_000] {
        agent.feed(&stream, end, 1_000).await;
        agent.seal().await;
        agent.wait_for(|progress| progress.spooled == position(history, end).offset).await;
    }
    agent.kill().await;
    rig.store.answer();
    let files = fs::read_dir(rig.spool.path().join("default")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some()).collect();
    files.sort();
    let middle = &files[files.len() / 2];
    let mut bytes = fs::read(middle).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(middle, bytes).unwrap();

    let agent = rig.start().await;
    let resume = agent.journal.resume_point().unwrap().position.offset.since(START);
    assert!((1_000..30_000).contains(&resume), "{resume}");
    agent.feed(&stream, stream.len(), 1_000).await;
    agent.all_stored().await;
    agent.stop().await;
    assert_eq!(rig.stored(history).await, stream);
}

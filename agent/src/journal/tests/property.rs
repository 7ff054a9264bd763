//! Any order of feeding, sealing, failing, dying and losing disks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::faulty::Fault;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Feed {
        bytes: usize,
        step: usize,
    },
    FeedLate {
        bytes: usize,
    },
    Seal,
    NewId,
    NewHistory,
    Faults(Vec<Fault>),
    Kill,
    /// Dies, and its newest file loses some of its end.
    Crash {
        lost: usize,
    },
    LoseSpool,
    Stop,
    Settle,
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::None),
        Just(Fault::Fail),
        Just(Fault::FailAfter),
        Just(Fault::TakenByItself),
        Just(Fault::Denied),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..6_000_usize, 1..3_000_usize).prop_map(|(bytes, step)| Step::Feed { bytes, step }),
        1 => (1..6_000_usize).prop_map(|bytes| Step::FeedLate { bytes }),
        5 => Just(Step::Seal),
        1 => Just(Step::NewId),
        1 => Just(Step::NewHistory),
        2 => prop::collection::vec(faults(), 1..5).prop_map(Step::Faults),
        2 => Just(Step::Kill),
        2 => (1..3_000_usize).prop_map(|lost| Step::Crash { lost }),
        1 => Just(Step::LoseSpool),
        1 => Just(Step::Stop),
        2 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 1..40)
}

/// The streams that are fed, and how much of each was ever reported as stored.
struct World {
    rig: Rig,
    reported: BTreeMap<HistoryId, u64>,
    streams: BTreeMap<HistoryId, Vec<u8>>,
    histories: u128,
    ids: u8,
}

impl World {
    fn stream(&mut self, history: HistoryId) -> &[u8] {
        self.streams.entry(history).or_insert_with(|| stream(history.0.0 as u64, 300_000))
    }

    async fn new_history(&mut self, agent: &Agent) {
        self.histories += 1;
        let history = agent.begin(self.histories).await;
        self.stream(history);
    }

    async fn feed(&mut self, agent: &Agent, bytes: usize, step: usize, late: bool) {
        let Some(resume) = agent.journal.resume_point() else { return };
        let from = resume.position.offset.since(START) as usize;
        let late_since = late.then(|| self.rig.clock.now());
        let stream = self.stream(resume.position.history);
        agent.feed_late(stream, from + bytes, step, late_since).await;
    }

    /// Starts again; what `reported` says is stored must be there, and whatever resumes must be true.
    async fn restart(&mut self, reported: &Progress) -> Result<Agent, TestCaseError> {
        // At a start the store must answer.
        self.rig.store.behave();
        let agent = self.rig.start().await;
        if let Some(history) = reported.history {
            let most = self.reported.entry(history).or_default();
            *most = (*most).max(reported.stored.since(START));
        }
        let Some(resume) = agent.journal.resume_point() else {
            prop_assert_eq!(reported.stored, reported.history_start);
            self.new_history(&agent).await;
            return Ok(agent);
        };
        if reported.history == Some(resume.position.history) {
            prop_assert!(resume.position.offset >= reported.stored, "{:?} {:?}", resume, reported);
        }
        let mut framer = Framer::new(None);
        let offset = resume.position.offset.since(START) as usize;
        framer.push(&self.stream(resume.position.history)[..offset], |_| {}).unwrap();
        prop_assert_eq!(resume.framer, framer.state());
        Ok(agent)
    }

    fn cut_newest(&self, lost: usize) {
        let files = std::fs::read_dir(self.rig.spool.path().join("default")).unwrap();
        let segments = files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some());
        let Some(newest) = segments.max() else { return };
        let file = std::fs::OpenOptions::new().write(true).open(newest).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(lost as u64)).unwrap();
    }

    async fn play(mut self, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut agent = self.rig.start().await;
        self.new_history(&agent).await;
        for step in steps {
            match step {
                Step::Feed { bytes, step } => self.feed(&agent, bytes, step, false).await,
                Step::FeedLate { bytes } => self.feed(&agent, bytes, 1_000, true).await,
                Step::Seal => agent.seal().await,
                Step::NewId => {
                    self.ids += 1;
                    let end = agent.journal.resume_point().unwrap().position.offset;
                    agent.attach([b'a' + self.ids % 26; 40], end).await;
                }
                Step::NewHistory => self.new_history(&agent).await,
                Step::Faults(faults) => self.rig.store.plan(faults),
                Step::Settle => drop(agent.all_stored().await),
                Step::Kill => {
                    let reported = agent.kill().await;
                    agent = self.restart(&reported).await?;
                }
                Step::Crash { lost } => {
                    let reported = agent.kill().await;
                    self.cut_newest(lost);
                    agent = self.restart(&reported).await?;
                }
                Step::LoseSpool => {
                    let reported = agent.kill().await;
                    self.rig.spool = tempfile::tempdir().unwrap();
                    agent = self.restart(&reported).await?;
                }
                Step::Stop => {
                    let progress = agent.journal.progress();
                    let end = agent.stop().await;
                    prop_assert_eq!(end, COMPLETE);
                    let reported = progress.borrow().clone();
                    prop_assert_eq!(reported.stored, reported.spooled);
                    agent = self.restart(&reported).await?;
                }
            }
        }
        agent.all_stored().await;
        let end = agent.journal.resume_point().unwrap().position;
        agent.stop().await;
        let stored = self.rig.stored(end.history).await;
        prop_assert_eq!(stored.len() as u64, end.offset.since(START));
        for (history, stream) in &self.streams {
            let stored = self.rig.stored(*history).await;
            prop_assert!(stream.starts_with(&stored), "{}", history);
            let reported = self.reported.get(history).copied().unwrap_or_default();
            prop_assert!(stored.len() as u64 >= reported, "{}: {} of {}", history, stored.len(), reported);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_reported_is_lost_and_nothing_stored_is_wrong(steps in steps(), encrypted: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rig = if encrypted { Rig::encrypted() } else { Rig::new() };
        let world = World { rig, reported: BTreeMap::new(), streams: BTreeMap::new(), histories: 0, ids: 0 };
        runtime.block_on(world.play(steps))?;
    }
}

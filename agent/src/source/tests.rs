//! The whole follower against a server that the test plays, and a real journal.

mod fake_primary;

use std::time::{Duration, Instant};

use redwind_archive::documents::{Cause, SnapshotReason};
use redwind_archive::position::Offset;
use redwind_archive::store::Store;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use self::fake_primary::FakePrimary;
use super::*;
use crate::config::{COMPRESSION_LEVEL_DEFAULT, SEGMENT_BYTES_DEFAULT, SPOOL_BYTES_DEFAULT, SpoolConfig};
use crate::error::AgentExit;
use crate::journal::{Candidacy, Progress};

/// An agent without its outside: follower and journal over a store in a folder.
struct Agent {
    journal: Arc<Journal>,
    link: watch::Receiver<LinkState>,
    progress: watch::Receiver<Progress>,
    requests: mpsc::Sender<SnapshotRequest>,
    cancel: CancellationToken,
    following: AbortOnDropHandle<Result<(), SourceError>>,
    _journaling: AbortOnDropHandle<()>,
    _folder: tempfile::TempDir,
}

impl Agent {
    async fn start(server: &FakePrimary) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let config = SourceConfig {
            name: "default".parse().unwrap(),
            server: server.url().parse().unwrap(),
            password_file: None,
            tls: redwind_link::TlsOptions::default(),
            store: format!("file://{}", store.display()).parse().unwrap(),
            recipients: redwind_archive::keys::Recipients::default(),
            spool: SpoolConfig { dir: folder.path().join("spool"), bytes_max: SPOOL_BYTES_DEFAULT },
            flush_interval: Duration::from_millis(50),
            getack_interval: Duration::from_millis(10),
            segment_bytes_max: SEGMENT_BYTES_DEFAULT,
            compression_level: COMPRESSION_LEVEL_DEFAULT,
            snapshot_interval: None,
        };
        let clock = Arc::new(Clock::new());
        let archive = Store::create(&config.store).unwrap();
        let candidacy = Candidacy::open(archive.source(&config.name), &config, Arc::clone(&clock)).await.unwrap();
        let (journal, tasks) = candidacy.take_over(CancellationToken::new()).await.unwrap();
        let journal = Arc::new(journal);
        let (requests, receiver) = mpsc::channel(1);
        let follower = SourceFollower::new(&config, Arc::clone(&journal), clock, receiver, Arc::new(Notify::new()));
        let cancel = CancellationToken::new();
        Self {
            link: follower.link_state(),
            progress: journal.progress(),
            journal,
            requests,
            following: AbortOnDropHandle::new(tokio::spawn(follower.run(cancel.clone()))),
            cancel,
            _journaling: AbortOnDropHandle::new(tokio::spawn(async move {
                tasks.run().await.unwrap();
            })),
            _folder: folder,
        }
    }

    async fn await_link(&mut self, what: &str, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
        let reached = tokio::time::timeout(Duration::from_secs(20), self.link.wait_for(wanted)).await;
        reached.unwrap_or_else(|_| panic!("waited in vain: {what}")).unwrap().clone()
    }

    async fn await_progress(&mut self, what: &str, wanted: impl Fn(&Progress) -> bool) -> Progress {
        let reached = tokio::time::timeout(Duration::from_secs(20), self.progress.wait_for(wanted)).await;
        reached.unwrap_or_else(|_| panic!("waited in vain: {what}")).unwrap().clone()
    }

    async fn await_durable(&mut self, offset: u64) -> Progress {
        self.await_progress("durable", |progress| progress.durable >= Some(Offset(offset))).await
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.following.await.unwrap().unwrap();
    }
}

/// Waits until `met`.
async fn until(what: &str, met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !met() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn streaming(state: &LinkState) -> bool {
    state.phase == Phase::Streaming
}

#[tokio::test]
async fn a_server_without_a_backlog_is_followed_from_an_empty_rdb_on_and_then_a_snapshot_is_taken() {
    let server = FakePrimary::start("7.0.15", false).await;
    let mut agent = Agent::start(&server).await;
    let state = agent.await_link("streaming", streaming).await;
    assert_eq!((state.full_resyncs, state.partial_resyncs), (1, 0));
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    assert_eq!(server.commands("PSYNC"), ["PSYNC ? -1", "PSYNC ? -1"]);
    assert_eq!(server.commands("REPLCONF rdb-"), ["REPLCONF rdb-filter-only ", "REPLCONF rdb-only 1"]);
    assert!(server.commands("REPLCONF listening-port").is_empty());
    let manifest = agent.journal.snapshots().borrow().last.clone().unwrap();
    assert_eq!(manifest.reason, SnapshotReason::First);
    agent.stop().await;
}

#[tokio::test]
async fn nothing_but_what_is_durable_is_acknowledged_and_never_the_last_byte() {
    let server = FakePrimary::start("7.2.0", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    for round in 0..30 {
        let end = server.write(&["SET", "a", &round.to_string()]);
        server.write(&["REPLCONF", "GETACK", "*"]);
        agent.await_durable(end).await;
        until("an acknowledgement of the write", || server.change(|s| s.acks.last() >= Some(&end))).await;
        let (acks, offset) = server.change(|server| (server.acks.clone(), server.offset()));
        assert!(acks.is_sorted() && acks.iter().all(|&ack| ack < offset), "{acks:?} of {offset}");
        let durable = agent.progress.borrow().durable.unwrap_or_default();
        assert!(acks.iter().all(|&ack| ack <= durable.0), "{acks:?} with {durable}");
    }
    assert_eq!(server.commands("PSYNC")[0], format!("PSYNC {} 5001", "a".repeat(40)));
    assert!(server.commands("REPLCONF ACK").last().unwrap().contains(" FACK "));
    agent.stop().await;
}

#[tokio::test]
async fn a_link_that_is_cut_is_taken_up_where_it_was() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    for round in 1..=3 {
        let end = server.write(&["SET", "a", "1"]);
        agent.await_durable(end).await;
        server.disconnect();
        server.write(&["SET", "while", "away"]);
        agent.await_link("again", |state| state.partial_resyncs == round + 1).await;
    }
    let end = server.write(&["SET", "b", "1"]);
    let progress = agent.await_durable(end).await;
    assert_eq!((progress.history_start, agent.link.borrow().gaps), (Offset(5000), 0));
    agent.stop().await;
}

#[tokio::test]
async fn a_failover_that_the_server_continues_is_the_same_history_under_another_id() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    server.change(|server| {
        server.former = Some((server.replid.clone(), server.offset() + 1));
        server.replid = "b".repeat(40);
        server.generation += 1;
    });
    agent.await_link("the new ID", |state| state.replication_id == Some("b".repeat(40)) && streaming(state)).await;
    let end = server.write(&["SET", "b", "1"]);
    agent.await_durable(end).await;
    let point = agent.journal.resume_point().unwrap();
    let ids: Vec<_> = point.replication_ids.iter().map(|id| (id.as_str(), id.since)).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_eq!((ids[1].0, agent.link.borrow().gaps), ("b".repeat(40).as_str(), 0));
    agent.stop().await;
}

#[tokio::test]
async fn a_full_resync_instead_of_a_continuation_begins_a_new_history_with_its_own_snapshot() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    let before = agent.await_durable(end).await;
    server.change(|server| {
        server.full_resyncs = 1;
        server.generation += 1;
    });
    let state = agent.await_link("a gap", |state| state.gaps == 1 && streaming(state)).await;
    assert_eq!(state.last_gap.unwrap().cause, Cause::BacklogLost);
    let end = server.write(&["SET", "b", "1"]);
    let after =
        agent.await_progress("durable again", |p| p.history != before.history && p.durable >= Some(Offset(end)));
    after.await;
    assert_eq!(server.commands("REPLCONF rdb-only").len(), 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_history_that_is_lost_for_sure_is_replaced_without_a_fork_for_the_log() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    server.change(|server| {
        server.replid = "c".repeat(40);
        server.backlog_start = 100;
        server.backlog.clear();
        server.generation += 1;
    });
    let state = agent.await_link("a gap", |state| state.gaps == 1 && streaming(state)).await;
    assert_eq!((state.last_gap.unwrap().cause, state.full_resyncs), (Cause::OffsetsWentBack, 0));
    let end = server.write(&["SET", "b", "1"]);
    agent.await_progress("durable", |p| p.history_start == Offset(100) && p.durable >= Some(Offset(end))).await;
    agent.stop().await;
}

#[tokio::test]
async fn redis_6_without_a_backlog_gives_the_snapshot_first_and_the_log_is_fitted_to_it() {
    let server = FakePrimary::start("6.2.16", false).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    assert_eq!(server.commands("PSYNC"), ["PSYNC ? -1".to_owned(), format!("PSYNC {} 5001", "a".repeat(40))]);
    assert_eq!(agent.link.borrow().full_resyncs, 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_full_resync_that_cannot_leave_the_keys_out_is_the_first_snapshot() {
    let server = FakePrimary::start("6.2.16", true).await;
    server.change(|server| server.full_resyncs = 1);
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    let manifest = agent.journal.snapshots().borrow().last.clone().unwrap();
    assert_eq!(manifest.reason, SnapshotReason::FullResync);
    assert!(server.commands("REPLCONF rdb-only").is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn a_refusal_at_the_start_ends_the_follower_and_a_later_one_does_not() {
    let server = FakePrimary::start("7.0.15", true).await;
    server.change(|server| server.password = Some("secret"));
    let agent = Agent::start(&server).await;
    let error = agent.following.await.unwrap().unwrap_err();
    assert_eq!(error.exit(), AgentExit::Source);

    server.change(|server| server.password = None);
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    server.change(|server| {
        server.password = Some("rotated");
        server.generation += 1;
    });
    agent.await_link("refused", |state| matches!(state.phase, Phase::Refused { .. })).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_is_shutting_down_is_left_after_its_last_byte() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    server.change(|server| server.shutting_down = true);
    server.write(&["SET", "last", "1"]);
    let end = server.write(&["REPLCONF", "GETACK", "*"]);
    let state = agent.await_link("down", |state| matches!(state.phase, Phase::Down { .. })).await;
    assert!(state.phase.to_string().contains("shutting down"), "{}", state.phase);
    assert_eq!(agent.journal.resume_point().unwrap().position.offset, Offset(end));
    server.change(|server| server.shutting_down = false);
    agent.await_link("again", streaming).await;
    assert_eq!(agent.link.borrow().gaps, 0);
    agent.stop().await;
}

/// Whatever the question: its answer and what was written are held back by the same network.
#[tokio::test]
async fn while_any_question_is_without_an_answer_what_comes_is_late() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    assert_eq!(agent.link.borrow().late_since, None);
    server.change(|server| server.held = Some("INFO server"));
    server.write(&["REPLCONF", "GETACK", "*"]);
    let late = || {
        server.write(&["SET", "b", "1"]);
        agent.link.borrow().late_since.is_some()
    };
    until("what comes is late", late).await;
    server.change(|server| server.held = None);
    agent.await_link("what comes is in time", |state| state.late_since.is_none()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_taken_on_request() {
    let server = FakePrimary::start("7.0.15", true).await;
    let mut agent = Agent::start(&server).await;
    agent.await_link("streaming", streaming).await;
    let end = server.write(&["SET", "a", "1"]);
    agent.await_durable(end).await;
    let (reply, answer) = oneshot::channel();
    agent.requests.send(SnapshotRequest { reply }).await.unwrap();
    let manifest = answer.await.unwrap().unwrap();
    assert_eq!((manifest.reason, manifest.position.offset), (SnapshotReason::Requested, Offset(end)));
    agent.stop().await;
}

//! The journal as a whole, in process: fed with a known stream, on a store that fails as asked, and
//! killed at any moment. Whatever happens, what was reported is in the store, byte for byte.

mod crash;
mod damage;
mod faulty;
mod fencing;
mod flow;
mod property;
mod signs;
mod simulation;
mod snapshots;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use redwind_archive::catalog::Catalog;
use redwind_archive::chain::Chain;
use redwind_archive::documents::{Cause, HistoryStart, Server};
use redwind_archive::keys::{Identities, Keyring, NewIdentity};
use redwind_archive::layout::SourceName;
use redwind_archive::position::{HistoryId, Offset, Position, Term};
use redwind_archive::read;
use redwind_archive::segment::{Mark, ReplicationId};
use redwind_archive::store::{SourceStore, Store};
use redwind_archive::time::{Clock, Timestamp};
use redwind_stream::{Framer, RecordKind, encode_command};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::{Batch, Candidacy, Entry, EntrySender, Journal, JournalEnd, JournalError, Progress, ResumePoint, Settings};
use faulty::FaultyStore;

const PATIENCE: Duration = Duration::from_secs(60);
const ID: [u8; 40] = [b'a'; 40];
/// Where every history of these tests begins.
const START: Offset = Offset(1_000);

/// How a journal ends that has stored everything.
const COMPLETE: JournalEnd = JournalEnd { complete: true, left_segments: 0, left_bytes: 0 };

/// A store, a spool and a clock, on which agents live and die.
struct Rig {
    store: FaultyStore,
    spool: TempDir,
    clock: Arc<Clock>,
    segment_bytes_max: u64,
    spool_bytes_max: u64,
    drain_deadline: Duration,
    /// Whose archive it is, if it is encrypted.
    identity: Option<NewIdentity>,
}

impl Rig {
    fn new() -> Self {
        Self {
            store: FaultyStore::new(),
            spool: tempfile::tempdir().unwrap(),
            clock: Arc::new(Clock::new()),
            segment_bytes_max: 8 << 10,
            spool_bytes_max: 64 << 20,
            drain_deadline: PATIENCE,
            identity: None,
        }
    }

    /// A rig whose archive is encrypted: its agents hold a recipient, never the identity.
    fn encrypted() -> Self {
        Self { identity: Some(NewIdentity::generate()), ..Self::new() }
    }

    fn identities(&self) -> Identities {
        self.identity.as_ref().map(NewIdentity::identities).unwrap_or_default()
    }

    /// What opens the archive.
    async fn keys(&self) -> Keyring {
        Catalog::open(&self.source(), &self.identities()).await.unwrap().keys
    }

    fn source(&self) -> SourceStore {
        let name: SourceName = "default".parse().unwrap();
        Store::over(Arc::new(self.store.clone()), "memory://").source(&name)
    }

    fn settings(&self, spool: &TempDir) -> Settings {
        Settings {
            spool_dir: spool.path().to_owned(),
            spool_bytes_max: self.spool_bytes_max,
            segment_bytes_max: self.segment_bytes_max,
            compression_level: 1,
            recipients: self.identity.as_ref().map(NewIdentity::recipients).unwrap_or_default(),
            drain_deadline: self.drain_deadline,
        }
    }

    async fn start(&self) -> Agent {
        self.start_in(&self.spool).await
    }

    /// Starts an agent, as soon as one that was killed has let go of the spool.
    async fn start_in(&self, spool: &TempDir) -> Agent {
        let start = async {
            loop {
                match self.try_start_in(spool).await {
                    Err(JournalError::SpoolLocked { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                    started => return started.unwrap(),
                }
            }
        };
        tokio::time::timeout(PATIENCE, start).await.unwrap()
    }

    async fn try_start_in(&self, spool: &TempDir) -> Result<Agent, JournalError> {
        let cancel = CancellationToken::new();
        let candidacy = Candidacy::open_with(self.source(), self.settings(spool), Arc::clone(&self.clock)).await?;
        let (journal, tasks) = candidacy.take_over(cancel.clone()).await?;
        let sender = journal.sender();
        Ok(Agent { journal, sender, run: tokio::spawn(tasks.run()), cancel, clock: Arc::clone(&self.clock) })
    }

    /// What the archive holds of a history.
    async fn stored(&self, history: HistoryId) -> Vec<u8> {
        stored_in(&self.source(), &self.identities(), history).await
    }
}

/// What an archive holds of a history: every segment checked, chained, in catalog order.
async fn stored_in(store: &SourceStore, identities: &Identities, history: HistoryId) -> Vec<u8> {
    let catalog = Catalog::open(store, identities).await.unwrap();
    let Some(log) = catalog.history(history) else { return Vec::new() };
    let (mut bytes, mut chain, mut framer) = (Vec::new(), Chain::new(), Framer::new(None));
    for (index, page) in log.pages.iter().enumerate() {
        for (name, _) in log.segments(store, index).await.unwrap() {
            let segment = read::read(store, &catalog.marker, &catalog.keys, page, &name).await.unwrap();
            chain.push(&segment.header, &segment.trailer).unwrap();
            assert_eq!(segment.header.start, START.advance(bytes.len() as u64));
            assert_eq!(segment.header.framer, framer.state());
            for block in &segment.blocks {
                let piece = block.bytes().unwrap();
                framer.push(&piece, |_| {}).unwrap();
                bytes.extend_from_slice(&piece);
            }
        }
    }
    bytes
}

/// A journal that runs.
struct Agent {
    journal: Journal,
    sender: EntrySender,
    run: JoinHandle<Result<JournalEnd, JournalError>>,
    cancel: CancellationToken,
    clock: Arc<Clock>,
}

impl Agent {
    fn progress(&self) -> Progress {
        self.journal.progress().borrow().clone()
    }

    async fn wait_for(&self, reached: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.journal.progress();
        let waited = tokio::time::timeout(PATIENCE, progress.wait_for(reached)).await;
        waited.unwrap_or_else(|_| panic!("not reached: {:?}", self.progress())).unwrap().clone()
    }

    async fn begin(&self, history: u128) -> HistoryId {
        let history = HistoryId(Ulid(history));
        self.sender.send(Entry::Begin(history_start(history, self.clock.now()))).await.unwrap();
        self.attach(ID, START).await;
        history
    }

    async fn attach(&self, id: [u8; 40], since: Offset) {
        let replication_id = ReplicationId { id, since };
        self.sender.send(Entry::Attach { replication_id, clock_offset: Some(7) }).await.unwrap();
    }

    /// Feeds `stream` from where the journal stands up to `end`, in batches of `step` bytes.
    async fn feed(&self, stream: &[u8], end: usize, step: usize) {
        self.feed_late(stream, end, step, None).await;
    }

    async fn feed_late(&self, stream: &[u8], end: usize, step: usize, late_since: Option<Timestamp>) {
        loop {
            let ResumePoint { position, framer, .. } = self.journal.resume_point().unwrap();
            let from = position.offset.since(START) as usize;
            let to = end.min(from + step);
            if from >= to {
                return;
            }
            let batch = self.batch(position.offset, Framer::resume(framer), &stream[from..to], late_since);
            self.sender.send(Entry::Append(batch)).await.unwrap();
        }
    }

    fn batch(&self, start: Offset, mut framer: Framer, piece: &[u8], late_since: Option<Timestamp>) -> Batch {
        let mut bytes = self.sender.buffer();
        bytes.extend_from_slice(piece);
        let (mut records, mut writes) = (0, 0);
        let count = |record: redwind_stream::Record| {
            records += 1;
            writes += u64::from(record.kind == RecordKind::Write);
        };
        framer.push(piece, count).unwrap();
        let now = self.clock.now();
        let marks = vec![Mark { end: start.advance(piece.len() as u64), time: now }];
        let first_write = (writes > 0).then_some(now);
        Batch { start, bytes, marks, records, writes, first_write, framer_end: framer.state(), late_since }
    }

    async fn seal(&self) {
        self.sender.send(Entry::Seal { read_until: self.clock.now() }).await.unwrap();
    }

    /// Waits until everything that was handed over counts as stored.
    async fn all_stored(&self) -> Progress {
        self.seal().await;
        let end = self.journal.resume_point().unwrap().position;
        self.wait_for(|progress| progress.history == Some(end.history) && progress.stored == end.offset).await
    }

    /// Waits until the history's document is stored, which is all there is.
    async fn wait_until_spool_is_empty(&self) {
        self.wait_for(|progress| progress.history.is_some()).await;
        let mut usage = self.journal.spool_usage();
        let empty = usage.wait_for(|usage| usage.used_bytes == 0);
        tokio::time::timeout(PATIENCE, empty).await.unwrap().unwrap();
    }

    async fn stop(self) -> JournalEnd {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.run).await.unwrap().unwrap().unwrap()
    }

    /// Ends without a chance to tidy up. Tells what it had reported, once nothing touches its spool
    /// any more.
    async fn kill(self) -> Progress {
        let Self { journal, sender, run, .. } = self;
        run.abort();
        drop((run.await, sender));
        let progress = journal.progress();
        let lock = journal.upstream.spool.dir().join("lock");
        drop(journal);
        let released = async {
            let file = std::fs::File::open(lock).unwrap();
            while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, released).await.unwrap();
        progress.borrow().clone()
    }

    /// Why it ended by itself.
    async fn failure(&mut self) -> JournalError {
        tokio::time::timeout(PATIENCE, &mut self.run).await.unwrap().unwrap().unwrap_err()
    }
}

/// Waits for a thread's doing without time passing: while blocking work runs, a paused clock stands.
async fn without_time<T>(waiting: impl Future<Output = T>) -> T {
    let (done, blocked) = std::sync::mpsc::channel::<()>();
    let clock = tokio::task::spawn_blocking(move || blocked.recv());
    let outcome = waiting.await;
    drop(done);
    let _ = clock.await;
    outcome
}

fn history_start(history: HistoryId, started: Timestamp) -> HistoryStart {
    HistoryStart {
        history,
        term: Term(0),
        start: START,
        started,
        cause: Cause::First,
        predecessor: None,
        predecessor_complete_until: None,
        replication_id: String::from_utf8(ID.to_vec()).unwrap(),
        server: server(),
    }
}

fn server() -> Server {
    Server {
        vendor: "redis".to_owned(),
        version: "7.2.4".to_owned(),
        modules: Vec::new(),
        address: "127.0.0.1:6379".to_owned(),
        run_id: "r".to_owned(),
        role: "master".to_owned(),
        cluster: false,
    }
}

/// A stream of at least `bytes` bytes: writes of many sizes, transactions, PINGs.
fn stream(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut out = Vec::with_capacity(bytes + 4096);
    out.extend(encode_command(&[b"SELECT", b"0"]));
    while out.len() < bytes {
        let length = random.usize(..300);
        let value: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let key = random.u32(..).to_string();
        match random.u8(..10) {
            0 => out.extend(encode_command(&[b"PING"])),
            1 => {
                out.extend(encode_command(&[b"MULTI"]));
                out.extend(encode_command(&[b"SET", key.as_bytes(), &value]));
                out.extend(encode_command(&[b"INCR", b"counter"]));
                out.extend(encode_command(&[b"EXEC"]));
            }
            _ => out.extend(encode_command(&[b"SET", key.as_bytes(), &value])),
        }
    }
    out
}

fn position(history: HistoryId, offset: usize) -> Position {
    Position { history, offset: START.advance(offset as u64) }
}

//! One run of an agent in a simulation: it waits for its turn, writes the stream from where the archive
//! ends, and reports, until it is killed, stopped or fenced.

use std::convert::Infallible;

use redwind_archive::documents::SnapshotReason;
use redwind_archive::keys::Recipients;
use redwind_stream::RdbChecksum;
use rustix::fs::FlockOperation;

use super::world::{Run, World};
use super::*;
use crate::config::Succession;
use crate::journal::{JournalTasks, SnapshotFacts};

/// Time may run ahead while the sealer's thread ends, so that this must never be reached.
const DRAIN_DEADLINE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// What every agent's source sends.
pub(super) const STREAM_BYTES: usize = 30_000;
/// An RDB without a key: header, end, no checksum.
const RDB: &[u8] = b"REDIS0011\xff\0\0\0\0\0\0\0\0";

/// A run that is under way.
pub(super) struct Life {
    pub(super) run: Run,
    pub(super) task: JoinHandle<Result<JournalEnd, JournalError>>,
    stop: CancellationToken,
    spool: PathBuf,
}

/// How a run begins.
#[derive(Clone)]
pub(super) struct Birth {
    pub(super) run: Run,
    pub(super) succession: Succession,
    pub(super) spool: PathBuf,
    /// The spool holds nothing of an earlier run.
    pub(super) fresh: bool,
}

impl Life {
    pub(super) fn begin(world: &World, birth: Birth) -> Self {
        let stop = CancellationToken::new();
        let (run, spool) = (birth.run, birth.spool.clone());
        let task = tokio::spawn(live(world.clone(), birth, stop.clone()));
        Self { run, task, stop, spool }
    }

    /// Its spool's folder.
    pub(super) fn spool(&self) -> &std::path::Path {
        &self.spool
    }

    /// Ends at once. What it had under way may still arrive.
    pub(super) async fn kill(self) {
        self.task.abort();
        let ended = self.task.await;
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        released(self.spool).await;
    }

    /// Stops in order, and tells how that went.
    pub(super) async fn stop(self) -> Result<JournalEnd, JournalError> {
        self.stop.cancel();
        let ended = self.task.await.unwrap();
        released(self.spool).await;
        ended
    }
}

/// Waits, without time passing, until nobody holds the spool.
async fn released(spool: PathBuf) {
    let wait = move || {
        let Ok(lock) = std::fs::File::open(spool.join("default/lock")) else { return };
        while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            std::thread::sleep(Duration::from_micros(100));
        }
    };
    tokio::task::spawn_blocking(wait).await.unwrap();
}

async fn live(world: World, birth: Birth, stop: CancellationToken) -> Result<JournalEnd, JournalError> {
    let Birth { run, succession, spool, fresh } = birth;
    let settings = Settings {
        spool_dir: spool,
        spool_bytes_max: 64 << 20,
        segment_bytes_max: 2 << 10,
        compression_level: 1,
        recipients: Recipients::default(),
        drain_deadline: DRAIN_DEADLINE,
    };
    let clock = Arc::new(Clock::new());
    let candidacy = Candidacy::open_with(world.store(run), settings, Arc::clone(&clock)).await?;
    let won = candidacy.win(succession, async || Ok::<_, JournalError>(()), |_| ());
    let mandate = tokio::select! {
        won = won => won?,
        () = stop.cancelled() => return Ok(COMPLETE),
    };
    let drain = CancellationToken::new();
    let (journal, tasks) = candidacy.start(mandate, drain.clone()).await?;
    world.opened(&journal.progress().borrow(), fresh);
    let sender = journal.sender();
    let agent = Agent { journal, sender, run: tokio::spawn(std::future::pending()), cancel: drain, clock };
    let outcome = write(&world, run, &agent, tasks, &stop).await;
    world.report(&agent.progress());
    if let Err(error) = &outcome
        && !matches!(error, JournalError::Fenced(_))
    {
        world.violation(format!("run {run} ended with {error}"));
    }
    outcome
}

async fn write(
    world: &World,
    run: Run,
    agent: &Agent,
    tasks: JournalTasks,
    stop: &CancellationToken,
) -> Result<JournalEnd, JournalError> {
    let feeding = async {
        let fed = tokio::select! {
            fed = feed(world, run, agent) => fed,
            () = stop.cancelled() => None,
        };
        if fed.is_none() {
            without_time(cancel(agent)).await;
        }
        std::future::pending::<Infallible>().await
    };
    let observing = async {
        let mut progress = agent.journal.progress();
        loop {
            let seen = progress.borrow_and_update().clone();
            world.report(&seen);
            if progress.changed().await.is_err() {
                std::future::pending::<Infallible>().await;
            }
        }
    };
    tokio::select! {
        biased;
        never = observing => match never {},
        never = feeding => match never {},
        ended = tasks.run() => ended,
    }
}

/// Stops the journal, and waits until the sealer's thread has ended, which then lets go of the clock.
async fn cancel(agent: &Agent) {
    let holders = Arc::strong_count(&agent.clock);
    agent.cancel.cancel();
    while Arc::strong_count(&agent.clock) == holders {
        tokio::task::yield_now().await;
    }
}

/// Waits until the journal's threads have done what they were told; `None` when they take nothing more.
async fn spooled(agent: &Agent, end: Position) -> Option<()> {
    // Once the sealer has taken this, it is done with everything before.
    agent.sender.send(Entry::Seal { read_until: Timestamp::default() }).await.ok()?;
    while !agent.sender.is_idle() {
        tokio::task::yield_now().await;
    }
    let mut progress = agent.journal.progress();
    let there = |seen: &Progress| seen.history == Some(end.history) && seen.spooled >= end.offset;
    progress.wait_for(there).await.map(drop).ok()
}

/// Feeds the stream in pieces, with a snapshot soon, and then vouches for idle minutes; `None` when the
/// journal takes nothing more.
async fn feed(world: &World, run: Run, agent: &Agent) -> Option<Infallible> {
    let stream = stream(world.seed, STREAM_BYTES);
    if agent.journal.resume_point().is_none() {
        let history = HistoryId(Ulid(run as u128 + 1));
        agent.sender.send(Entry::Begin(history_start(history, agent.clock.now()))).await.ok()?;
        let replication_id = ReplicationId { id: ID, since: START };
        agent.sender.send(Entry::Attach { replication_id, clock_offset: Some(7) }).await.ok()?;
    }
    for piece in 0.. {
        let point = agent.journal.resume_point()?;
        let from = point.position.offset.since(START) as usize;
        let bytes = 200 + world.chance((run, piece, "bytes")) as usize % 1_500;
        let to = stream.len().min(from + bytes);
        if from < to {
            let batch = agent.batch(point.position.offset, Framer::resume(point.framer), &stream[from..to], None);
            agent.sender.send(Entry::Append(batch)).await.ok()?;
        }
        let end = agent.journal.resume_point()?.position;
        agent.sender.send(Entry::Seal { read_until: agent.clock.now() }).await.ok()?;
        without_time(spooled(agent, end)).await?;
        if piece % 4 == 1 && !agent.journal.resume_point()?.has_snapshot {
            // One that is given up is tried again.
            drop(snapshot(agent, end).await);
        }
        let millis = if to == stream.len() { 60_000 } else { world.chance((run, piece, "pause")) % 1_200 };
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    None
}

async fn snapshot(agent: &Agent, position: Position) -> Result<(), JournalError> {
    let mut writer = agent.journal.begin_snapshot(SnapshotReason::First).await?;
    writer.push(RDB).await?;
    let facts = snapshots::facts_at(&agent.clock, position, RDB.len() as u64);
    let rdb = redwind_stream::RdbInfo { checksum: RdbChecksum::Disabled, repl_stream_db: None, ..facts.rdb };
    writer.finish(SnapshotFacts { rdb, ..facts }).await.map(drop)
}

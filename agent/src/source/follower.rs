//! The state machine of the log: connect, agree, read, wait, again.

use std::sync::Arc;
use std::time::Duration;

use redwind_archive::documents::{Cause, HistoryStart, SnapshotReason};
use redwind_archive::position::{HistoryId, Offset, Position, Term};
use redwind_archive::segment::ReplicationId;
use redwind_stream::Framer;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use ulid::Ulid;

use super::ack::Acknowledger;
use super::attention::Moment;
use super::backoff::Backoff;
use super::error::{AttachError, SourceError};
use super::handshake::{Endpoint, id_text};
use super::link_state::{Gap, Phase};
use super::log_reader::{Ended, LogReader, ReaderContext, SessionStart};
use super::monitor::{Monitor, MonitorSignals};
use super::negotiate::{Attachment, Course, Wish, attach};
use super::payload::{Announced, Destination, read_payload};
use super::snapshot_transfer::{Joinable, LogWatch, ReceivedSnapshot};
use super::snapshots::{BegunSnapshot, LogEvent};
use super::socket_probe::SocketProbe;
use crate::error::describe;
use crate::journal::{Entry, EntrySender, Journal, JournalError, SnapshotFacts};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// A session that lasted this long shows that the link works; the next loss is a new one.
const SESSION_GOOD: Duration = Duration::from_secs(10);
/// Between two tries at a server that refuses us, though it did not before.
const REFUSED_RETRY: Duration = Duration::from_secs(20);
/// After bytes that are no stream: each new history costs the server a fork.
const BROKEN_RETRY: Duration = Duration::from_secs(30);
/// How long a replica may take to catch up with what the archive has, before a new history begins.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the end of the log may take to the spool's disk while a server waits to exit.
const SYNC_WAIT: Duration = Duration::from_secs(2);
/// How long an outdated snapshot may take to get out of the way of the one on the log connection.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);

/// Keeps the log online; see the module.
pub(super) struct Follower {
    endpoint: Endpoint,
    journal: Arc<Journal>,
    sender: EntrySender,
    context: ReaderContext,
    log: LogWatch,
    events: mpsc::Sender<LogEvent>,
    backoff: Backoff,
    /// The log was online at least once.
    attached: bool,
    /// Why the next history would begin, where that is known already.
    because: Option<Cause>,
    /// Since when the server has been behind the archive.
    behind_since: Option<Instant>,
    /// The reason for being offline that was logged last.
    logged: Option<String>,
}

/// What happens after a session or a try.
enum Next {
    Retry { reason: String, delay: Duration, refused: bool },
    AwaitSpool,
    Stop,
}

impl Follower {
    pub(super) fn new(
        endpoint: Endpoint,
        journal: Arc<Journal>,
        context: ReaderContext,
        log: LogWatch,
        events: mpsc::Sender<LogEvent>,
    ) -> Self {
        Self {
            endpoint,
            sender: journal.sender(),
            journal,
            context,
            log,
            events,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MOST),
            attached: false,
            because: None,
            behind_since: None,
            logged: None,
        }
    }

    /// Runs until cancelled. What may take computing is done on `background`.
    pub(super) async fn run(mut self, cancel: CancellationToken, background: Handle) -> Result<(), SourceError> {
        let outcome = loop {
            match self.round(&cancel, &background).await {
                Ok(Next::Stop) => break Ok(()),
                Ok(Next::AwaitSpool) => self.await_spool(&cancel).await,
                Ok(Next::Retry { reason, delay, refused }) => self.await_retry(reason, delay, refused, &cancel).await,
                Err(error) => break Err(error),
            }
        };
        self.enter(Phase::Stopped);
        outcome
    }

    fn enter(&self, phase: Phase) {
        self.context.link.enter(phase, self.context.clock.now());
    }

    /// One try, and the session it leads to.
    async fn round(&mut self, cancel: &CancellationToken, background: &Handle) -> Result<Next, SourceError> {
        if self.context.spool.borrow().full {
            return Ok(Next::AwaitSpool);
        }
        self.enter(Phase::Connecting);
        let wish = self.wish();
        let examined = || self.enter(Phase::Negotiating);
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Next::Stop),
            outcome = attach(&self.endpoint, &self.context.clock, &wish, examined) => outcome,
        };
        let attachment = match outcome {
            Ok(attachment) => attachment,
            Err(error) => return self.after_failure(error),
        };
        self.behind_since = None;
        let began = Instant::now();
        let ended = self.session(attachment, cancel, background).await;
        // The keeper of the snapshots ends only after us.
        let event = match ended {
            Ok(Ended::ServerExits) => LogEvent::ServerExits,
            _ => LogEvent::Lost,
        };
        let _ = self.events.send(event).await;
        match ended {
            Ok(ended) => Ok(self.after_session(ended, began.elapsed())),
            Err(error) => self.after_failure(error),
        }
    }

    fn wish(&self) -> Wish {
        let broken = self.because == Some(Cause::StreamBroken);
        Wish {
            resume: self.journal.resume_point().filter(|_| !broken),
            because: self.because,
            patient: self.behind_since.is_none_or(|since| since.elapsed() < PATIENCE),
        }
    }

    fn after_failure(&mut self, error: AttachError) -> Result<Next, SourceError> {
        if matches!(error, AttachError::Journal(JournalError::Closed)) {
            return Err(SourceError::JournalEnded);
        }
        if matches!(error, AttachError::Behind { .. }) {
            self.behind_since.get_or_insert_with(Instant::now);
        }
        let refused = !error.is_retryable();
        if refused && !self.attached {
            return Err(SourceError::Refused(error));
        }
        let delay = if refused { Backoff::new(REFUSED_RETRY, REFUSED_RETRY).next() } else { self.backoff.next() };
        Ok(Next::Retry { reason: describe(&error), delay, refused })
    }

    fn after_session(&mut self, ended: Ended, lasted: Duration) -> Next {
        if lasted >= SESSION_GOOD {
            self.backoff.reset();
        }
        let mut delay = self.backoff.next();
        let reason = match ended {
            Ended::Stopped => return Next::Stop,
            Ended::SpoolFull => {
                self.because = Some(Cause::SpoolFull);
                return Next::AwaitSpool;
            }
            Ended::DiskStalled => {
                self.because = Some(Cause::SpoolFull);
                "the disk of the spool took nothing for several seconds".to_owned()
            }
            Ended::Broken(error) => {
                self.because = Some(Cause::StreamBroken);
                delay = delay.max(BROKEN_RETRY);
                format!("the stream cannot be followed: {error}")
            }
            Ended::Closed => "the server closed the connection".to_owned(),
            Ended::Lost(error) => format!("lost the connection: {error}"),
            Ended::Silent => "nothing comes from the server any more".to_owned(),
            Ended::ServerExits => "the server is shutting down".to_owned(),
        };
        Next::Retry { reason, delay, refused: false }
    }

    async fn await_retry(&mut self, reason: String, retry_in: Duration, refused: bool, cancel: &CancellationToken) {
        if self.logged.as_ref() != Some(&reason) {
            warn!("not following the source: {reason}");
            self.logged = Some(reason.clone());
        }
        self.enter(if refused { Phase::Refused { reason, retry_in } } else { Phase::Down { reason, retry_in } });
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sleep(retry_in) => {}
        }
    }

    async fn await_spool(&mut self, cancel: &CancellationToken) {
        warn!("the spool is full: left the server until it is below half");
        self.logged = Some(String::new());
        self.enter(Phase::SpoolFull);
        tokio::select! {
            () = cancel.cancelled() => {}
            // An error means that the journal has ended, which the next try finds out.
            _ = self.context.spool.wait_for(|usage| !usage.full) => {}
        }
    }

    /// Reads the log from the attachment on, until that ends.
    async fn session(
        &mut self,
        mut attachment: Attachment,
        cancel: &CancellationToken,
        background: &Handle,
    ) -> Result<Ended, AttachError> {
        let (history, start) = self.take_up(&attachment).await?;
        let joinable =
            Joinable { history, start, replication_id: attachment.replication_id, facts: attachment.facts.clone() };
        let begun = match attachment.course {
            Course::Begin { dataset: true, .. } => {
                let receiving = self.receive_dataset(&mut attachment, &joinable, background);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Ok(Ended::Stopped),
                    received = receiving => Some(BegunSnapshot::Received(Box::new(received?))),
                }
            }
            _ => attachment.snapshot.take().map(|stream| BegunSnapshot::Coming(Box::new(stream))),
        };
        let _ = self.events.send(LogEvent::Attached { joinable: Box::new(joinable), begun }).await;
        self.announce(&attachment);
        self.attached = true;
        self.because = None;
        self.logged = None;
        Ok(self.stream(attachment, history, cancel).await?)
    }

    /// Begins or continues a history in the journal. Tells which, and where it began.
    async fn take_up(&mut self, attachment: &Attachment) -> Result<(HistoryId, Offset), JournalError> {
        if let Course::Begin { start, cause, .. } = attachment.course {
            self.begin(attachment, start, cause).await?;
        }
        let point = self.journal.resume_point().ok_or(JournalError::Closed)?;
        let Position { history, offset } = point.position;
        let replication_id = ReplicationId { id: attachment.replication_id, since: offset };
        let clock_offset = attachment.facts.clock_offset;
        self.sender.received().reset(offset);
        self.sender.send(Entry::Attach { replication_id, clock_offset }).await?;
        // A history that goes on may have begun earlier than here: a snapshot may, too.
        let start = match attachment.course {
            Course::Begin { start, .. } => start,
            Course::Continue => {
                let progress = self.context.progress.borrow();
                if progress.history == Some(history) { progress.history_start } else { offset }
            }
        };
        Ok((history, start))
    }

    async fn begin(&mut self, attachment: &Attachment, start: Offset, cause: Cause) -> Result<(), JournalError> {
        let now = self.context.clock.now();
        let random = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
        let history = HistoryId(Ulid::from_parts(now.0 / 1000, random));
        let before = self.journal.resume_point();
        let document = HistoryStart {
            history,
            // This and the predecessor are the journal's to fill in.
            term: Term::default(),
            start,
            started: now,
            cause,
            predecessor: None,
            predecessor_complete_until: None,
            replication_id: id_text(&attachment.replication_id),
            server: attachment.facts.server.clone(),
        };
        self.sender.send(Entry::Begin(document)).await?;
        info!(%history, start = start.0, "a new history begins: {}", cause.describe());
        if let Some(before) = before {
            let gap = Gap { from: before.read_until, until: now, cause, history };
            self.context.link.update(|state| {
                state.gaps += 1;
                state.last_gap = Some(gap);
            });
        }
        Ok(())
    }

    /// Reads the dataset that a full resync of the log brings (Redis 6.2): the first snapshot.
    async fn receive_dataset(
        &self,
        attachment: &mut Attachment,
        joinable: &Joinable,
        background: &Handle,
    ) -> Result<ReceivedSnapshot, AttachError> {
        let began = attachment.seen_empty.time;
        let _ = self.events.send(LogEvent::Lost).await;
        let deadline = Instant::now() + SNAPSHOT_WAIT;
        let mut writer = loop {
            let journal = Arc::clone(&self.journal);
            let beginning = async move { journal.begin_snapshot(SnapshotReason::FullResync).await };
            match background.spawn(beginning).await.unwrap_or(Err(JournalError::Closed)) {
                // One for the history before is about to notice that this has ended.
                Err(JournalError::SnapshotRunning) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                outcome => break outcome?,
            }
        };
        let announced = Announced { replication_id: attachment.replication_id, offset: joinable.start };
        let position = Position { history: joinable.history, offset: joinable.start };
        let Attachment { transport, early, address, .. } = attachment;
        let destination = Destination { writer: &mut writer, position };
        let rdb = read_payload(transport, early, address, announced, Some(destination)).await?;
        let facts = SnapshotFacts {
            position,
            replication_id: announced.replication_id,
            time: began,
            began,
            rdb,
            server: joinable.facts.server.clone(),
        };
        Ok(ReceivedSnapshot { writer, facts })
    }

    /// Tells the world that the log is online.
    fn announce(&self, attachment: &Attachment) {
        let id = id_text(&attachment.replication_id);
        let server = &attachment.facts.server;
        info!(
            server = %server.address, vendor = %server.vendor, version = %server.version, role = %server.role,
            replication_id = %id, full_resync = attachment.full_resync, "following the source"
        );
        self.context.link.update(|state| {
            state.server = Some(server.clone());
            state.clock_offset = attachment.facts.clock_offset;
            state.replication_id = Some(id);
            match attachment.full_resync {
                true => state.full_resyncs += 1,
                false => state.partial_resyncs += 1,
            }
        });
        self.enter(Phase::Streaming);
    }

    /// The session proper: reader, acknowledgements, monitor.
    async fn stream(
        &mut self,
        attachment: Attachment,
        history: HistoryId,
        cancel: &CancellationToken,
    ) -> Result<Ended, JournalError> {
        let point = self.journal.resume_point().ok_or(JournalError::Closed)?;
        let offset = point.position.offset;
        let signals = MonitorSignals::new();
        let session = CancellationToken::new();
        let probe = SocketProbe::of(&attachment.transport);
        let (reader, writer) = match attachment.transport.into_split() {
            Ok(halves) => halves,
            Err(error) => return Ok(Ended::Lost(error)),
        };
        let acknowledger = Acknowledger {
            writer,
            history,
            progress: self.context.progress.clone(),
            received: Arc::clone(&self.log.received),
            fack: attachment.facts.fack,
            starts_stream: attachment.starts_by_ack.then_some(offset),
        };
        let monitor = Monitor {
            endpoint: self.endpoint.clone(),
            connection: Some(attachment.control),
            clock: Arc::clone(&self.context.clock),
            link: self.context.link.clone(),
            signals: Arc::clone(&signals),
            time_asked: Moment::now(&self.context.clock),
            journal: Arc::clone(&self.journal),
            accepted: None,
        };
        let acknowledging = AbortOnDropHandle::new(tokio::spawn(acknowledger.run(session.clone())));
        let _monitoring = AbortOnDropHandle::new(tokio::spawn(monitor.run()));
        let (framer, kept_until) = match attachment.course {
            Course::Begin { .. } => (Framer::new(None).state(), None),
            Course::Continue => (point.framer, Some(attachment.kept_until)),
        };
        let start = SessionStart { history, offset, framer, seen_empty: attachment.seen_empty, kept_until };
        let log = LogReader::new(self.context.clone(), &self.sender, signals, probe, session.clone(), start);
        let ended = log.follow(reader, attachment.early, cancel).await?;
        if matches!(ended, Ended::ServerExits) {
            self.await_sync(history).await;
        }
        session.cancel();
        // It closes the connection, for which it has a time limit.
        let _ = acknowledging.await;
        Ok(ended)
    }

    /// Waits until everything handed over is on the spool's disk.
    async fn await_sync(&self, history: HistoryId) {
        let Some(point) = self.journal.resume_point() else { return };
        let mut progress = self.context.progress.clone();
        let synced = progress
            .wait_for(|progress| progress.history == Some(history) && progress.spooled >= point.position.offset);
        // The server is going away; what is not synced by then is on its way.
        let _ = timeout(SYNC_WAIT, synced).await;
    }
}

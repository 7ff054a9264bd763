//! When snapshots are taken: the first of a history at once, then by interval, and on request.
//!
//! Never two at a time, and never in a hurry: each costs the server a fork. One that fails is tried
//! again after 5 seconds, 10, and so on up to 5 minutes; one that was requested is not, its requester
//! is told. A transfer goes on while the log connection is lost and taken up again; it ends when the
//! history ends, or when the server exits, which waits for us.

use std::sync::Arc;
use std::time::Duration;

use redwind_archive::documents::{Manifest, SnapshotReason};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::error::AttachError;
use super::handshake::Endpoint;
use super::snapshot_transfer::{Joinable, LogWatch, ReceivedSnapshot, SnapshotStream, complete, receive};
use crate::error::describe;
use crate::journal::Journal;

const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_secs(5 * 60);

/// Somebody wants a snapshot now.
#[derive(Debug)]
pub struct SnapshotRequest {
    /// Gets the manifest of a snapshot that was begun after the request, or why there is none.
    pub reply: oneshot::Sender<Result<Manifest, String>>,
}

/// What the follower of the log tells.
#[derive(Debug)]
pub(super) enum LogEvent {
    /// The log is online.
    Attached {
        joinable: Box<Joinable>,
        /// A snapshot that was begun together with the log.
        begun: Option<BegunSnapshot>,
    },
    /// The log is offline; its history may go on.
    Lost,
    /// The server is exiting and must not wait for us.
    ServerExits,
}

/// A snapshot that was begun by the follower of the log.
#[derive(Debug)]
pub(super) enum BegunSnapshot {
    /// On a connection of its own, which the log was then fitted to.
    Coming(Box<SnapshotStream>),
    /// On the log connection, all of it.
    Received(Box<ReceivedSnapshot>),
}

/// Takes the snapshots; see the module.
pub(super) struct SnapshotKeeper {
    pub(super) endpoint: Endpoint,
    pub(super) journal: Arc<Journal>,
    pub(super) log: LogWatch,
    pub(super) interval: Option<Duration>,
    pub(super) requests: mpsc::Receiver<SnapshotRequest>,
    pub(super) events: mpsc::Receiver<LogEvent>,
    state: State,
}

struct State {
    /// The log, as it last was.
    joinable: Option<Joinable>,
    online: bool,
    begun: Option<BegunSnapshot>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    last_failure: Option<String>,
}

/// What an event means to a transfer that is under way.
#[derive(PartialEq, Eq)]
enum Consequence {
    GoesOn,
    Ends(&'static str),
}

impl SnapshotKeeper {
    pub(super) fn new(
        endpoint: Endpoint,
        journal: Arc<Journal>,
        log: LogWatch,
        interval: Option<Duration>,
        requests: mpsc::Receiver<SnapshotRequest>,
        events: mpsc::Receiver<LogEvent>,
    ) -> Self {
        let state = State {
            joinable: None,
            online: false,
            begun: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MOST),
            retry_at: None,
            last_failure: None,
        };
        Self { endpoint, journal, log, interval, requests, events, state }
    }

    /// Runs until cancelled, or until the follower of the log is gone.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut requestable = true;
        loop {
            let due = self.due();
            let at = due.map_or_else(Instant::now, |(at, _)| at);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                event = self.events.recv() => match event {
                    Some(event) => { self.state.apply(event); }
                    None => return,
                },
                request = self.requests.recv(), if requestable => match request {
                    Some(request) => self.serve(request, &cancel).await,
                    None => requestable = false,
                },
                () = sleep_until(at), if due.is_some() => {
                    let reason = due.map_or(SnapshotReason::First, |(_, reason)| reason);
                    // Its failure is in the log and in the delay before the next try.
                    let _ = self.take(reason, &cancel).await;
                }
            }
        }
    }

    /// When the next one is due, and why; `None` while there is no log to join.
    fn due(&self) -> Option<(Instant, SnapshotReason)> {
        let now = Instant::now();
        if self.state.begun.is_some() {
            return Some((now, SnapshotReason::First));
        }
        let history = self.state.joinable.as_ref().filter(|_| self.state.online)?.history;
        let last = self.journal.snapshots().borrow().last.clone();
        let last = last.filter(|last| last.position.history == history);
        let (at, reason) = match (last, self.interval) {
            (None, _) => (now, SnapshotReason::First),
            (Some(last), Some(interval)) => {
                let age = self.log.clock.now().since(last.time);
                (now + interval.saturating_sub(age), SnapshotReason::Interval)
            }
            (Some(_), None) => return None,
        };
        Some((self.state.retry_at.map_or(at, |retry_at| at.max(retry_at)), reason))
    }

    async fn serve(&mut self, request: SnapshotRequest, cancel: &CancellationToken) {
        let mut replies = vec![request.reply];
        while let Ok(request) = self.requests.try_recv() {
            replies.push(request.reply);
        }
        let outcome = match self.state.online {
            true => self.take(SnapshotReason::Requested, cancel).await.map_err(|error| describe(&error)),
            false => Err("there is no link to the server at the moment".to_owned()),
        };
        for reply in replies {
            // Whoever asked may have gone since.
            let _ = reply.send(outcome.clone());
        }
    }

    /// Takes one, and listens to what happens to the log meanwhile.
    async fn take(&mut self, reason: SnapshotReason, cancel: &CancellationToken) -> Result<Manifest, AttachError> {
        let Some(joinable) = self.state.joinable.clone() else {
            return Err(AttachError::SnapshotEnded { reason: "there is no log to join" });
        };
        let begun = self.state.begun.take();
        let taking = take(&self.endpoint, &self.journal, &self.log, joinable, reason, begun);
        let mut taking = std::pin::pin!(taking);
        let outcome = loop {
            let consequence = tokio::select! {
                biased;
                () = cancel.cancelled() => Consequence::Ends("the agent stops"),
                outcome = &mut taking => break outcome,
                event = self.events.recv() => match event {
                    Some(event) => self.state.apply(event),
                    None => Consequence::Ends("the agent stops"),
                },
            };
            if let Consequence::Ends(reason) = consequence {
                break Err(AttachError::SnapshotEnded { reason });
            }
        };
        self.state.note(reason, &outcome);
        outcome
    }
}

impl State {
    fn apply(&mut self, event: LogEvent) -> Consequence {
        match event {
            LogEvent::Attached { joinable, begun } => {
                let history = self.joinable.as_ref().map(|joinable| joinable.history);
                let same = history == Some(joinable.history);
                self.joinable = Some(*joinable);
                self.online = true;
                self.begun = begun;
                if same { Consequence::GoesOn } else { Consequence::Ends("its history could not be continued") }
            }
            LogEvent::Lost => {
                self.online = false;
                Consequence::GoesOn
            }
            LogEvent::ServerExits => {
                self.online = false;
                Consequence::Ends("the server is shutting down")
            }
        }
    }

    fn note(&mut self, reason: SnapshotReason, outcome: &Result<Manifest, AttachError>) {
        match outcome {
            Ok(manifest) => {
                info!(snapshot = %manifest.snapshot, position = %manifest.position, rdb_bytes = manifest.rdb_bytes,
                    "a snapshot is complete");
                self.backoff.reset();
                self.retry_at = None;
                self.last_failure = None;
            }
            Err(AttachError::SnapshotEnded { .. }) => {}
            Err(error) => {
                let failure = describe(error);
                if self.last_failure.as_ref() != Some(&failure) {
                    warn!(?reason, "no snapshot: {failure}");
                }
                self.last_failure = Some(failure);
                self.retry_at = Some(Instant::now() + self.backoff.next());
            }
        }
    }
}

async fn take(
    endpoint: &Endpoint,
    journal: &Journal,
    log: &LogWatch,
    joinable: Joinable,
    reason: SnapshotReason,
    begun: Option<BegunSnapshot>,
) -> Result<Manifest, AttachError> {
    let received = match begun {
        Some(BegunSnapshot::Received(received)) => *received,
        Some(BegunSnapshot::Coming(stream)) => {
            let writer = journal.begin_snapshot(reason).await?;
            receive(*stream, writer, &joinable, log).await?
        }
        None => {
            // First, so that no fork is in vain.
            let writer = journal.begin_snapshot(reason).await?;
            let stream = SnapshotStream::open(endpoint, &joinable.facts, &log.clock).await?;
            receive(stream, writer, &joinable, log).await?
        }
    };
    complete(received, log).await
}

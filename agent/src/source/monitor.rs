//! The control connection: what the server is, how far its stream has come, what time it has.
//!
//! It never carries `PSYNC`, and asks seldom, so that an idle link costs next to nothing: the
//! offset every few seconds, the time every minute. Two things make it look sooner: a `GETACK`, because
//! that is how a shutdown of the server announces itself, and a step of our own clock.
//!
//! **Newcomers.** An agent that wants to stand by looks at the source first. So a connection that the
//! server has accepted is passed on as a hint, which costs no request to the store while nobody comes.
//!
//! **Shutdown of the server.** Since 7.0 a server that was told to exit pauses its clients and waits
//! up to `shutdown-timeout` (10 s) until every replica has acknowledged exactly its last byte
//! (`isReadyToShutdown` in `replication.c`). We never acknowledge that: see [`ack`](super::ack). It
//! asks for acknowledgements first, so on GETACK we look, four times a second at most, whether
//! `INFO server` shows `shutdown_in_milliseconds`, and then make the log's reader read to the end
//! and leave, which ends the wait.

use std::sync::Arc;
use std::time::Duration;

use redwind_archive::documents::{Module, Server};
use redwind_archive::position::Offset;
use redwind_archive::time::Clock;
use redwind_link::{Connection, LinkError, ReplicationInfo, Role, ServerInfo, ServerKind, Version};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::debug;

use super::attention::Moment;
use super::error::AttachError;
use super::handshake::{Endpoint, takes_fack};
use super::link_state::LinkStateSender;
use crate::journal::Journal;

/// Between two looks at the server's offset.
const OFFSET_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at the server's time, as long as our clock passes evenly.
const TIME_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is looked whether our clock does.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// A clock that has moved by more against the monotonic one was stepped, or is being put right.
const CLOCK_DRIFT_MAX: Duration = Duration::from_millis(200);
/// Least time between two looks for a shutdown.
const SHUTDOWN_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A server answers INFO at once, a busy one within a moment; after so long without an answer it is the
/// network that is in doubt.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The first release that can send a snapshot on a connection of its own (`rdb-only`).
const VERSION_MIN: Version = Version::new(6, 2, 0);

/// What the server is, as far as following it depends on that.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) kind: ServerKind,
    pub(super) version: Version,
    /// As it goes into the archive.
    pub(super) server: Server,
    /// Its TIME minus our clock, in microseconds.
    pub(super) clock_offset: Option<i64>,
    /// It understands `FACK`.
    pub(super) fack: bool,
}

/// Connects and asks what the server is.
///
/// # Errors
/// Also when the server cannot be followed, or not now.
pub(super) async fn examine(endpoint: &Endpoint, clock: &Clock) -> Result<(Connection, Facts), AttachError> {
    let mut connection = endpoint.connect().await?;
    let info = connection.info().await?;
    if info.sentinel {
        return Err(AttachError::Sentinel);
    }
    let is_old = matches!(info.kind, ServerKind::Redis) && info.version < VERSION_MIN;
    if is_old {
        return Err(AttachError::TooOld { found: info.version });
    }
    if info.loading == Some(true) {
        return Err(LinkError::Loading.into());
    }
    if info.shutdown_in_milliseconds.is_some() {
        return Err(AttachError::ShuttingDown);
    }
    let replication = info.replication.clone().ok_or(LinkError::Protocol {
        address: connection.address().clone(),
        problem: "INFO does not tell its replication state",
    })?;
    if replication.master_link_up == Some(false) {
        return Err(LinkError::MasterDown.into());
    }
    let modules = match &info.modules {
        Some(modules) => modules.clone(),
        // Servers that do not list them in INFO; the right to this command is often not given.
        None => connection.modules().await.unwrap_or_default(),
    };
    let clock_offset = clock_offset(&mut connection, clock).await?;
    let facts = Facts {
        server: describe(&info, &replication, modules, &connection),
        fack: takes_fack(&info.kind, info.version),
        kind: info.kind,
        version: info.version,
        clock_offset,
    };
    Ok((connection, facts))
}

fn describe(
    info: &ServerInfo,
    replication: &ReplicationInfo,
    modules: Vec<redwind_link::Module>,
    connection: &Connection,
) -> Server {
    Server {
        vendor: info.kind.to_string().to_lowercase(),
        version: info.version.to_string(),
        modules: modules.into_iter().map(|module| Module { name: module.name, version: module.version }).collect(),
        address: connection.address().to_string(),
        run_id: info.run_id.clone().unwrap_or_default(),
        role: match replication.role {
            Role::Primary => "master".to_owned(),
            Role::Replica => "slave".to_owned(),
        },
        cluster: info.cluster_enabled,
    }
}

/// The server's TIME minus our clock at the middle of the exchange; `None` when the user may not
/// ask for it.
async fn clock_offset(connection: &mut Connection, clock: &Clock) -> Result<Option<i64>, LinkError> {
    let before = clock.now();
    match connection.time_unix_micros().await {
        Ok(theirs) => {
            let ours = before.0 + clock.now().since(before).as_micros() as u64 / 2;
            Ok(Some(i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or(0)))
        }
        Err(error) if error.is_answer() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the monitor and the log's reader tell each other.
#[derive(Debug)]
pub(super) struct MonitorSignals {
    /// A `GETACK` was read.
    pub(super) getack: Notify,
    /// The server is shutting down, and its stream ends at this offset.
    pub(super) shutdown: watch::Sender<Option<Offset>>,
    /// The server was reached at this moment, and its stream ended there.
    pub(super) seen: watch::Sender<Option<(Offset, Instant)>>,
    /// Since when a question to the server has been without an answer.
    unanswered: watch::Sender<Option<Instant>>,
}

impl MonitorSignals {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            getack: Notify::new(),
            shutdown: watch::Sender::new(None),
            seen: watch::Sender::new(None),
            unanswered: watch::Sender::new(None),
        })
    }

    /// Whether the network may be holding back what the server has sent: it does not even bring the
    /// answer to a question.
    pub(super) fn is_in_doubt(&self, now: Instant) -> bool {
        self.unanswered.borrow().is_some_and(|since| now >= since + ANSWER_MAX)
    }

    /// Asks the server something. The network is in doubt until the answer is here, whatever it is and
    /// whoever gives it: a refusal shows as well that the network brings what is sent.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        let now = Instant::now();
        self.unanswered.send_if_modified(|since| since.replace(since.unwrap_or(now)).is_none());
        let answer = question.await;
        if !matches!(answer, Err(LinkError::Timeout { .. })) {
            self.unanswered.send_if_modified(|since| since.take().is_some());
        }
        answer
    }
}

/// Watches over one link session; see the module. Runs until dropped.
pub(super) struct Monitor {
    pub(super) endpoint: Endpoint,
    pub(super) connection: Option<Connection>,
    pub(super) clock: Arc<Clock>,
    pub(super) link: LinkStateSender,
    pub(super) signals: Arc<MonitorSignals>,
    /// When the server's time was last asked for.
    pub(super) time_asked: Moment,
    /// What is told of newcomers.
    pub(super) journal: Arc<Journal>,
    /// Connections that the server had accepted at the last look, if it tells.
    pub(super) accepted: Option<u64>,
}

/// Whether what is known of the difference between the clocks is out of date.
fn time_is_due(asked: Moment, now: Moment) -> bool {
    let passed = now.instant.saturating_duration_since(asked.instant);
    passed >= TIME_INTERVAL || now.time.since(asked.time).abs_diff(passed) > CLOCK_DRIFT_MAX
}

impl Monitor {
    /// Runs until the server is shutting down. Errors only cost the connection, which is made anew
    /// at the next look: whether the link lives is for the log to tell.
    pub(super) async fn run(mut self) {
        let mut offset_tick = tokio::time::interval(OFFSET_INTERVAL);
        offset_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clock_tick = tokio::time::interval(CLOCK_INTERVAL);
        clock_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let signals = Arc::clone(&self.signals);
        loop {
            let outcome = tokio::select! {
                () = signals.getack.notified() => match signals.ask(self.look_for_shutdown()).await {
                    Ok(Some(end)) => {
                        signals.shutdown.send_replace(Some(end));
                        return;
                    }
                    outcome => {
                        tokio::time::sleep(SHUTDOWN_LOOK_INTERVAL).await;
                        outcome.map(|_| ())
                    }
                },
                _ = clock_tick.tick() => match time_is_due(self.time_asked, Moment::now(&self.clock)) {
                    true => signals.ask(self.look_at_time()).await,
                    false => Ok(()),
                },
                _ = offset_tick.tick() => match signals.ask(self.look_at_offset()).await {
                    Ok(()) => signals.ask(self.look_for_newcomers()).await,
                    failed => failed,
                },
            };
            if let Err(error) = outcome {
                debug!(error = %error, "the control connection is lost");
                self.connection = None;
            }
        }
    }

    async fn connection(&mut self) -> Result<&mut Connection, LinkError> {
        if self.connection.is_none() {
            self.connection = Some(self.endpoint.connect().await?);
        }
        self.connection.as_mut().ok_or(LinkError::Closed { address: self.endpoint.url.address().clone() })
    }

    async fn look_for_shutdown(&mut self) -> Result<Option<Offset>, LinkError> {
        let connection = self.connection().await?;
        if connection.info_server().await?.shutdown_in_milliseconds.is_none() {
            return Ok(None);
        }
        // Clients are paused by now, so that this is the end.
        Ok(Some(Offset(connection.info_replication().await?.master_repl_offset)))
    }

    async fn look_at_time(&mut self) -> Result<(), LinkError> {
        let clock = Arc::clone(&self.clock);
        self.time_asked = Moment::now(&clock);
        let offset = clock_offset(self.connection().await?, &clock).await?;
        self.link.update(|state| state.clock_offset = offset);
        Ok(())
    }

    async fn look_at_offset(&mut self) -> Result<(), LinkError> {
        let end = Offset(self.connection().await?.info_replication().await?.master_repl_offset);
        self.signals.seen.send_replace(Some((end, Instant::now())));
        let now = self.clock.now();
        self.link.update(|state| state.master_repl_offset = Some((end, now)));
        Ok(())
    }

    async fn look_for_newcomers(&mut self) -> Result<(), LinkError> {
        let accepted = self.connection().await?.connections_accepted().await?;
        let before = std::mem::replace(&mut self.accepted, accepted);
        if before.zip(accepted).is_some_and(|(before, now)| now != before) {
            self.journal.somebody_came();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redwind_archive::time::Timestamp;

    use super::*;

    #[test]
    fn the_time_is_asked_for_every_minute_and_when_our_clock_was_stepped() {
        let start = Instant::now();
        let at = |seconds: u64, clock: u64| Moment {
            instant: start + Duration::from_secs(seconds),
            time: Timestamp(1_000_000 * (7200 + clock)),
        };
        assert!(!time_is_due(at(0, 0), at(59, 59)));
        assert!(time_is_due(at(0, 0), at(60, 60)));
        assert!(time_is_due(at(0, 0), at(1, 3601)), "stepped forward");
        assert!(time_is_due(at(0, 0), at(2, 1)), "at half speed after a step back");
    }
}

//! The state of a source, put together from what its parts publish.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost_types::{Duration as Span, Timestamp as Instant};
use redwind_archive::documents::{Manifest, Server};
use redwind_archive::position::{Offset, Position};
use redwind_archive::time::{Clock, Timestamp};
use redwind_proto::v1::{
    Blur, Gap, Module, Position as PositionMessage, Server as ServerMessage, ServerLag, Snapshot,
    SnapshotProgress as SnapshotProgressMessage, SourceState, SourceStatus, Spool, StoreLag, Watermark,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::config::SourceConfig;
use crate::journal::{Progress, ReceivedMark, SnapshotProgress, SnapshotState, SpoolUsage};
use crate::source::{LinkState, Phase};

/// What the parts of an agent publish about one source.
#[derive(Clone, Debug)]
pub struct Watches {
    /// The link to the server.
    pub link: watch::Receiver<LinkState>,
    /// The watermarks.
    pub progress: watch::Receiver<Progress>,
    /// How far the socket has been read, more current than the watermarks.
    pub received: Arc<ReceivedMark>,
    /// How full the spool is.
    pub spool: watch::Receiver<SpoolUsage>,
    /// The snapshots.
    pub snapshots: watch::Receiver<SnapshotState>,
    /// Cancelled when the agent was told to stop.
    pub stopping: CancellationToken,
}

impl Watches {
    /// Those of an agent that does not write the archive yet: there is only the link.
    #[must_use]
    pub fn before_writing(link: watch::Receiver<LinkState>, spool_limit: u64, stopping: CancellationToken) -> Self {
        let spool = SpoolUsage { limit_bytes: spool_limit, ..SpoolUsage::default() };
        Self {
            link,
            progress: watch::channel(Progress::default()).1,
            received: Arc::default(),
            spool: watch::channel(spool).1,
            snapshots: watch::channel(SnapshotState::default()).1,
            stopping,
        }
    }
}

/// One source as it can be seen from outside.
#[derive(Debug)]
pub struct SourceView {
    archive: String,
    name: String,
    address: String,
    tls: bool,
    snapshot_interval: Option<Duration>,
    clock: Arc<Clock>,
    watches: watch::Sender<Watches>,
    seen: Mutex<Seen>,
}

/// What can only be told by comparing with what was seen before.
#[derive(Debug, Default)]
struct Seen {
    state: Option<(SourceState, Timestamp)>,
    /// An offset that the server is known to have had, and when that was seen first; kept until it
    /// has been received.
    missing: Option<(Offset, Timestamp)>,
}

impl SourceView {
    /// The view of the source that `config` names, and of its archive with that id.
    #[must_use]
    pub fn new(config: &SourceConfig, archive: Ulid, clock: Arc<Clock>, watches: Watches) -> Self {
        Self {
            archive: archive.to_string(),
            name: config.name.to_string(),
            address: config.server.address().to_string(),
            tls: config.server.is_tls(),
            snapshot_interval: config.snapshot_interval,
            clock,
            watches: watch::Sender::new(watches),
            seen: Mutex::default(),
        }
    }

    /// The source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the parts publish.
    #[must_use]
    pub fn watches(&self) -> Watches {
        self.watches.borrow().clone()
    }

    /// What the parts publish, and tells when there are other parts.
    pub(super) fn changing_watches(&self) -> watch::Receiver<Watches> {
        self.watches.subscribe()
    }

    /// Shows other parts from now on: those of an agent that has become the archive's writer.
    pub fn switch(&self, watches: Watches) {
        self.watches.send_replace(watches);
    }

    /// Everything received by now: the history that is being written, and the offset after the last
    /// byte read. `None` before the first history.
    #[must_use]
    pub fn received(&self) -> Option<Position> {
        let watches = self.watches();
        let progress = watches.progress.borrow();
        let offset = watches.received.offset().max(progress.received);
        progress.history.map(|history| Position { history, offset })
    }

    /// The state now.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let now = self.clock.now();
        let watches = self.watches();
        let link = watches.link.borrow().clone();
        let progress = watches.progress.borrow().clone();
        let snapshots = watches.snapshots.borrow().clone();
        let spool = *watches.spool.borrow();
        // Read after the watermarks, so that it is never behind them.
        let received = watches.received.offset().max(progress.received);
        let state = state(&link, &progress, watches.stopping.is_cancelled());
        let mark = |offset: Offset, at: Option<Timestamp>| Watermark { offset: offset.0, reached_at: at.map(instant) };
        let begun = progress.history.is_some();
        SourceStatus {
            name: self.name.clone(),
            state: state.into(),
            reason: reason(&link.phase),
            state_since: Some(instant(self.state_since(state, link.phase_since, now))),
            server: Some(self.server(&link)),
            history: progress.history.map(|history| history.to_string()).unwrap_or_default(),
            term: progress.term.0,
            replication_id: link.replication_id.clone().unwrap_or_default(),
            received: begun.then(|| mark(received, known(watches.received.at()))),
            spooled: begun.then(|| mark(progress.spooled, None)),
            stored: begun.then(|| mark(progress.stored, progress.stored_at)),
            durable: progress.durable.map(|durable| mark(durable, progress.durable_at)),
            server_lag: self.server_lag(&link, received, now),
            store_lag: begun.then(|| store_lag(&link, &progress, &watches.received, received, now)),
            known_complete_until: progress.complete_until.map(instant),
            spool: Some(Spool { used_bytes: spool.used_bytes, limit_bytes: spool.limit_bytes }),
            store_error: progress.store_error.as_deref().unwrap_or_default().to_owned(),
            last_snapshot: snapshots.last.as_deref().map(snapshot),
            snapshot_in_progress: snapshots.running.as_ref().map(snapshot_progress),
            next_snapshot_at: self.next_snapshot(snapshots.last.as_deref()),
            snapshot_error: snapshots.last_error.unwrap_or_default(),
            gaps: link.gaps,
            last_gap: link.last_gap.as_ref().map(|gap| Gap {
                from: Some(instant(gap.from)),
                until: Some(instant(gap.until)),
                cause: gap.cause.describe().to_owned(),
                history: gap.history.to_string(),
            }),
            blur_in_progress: link
                .late_since
                .map(|(from, offset)| Blur { from: Some(instant(from)), from_offset: offset.0 }),
            standby_armed: match &link.phase {
                Phase::StandingBy { armed, .. } => Some(*armed),
                _ => None,
            },
            archive: self.archive.clone(),
        }
    }

    /// The link knows since when it is in its phase; of the other changes we see the first that we
    /// look at.
    fn state_since(&self, state: SourceState, phase_since: Timestamp, now: Timestamp) -> Timestamp {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match seen.state {
            Some((before, since)) if before == state => since.max(phase_since),
            Some((_, since)) if phase_since <= since => now,
            _ => phase_since,
        };
        seen.state = Some((state, since));
        since
    }

    fn server(&self, link: &LinkState) -> ServerMessage {
        let server = link.server.as_ref();
        let text = |of: fn(&Server) -> &String| server.map(|server| of(server).clone()).unwrap_or_default();
        let modules = server.map(|server| server.modules.as_slice()).unwrap_or_default();
        ServerMessage {
            address: self.address.clone(),
            tls: self.tls,
            kind: text(|server| &server.vendor),
            version: text(|server| &server.version),
            is_replica: server.is_some_and(|server| server.role == "slave"),
            modules: modules
                .iter()
                .map(|module| Module { name: module.name.clone(), version: module.version })
                .collect(),
            clock_offset: link.clock_offset.map(signed_span),
        }
    }

    /// Nothing is known of the server while there is no link.
    fn server_lag(&self, link: &LinkState, received: Offset, now: Timestamp) -> Option<ServerLag> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (offset, observed) = link.master_repl_offset?;
        if link.phase != Phase::Streaming {
            seen.missing = None;
            return None;
        }
        seen.missing = seen.missing.filter(|(missing, _)| *missing > received);
        if seen.missing.is_none() && offset > received {
            seen.missing = Some((offset, observed));
        }
        Some(ServerLag {
            server_offset: offset.0,
            observed_at: Some(instant(observed)),
            bytes_behind: offset.since(received),
            time_behind: Some(span(seen.missing.map_or(Duration::ZERO, |(_, since)| now.since(since)))),
        })
    }

    fn next_snapshot(&self, last: Option<&Manifest>) -> Option<Instant> {
        Some(instant(last?.time.after(self.snapshot_interval?)))
    }
}

/// What the agent is doing about the source.
fn state(link: &LinkState, progress: &Progress, stopping: bool) -> SourceState {
    if progress.fenced {
        return SourceState::Fenced;
    }
    if stopping {
        return SourceState::Stopping;
    }
    match &link.phase {
        Phase::Connecting | Phase::Negotiating => SourceState::Connecting,
        Phase::Streaming if progress.durable.is_none() => SourceState::Syncing,
        Phase::Streaming => SourceState::Streaming,
        Phase::Down { .. } | Phase::Refused { .. } => SourceState::Down,
        Phase::SpoolFull => SourceState::SpoolFull,
        Phase::StandingBy { .. } => SourceState::Standby,
        Phase::Stopped => SourceState::Stopping,
    }
}

fn store_lag(link: &LinkState, progress: &Progress, mark: &ReceivedMark, received: Offset, now: Timestamp) -> StoreLag {
    let oldest = [progress.oldest_undurable_write, mark.unsent_write()].into_iter().flatten().min();
    // Without a link there may be writes that we know nothing of.
    let linked = link.phase == Phase::Streaming;
    StoreLag {
        bytes_behind: received.since(progress.durable.unwrap_or(progress.history_start)),
        time_behind: linked.then(|| span(oldest.map_or(Duration::ZERO, |arrival| now.since(arrival)))),
    }
}

fn reason(phase: &Phase) -> String {
    match phase {
        Phase::Down { reason, .. } | Phase::Refused { reason, .. } => reason.clone(),
        Phase::SpoolFull => "the spool is full because the store takes nothing".to_owned(),
        Phase::StandingBy { holder, armed, trouble } => {
            let noticed = if *armed { "armed" } else { "not armed: its end would be noticed after 90 s" };
            let trouble = trouble.as_ref().map(|trouble| format!("; the source cannot be followed now: {trouble}"));
            format!("{holder} writes the archive ({noticed}){}", trouble.unwrap_or_default())
        }
        Phase::Connecting | Phase::Negotiating | Phase::Streaming | Phase::Stopped => String::new(),
    }
}

/// A complete snapshot.
pub(super) fn snapshot(manifest: &Manifest) -> Snapshot {
    Snapshot {
        id: manifest.snapshot.to_string(),
        position: Some(position(manifest.position)),
        taken_at: Some(instant(manifest.time)),
        completed_at: Some(instant(manifest.ended)),
        rdb_bytes: manifest.rdb_bytes,
        stored_bytes: manifest.stored_bytes,
    }
}

/// A snapshot under way.
pub(super) fn snapshot_progress(progress: &SnapshotProgress) -> SnapshotProgressMessage {
    SnapshotProgressMessage {
        id: progress.id.to_string(),
        position: progress.position.map(position),
        started_at: Some(instant(progress.started)),
        received_bytes: progress.received_bytes,
        total_bytes: progress.total_bytes,
        stored_bytes: progress.stored_bytes,
    }
}

pub(super) fn position(position: Position) -> PositionMessage {
    PositionMessage { history: position.history.to_string(), offset: position.offset.0 }
}

pub(crate) fn instant(time: Timestamp) -> Instant {
    let seconds = i64::try_from(time.0 / 1_000_000).unwrap_or(i64::MAX);
    Instant { seconds, nanos: nanos(i64::try_from(time.0 % 1_000_000).unwrap_or(0)) }
}

fn known(time: Timestamp) -> Option<Timestamp> {
    (time != Timestamp::default()).then_some(time)
}

fn span(duration: Duration) -> Span {
    Span::try_from(duration).unwrap_or(Span { seconds: i64::MAX, nanos: 0 })
}

fn signed_span(micros: i64) -> Span {
    Span { seconds: micros / 1_000_000, nanos: nanos(micros % 1_000_000) }
}

fn nanos(micros: i64) -> i32 {
    i32::try_from(micros * 1000).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;

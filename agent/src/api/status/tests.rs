use super::*;
use crate::config::{self, SpoolConfig};
use redwind_archive::position::{HistoryId, Term};
use redwind_link::TlsOptions;

/// The publishing ends of everything that a view reads.
pub(crate) struct Parts {
    pub(crate) link: watch::Sender<LinkState>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) received: Arc<ReceivedMark>,
    pub(crate) spool: watch::Sender<SpoolUsage>,
    pub(crate) snapshots: watch::Sender<SnapshotState>,
    pub(crate) stopping: CancellationToken,
    pub(crate) clock: Arc<Clock>,
}

pub(crate) fn history() -> HistoryId {
    HistoryId(Ulid::from(7))
}

pub(crate) fn source_config() -> SourceConfig {
    SourceConfig {
        name: "default".parse().unwrap(),
        server: "redis://me:canary@db".parse().unwrap(),
        password_file: None,
        tls: TlsOptions::default(),
        store: "memory://".parse().unwrap(),
        recipients: redwind_archive::keys::Recipients::default(),
        spool: SpoolConfig { dir: "/spool".into(), bytes_max: config::SPOOL_BYTES_DEFAULT },
        flush_interval: config::FLUSH_INTERVAL_DEFAULT,
        getack_interval: config::GETACK_INTERVAL_DEFAULT,
        segment_bytes_max: config::SEGMENT_BYTES_DEFAULT,
        compression_level: config::COMPRESSION_LEVEL_DEFAULT,
        snapshot_interval: Some(config::SNAPSHOT_INTERVAL_DEFAULT),
    }
}

impl Parts {
    /// An agent that has just started.
    pub(crate) fn new() -> Self {
        let clock = Arc::new(Clock::new());
        let link = LinkState::new(clock.now());
        Self {
            link: watch::Sender::new(link),
            progress: watch::Sender::new(Progress::default()),
            received: Arc::default(),
            spool: watch::Sender::new(SpoolUsage { used_bytes: 10, limit_bytes: 100, ..SpoolUsage::default() }),
            snapshots: watch::Sender::new(SnapshotState::default()),
            stopping: CancellationToken::new(),
            clock,
        }
    }

    /// An agent that follows: the server at 250, 200 received, 180 spooled, 160 stored, 150 durable.
    pub(crate) fn streaming() -> Self {
        let parts = Self::new();
        parts.stream();
        parts
    }

    pub(crate) fn stream(&self) {
        let now = self.clock.now();
        self.link.send_modify(|link| {
            link.phase = Phase::Streaming;
            link.master_repl_offset = Some((Offset(250), now));
            link.partial_resyncs = 2;
        });
        self.received.raise(Offset(200), now);
        self.progress.send_modify(|progress| {
            *progress = Progress {
                term: Term(3),
                history: Some(history()),
                history_start: Offset(100),
                received: Offset(190),
                spooled: Offset(180),
                stored: Offset(160),
                durable: Some(Offset(150)),
                complete_until: Some(now),
                ..Progress::default()
            };
        });
    }

    pub(crate) fn view(&self) -> SourceView {
        let watches = Watches {
            link: self.link.subscribe(),
            progress: self.progress.subscribe(),
            received: Arc::clone(&self.received),
            spool: self.spool.subscribe(),
            snapshots: self.snapshots.subscribe(),
            stopping: self.stopping.clone(),
        };
        SourceView::new(&source_config(), Ulid::from(1), Arc::clone(&self.clock), watches)
    }
}

fn state_of(status: &SourceStatus) -> SourceState {
    SourceState::try_from(status.state).unwrap()
}

#[test]
fn before_the_first_link_nothing_is_known() {
    let status = Parts::new().view().status();
    assert_eq!(state_of(&status), SourceState::Connecting);
    assert!(status.received.is_none() && status.durable.is_none() && status.known_complete_until.is_none());
    assert!(status.server_lag.is_none() && status.store_lag.is_none() && status.last_snapshot.is_none());
    assert_eq!(status.server.as_ref().unwrap().address, "db:6379");
    assert!(!format!("{status:?}").contains("canary"));
}

#[test]
fn the_newest_received_offset_counts_and_the_order_holds() {
    let status = Parts::streaming().view().status();
    assert_eq!(state_of(&status), SourceState::Streaming);
    let offsets = [status.received, status.spooled, status.stored, status.durable].map(|mark| mark.unwrap().offset);
    assert_eq!(offsets, [200, 180, 160, 150]);
    assert_eq!(status.server_lag.unwrap().bytes_behind, 50);
    let lag = status.store_lag.unwrap();
    assert_eq!((lag.bytes_behind, lag.time_behind), (50, Some(Span::default())));
}

#[test]
fn without_a_snapshot_nothing_is_durable_and_all_is_behind() {
    let parts = Parts::streaming();
    parts.progress.send_modify(|progress| progress.durable = None);
    let status = parts.view().status();
    assert_eq!(state_of(&status), SourceState::Syncing);
    assert!(status.durable.is_none());
    assert_eq!(status.store_lag.unwrap().bytes_behind, 100);
}

#[test]
fn seconds_behind_the_store_are_those_of_the_oldest_write_wherever_it_is() {
    let parts = Parts::streaming();
    let ago = |seconds| parts.clock.now().before(Duration::from_secs(seconds));
    let behind = || parts.view().status().store_lag.unwrap().time_behind.unwrap().seconds;
    parts.received.set_unsent_write(Some(ago(5)));
    assert_eq!(behind(), 5);
    parts.progress.send_modify(|progress| progress.oldest_undurable_write = Some(ago(9)));
    assert_eq!(behind(), 9);
}

#[test]
fn without_a_link_lags_are_unknown_and_not_zero() {
    let parts = Parts::streaming();
    let phase = Phase::Down { reason: "connection refused".into(), retry_in: Duration::from_secs(1) };
    parts.link.send_modify(|link| link.phase = phase);
    let status = parts.view().status();
    assert_eq!((state_of(&status), status.reason.as_str()), (SourceState::Down, "connection refused"));
    assert!(status.server_lag.is_none());
    assert_eq!(status.store_lag.unwrap().time_behind, None);
}

#[test]
fn time_behind_the_server_lasts_until_what_was_missing_is_received() {
    let parts = Parts::streaming();
    let view = parts.view();
    let early = parts.clock.now().before(Duration::from_secs(30));
    let behind = || view.status().server_lag.unwrap().time_behind.unwrap().seconds;
    parts.link.send_modify(|link| link.master_repl_offset = Some((Offset(300), early)));
    assert_eq!(behind(), 30);
    let later = early.after(Duration::from_secs(20));
    parts.link.send_modify(|link| link.master_repl_offset = Some((Offset(400), later)));
    assert_eq!(behind(), 30);
    parts.received.raise(Offset(300), parts.clock.now());
    assert_eq!(behind(), 10);
    parts.received.raise(Offset(400), parts.clock.now());
    assert_eq!(behind(), 0);
}

#[test]
fn fenced_and_stopping_come_before_what_the_link_does() {
    let parts = Parts::streaming();
    parts.stopping.cancel();
    assert_eq!(state_of(&parts.view().status()), SourceState::Stopping);
    parts.progress.send_modify(|progress| progress.fenced = true);
    assert_eq!(state_of(&parts.view().status()), SourceState::Fenced);
}

#[test]
fn a_state_is_as_old_as_its_first_sight() {
    let parts = Parts::streaming();
    let view = parts.view();
    let phase_since = parts.link.borrow().phase_since;
    assert_eq!(view.status().state_since, Some(instant(phase_since)));
    parts.progress.send_modify(|progress| progress.durable = None);
    let syncing = view.status().state_since;
    assert_ne!(syncing, Some(instant(phase_since)));
    assert_eq!(view.status().state_since, syncing);
}

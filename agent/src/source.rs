//! Everything that talks to the server.
//!
//! Three kinds of connection, none of which waits for another:
//! - the **log** (`log_reader`): the replication stream, online first and always;
//! - the **snapshot** (`snapshot_transfer`): an RDB now and then, closed as soon as it ends;
//! - the **control** connection (`monitor`): what the server is, how far it is, whether it exits.
//!
//! A [`Scout`] finds out, before anything else, whether the server can be followed at all.
//! [`SourceFollower`] then keeps the log online: connect, agree where the stream goes on (`negotiate`),
//! read until something ends that, wait, again. It promises to continue the archive's history as
//! long as the server has the bytes, to begin a new one with the true cause when it has not, and to
//! be a polite guest: never the slow reader, never electable, never delaying a shutdown, no forks but
//! those asked for.
//!
//! **Its own thread.** The log is read on a thread with a runtime of its own, on which nothing runs
//! but the reader, the acknowledgements and the monitor: none of them computes for long, so that no
//! compression, checksum, upload or scrape can make the reader late. Snapshots run on the process's
//! runtime.

mod ack;
mod attention;
mod backoff;
mod error;
mod follower;
mod handshake;
mod link_state;
mod log_reader;
mod monitor;
mod negotiate;
mod payload;
mod scout;
mod snapshot_transfer;
mod snapshots;
mod socket_probe;

use std::sync::Arc;

use redwind_archive::time::Clock;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::error::{AttachError, SourceError};
use self::follower::Follower;
use self::handshake::Endpoint;
use self::link_state::LinkStateSender;
pub use self::link_state::{Gap, LinkState, Phase};
use self::log_reader::ReaderContext;
pub use self::scout::Scout;
use self::snapshot_transfer::LogWatch;
use self::snapshots::SnapshotKeeper;
pub use self::snapshots::SnapshotRequest;
use crate::config::SourceConfig;
use crate::journal::Journal;

/// Events of the log that the snapshots have not looked at yet.
const LOG_EVENTS: usize = 4;

/// Follows one source; see the module.
pub struct SourceFollower {
    follower: Follower,
    snapshots: SnapshotKeeper,
    link: LinkStateSender,
}

impl SourceFollower {
    /// Prepares to follow the source that `config` names. `requests` ask for snapshots; `flush` asks
    /// for everything that has been read to go to the store now.
    ///
    /// # Panics
    /// If the journal's sender has been taken by somebody else.
    #[must_use]
    pub fn new(
        config: &SourceConfig,
        journal: Arc<Journal>,
        clock: Arc<Clock>,
        requests: mpsc::Receiver<SnapshotRequest>,
        flush: Arc<Notify>,
    ) -> Self {
        let endpoint = Endpoint::of(config);
        let link = LinkStateSender::new(clock.now());
        let (log_events, events) = mpsc::channel(LOG_EVENTS);
        let log = LogWatch {
            received: journal.received(),
            progress: journal.progress(),
            flush: Arc::clone(&flush),
            clock: Arc::clone(&clock),
        };
        let source = config.name.to_string();
        let context = ReaderContext {
            clock,
            progress: journal.progress(),
            spool: journal.spool_usage(),
            link: link.clone(),
            flush,
            flush_interval: config.flush_interval,
            getack_interval: config.getack_interval,
            getacks: metrics::counter!("redwind_getacks_total", "source" => source.clone()),
            bytes: metrics::counter!("redwind_received_bytes_total", "source" => source),
        };
        let snapshots = SnapshotKeeper::new(
            endpoint.clone(),
            Arc::clone(&journal),
            log.clone(),
            config.snapshot_interval,
            requests,
            events,
        );
        let follower = Follower::new(endpoint, journal, context, log, log_events);
        Self { follower, snapshots, link }
    }

    /// The link as it is, from now on.
    #[must_use]
    pub fn link_state(&self) -> watch::Receiver<LinkState> {
        self.link.subscribe()
    }

    /// Follows the source until cancelled. Then everything that has been read has been handed to the
    /// journal.
    ///
    /// # Errors
    /// The server refuses us before it was ever followed, or the journal has ended.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), SourceError> {
        let Self { follower, snapshots, .. } = self;
        // The log and the snapshots end with each other, and with whoever drops this.
        let ending = cancel.child_token();
        let _ending = ending.clone().drop_guard();
        let log_cancel = ending.clone();
        let background = tokio::runtime::Handle::current();
        let log = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name("redwind-log")
                .build()
                .map_err(SourceError::Thread)?;
            runtime.block_on(follower.run(log_cancel, background))
        });
        let log = async {
            let outcome = log.await;
            ending.cancel();
            outcome
        };
        let (outcome, ()) = tokio::join!(log, snapshots.run(ending.clone()));
        outcome.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(()),
        })
    }
}

impl std::fmt::Debug for SourceFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceFollower").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

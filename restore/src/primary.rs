//! The restorer as primary: servers replicate from it what the source held at the target.
//!
//! One mechanism for every version, vendor and module: a replica is sent the snapshot's RDB and the
//! stream up to the cut, applies them at full speed, and suspends expiry while it does, so that it
//! holds exactly the state at the target when it acknowledges the cut.
//!
//! - Nothing is told to a peer that has not said the password. Those have little time, and when there are many
//!   the oldest of them is cut off for the newest, so that a few connections that say nothing keep nobody out;
//!   once a peer has said the password, no number of them does.
//! - The replication ID is fresh and random. The source's would let its stale replicas join a server
//!   that was restored from us, by partial resync, with other data (`masterTryPartialResynchronization`).
//! - Every `PSYNC` is answered with a full resync of the whole recording, so a replica that loses the
//!   link begins again; what it holds is never put together from two connections.
//! - The RDB goes by `$<bytes>`, whose end a replica cannot miss, whatever follows at once.

mod boundary;
mod command;
mod feed;
mod handshake;
mod secret;
mod strangers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::fetch::FetchError;
use crate::progress::Progress;
use crate::recording::Recording;
use command::CommandReader;
use feed::Feed;
use strangers::Strangers;

pub use secret::Password;

/// Replicas that may be served at once.
const REPLICAS_MAX: usize = 64;
/// How long a peer may take to get to `PSYNC`.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait for a replica to come, or to come back.
const ABSENCE_MAX: Duration = Duration::from_secs(60);
/// Full resyncs of one restore. A replica that needs more fails at each.
const FULL_RESYNCS_MAX: u32 = 4;

/// Why a recording cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PrimaryError {
    /// No socket.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No random numbers for a password.
    #[error("the system gives no random numbers")]
    Random,
    /// The archive does not give what the plan needs.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No replica comes.
    #[error(
        "no server has come to replicate from {address} within {} s; if it cannot reach that address, give one that \
         it can by --listen",
        ABSENCE_MAX.as_secs()
    )]
    NobodyCame {
        /// Where we listen.
        address: SocketAddr,
    },
    /// The replica was lost and did not come back.
    #[error("the server stopped replicating ({problem}) and did not come back within {} s; its log says why", ABSENCE_MAX.as_secs())]
    Lost {
        /// What ended its last connection.
        problem: String,
    },
    /// The replica begins again and again.
    #[error("the server broke off replication {FULL_RESYNCS_MAX} times (last: {problem}); its log says why")]
    GivesUp {
        /// What ended its last connection.
        problem: String,
    },
}

/// How the replicas stand.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Replicas that are connected now.
    pub attached: u32,
    /// Full resyncs begun so far.
    pub full_resyncs: u32,
    /// The replica that last acknowledged the cut: all of the recording is applied there.
    pub applied: Option<SocketAddr>,
    /// How often a replica has acknowledged the cut.
    pub times_applied: u32,
    /// The replica that acknowledged the cut has ended its connection since.
    pub applied_left: bool,
    /// What ended the last connection that ended before the cut.
    pub problem: Option<String>,
}

/// A listening primary; see the module.
pub struct Primary {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections of a primary have in common.
struct Shared {
    recording: Recording,
    password: Password,
    replication_id: String,
    progress: Progress,
    standing: watch::Sender<Standing>,
    /// Of replicas.
    places: Semaphore,
}

impl Primary {
    /// Listens; `address` may have port 0 for any that is free.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn bind(address: SocketAddr, recording: Recording, progress: Progress) -> Result<Self, PrimaryError> {
        let refused = |source| PrimaryError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shared = Shared {
            recording,
            password: Password::generate()?,
            replication_id: secret::random_hex()?,
            progress,
            standing: watch::Sender::default(),
            places: Semaphore::new(REPLICAS_MAX),
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a replica must have as `masterauth`.
    #[must_use]
    pub fn password(&self) -> &Password {
        &self.shared.password
    }

    /// How the replicas stand, from now on.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Serves replicas until it is dropped, or until the archive fails: then an object is damaged or
    /// the store out of reach, and every replica is cut off before it has everything.
    pub async fn run(self) -> PrimaryError {
        let mut peers = JoinSet::new();
        let mut strangers = Strangers::default();
        loop {
            tokio::select! {
                Some(ended) = peers.join_next() => {
                    if let Err(error) = ended.map_err(FetchError::Task).flatten() {
                        return error.into();
                    }
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let (shared, stranger) = (Arc::clone(&self.shared), strangers.enter());
                        peers.spawn(async move {
                            let handshake = |place| handshake::shake_hands(&shared.password, stream, place);
                            match stranger.within(HANDSHAKE_TIME_MAX, handshake).await {
                                Ok((reader, writer)) => serve(&shared, peer, reader, writer).await,
                                Err(error) => {
                                    tracing::info!(%peer, %error, "a peer did not become a replica");
                                    Ok(())
                                }
                            }
                        });
                    }
                    // Out of file descriptors, or the peer has gone: the next may do better.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

/// Serves one replica to its end. Only the archive's failures are errors; the replica's end its connection.
async fn serve(
    shared: &Arc<Shared>,
    peer: SocketAddr,
    reader: CommandReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
) -> Result<(), FetchError> {
    let Ok(_place) = shared.places.try_acquire() else {
        tracing::warn!(%peer, "{REPLICAS_MAX} servers replicate already");
        return Ok(());
    };
    tracing::info!(%peer, "a server replicates");
    shared.standing.send_modify(|standing| {
        standing.attached += 1;
        standing.full_resyncs += 1;
    });
    let outcome = Feed::new(shared, peer, reader, writer).run().await;
    shared.standing.send_modify(|standing| {
        standing.attached -= 1;
        if standing.applied == Some(peer) {
            standing.applied_left = true;
        } else if let Err(feed::FeedError::Peer(problem)) = &outcome {
            standing.problem = Some(problem.to_string());
        }
    });
    match outcome {
        Err(feed::FeedError::Archive(error)) => Err(error),
        Err(feed::FeedError::Peer(error)) => {
            tracing::info!(%peer, %error, "a server stopped replicating");
            Ok(())
        }
        Ok(never) => match never {},
    }
}

/// Waits until a replica that has applied everything has ended its connection.
pub async fn until_left(mut standing: watch::Receiver<Standing>) {
    // Its end means that the primary has ended, whose own error says why.
    let _ = standing.wait_for(|standing| standing.applied_left).await;
}

/// Waits until a replica has applied everything.
///
/// # Errors
/// When none comes, it is lost, or it breaks off again and again.
pub async fn until_applied(mut standing: watch::Receiver<Standing>, address: SocketAddr) -> Result<(), PrimaryError> {
    loop {
        let now = standing.borrow_and_update().clone();
        if now.applied.is_some() {
            return Ok(());
        }
        let problem = || now.problem.clone().unwrap_or_else(|| "the connection ended".to_owned());
        if now.full_resyncs >= FULL_RESYNCS_MAX && now.attached == 0 {
            return Err(PrimaryError::GivesUp { problem: problem() });
        }
        let changed = if now.attached > 0 {
            Ok(standing.changed().await)
        } else {
            tokio::time::timeout(ABSENCE_MAX, standing.changed()).await
        };
        match changed {
            Ok(Ok(())) => {}
            // The primary has ended; its own error says why.
            Ok(Err(_)) => return Err(PrimaryError::Lost { problem: problem() }),
            Err(_) if now.full_resyncs == 0 => return Err(PrimaryError::NobodyCame { address }),
            Err(_) => return Err(PrimaryError::Lost { problem: problem() }),
        }
    }
}

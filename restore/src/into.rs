//! `--into`: a running server is given the state at the target.
//!
//! It becomes a read-only replica of the restorer until it has applied everything, and is then
//! released as a primary. Everything that would make that fail is looked for first, before the server
//! is touched. If it fails all the same, the server stays a read-only replica of an address at which
//! nobody answers any more: half a dataset must not take writes or be taken for a whole one. Its
//! `masterauth`, `masteruser` and `replica-read-only` are put back in either case.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use redwind_link::{Connection, LinkError, ServerAddress, ServerInfo, ServerUrl, TlsOptions};
use redwind_link::{ReplicationInfo, Role};
use tokio_util::sync::CancellationToken;

use crate::error::RestoreError;
use crate::fitness::{Needs, Unfit};
use crate::primary::{self, Primary};
use crate::progress::Progress;
use crate::recording::Recording;
use crate::replica;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a target of `--into` was refused, or in which state it was left.
#[derive(Debug, thiserror::Error)]
pub enum IntoError {
    /// Vendor, version or modules do not fit.
    #[error("{target} cannot take this restore: {unfit}")]
    Unfit {
        /// The target.
        target: ServerAddress,
        /// What does not fit.
        unfit: Unfit,
    },
    /// It is a node of a cluster.
    #[error("{0} runs in cluster mode, in which REPLICAOF is refused; restore to an AOF directory or RDB file instead")]
    Cluster(ServerAddress),
    /// It is a Sentinel.
    #[error("{0} is a Sentinel")]
    Sentinel(ServerAddress),
    /// It follows a primary.
    #[error("{target} is a replica of {primary}; name its primary, or release it by REPLICAOF NO ONE first")]
    Replica {
        /// The target.
        target: ServerAddress,
        /// The primary that it follows.
        primary: String,
    },
    /// It is loading its dataset.
    #[error("{0} is still loading its dataset; try again when it is done")]
    Loading(ServerAddress),
    /// It holds data.
    #[error("{target} holds {keys} keys, which the restore would replace; empty it, or add --force")]
    HoldsData {
        /// The target.
        target: ServerAddress,
        /// How many keys.
        keys: u64,
    },
    /// It would speak TLS to us.
    #[error(
        "{0} replicates by TLS only (tls-replication yes), which the restorer does not speak; CONFIG SET tls-replication no for the restore"
    )]
    TlsReplication(ServerAddress),
    /// No address of ours by which the target could reach us.
    #[error("cannot tell by which address {0} can reach this machine; give one by --listen")]
    Unreachable(ServerAddress),
    /// It failed after the target had been touched.
    #[error(
        "{target} does not hold the target state and is left a read-only replica, so that nothing is written to it; \
         restore into it again with --force, or release it as it is by REPLICAOF NO ONE"
    )]
    LeftReplica {
        /// The target.
        target: ServerAddress,
        /// Why it failed.
        source: Box<RestoreError>,
    },
    /// It holds everything and is released, but its settings are still ours.
    #[error(
        "{target} is restored, but its settings could not be put back: look at masterauth, masteruser and replica-read-only"
    )]
    Settings {
        /// The target.
        target: ServerAddress,
        /// Why not.
        source: Box<LinkError>,
    },
}

/// How `--into` is asked for.
#[derive(Clone, Debug)]
pub struct IntoOptions {
    /// The server that is to hold the state.
    pub target: ServerUrl,
    /// TLS to it.
    pub tls: TlsOptions,
    /// Where to listen for it; `None` to choose an address by which it can reach us.
    pub listen: Option<SocketAddr>,
    /// Replace the data that it holds.
    pub force: bool,
}

/// A target that has been found fit and not been touched yet.
#[derive(Debug)]
pub struct IntoTarget {
    options: IntoOptions,
    connection: Connection,
    /// Keys that it holds now.
    pub keys: u64,
    saved: Settings,
}

/// The settings that are changed for the restore, as they were.
#[derive(Debug)]
struct Settings {
    password: Vec<u8>,
    user: Vec<u8>,
    read_only: Vec<u8>,
}

impl IntoTarget {
    /// Connects to the target and looks for everything that would make the restore fail.
    ///
    /// # Errors
    /// [`IntoError`], or that it cannot be talked to.
    pub async fn check(options: IntoOptions, recording: &Recording) -> Result<Self, RestoreError> {
        let target = options.target.address().clone();
        let link = |source| link_error(&target, source);
        let mut connection = Connection::connect(&options.target, &options.tls, ANSWER_TIME_MAX).await.map_err(link)?;
        let info = connection.info().await.map_err(link)?;
        check_state(&target, &info)?;
        Needs::of(recording).check(&info).map_err(|unfit| IntoError::Unfit { target: target.clone(), unfit })?;
        let keys = info.keys.unwrap_or(0);
        if keys > 0 && !options.force {
            return Err(IntoError::HoldsData { target, keys }.into());
        }
        let tls = replica::setting(&mut connection, "tls-replication").await.map_err(link)?;
        if tls.as_deref() == Some(b"yes") {
            return Err(IntoError::TlsReplication(target).into());
        }
        let saved = Settings::read(&mut connection).await.map_err(link)?;
        Ok(Self { options, connection, keys, saved })
    }

    /// Restores into the target and releases it. Tells how many commands of the stream it refused, if
    /// it counts them.
    ///
    /// # Errors
    /// [`IntoError::LeftReplica`] once the target has been touched; any other before.
    pub async fn restore(
        mut self,
        recording: &Recording,
        progress: &Progress,
        cancel: CancellationToken,
    ) -> Result<u64, RestoreError> {
        let target = self.options.target.address().clone();
        let primary = Primary::bind(self.listen_address()?, recording.clone(), progress.clone()).await?;
        let announced = self.announced(primary.address())?;
        tracing::info!(address = %announced, "the target replicates from here");
        if self.options.target.is_tls() && !announced.ip().is_loopback() {
            tracing::warn!(
                %target, "rediss:// encrypts the commands to the target, but not the data that it replicates from here"
            );
        }
        let outcome = self.replicate(primary, announced, cancel).await;
        let restored = self.put_back().await;
        match (outcome, restored) {
            (Ok(refused), Ok(())) => Ok(refused),
            (Ok(_), Err(error)) => Err(IntoError::Settings { target, source: Box::new(error) }.into()),
            (Err(source), restored) => {
                if let Err(error) = restored {
                    tracing::warn!(%target, %error, "masterauth and masteruser could not be put back");
                }
                Err(IntoError::LeftReplica { target, source: Box::new(source) }.into())
            }
        }
    }

    async fn replicate(
        &mut self,
        primary: Primary,
        announced: SocketAddr,
        cancel: CancellationToken,
    ) -> Result<u64, RestoreError> {
        let (standing, password) = (primary.standing(), primary.password().clone());
        let address = primary.address();
        let replay = async {
            let target = self.options.target.address().clone();
            let link = |source| link_error(&target, source);
            let before = replica::refused_commands(&mut self.connection).await.map_err(link)?;
            let connection = &mut self.connection;
            replica::set(connection, "replica-read-only", b"yes").await.map_err(link)?;
            replica::set(connection, "masteruser", b"").await.map_err(link)?;
            replica::set(connection, "masterauth", password.expose().as_bytes()).await.map_err(link)?;
            replica::follow(connection, announced).await.map_err(link)?;
            primary::until_applied(standing, address).await?;
            // The connection may have been idle for hours.
            self.reconnect().await.map_err(link)?;
            let after = replica::refused_commands(&mut self.connection).await.map_err(link)?;
            self.connection.command(&[b"REPLICAOF", b"NO", b"ONE"]).await.map_err(link)?;
            Ok(after.zip(before).map_or(0, |(after, before)| after.saturating_sub(before)))
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RestoreError::Interrupted),
            outcome = replay => outcome,
            error = primary.run() => Err(error.into()),
        }
    }

    async fn reconnect(&mut self) -> Result<(), LinkError> {
        self.connection = Connection::connect(&self.options.target, &self.options.tls, ANSWER_TIME_MAX).await?;
        Ok(())
    }

    async fn put_back(&mut self) -> Result<(), LinkError> {
        self.reconnect().await?;
        // Only a primary may go back to taking writes.
        let released = self.connection.info_replication().await?.role == Role::Primary;
        self.saved.write(&mut self.connection, released).await
    }

    /// Where to listen for the target.
    fn listen_address(&self) -> Result<SocketAddr, IntoError> {
        match self.options.listen {
            Some(address) => Ok(address),
            None => Ok(SocketAddr::new(self.own_address()?, 0)),
        }
    }

    /// What the target is told to connect to.
    fn announced(&self, listening: SocketAddr) -> Result<SocketAddr, IntoError> {
        match listening.ip().is_unspecified() {
            true => Ok(SocketAddr::new(self.own_address()?, listening.port())),
            false => Ok(listening),
        }
    }

    /// The address of ours that lies on the way to the target.
    fn own_address(&self) -> Result<IpAddr, IntoError> {
        let ServerAddress::Tcp { host, port } = self.options.target.address() else {
            return Ok(Ipv4Addr::LOCALHOST.into());
        };
        // A UDP socket sends nothing by being connected; the system only chooses the route.
        let route = |family: &str| {
            let socket = UdpSocket::bind((family, 0))?;
            socket.connect((host.as_str(), *port))?;
            socket.local_addr()
        };
        let address = route("0.0.0.0").or_else(|_| route("::"));
        address.map(|address| address.ip()).map_err(|_| IntoError::Unreachable(self.options.target.address().clone()))
    }
}

fn check_state(target: &ServerAddress, info: &ServerInfo) -> Result<(), IntoError> {
    if info.sentinel {
        return Err(IntoError::Sentinel(target.clone()));
    }
    if info.cluster_enabled {
        return Err(IntoError::Cluster(target.clone()));
    }
    if info.loading == Some(true) {
        return Err(IntoError::Loading(target.clone()));
    }
    match &info.replication {
        Some(ReplicationInfo { role: Role::Replica, master, .. }) => {
            let primary = master.clone().unwrap_or_else(|| "another server".to_owned());
            Err(IntoError::Replica { target: target.clone(), primary })
        }
        _ => Ok(()),
    }
}

fn link_error(target: &ServerAddress, source: LinkError) -> RestoreError {
    RestoreError::Link { who: format!("the target {target}"), source: Box::new(source) }
}

impl Settings {
    async fn read(connection: &mut Connection) -> Result<Self, LinkError> {
        let password = replica::setting(connection, "masterauth").await?.unwrap_or_default();
        let user = replica::setting(connection, "masteruser").await?.unwrap_or_default();
        let read_only = replica::setting(connection, "replica-read-only").await?.unwrap_or_else(|| b"yes".to_vec());
        Ok(Self { password, user, read_only })
    }

    async fn write(&self, connection: &mut Connection, released: bool) -> Result<(), LinkError> {
        replica::set(connection, "masterauth", &self.password).await?;
        replica::set(connection, "masteruser", &self.user).await?;
        if released {
            replica::set(connection, "replica-read-only", &self.read_only).await?;
        }
        Ok(())
    }
}

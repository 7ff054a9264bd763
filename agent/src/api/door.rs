//! The way in to an interface: connections, at most so many, each encrypted where TLS is asked for.
//!
//! A peer that has not asked for anything that it may ask for is a stranger, and is cut off after
//! [`STRANGER_TIME_MAX`] whatever it does: one that sends nothing, or a byte a minute, cannot hold a place
//! for long. Handshakes wait for no other.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::access::{Access, ClientCertificate, Encryption, Peer, Protocol};

/// Connections of one interface at a time; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 128;
/// How long a peer may take from connecting to its first request that it may make.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(20);
/// Before accepting is tried again, when the system refuses: it is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// A listening interface.
pub(super) struct Door {
    listener: TcpListener,
    access: Access,
    protocol: Protocol,
    places: Arc<Semaphore>,
    arriving: JoinSet<io::Result<Visitor>>,
}

impl Door {
    pub(super) fn new(listener: TcpListener, access: Access, protocol: Protocol) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { listener, access, protocol, places, arriving: JoinSet::new() }
    }

    /// The next connection. Cancel safe.
    pub(super) async fn next(&mut self) -> Visitor {
        loop {
            tokio::select! {
                Some(arrived) = self.arriving.join_next() => match arrived {
                    Ok(Ok(visitor)) => return visitor,
                    Ok(Err(error)) => tracing::debug!(%error, "a connection ended before its first request"),
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                },
                (stream, address, place) = accept(&self.listener, &self.places) => {
                    let encryption = self.access.encryption(self.protocol);
                    self.arriving.spawn(let_in(stream, address, place, encryption));
                }
            }
        }
    }

    /// All connections, for a server that takes a stream of them.
    pub(super) fn visitors(self) -> impl Stream<Item = io::Result<Visitor>> {
        futures::stream::unfold(self, |mut door| async {
            let visitor = door.next().await;
            Some((Ok(visitor), door))
        })
    }
}

impl axum::serve::Listener for Door {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        let visitor = self.next().await;
        let address = visitor.peer.address;
        (visitor, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Waits for a place, then for somebody to take it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn let_in(
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
    encryption: Option<Encryption>,
) -> io::Result<Visitor> {
    let deadline = Instant::now() + STRANGER_TIME_MAX;
    stream.set_nodelay(true)?;
    let (socket, certificate) = match encryption {
        None => (Socket::Plain(stream), None),
        Some(encryption) => {
            let shaking = tokio::time::timeout_at(deadline, shake_hands(stream, &encryption));
            let (stream, certificate) = shaking.await.map_err(|_| too_late())??;
            (Socket::Tls(Box::new(stream)), certificate)
        }
    };
    let peer = Peer { address, certificate, is_known: Arc::default() };
    Ok(Visitor { socket, peer, stranger: Some(Box::pin(tokio::time::sleep_until(deadline))), _place: place })
}

async fn shake_hands(
    stream: TcpStream,
    encryption: &Encryption,
) -> io::Result<(TlsStream<TcpStream>, Option<ClientCertificate>)> {
    let stream = TlsAcceptor::from(Arc::clone(&encryption.config)).accept(stream).await?;
    let certificate = encryption.certificate(stream.get_ref().1.peer_certificates());
    Ok((stream, certificate))
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer did not show in time who it is")
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
pub(super) struct Visitor {
    socket: Socket,
    peer: Peer,
    /// Rings when a stranger's time is up.
    stranger: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Visitor {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.stranger else { return Ok(()) };
        if self.peer.is_known.load(Ordering::Relaxed) {
            self.stranger = None;
            return Ok(());
        }
        if deadline.as_mut().poll(cx).is_ready() { Err(too_late()) } else { Ok(()) }
    }
}

impl tonic::transport::server::Connected for Visitor {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Door>) -> Self {
        stream.io().peer.clone()
    }
}

/// Runs `$body` with `$stream` bound to the pinned stream of whichever variant.
macro_rules! each {
    ($this:expr, $stream:ident => $body:expr) => {
        match &mut $this.get_mut().socket {
            Socket::Plain(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
            Socket::Tls(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
        }
    };
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        each!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        each!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}

//! The bytes below: a TCP, unix or TLS stream to a server, whole or in two halves.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, unix};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::LinkError;
use crate::on_demand::{self, OnDemandReader, OnDemandWriter};
use crate::tls::{TlsError, TlsOptions};
use crate::url::{ServerAddress, ServerUrl};

/// Silence after which the system asks whether the peer still lives, and between its tries.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A byte stream to a server.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP, without Nagle's delay and with keepalive.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The reading half of a [`Transport`].
#[derive(Debug)]
pub enum ReadHalf {
    /// Of plain TCP.
    Tcp(OnDemandReader),
    /// Of a unix socket.
    Unix(unix::OwnedReadHalf),
    /// Of TLS; shares a lock with the other half.
    Tls(tokio::io::ReadHalf<Box<TlsStream<TcpStream>>>),
}

/// The writing half of a [`Transport`]. Dropping it ends the stream towards the server.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of plain TCP.
    Tcp(OnDemandWriter),
    /// Of a unix socket.
    Unix(unix::OwnedWriteHalf),
    /// Of TLS; shares a lock with the other half.
    Tls(tokio::io::WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl Transport {
    /// Connects, without a time limit of its own.
    pub(crate) async fn open(url: &ServerUrl, tls: &TlsOptions) -> Result<Self, LinkError> {
        let address = url.address();
        let connect_error = |source| LinkError::Connect { address: address.clone(), source };
        if !url.is_tls() && !tls.is_empty() {
            return Err(TlsError::NotEncrypted { address: address.clone() }.into());
        }
        match address {
            ServerAddress::Unix(path) => UnixStream::connect(path).await.map(Self::Unix).map_err(connect_error),
            ServerAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(connect_error)?;
                configure(&stream).map_err(connect_error)?;
                if url.is_tls() { encrypt(stream, address, host, tls).await } else { Ok(Self::Tcp(stream)) }
            }
        }
    }

    /// Whether the stream is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Bytes that have arrived and were not read yet, asked of the kernel itself: zero means that
    /// everything the server's packets brought until this moment has been read.
    ///
    /// The readiness that tokio remembers cannot tell that: it may be older than a stop of the
    /// process. With TLS these are encrypted bytes.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn unread_bytes(&self) -> io::Result<u64> {
        match self {
            Self::Tcp(stream) => unread_bytes(stream),
            Self::Unix(stream) => unread_bytes(stream),
            Self::Tls(stream) => unread_bytes(stream.get_ref().0),
        }
    }

    /// Two halves that two tasks can own. Without a lock between them, unless it is TLS; plain TCP is
    /// watched by the runtime only while a half waits.
    ///
    /// # Errors
    /// When the system refuses a second handle on the connection.
    pub fn into_split(self) -> io::Result<(ReadHalf, WriteHalf)> {
        Ok(match self {
            Self::Tcp(stream) => {
                let (read, write) = on_demand::split(stream)?;
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        })
    }
}

fn unread_bytes(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(socket)?)
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    }
    Ok(())
}

async fn encrypt(
    stream: TcpStream,
    address: &ServerAddress,
    host: &str,
    options: &TlsOptions,
) -> Result<Transport, LinkError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName { address: address.clone() })?;
    let options = options.clone();
    // Reads files, among them the system's hundreds of authorities; anew for every connection, so
    // that renewed certificates are taken up.
    let config = tokio::task::spawn_blocking(move || options.client_config())
        .await
        .map_err(|error| LinkError::Connect { address: address.clone(), source: error.into() })??;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Transport::Tls(Box::new(stream))),
        Err(error) => Err(match tls_error(address, &error) {
            Some(error) => error.into(),
            None => LinkError::Connect { address: address.clone(), source: error },
        }),
    }
}

/// What an I/O error says about TLS, if it comes from there.
pub(crate) fn tls_error(address: &ServerAddress, error: &io::Error) -> Option<TlsError> {
    let address = address.clone();
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        // The answer was no TLS record.
        rustls::Error::InvalidMessage(_) => Some(TlsError::ServerIsPlain { address }),
        error => Some(TlsError::Refused { address, source: error.clone() }),
    }
}

/// Runs `$body` with `$stream` bound to the pinned stream of whichever variant.
macro_rules! each {
    ($this:expr, $stream:ident => $body:expr) => {
        match $this.get_mut() {
            Self::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
            Self::Unix(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
            Self::Tls(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
        }
    };
}

macro_rules! delegate_read {
    ($name:ty) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                each!(self, stream => stream.poll_read(cx, buffer))
            }
        }
    };
}

macro_rules! delegate_write {
    ($name:ty) => {
        impl AsyncWrite for $name {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                each!(self, stream => stream.poll_write(cx, bytes))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                each!(self, stream => stream.poll_write_vectored(cx, slices))
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    Self::Tcp(stream) => stream.is_write_vectored(),
                    Self::Unix(stream) => stream.is_write_vectored(),
                    Self::Tls(stream) => stream.is_write_vectored(),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!(self, stream => stream.poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!(self, stream => stream.poll_shutdown(cx))
            }
        }
    };
}

delegate_read!(Transport);
delegate_write!(Transport);
delegate_read!(ReadHalf);
delegate_write!(WriteHalf);

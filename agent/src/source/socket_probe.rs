//! A look into the kernel's receive buffer.
//!
//! That a read would have to wait, as the runtime remembers it, may be older than a stop of the
//! process: bytes can have come since. The kernel knows. The probe shares the connection's file
//! descriptor, so that it works beside whoever owns the reading half, TLS included, where it counts
//! the encrypted bytes.
//!
//! A connection that has ended is never empty: a reset discards what had come (so does a server that
//! throws out a replica which does not read), and after an end the server may have had more to say.

use std::os::fd::{AsFd, OwnedFd};

use redwind_link::Transport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Tells whether everything that has arrived has been read.
#[derive(Debug)]
pub(super) struct SocketProbe(Option<OwnedFd>);

impl SocketProbe {
    /// A probe of this connection. The connection stays open for as long as the probe lives.
    pub(super) fn of(transport: &Transport) -> Self {
        let fd = match transport {
            Transport::Tcp(stream) => stream.as_fd().try_clone_to_owned(),
            Transport::Unix(stream) => stream.as_fd().try_clone_to_owned(),
            Transport::Tls(stream) => stream.get_ref().0.as_fd().try_clone_to_owned(),
        };
        Self(fd.ok())
    }

    /// Where there is no kernel to ask: whoever asks has just seen a read wait, or come back short.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Whether nothing has arrived that was not read, on a connection that is open.
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(is_open_and_empty)
    }
}

fn is_open_and_empty(fd: &OwnedFd) -> bool {
    // An end counts as readable; a reset and an error are reported without being asked for.
    let mut asked = [PollFd::new(fd, PollFlags::IN | PollFlags::RDHUP)];
    matches!(poll(&mut asked, Some(&Timespec::default())), Ok(0))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, Transport, SocketProbe) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transport = Transport::Tcp(ours);
        let probe = SocketProbe::of(&transport);
        (listener.accept().await.unwrap().0, transport, probe)
    }

    /// What the kernel of the loopback has taken, it has delivered.
    #[tokio::test]
    async fn unread_bytes_are_seen_and_an_open_socket_without_is_empty() {
        let (mut server, mut transport, probe) = pair().await;
        assert!(probe.is_empty());
        server.write_all(b"abc").await.unwrap();
        assert!(!probe.is_empty());
        transport.read_exact(&mut [0; 3]).await.unwrap();
        assert!(probe.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_was_reset_or_closed_proves_nothing() {
        let (mut server, _transport, probe) = pair().await;
        server.write_all(b"never read").await.unwrap();
        rustix::net::connect_unspec(&server).unwrap();
        assert!(!probe.is_empty(), "the reset has discarded what had come");

        let (server, _transport, probe) = pair().await;
        drop(server);
        assert!(!probe.is_empty());
    }
}

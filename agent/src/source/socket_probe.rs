//! A look into the kernel's receive buffer.
//!
//! That a read would have to wait, as the runtime remembers it, may be older than a stop of the
//! process: bytes can have come since. The kernel knows. The probe shares the connection's file
//! descriptor, so that it works beside whoever owns the reading half, TLS included, where it counts
//! the encrypted bytes.

use std::os::fd::{AsFd, OwnedFd};

use redwind_link::Transport;

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

    /// Whether nothing has arrived that was not read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|fd| rustix::io::ioctl_fionread(fd).is_ok_and(|unread| unread == 0))
    }
}

//! A TCP connection that the runtime watches only while somebody waits for it.
//!
//! A socket that is watched all the time wakes the runtime for everything that arrives, also while its
//! reader sleeps on purpose to let small writes gather; under unpipelined load that costs several times
//! what the reading costs. So each half tries first, and is watched from when it would have to wait until
//! it need not any more. While the reader keeps up with what comes by looking now and then, the socket
//! wakes nobody.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

/// Least and most bytes of one read. The room for them is zeroed first, so that it is twice what the read
/// before brought; few large reads cost the kernel less than many small ones.
const READ_BYTES_MIN: usize = 16 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

/// The reading half of a connection.
#[derive(Debug)]
pub struct OnDemandReader {
    socket: Socket,
    /// Bytes of the next read at most.
    expected: usize,
}

/// The writing half. Dropping it ends the stream towards the peer.
#[derive(Debug)]
pub struct OnDemandWriter {
    socket: Socket,
}

/// Splits a connection.
///
/// # Errors
/// When the system refuses a second handle on it.
pub(crate) fn split(stream: TcpStream) -> io::Result<(OnDemandReader, OnDemandWriter)> {
    let reading = stream.into_std()?;
    let writing = reading.try_clone()?;
    let reader = OnDemandReader { socket: Socket::Unwatched(reading), expected: READ_BYTES_MIN };
    Ok((reader, OnDemandWriter { socket: Socket::Unwatched(writing) }))
}

impl AsyncRead for OnDemandReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, expected } = self.get_mut();
        let turn = ready!(coop::poll_proceed(cx));
        let piece = buffer.initialize_unfilled_to(buffer.remaining().min(*expected));
        let count = loop {
            let tried = match socket {
                Socket::Unwatched(stream) => stream.read(piece),
                Socket::Watched(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read(piece)
                }
                Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
            };
            match socket.settle(tried)? {
                Some(count) => break count,
                None => continue,
            }
        };
        turn.made_progress();
        buffer.advance(count);
        *expected = (2 * count).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OnDemandWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket } = self.get_mut();
        let turn = ready!(coop::poll_proceed(cx));
        let count = loop {
            let tried = match socket {
                Socket::Unwatched(stream) => stream.write(bytes),
                Socket::Watched(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write(bytes)
                }
                Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
            };
            match socket.settle(tried)? {
                Some(count) => break count,
                None => continue,
            }
        };
        turn.made_progress();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.end())
    }
}

impl Drop for OnDemandWriter {
    fn drop(&mut self) {
        // A peer that is gone already needs no end.
        let _ = self.socket.end();
    }
}

/// A handle on the connection.
#[derive(Debug)]
enum Socket {
    Unwatched(std::net::TcpStream),
    Watched(TcpStream),
    /// The system did not let it be watched, or not any more.
    Lost,
}

impl Socket {
    /// What came of a try. When it would have had to wait, the socket is watched, and `None` says to try
    /// again; else it is no longer.
    fn settle(&mut self, tried: io::Result<usize>) -> io::Result<Option<usize>> {
        match tried {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Self::Unwatched(_) = self {
                    self.change(|socket| match socket {
                        Self::Unwatched(stream) => TcpStream::from_std(stream).map(Self::Watched),
                        other => Ok(other),
                    })?;
                }
                Ok(None)
            }
            done => {
                self.change(|socket| match socket {
                    Self::Watched(stream) => stream.into_std().map(Self::Unwatched),
                    other => Ok(other),
                })?;
                done.map(Some)
            }
        }
    }

    fn change(&mut self, change: impl FnOnce(Self) -> io::Result<Self>) -> io::Result<()> {
        *self = change(std::mem::replace(self, Self::Lost))?;
        Ok(())
    }

    fn end(&self) -> io::Result<()> {
        match self {
            Self::Unwatched(stream) => stream.shutdown(Shutdown::Write),
            Self::Watched(stream) => {
                rustix::net::shutdown(stream, rustix::net::Shutdown::Write).map_err(io::Error::from)
            }
            Self::Lost => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn connected() -> (OnDemandReader, OnDemandWriter, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (reader, writer) = split(stream).unwrap();
        (reader, writer, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn more_than_the_system_buffers_passes_both_ways_and_then_the_end() {
        let (mut reader, mut writer, peer) = connected().await;
        let sent: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let echo = tokio::spawn(async move {
            let (mut from, mut to) = peer.into_split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let writing = tokio::spawn(async move { writer.write_all(&sent).await });
        let mut received = Vec::new();
        timeout(PATIENCE, reader.read_to_end(&mut received)).await.unwrap().unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(echo.await.unwrap().unwrap(), expected.len() as u64);
        assert!(received == expected);
    }

    #[tokio::test]
    async fn the_socket_is_watched_only_while_the_reader_waits() {
        let (mut reader, _writer, mut peer) = connected().await;
        let mut buffer = [0; 16];
        let nothing = timeout(Duration::from_millis(10), reader.read(&mut buffer)).await;
        assert!(nothing.is_err());
        assert!(matches!(reader.socket, Socket::Watched(_)));
        peer.write_all(b"abc").await.unwrap();
        assert_eq!(timeout(PATIENCE, reader.read(&mut buffer)).await.unwrap().unwrap(), 3);
        assert!(matches!(reader.socket, Socket::Unwatched(_)));
    }
}

//! What a replica is sent: the RDB, the stream, and signs of life while either is slow.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use redwind_stream::encode_command;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::boundary::Boundary;
use super::command::{CommandReader, Said};
use crate::fetch::{FetchError, Piece, RdbReader, StreamPiece};

/// How long to be silent at most; replicas drop a link that is silent for `repl-timeout`, 60 s.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a replica may neither take bytes nor send any. It sends a line a second while it loads,
/// and an acknowledgement a second after that.
const DEAD_AFTER: Duration = Duration::from_secs(120);
/// How often to ask whether the replica has applied everything.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why a connection ended.
pub(super) enum FeedError {
    /// The archive does not give what the plan needs: no replica can be served.
    Archive(FetchError),
    /// This replica, or the connection to it, failed.
    Peer(io::Error),
}

impl From<FetchError> for FeedError {
    fn from(error: FetchError) -> Self {
        Self::Archive(error)
    }
}

impl From<io::Error> for FeedError {
    fn from(error: io::Error) -> Self {
        Self::Peer(error)
    }
}

/// What has been heard from a replica.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// The offset up to which it has applied the stream; `None` while it loads the RDB.
    applied: Option<u64>,
    at: Instant,
}

/// One replica being fed.
pub(super) struct Feed<'a> {
    shared: &'a Arc<Shared>,
    peer: SocketAddr,
    reader: CommandReader<OwnedReadHalf>,
    socket: OwnedWriteHalf,
}

impl<'a> Feed<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        peer: SocketAddr,
        reader: CommandReader<OwnedReadHalf>,
        socket: OwnedWriteHalf,
    ) -> Self {
        Self { shared, peer, reader, socket }
    }

    /// Sends everything, and stays until the connection ends.
    pub(super) async fn run(self) -> Result<Infallible, FeedError> {
        let Self { shared, peer, reader, socket } = self;
        let (heard, hears) = watch::channel(Heard { applied: None, at: Instant::now() });
        let mut out = Out { socket, hears, offset: 0 };
        tokio::select! {
            ended = listen(reader, heard) => Err(FeedError::Peer(ended)),
            outcome = send(shared, peer, &mut out) => outcome,
        }
    }
}

/// Takes in what the replica says until it ends the connection.
async fn listen(mut reader: CommandReader<OwnedReadHalf>, heard: watch::Sender<Heard>) -> io::Error {
    loop {
        let applied = match reader.next().await {
            Ok(Some(Said::Command(command))) => acknowledged(&command),
            Ok(Some(Said::Alive)) => None,
            Ok(None) => return io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"),
            Err(error) => return error,
        };
        heard.send_modify(|heard| {
            heard.at = Instant::now();
            heard.applied = applied.or(heard.applied);
        });
    }
}

/// The offset in `REPLCONF ACK <offset> [FACK <offset>]`.
fn acknowledged(command: &[bytes::Bytes]) -> Option<u64> {
    match command {
        [name, option, offset, ..] if name.eq_ignore_ascii_case(b"REPLCONF") && option.eq_ignore_ascii_case(b"ACK") => {
            std::str::from_utf8(offset).ok()?.parse().ok()
        }
        _ => None,
    }
}

async fn send(shared: &Shared, peer: SocketAddr, out: &mut Out) -> Result<Infallible, FeedError> {
    let recording = &shared.recording;
    let select = recording.select();
    // So that the source's offsets hold for the stream, as long as no PING of ours comes between.
    let start = recording.snapshot_offset().back(select.len() as u64).0;
    out.write(format!("+FULLRESYNC {} {start}\r\n", shared.replication_id).as_bytes()).await?;
    shared.progress.begin();
    send_rdb(shared, out).await?;
    out.offset = start;
    out.write_stream(&select).await?;
    send_stream(shared, out).await?;
    let end = out.offset;
    while out.hears.borrow().applied < Some(end) {
        out.write_stream(&encode_command(&[b"REPLCONF", b"GETACK", b"*"])).await?;
        let waited = out.hears.wait_for(|heard| heard.applied >= Some(end));
        // Its end ends the connection.
        let _ = timeout(ASK_EVERY, waited).await;
        out.check_alive(Instant::now())?;
    }
    tracing::info!(%peer, "the server has applied everything");
    shared.standing.send_modify(|standing| {
        standing.applied = Some(peer);
        standing.times_applied += 1;
        standing.applied_left = false;
    });
    loop {
        tokio::time::sleep(SILENCE_MAX).await;
        out.ping().await?;
    }
}

async fn send_rdb(shared: &Shared, out: &mut Out) -> Result<(), FeedError> {
    let mut rdb: RdbReader = shared.recording.rdb();
    let mut length = Some(format!("${}\r\n", shared.recording.rdb_bytes()));
    loop {
        let next = {
            let mut next = pin!(rdb.next());
            loop {
                match timeout(SILENCE_MAX, &mut next).await {
                    Ok(next) => break next?,
                    // Replicas take empty lines before the length for signs of life; within the RDB
                    // there is no room for any.
                    Err(_) if length.is_some() => out.write(b"\n").await?,
                    Err(_) => {}
                }
            }
        };
        let Some(piece) = next else { return Ok(()) };
        if let Some(length) = length.take() {
            out.write(length.as_bytes()).await?;
        }
        out.write(&piece.bytes).await?;
        shared.progress.rdb(piece.bytes.len());
    }
}

async fn send_stream(shared: &Shared, out: &mut Out) -> Result<(), FeedError> {
    let mut stream = shared.recording.stream();
    let mut boundary = Boundary::default();
    loop {
        let next: Option<StreamPiece> = {
            let mut next = pin!(stream.next());
            loop {
                match timeout(SILENCE_MAX, &mut next).await {
                    Ok(next) => break next?,
                    Err(_) if boundary.is_between_records() => out.ping().await?,
                    Err(_) => {}
                }
            }
        };
        let Some(StreamPiece { piece, begins_record }) = next else {
            shared.progress.clock_offset(stream.clock_offset());
            return Ok(());
        };
        let Piece { bytes, .. } = &piece;
        out.write_stream(bytes).await?;
        shared.progress.stream(bytes.len());
        boundary.passed(bytes, begins_record);
    }
}

/// The way to a replica.
struct Out {
    socket: OwnedWriteHalf,
    hears: watch::Receiver<Heard>,
    /// Offset after what has been sent of the stream, as the replica counts.
    offset: u64,
}

impl Out {
    /// Sends bytes that count in no offset.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut progressed = Instant::now();
        while !bytes.is_empty() {
            match timeout(SILENCE_MAX, self.socket.write(bytes)).await {
                Ok(written) => {
                    let written = written?;
                    if written == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    bytes = &bytes[written..];
                    progressed = Instant::now();
                }
                Err(_) => self.check_alive(progressed)?,
            }
        }
        Ok(())
    }

    /// Sends bytes of the stream.
    async fn write_stream(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).await?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        self.write_stream(&encode_command(&[b"PING"])).await
    }

    fn check_alive(&self, progressed: Instant) -> io::Result<()> {
        let sign = self.hears.borrow().at.max(progressed);
        if sign.elapsed() < DEAD_AFTER {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it neither reads nor answers"))
    }
}

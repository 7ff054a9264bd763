//! Acknowledgements: what the server may believe about us.
//!
//! `REPLCONF ACK n FACK n` with n = min(durable, received − 1), once a second and as soon as it grows.
//!
//! - **Durable**, not received: an application's `WAIT` and `WAITAOF` then mean "my write can be
//!   restored". Until the history's first snapshot is complete nothing is durable and 0 is sent.
//! - **One byte less than received**: `FAILOVER` hands the primary's role to any replica that has
//!   acknowledged everything (`replicationCron`, `checkClientsFailover`), which we then never have.
//!   `WAIT` does not miss the byte: its GETACK comes after the write.
//! - **Once a second whatever happens**, the same number if need be: a replica that is not heard of
//!   for `repl-timeout` is dropped (`replicationCron`), and a store that is down is no reason to lose
//!   the link.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redwind_archive::position::{HistoryId, Offset};
use redwind_stream::encode_command;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::journal::{Progress, ReceivedMark};

const INTERVAL: Duration = Duration::from_secs(1);
/// Until the first byte of a stream that starts with our acknowledgement: the server loses one that
/// comes while it still finishes the transfer (seen with Redis 7.0.15 and 8.6, Valkey 9.1).
const START_INTERVAL: Duration = Duration::from_millis(100);

/// Acknowledges in one link session.
pub(super) struct Acknowledger<W> {
    pub(super) writer: W,
    pub(super) history: HistoryId,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) received: Arc<ReceivedMark>,
    /// The server understands `FACK`.
    pub(super) fack: bool,
    /// The stream starts only when the server has seen an acknowledgement; it starts here.
    pub(super) starts_stream: Option<Offset>,
}

impl<W: AsyncWrite + Unpin> Acknowledger<W> {
    /// Runs until the session ends, and then closes the connection; or until nothing can be written,
    /// which the log's reader notices by itself.
    pub(super) async fn run(mut self, session: CancellationToken) {
        self.acknowledge(&session).await;
        // A server that waits for us to exit is told at once that we are gone.
        let _ = timeout(INTERVAL, self.writer.shutdown()).await;
    }

    async fn acknowledge(&mut self, session: &CancellationToken) {
        let mut sent = self.current();
        let mut due = Instant::now();
        loop {
            let sending = async {
                sleep_until(due).await;
                sent = self.current();
                due = Instant::now() + self.interval();
                self.send(sent).await
            };
            let outcome = tokio::select! {
                biased;
                () = session.cancelled() => return,
                outcome = sending => outcome,
            };
            if outcome.is_err() {
                return;
            }
            tokio::select! {
                biased;
                () = session.cancelled() => return,
                () = self.grown(sent) => due = Instant::now(),
                () = sleep_until(due) => {}
            }
        }
    }

    fn interval(&self) -> Duration {
        match self.starts_stream {
            Some(start) if self.received.offset() <= start => START_INTERVAL,
            _ => INTERVAL,
        }
    }

    /// Waits until more can be acknowledged than `sent`.
    async fn grown(&mut self, sent: Offset) {
        while self.progress.changed().await.is_ok() {
            if self.current() > sent {
                return;
            }
        }
        std::future::pending().await
    }

    fn current(&self) -> Offset {
        acknowledgeable(&self.progress.borrow(), self.history, self.received.offset())
    }

    async fn send(&mut self, offset: Offset) -> io::Result<()> {
        let number = offset.to_string();
        let number = number.as_bytes();
        let wire = match self.fack {
            true => encode_command(&[b"REPLCONF", b"ACK", number, b"FACK", number]),
            false => encode_command(&[b"REPLCONF", b"ACK", number]),
        };
        self.writer.write_all(&wire).await?;
        self.writer.flush().await
    }
}

/// What may be acknowledged of `history` when its stream has been read up to `received`.
pub(super) fn acknowledgeable(progress: &Progress, history: HistoryId, received: Offset) -> Offset {
    let durable = progress.durable.filter(|_| progress.history == Some(history)).unwrap_or_default();
    let offset = durable.min(received.back(1));
    assert!(offset <= durable && (offset < received || offset == Offset(0)), "never more than is durable");
    offset
}

#[cfg(test)]
mod tests;

//! One snapshot: an RDB on a connection of its own, from the fork to the manifest.
//!
//! The connection asks for an RDB and no stream (`rdb-only`), so that the server keeps no buffer for
//! it however slowly it is read. It is closed as soon as the RDB ends: Redis 6.2 would otherwise
//! count it as an online replica. A snapshot counts only if the log has what follows it: same
//! replication ID, and an offset not before the log's start.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redwind_archive::documents::Manifest;
use redwind_archive::position::{HistoryId, Offset, Position};
use redwind_archive::time::{Clock, Timestamp};
use redwind_link::{ServerAddress, Transport};
use tokio::sync::{Notify, watch};

use super::error::AttachError;
use super::handshake::{Endpoint, PsyncAnswer, PsyncRequest, for_snapshot, id_text, psync};
use super::monitor::Facts;
use super::payload::{Announced, Destination, read_payload};
use crate::journal::{Progress, ReceivedMark, SnapshotFacts, SnapshotWriter};

/// Between two looks whether the log has reached the snapshot, at first and at most.
const REACH_LOOK_MIN: Duration = Duration::from_millis(2);
const REACH_LOOK_MAX: Duration = Duration::from_millis(200);

/// A connection on which an RDB is coming.
#[derive(Debug)]
pub(super) struct SnapshotStream {
    transport: Transport,
    early: BytesMut,
    address: ServerAddress,
    pub(super) announced: Announced,
    /// When the server announced it, right after it forked.
    began: Timestamp,
}

impl SnapshotStream {
    /// Asks for a snapshot, and waits until the server has forked.
    pub(super) async fn open(endpoint: &Endpoint, facts: &Facts, clock: &Clock) -> Result<Self, AttachError> {
        let mut connection = for_snapshot(endpoint, facts).await?;
        let announced = match psync(&mut connection, PsyncRequest::FullResync).await? {
            PsyncAnswer::FullResync { replication_id, offset } => Announced { replication_id, offset },
            PsyncAnswer::Continue(_) => return Err(AttachError::Answer { answer: "+CONTINUE".to_owned() }),
        };
        let began = clock.now();
        let address = connection.address().clone();
        let (transport, early) = connection.into_stream();
        Ok(Self { transport, early, address, announced, began })
    }
}

/// The log that a snapshot is to join.
#[derive(Clone, Debug)]
pub(super) struct Joinable {
    pub(super) history: HistoryId,
    pub(super) start: Offset,
    pub(super) replication_id: [u8; 40],
    pub(super) facts: Facts,
}

impl Joinable {
    fn admit(&self, announced: Announced) -> Result<(), AttachError> {
        if !announced.replication_id.eq_ignore_ascii_case(&self.replication_id) {
            return Err(AttachError::OtherStream {
                found: id_text(&announced.replication_id),
                expected: id_text(&self.replication_id),
            });
        }
        if announced.offset < self.start {
            return Err(AttachError::BeforeLog { found: announced.offset.0, start: self.start.0 });
        }
        Ok(())
    }
}

/// What shows how far the log has come, and makes it go to the store.
#[derive(Clone, Debug)]
pub(super) struct LogWatch {
    pub(super) received: Arc<ReceivedMark>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) flush: Arc<Notify>,
    pub(super) clock: Arc<Clock>,
}

impl LogWatch {
    /// Waits until the log of `history` has been read up to `offset`; tells when that was seen.
    async fn reached(&self, history: HistoryId, offset: Offset) -> Timestamp {
        let mut pause = REACH_LOOK_MIN;
        while self.progress.borrow().history != Some(history) || self.received.offset() < offset {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REACH_LOOK_MAX);
        }
        self.clock.now()
    }
}

/// An RDB that has been received, on its way to its manifest.
#[derive(Debug)]
pub(super) struct ReceivedSnapshot {
    pub(super) writer: SnapshotWriter,
    pub(super) facts: SnapshotFacts,
}

/// Receives the RDB of `stream` into `writer`.
pub(super) async fn receive(
    mut stream: SnapshotStream,
    mut writer: SnapshotWriter,
    joinable: &Joinable,
    log: &LogWatch,
) -> Result<ReceivedSnapshot, AttachError> {
    let (announced, began) = (stream.announced, stream.began);
    joinable.admit(announced)?;
    let position = Position { history: joinable.history, offset: announced.offset };
    let transfer = async move {
        let SnapshotStream { transport, early, address, .. } = &mut stream;
        let destination = Destination { writer: &mut writer, position };
        let rdb = read_payload(transport, early, address, announced, Some(destination)).await?;
        drop(stream);
        Ok::<_, AttachError>((rdb, writer))
    };
    let reached = log.reached(joinable.history, announced.offset);
    let reached = async { Ok(reached.await) };
    let ((rdb, writer), reached) = tokio::try_join!(transfer, reached)?;
    let facts = SnapshotFacts {
        position,
        replication_id: announced.replication_id,
        time: reached.max(began),
        began,
        rdb,
        server: joinable.facts.server.clone(),
    };
    Ok(ReceivedSnapshot { writer, facts })
}

/// Makes a snapshot visible, once the log is stored up to where it stands.
pub(super) async fn complete(snapshot: ReceivedSnapshot, log: &LogWatch) -> Result<Manifest, AttachError> {
    log.flush.notify_one();
    Ok(snapshot.writer.finish(snapshot.facts).await?)
}

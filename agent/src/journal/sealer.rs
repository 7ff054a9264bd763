//! The sealer: turns what the log reader hands over into segments for the spool.
//!
//! A thread of its own, because it compresses. It waits neither for the store nor, as long as the disk
//! is not far behind, for the disk: that is the [spool writer](super::spool_writer)'s. A segment's bytes
//! go to its file as soon as they are compressed, and count as spooled once they are synced: when the
//! segment is sealed, or at each flush while the store lags so far behind that another small segment
//! would only lengthen the queue.

use std::sync::Arc;
use std::time::Duration;

use redwind_archive::documents::HistoryStart;
use redwind_archive::keys::Epoch;
use redwind_archive::segment::{self, BlockContent, Fingerprint, ReplicationId, SegmentEncoder, SegmentHeader};
use redwind_archive::time::{Clock, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use zstd::bulk::Compressor;

use super::entry::{Batch, Buffers, Entry, IDLE_SEAL, ResumePoint};
use super::error::JournalError;
use super::pending::PendingSegment;
use super::progress::SnapshotState;
use super::resume::LogEnd;
use super::spool::{Kind, Spooled};
use super::spool_writer::SpoolQueue;
use super::term::Identity;

/// Files that the store may be behind before a flush no longer makes a segment of its own.
const LAG_FILES_MAX: u64 = 64;
/// A segment without writes that comes so long after the one before is an idle source's, for which nobody
/// waits.
const IDLE_MIN: Duration = Duration::from_secs(55);
const _: () = assert!(IDLE_MIN.as_secs() < IDLE_SEAL.as_secs());

/// What the sealer works with.
pub(super) struct SealerParts {
    pub(super) clock: Arc<Clock>,
    pub(super) snapshots: watch::Receiver<SnapshotState>,
    pub(super) identity: Identity,
    /// Under which key; `None` in an archive that is not encrypted.
    pub(super) epoch: Option<Arc<Epoch>>,
    /// Bytes of stream after which a segment is sealed.
    pub(super) segment_bytes_max: u64,
    /// Level of zstd.
    pub(super) compression_level: i32,
    pub(super) entries: mpsc::Receiver<Entry>,
    pub(super) buffers: Buffers,
    /// The way to the disk.
    pub(super) spool: SpoolQueue,
    /// How far the log's files have been stored.
    pub(super) stored_seq: watch::Receiver<u64>,
    /// Take what has been handed over, seal it, and end.
    pub(super) stop: CancellationToken,
    /// End at once: nothing that is written would be stored.
    pub(super) kill: CancellationToken,
    /// The next free sequence number of the spool.
    pub(super) next_seq: u64,
    /// Where the log ends.
    pub(super) end: Option<LogEnd>,
}

/// The sealer's thread; see the module.
pub(super) struct Sealer {
    parts: SealerParts,
    compressor: Compressor<'static>,
    log: Option<Log>,
    /// A flush that only synced: until when it vouches.
    deferred: Option<Timestamp>,
}

/// The history that is being written.
struct Log {
    point: ResumePoint,
    last_segment: Option<Fingerprint>,
    /// Until when its last segment vouches.
    sealed_until: Timestamp,
    clock_offset: Option<i64>,
    open: Option<Open>,
}

/// The segment that is being written.
struct Open {
    encoder: SegmentEncoder,
    seq: u64,
    /// Its length so far.
    bytes: u64,
    /// Encoded, and not on its way to the file yet.
    unsent: Vec<u8>,
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
enum Next {
    Entry(Entry),
    StoreCaughtUp,
    SpoolFailed,
    End,
    Kill,
}

impl Sealer {
    pub(super) fn new(parts: SealerParts) -> Result<Self, JournalError> {
        let compressor = segment::compressor(parts.compression_level).map_err(JournalError::Compress)?;
        let log = parts.end.clone().map(|end| Log {
            sealed_until: end.point.read_until,
            point: end.point,
            last_segment: end.last_segment,
            clock_offset: None,
            open: None,
        });
        Ok(Self { parts, compressor, log, deferred: None })
    }

    /// Takes entries until they end, and waits until they are in the spool. Tells whether they all are.
    /// Blocks its thread.
    pub(super) fn run(mut self, runtime: &Handle) -> Result<bool, JournalError> {
        let taken = self.take_all(runtime);
        let written = self.parts.spool.finish();
        let ended = match taken {
            // Nothing takes orders any more: what was written tells why.
            Ok(()) | Err(JournalError::Closed) => written,
            failed => failed,
        };
        match ended {
            Err(JournalError::Closed) => {
                tracing::warn!("stopped without room for the spool: what was received last is not in it");
                Ok(false)
            }
            ended => ended.map(|()| true),
        }
    }

    fn take_all(&mut self, runtime: &Handle) -> Result<(), JournalError> {
        loop {
            match runtime.block_on(self.next()) {
                Next::Entry(entry) => self.take(entry)?,
                Next::StoreCaughtUp => {
                    if let Some(read_until) = self.deferred.take() {
                        self.seal(read_until)?;
                    }
                }
                Next::End => return self.seal_open(),
                // The spool's queue tells why when it is finished.
                Next::SpoolFailed | Next::Kill => return Ok(()),
            }
        }
    }

    async fn next(&mut self) -> Next {
        let parts = &mut self.parts;
        let caught_up = parts.next_seq.saturating_sub(LAG_FILES_MAX);
        loop {
            tokio::select! {
                biased;
                () = parts.kill.cancelled() => return Next::Kill,
                () = parts.stop.cancelled(), if !parts.entries.is_closed() => parts.entries.close(),
                () = parts.spool.failed() => return Next::SpoolFailed,
                entry = parts.entries.recv() => return entry.map_or(Next::End, Next::Entry),
                Ok(_) = parts.stored_seq.wait_for(|stored| *stored >= caught_up), if self.deferred.is_some() => {
                    return Next::StoreCaughtUp;
                }
            }
        }
    }

    fn take(&mut self, entry: Entry) -> Result<(), JournalError> {
        match entry {
            Entry::Begin(start) => self.begin(start),
            Entry::Attach { replication_id, clock_offset } => self.attach(&replication_id, clock_offset),
            Entry::ClockOffset(offset) => {
                if let Some(log) = self.log.as_mut() {
                    log.clock_offset = offset;
                }
                Ok(())
            }
            Entry::Append(batch) => self.append(batch),
            Entry::Seal { read_until } => self.flush(read_until),
        }
    }

    fn begin(&mut self, start: HistoryStart) -> Result<(), JournalError> {
        self.seal_open()?;
        self.deferred = None;
        let seq = self.take_seq();
        self.log = Some(Log {
            point: ResumePoint::at_start_of(&start),
            last_segment: None,
            sealed_until: start.started,
            clock_offset: None,
            open: None,
        });
        self.parts.spool.begin(seq, start)
    }

    fn attach(&mut self, id: &ReplicationId, clock_offset: Option<i64>) -> Result<(), JournalError> {
        let news = |log: &Log| log.point.replication_ids.last().is_none_or(|last| last.id != id.id);
        if self.log.as_ref().is_some_and(news) {
            // The IDs stand in a segment's header: the one at hand ends under the old one.
            self.seal_open()?;
        }
        if let Some(log) = self.log.as_mut() {
            log.point.attach(id);
            log.clock_offset = clock_offset;
        }
        Ok(())
    }

    fn append(&mut self, batch: Batch) -> Result<(), JournalError> {
        let reading = self.open_segment().map(|open| open.encoder.header().late_since);
        if reading.is_some_and(|late_since| late_since != batch.late_since) {
            self.seal_open()?;
        }
        self.open(batch.late_since)?;
        let Some(log) = self.log.as_mut() else { return Ok(()) };
        let Some(open) = log.open.as_mut() else { return Ok(()) };
        let Batch { bytes, marks, records, writes, framer_end, .. } = &batch;
        let content = BlockContent { bytes, marks, records: *records, writes: *writes, framer_end };
        open.encoder.block(&mut self.compressor, &content, &mut open.unsent).map_err(JournalError::Compress)?;
        open.send(&self.parts.spool)?;
        log.point.append(&batch);
        let full = open.encoder.end().since(open.encoder.header().start) >= self.parts.segment_bytes_max;
        self.parts.buffers.give_back(batch.bytes);
        if full { self.seal_open() } else { Ok(()) }
    }

    fn open_segment(&self) -> Option<&Open> {
        self.log.as_ref()?.open.as_ref()
    }

    /// Begins a segment, unless there is one, or no history.
    fn open(&mut self, late_since: Option<Timestamp>) -> Result<(), JournalError> {
        if self.log.as_ref().is_none_or(|log| log.open.is_some()) {
            return Ok(());
        }
        let seq = self.take_seq();
        self.parts.spool.open(seq)?;
        let Some(log) = self.log.as_mut() else { return Ok(()) };
        let identity = self.parts.identity;
        let header = SegmentHeader {
            archive: identity.archive,
            writer: identity.writer,
            history: log.point.position.history,
            term: identity.term,
            start: log.point.position.offset,
            predecessor: log.last_segment,
            opened: self.parts.clock.now(),
            late_since,
            clock_offset: log.clock_offset,
            replication_ids: log.point.replication_ids.clone(),
            framer: log.point.framer.clone(),
            snapshot: self.parts.snapshots.borrow().newest,
            encryption: self.parts.epoch.as_deref().map(Epoch::encryption),
        };
        let mut unsent = self.parts.spool.buffer();
        let encoder = SegmentEncoder::begin(header, self.parts.epoch.as_deref(), &mut unsent);
        log.open = Some(Open { encoder, seq, bytes: 0, unsent });
        Ok(())
    }

    /// Ends the segment at hand, or lets an empty one tell that time passed. While the store lags, only
    /// syncs.
    fn flush(&mut self, read_until: Timestamp) -> Result<(), JournalError> {
        let Some(log) = self.log.as_ref() else { return Ok(()) };
        if log.open.is_none() && read_until <= log.point.read_until {
            return Ok(());
        }
        let lag = self.parts.next_seq.saturating_sub(*self.parts.stored_seq.borrow());
        if lag <= LAG_FILES_MAX {
            return self.seal(read_until);
        }
        self.deferred = self.deferred.max(Some(read_until));
        self.sync()
    }

    /// Makes the open segment's bytes count as spooled.
    fn sync(&mut self) -> Result<(), JournalError> {
        match self.log.as_ref().filter(|log| log.open.is_some()) {
            Some(log) => self.parts.spool.sync(log.point.position),
            None => Ok(()),
        }
    }

    /// Seals the segment at hand, if there is one.
    fn seal_open(&mut self) -> Result<(), JournalError> {
        if self.open_segment().is_none() {
            return Ok(());
        }
        let read_until = self.deferred.take().unwrap_or_default();
        self.seal(read_until)
    }

    /// Seals the segment at hand, or an empty one. It vouches at least until its last arrival.
    fn seal(&mut self, read_until: Timestamp) -> Result<(), JournalError> {
        self.deferred = None;
        self.open(None)?;
        let Some(log) = self.log.as_mut() else { return Ok(()) };
        let Some(Open { encoder, seq, bytes, mut unsent }) = log.open.take() else { return Ok(()) };
        let history = encoder.header().history;
        let late_since = encoder.header().late_since;
        let (name, trailer) = encoder.finish(read_until, &mut unsent);
        let bytes = bytes + unsent.len() as u64;
        self.parts.spool.append(unsent)?;

        let read_until = late_since.unwrap_or(trailer.read_until);
        let waited = read_until.since(log.sealed_until) < IDLE_MIN;
        log.point.read_until = log.point.read_until.max(read_until);
        log.sealed_until = read_until;
        let segment = PendingSegment {
            file: Spooled { seq, kind: Kind::Segment, bytes },
            name,
            history,
            late_since,
            read_until,
            predecessor: log.last_segment.replace(trailer.fingerprint()),
            fingerprint: trailer.fingerprint(),
            writes: trailer.writes,
            urgent: trailer.writes > 0 || (waited && name.end > name.start),
        };
        self.parts.spool.seal(segment)
    }

    fn take_seq(&mut self) -> u64 {
        let seq = self.parts.next_seq;
        self.parts.next_seq += 1;
        seq
    }
}

impl Open {
    /// Sends what has been encoded on its way to the file.
    fn send(&mut self, spool: &SpoolQueue) -> Result<(), JournalError> {
        self.bytes += self.unsent.len() as u64;
        spool.append(std::mem::replace(&mut self.unsent, spool.buffer()))
    }
}

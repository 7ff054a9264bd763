//! Archives for tests and benches: described in a few lines, made by the real encoders.
//!
//! A [`Writer`] stands for an agent's tenure. It is put together by hand, so that a test can tell
//! stories that no agent would: a writer that has been fenced and goes on (a clone of the writer
//! that another has succeeded), a segment that never arrived ([`Objects::remove`]), an object from
//! elsewhere. [`synthetic`] is a store whose archive is too large to be made, and is listed all the
//! same.

mod forgery;
mod harm;
mod objects;
pub mod synthetic;

pub use forgery::{Forgery, forgeries, with_same_checksum};
pub use harm::{Harm, kind};
pub use objects::Objects;

use std::sync::Arc;

use redwind_stream::{Framer, FramerState, RecordKind};
use ulid::Ulid;
use zstd::bulk::Compressor;

use crate::audit::{Actor, AuditEntry, AuditEvent, Destination};
use crate::chunk::{ChunkEncoder, ChunkId};
use crate::documents::{Cause, HistoryStart, Manifest, Marker, Server, SnapshotReason, TermClaim};
use crate::keys::{Epoch, EpochId, Recipients};
use crate::layout::{AuditName, ObjectName, PageName, Reading, SEGMENTS_PER_PAGE, SegmentName};
use crate::position::{HistoryId, Offset, Position, Term};
use crate::segment::{BlockContent, Fingerprint, Mark, ReplicationId, SegmentEncoder, SegmentHeader};
use crate::time::Timestamp;

/// The instant `seconds` after the beginning of all test archives.
#[must_use]
pub fn at(seconds: f64) -> Timestamp {
    Timestamp(1_750_000_000_000_000 + (seconds * 1e6) as u64)
}

/// A command as it stands in the stream, from its words.
#[must_use]
pub fn command(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    redwind_stream::encode_command(&words)
}

/// A server, as documents describe it.
#[must_use]
pub fn server() -> Server {
    Server {
        vendor: "redis".to_owned(),
        version: "7.0.15".to_owned(),
        modules: Vec::new(),
        address: "127.0.0.1:6379".to_owned(),
        run_id: "f".repeat(40),
        role: "master".to_owned(),
        cluster: false,
    }
}

/// An RDB that any server loads: no keys, one auxiliary field, a right checksum.
#[must_use]
pub fn empty_rdb() -> Vec<u8> {
    rdb("7.0.15")
}

fn rdb(version: &str) -> Vec<u8> {
    let mut rdb = [b"REDIS0010\xfa\x09redis-ver\x06", version.as_bytes(), b"\xff"].concat();
    rdb.extend(crc64(&rdb).to_le_bytes());
    rdb
}

/// CRC-64 of Jones, bit by bit.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc: u64, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x95ac_9329_ac4b_c9b5 } else { 0 })
    })
}

fn source_name() -> crate::layout::SourceName {
    "default".parse().expect("a source's name")
}

/// Bytes that arrived with one read of the socket.
#[derive(Clone, Debug)]
pub struct Read {
    /// When.
    pub time: Timestamp,
    /// The bytes: any number of commands, or a piece of one.
    pub bytes: Vec<u8>,
}

/// A read of one command at so many seconds; see [`at`] and [`command`].
#[must_use]
pub fn read(seconds: f64, words: &str) -> Read {
    Read { time: at(seconds), bytes: command(words) }
}

/// An agent in its term, writing an archive. A clone writes on beside it, as a fenced writer would.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Where its objects go.
    pub objects: Objects,
    /// The archive.
    pub archive: Ulid,
    /// Its term.
    pub term: Term,
    writer: Ulid,
    pages_begun: u32,
    page: Option<(PageName, u32)>,
    late_since: Option<Timestamp>,
    log: Option<Log>,
    /// The newest snapshot that it knows of.
    snapshot: Option<Ulid>,
    /// Which of several runs that put objects of the same names.
    run: u8,
    recipients: Recipients,
    /// Of its term, in an encrypted archive.
    epoch: Option<Arc<Epoch>>,
    ids: u128,
}

#[derive(Clone, Debug)]
struct Log {
    history: HistoryId,
    end: Offset,
    framer: FramerState,
    fingerprint: Option<Fingerprint>,
    read_until: Timestamp,
}

impl Writer {
    /// Makes an archive and claims its first term. Archives with other seeds have other ids.
    #[must_use]
    pub fn create(seed: u32) -> Self {
        Self::run(seed, 0, &Recipients::default())
    }

    /// As [`create`](Self::create), and makes the same archive with the same names once more: another run
    /// of the agent, of which what names do not tell is different.
    #[must_use]
    pub fn create_again(seed: u32) -> Self {
        Self::create_again_for(seed, &Recipients::default())
    }

    /// As [`create_again`](Self::create_again), encrypted to these recipients, if there are any.
    #[must_use]
    pub fn create_again_for(seed: u32, recipients: &Recipients) -> Self {
        Self::run(seed, 1, recipients)
    }

    /// Makes an archive that is encrypted to these recipients, if there are any.
    #[must_use]
    pub fn create_for(seed: u32, recipients: &Recipients) -> Self {
        Self::run(seed, 0, recipients)
    }

    fn run(seed: u32, run: u8, recipients: &Recipients) -> Self {
        let archive = Ulid::from_parts(at(0.0).0 / 1000, u128::from(seed) + 1);
        let writer = Self {
            objects: Objects::default(),
            archive,
            term: Term(0),
            writer: archive,
            pages_begun: 0,
            page: None,
            late_since: None,
            log: None,
            snapshot: None,
            run,
            recipients: recipients.clone(),
            epoch: None,
            ids: u128::from(seed) << 64,
        };
        let marker = Marker {
            archive,
            source: source_name(),
            created: at(0.0),
            encrypted: !recipients.is_empty(),
            redwind: env!("CARGO_PKG_VERSION").to_owned(),
        };
        writer.objects.put_document(&ObjectName::Marker, &marker);
        writer.succeed()
    }

    /// Claims the next term and continues where this writer stands.
    #[must_use]
    pub fn succeed(&self) -> Self {
        let term = self.term.next();
        let ids = self.ids + (1 << 32);
        let writer = Ulid::from_parts(at(0.0).0 / 1000 + term.0, ids + (u128::from(self.run) << 16));
        let claim = TermClaim {
            term,
            writer,
            host: "host".to_owned(),
            pid: 1,
            claimed: at(0.0),
            redwind: env!("CARGO_PKG_VERSION").to_owned(),
            spool: None,
        };
        self.objects.put_document(&ObjectName::Term(term), &claim);
        let epoch = self.begin_epoch(EpochId(writer));
        Self { term, writer, ids, epoch, pages_begun: 0, page: None, late_since: None, ..self.clone() }
    }

    /// As [`succeed`](Self::succeed), encrypting to others from now on.
    #[must_use]
    pub fn succeed_for(&self, recipients: &Recipients) -> Self {
        Self { recipients: recipients.clone(), ..self.clone() }.succeed()
    }

    fn begin_epoch(&self, id: EpochId) -> Option<Arc<Epoch>> {
        if self.recipients.is_empty() {
            return None;
        }
        let epoch = Epoch::generate(id, self.archive);
        let (name, object) = epoch.wrap(&self.recipients).expect("recipients take a key");
        self.objects.put(ObjectName::Key(name), object);
        Some(Arc::new(epoch))
    }

    fn new_id(&mut self, time: Timestamp) -> Ulid {
        self.ids += 1;
        Ulid::from_parts(time.0 / 1000, self.ids)
    }

    /// Begins a history at an offset; the one written so far becomes its predecessor.
    pub fn begin_history(&mut self, start: u64, time: Timestamp, cause: Cause) -> HistoryId {
        let history = HistoryId(self.new_id(time));
        let before = self.log.take();
        let document = HistoryStart {
            history,
            term: self.term,
            start: Offset(start),
            started: time,
            cause,
            predecessor: before.as_ref().map(|log| Position { history: log.history, offset: log.end }),
            predecessor_complete_until: before.as_ref().map(|log| log.read_until),
            replication_id: "a".repeat(40),
            server: server(),
        };
        self.objects.put_signed(&ObjectName::History(history), &document, self.epoch.as_deref());
        self.log = Some(Log {
            history,
            end: Offset(start),
            framer: Framer::new(Some(0)).state(),
            fingerprint: None,
            read_until: time,
        });
        self.live();
        history
    }

    /// From now on the socket is read as bytes come.
    pub fn live(&mut self) {
        (self.page, self.late_since) = (None, None);
    }

    /// From now on bytes are read late; the socket had last been read empty at `since`.
    pub fn late(&mut self, since: Timestamp) {
        (self.page, self.late_since) = (None, Some(since));
    }

    /// Begins a page with the next segment.
    pub fn turn_page(&mut self) {
        self.page = None;
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("a history is begun first")
    }

    /// Where the log ends.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.log().end
    }

    /// Writes a segment that holds these reads, two to a block. The socket is known to have been read
    /// until the last of them.
    pub fn segment(&mut self, reads: &[Read]) -> ObjectName {
        let until = reads.last().map_or(self.log().read_until, |read| read.time);
        self.segment_until(reads, until)
    }

    /// Writes a segment that vouches that nothing arrived until `time`.
    pub fn idle(&mut self, time: Timestamp) -> ObjectName {
        self.segment_until(&[], time)
    }

    /// Writes a segment that holds these reads, and tells until when the socket was read.
    pub fn segment_until(&mut self, reads: &[Read], until: Timestamp) -> ObjectName {
        let (name, bytes) = self.encode(reads, until);
        let page = self.page_for(&name);
        let object = ObjectName::Segment(page, name);
        self.objects.put(&object, bytes);
        object
    }

    fn encode(&mut self, reads: &[Read], until: Timestamp) -> (SegmentName, Vec<u8>) {
        let log = self.log.as_mut().expect("a history is begun first");
        let header = SegmentHeader {
            archive: self.archive,
            writer: self.writer,
            history: log.history,
            term: self.term,
            start: log.end,
            predecessor: log.fingerprint,
            opened: reads.first().map_or(log.read_until, |read| read.time),
            late_since: self.late_since,
            clock_offset: Some(0),
            replication_ids: vec![ReplicationId { id: [b'a'; 40], since: Offset(0) }],
            framer: log.framer.clone(),
            snapshot: self.snapshot,
            encryption: self.epoch.as_deref().map(Epoch::encryption),
        };
        let mut out = Vec::new();
        let mut framer = Framer::resume(log.framer.clone());
        let mut compressor = Compressor::new(1).expect("zstd has memory");
        let mut encoder = SegmentEncoder::begin(header, self.epoch.as_deref(), &mut out);
        for reads in reads.chunks(2) {
            let bytes: Vec<u8> = reads.iter().flat_map(|read| read.bytes.clone()).collect();
            let mut end = encoder.end();
            let mark = |read: &Read| {
                end = end.advance(read.bytes.len() as u64);
                Mark { end, time: read.time }
            };
            let marks: Vec<Mark> = reads.iter().map(mark).collect();
            let (mut records, mut writes) = (0, 0);
            framer
                .push(&bytes, |record| {
                    records += 1;
                    writes += u64::from(record.kind == RecordKind::Write);
                })
                .expect("a test's stream is one");
            let framer_end = &framer.state();
            let content = BlockContent { bytes: &bytes, marks: &marks, records, writes, framer_end };
            encoder.block(&mut compressor, &content, &mut out).expect("zstd works");
        }
        let (name, trailer) = encoder.finish(until, &mut out);
        *log = Log {
            history: log.history,
            end: trailer.end,
            framer: framer.state(),
            fingerprint: Some(trailer.fingerprint()),
            read_until: trailer.read_until,
        };
        (name, out)
    }

    fn page_for(&mut self, segment: &SegmentName) -> PageName {
        let history = self.log().history;
        let (page, segments) = match self.page.take() {
            Some((page, segments)) if segments < SEGMENTS_PER_PAGE => (page, segments),
            _ => {
                let number = self.pages_begun;
                self.pages_begun += 1;
                let reading = if self.late_since.is_some() { Reading::Late } else { Reading::Live };
                let time = self.late_since.unwrap_or(segment.time);
                (PageName { term: self.term, number, history, start: segment.start, time, reading }, 0)
            }
        };
        self.page = Some((page.clone(), segments + 1));
        page
    }

    /// Enters a restore of where the log stands into the audit log.
    pub fn audit(&mut self, time: Timestamp) {
        let entry = self.new_id(time);
        let document = AuditEntry {
            entry,
            archive: self.archive,
            time,
            by: Actor {
                user: "user".to_owned(),
                uid: 1000,
                host: "host".to_owned(),
                pid: 1,
                redwind: env!("CARGO_PKG_VERSION").to_owned(),
            },
            event: AuditEvent::Restore {
                target: "latest".to_owned(),
                position: Position { history: self.log().history, offset: self.log().end },
                destination: Destination::Aof,
                place: "/data".to_owned(),
            },
        };
        self.objects.put_document(&ObjectName::Audit(AuditName { time, entry }), &document);
    }

    /// Takes a snapshot of an empty server where the log stands.
    pub fn snapshot(&mut self, time: Timestamp) -> Manifest {
        self.snapshot_at(self.end(), time)
    }

    /// Takes a snapshot of an empty server at an offset, in three chunks.
    pub fn snapshot_at(&mut self, offset: Offset, time: Timestamp) -> Manifest {
        let snapshot = self.new_id(time);
        let rdb = rdb(&format!("7.0.1{}", 5 + self.run));
        let mut chunks = Vec::new();
        for (number, piece) in rdb.chunks(rdb.len().div_ceil(3)).enumerate() {
            let number = number as u32;
            let id = ChunkId { archive: self.archive, snapshot, number };
            let mut encoder = ChunkEncoder::new(1).expect("zstd works");
            encoder.push(piece);
            let (object, entry) = encoder.finish(id, self.epoch.as_deref(), Vec::new()).expect("zstd works");
            self.objects.put(ObjectName::Chunk(snapshot, number), object);
            chunks.push(entry);
        }
        let manifest = Manifest {
            snapshot,
            archive: self.archive,
            position: Position { history: self.log().history, offset },
            time,
            term: self.term,
            began: time,
            ended: time,
            reason: SnapshotReason::Requested,
            rdb_bytes: rdb.len() as u64,
            stored_bytes: chunks.iter().map(|chunk| chunk.stored).sum(),
            rdb_version: 10,
            rdb_crc64: Some(format!("{:016x}", crc64(&rdb[..rdb.len() - 8]))),
            stream_database: Some(0),
            chunks,
            previous: self.snapshot.replace(snapshot),
            server: server(),
        };
        self.objects.put_signed(&ObjectName::Manifest(manifest.name()), &manifest, self.epoch.as_deref());
        manifest
    }
}

//! A replica that writes down what it is sent, and an archive made of that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use object_store::memory::InMemory;
use redwind_archive::chunk::{ChunkEncoder, ChunkId};
use redwind_archive::document;
use redwind_archive::documents::{
    Cause, HistoryStart, Manifest, Marker, Module, Server as SourceServer, SnapshotReason,
};
use redwind_archive::layout::{ManifestName, ObjectName, PageName, Reading};
use redwind_archive::position::{HistoryId, Offset, Position, Term};
use redwind_archive::segment::{BlockContent, Mark, SegmentEncoder, SegmentHeader};
use redwind_archive::store::{Put, SourceStore, Store};
use redwind_archive::time::{Clock, Timestamp};
use redwind_stream::{Framer, PayloadDecoder, RdbCheck, encode_command};
use redwind_tests::poll;
use redwind_tests::server::{Server, array, number, text};
use ulid::Ulid;

/// RDB bytes in a chunk: little, so that every test has several.
const CHUNK_BYTES: usize = 1 << 20;
/// Stream bytes in a segment: little, and no multiple of anything.
const SEGMENT_BYTES: u64 = 70_001;

/// One read of the stream.
type Arrival = (Timestamp, Vec<u8>);

/// What a server sent to a replica.
pub(crate) struct Capture {
    server: SourceServer,
    rdb: Vec<u8>,
    start: u64,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Capture {
    /// Attaches to a server, takes its RDB, and goes on taking its stream.
    pub(crate) fn attach(server: &Server) -> Self {
        let socket = TcpStream::connect(server.addr()).unwrap();
        let mut writer = socket.try_clone().unwrap();
        let mut reader = BufReader::new(socket);
        let mut say = |args: &[&[u8]]| writer.write_all(&encode_command(args)).unwrap();
        say(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]);
        assert_eq!(line(&mut reader), "+OK");
        // Valkey 9 saves in an old format for a replica that does not say its version.
        say(&[b"REPLCONF", b"version", server.flavor().version.to_string().as_bytes()]);
        let _ = line(&mut reader);
        say(&[b"PSYNC", b"?", b"-1"]);
        let answer = line(&mut reader);
        let start = answer.rsplit(' ').next().and_then(|offset| offset.parse().ok());
        let start = start.unwrap_or_else(|| panic!("{answer}"));
        let (rdb, mut first) = payload(&mut reader);
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&arrivals);
        thread::spawn(move || {
            let clock = Clock::new();
            let mut buffer = vec![0; 1 << 16];
            loop {
                // A diskless payload is followed by nothing before an acknowledgement, and one that
                // is sent too early is lost.
                let _ = writer.write_all(&encode_command(&[b"REPLCONF", b"ACK", b"0"]));
                reader.get_ref().set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
                let bytes = match std::mem::take(&mut first) {
                    bytes if !bytes.is_empty() => bytes,
                    _ => match reader.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(count) => buffer[..count].to_vec(),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                        Err(_) => return,
                    },
                };
                written.lock().unwrap().push((clock.now(), bytes));
            }
        });
        Self { server: describe(server), rdb, start, arrivals }
    }

    /// Waits until everything before `offset` has arrived.
    pub(crate) fn wait_for(&self, offset: u64) {
        poll::until_true("the stream arrives", || {
            let arrived: usize = self.arrivals.lock().unwrap().iter().map(|(_, bytes)| bytes.len()).sum();
            self.start + arrived as u64 >= offset
        });
    }

    /// An archive of everything that has arrived.
    pub(crate) fn archive(&self) -> Archive {
        let arrivals = self.arrivals.lock().unwrap().clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(write_archive(&self.server, &self.rdb, self.start, &arrivals))
    }
}

fn line(reader: &mut impl BufRead) -> String {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if !line.trim().is_empty() {
            return line.trim().to_owned();
        }
    }
}

/// The RDB, and what followed it.
fn payload(reader: &mut impl Read) -> (Vec<u8>, Vec<u8>) {
    let (mut decoder, mut rdb, mut buffer) = (PayloadDecoder::new(), Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = reader.read(&mut buffer).unwrap();
        assert!(count > 0, "the server closed the connection");
        let decoded = decoder.push(&buffer[..count]).unwrap();
        rdb.extend_from_slice(decoded.held);
        rdb.extend_from_slice(decoded.payload);
        if decoded.finished {
            return (rdb, buffer[decoded.consumed..count].to_vec());
        }
    }
}

fn describe(server: &Server) -> SourceServer {
    let flavor = server.flavor();
    let mut cli = server.cli();
    let modules = cli.command(&["MODULE", "LIST"]);
    let module = |fields: &redis::Value| {
        let fields = array(fields);
        let field = |name: &str| fields.chunks_exact(2).find(|pair| text(&pair[0]) == name).map(|pair| &pair[1]);
        Module { name: text(field("name").unwrap()), version: number(field("ver").unwrap()) as u64 }
    };
    SourceServer {
        vendor: format!("{:?}", flavor.vendor).to_lowercase(),
        version: flavor.version.to_string(),
        modules: array(&modules).iter().map(module).collect(),
        address: server.addr().to_string(),
        run_id: String::new(),
        role: "master".to_owned(),
        cluster: false,
    }
}

/// An archive in memory.
pub(crate) struct Archive {
    pub(crate) store: SourceStore,
    pub(crate) objects: Arc<InMemory>,
}

async fn write_archive(server: &SourceServer, rdb: &[u8], start: u64, arrivals: &[Arrival]) -> Archive {
    let objects = Arc::new(InMemory::new());
    let store = Store::over(objects.clone(), "memory://").source(&"default".parse().unwrap());
    let began = arrivals.first().map_or_else(|| Clock::new().now(), |(time, _)| *time);
    let marker = Marker {
        archive: Ulid(7),
        source: store.name().clone(),
        created: began,
        encrypted: false,
        redwind: "test".to_owned(),
    };
    let history = HistoryStart {
        history: HistoryId(Ulid(8)),
        term: Term(1),
        start: Offset(start),
        started: began,
        cause: Cause::First,
        predecessor: None,
        predecessor_complete_until: None,
        replication_id: "0".repeat(40),
        server: server.clone(),
    };
    put(&store, ObjectName::Marker, document::encode(&marker)).await;
    put(&store, ObjectName::History(history.history), document::encode(&history)).await;
    let archive = Archive { store, objects };
    archive.write_snapshot(&marker, &history, rdb).await;
    archive.write_log(&marker, &history, arrivals).await;
    archive
}

impl Archive {
    async fn write_snapshot(&self, marker: &Marker, history: &HistoryStart, rdb: &[u8]) {
        let mut check = RdbCheck::new();
        check.push(rdb).unwrap();
        let info = check.finish().unwrap();
        let snapshot = Ulid(9);
        let mut chunks = Vec::new();
        for (number, bytes) in (0..).zip(rdb.chunks(CHUNK_BYTES)) {
            let id = ChunkId { archive: marker.archive, snapshot, number };
            let mut encoder = ChunkEncoder::new(1).unwrap();
            encoder.push(bytes);
            let (object, entry) = encoder.finish(id, None, Vec::new()).unwrap();
            put(&self.store, ObjectName::Chunk(snapshot, number), object).await;
            chunks.push(entry);
        }
        let crc64 = match info.checksum {
            redwind_stream::RdbChecksum::Verified(crc64) => Some(format!("{crc64:016x}")),
            redwind_stream::RdbChecksum::Disabled => None,
        };
        let position = Position { history: history.history, offset: history.start };
        let manifest = Manifest {
            snapshot,
            archive: marker.archive,
            position,
            time: history.started,
            term: Term(1),
            began: history.started,
            ended: history.started,
            reason: SnapshotReason::First,
            rdb_bytes: rdb.len() as u64,
            stored_bytes: chunks.iter().map(|chunk| chunk.stored).sum(),
            rdb_version: info.version,
            rdb_crc64: crc64,
            stream_database: info.repl_stream_db,
            chunks,
            previous: None,
            server: history.server.clone(),
        };
        let name = ManifestName { history: history.history, offset: position.offset, time: manifest.time, snapshot };
        put(&self.store, ObjectName::Manifest(name), document::encode(&manifest)).await;
    }

    async fn write_log(&self, marker: &Marker, history: &HistoryStart, arrivals: &[Arrival]) {
        let page = PageName {
            term: Term(1),
            number: 0,
            history: history.history,
            start: history.start,
            time: history.started,
            reading: Reading::Live,
        };
        let mut framer = Framer::new(None);
        let (mut at, mut predecessor) = (history.start, None);
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        let mut rest = arrivals;
        while !rest.is_empty() {
            let header = SegmentHeader {
                archive: marker.archive,
                writer: Ulid(10),
                history: history.history,
                term: Term(1),
                start: at,
                predecessor,
                opened: rest[0].0,
                late_since: None,
                clock_offset: Some(0),
                replication_ids: Vec::new(),
                framer: framer.state(),
                encryption: None,
                snapshot: None,
            };
            let mut object = Vec::new();
            let until = at.since(history.start) + SEGMENT_BYTES;
            let mut segment = SegmentEncoder::begin(header, None, &mut object);
            while let Some(((time, bytes), after)) = rest.split_first() {
                let end = at.advance(bytes.len() as u64);
                let (mut records, mut writes) = (0, 0);
                let count = |record: redwind_stream::Record| {
                    records += 1;
                    writes += u64::from(record.kind == redwind_stream::RecordKind::Write);
                };
                framer.push(bytes, count).unwrap();
                let marks = [Mark { end, time: *time }];
                let framer_end = &framer.state();
                let content = BlockContent { bytes, marks: &marks, records, writes, framer_end };
                segment.block(&mut compressor, &content, &mut object).unwrap();
                (at, rest) = (end, after);
                if at.since(history.start) >= until {
                    break;
                }
            }
            let read_until = segment.last_arrival().unwrap();
            let (name, trailer) = segment.finish(read_until, &mut object);
            predecessor = Some(trailer.fingerprint());
            put(&self.store, ObjectName::Segment(page.clone(), name), Bytes::from(object)).await;
        }
    }
}

async fn put(store: &SourceStore, name: ObjectName, bytes: Bytes) {
    assert_eq!(store.put_new(&name, bytes).await.unwrap(), Put::Stored);
}

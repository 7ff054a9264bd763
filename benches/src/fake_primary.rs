//! A primary without a keyspace: replays a recorded stream at line rate.
//!
//! A real primary makes some 125 MB/s of stream per core, less than a consumer may be able to take.
//! This one answers a replica's handshake and an agent's questions, hands out an RDB, and then sends a
//! file as fast as the socket accepts it. One log connection at a time; a snapshot-only connection
//! (`REPLCONF rdb-only 1`) may precede or accompany it. The stream begins once a snapshot was handed
//! out, so that every byte of it can become durable.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crc_fast::{CrcAlgorithm, checksum};
use rustix::time::{ClockId, clock_gettime};

use crate::resp::read_command;

/// The replication ID it claims.
const REPLICATION_ID: &str = "5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed";
/// The offset before the first byte of the stream. Not 0, which some readers take for 'none'.
const START: u64 = 1000;
/// Bytes per write to the socket.
const PIECE: usize = 256 * 1024;

/// The running replay. Dropping it closes the listener.
pub struct FakePrimary {
    address: SocketAddr,
    replay: Arc<Replay>,
}

struct Replay {
    rdb: Option<PathBuf>,
    stream: PathBuf,
    length: u64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    closing: AtomicBool,
    progress: Mutex<Progress>,
    snapshot_served: Condvar,
}

#[derive(Default)]
struct Progress {
    snapshot_served: bool,
    first_byte: Option<Instant>,
}

impl FakePrimary {
    /// Listens on a free port. Full resyncs get `rdb`, or an empty dataset; then `stream` is sent.
    ///
    /// # Errors
    /// When the stream cannot be read or nothing can listen.
    pub fn start(rdb: Option<&Path>, stream: &Path) -> Result<Self> {
        let length = std::fs::metadata(stream).with_context(|| format!("look at {}", stream.display()))?.len();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let replay = Arc::new(Replay {
            rdb: rdb.map(Path::to_owned),
            stream: stream.to_owned(),
            length,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            progress: Mutex::default(),
            snapshot_served: Condvar::new(),
        });
        let accepting = Arc::clone(&replay);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if accepting.closing.load(Ordering::Acquire) {
                    return;
                }
                let replay = Arc::clone(&accepting);
                // A consumer that goes away ends its connection; its own exit tells whether that was right.
                thread::spawn(move || Connection::new(replay, socket)?.serve());
            }
        });
        Ok(Self { address, replay })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The offset after the last byte of the stream.
    pub fn end(&self) -> u64 {
        START + self.replay.length
    }

    /// The highest offset acknowledged on the log connection.
    pub fn acknowledged(&self) -> u64 {
        self.replay.acknowledged.load(Ordering::Acquire)
    }

    /// When the first byte of the stream was sent.
    pub fn first_byte(&self) -> Option<Instant> {
        self.replay.progress.lock().unwrap_or_else(PoisonError::into_inner).first_byte
    }
}

impl Drop for FakePrimary {
    fn drop(&mut self) {
        self.replay.closing.store(true, Ordering::Release);
        // Wakes the accepting thread; if that fails there is none.
        let _ = TcpStream::connect(self.address);
    }
}

impl Replay {
    fn offset(&self) -> u64 {
        START + self.sent.load(Ordering::Acquire)
    }

    fn info(&self) -> String {
        let offset = self.offset();
        format!(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{REPLICATION_ID}\r\n\
             tcp_port:0\r\nuptime_in_seconds:100\r\n\
             # Persistence\r\nloading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\n\
             # Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
             master_replid:{REPLICATION_ID}\r\nmaster_replid2:{zeros}\r\nmaster_repl_offset:{offset}\r\n\
             second_repl_offset:-1\r\nrepl_backlog_active:1\r\nrepl_backlog_size:67108864\r\n\
             repl_backlog_first_byte_offset:{first}\r\nrepl_backlog_histlen:{histlen}\r\n",
            zeros = "0".repeat(40),
            first = START + 1,
            histlen = offset - START,
        )
    }

    fn send_rdb(&self, socket: &mut TcpStream) -> Result<()> {
        match &self.rdb {
            None => {
                let rdb = empty_rdb();
                write!(socket, "${}\r\n", rdb.len())?;
                socket.write_all(&rdb)?;
            }
            Some(path) => {
                let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
                write!(socket, "${}\r\n", file.metadata()?.len())?;
                std::io::copy(&mut file, socket)?;
            }
        }
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).snapshot_served = true;
        self.snapshot_served.notify_all();
        Ok(())
    }

    fn send_stream(&self, mut socket: TcpStream) -> Result<()> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.snapshot_served.wait_while(progress, |p| !p.snapshot_served);
        waited.unwrap_or_else(PoisonError::into_inner).first_byte = Some(Instant::now());
        let mut file = File::open(&self.stream)?;
        let mut piece = vec![0; PIECE];
        loop {
            let n = file.read(&mut piece)?;
            if n == 0 {
                return Ok(());
            }
            socket.write_all(&piece[..n])?;
            self.sent.fetch_add(n as u64, Ordering::AcqRel);
        }
    }
}

/// What one connection has asked for so far.
struct Connection {
    replay: Arc<Replay>,
    socket: TcpStream,
    rdb_only: bool,
    without_keys: bool,
}

impl Connection {
    fn new(replay: Arc<Replay>, socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { replay, socket, rdb_only: false, without_keys: false })
    }

    fn serve(mut self) -> Result<()> {
        let mut reader = BufReader::new(self.socket.try_clone()?);
        while let Some(command) = read_command(&mut reader)? {
            let words: Vec<String> = command.iter().map(|a| String::from_utf8_lossy(a).to_ascii_lowercase()).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["psync", id, from] => {
                    self.psync(id, from)?;
                    if self.rdb_only {
                        return Ok(());
                    }
                }
                ["replconf", "ack", offset, ..] => {
                    self.replay.acknowledged.fetch_max(offset.parse()?, Ordering::AcqRel);
                }
                words => {
                    let reply = self.reply(words)?;
                    self.socket.write_all(reply.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn reply(&mut self, words: &[&str]) -> Result<String> {
        Ok(match words {
            ["replconf", "rdb-only", value] => {
                self.rdb_only = *value == "1";
                "+OK\r\n".to_owned()
            }
            ["replconf", "rdb-filter-only", ..] => {
                self.without_keys = true;
                "+OK\r\n".to_owned()
            }
            ["ping"] => "+PONG\r\n".to_owned(),
            ["replconf" | "auth" | "select", ..] | ["client", ..] => "+OK\r\n".to_owned(),
            ["info", ..] => bulk(&self.replay.info()),
            ["time"] => {
                let now = clock_gettime(ClockId::Realtime);
                array(&[&now.tv_sec.to_string(), &(now.tv_nsec / 1000).to_string()])
            }
            ["module", "list"] => "*0\r\n".to_owned(),
            ["config", "get", names @ ..] => {
                let known = names.iter().filter_map(|n| Some((*n, setting(n)?)));
                array(&known.flat_map(|(name, value)| [name, value]).collect::<Vec<_>>())
            }
            ["acl", "whoami"] => bulk("default"),
            ["role"] => format!("*3\r\n{}:{}\r\n*0\r\n", bulk("master"), self.replay.offset()),
            other => format!("-ERR unknown command '{}'\r\n", other.first().unwrap_or(&"")),
        })
    }

    fn psync(&mut self, id: &str, from: &str) -> Result<()> {
        let offset = self.replay.offset();
        if id == REPLICATION_ID && from.parse::<u64>() == Ok(offset + 1) {
            write!(self.socket, "+CONTINUE {REPLICATION_ID}\r\n")?;
        } else {
            ensure!(offset == START, "a full resync was asked for in the middle of the stream");
            write!(self.socket, "+FULLRESYNC {REPLICATION_ID} {offset}\r\n")?;
            if self.without_keys {
                let rdb = empty_rdb();
                write!(self.socket, "${}\r\n", rdb.len())?;
                self.socket.write_all(&rdb)?;
            } else {
                self.replay.send_rdb(&mut self.socket)?;
            }
        }
        if !self.rdb_only {
            let (replay, socket) = (Arc::clone(&self.replay), self.socket.try_clone()?);
            thread::spawn(move || replay.send_stream(socket));
        }
        Ok(())
    }
}

/// Settings an agent asks for before it attaches.
fn setting(name: &str) -> Option<&'static str> {
    Some(match name {
        "repl-backlog-size" => "67108864",
        "repl-backlog-ttl" => "3600",
        "repl-timeout" => "60",
        "repl-diskless-sync" => "yes",
        "repl-diskless-sync-delay" => "0",
        "client-output-buffer-limit" => "normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60",
        "databases" => "16",
        _ => return None,
    })
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn array(parts: &[&str]) -> String {
    let bulks: String = parts.iter().map(|p| bulk(p)).collect();
    format!("*{}\r\n{bulks}", parts.len())
}

/// An RDB of version 10 without keys: auxiliary fields, the end, the checksum.
fn empty_rdb() -> Vec<u8> {
    const AUX: u8 = 0xfa;
    const EOF: u8 = 0xff;
    let mut rdb = b"REDIS0010".to_vec();
    let offset = START.to_string();
    let fields = [
        ("redis-ver", "7.0.15"),
        ("redis-bits", "64"),
        ("repl-stream-db", "0"),
        ("repl-id", REPLICATION_ID),
        ("repl-offset", offset.as_str()),
        ("aof-base", "0"),
    ];
    for (name, value) in fields {
        rdb.push(AUX);
        // Every string here is shorter than 64 bytes, whose length is one byte.
        for text in [name, value] {
            rdb.push(text.len() as u8);
            rdb.extend_from_slice(text.as_bytes());
        }
    }
    rdb.push(EOF);
    let crc = checksum(CrcAlgorithm::Crc64Redis, &rdb);
    rdb.extend_from_slice(&crc.to_le_bytes());
    rdb
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{encode, read_line};

    fn ask(reader: &mut BufReader<TcpStream>, words: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        encode(&mut bytes, words);
        reader.get_ref().write_all(&bytes).expect("accepts");
        read_line(reader).expect("answers")
    }

    #[test]
    fn the_empty_rdb_carries_its_checksum() {
        // Without a final inversion, a CRC over data and its own CRC is 0.
        assert_eq!(checksum(CrcAlgorithm::Crc64Redis, &empty_rdb()), 0);
    }

    #[test]
    fn the_log_connection_waits_for_the_snapshot_and_then_gets_every_byte() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let stream = dir.path().join("stream");
        std::fs::write(&stream, b"*1\r\n$4\r\nPING\r\n").expect("writes");
        let primary = FakePrimary::start(None, &stream).expect("starts");
        let connect = || BufReader::new(TcpStream::connect(primary.address()).expect("listens"));

        let mut log = connect();
        let next = (START + 1).to_string();
        let answer = ask(&mut log, &[b"PSYNC", REPLICATION_ID.as_bytes(), next.as_bytes()]);
        assert_eq!(answer, format!("+CONTINUE {REPLICATION_ID}"));
        assert_eq!(primary.first_byte(), None);

        let mut snapshot = connect();
        assert_eq!(ask(&mut snapshot, &[b"REPLCONF", b"rdb-only", b"1"]), "+OK");
        let answer = ask(&mut snapshot, &[b"PSYNC", b"?", b"-1"]);
        assert_eq!(answer, format!("+FULLRESYNC {REPLICATION_ID} {START}"));
        assert_eq!(read_line(&mut snapshot).expect("length"), format!("${}", empty_rdb().len()));

        let mut bytes = vec![0; primary.replay.length as usize];
        log.read_exact(&mut bytes).expect("the stream");
        assert_eq!(bytes, std::fs::read(&stream).expect("reads"));
        assert!(primary.first_byte().is_some());
    }
}

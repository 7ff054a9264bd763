//! A primary in process that speaks the replication protocol and misbehaves as asked.
//!
//! By default it does what a Redis 7 does: it answers the handshake, continues a replica whose
//! offset is still in its backlog (all of the stream since it was made), and gives others its RDB.
//! It parses nothing of the stream: [`FakePrimary::feed`] takes any bytes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::poll;

/// How an RDB is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `$<length>`, from disk: the stream follows at once.
    Length,
    /// `$EOF:<mark>`, diskless: the stream waits for the replica's first ACK.
    Mark,
}

/// What to answer to one PSYNC instead of the truth.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This line, then nothing more.
    Line(String),
    /// These bytes as they are, then the connection is closed.
    Bytes(Vec<u8>),
    /// Close without a word.
    Close,
    /// A full resync whose RDB breaks off after this many bytes.
    CutRdb(usize),
    /// A full resync where the backlog would do.
    FullResync,
}

/// What the primary is, all of it changeable while it runs.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its replication ID.
    pub replication_id: String,
    /// The ID that held before, and the offset at which it ended, for PSYNC to continue.
    pub former: Option<(String, u64)>,
    /// The offset before the first byte of the stream.
    pub start: u64,
    /// Given on a full resync.
    pub rdb: Vec<u8>,
    /// How.
    pub framing: Framing,
    /// What INFO says besides the replication section, such as `redis_version:7.0.15`.
    pub info: String,
    /// Answers for the next PSYNCs, one each; the truth when there is none.
    pub answers: VecDeque<Answer>,
    /// A line for every PING and AUTH instead of the usual one, such as `-LOADING ...`.
    pub refusal: Option<String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            replication_id: "1".repeat(40),
            former: None,
            start: 0,
            rdb: EMPTY_RDB.to_vec(),
            framing: Framing::Length,
            info: "redis_version:7.0.15\r\nredis_mode:standalone".to_owned(),
            answers: VecDeque::new(),
            refusal: None,
        }
    }
}

/// An RDB without keys, of a version that every server reads, and without a checksum (all zero).
pub const EMPTY_RDB: &[u8] = b"REDIS0009\xff\0\0\0\0\0\0\0\0";

/// Listens until it is dropped.
#[derive(Debug)]
pub struct FakePrimary {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    script: Script,
    stream: Vec<u8>,
    requests: Vec<Vec<String>>,
    acks: Vec<u64>,
    connections: Vec<TcpStream>,
    stopped: bool,
}

impl FakePrimary {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let addr = listener.local_addr().expect("it is bound");
        let state = State {
            script,
            stream: Vec::new(),
            requests: Vec::new(),
            acks: Vec::new(),
            connections: Vec::new(),
            stopped: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.lock().stopped {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = accepting.clone();
                std::thread::spawn(move || serve(stream, &shared).ok());
            }
        });
        Self { addr, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL, as redwind takes it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Changes what it is and does from now on.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.lock().script);
        self.shared.changed.notify_all();
    }

    /// Appends to the stream, and so to every replica that is online.
    pub fn feed(&self, bytes: &[u8]) {
        self.shared.lock().stream.extend_from_slice(bytes);
        self.shared.changed.notify_all();
    }

    /// Appends a command in RESP.
    pub fn feed_command(&self, words: &[&str]) {
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        self.feed(format!("*{}\r\n{}", words.len(), bulks.collect::<String>()).as_bytes());
    }

    /// The offset after the last byte of the stream.
    pub fn offset(&self) -> u64 {
        self.shared.lock().offset()
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.shared.lock().cut();
    }

    /// Forgets the stream so far: who asks for a part of it gets a full resync.
    pub fn lose_backlog(&self) {
        let mut state = self.shared.lock();
        state.cut();
        state.script.start = state.offset();
        state.stream.clear();
    }

    /// Every request so far, in words.
    pub fn requests(&self) -> Vec<Vec<String>> {
        self.shared.lock().requests.clone()
    }

    /// Every offset acknowledged so far, in order.
    pub fn acks(&self) -> Vec<u64> {
        self.shared.lock().acks.clone()
    }

    /// Waits for a request that begins with these words, in any case, and returns it.
    ///
    /// # Panics
    /// When none comes within [`poll::PATIENCE`].
    pub fn wait_request(&self, words: &[&str]) -> Vec<String> {
        let begins = |request: &Vec<String>| {
            request.len() >= words.len()
                && request.iter().zip(words).all(|(said, word)| said.eq_ignore_ascii_case(word))
        };
        let what = format!("a request {} comes", words.join(" "));
        poll::until(&what, || self.requests().into_iter().rev().find(begins))
    }

    /// Waits until `offset` or more is acknowledged.
    ///
    /// # Panics
    /// When it is not within [`poll::PATIENCE`].
    pub fn wait_ack(&self, offset: u64) {
        let what = format!("{offset} is acknowledged");
        poll::until_true(&what, || self.acks().last().is_some_and(|&ack| ack >= offset));
    }
}

impl Drop for FakePrimary {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.cut();
        drop(state);
        self.shared.changed.notify_all();
        TcpStream::connect(self.addr).ok();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn offset(&self) -> u64 {
        self.script.start + self.stream.len() as u64
    }

    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Whether the backlog can continue a replica that wants the byte `wanted` (PSYNC counts from 1).
    fn continues(&self, id: &str, wanted: u64) -> bool {
        let script = &self.script;
        let known = id.eq_ignore_ascii_case(&script.replication_id)
            || script.former.as_ref().is_some_and(|(former, end)| id == former && wanted <= end + 1);
        known && wanted > script.start && wanted <= self.offset() + 1
    }

    fn info(&self) -> String {
        format!(
            "{}\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:{}\r\nmaster_repl_offset:{}\r\n\
             repl_backlog_active:1\r\nrepl_backlog_first_byte_offset:{}\r\nloading:0\r\n",
            self.script.info,
            self.script.replication_id,
            self.offset(),
            self.script.start + 1,
        )
    }
}

fn serve(stream: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    shared.lock().connections.push(stream.try_clone()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader)? {
        let mut state = shared.lock();
        state.requests.push(request.clone());
        let words: Vec<_> = request.iter().map(|word| word.to_ascii_uppercase()).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let reply = match words.as_slice() {
            ["REPLCONF", "ACK", offset, ..] => {
                state.acks.extend(offset.parse::<u64>());
                shared.changed.notify_all();
                continue;
            }
            ["PSYNC", _, _] => {
                let answer = state.script.answers.pop_front();
                drop(state);
                if !synchronize(&mut writer, shared, &request, answer)? {
                    return writer.shutdown(Shutdown::Both);
                }
                continue;
            }
            ["PING" | "AUTH" | "HELLO", ..] if state.script.refusal.is_some() => {
                format!("{}\r\n", state.script.refusal.as_deref().unwrap_or_default())
            }
            ["PING"] => "+PONG\r\n".to_owned(),
            ["INFO", ..] => bulk(&state.info()),
            ["TIME"] => {
                let micros = crate::mark::now().0;
                format!("*2\r\n{}{}", bulk(&(micros / 1_000_000).to_string()), bulk(&(micros % 1_000_000).to_string()))
            }
            ["CONFIG" | "MODULE", ..] => "*0\r\n".to_owned(),
            ["AUTH" | "REPLCONF" | "CLIENT" | "SELECT", ..] => "+OK\r\n".to_owned(),
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        drop(state);
        writer.write_all(reply.as_bytes())?;
    }
    Ok(())
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Answers PSYNC, and has the stream sent from then on; false when the connection ends here.
fn synchronize(
    writer: &mut TcpStream,
    shared: &Arc<Shared>,
    request: &[String],
    answer: Option<Answer>,
) -> std::io::Result<bool> {
    let wanted = request[2].parse::<u64>().unwrap_or(0);
    let (continued, id, offset, script) = {
        let state = shared.lock();
        let continued = state.continues(&request[1], wanted);
        (continued, state.script.replication_id.clone(), state.offset(), state.script.clone())
    };
    let mut rdb = script.rdb.as_slice();
    match &answer {
        Some(Answer::Line(line)) => {
            writer.write_all(format!("{line}\r\n").as_bytes())?;
            return Ok(true);
        }
        Some(Answer::Bytes(bytes)) => {
            writer.write_all(bytes)?;
            return Ok(false);
        }
        Some(Answer::Close) => return Ok(false),
        Some(Answer::CutRdb(length)) => rdb = &rdb[..*length],
        Some(Answer::FullResync) => {}
        None if continued => {
            writer.write_all(format!("+CONTINUE {id}\r\n").as_bytes())?;
            send_stream(writer.try_clone()?, shared, wanted - 1, None);
            return Ok(true);
        }
        None => {}
    }
    writer.write_all(format!("+FULLRESYNC {id} {offset}\r\n").as_bytes())?;
    let mark = "e".repeat(40);
    match script.framing {
        Framing::Length => writer.write_all(format!("${}\r\n", script.rdb.len()).as_bytes())?,
        Framing::Mark => writer.write_all(format!("$EOF:{mark}\r\n").as_bytes())?,
    }
    writer.write_all(rdb)?;
    if rdb.len() < script.rdb.len() {
        return Ok(false);
    }
    let acks = (script.framing == Framing::Mark).then(|| shared.lock().acks.len());
    if acks.is_some() {
        writer.write_all(mark.as_bytes())?;
    }
    send_stream(writer.try_clone()?, shared, offset, acks);
    Ok(true)
}

/// Sends everything from `offset` on, now and later; after an ACK beyond the `acks` so far, when that
/// is what it waits for.
fn send_stream(mut writer: TcpStream, shared: &Arc<Shared>, offset: u64, acks: Option<usize>) {
    let shared = shared.clone();
    std::thread::spawn(move || {
        let mut sent = offset;
        let mut state = shared.lock();
        while !state.stopped && writer.peer_addr().is_ok() {
            let waiting = acks.is_some_and(|acks| state.acks.len() <= acks);
            let known = usize::try_from(sent.saturating_sub(state.script.start)).unwrap_or(usize::MAX);
            let pending = state.stream.get(known..).unwrap_or_default().to_vec();
            if waiting || pending.is_empty() {
                let patience = Duration::from_millis(100);
                state = shared.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            drop(state);
            if writer.write_all(&pending).is_err() {
                return;
            }
            sent += pending.len() as u64;
            state = shared.lock();
        }
    });
}

/// One request: a RESP array of bulk strings, or an inline line. None at the end.
fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<String>>> {
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        // a bare newline is a replica's sign of life
        if !line.trim().is_empty() {
            break;
        }
    }
    let Some(count) = line.strip_prefix('*') else {
        return Ok(Some(line.split_whitespace().map(str::to_owned).collect()));
    };
    let mut words = Vec::new();
    for _ in 0..count.trim().parse::<usize>().unwrap_or(0) {
        line.clear();
        reader.read_line(&mut line)?;
        let length = line.trim().trim_start_matches('$').parse().unwrap_or(0);
        let mut word = vec![0; length];
        reader.read_exact(&mut word)?;
        reader.read_exact(&mut [0; 2])?;
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(Some(words))
}

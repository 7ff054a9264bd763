//! A server that replicates, as far as the follower can tell: it answers by the rules of
//! `masterTryPartialResynchronization`, sends what the test appends to its stream, and writes down
//! what it is told.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redwind_stream::encode_command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

/// What the test may change at any time.
pub(super) struct Server {
    pub(super) version: &'static str,
    pub(super) replid: String,
    /// The former replication ID, and up to which next byte it holds.
    pub(super) former: Option<(String, u64)>,
    /// Offset before the backlog's first byte.
    pub(super) backlog_start: u64,
    pub(super) backlog: Vec<u8>,
    pub(super) backlog_active: bool,
    pub(super) shutting_down: bool,
    /// A command that gets no answer as long as it is named here.
    pub(super) held: Option<&'static str>,
    pub(super) password: Option<&'static str>,
    /// How often a PSYNC for the log is answered with a full resync although it need not be.
    pub(super) full_resyncs: u32,
    /// Empty lines before each answer of a full resync.
    pub(super) keepalives: usize,
    /// Changes end all replication links.
    pub(super) generation: u64,
    /// Every command, but for INFO and TIME.
    pub(super) commands: Vec<String>,
    pub(super) acks: Vec<u64>,
}

impl Server {
    pub(super) fn offset(&self) -> u64 {
        self.backlog_start + self.backlog.len() as u64
    }
}

#[derive(Clone)]
struct Shared(Arc<(Mutex<Server>, watch::Sender<()>)>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Server> {
        self.0.0.lock().unwrap()
    }
}

pub(super) struct FakePrimary {
    shared: Shared,
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

impl FakePrimary {
    pub(super) async fn start(version: &'static str, backlog_active: bool) -> Self {
        let server = Server {
            version,
            replid: "a".repeat(40),
            former: None,
            backlog_start: 5000,
            backlog: Vec::new(),
            backlog_active,
            shutting_down: false,
            held: None,
            password: None,
            full_resyncs: 0,
            keepalives: 2,
            generation: 0,
            commands: Vec::new(),
            acks: Vec::new(),
        };
        let shared = Shared(Arc::new((Mutex::new(server), watch::Sender::new(()))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, shared.clone())));
        Self { shared, port, _serving: serving }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Server) -> T) -> T {
        let outcome = change(&mut self.shared.lock());
        self.shared.0.1.send_replace(());
        outcome
    }

    pub(super) fn write(&self, args: &[&str]) -> u64 {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let wire = encode_command(&args);
        self.change(|server| {
            server.backlog.extend_from_slice(&wire);
            server.offset()
        })
    }

    /// Cuts every replication link.
    pub(super) fn disconnect(&self) {
        self.change(|server| server.generation += 1);
    }

    pub(super) fn commands(&self, prefix: &str) -> Vec<String> {
        let server = self.shared.lock();
        server.commands.iter().filter(|command| command.starts_with(prefix)).cloned().collect()
    }
}

async fn serve(listener: TcpListener, shared: Shared) {
    let mut clients = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        clients.spawn(async move {
            let client = Client::new(stream, shared);
            // The peer may go at any time.
            let _ = client.run().await;
        });
    }
}

struct Client {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    incoming: Vec<u8>,
    shared: Shared,
    authenticated: bool,
    rdb_only: bool,
    filtered: bool,
}

impl Client {
    fn new(stream: TcpStream, shared: Shared) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write, incoming: Vec::new(), shared, authenticated: false, rdb_only: false, filtered: false }
    }

    async fn run(mut self) -> io::Result<()> {
        loop {
            let args = next_command(&mut self.read, &mut self.incoming).await?;
            let text = args.join(" ");
            let name = args[0].to_ascii_uppercase();
            if !matches!(name.as_str(), "INFO" | "TIME") {
                self.shared.lock().commands.push(text.clone());
            }
            if name == "PSYNC" {
                return self.replicate(&args).await;
            }
            let mut changed = self.shared.0.1.subscribe();
            while self.shared.lock().held == Some(&text) {
                // The sender lives as long as we do.
                let _ = changed.changed().await;
            }
            let answer = self.answer(&name, &args);
            self.write.write_all(answer.as_bytes()).await?;
        }
    }

    fn answer(&mut self, name: &str, args: &[String]) -> String {
        let server = self.shared.lock();
        if name == "AUTH" {
            self.authenticated = server.password == args.last().map(String::as_str);
            return if self.authenticated { "+OK\r\n".into() } else { "-WRONGPASS invalid\r\n".into() };
        }
        if server.password.is_some() && !self.authenticated {
            return "-NOAUTH Authentication required.\r\n".into();
        }
        match (name, args.get(1).map(String::as_str)) {
            ("INFO", _) => bulk(&info(&server)),
            ("TIME", _) => "*2\r\n$10\r\n1763733787\r\n$6\r\n250001\r\n".into(),
            ("MODULE", _) => "*0\r\n".into(),
            ("REPLCONF", Some("rdb-filter-only")) if server.version.starts_with("6.") => {
                "-ERR Unrecognized REPLCONF option: rdb-filter-only\r\n".into()
            }
            ("REPLCONF", Some("rdb-filter-only")) => {
                self.filtered = true;
                "+OK\r\n".into()
            }
            ("REPLCONF", Some("rdb-only")) => {
                self.rdb_only = true;
                "+OK\r\n".into()
            }
            ("REPLCONF", _) => "+OK\r\n".into(),
            ("PING", _) => "+PONG\r\n".into(),
            _ => "-ERR unknown command\r\n".into(),
        }
    }

    async fn replicate(mut self, args: &[String]) -> io::Result<()> {
        let continued = self.shared.lock().accepts(args, self.rdb_only);
        let (line, mut position, generation) = {
            let mut server = self.shared.lock();
            let position = match continued {
                Some(position) => position,
                None => {
                    server.backlog_active = true;
                    server.offset()
                }
            };
            let line = match continued {
                Some(_) => format!("+CONTINUE {}\r\n", server.replid),
                None => format!("+FULLRESYNC {} {position}\r\n", server.replid),
            };
            (line, position, server.generation)
        };
        if continued.is_none() {
            self.keep_alive().await?;
        }
        self.write.write_all(line.as_bytes()).await?;
        if continued.is_none() {
            self.keep_alive().await?;
            let rdb = rdb(&self.shared.lock().replid, position);
            let mark = "m".repeat(40);
            self.write.write_all(format!("$EOF:{mark}\r\n").as_bytes()).await?;
            self.write.write_all(&rdb).await?;
            self.write.write_all(mark.as_bytes()).await?;
            if self.rdb_only {
                return Ok(());
            }
            // The stream starts at the first acknowledgement after this moment.
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.incoming.clear();
            next_command(&mut self.read, &mut self.incoming).await?;
        }
        self.feed(&mut position, generation).await
    }

    async fn keep_alive(&mut self) -> io::Result<()> {
        let count = self.shared.lock().keepalives;
        for _ in 0..count {
            self.write.write_all(b"\n").await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn feed(self, position: &mut u64, generation: u64) -> io::Result<()> {
        let Self { mut read, mut write, mut incoming, shared, .. } = self;
        let mut changed = shared.0.1.subscribe();
        let gone = Notify::new();
        let listen = async {
            while let Ok(args) = next_command(&mut read, &mut incoming).await {
                let mut server = shared.lock();
                server.acks.extend(args.get(2).and_then(|number| number.parse::<u64>().ok()));
                server.commands.push(args.join(" "));
            }
            gone.notify_one();
            Ok::<(), io::Error>(())
        };
        let send = async {
            loop {
                let bytes = {
                    let server = shared.lock();
                    if server.generation != generation {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    server.backlog[(*position - server.backlog_start) as usize..].to_vec()
                };
                write.write_all(&bytes).await?;
                *position += bytes.len() as u64;
                tokio::select! {
                    _ = changed.changed() => {}
                    () = gone.notified() => return Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
        };
        let (_, sent): ((), ()) = tokio::try_join!(listen, send)?;
        Ok(sent)
    }
}

impl Server {
    /// The offset to go on from, if that can be.
    fn accepts(&mut self, args: &[String], rdb_only: bool) -> Option<u64> {
        let next: u64 = args[2].parse().ok()?;
        if !rdb_only && self.full_resyncs > 0 {
            self.full_resyncs -= 1;
            return None;
        }
        let former = self.former.as_ref().is_some_and(|(id, second)| *id == args[1] && next <= *second);
        let known = self.replid == args[1] || former;
        let held = (self.backlog_start + 1..=self.offset() + 1).contains(&next);
        (self.backlog_active && known && held).then(|| next - 1)
    }
}

fn info(server: &Server) -> String {
    let mut text = format!("# Server\r\nredis_version:{}\r\nrun_id:run\r\nredis_mode:standalone\r\n", server.version);
    if server.shutting_down {
        text.push_str("shutdown_in_milliseconds:9000\r\n");
    }
    let (former, second) = server.former.clone().map_or(("0".repeat(40), -1), |(id, second)| (id, second as i64));
    text + &format!(
        "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:{}\r\nmaster_replid2:{former}\r\n\
         master_repl_offset:{}\r\nsecond_repl_offset:{second}\r\nrepl_backlog_active:{}\r\nrepl_backlog_size:1048576\r\n\
         repl_backlog_first_byte_offset:{}\r\nrepl_backlog_histlen:{}\r\n# Modules\r\n",
        server.replid,
        server.offset(),
        u8::from(server.backlog_active),
        server.backlog_start + 1,
        server.backlog.len()
    )
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// An RDB without keys and without a checksum.
fn rdb(replid: &str, offset: u64) -> Vec<u8> {
    let mut rdb = b"REDIS0010".to_vec();
    for (name, value) in [("redis-ver", "7.0.15"), ("repl-stream-db", "0"), ("repl-id", replid)] {
        aux(&mut rdb, name, value);
    }
    aux(&mut rdb, "repl-offset", &offset.to_string());
    rdb.push(0xFF);
    rdb.extend([0; 8]);
    rdb
}

fn aux(rdb: &mut Vec<u8>, name: &str, value: &str) {
    rdb.push(0xFA);
    for text in [name, value] {
        rdb.push(text.len() as u8);
        rdb.extend_from_slice(text.as_bytes());
    }
}

/// Reads a command: an array of bulk strings.
async fn next_command(read: &mut OwnedReadHalf, incoming: &mut Vec<u8>) -> io::Result<Vec<String>> {
    loop {
        if let Some((args, length)) = parse(incoming) {
            incoming.drain(..length);
            return Ok(args);
        }
        if read.read_buf(incoming).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut pos = 0;
    let count = number(bytes, &mut pos)?;
    let mut args = Vec::new();
    for _ in 0..count {
        let length = number(bytes, &mut pos)?;
        args.push(String::from_utf8_lossy(bytes.get(pos..pos + length)?).into_owned());
        pos += length + 2;
    }
    (pos <= bytes.len()).then_some((args, pos))
}

/// The number of a line `*<number>` or `$<number>`.
fn number(bytes: &[u8], pos: &mut usize) -> Option<usize> {
    let line = bytes.get(*pos..)?;
    let end = line.windows(2).position(|pair| pair == b"\r\n")?;
    *pos += end + 2;
    std::str::from_utf8(line.get(1..end)?).ok()?.parse().ok()
}

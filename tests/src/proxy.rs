//! A TCP proxy between two peers, with the faults of a network.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a stalled or idle direction looks whether anything has changed.
const TICK: Duration = Duration::from_millis(5);

/// What happens to the bytes that a server sends to its client; those of the client pass untouched,
/// but for [`Flow::Stall`], which holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Free,
    /// Nothing passes, in either direction, and no connection is closed: a half-open link.
    Stall,
    /// At most this many bytes a second pass.
    Throttle(u64),
    /// They pass in pieces of one byte.
    Bytewise,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Closed in order (FIN).
    Close,
    /// Reset (RST).
    Reset,
}

/// Forwards connections to one address until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    flow: Mutex<Flow>,
    refuse: AtomicBool,
    stopped: AtomicBool,
    connections: Mutex<Vec<[TcpStream; 2]>>,
    /// Connections accepted before so many were are dead: they stay open, and nothing passes.
    abandoned: AtomicUsize,
    accepted: AtomicUsize,
    /// Bytes sent to clients so far.
    delivered: AtomicU64,
    /// Ends the connection that delivers this byte, once.
    cut_at: Mutex<Option<(u64, Ending)>>,
}

impl Shared {
    /// Returns when a connection's bytes, and its end, may pass.
    fn hold(&self, number: usize) {
        let abandoned = || number < self.abandoned.load(Ordering::Relaxed);
        while !self.stopped.load(Ordering::Relaxed) && (abandoned() || *lock(&self.flow) == Flow::Stall) {
            std::thread::sleep(TICK);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            flow: Mutex::new(Flow::Free),
            refuse: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
            abandoned: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            delivered: AtomicU64::new(0),
            cut_at: Mutex::new(None),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { addr, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forwards connections made from now on to another address.
    pub fn redirect(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }

    /// Changes what happens to bytes, also those of open connections.
    pub fn set_flow(&self, flow: Flow) {
        *lock(&self.shared.flow) = flow;
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::Relaxed);
    }

    /// Ends every open connection.
    pub fn end_all(&self, ending: Ending) {
        for pair in lock(&self.shared.connections).drain(..) {
            end(&pair, ending);
        }
    }

    /// Lets every open connection die without a word: it stays open, and nothing passes on it any more,
    /// neither bytes nor its end. Those made from now on are as good as ever.
    pub fn abandon_all(&self) {
        self.shared.abandoned.store(self.accepted(), Ordering::Relaxed);
    }

    /// Ends the connection that delivers the byte `bytes` from now, after that byte.
    pub fn cut_after(&self, bytes: u64, ending: Ending) {
        let at = self.delivered() + bytes;
        *lock(&self.shared.cut_at) = Some((at, ending));
    }

    /// Whether a cut asked for by [`Self::cut_after`] is still to come.
    pub fn cut_pending(&self) -> bool {
        lock(&self.shared.cut_at).is_some()
    }

    /// Bytes delivered to clients over all connections.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.end_all(Ending::Close);
        // wakes the accepting thread
        TcpStream::connect(self.addr).ok();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        if shared.refuse.load(Ordering::Relaxed) {
            continue;
        }
        let upstream = *lock(&shared.upstream);
        let Ok(server) = TcpStream::connect(upstream) else { continue };
        if let Err(error) = forward(number, client, server, shared) {
            println!("proxy: {error}");
        }
    }
}

fn forward(number: usize, client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let pair = [client.try_clone()?, server.try_clone()?];
    lock(&shared.connections).push(pair);
    for (from, to, to_client) in [(client.try_clone()?, server.try_clone()?, false), (server, client, true)] {
        let shared = shared.clone();
        std::thread::spawn(move || {
            pump(number, &from, &to, to_client, &shared).ok();
            shared.hold(number);
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    }
    Ok(())
}

/// Moves bytes one way until either end closes.
fn pump(number: usize, from: &TcpStream, to: &TcpStream, to_client: bool, shared: &Shared) -> std::io::Result<()> {
    from.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        shared.hold(number);
        let flow = *lock(&shared.flow);
        let piece = match flow {
            Flow::Bytewise if to_client => 1,
            // a hundredth of a second's worth
            Flow::Throttle(rate) if to_client => {
                usize::try_from(rate / 100).unwrap_or(usize::MAX).clamp(1, buffer.len())
            }
            _ => buffer.len(),
        };
        let started = Instant::now();
        let count = match (&*from).read(&mut buffer[..piece]) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        // stalled while it waited in `read`
        shared.hold(number);
        if to_client {
            deliver(to, &buffer[..count], [from, to], shared)?;
            if let Flow::Throttle(rate) = flow {
                let due = Duration::from_secs_f64(count as f64 / rate.max(1) as f64);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
        } else {
            (&*to).write_all(&buffer[..count])?;
        }
    }
}

fn deliver(mut to: &TcpStream, bytes: &[u8], pair: [&TcpStream; 2], shared: &Shared) -> std::io::Result<()> {
    let delivered = shared.delivered.load(Ordering::Relaxed);
    let cut = *lock(&shared.cut_at);
    if let Some((at, ending)) = cut
        && at <= delivered + bytes.len() as u64
    {
        lock(&shared.cut_at).take();
        let last = usize::try_from(at.saturating_sub(delivered)).unwrap_or(0);
        to.write_all(&bytes[..last])?;
        shared.delivered.fetch_add(last as u64, Ordering::Relaxed);
        end(&[pair[0].try_clone()?, pair[1].try_clone()?], ending);
        return Err(ErrorKind::ConnectionAborted.into());
    }
    to.write_all(bytes)?;
    shared.delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}

fn end(pair: &[TcpStream; 2], ending: Ending) {
    for stream in pair {
        if ending == Ending::Reset {
            // dissolving the association sends RST at once, whoever else holds the socket (Linux)
            rustix::net::connect_unspec(stream).ok();
            continue;
        }
        stream.shutdown(Shutdown::Both).ok();
    }
}

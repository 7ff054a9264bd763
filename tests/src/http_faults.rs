//! An HTTP proxy in front of an object store, with the faults of a service: statuses that it did not
//! mean, answers that come late or never, answers that break off.
//!
//! One request per connection, each passed on whole. The bytes between client and store are untouched
//! (`Connection` apart), so that signatures stay valid.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;

use crate::poll;

/// How often a request that is held looks whether it still is.
const TICK: Duration = Duration::from_millis(20);

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is answered with this status and S3 error code, and nothing has happened.
    Refused(u16, &'static str),
    /// It is done, and answered with this status and S3 error code all the same.
    DoneBut(u16, &'static str),
    /// It is done so many milliseconds later.
    Late(u64),
    /// It is not done, and not answered before the rules change.
    Unanswered,
    /// It is done, and the answer breaks off in the middle of its body.
    Torn,
    /// The connection is closed without an answer, and nothing has happened.
    Dropped,
}

/// Which requests a fault hits.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Their method; any, when empty.
    pub method: &'static str,
    /// What their first line contains.
    pub contains: String,
    /// Of a hundred such requests, how many.
    pub percent: u8,
    /// What happens to them.
    pub fault: Fault,
}

impl Rule {
    /// Hits so many of a hundred requests of any kind.
    pub fn any(percent: u8, fault: Fault) -> Self {
        Self { method: "", contains: String::new(), percent, fault }
    }

    /// Hits so many of a hundred requests with this method.
    pub fn on(method: &'static str, percent: u8, fault: Fault) -> Self {
        Self { method, ..Self::any(percent, fault) }
    }

    /// Only those whose first line contains `part`.
    #[must_use]
    pub fn containing(mut self, part: &str) -> Self {
        part.clone_into(&mut self.contains);
        self
    }
}

/// Looks at a request's head, and may refuse it: a status and an S3 error code.
pub type Guard = Box<dyn Fn(&str) -> Option<(u16, &'static str)> + Send>;

/// Forwards requests to one address until it is dropped.
#[derive(Debug)]
pub struct HttpFaults {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    stopped: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

struct State {
    rng: Rng,
    rules: Vec<Rule>,
    guard: Option<Guard>,
    /// Requests hit by the rules of now.
    struck: BTreeMap<Fault, u64>,
    /// Raised whenever the rules change.
    version: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpFaults {
    /// Listens on a free port of 127.0.0.1; `rng` decides which requests are hit.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(upstream: SocketAddr, rng: Rng) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let addr = listener.local_addr().expect("it is bound");
        let state = State { rng, rules: Vec::new(), guard: None, version: 0, struck: BTreeMap::new() };
        let shared = Arc::new(Shared { upstream, state: Mutex::new(state), stopped: AtomicBool::new(false) });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), shared) = (client, accepting.clone()) else { continue };
                // whatever breaks is a fault like others
                std::thread::spawn(move || serve(&client, &shared).ok());
            }
        });
        Self { addr, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on these rules hold; the first that hits a request decides.
    pub fn set(&self, rules: Vec<Rule>) {
        let mut state = self.shared.lock();
        state.rules = rules;
        state.struck.clear();
        state.version += 1;
    }

    /// Waits until each of the rules has hit a request.
    ///
    /// # Panics
    /// When one does not within [`poll::PATIENCE`].
    pub fn wait_struck(&self) {
        poll::until_true("every fault has struck", || {
            let state = self.shared.lock();
            state.rules.iter().all(|rule| state.struck.contains_key(&rule.fault))
        });
    }

    /// From now on every request is passed on.
    pub fn clear(&self) {
        self.set(Vec::new());
    }

    /// Has every request looked at first, whatever the rules.
    pub fn guard(&self, guard: Guard) {
        self.shared.lock().guard = Some(guard);
    }

    /// How many requests each fault has hit since the rules were set.
    pub fn struck(&self) -> BTreeMap<Fault, u64> {
        self.shared.lock().struck.clone()
    }
}

impl Drop for HttpFaults {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.clear();
        // wakes the accepting thread
        TcpStream::connect(self.addr).ok();
    }
}

struct Request {
    first_line: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(client: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(client);
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line)? > 2 {
            head.push_str(&line);
            line.clear();
        }
        let first_line = head.lines().next().ok_or(ErrorKind::UnexpectedEof)?.to_owned();
        let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Self { first_line, head, body })
    }

    fn method(&self) -> &str {
        self.first_line.split(' ').next().unwrap_or_default()
    }

    /// The store's whole answer.
    fn pass_on(&self, upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(upstream)?;
        server.set_read_timeout(Some(poll::PATIENCE))?;
        let is_connection = |line: &&str| line.to_ascii_lowercase().starts_with("connection:");
        let mut head: String =
            self.head.lines().filter(|line| !is_connection(line)).flat_map(|l| [l, "\r\n"]).collect();
        head.push_str("Connection: close\r\n\r\n");
        server.write_all(head.as_bytes())?;
        server.write_all(&self.body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn serve(mut client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let request = Request::read(client)?;
    let (fault, version) = decide(&request, shared);
    match fault {
        None => client.write_all(&request.pass_on(shared.upstream)?)?,
        Some(Fault::Refused(status, code)) => client.write_all(&refusal(&request, status, code))?,
        Some(Fault::DoneBut(status, code)) => {
            request.pass_on(shared.upstream)?;
            client.write_all(&refusal(&request, status, code))?;
        }
        Some(Fault::Late(millis)) => {
            std::thread::sleep(Duration::from_millis(millis));
            client.write_all(&request.pass_on(shared.upstream)?)?;
        }
        Some(Fault::Unanswered) => {
            while shared.lock().version == version && !shared.stopped.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
            }
        }
        Some(Fault::Torn) => {
            let answer = request.pass_on(shared.upstream)?;
            let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
            client.write_all(&answer[..body + (answer.len() - body) / 2])?;
        }
        Some(Fault::Dropped) => {}
    }
    client.shutdown(Shutdown::Both)
}

fn decide(request: &Request, shared: &Shared) -> (Option<Fault>, u64) {
    let mut state = shared.lock();
    if let Some((status, code)) = state.guard.as_ref().and_then(|guard| guard(&request.head)) {
        return (Some(Fault::Refused(status, code)), state.version);
    }
    let State { rng, rules, .. } = &mut *state;
    let mut hits = |rule: &&Rule| {
        let meant = rule.method.is_empty() || rule.method == request.method();
        meant && request.first_line.contains(&rule.contains) && rng.u8(0..100) < rule.percent
    };
    let fault = rules.iter().find(&mut hits).map(|rule| rule.fault);
    if let Some(fault) = fault {
        *state.struck.entry(fault).or_default() += 1;
    }
    (fault, state.version)
}

fn refusal(request: &Request, status: u16, code: &str) -> Vec<u8> {
    let body = match request.method() {
        "HEAD" => String::new(),
        _ => format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a fault on purpose</Message></Error>"),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redwind::http_get;

    #[test]
    fn requests_are_passed_on_or_hit() {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = upstream.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in upstream.incoming() {
                let mut stream = stream.unwrap();
                Request::read(&stream).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer").unwrap();
            }
        });
        let faults = HttpFaults::start(addr, Rng::with_seed(1));
        assert_eq!(http_get(faults.addr(), "/a"), Some((200, "answer".to_owned())));
        faults.set(vec![Rule::on("GET", 100, Fault::Refused(503, "SlowDown")).containing("/a")]);
        let (status, body) = http_get(faults.addr(), "/a").unwrap();
        assert_eq!(status, 503);
        assert!(body.contains("<Code>SlowDown</Code>"), "{body}");
        assert_eq!(http_get(faults.addr(), "/b").unwrap().0, 200);
        assert_eq!(faults.struck().into_iter().collect::<Vec<_>>(), [(Fault::Refused(503, "SlowDown"), 1)]);
        faults.set(vec![Rule::any(100, Fault::Torn)]);
        assert_eq!(faults.struck().len(), 0);
        assert_eq!(http_get(faults.addr(), "/a"), Some((200, "ans".to_owned())));
        faults.wait_struck();
    }
}

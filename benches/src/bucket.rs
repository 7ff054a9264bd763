//! An S3 endpoint with a brake.
//!
//! Just enough of S3 for an archive (conditional PUT, ranged GET, HEAD, DELETE, list version 2 by pages),
//! with bodies in files so that a bench's own memory stays out of the way, and a [`Brake`] that makes it
//! slow, silent or failing while it runs. It checks no signatures and is no oracle of S3's behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use self::http::{Request, parse_range, respond};
use crate::agent::Store;

mod http;

/// The bucket's name.
const BUCKET: &str = "bench";
/// Keys per page of a listing, as S3 gives at most.
const PAGE: usize = 1000;
/// Bodies are read in such pieces, between which the brake acts.
const PIECE: usize = 16 * 1024;

/// How the endpoint behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Brake {
    /// As fast as it can.
    Open,
    /// Bodies of all requests together at this many bytes per second.
    Slow(u64),
    /// Requests are read but not answered until the brake changes.
    Silent,
    /// Every request is answered with status 503.
    Failing,
}

/// A running endpoint. Its thread ends with the process.
pub struct Bucket {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    directory: PathBuf,
    objects: Mutex<Objects>,
    brake: Mutex<Pace>,
    changed: Condvar,
}

#[derive(Default)]
struct Objects {
    made: u64,
    /// Length and file of each object by its key.
    by_key: BTreeMap<String, (u64, PathBuf)>,
}

struct Pace {
    brake: Brake,
    /// When the bytes let through so far are used up at the set rate.
    free_at: Instant,
}

impl Bucket {
    /// Listens on a free port, with object bodies in `directory`.
    ///
    /// # Errors
    /// When nothing can listen.
    pub fn start(directory: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            directory: directory.to_owned(),
            objects: Mutex::default(),
            brake: Mutex::new(Pace { brake: Brake::Open, free_at: Instant::now() }),
            changed: Condvar::new(),
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                // A client that breaks off ends its connection and nothing else.
                thread::spawn(move || state.serve(socket));
            }
        });
        Ok(Self { address, state })
    }

    /// How an agent reaches it.
    pub fn store(&self) -> Store {
        let environment = [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "bench".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "bench".to_owned()),
        ];
        let environment = environment.map(|(k, v)| (k.to_owned(), v)).to_vec();
        Store { url: format!("s3://{BUCKET}/archive"), environment, directory: None }
    }

    /// Changes its behaviour, also for requests under way.
    pub fn set(&self, brake: Brake) {
        *lock(&self.state.brake) = Pace { brake, free_at: Instant::now() };
        self.state.changed.notify_all();
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        lock(&self.state.objects).by_key.values().map(|(length, _)| length).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn serve(&self, socket: TcpStream) -> Result<()> {
        socket.set_nodelay(true)?;
        let mut reader = BufReader::new(socket.try_clone()?);
        let mut socket = socket;
        while !reader.fill_buf()?.is_empty() {
            let request = Request::read(&mut reader)?;
            let body = self.receive(&mut reader, request.length()?)?;
            if self.heed_brake() == Brake::Failing {
                drop(body);
                respond(&mut socket, "503 Slow Down", &[], b"")?;
                continue;
            }
            match request.method.as_str() {
                "PUT" => self.put(&mut socket, &request, body)?,
                "GET" if request.key.is_empty() => self.list(&mut socket, &request)?,
                "GET" | "HEAD" => self.get(&mut socket, &request)?,
                "DELETE" => {
                    lock(&self.objects).by_key.remove(&request.key);
                    respond(&mut socket, "204 No Content", &[], b"")?;
                }
                _ => respond(&mut socket, "501 Not Implemented", &[], b"")?,
            }
        }
        Ok(())
    }

    /// Waits while the endpoint is silent; returns how it behaves then.
    fn heed_brake(&self) -> Brake {
        let pace = self.changed.wait_while(lock(&self.brake), |p| p.brake == Brake::Silent);
        pace.unwrap_or_else(PoisonError::into_inner).brake
    }

    /// Holds `bytes` up for as long as the brake says.
    fn pace(&self, bytes: usize) {
        let mut pace = lock(&self.brake);
        let Brake::Slow(rate) = pace.brake else { return };
        let start = pace.free_at.max(Instant::now());
        pace.free_at = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let until = pace.free_at;
        drop(pace);
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    /// Reads a body into a new file.
    fn receive(&self, reader: &mut impl Read, length: u64) -> Result<(u64, PathBuf)> {
        let number = {
            let mut objects = lock(&self.objects);
            objects.made += 1;
            objects.made
        };
        let path = self.directory.join(format!("body-{number}"));
        if length == 0 {
            return Ok((0, path));
        }
        let mut file = File::create(&path)?;
        let mut piece = vec![0; PIECE];
        let mut left = length;
        while left > 0 {
            let n = reader.read(&mut piece[..left.min(PIECE as u64) as usize])?;
            ensure!(n > 0, "a body broke off");
            file.write_all(&piece[..n])?;
            left -= n as u64;
            self.pace(n);
        }
        Ok((length, path))
    }

    fn put(&self, socket: &mut TcpStream, request: &Request, body: (u64, PathBuf)) -> Result<()> {
        let only_new = request.headers.get("if-none-match").is_some_and(|v| v == "*");
        let mut objects = lock(&self.objects);
        if only_new && objects.by_key.contains_key(&request.key) {
            drop(objects);
            return respond(socket, "412 Precondition Failed", &[], b"");
        }
        let tag = etag(&body.1);
        if let Some((_, old)) = objects.by_key.insert(request.key.clone(), body) {
            // An empty object has no file.
            let _ = fs::remove_file(old);
        }
        drop(objects);
        respond(socket, "200 OK", &[("ETag", &tag)], b"")
    }

    fn get(&self, socket: &mut TcpStream, request: &Request) -> Result<()> {
        let found = lock(&self.objects).by_key.get(&request.key).cloned();
        let Some((length, path)) = found else {
            if request.method == "HEAD" {
                return respond(socket, "404 Not Found", &[], b"");
            }
            return respond(socket, "404 Not Found", &[], b"<Error><Code>NoSuchKey</Code></Error>");
        };
        let range = request.headers.get("range").map(|r| parse_range(r, length)).transpose()?;
        let (from, to) = range.unwrap_or((0, length));
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let mut head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {}\r\nLast-Modified: {MODIFIED_HTTP}\r\n",
            to - from,
            etag(&path)
        );
        if range.is_some() {
            write!(head, "Content-Range: bytes {from}-{}/{length}\r\n", to - 1)?;
        }
        socket.write_all(head.as_bytes())?;
        socket.write_all(b"\r\n")?;
        if request.method == "HEAD" || to == from {
            return Ok(());
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut rest = file.take(to - from);
        let mut piece = vec![0; PIECE];
        loop {
            let n = rest.read(&mut piece)?;
            if n == 0 {
                return Ok(());
            }
            self.pace(n);
            socket.write_all(&piece[..n])?;
        }
    }

    fn list(&self, socket: &mut TcpStream, request: &Request) -> Result<()> {
        let parameter = |name: &str| request.query.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
        let after = parameter("continuation-token").max(parameter("start-after"));
        let mut contents = String::new();
        let mut common = BTreeSet::new();
        let mut last = "";
        let mut more = false;
        let objects = lock(&self.objects);
        let keys = objects.by_key.iter().filter(|(k, _)| k.starts_with(prefix) && k.as_str() > after);
        for (taken, (key, (length, path))) in keys.enumerate() {
            if taken == PAGE {
                more = true;
                break;
            }
            last = key;
            let rest = &key[prefix.len()..];
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    common.insert(&key[..prefix.len() + at + delimiter.len()]);
                }
                None => write!(
                    contents,
                    "<Contents><Key>{key}</Key><LastModified>{MODIFIED}</LastModified><ETag>{}</ETag>\
                     <Size>{length}</Size></Contents>",
                    etag(path)
                )?,
            }
        }
        for prefix in common {
            write!(contents, "<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>")?;
        }
        let token = if more { format!("<NextContinuationToken>{last}</NextContinuationToken>") } else { String::new() };
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{contents}</ListBucketResult>"
        );
        drop(objects);
        respond(socket, "200 OK", &[("Content-Type", "application/xml")], body.as_bytes())
    }
}

/// Objects have no age here.
const MODIFIED: &str = "2026-01-01T00:00:00.000Z";
const MODIFIED_HTTP: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// Bodies are never rewritten, so the name of the file tells one from another.
fn etag(path: &Path) -> String {
    format!("\"{}\"", path.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(bucket: &Bucket, request: &str) -> String {
        let mut socket = TcpStream::connect(bucket.address).expect("listens");
        socket.write_all(request.as_bytes()).expect("accepts");
        socket.shutdown(std::net::Shutdown::Write).expect("open");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answers");
        answer
    }

    #[test]
    fn an_object_is_put_once_read_in_ranges_and_listed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let bucket = Bucket::start(dir.path()).expect("starts");
        let put = "PUT /bench/a%2Fb HTTP/1.1\r\nIf-None-Match: *\r\nContent-Length: 5\r\n\r\nhello";
        assert!(ask(&bucket, put).starts_with("HTTP/1.1 200"));
        assert!(ask(&bucket, put).starts_with("HTTP/1.1 412"));
        let part = ask(&bucket, "GET /bench/a/b HTTP/1.1\r\nRange: bytes=1-3\r\n\r\n");
        assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("ell"), "{part}");
        let list = ask(&bucket, "GET /bench?list-type=2&prefix=a%2F HTTP/1.1\r\n\r\n");
        assert!(list.contains("<Key>a/b</Key>") && list.contains("<Size>5</Size>"), "{list}");
        let folders = ask(&bucket, "GET /bench?list-type=2&delimiter=%2F HTTP/1.1\r\n\r\n");
        assert!(folders.contains("<Prefix>a/</Prefix>") && !folders.contains("<Key>"), "{folders}");
        assert_eq!(bucket.bytes(), 5);
    }

    #[test]
    fn a_failing_bucket_recovers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let bucket = Bucket::start(dir.path()).expect("starts");
        bucket.set(Brake::Failing);
        assert!(ask(&bucket, "HEAD /bench/x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        bucket.set(Brake::Open);
        assert!(ask(&bucket, "HEAD /bench/x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    }
}

//! A service that hands out short-lived credentials, as a cloud does to what runs in it.
//!
//! It speaks the protocol of the AWS container credentials endpoint (AWS SDKs and Tools Reference
//! Guide, "Container credential provider"): a GET answered with a key, a token and their end.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redwind_archive::time::Timestamp;

use crate::http_faults::Guard;
use crate::mark::now;
use crate::objects::{ACCESS_KEY, SECRET_KEY};
use crate::redwind::StoreAddress;

/// Hands out credentials, each good for a while, until it is dropped.
#[derive(Debug)]
pub struct CredentialService {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lifetime: Duration,
    /// What is said of it.
    promised: Mutex<Duration>,
    silent: AtomicBool,
    stopped: AtomicBool,
    issued: Mutex<Vec<Issued>>,
    refused: AtomicU64,
}

/// A token and its end.
#[derive(Debug)]
struct Issued {
    token: String,
    end: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CredentialService {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(lifetime: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            lifetime,
            promised: Mutex::new(lifetime),
            silent: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            issued: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                issue(&client, &accepting).ok();
            }
        });
        Self { addr, shared }
    }

    /// The same store, with credentials from here instead of fixed ones. `folder` takes the file with
    /// the token that this service is asked with.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn for_store(&self, store: &StoreAddress, folder: &Path) -> StoreAddress {
        let token = folder.join("service-token");
        std::fs::write(&token, "service").expect("the folder is writable");
        let fixed = |(name, _): &(String, String)| name.contains("ACCESS_KEY");
        let mut env: Vec<_> = store.env.iter().filter(|variable| !fixed(variable)).cloned().collect();
        env.push(("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), format!("http://{}/credentials", self.addr)));
        env.push(("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE".to_owned(), token.display().to_string()));
        StoreAddress { url: store.url.clone(), env }
    }

    /// Refuses requests whose token has ended, as S3 does.
    pub fn guard(&self) -> Guard {
        let shared = self.shared.clone();
        Box::new(move |head| {
            let valid = |issued: &Issued| issued.end > Instant::now() && head.contains(&issued.token);
            if lock(&shared.issued).iter().any(valid) {
                return None;
            }
            shared.refused.fetch_add(1, Ordering::Relaxed);
            Some((403, "ExpiredToken"))
        })
    }

    /// Says of the credentials to come that they last so long, which they do not: as a clock that is slow
    /// makes of any, and a revocation.
    pub fn promise(&self, lifetime: Duration) {
        *lock(&self.shared.promised) = lifetime;
    }

    /// While silent it answers 500, and what it gave out before runs out.
    pub fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// Requests to the store that were refused because their token had ended.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// How many credentials it has given out.
    pub fn issued(&self) -> usize {
        lock(&self.shared.issued).len()
    }
}

impl Drop for CredentialService {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // wakes the accepting thread
        TcpStream::connect(self.addr).ok();
    }
}

fn issue(mut client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(client).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    if shared.silent.load(Ordering::Relaxed) {
        return client.write_all(b"HTTP/1.1 500 Silent\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let mut issued = lock(&shared.issued);
    let token = format!("token-{}-of-this-service", issued.len());
    let end: Timestamp = now().after(*lock(&shared.promised));
    let body = format!(
        r#"{{"AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}","Token":"{token}","Expiration":"{end}"}}"#
    );
    issued.push(Issued { token, end: Instant::now() + shared.lifetime });
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    client.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

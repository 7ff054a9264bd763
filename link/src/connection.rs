//! A connection that speaks commands and replies, and in the end gives up its bare stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redwind_stream::encode_command;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{LinkError, command_name};
use crate::reply::{Reply, ReplyScanner};
use crate::tls::{TlsError, TlsOptions};
use crate::transport::{Transport, tls_error};
use crate::url::{ServerAddress, ServerUrl};

const READ_BYTES: usize = 16 << 10;
/// Bytes of an answer to PSYNC; an error's text is the longest.
const LINE_BYTES_MAX: usize = 16 << 10;
/// How long to look whether a port speaks TLS, or does not.
const TLS_PROBE: Duration = Duration::from_secs(1);
/// Without an answer to a TLS greeting for so long, the port may speak none.
const TLS_SILENCE: Duration = Duration::from_secs(1);

/// An authenticated connection to a server that was seen to speak the Redis protocol.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    address: ServerAddress,
    timeout: Duration,
    /// Bytes read and not yet taken.
    incoming: BytesMut,
    /// A command of [`Connection::command`] whose reply was not taken: what comes next is unknown.
    abandoned: bool,
}

impl Connection {
    /// Connects, authenticates, and sees whether a Redis-like server answers, all within `timeout`,
    /// which holds for every later command, too.
    ///
    /// A server that is loading, or a replica without its primary, is connected to all the same:
    /// the commands that it refuses then say so.
    ///
    /// # Errors
    /// Any [`LinkError`]; where two ends disagree about TLS it says so.
    pub async fn connect(url: &ServerUrl, tls: &TlsOptions, timeout: Duration) -> Result<Self, LinkError> {
        let address = url.address();
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(timeout, Self::open(url, tls, timeout)) => outcome.unwrap_or_else(|_| {
                Err(LinkError::Timeout {
                    address: address.clone(),
                    waiting_for: if url.is_tls() { "a TLS connection" } else { "a connection" }.into(),
                    after: timeout,
                })
            }),
            () = found_plain(address), if url.is_tls() => {
                Err(TlsError::ServerIsPlain { address: address.clone() }.into())
            }
        };
        match outcome {
            Err(LinkError::Lost { .. } | LinkError::Closed { .. }) if !url.is_tls() && speaks_tls(address).await => {
                Err(TlsError::ServerIsTls { address: address.clone() }.into())
            }
            outcome => outcome,
        }
    }

    async fn open(url: &ServerUrl, tls: &TlsOptions, timeout: Duration) -> Result<Self, LinkError> {
        let mut connection = Self {
            transport: Transport::open(url, tls).await?,
            address: url.address().clone(),
            timeout,
            incoming: BytesMut::new(),
            abandoned: false,
        };
        match connection.greet(url).await {
            Err(LinkError::Protocol { address, problem }) => Err(LinkError::NotRedis { address, problem }),
            Err(error) => Err(error),
            Ok(()) => Ok(connection),
        }
    }

    /// The first command: AUTH, or else PING, as a replica does (`syncWithMaster`).
    async fn greet(&mut self, url: &ServerUrl) -> Result<(), LinkError> {
        let password = url.password().map_or(&b""[..], |secret| secret.expose());
        let outcome = match (url.username(), url.password()) {
            (Some(user), _) => self.command(&[b"AUTH", user.as_bytes(), password]).await,
            (None, Some(_)) => self.command(&[b"AUTH", password]).await,
            (None, None) => match self.command(&[b"PING"]).await {
                Err(error @ (LinkError::Auth(_) | LinkError::Busy { .. })) => Err(error),
                // Loading, no right to PING, MISCONF after a failed save: the commands that matter
                // may be allowed, and say for themselves if not.
                Err(error) if error.is_answer() => return Ok(()),
                outcome => outcome,
            },
        };
        outcome.map(|_| ())
    }

    /// Sends a command and waits for its reply.
    ///
    /// When this is abandoned before the reply is there, by a timeout or by dropping the future, the
    /// connection is of no more use and says [`LinkError::Closed`].
    ///
    /// # Errors
    /// Also when the reply is an error: see [`LinkError::is_answer`].
    pub async fn command(&mut self, args: &[&[u8]]) -> Result<Reply, LinkError> {
        self.command_within(args, self.timeout).await
    }

    /// [`Connection::command`] with a time limit of its own, for commands that block.
    ///
    /// # Errors
    /// As [`Connection::command`].
    pub async fn command_within(&mut self, args: &[&[u8]], limit: Duration) -> Result<Reply, LinkError> {
        if self.abandoned {
            return Err(LinkError::Closed { address: self.address.clone() });
        }
        self.abandoned = true;
        let reply = match timeout(limit, self.exchange(args)).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(self.timed_out(command_name(args), limit)),
        };
        self.abandoned = false;
        match reply {
            Reply::Error(text) => Err(LinkError::from_server(args, &text)),
            reply => Ok(reply),
        }
    }

    async fn exchange(&mut self, args: &[&[u8]]) -> Result<Reply, LinkError> {
        self.write(args).await?;
        let mut scanner = ReplyScanner::default();
        loop {
            match scanner.scan(&self.incoming) {
                Ok(Some(length)) => {
                    let bytes = self.incoming.split_to(length).freeze();
                    return Reply::decode(&bytes).map_err(|problem| self.protocol(problem.0));
                }
                Ok(None) => self.fill().await?,
                Err(problem) => return Err(self.protocol(problem.0)),
            }
        }
    }

    /// Sends a command whose answer, if any, is read by [`Connection::read_line`] or from the
    /// stream.
    ///
    /// # Errors
    /// When the connection is lost, or takes nothing for as long as a command may last.
    pub async fn send(&mut self, args: &[&[u8]]) -> Result<(), LinkError> {
        let limit = self.timeout;
        match timeout(limit, self.write(args)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.timed_out(format!("the sending of {}", command_name(args)), limit)),
        }
    }

    /// Reads a line that is not empty, without its line end, such as PSYNC's answer.
    ///
    /// Empty lines are skipped: a server that prepares a full sync sends one about once a second
    /// (`replicationCron`). `silence` limits the time without any byte, so that a slow fork does
    /// not end the wait; a limit on the whole is the caller's. An error line (`-...`) is returned as
    /// it is: [`LinkError::from_server`] understands it.
    ///
    /// Cancel safe: what was read is kept.
    ///
    /// # Errors
    /// When the connection is lost, or a line has more than 16 KiB.
    pub async fn read_line(&mut self, silence: Duration) -> Result<Bytes, LinkError> {
        loop {
            let blank = self.incoming.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n'));
            let blank = blank.count();
            let _ = self.incoming.split_to(blank);
            let window = &self.incoming[..self.incoming.len().min(LINE_BYTES_MAX)];
            if let Some(length) = window.iter().position(|&byte| byte == b'\n') {
                let mut line = self.incoming.split_to(length + 1).freeze();
                line.truncate(length);
                if line.last() == Some(&b'\r') {
                    line.truncate(length - 1);
                }
                return Ok(line);
            }
            if window.len() == LINE_BYTES_MAX {
                return Err(self.protocol("a line of more than 16 KiB"));
            }
            match timeout(silence, self.fill()).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(self.timed_out("a line".to_owned(), silence)),
            }
        }
    }

    /// The bare stream, and what was read from it ahead.
    #[must_use]
    pub fn into_stream(self) -> (Transport, BytesMut) {
        (self.transport, self.incoming)
    }

    /// The server's place.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }

    async fn write(&mut self, args: &[&[u8]]) -> Result<(), LinkError> {
        let wire = encode_command(args);
        let outcome = async {
            self.transport.write_all(&wire).await?;
            self.transport.flush().await
        };
        outcome.await.map_err(|error| self.lost(error))
    }

    /// Waits for bytes and takes them in.
    async fn fill(&mut self) -> Result<(), LinkError> {
        self.incoming.reserve(READ_BYTES);
        match self.transport.read_buf(&mut self.incoming).await {
            Ok(0) => Err(LinkError::Closed { address: self.address.clone() }),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn lost(&self, source: io::Error) -> LinkError {
        // With TLS 1.3 a server's refusal of our certificate comes only after the handshake.
        match tls_error(&self.address, &source) {
            Some(error) => error.into(),
            None => LinkError::Lost { address: self.address.clone(), source },
        }
    }

    pub(crate) fn protocol(&self, problem: &'static str) -> LinkError {
        LinkError::Protocol { address: self.address.clone(), problem }
    }

    fn timed_out(&self, waiting_for: String, after: Duration) -> LinkError {
        LinkError::Timeout { address: self.address.clone(), waiting_for, after }
    }
}

/// Whether a port answers a TLS greeting with a TLS record. A TLS port just closes on what is none.
async fn speaks_tls(address: &ServerAddress) -> bool {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let Ok(greeting) = client_hello() else { return false };
    matches!(first_byte(address, &greeting).await, Some(ALERT | HANDSHAKE))
}

/// Waits until a port that is silent to a TLS greeting is found to answer a plain PING; for ever, if it
/// does not.
async fn found_plain(address: &ServerAddress) {
    loop {
        tokio::time::sleep(TLS_SILENCE).await;
        if speaks_plain(address).await {
            return;
        }
    }
}

/// Whether a port answers a plain PING. Redis waits for the end of a TLS greeting without a word: it
/// looks for a newline up to the first NUL only (`processInlineBuffer`).
async fn speaks_plain(address: &ServerAddress) -> bool {
    matches!(first_byte(address, b"*1\r\n$4\r\nPING\r\n").await, Some(b'+' | b'-'))
}

/// What a port answers to `greeting` first.
async fn first_byte(address: &ServerAddress, greeting: &[u8]) -> Option<u8> {
    let ServerAddress::Tcp { host, port } = address else { return None };
    let probe = async {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.write_all(greeting).await?;
        stream.read_u8().await
    };
    timeout(TLS_PROBE, probe).await.ok()?.ok()
}

fn client_hello() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let mut greeting = Vec::new();
    session.write_tls(&mut greeting)?;
    Ok(greeting)
}

//! What is agreed on a connection before `PSYNC`.
//!
//! The order is that of a replica (`syncWithMaster` in `replication.c`): authentication, which
//! [`Connection::connect`] does, `REPLCONF` with one option per command, because a server applies
//! the options before an unknown one and not those after it, and then `PSYNC` with nothing else
//! pending.
//!
//! What is never said, and why:
//! - `listening-port`, `ip-address`: so that Sentinel and clients see nobody to fail over to;
//! - `capa rdb-channel-repl`, `capa dual-channel`: they change the answer to `PSYNC` (Redis 8,
//!   Valkey 8), and two connections of our own do the same;
//! - `rdb-no-checksum`, `capa skip-rdb-checksum`: the checksum of the server itself is the only
//!   end-to-end proof that a snapshot arrived whole.

use std::borrow::Cow;
use std::path::PathBuf;

use redwind_archive::position::Offset;
use redwind_archive::segment::ReplicationId;
use redwind_link::{Connection, LinkError, Secret, ServerKind, ServerUrl, TlsOptions, Version, sanitised};
use tracing::warn;

use super::error::AttachError;
use super::monitor::Facts;
use crate::config::SourceConfig;

/// Longest time for a connection, and for the answer to a command.
pub(super) const COMMAND_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// A server that prepares a full resync sends an empty line every second; one that sends nothing
/// for so long is gone.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Where the server is, and how to get in.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) url: ServerUrl,
    /// Holds the password of today; the one in `url` was read from it at the start.
    pub(super) password_file: Option<PathBuf>,
    pub(super) tls: TlsOptions,
}

impl Endpoint {
    /// Where the source is that `config` names.
    pub(super) fn of(config: &SourceConfig) -> Self {
        Self { url: config.server.clone(), password_file: config.password_file.clone(), tls: config.tls.clone() }
    }

    pub(super) async fn connect(&self) -> Result<Connection, LinkError> {
        Connection::connect(self.url_now().await.as_ref(), &self.tls, COMMAND_TIMEOUT).await
    }

    /// The URL with the password as it is in the file now, if one can be read there.
    async fn url_now(&self) -> Cow<'_, ServerUrl> {
        let Some(path) = &self.password_file else { return Cow::Borrowed(&self.url) };
        match tokio::fs::read(path).await.map(Secret::from_file) {
            Ok(Some(password)) => Cow::Owned(self.url.clone().with_password(password)),
            Ok(None) => {
                warn!(file = %path.display(), "the password file is empty or too large: keeping the password of the start");
                Cow::Borrowed(&self.url)
            }
            Err(error) => {
                warn!(file = %path.display(), %error, "cannot read the password file: keeping the password of the start");
                Cow::Borrowed(&self.url)
            }
        }
    }
}

/// A connection for the log, on which only `PSYNC` is missing.
#[derive(Debug)]
pub(super) struct LogHandshake {
    pub(super) connection: Connection,
    /// The server leaves all keys out of a full resync's RDB (Redis 7.0, Valkey), so that one is
    /// cheap. Without that a full resync brings the whole dataset.
    pub(super) filtered: bool,
}

/// Prepares a connection for the log.
pub(super) async fn for_log(endpoint: &Endpoint, facts: &Facts) -> Result<LogHandshake, AttachError> {
    let mut connection = prepare(endpoint, facts).await?;
    let filtered = option(&mut connection, b"rdb-filter-only", b"").await?;
    Ok(LogHandshake { connection, filtered })
}

/// Prepares a connection for a snapshot: an RDB and no stream.
pub(super) async fn for_snapshot(endpoint: &Endpoint, facts: &Facts) -> Result<Connection, AttachError> {
    let mut connection = prepare(endpoint, facts).await?;
    if !option(&mut connection, b"rdb-only", b"1").await? {
        return Err(AttachError::TooOld { found: facts.version });
    }
    Ok(connection)
}

async fn prepare(endpoint: &Endpoint, facts: &Facts) -> Result<Connection, AttachError> {
    let mut connection = endpoint.connect().await?;
    // `eof`: a diskless server streams the RDB, and a disk-based one does not overwrite its dump.
    option(&mut connection, b"capa", b"eof").await?;
    option(&mut connection, b"capa", b"psync2").await?;
    if facts.kind == ServerKind::Valkey {
        // Valkey 9.1 takes a replica that does not tell its version for one of 7.2, and fails to
        // write what that could not read (`replicaRdbVersion`).
        option(&mut connection, b"version", facts.version.to_string().as_bytes()).await?;
    }
    Ok(connection)
}

/// Sets an option; false when the server does not know it, which leaves the connection as it was.
async fn option(connection: &mut Connection, name: &[u8], value: &[u8]) -> Result<bool, LinkError> {
    match connection.command(&[b"REPLCONF", name, value]).await {
        Ok(_) => Ok(true),
        Err(LinkError::Reply { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a server answers to `PSYNC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PsyncAnswer {
    /// The stream goes on where it was asked for; under another replication ID, if one is told.
    Continue(Option<[u8; 40]>),
    /// An RDB comes, and the stream goes on from the RDB's offset.
    FullResync { replication_id: [u8; 40], offset: Offset },
}

/// What the stream is to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PsyncRequest {
    /// The byte after this offset of this stream.
    After { replication_id: [u8; 40], offset: Offset },
    /// Wherever the server stands.
    FullResync,
}

/// Sends `PSYNC` and waits for the answer, for as long as the server shows that it is working on it.
pub(super) async fn psync(connection: &mut Connection, request: PsyncRequest) -> Result<PsyncAnswer, AttachError> {
    let (id, next) = match &request {
        PsyncRequest::After { replication_id, offset } => (&replication_id[..], offset.advance(1).to_string()),
        PsyncRequest::FullResync => (&b"?"[..], "-1".to_owned()),
    };
    let command: [&[u8]; 3] = [b"PSYNC", id, next.as_bytes()];
    connection.send(&command).await?;
    let line = connection.read_line(SILENCE_MAX).await?;
    match line.strip_prefix(b"-") {
        Some(text) => Err(LinkError::from_server(&command, text).into()),
        None => parse(&line).ok_or_else(|| AttachError::Answer { answer: sanitised(&line) }),
    }
}

fn parse(line: &[u8]) -> Option<PsyncAnswer> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let answer = match words.next()? {
        b"+CONTINUE" => PsyncAnswer::Continue(words.next().map(replication_id).transpose().ok()?),
        b"+FULLRESYNC" => PsyncAnswer::FullResync {
            replication_id: replication_id(words.next()?).ok()?,
            offset: Offset(std::str::from_utf8(words.next()?).ok()?.parse().ok()?),
        },
        _ => return None,
    };
    words.next().is_none().then_some(answer)
}

/// Forty characters that could be a replication ID.
pub(super) fn replication_id(text: &[u8]) -> Result<[u8; 40], AttachError> {
    let id: Option<[u8; 40]> = text.try_into().ok().filter(|id: &[u8; 40]| id.iter().all(u8::is_ascii_alphanumeric));
    id.ok_or_else(|| AttachError::Answer { answer: sanitised(text) })
}

/// The ID as text.
pub(super) fn id_text(id: &[u8; 40]) -> String {
    ReplicationId { id: *id, since: Offset(0) }.as_str().to_owned()
}

/// Whether `REPLCONF ACK <n> FACK <n>` is understood: Redis 7.2, Valkey. Without it `WAITAOF` does
/// not exist either.
pub(super) fn takes_fack(kind: &ServerKind, version: Version) -> bool {
    match kind {
        ServerKind::Valkey | ServerKind::Redict => true,
        ServerKind::Redis | ServerKind::Other(_) => version >= Version::new(7, 2, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8; 40] = b"2b0b3b1f0d3f4f8f9f8f1f0d3f4f8f9f8f1f0d3f";

    #[test]
    fn answers_to_psync_are_read() {
        let line = |text: &str| parse(text.replace("ID", std::str::from_utf8(ID).unwrap()).as_bytes());
        assert_eq!(line("+CONTINUE"), Some(PsyncAnswer::Continue(None)));
        assert_eq!(line("+CONTINUE ID"), Some(PsyncAnswer::Continue(Some(*ID))));
        let full = PsyncAnswer::FullResync { replication_id: *ID, offset: Offset(77) };
        assert_eq!(line("+FULLRESYNC ID 77"), Some(full));
        for odd in ["", "+OK", "+FULLRESYNC ID", "+FULLRESYNC ID -1", "+FULLRESYNC ID 7 8", "+CONTINUE short"] {
            assert_eq!(line(odd), None, "{odd}");
        }
    }
}

//! A server while it replicates from us, seen through its control connection.

use std::net::SocketAddr;

use redwind_link::{Connection, LinkError};

/// Makes the server replicate from `primary`.
pub(crate) async fn follow(connection: &mut Connection, primary: SocketAddr) -> Result<(), LinkError> {
    let (host, port) = (primary.ip().to_string(), primary.port().to_string());
    connection.command(&[b"REPLICAOF", host.as_bytes(), port.as_bytes()]).await.map(drop)
}

/// How many commands of replication streams or append-only files the server has refused since it
/// started (`unexpected_error_replies`, since 6.2); `None` when it does not count them.
///
/// A replica logs such a command and goes on. The source's own replicas do the same, so one does not
/// mean that the restore is wrong, but it deserves a look at the log.
pub(crate) async fn refused_commands(connection: &mut Connection) -> Result<Option<u64>, LinkError> {
    let stats = connection.command(&[b"INFO", b"stats"]).await?;
    let text = String::from_utf8_lossy(stats.as_bytes().unwrap_or_default()).into_owned();
    let mut values = text.lines().filter_map(|line| line.split_once(':'));
    Ok(values.find(|(name, _)| *name == "unexpected_error_replies").and_then(|(_, count)| count.trim().parse().ok()))
}

/// One setting of the server; `None` when it has no such.
pub(crate) async fn setting(connection: &mut Connection, name: &str) -> Result<Option<Vec<u8>>, LinkError> {
    let reply = connection.command(&[b"CONFIG", b"GET", name.as_bytes()]).await?;
    Ok(reply.as_array().and_then(|pair| pair.get(1)).and_then(|value| value.as_bytes()).map(<[u8]>::to_vec))
}

/// Changes one setting of the server.
pub(crate) async fn set(connection: &mut Connection, name: &str, value: &[u8]) -> Result<(), LinkError> {
    connection.command(&[b"CONFIG", b"SET", name.as_bytes(), value]).await.map(drop)
}

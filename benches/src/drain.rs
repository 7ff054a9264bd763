//! The floor: a bare reader of the replication socket, in a process of its own.
//!
//! It attaches as a plain replica, reads and forgets, and acknowledges once a second. What it costs is
//! what any consumer pays before it does anything; what it costs the primary is the price of having a
//! replica at all. It can also record the stream, which is how replayed streams are made.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::resp::{encode, read_line};

/// Bytes asked of the socket at a time. Redis sends at most 16 KiB per write; more may have gathered.
const READ: usize = 64 * 1024;
/// Acknowledgements, as a replica sends them (`replicationCron`, Redis 7.0).
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// A diskless transfer is only followed by the stream once an acknowledgement came in after its end.
const FIRST_ACK_INTERVAL: Duration = Duration::from_millis(100);
/// Length of the mark that ends a diskless transfer.
const END_MARK: usize = 40;

/// Reads the stream of the server at `address` until it ends, into `record` if given. Stopped by a signal.
///
/// # Errors
/// When the server refuses, the connection fails, or the record cannot be written.
pub fn run(address: SocketAddr, record: Option<&Path>) -> Result<()> {
    let socket = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    socket.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(READ, socket.try_clone()?);
    let start = attach(&socket, &mut reader)?;
    let offset = Arc::new(AtomicU64::new(start));
    let acknowledged = Arc::clone(&offset);
    thread::spawn(move || acknowledge(socket, start, &acknowledged));

    let mut file = record.map(|p| File::create(p).with_context(|| format!("create {}", p.display()))).transpose()?;
    let mut piece = vec![0; READ];
    loop {
        let n = reader.read(&mut piece).context("read the stream")?;
        ensure!(n > 0, "the server closed the connection");
        if let Some(file) = &mut file {
            file.write_all(&piece[..n]).context("write the record")?;
        }
        offset.fetch_add(n as u64, Ordering::Release);
    }
}

/// The handshake and the RDB; returns the offset after which the stream begins.
fn attach(mut socket: &TcpStream, reader: &mut BufReader<TcpStream>) -> Result<u64> {
    let commands: [&[&[u8]]; 2] = [&[b"PING"], &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]];
    for command in commands {
        send(socket, command)?;
        let reply = read_line(reader)?;
        ensure!(reply.starts_with('+'), "the server answered {reply}");
    }
    // PSYNC must not share a write with anything that is still to be answered.
    send(socket, &[b"PSYNC", b"?", b"-1"])?;
    let reply = line_after_newlines(reader)?;
    let Some(resync) = reply.strip_prefix("+FULLRESYNC ") else { bail!("the server answered {reply}") };
    let offset = resync.split_whitespace().nth(1).context("a full resync without an offset")?.parse()?;
    let header = line_after_newlines(reader)?;
    match header.strip_prefix("$EOF:") {
        Some(mark) => skip_to_mark(reader, mark.as_bytes())?,
        None => skip(reader, header.strip_prefix('$').context("no RDB follows")?.parse()?)?,
    }
    socket.flush()?;
    Ok(offset)
}

fn send(mut socket: &TcpStream, command: &[&[u8]]) -> Result<()> {
    let mut bytes = Vec::new();
    encode(&mut bytes, command);
    Ok(socket.write_all(&bytes)?)
}

fn line_after_newlines(reader: &mut BufReader<TcpStream>) -> Result<String> {
    loop {
        let line = read_line(reader)?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

fn skip(reader: &mut impl Read, length: u64) -> Result<()> {
    let skipped = std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    ensure!(skipped == length, "the RDB broke off after {skipped} of {length} bytes");
    Ok(())
}

/// Skips an RDB that ends with `mark`; the server sends nothing after it before an acknowledgement.
fn skip_to_mark(reader: &mut impl Read, mark: &[u8]) -> Result<()> {
    ensure!(mark.len() == END_MARK, "an end mark of {} bytes", mark.len());
    let mut last = Vec::new();
    let mut piece = vec![0; READ];
    while !last.ends_with(mark) {
        let n = reader.read(&mut piece)?;
        ensure!(n > 0, "the RDB broke off");
        last.extend_from_slice(&piece[..n]);
        last.drain(..last.len().saturating_sub(END_MARK));
    }
    Ok(())
}

/// Ends with the connection.
fn acknowledge(socket: TcpStream, start: u64, offset: &AtomicU64) {
    loop {
        let now = offset.load(Ordering::Acquire);
        if send(&socket, &[b"REPLCONF", b"ACK", now.to_string().as_bytes()]).is_err() {
            return;
        }
        thread::sleep(if now == start { FIRST_ACK_INTERVAL } else { ACK_INTERVAL });
    }
}

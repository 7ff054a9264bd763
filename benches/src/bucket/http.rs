//! Requests as the endpoint reads and answers them: HTTP/1.1 with a length, nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

use super::BUCKET;
use crate::resp::read_line;

/// The head of a request.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) key: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
}

impl Request {
    pub(super) fn read(reader: &mut impl BufRead) -> Result<Self> {
        let line = read_line(reader)?;
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().context("no target")?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.trim_start_matches('/');
        let key = path.strip_prefix(BUCKET).with_context(|| format!("no bucket '{path}'"))?;
        let query = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), decode(value))
        });
        let mut headers = BTreeMap::new();
        loop {
            let line = read_line(reader)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let key = decode(key.trim_start_matches('/'));
        Ok(Self { method: method.to_owned(), key, query: query.collect(), headers })
    }

    pub(super) fn length(&self) -> Result<u64> {
        self.headers.get("content-length").map_or(Ok(0), |l| l.parse().context("content-length"))
    }
}

/// Undoes percent-encoding; leaves alone what is not encoded properly.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The bytes `from..to` of an object of `length` bytes that a Range header asks for.
pub(super) fn parse_range(text: &str, length: u64) -> Result<(u64, u64)> {
    let spec = text.strip_prefix("bytes=").context("a range not in bytes")?;
    let range = match spec.split_once('-').context("a range without '-'")? {
        ("", suffix) => (length.saturating_sub(suffix.parse()?), length),
        (from, "") => (from.parse()?, length),
        (from, to) => (from.parse()?, (to.parse::<u64>()?.saturating_add(1)).min(length)),
    };
    if range.0 >= range.1 { bail!("range {text} of {length} bytes") } else { Ok(range) }
}

/// Sends a whole answer.
pub(super) fn respond(socket: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    if !status.starts_with("204") {
        write!(head, "Content-Length: {}\r\n", body.len())?;
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes())?;
    Ok(socket.write_all(body)?)
}

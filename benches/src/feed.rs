//! Pushes a load through one connection at full pipeline speed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::resp::encode;

/// Sent after the load; its echo tells that every command before it was executed.
const END: &[u8] = b"redwind-bench-end-of-load";
/// Bytes per write to the socket.
const PIECE: usize = 256 * 1024;

/// What was fed.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    /// Bytes of commands sent.
    pub bytes: u64,
    /// From the first byte sent to the last reply received.
    pub wall: Duration,
}

impl Fed {
    /// Megabytes (10^6) per second of wall time.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.wall.as_secs_f64()
    }
}

/// Sends all of `load` to the server at `address` while a second thread drains the replies.
///
/// # Errors
/// When the connection fails, the server closes it, or `load` cannot be read.
pub fn feed(address: SocketAddr, load: &mut dyn Read) -> Result<Fed> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    socket.set_nodelay(true)?;
    let replies = socket.try_clone()?;
    let started = Instant::now();
    let reader = thread::spawn(move || drain_replies(replies));
    let sent = send(&mut socket, load);
    if sent.is_err() {
        // Ends the reader too; the error that counts is the sender's.
        let _ = socket.shutdown(Shutdown::Both);
    }
    let drained = reader.join().map_err(|_| anyhow::anyhow!("the reader of replies panicked"))?;
    let bytes = sent?;
    drained?;
    Ok(Fed { bytes, wall: started.elapsed() })
}

fn send(socket: &mut TcpStream, load: &mut dyn Read) -> Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let n = load.read(&mut piece).context("read the load")?;
        if n == 0 {
            break;
        }
        socket.write_all(&piece[..n]).context("send the load")?;
        bytes += n as u64;
    }
    let mut end = Vec::new();
    encode(&mut end, &[b"ECHO", END]);
    socket.write_all(&end).context("send the end of the load")?;
    Ok(bytes)
}

/// Reads replies until the echo of [`END`], which nothing else in a load answers with.
fn drain_replies(mut socket: TcpStream) -> Result<()> {
    let mut last = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        let n = socket.read(&mut piece).context("read the replies")?;
        ensure!(n > 0, "the server closed the connection while it was fed");
        last.extend_from_slice(&piece[..n]);
        if last.ends_with(b"\r\n") && last[..last.len() - 2].ends_with(END) {
            return Ok(());
        }
        last.drain(..last.len().saturating_sub(END.len() + 2));
    }
}

//! The agent as its users start it: a process of its own, asked through its own endpoints.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::server::free_port;

/// The gauge that tells up to which replication offset the archive can be restored; NaN before the first
/// snapshot.
const DURABLE_OFFSET: &str = "redwind_durable_offset";
/// An endpoint that is silent this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where an agent stores.
pub struct Store {
    /// The URL given to `--store`.
    pub url: String,
    /// Environment the store needs (credentials, endpoint).
    pub environment: Vec<(String, String)>,
    /// The directory of a `file://` store.
    pub directory: Option<PathBuf>,
}

impl Store {
    /// A `file://` store below `directory`.
    pub fn file(directory: &Path) -> Self {
        let directory = directory.join("store");
        Self { url: format!("file://{}", directory.display()), environment: Vec::new(), directory: Some(directory) }
    }

    /// Bytes of all objects, if they can be counted from here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn bytes(&self) -> Result<Option<u64>> {
        self.directory.as_deref().map(directory_bytes).transpose()
    }
}

/// Bytes of all files below `directory`.
///
/// # Errors
/// When it cannot be read.
pub fn directory_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { directory_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// A running agent. Dropping it kills it.
pub struct Agent {
    process: Process,
    http: SocketAddr,
    store: Store,
}

impl Agent {
    /// Starts `redwind agent` on `source`, with its spool and log below `directory`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(redwind: &Path, source: SocketAddr, store: Store, directory: &Path) -> Result<Self> {
        if let Some(directory) = &store.directory {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        let http: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let grpc: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let mut command = Command::new(redwind);
        command.args(["agent", "--source", &format!("redis://{source}"), "--store", &store.url]);
        command.arg("--spool").arg(directory.join("spool"));
        command.args(["--flush-interval", "1s", "--http", &http.to_string(), "--grpc", &grpc.to_string()]);
        command.envs(store.environment.iter().map(|(k, v)| (k, v)));
        let process = Process::spawn("redwind agent", command, directory.join("agent.log"))?;
        Ok(Self { process, http, store })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it stores.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Up to where a restore is possible: `None` before there is a complete snapshot, or before the
    /// endpoint answers.
    ///
    /// # Errors
    /// When the agent has ended.
    pub fn durable_offset(&mut self) -> Result<Option<u64>> {
        self.process.expect_running()?;
        let Ok(metrics) = get(self.http, "/metrics") else { return Ok(None) };
        // 0 is an offset too: that of a server which has not been written to.
        Ok(gauge(&metrics, DURABLE_OFFSET).filter(|v| v.is_finite()).map(|v| v as u64))
    }

    /// Stops it as a supervisor would.
    ///
    /// # Errors
    /// When it does not end or ends with another status than 0.
    pub fn stop(self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "redwind agent ended with {status}");
        Ok(())
    }
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path} answered {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// The value of a sample in the Prometheus text format, whatever its labels.
fn gauge(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        value.strip_prefix(' ')?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_with_and_without_labels() {
        let text = "# TYPE a gauge\na_b 1\na{name=\"x y\"} 42\nc 7\n";
        assert_eq!(gauge(text, "a"), Some(42.0));
        assert_eq!(gauge(text, "c"), Some(7.0));
        assert_eq!(gauge(text, "d"), None);
    }
}

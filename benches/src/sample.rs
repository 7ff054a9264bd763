//! Watches, during a load, what only peaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::resp::Client;
use crate::usage;

/// Ten looks a second cost the primary nothing that shows.
const INTERVAL: Duration = Duration::from_millis(100);

/// The highest values seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    /// `mem_clients_slaves` of the primary in bytes: replication buffers beyond the backlog.
    pub replica_buffers: u64,
    /// The largest `omem` of one replica connection in bytes.
    pub replica_omem: u64,
    /// Resident size of the consumer's process tree in bytes.
    pub consumer_resident: u64,
}

/// A thread that samples until it is told to stop.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Peaks>>,
}

impl Sampler {
    /// Begins to watch the primary at `primary`, if there is one to ask, and the tree of `consumer`.
    ///
    /// # Errors
    /// When the primary does not answer.
    pub fn start(primary: Option<SocketAddr>, consumer: Option<u32>) -> Result<Self> {
        let mut client = primary.map(Client::connect).transpose()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut peaks = Peaks::default();
            while !stopped.load(Ordering::Relaxed) {
                peaks.look(client.as_mut(), consumer)?;
                thread::sleep(INTERVAL);
            }
            Ok(peaks)
        });
        Ok(Self { stop, thread })
    }

    /// Ends the watch.
    ///
    /// # Errors
    /// When the primary stopped answering meanwhile.
    pub fn finish(self) -> Result<Peaks> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the sampler panicked"))?
    }
}

impl Peaks {
    fn look(&mut self, primary: Option<&mut Client>, consumer: Option<u32>) -> Result<()> {
        if let Some(client) = primary {
            let memory = client.info("memory")?.number("mem_clients_slaves")?;
            self.replica_buffers = self.replica_buffers.max(memory);
            self.replica_omem = self.replica_omem.max(replica_omem(client)?);
        }
        if let Some(pid) = consumer {
            self.consumer_resident = self.consumer_resident.max(usage::tree_resident(pid)?);
        }
        Ok(())
    }
}

/// The largest `omem` of a replica connection now, in bytes.
///
/// # Errors
/// When the server does not answer.
pub fn replica_omem(client: &mut Client) -> Result<u64> {
    Ok(largest_omem(&client.call(&["CLIENT", "LIST", "TYPE", "replica"])?))
}

fn largest_omem(clients: &str) -> u64 {
    let values = clients.split_whitespace().filter_map(|w| w.strip_prefix("omem="));
    values.filter_map(|v| v.parse().ok()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_omem_is_found_among_replicas() {
        assert_eq!(largest_omem("id=3 addr=a omem=10 tot-mem=99\nid=4 omem=300 events=r"), 300);
        assert_eq!(largest_omem(""), 0);
    }
}

//! What can be attached to a primary and measured there.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::agent::{Agent, Store};
use crate::fake_primary::FakePrimary;
use crate::lab::Lab;
use crate::process::Process;
use crate::server::Server;

/// The consumers, from nothing to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Nobody: what the load costs the primary by itself.
    None,
    /// A bare reader of the socket: the floor.
    Drain,
    /// A replica that persists nothing.
    Replica,
    /// A replica with `appendonly yes` and its defaults: the peer.
    Aof,
    /// The same with automatic rewrites of the append-only file off.
    AofNoRewrite,
    /// The agent on a `file://` store.
    Agent,
}

impl Kind {
    /// Its name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Drain => "drain (reads only)",
            Self::Replica => "replica, no persistence",
            Self::Aof => "replica, AOF defaults",
            Self::AofNoRewrite => "replica, AOF, rewrite off",
            Self::Agent => "redwind agent",
        }
    }

    /// Starts it on `source` with its files in `directory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn attach(self, lab: &Lab, source: &dyn Source, directory: &Path) -> Result<Option<Box<dyn Consumer>>> {
        let rewrite_off: &[&str] = &["--auto-aof-rewrite-percentage", "0"];
        Ok(Some(match self {
            Self::None => return Ok(None),
            Self::Drain => Box::new(Drain::start(source.address(), None, directory)?),
            Self::Replica => Box::new(Replica::start(lab, source.address(), directory, &[])?),
            Self::Aof => Box::new(Replica::start(lab, source.address(), directory, &["--appendonly", "yes"])?),
            Self::AofNoRewrite => {
                let settings = [&["--appendonly", "yes"], rewrite_off].concat();
                Box::new(Replica::start(lab, source.address(), directory, &settings)?)
            }
            Self::Agent => Box::new(Agent::start(lab.redwind()?, source.address(), Store::file(directory), directory)?),
        }))
    }
}

/// What consumers attach to.
pub trait Source {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// The highest offset a replica has acknowledged to it.
    ///
    /// # Errors
    /// When it does not answer.
    fn acknowledged(&self) -> Result<u64>;
}

impl Source for Server {
    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn acknowledged(&self) -> Result<u64> {
        let info = self.client()?.info("replication")?;
        // `slave0:ip=...,port=...,state=online,offset=...,lag=...` (genRedisInfoString, Redis 7.0).
        let replica = info.text("slave0").unwrap_or_default();
        let offset = replica.split(',').find_map(|f| f.strip_prefix("offset="));
        offset.map_or(Ok(0), |o| o.parse().context("the offset of a replica"))
    }
}

impl Source for FakePrimary {
    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn acknowledged(&self) -> Result<u64> {
        Ok(self.acknowledged())
    }
}

/// A running consumer.
pub trait Consumer {
    /// The root of its process tree.
    fn pid(&self) -> u32;

    /// The offset up to which it has done its work: read, applied, or made durable. 0 before it begins.
    ///
    /// # Errors
    /// When it has ended or does not answer.
    fn position(&mut self, source: &dyn Source) -> Result<u64>;

    /// Waits until it does nothing more for the load it has had.
    ///
    /// # Errors
    /// When it does not come to rest.
    fn wait_idle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Bytes it has in its archive, if it has one.
    ///
    /// # Errors
    /// When they cannot be counted.
    fn stored(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// The drain in its own process.
pub struct Drain(Process);

impl Drain {
    /// Attaches a drain, which records the stream if told where.
    ///
    /// # Errors
    /// When this program cannot be started again.
    pub fn start(source: SocketAddr, record: Option<&Path>, directory: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("drain").arg(source.to_string());
        if let Some(record) = record {
            command.arg("--record").arg(record);
        }
        Ok(Self(Process::spawn("drain", command, directory.join("drain.log"))?))
    }
}

impl Consumer for Drain {
    fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn position(&mut self, source: &dyn Source) -> Result<u64> {
        self.0.expect_running()?;
        source.acknowledged()
    }
}

struct Replica(Server);

impl Replica {
    fn start(lab: &Lab, source: SocketAddr, directory: &Path, settings: &[&str]) -> Result<Self> {
        let replicaof = format!("{} {}", source.ip(), source.port());
        let settings = [&["--replicaof", &replicaof], settings].concat();
        Ok(Self(Server::start(lab.programs(), &directory.join("replica"), &settings)?))
    }
}

impl Consumer for Replica {
    fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn position(&mut self, _source: &dyn Source) -> Result<u64> {
        // Fails while the replica loads its first dataset.
        let Ok(info) = self.0.client()?.info("replication") else { return Ok(0) };
        if info.text("master_link_status") == Some("up") { info.number("slave_repl_offset") } else { Ok(0) }
    }

    fn wait_idle(&mut self) -> Result<()> {
        self.0.wait_idle()
    }
}

impl Consumer for Agent {
    fn pid(&self) -> u32 {
        self.pid()
    }

    fn position(&mut self, _source: &dyn Source) -> Result<u64> {
        Ok(self.durable_offset()?.unwrap_or(0))
    }

    fn stored(&self) -> Result<Option<u64>> {
        self.store().bytes()
    }
}

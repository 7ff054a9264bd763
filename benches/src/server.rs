//! Real servers, started with what every scenario needs and nothing persistent unless asked.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, wait_for};
use crate::resp::{Client, Info};

/// A server that loads a few GiB may take this long before it answers.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// Settings of every server: no snapshot of its own accord, replicas are served at once, and output
/// limits are off, so that a slow consumer shows as memory instead of as a disconnection.
const SETTINGS: [&str; 12] = [
    "--save",
    "",
    "--appendonly",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-backlog-size",
    "64mb",
    "--client-output-buffer-limit",
    "replica 0 0 0",
    "--proto-max-bulk-len",
    "1gb",
];

/// A port on the loopback interface that nothing listened on a moment ago.
///
/// # Errors
/// When the machine has none to give.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where a server's programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: Option<PathBuf>,
}

impl Programs {
    /// Looks for `<servers>/<name>/bin/redis-server`, and without it on the PATH.
    ///
    /// # Errors
    /// When neither has one.
    pub fn find(servers: Option<&Path>, name: &str) -> Result<Self> {
        let directory = servers.map(|s| s.join(name).join("bin")).filter(|d| d.join("redis-server").exists());
        let found = Self { directory };
        let version = found.command("redis-server").arg("--version").output();
        ensure!(
            version.is_ok_and(|o| o.status.success()),
            "no redis-server: install one, or let REDWIND_TEST_SERVERS name a directory that holds {name}/bin/redis-server"
        );
        Ok(found)
    }

    /// A command that runs one of them (`redis-server`, `redis-cli`, `redis-benchmark`).
    pub fn command(&self, program: &str) -> Command {
        match &self.directory {
            Some(directory) => Command::new(directory.join(program)),
            None => Command::new(program),
        }
    }
}

/// A running server. Dropping it kills it.
pub struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    /// Starts a server with its data in `directory` (created if missing) and waits until it has loaded
    /// what lies there. `settings` come after the common ones and so override them.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub fn start(programs: &Programs, directory: &Path, settings: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let port = free_port()?;
        let mut command = programs.command("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]).args(SETTINGS).args(settings);
        command.arg("--dir").arg(directory);
        let process = Process::spawn("redis-server", command, directory.with_extension("log"))?;
        let mut server = Self { process, address: (Ipv4Addr::LOCALHOST, port).into() };
        wait_for("an answer of the server", START_PATIENCE, || {
            server.process.expect_running()?;
            Ok(Client::connect(server.address).and_then(|mut c| c.call(&["PING"])).ok())
        })?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// When it does not accept.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address)
    }

    /// Makes one write and returns the replication offset after it. Sent in one piece, so that the
    /// primary's own PING can hardly come between: an offset of a PING alone need not become durable.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn mark(&self) -> Result<u64> {
        mark(&mut self.client()?)
    }

    /// Waits until no child of the server is at work (RDB or AOF rewrite).
    ///
    /// # Errors
    /// When it does not answer or does not come to rest.
    pub fn wait_idle(&self) -> Result<()> {
        let mut client = self.client()?;
        wait_for("the end of background saves", START_PATIENCE, || {
            let info = client.info("persistence")?;
            let fields = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"];
            Ok(fields.iter().all(|f| info.text(f) == Some("0")).then_some(()))
        })
    }

    /// Forgets the errors so far: what attaches may ask what it is allowed by being refused.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn forget_errors(&self) -> Result<()> {
        self.client()?.call(&["CONFIG", "RESETSTAT"])?;
        Ok(())
    }

    /// Fails if any command was answered with an error: then the load was not what it says it is.
    ///
    /// # Errors
    /// Naming the errors.
    pub fn expect_no_errors(&self) -> Result<()> {
        let info = self.client()?.info("errorstats")?;
        // LOADING only answers our own question whether the server is up yet.
        let lines = info.0.lines().filter(|l| l.starts_with("errorstat_") && !l.starts_with("errorstat_LOADING:"));
        let errors: Vec<&str> = lines.collect();
        if errors.is_empty() { Ok(()) } else { bail!("the load met errors: {}", errors.join(", ")) }
    }
}

/// [`Server::mark`] on a connection that is already open.
///
/// # Errors
/// When the server does not answer.
pub fn mark(client: &mut Client) -> Result<u64> {
    let replies = client.pipeline(&[&["SET", "redwind-bench:mark", "1"], &["INFO", "replication"]])?;
    Info(replies.into_iter().next_back().unwrap_or_default()).number("master_repl_offset")
}

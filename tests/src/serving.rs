//! A restore that is served to replicas.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value as Json;

use crate::poll;
use crate::process::command;
use crate::redwind::{StoreAddress, binary};
use crate::server::{Server, ServerOptions};
use crate::servers::Flavor;

/// `redwind restore --serve`, killed when dropped.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Serving {
    /// Starts it, for one replica.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start(store: &StoreAddress, to: &str) -> Self {
        let mut redwind = command(binary());
        redwind.args(["restore", "--to", to, "--serve", "127.0.0.1:0", "--once", "--json", "--store", &store.url]);
        redwind.envs(store.env.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = redwind.spawn().expect("the binary can be executed");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    fn line(&mut self) -> Json {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("stdout can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// A server that replicates from it and has everything. It is not released.
    pub fn replica(&mut self, flavor: &Flavor) -> Server {
        let said = self.line();
        let text = |key: &str| said[key].as_str().unwrap_or_else(|| panic!("no {key} in {said}")).to_owned();
        let address: SocketAddr = text("address").parse().expect("an address is said");
        let options = ServerOptions::replica_of(address).config(format!("masterauth {}", text("password")));
        let replica = Server::start_with(flavor, options);
        let holder = self.line();
        assert!(holder["holds_everything"].is_string(), "{holder}");
        replica
    }

    /// Waits until it ends by itself, its only replica having left, and fails unless it was content.
    pub fn wait_end(&mut self) {
        let status = poll::until("serving ends", || self.child.try_wait().expect("our own child can be waited for"));
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

//! The `redwind` binary, run as a user runs it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::poll;
use crate::process::{Process, command, free_port};

/// The binary under test: `REDWIND_BIN`, or the one that cargo built beside this test.
///
/// # Panics
/// When there is none: cargo builds it only on request, `cargo build --bin redwind`.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("REDWIND_BIN") {
        return PathBuf::from(path);
    }
    // target/<profile>/deps/it-<hash>
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().and_then(Path::parent).expect("cargo's folders are that deep");
    let binary = folder.join("redwind");
    assert!(binary.is_file(), "{} is missing; build it with `cargo build --bin redwind`", binary.display());
    binary
}

/// Where an archive lies, and what a process needs to reach it.
#[derive(Clone, Debug)]
pub struct StoreAddress {
    /// As `--store` takes it.
    pub url: String,
    /// Environment variables: endpoint, credentials.
    pub env: Vec<(String, String)>,
}

impl StoreAddress {
    /// A folder of this machine.
    pub fn folder(path: &Path) -> Self {
        Self { url: format!("file://{}", path.display()), env: Vec::new() }
    }
}

/// How a command ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit status; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Itself, when it exited with `code`.
    ///
    /// # Panics
    /// When it exited otherwise, with all that it wrote.
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        let Self { code: actual, stdout, stderr } = &self;
        assert_eq!(*actual, Some(code), "exit status\nstdout: {stdout}\nstderr: {stderr}");
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Json {
        let parsed = serde_json::from_str(&self.stdout);
        parsed.unwrap_or_else(|error| panic!("{error} in stdout: {}\nstderr: {}", self.stdout, self.stderr))
    }
}

/// Runs `redwind` with these arguments to its end.
///
/// # Panics
/// When it cannot be executed.
pub fn run(store: Option<&StoreAddress>, arguments: &[&str]) -> Finished {
    run_with(store, arguments, &[])
}

/// As [`run`], with environment variables.
///
/// # Panics
/// When it cannot be executed.
pub fn run_with(store: Option<&StoreAddress>, arguments: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut redwind = command(binary());
    redwind.args(arguments).envs(env.iter().copied()).stdin(Stdio::null());
    if let Some(store) = store {
        redwind.args(["--store", &store.url]).envs(store.env.iter().cloned());
    }
    let output = redwind.output().expect("the binary can be executed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// `redwind list --json` of an archive.
///
/// # Panics
/// When it fails.
pub fn list(store: &StoreAddress) -> Json {
    run(Some(store), &["list", "--json"]).expect(0).json()
}

/// `redwind verify` of an archive.
pub fn verify(store: &StoreAddress) -> Finished {
    run(Some(store), &["verify"])
}

/// `redwind restore --to TARGET` and more arguments, such as `--aof DIR`.
pub fn restore(store: &StoreAddress, to: &str, more: &[&str]) -> Finished {
    run(Some(store), &[&["restore", "--to", to], more].concat())
}

/// A stage of a byte's way, as `status` names it.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "product terms")]
pub enum Stage {
    Received,
    Spooled,
    Stored,
    Durable,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Spooled => "spooled",
            Self::Stored => "stored",
            Self::Durable => "durable",
        }
    }
}

/// A running `redwind agent`, killed when dropped; its spool is its own and outlives restarts.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    /// The program that executes it, with arguments; none when it is executed directly.
    launcher: Vec<String>,
    arguments: Vec<String>,
    store: StoreAddress,
    folder: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Agent {
    /// Starts an agent on a source, with more arguments, and does not wait for anything.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start(source: &str, store: &StoreAddress, more: &[&str]) -> Self {
        Self::start_under(&[], source, store, more)
    }

    /// As [`Self::start`], executed by a program that is given the agent's command line, such as `env`.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start_under(launcher: &[&str], source: &str, store: &StoreAddress, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [grpc, http] = [free_port(), free_port()].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let mut arguments: Vec<_> = ["agent", "--source", source].map(str::to_owned).into();
        let spool = folder.path().join("spool");
        for (option, value) in [
            ("--spool", spool.display().to_string()),
            ("--grpc", SocketAddr::to_string(&grpc)),
            ("--http", SocketAddr::to_string(&http)),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let launcher: Vec<_> = launcher.iter().map(|&word| word.to_owned()).collect();
        let process = spawn(&launcher, &arguments, store, folder.path());
        Self { process, launcher, arguments, store: store.clone(), folder, grpc, http }
    }

    /// Where it answers gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where it answers HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its spool.
    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// Everything it has written, also before restarts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `redwind status --json`, once it answers.
    pub fn status(&self) -> Option<Json> {
        let finished = run(None, &["status", "--json", "--agent", &format!("http://{}", self.grpc)]);
        (finished.code == Some(0)).then(|| finished.json())
    }

    /// One page of its HTTP interface: status and body; none while it does not answer.
    pub fn page(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.http, path)
    }

    /// Its metrics by name with labels, as the page shows them.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let page = self.page("/metrics").map(|(_, body)| body).unwrap_or_default();
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        page.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
    }

    /// A metric by its name without labels, for the only source it follows; none while it is not known.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics();
        let (_, value) = metrics.iter().find(|(key, _)| key.split('{').next() == Some(name))?;
        value.is_finite().then_some(*value)
    }

    /// `redwind snapshot`.
    pub fn snapshot(&self) -> Finished {
        run(None, &["snapshot", "--agent", &format!("http://{}", self.grpc)])
    }

    /// Waits until `/readyz` says that it is attached and archiving.
    ///
    /// # Panics
    /// When it ends, or is not ready within [`poll::PATIENCE`].
    pub fn wait_ready(&mut self) {
        poll::until("the agent is ready", || {
            let ended = self.process.exited();
            assert!(ended.is_none(), "the agent ended with {ended:?}");
            self.page("/readyz").filter(|(status, _)| *status == 200)
        });
    }

    /// How many bytes of the stream have come to `stage`, for the only source it follows.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "offsets of tests are small")]
    pub fn offset(&self, stage: Stage) -> Option<u64> {
        self.metric(&format!("redwind_{}_offset", stage.name())).map(|offset| offset as u64)
    }

    /// Waits until the stream up to `offset` has come to `stage`.
    ///
    /// # Panics
    /// When it has not within [`poll::PATIENCE`].
    pub fn wait_offset(&self, stage: Stage, offset: u64) {
        let what = format!("offset {offset} is {}", stage.name());
        poll::until(&what, || self.offset(stage).filter(|&at| at >= offset));
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end within [`poll::PATIENCE`].
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.wait_end(poll::PATIENCE)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not within `patience`.
    pub fn wait_end(&mut self, patience: Duration) -> ExitStatus {
        self.process.wait(patience)
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again with the same arguments and spool.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.launcher, &self.arguments, &self.store, self.folder.path());
    }

    /// SIGTERM, and does not wait.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Starts it again, with more arguments than before.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start_again_with(&mut self, more: &[&str]) {
        let arguments = self.arguments.iter().cloned().chain(more.iter().map(|&argument| argument.to_owned()));
        self.process = spawn(&self.launcher, &arguments.collect::<Vec<_>>(), &self.store, self.folder.path());
    }

    /// How it ended, when it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// SIGSTOP: it neither reads nor answers until [`Self::go_on`].
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }
}

fn spawn(launcher: &[String], arguments: &[String], store: &StoreAddress, folder: &Path) -> Process {
    let mut agent = match launcher.split_first() {
        Some((program, words)) => {
            let mut launched = command(program);
            launched.args(words).arg(binary());
            launched
        }
        None => command(binary()),
    };
    agent.args(arguments).args(["--store", &store.url]).envs(store.env.iter().cloned());
    Process::spawn("redwind agent", agent, &folder.join("agent.log")).expect("the binary can be executed")
}

/// A minimal HTTP/1.0 GET: no client library for three pages of plain text.
pub fn http_get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    http_get_with(addr, path, "")
}

/// As [`http_get`], with more lines for the request's head, each with its line end.
pub fn http_get_with(addr: SocketAddr, path: &str, head: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(poll::PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n{head}\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

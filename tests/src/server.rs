//! A real server as a child process, and a connection to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use redis::{Cmd, Connection, ConnectionLike, RedisResult, Value};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::poll;
use crate::process::{Process, command, free_port};
use crate::servers::Flavor;

/// Where no server ever answers: a replica of it serves what it has and suspends expiry.
pub const DEAD_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// How to start a server; the default is an empty primary that persists nothing.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Lines for its configuration file, after the harness's own and so stronger.
    pub config: Vec<String>,
    /// Start as a replica of this server.
    pub replica_of: Option<SocketAddr>,
    /// Its data directory, when not an empty one of its own.
    pub data_dir: Option<PathBuf>,
}

impl ServerOptions {
    /// More configuration lines.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }

    /// A replica of `primary`.
    #[must_use]
    pub fn replica_of(primary: SocketAddr) -> Self {
        Self { replica_of: Some(primary), ..Self::default() }
    }

    /// Load the append-only files in `dir` and keep everything in them: as a replica of a dead
    /// address the server drops no key whose time has run out since.
    #[must_use]
    pub fn restored_aof(dir: &Path) -> Self {
        Self::restored(dir).config("appendonly yes")
    }

    /// Load `dump.rdb` in `dir` and keep everything in it, as [`Self::restored_aof`] does.
    #[must_use]
    pub fn restored_rdb(dir: &Path) -> Self {
        Self::restored(dir)
    }

    fn restored(dir: &Path) -> Self {
        Self { replica_of: Some(DEAD_ADDRESS), data_dir: Some(dir.to_owned()), ..Self::default() }
    }
}

/// A running server, killed when dropped.
///
/// It listens on 127.0.0.1 at a port of its own and on a unix socket, through which the harness
/// talks to it whatever TLS or ACL a story puts on the port.
#[derive(Debug)]
pub struct Server {
    flavor: Flavor,
    options: ServerOptions,
    process: Option<Process>,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts an empty primary.
    pub fn start(flavor: &Flavor) -> Self {
        Self::start_with(flavor, ServerOptions::default())
    }

    /// Starts a server and waits until it has loaded its data and answers.
    ///
    /// # Panics
    /// When it does not, with the end of its log.
    pub fn start_with(flavor: &Flavor, options: ServerOptions) -> Self {
        // a socket's path has room for about a hundred bytes, so not in a deep folder
        let folder = tempfile::Builder::new().prefix("rw-").tempdir_in("/tmp").expect("a temporary folder can be made");
        std::fs::create_dir(folder.path().join("data")).expect("the folder is new");
        let mut server = Self { flavor: flavor.clone(), options, process: None, port: 0, folder };
        for _ in 0..5 {
            server.port = free_port();
            match server.launch() {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("{flavor} does not start:\n{log}"),
            }
        }
        panic!("{flavor} finds every port taken");
    }

    fn launch(&mut self) -> Result<(), String> {
        let config = self.folder.path().join("server.conf");
        std::fs::write(&config, self.config_text()).expect("the folder is writable");
        let mut server = command(&self.flavor.program);
        server.arg(&config).current_dir(self.folder.path());
        let log = self.folder.path().join("server.log");
        let process =
            Process::spawn(&self.flavor.to_string(), server, &log).expect("an installed server can be executed");
        let process = self.process.insert(process);
        let socket = self.folder.path().join("socket");
        poll::until("the server answers PING", || {
            if process.exited().is_some() {
                return Some(Err(process.log()));
            }
            let pong = Cli::connect(&socket).and_then(|mut cli| cli.try_command(&["PING"]));
            // LOADING is an answer that means "not yet"; NOAUTH is as good as PONG
            match pong {
                Ok(_) => Some(Ok(())),
                Err(error) if error.code() == Some("NOAUTH") => Some(Ok(())),
                Err(_) => None,
            }
        })
    }

    fn config_text(&self) -> String {
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {}", self.port),
            format!("unixsocket {}", self.folder.path().join("socket").display()),
            format!("dir {}", self.data_dir().display()),
            "save \"\"".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        if self.flavor.is_7_0() {
            lines.push("enable-debug-command yes".to_owned());
            lines.push("enable-protected-configs yes".to_owned());
        }
        if let Some(module) = &self.flavor.graph_module {
            // CMD_INFO writes telemetry streams into the keyspace, also for queries that only read
            lines.push(format!("loadmodule {} CMD_INFO no", module.display()));
        }
        if let Some(primary) = self.options.replica_of {
            lines.push(format!("replicaof {} {}", primary.ip(), primary.port()));
        }
        lines.extend(self.options.config.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// What this server is.
    pub fn flavor(&self) -> &Flavor {
        &self.flavor
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its URL, as `redwind` takes it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// The unix socket on which it listens as well.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Where it keeps its RDB and append-only files.
    pub fn data_dir(&self) -> PathBuf {
        let own = || self.folder.path().join("data");
        self.options.data_dir.clone().unwrap_or_else(own)
    }

    /// A new connection.
    ///
    /// # Panics
    /// When the server does not take it.
    pub fn cli(&self) -> Cli {
        Cli::connect(&self.socket()).expect("a running server takes connections")
    }

    /// One line of `INFO section`.
    pub fn info(&self, section: &str, field: &str) -> Option<String> {
        self.cli().info(section, field)
    }

    /// Waits until this replica has all that its primary has and the link is up.
    pub fn wait_synced(&self) {
        poll::until_true("the replica's link is up", || {
            self.info("replication", "master_link_status").as_deref() == Some("up")
        });
    }

    /// Everything it has logged, also before restarts.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL: what it had not written is lost.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// `SHUTDOWN SAVE` or `NOSAVE`, and waits for the end.
    ///
    /// # Panics
    /// When it is still there after [`poll::PATIENCE`].
    pub fn shutdown(&mut self, save: bool) -> ExitStatus {
        let how = if save { "SAVE" } else { "NOSAVE" };
        // the connection breaks before an answer comes
        self.cli().try_command(&["SHUTDOWN", how]).ok();
        let mut process = self.process.take().expect("it runs");
        process.wait(poll::PATIENCE)
    }

    /// Starts it again on the same port and data, after [`Self::kill9`] or [`Self::shutdown`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        self.process = None;
        if let Err(log) = self.launch() {
            panic!("{} does not start again:\n{log}", self.flavor);
        }
    }

    /// SIGSTOP: it neither reads nor answers until [`Self::go_on`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }
}

/// A blocking connection.
pub struct Cli {
    connection: Connection,
}

impl Cli {
    /// Connects to the unix socket at `path`.
    pub fn connect(path: &Path) -> RedisResult<Self> {
        Self::open(format!("redis+unix://{}", path.display()))
    }

    /// Connects to a `redis://` or `redis+unix://` URL.
    pub fn open(url: impl redis::IntoConnectionInfo) -> RedisResult<Self> {
        let connection = redis::Client::open(url)?.get_connection()?;
        connection.set_read_timeout(Some(poll::PATIENCE * 4))?;
        Ok(Self { connection })
    }

    /// Sends one command and returns its reply.
    ///
    /// # Panics
    /// When the reply is an error, or none comes.
    pub fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        let reply = self.try_command(arguments);
        reply.unwrap_or_else(|error| panic!("{}: {error}", shown(arguments)))
    }

    /// Sends one command and returns its reply, or the error.
    pub fn try_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> RedisResult<Value> {
        match self.connection.req_command(&packed(arguments))? {
            Value::ServerError(error) => Err(error.into()),
            reply => Ok(reply),
        }
    }

    /// Sends all commands at once; an error is a reply like others.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> Vec<Value> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend(packed(command).get_packed_command());
        }
        self.connection.req_packed_commands(&bytes, 0, commands.len()).expect("the server answers a pipeline")
    }

    /// One line of `INFO section`.
    pub fn info(&mut self, section: &str, field: &str) -> Option<String> {
        let text = text(&self.command(&["INFO", section]));
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == field).map(|(_, value)| value.trim().to_owned())
    }

    /// The server's replication offset.
    ///
    /// # Panics
    /// When INFO shows none.
    pub fn offset(&mut self) -> u64 {
        let offset = self.info("replication", "master_repl_offset");
        offset.and_then(|offset| offset.parse().ok()).expect("INFO shows the offset")
    }

    /// A configuration parameter.
    pub fn config_get(&mut self, name: &str) -> Option<String> {
        array(&self.command(&["CONFIG", "GET", name])).get(1).map(text)
    }
}

fn packed<A: AsRef<[u8]>>(arguments: &[A]) -> Cmd {
    let mut command = Cmd::new();
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    command
}

fn shown<A: AsRef<[u8]>>(arguments: &[A]) -> String {
    let short = |argument: &A| {
        let bytes = argument.as_ref();
        bytes[..bytes.len().min(40)].escape_ascii().to_string()
    };
    arguments.iter().map(short).collect::<Vec<_>>().join(" ")
}

/// A reply that is text, a status or a number, as text; anything else as nothing.
pub fn text(reply: &Value) -> String {
    String::from_utf8_lossy(&bytes(reply)).into_owned()
}

/// A reply that is text, a status or a number, as bytes; anything else as nothing.
pub fn bytes(reply: &Value) -> Vec<u8> {
    match reply {
        Value::BulkString(bytes) => bytes.clone(),
        Value::SimpleString(text) => text.clone().into_bytes(),
        Value::Okay => b"OK".to_vec(),
        Value::Int(number) => number.to_string().into_bytes(),
        Value::Double(number) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// The elements of an array reply; of anything else, none.
pub fn array(reply: &Value) -> &[Value] {
    match reply {
        Value::Array(elements) => elements,
        _ => &[],
    }
}

/// A number, also one sent as text.
///
/// # Panics
/// When it is none.
pub fn number(reply: &Value) -> i64 {
    let shown = text(reply);
    shown.parse().unwrap_or_else(|_| panic!("not a number: {reply:?}"))
}

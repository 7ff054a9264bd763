//! A throw-away server that applies the stream for us: the engine of an RDB file.
//!
//! It is a child process with an empty dataset in a folder of its own, reachable through a unix
//! socket that only we may open. It is started and asked what it is before anything is fetched.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use redwind_link::{Connection, LinkError, ServerAddress, ServerInfo, ServerUrl, TlsOptions, sanitised};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::fitness::{Needs, Unfit};
use crate::place::{PlaceError, at};

/// How long a server with an empty dataset may take to answer.
const START_TIME_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest path of a unix socket that every system takes (`sun_path`).
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// The file that `SAVE` writes.
const DUMP: &str = "dump.rdb";
/// How much of the end of its log goes into an error, in lines.
const LOG_LINES_SHOWN: usize = 5;

/// Which engine to use.
#[derive(Clone, Debug, Default)]
pub struct EngineChoice {
    /// The program; `None` to look on PATH for one of the source's vendor.
    pub program: Option<PathBuf>,
    /// More arguments, such as `--loadmodule /path/module.so`.
    pub args: Vec<OsString>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// None on PATH, or none that fits.
    #[error(
        "an RDB of this target takes a server to make it: install {needed}, or name its program by --engine{}",
        describe(tried)
    )]
    NotFound {
        /// What is needed.
        needed: String,
        /// The programs that were looked at, and what is wrong with each.
        tried: Vec<(PathBuf, Box<EngineError>)>,
    },
    /// The program is a server that does not fit.
    #[error("{} cannot restore this archive: {unfit}; it takes {needed}{}", program.display(), hint(unfit))]
    Unfit {
        /// The program.
        program: PathBuf,
        /// What does not fit.
        unfit: Unfit,
        /// What is needed.
        needed: String,
    },
    /// The program cannot be run.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program ended by itself.
    #[error("{} ended ({status}){}", program.display(), last_words(log))]
    Ended {
        /// The program.
        program: PathBuf,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The program runs and does not answer.
    #[error("{} does not answer{}", program.display(), last_words(log))]
    Silent {
        /// The program.
        program: PathBuf,
        /// The end of its log.
        log: String,
        /// What the last try met.
        source: Box<LinkError>,
    },
    /// Its folder cannot be made.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

fn describe(tried: &[(PathBuf, Box<EngineError>)]) -> String {
    let one = |(program, error): &(PathBuf, Box<EngineError>)| match &**error {
        EngineError::Unfit { unfit, .. } => format!("{}: {unfit}", program.display()),
        other => other.to_string(),
    };
    match tried {
        [] => String::new(),
        tried => format!(" (found {})", tried.iter().map(one).collect::<Vec<_>>().join("; ")),
    }
}

fn hint(unfit: &Unfit) -> &'static str {
    match unfit {
        Unfit::Module { .. } => " (--engine-arg --loadmodule --engine-arg /path/to/module.so)",
        _ => "",
    }
}

fn last_words(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its log ends with:\n{log}") }
}

/// A running engine. Killed and forgotten when dropped.
#[derive(Debug)]
pub struct Engine {
    program: PathBuf,
    child: Child,
    /// Its data, the log beside it.
    folder: PathBuf,
    socket: PathBuf,
    _socket_folder: TempDir,
}

impl Engine {
    /// Starts a server that fits `needs`, with its data in `folder`.
    ///
    /// # Errors
    /// [`EngineError`] says what to install, or what is wrong with the program given.
    pub async fn start(choice: &EngineChoice, needs: &Needs, folder: &Path) -> Result<Self, EngineError> {
        if let Some(program) = &choice.program {
            return Self::try_program(program, choice, needs, folder).await;
        }
        let mut tried: Vec<(PathBuf, Box<EngineError>)> = Vec::new();
        for program in programs_on_path(&needs.vendor) {
            match Self::try_program(&program, choice, needs, folder).await {
                Ok(engine) => return Ok(engine),
                Err(error) => tried.push((program, Box::new(error))),
            }
        }
        Err(EngineError::NotFound { needed: needs.describe(), tried })
    }

    async fn try_program(
        program: &Path,
        choice: &EngineChoice,
        needs: &Needs,
        folder: &Path,
    ) -> Result<Self, EngineError> {
        let mut engine = Self::spawn(program, &choice.args, folder)?;
        let server = engine.greet().await?;
        needs.check(&server).map_err(|unfit| EngineError::Unfit {
            program: program.to_owned(),
            unfit,
            needed: needs.describe(),
        })?;
        Ok(engine)
    }

    fn spawn(program: &Path, args: &[OsString], folder: &Path) -> Result<Self, EngineError> {
        let socket_folder = socket_folder()?;
        let socket = socket_folder.path().join("s");
        let config = folder.join("engine.conf");
        fs::write(&config, config_text(folder, &socket)).map_err(at("write", &config))?;
        let output = fs::File::create(folder.join("engine.out")).map_err(at("write in", folder))?;
        let errors = output.try_clone().map_err(at("write in", folder))?;
        let child = Command::new(program)
            .arg(&config)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| EngineError::Run { program: program.to_owned(), source })?;
        Ok(Self {
            program: program.to_owned(),
            child,
            folder: folder.to_owned(),
            socket,
            _socket_folder: socket_folder,
        })
    }

    /// Waits until it answers, and asks what it is.
    async fn greet(&mut self) -> Result<ServerInfo, EngineError> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            let error = match self.ask_info().await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            let ended = self.child.try_wait();
            if let Some(status) = ended.map_err(|source| EngineError::Run { program: self.program.clone(), source })? {
                return Err(self.ended(status));
            }
            if Instant::now() > deadline || !error.is_retryable() {
                let (program, log) = (self.program.clone(), self.log_end());
                return Err(EngineError::Silent { program, log, source: Box::new(error) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn ask_info(&self) -> Result<ServerInfo, LinkError> {
        self.connect().await?.info().await
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self) -> Result<Connection, LinkError> {
        let url = ServerUrl::new(ServerAddress::Unix(self.socket.clone()));
        Connection::connect(&url, &TlsOptions::default(), ANSWER_TIME_MAX).await
    }

    /// Runs `work`, unless the engine ends before.
    ///
    /// # Errors
    /// Those of `work`, or [`EngineError::Ended`].
    pub async fn alongside<T, E: From<EngineError>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let ended = tokio::select! {
            outcome = work => return outcome,
            ended = self.child.wait() => ended,
        };
        let error = match ended {
            Ok(status) => self.ended(status),
            Err(source) => EngineError::Run { program: self.program.clone(), source },
        };
        Err(error.into())
    }

    /// The RDB file that `SAVE` writes.
    #[must_use]
    pub fn dump(&self) -> PathBuf {
        self.folder.join(DUMP)
    }

    /// Ends it and waits until it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop(mut self) -> Result<(), EngineError> {
        self.child.kill().await.map_err(|source| EngineError::Run { program: self.program, source })
    }

    fn ended(&self, status: ExitStatus) -> EngineError {
        EngineError::Ended { program: self.program.clone(), status, log: self.log_end() }
    }

    fn log_end(&self) -> String {
        let read = |name: &str| fs::read(self.folder.join(name)).unwrap_or_default();
        let text = [read("engine.log"), read("engine.out")].concat();
        let lines: Vec<String> =
            text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).map(sanitised).collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

/// A folder for the socket alone, whose path must be short; the data may lie deep.
fn socket_folder() -> Result<TempDir, PlaceError> {
    let usual = std::env::temp_dir();
    let short = if usual.as_os_str().len() + 40 < SOCKET_PATH_BYTES_MAX { usual } else { PathBuf::from("/tmp") };
    tempfile::Builder::new().prefix("redwind-").tempdir_in(&short).map_err(at("write in", &short))
}

fn config_text(folder: &Path, socket: &Path) -> String {
    let quoted = |path: &Path| format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""));
    [
        "port 0".to_owned(),
        format!("unixsocket {}", quoted(socket)),
        "unixsocketperm 700".to_owned(),
        format!("dir {}", quoted(folder)),
        format!("dbfilename {DUMP}"),
        format!("logfile {}", quoted(&folder.join("engine.log"))),
        "save \"\"".to_owned(),
        "appendonly no".to_owned(),
        "daemonize no".to_owned(),
        "replica-read-only yes".to_owned(),
        // The payload is loaded as it comes instead of being written to disk first; servers fall back
        // by themselves when a module cannot do that.
        "repl-diskless-load on-empty-db".to_owned(),
        "rdbchecksum yes".to_owned(),
    ]
    .join("\n")
        + "\n"
}

/// The vendor's servers on PATH, in the order of preference.
fn programs_on_path(vendor: &str) -> Vec<PathBuf> {
    let names: &[&str] = match vendor {
        "valkey" => &["valkey-server", "redis-server"],
        "redict" => &["redict-server"],
        _ => &["redis-server"],
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let mut programs: Vec<PathBuf> = found.filter(|program| program.is_file()).collect();
    programs.dedup();
    programs
}

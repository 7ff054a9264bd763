//! Child processes that never outlive the test, whatever ends it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::poll;

/// A command that the kernel kills when the test process dies, as it does on a timeout or Ctrl-C,
/// where no destructor runs. Without `setpriv` (util-linux) it is the plain command.
pub fn command(program: impl AsRef<Path>) -> Command {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    match SETPRIV.get_or_init(|| on_path("setpriv")) {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]);
            command.arg(program.as_ref());
            command
        }
        None => Command::new(program.as_ref()),
    }
}

/// The first executable of this name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Spawns on a thread that lives as long as the process: the kernel takes the death of the thread
/// that spawned for the death of the parent, and test threads end early.
fn spawn_for_life(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                reply.send(command.spawn()).ok();
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    spawner
        .lock()
        .expect("no thread panics while it holds the spawner")
        .send((command, reply))
        .expect("the spawner lives as long as the process");
    answer.recv().expect("the spawner always answers")
}

/// A running child: killed when dropped, its log's end shown when the test failed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a [`command`], standard output and error appended to the file `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { name: name.to_owned(), child: spawn_for_life(command)?, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything written to standard output and error so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, signal).ok();
        }
    }

    /// How it ended, when it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it has not within `patience`.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        poll::until_within(patience, &what, || self.exited())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(&mut self) -> ExitStatus {
        self.child.kill().ok();
        self.child.wait().expect("our own child can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            println!("--- end of the log of {}:\n{}", self.name, last_lines(&self.log(), 40));
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A port that is free on 127.0.0.1 at this moment. Another process may take it before it is used:
/// whoever starts a server tries again with another.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("loopback has free ports")
        .port()
}

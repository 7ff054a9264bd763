//! Child processes: started with their output in a log file, never left behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::usage;

/// How long a process may take to end after SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How often something that offers no notification is looked at. What is looked at is mostly what is being
/// measured, and an answer costs an agent half a millisecond of the CPU time that it is charged with.
const POLL: Duration = Duration::from_millis(50);

/// Calls `ready` until it yields a value.
///
/// # Errors
/// The first error of `ready`, or that `what` did not come about within `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "{what} did not come about within {patience:?}");
        thread::sleep(POLL);
    }
}

/// A long-running child. Dropping it kills it.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command` with both output streams in `log`.
    ///
    /// # Errors
    /// When the log cannot be created or the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let child = redirect(&mut command, &log)?.spawn().with_context(|| format!("start {}", shown(&command)))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the end of its log, if the process is no longer running.
    ///
    /// # Errors
    /// That it has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; the end of its log:\n{}", self.name, tail(&self.log)),
        }
    }

    /// Sends SIGTERM and waits for the end; kills what does not heed it.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).with_context(|| format!("stop {}", self.name))?;
        wait_for(&format!("the end of {}", self.name), STOP_GRACE, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child has already been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program used from start to end.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// From just before the start to its exit.
    pub wall: Duration,
    /// User and system time of it and its reaped children.
    pub cpu: Duration,
    /// Its highest resident size in bytes, as last seen before it ended (looked at every 10 ms).
    pub peak_resident: u64,
}

/// Runs `command` to its end and measures it.
///
/// # Errors
/// When it cannot be started or its exit status is not 0; the message holds the end of its output.
pub fn run(mut command: Command, log: &Path) -> Result<Finished> {
    let started = Instant::now();
    let mut child = redirect(&mut command, log)?.spawn().with_context(|| format!("start {}", shown(&command)))?;
    let pid = Pid::from_child(&child);
    // A zombie still shows its times in /proc, so they are read before it is reaped.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let mut peak_resident = 0;
    while rustix::process::waitid(WaitId::Pid(pid), ended)?.is_none() {
        peak_resident = usage::peak_resident(child.id()).unwrap_or(peak_resident).max(peak_resident);
        thread::sleep(POLL);
    }
    let wall = started.elapsed();
    let cpu = usage::cpu_time(child.id())?;
    let status = child.wait()?;
    ensure!(status.success(), "{} ended with {status}; the end of its output:\n{}", shown(&command), tail(log));
    Ok(Finished { wall, cpu, peak_resident })
}

fn redirect<'a>(command: &'a mut Command, log: &Path) -> Result<&'a mut Command> {
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let copy = file.try_clone()?;
    Ok(command.stdin(Stdio::null()).stdout(file).stderr(copy))
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    words.into_iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_reported_with_its_output() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo went wrong; exit 3"]);
        let error = run(command, &dir.path().join("log")).expect_err("exit status 3");
        assert!(error.to_string().contains("went wrong"), "{error}");
    }

    #[test]
    fn cpu_of_a_finished_program_and_its_children_is_seen() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'; true"]);
        let finished = run(command, &dir.path().join("log")).expect("runs");
        assert!(finished.cpu > Duration::ZERO && finished.wall > Duration::ZERO);
    }
}

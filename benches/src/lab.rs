//! Where the scenarios run: programs, directories, and how much of everything.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::consumer::Kind;
use crate::server::Programs;
use crate::size::ByteSize;

/// What the command line says about a run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Size of the load or of the dataset [default: 1GiB; 512MiB for snapshot, memory and restore]
    #[arg(long, global = true)]
    pub size: Option<ByteSize>,

    /// Rounds; within a round every consumer has its turn
    #[arg(long, global = true, default_value_t = 3)]
    pub rounds: usize,

    /// Consumers to measure, where a scenario compares several
    #[arg(long, global = true, value_enum, value_delimiter = ',')]
    pub consumers: Vec<Kind>,

    /// Seed of the load
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,

    /// Directory of servers, each as NAME/bin/redis-server [default: ~/.cache/redwind/servers]
    #[arg(long, global = true, env = "REDWIND_TEST_SERVERS")]
    pub servers: Option<PathBuf>,

    /// The server to use of that directory; without it there, redis-server on the PATH
    #[arg(long, global = true, default_value = "redis-7.0")]
    pub server: String,

    /// The redwind program [default: beside this one]
    #[arg(long, global = true, env = "REDWIND_BIN")]
    pub redwind: Option<PathBuf>,

    /// Directory for data, on the disk to be measured [default: beside this program]
    #[arg(long, global = true)]
    pub dir: Option<PathBuf>,
}

/// A run's surroundings. Its directory is removed at the end.
pub struct Lab {
    options: Options,
    programs: Programs,
    redwind: PathBuf,
    work: TempDir,
    used: Cell<u32>,
}

impl Lab {
    /// Finds the programs and makes a directory to work in.
    ///
    /// # Errors
    /// When there is no server to run or no directory to write to.
    pub fn open(options: Options) -> Result<Self> {
        let home = std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache/redwind/servers"));
        let programs = Programs::find(options.servers.as_deref().or(home.as_deref()), &options.server)?;
        let here = std::env::current_exe().context("find this program")?;
        let here = here.parent().context("this program lies in no directory")?;
        let redwind = options.redwind.clone().unwrap_or_else(|| here.join("redwind"));
        // The build directory, because a system's temporary directory is often memory, where syncing is free.
        let parent = options.dir.clone().unwrap_or_else(|| here.join("bench-data"));
        fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
        let work = tempfile::Builder::new().prefix("run-").tempdir_in(&parent)?;
        Ok(Self { options, programs, redwind, work, used: Cell::new(0) })
    }

    /// What the command line said.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The size asked for, or else this.
    pub fn size(&self, default: u64) -> ByteSize {
        self.options.size.unwrap_or(ByteSize(default))
    }

    /// The consumers to measure: those asked for, or else `all`.
    pub fn consumers(&self, all: &[Kind]) -> Vec<Kind> {
        if self.options.consumers.is_empty() { all.to_vec() } else { self.options.consumers.clone() }
    }

    /// Whether the agent is to be measured at all, where a scenario has a peer's row of its own.
    pub fn agent_wanted(&self) -> bool {
        self.options.consumers.is_empty() || self.options.consumers.contains(&Kind::Agent)
    }

    /// The server's programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The redwind program.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn redwind(&self) -> Result<&Path> {
        if !self.redwind.is_file() {
            bail!(
                "no redwind program at {}: build it with `cargo build --release -p redwind-tools`, name it with \
                 --redwind, or leave the agent out with --consumers none,drain,aof",
                self.redwind.display()
            );
        }
        Ok(&self.redwind)
    }

    /// A new empty directory.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let number = self.used.get();
        self.used.set(number + 1);
        let directory = self.work.path().join(format!("{number:03}-{name}"));
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(directory)
    }

    /// Removes what a finished run has left, so that a long session needs the disk of one run.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(&self, directory: &Path) -> Result<()> {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))
    }
}

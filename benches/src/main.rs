//! `redwind-bench`: runs scenarios and prints their results as markdown.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use redwind_benches::lab::{Lab, Options};
use redwind_benches::report::{Section, Summary, machine};
use redwind_benches::{drain, scenario};

/// Measures redwind beside its peers, in the same run on the same load.
///
/// Results go to stdout as markdown, progress to stderr. The exit status is 1 when a bound does not hold.
#[derive(Parser)]
#[command(name = "redwind-bench", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Scenario {
    /// Mixed commands at full pipeline speed
    Ingest,
    /// Unpipelined small writes
    SmallWrites,
    /// A recorded stream replayed at line rate
    Sustained,
    /// A full copy of a dataset
    Snapshot,
    /// Memory with a slow, silent and failing store
    Memory,
    /// From an archive to a loaded server
    Restore,
    /// From a write to its being durable
    Latency,
    /// A month's catalog and a plan over it
    Planning,
    /// The framer by itself, in memory
    Framing,
    /// All of them
    All,
    /// Read and forget a replication stream (what the scenarios start as the floor)
    #[command(hide = true)]
    Drain {
        /// The server to attach to
        source: SocketAddr,
        /// Write the stream to this file
        #[arg(long)]
        record: Option<PathBuf>,
    },
}

type Run = fn(&Lab) -> Result<Section>;

impl Scenario {
    fn runs(&self) -> Vec<Run> {
        match self {
            Self::Ingest => vec![scenario::ingest::run],
            Self::SmallWrites => vec![scenario::small_writes::run],
            Self::Sustained => vec![scenario::sustained::run],
            Self::Snapshot => vec![scenario::snapshot::run],
            Self::Memory => vec![scenario::memory::run],
            Self::Restore => vec![scenario::restore::run],
            Self::Latency => vec![scenario::latency::run],
            Self::Planning => vec![scenario::planning::run],
            Self::Framing => vec![scenario::framing::run],
            Self::All => {
                let all = [
                    Self::Ingest,
                    Self::SmallWrites,
                    Self::Sustained,
                    Self::Snapshot,
                    Self::Memory,
                    Self::Restore,
                    Self::Latency,
                    Self::Planning,
                    Self::Framing,
                ];
                all.iter().flat_map(Self::runs).collect()
            }
            Self::Drain { .. } => Vec::new(),
        }
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Scenario::Drain { source, record } = &cli.scenario {
        drain::run(*source, record.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    let words: Vec<String> = std::env::args().skip(1).collect();
    writeln!(out, "# redwind-bench {}\n\n{}; {} rounds.\n", words.join(" "), machine(), cli.options.rounds)?;
    let lab = Lab::open(cli.options)?;
    let (mut sections, mut failed) = (Vec::new(), false);
    for run in cli.scenario.runs() {
        match run(&lab) {
            Ok(section) => {
                writeln!(out, "{section}")?;
                sections.push(section);
            }
            // What the others found is worth no less for it.
            Err(error) => {
                writeln!(out, "**failed**: {error:#}\n")?;
                failed = true;
            }
        }
        out.flush()?;
    }
    if sections.len() > 1 {
        write!(out, "{}", Summary(&sections))?;
    }
    let good = !failed && sections.iter().all(Section::holds);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

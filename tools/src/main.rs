//! redwind: the command line.

mod agent_address;
mod archive_args;
mod cli;
mod commands;
mod exit;
mod key_args;
mod logging;
mod quantity;
mod screen;
mod secret_args;
mod settings_file;
mod source_args;
mod target;
mod tls_args;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{Cli, Command};
use crate::commands::{agent, check, keygen, list, restore, rewrap, snapshot, status, verify};
use crate::exit::Status;
use crate::logging::LogFormat;

fn main() -> ExitCode {
    // One provider for every TLS connection; rustls panics on a choice that was left open.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = cli::parse(std::env::args_os()).and_then(run);
    outcome.unwrap_or_else(|error| exit::report(&error)).into()
}

fn run(cli: Cli) -> anyhow::Result<Status> {
    match &cli.command {
        Command::Agent(args) => args.start_logging()?,
        _ => logging::init(LogFormat::Text, "warn")?,
    }
    warn_of_visible_password();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let start = || runtime().context("cannot start the runtime");
    match cli.command {
        // The agent has a runtime of its own, which its shutdown ends.
        Command::Agent(args) => agent::run(&args),
        Command::Check(args) => start()?.block_on(check::run(args)),
        Command::List(args) => start()?.block_on(list::run(args)),
        Command::Restore(args) => start()?.block_on(restore::run(*args)),
        Command::Verify(args) => start()?.block_on(verify::run(args)),
        Command::Keygen(args) => keygen::run(&args),
        Command::Rewrap(args) => start()?.block_on(rewrap::run(args)),
        Command::Status(args) => start()?.block_on(status::run(args)),
        Command::Snapshot(args) => start()?.block_on(snapshot::run(args)),
    }
}

fn warn_of_visible_password() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.any(|argument| argument.to_str().is_some_and(source_args::shows_password)) {
        tracing::warn!(
            "the password in the URL on the command line is visible in the process list; \
             give it by file or environment instead"
        );
    }
}

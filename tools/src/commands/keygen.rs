//! `redwind keygen`: an identity, and the recipient that belongs to it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use redwind_archive::keys::NewIdentity;

use crate::exit::{Status, UsageError};

/// Make an age identity, whose recipient archives are encrypted to
///
/// Keep the identity where no agent is and no bucket's keys are, and more than once: without it nothing
/// can be restored. The recipient is for `redwind agent --recipient`.
#[derive(clap::Args)]
pub(crate) struct KeygenArgs {
    /// Write the identity to this new file, readable by its owner only, and print its recipient
    ///
    /// Unless given, the identity goes to stdout and its recipient to stderr.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[expect(clippy::print_stderr, reason = "the recipient is for whoever reads the screen, the identity for a pipe")]
pub(crate) fn run(args: &KeygenArgs) -> anyhow::Result<Status> {
    let identity = NewIdentity::generate();
    let mut out = std::io::stdout().lock();
    match &args.output {
        Some(path) => {
            write_new(path, &identity)?;
            writeln!(out, "{}", identity.recipient())?;
        }
        None => {
            out.write_all(identity.file().as_bytes())?;
            eprintln!("recipient: {}", identity.recipient());
        }
    }
    Ok(Status::Done)
}

fn write_new(path: &Path, identity: &NewIdentity) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let problem = format!("{} exists; an identity is never overwritten", path.display());
            return Err(UsageError::new(problem).into());
        }
        opened => opened.with_context(|| format!("cannot create {}", path.display()))?,
    };
    let written = file.write_all(identity.file().as_bytes()).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))
}

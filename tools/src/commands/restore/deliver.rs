//! Bringing a recording to its destination.

use std::future::Future;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use redwind_link::ServerUrl;
use redwind_restore::aof::{self, AofDestination};
use redwind_restore::engine::EngineChoice;
use redwind_restore::into::{IntoOptions, IntoTarget};
use redwind_restore::primary::{Primary, until_left};
use redwind_restore::rdb::{self, RdbDestination};
use redwind_restore::{Progress, Recording, RestoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::report::{Delivered, Report};
use super::{Destination, RestoreArgs, bar};
use crate::exit::UsageError;

pub(super) async fn deliver(
    args: &RestoreArgs,
    destination: Destination,
    recording: &Recording,
    report: &mut Report,
) -> anyhow::Result<()> {
    let progress = Progress::default();
    let delivered = match destination {
        Destination::Aof(folder) => to_aof(args, &folder, recording, &progress).await?,
        Destination::Rdb(file) => to_rdb(args, &file, recording, &progress).await?,
        Destination::Into(server) => to_server(args, server, recording, &progress).await?,
        Destination::Serve(address) => serve(args, address, recording, &progress).await?,
    };
    report.delivered(delivered, &progress);
    Ok(())
}

async fn to_aof(
    args: &RestoreArgs,
    folder: &Path,
    recording: &Recording,
    progress: &Progress,
) -> anyhow::Result<Delivered> {
    let to = AofDestination::check(folder, args.force).map_err(RestoreError::from)?;
    let writing = unless_interrupted(aof::write(recording, to, progress));
    bar::while_shown(progress, recording, writing).await?;
    Ok(Delivered::Aof { folder: std::path::absolute(folder)? })
}

async fn to_rdb(
    args: &RestoreArgs,
    file: &Path,
    recording: &Recording,
    progress: &Progress,
) -> anyhow::Result<Delivered> {
    let choice = EngineChoice { program: args.how.engine.clone(), args: args.how.engine_arg.clone() };
    let making = unless_interrupted(async {
        let to = RdbDestination::prepare(file, args.force, recording, &choice).await?;
        rdb::write(recording, to, progress).await
    });
    let refused_commands = bar::while_shown(progress, recording, making).await?;
    Ok(Delivered::Rdb { file: std::path::absolute(file)?, refused_commands })
}

async fn to_server(
    args: &RestoreArgs,
    server: ServerUrl,
    recording: &Recording,
    progress: &Progress,
) -> anyhow::Result<Delivered> {
    let address = server.address().to_string();
    let options =
        IntoOptions { tls: args.how.tls(&server), target: server, listen: args.how.listen, force: args.force };
    let target = unless_interrupted(IntoTarget::check(options, recording)).await?;
    if target.keys > 0 && !args.yes {
        confirm(&address, target.keys)?;
    }
    let cancel = CancellationToken::new();
    let restoring = async {
        let mut restoring = std::pin::pin!(target.restore(recording, progress, cancel.clone()));
        tokio::select! {
            outcome = &mut restoring => return outcome,
            () = interrupted() => cancel.cancel(),
        }
        // It still has to put the server's settings back.
        restoring.await
    };
    let refused_commands = bar::while_shown(progress, recording, restoring).await?;
    Ok(Delivered::Into { server: address, refused_commands })
}

/// Asks on a terminal. A script has said it by `--force` alone.
#[expect(clippy::print_stderr, reason = "a question to whoever ran the command")]
fn confirm(address: &str, keys: u64) -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Ok(());
    }
    eprint!("{address} holds {keys} keys; all of them will be lost. Replace them? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(UsageError::new("nothing was changed").into()),
    }
}

async fn serve(
    args: &RestoreArgs,
    address: SocketAddr,
    recording: &Recording,
    progress: &Progress,
) -> anyhow::Result<Delivered> {
    let primary = Primary::bind(address, recording.clone(), progress.clone()).await.map_err(RestoreError::from)?;
    let (address, password) = (primary.address(), primary.password().expose().to_owned());
    Report::print_serving(address, &password, args.json).context("cannot write to standard output")?;
    let mut standing = primary.standing();
    let holders = async {
        for time in 1.. {
            let applied = standing.wait_for(|standing| standing.times_applied >= time);
            // The primary's own end is told by its error.
            let Ok(Some(replica)) = bar::while_shown(progress, recording, applied).await.map(|now| now.applied) else {
                break;
            };
            Report::print_holder(replica, args.json).context("cannot write to standard output")?;
            if args.how.once {
                until_left(standing).await;
                return Ok::<(), anyhow::Error>(());
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        outcome = holders => outcome?,
        error = primary.run() => return Err(RestoreError::from(error).into()),
        () = interrupted() => {}
    }
    Ok(Delivered::Served { address })
}

/// Does `work` until it is done or the process is asked to stop. What was unfinished is removed with
/// it.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T, RestoreError>>) -> Result<T, RestoreError> {
    tokio::select! {
        outcome = work => outcome,
        () = interrupted() => Err(RestoreError::Interrupted),
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be caught");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

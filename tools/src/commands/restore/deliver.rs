//! Bringing a recording to its destination.

use std::future::Future;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use redwind_archive::audit::Destination as Kind;
use redwind_link::ServerUrl;
use redwind_restore::aof::{self, AofDestination};
use redwind_restore::engine::EngineChoice;
use redwind_restore::into::{IntoOptions, IntoTarget};
use redwind_restore::primary::{Primary, until_left};
use redwind_restore::rdb::{self, RdbDestination};
use redwind_restore::{Progress, Recording, RestoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::audit::AuditLog;
use super::report::{Delivered, Report};
use super::{Destination, RestoreArgs, bar};
use crate::exit::UsageError;

pub(super) async fn deliver(
    args: &RestoreArgs,
    destination: Destination,
    recording: &Recording,
    audit: &AuditLog,
    report: &mut Report,
) -> anyhow::Result<()> {
    let delivery = Delivery { args, recording, audit, progress: Progress::default() };
    let delivered = match destination {
        Destination::Aof(folder) => delivery.to_aof(&folder).await?,
        Destination::Rdb(file) => delivery.to_rdb(&file).await?,
        Destination::Into(server) => delivery.to_server(server).await?,
        Destination::Serve(address) => delivery.serve(address).await?,
    };
    report.delivered(delivered, &delivery.progress);
    Ok(())
}

/// One recording on its way to one destination.
struct Delivery<'a> {
    args: &'a RestoreArgs,
    recording: &'a Recording,
    audit: &'a AuditLog,
    progress: Progress,
}

impl Delivery<'_> {
    async fn to_aof(&self, folder: &Path) -> anyhow::Result<Delivered> {
        let to = AofDestination::check(folder, self.args.force).map_err(RestoreError::from)?;
        let folder = std::path::absolute(folder)?;
        self.audit.enter(Kind::Aof, folder.display().to_string()).await;
        let writing = unless_interrupted(aof::write(self.recording, to, &self.progress));
        bar::while_shown(&self.progress, self.recording, writing).await?;
        Ok(Delivered::Aof { folder })
    }

    async fn to_rdb(&self, file: &Path) -> anyhow::Result<Delivered> {
        let how = &self.args.how;
        let choice = EngineChoice { program: how.engine.clone(), args: how.engine_arg.clone() };
        let path = std::path::absolute(file)?;
        let making = unless_interrupted(async {
            let to = RdbDestination::prepare(file, self.args.force, self.recording, &choice).await?;
            self.audit.enter(Kind::Rdb, path.display().to_string()).await;
            rdb::write(self.recording, to, &self.progress).await
        });
        let refused_commands = bar::while_shown(&self.progress, self.recording, making).await?;
        Ok(Delivered::Rdb { file: path, refused_commands })
    }

    async fn to_server(&self, server: ServerUrl) -> anyhow::Result<Delivered> {
        let args = self.args;
        let address = server.address().to_string();
        let options =
            IntoOptions { tls: args.how.tls(&server), target: server, listen: args.how.listen, force: args.force };
        let target = unless_interrupted(IntoTarget::check(options, self.recording)).await?;
        if target.keys > 0 && !args.yes {
            confirm(&address, target.keys)?;
        }
        self.audit.enter(Kind::Into, address.clone()).await;
        let cancel = CancellationToken::new();
        let restoring = async {
            let mut restoring = std::pin::pin!(target.restore(self.recording, &self.progress, cancel.clone()));
            tokio::select! {
                outcome = &mut restoring => return outcome,
                () = interrupted() => cancel.cancel(),
            }
            // It still has to put the server's settings back.
            restoring.await
        };
        let refused_commands = bar::while_shown(&self.progress, self.recording, restoring).await?;
        Ok(Delivered::Into { server: address, refused_commands })
    }

    async fn serve(&self, address: SocketAddr) -> anyhow::Result<Delivered> {
        let (args, recording, progress) = (self.args, self.recording, &self.progress);
        let primary = Primary::bind(address, recording.clone(), progress.clone()).await.map_err(RestoreError::from)?;
        let (address, password) = (primary.address(), primary.password().expose().to_owned());
        self.audit.enter(Kind::Serve, address.to_string()).await;
        Report::print_serving(address, &password, args.json).context("cannot write to standard output")?;
        let mut standing = primary.standing();
        let holders = async {
            for time in 1.. {
                let applied = standing.wait_for(|standing| standing.times_applied >= time);
                // The primary's own end is told by its error.
                let Ok(Some(replica)) = bar::while_shown(progress, recording, applied).await.map(|now| now.applied)
                else {
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

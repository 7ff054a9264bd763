//! Bringing a recording to its destination.

use std::io::{self, IsTerminal as _, Write as _};
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
use tokio::sync::oneshot;
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
    let interrupted = interruption().context("cannot listen for signals")?;
    let delivery = Delivery { args, recording, audit, progress: Progress::default(), interrupted };
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
    /// Cancelled when the process is asked to stop.
    interrupted: CancellationToken,
}

impl Delivery<'_> {
    async fn to_aof(&self, folder: &Path) -> anyhow::Result<Delivered> {
        let to = AofDestination::check(folder, self.args.force).map_err(RestoreError::from)?;
        let folder = std::path::absolute(folder)?;
        let writing = self.unless_interrupted(async {
            self.audit.enter(Kind::Aof, folder.display().to_string()).await;
            Ok(aof::write(self.recording, to, &self.progress).await?)
        });
        bar::while_shown(&self.progress, self.recording, writing).await?;
        Ok(Delivered::Aof { folder })
    }

    async fn to_rdb(&self, file: &Path) -> anyhow::Result<Delivered> {
        let how = &self.args.how;
        let choice = EngineChoice { program: how.engine.clone(), args: how.engine_arg.clone() };
        let path = std::path::absolute(file)?;
        let making = self.unless_interrupted(async {
            let to = RdbDestination::prepare(file, self.args.force, self.recording, &choice).await?;
            self.audit.enter(Kind::Rdb, path.display().to_string()).await;
            Ok(rdb::write(self.recording, to, &self.progress).await?)
        });
        let refused_commands = bar::while_shown(&self.progress, self.recording, making).await?;
        Ok(Delivered::Rdb { file: path, refused_commands })
    }

    async fn to_server(&self, server: ServerUrl) -> anyhow::Result<Delivered> {
        let args = self.args;
        let address = server.address().to_string();
        let options =
            IntoOptions { tls: args.how.tls(&server), target: server, listen: args.how.listen, force: args.force };
        let preparing = self.unless_interrupted(async {
            let target = IntoTarget::check(options, self.recording).await?;
            if target.keys > 0 && !args.yes {
                confirm(&address, target.keys).await?;
            }
            self.audit.enter(Kind::Into, address.clone()).await;
            Ok(target)
        });
        let target = preparing.await?;
        // Interrupted, it still has to put the server's settings back.
        let restoring = target.restore(self.recording, &self.progress, self.interrupted.clone());
        let refused_commands = bar::while_shown(&self.progress, self.recording, restoring).await?;
        Ok(Delivered::Into { server: address, refused_commands })
    }

    async fn serve(&self, address: SocketAddr) -> anyhow::Result<Delivered> {
        let (args, recording, progress) = (self.args, self.recording, &self.progress);
        let primary = Primary::bind(address, recording.clone(), progress.clone()).await.map_err(RestoreError::from)?;
        let (address, password) = (primary.address(), primary.password().expose().to_owned());
        let entering = async {
            self.audit.enter(Kind::Serve, address.to_string()).await;
            Ok(())
        };
        self.unless_interrupted(entering).await?;
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
            () = self.interrupted.cancelled() => {}
        }
        Ok(Delivered::Served { address })
    }

    /// Does `work` until it is done or the process is asked to stop. What was unfinished is removed with it.
    async fn unless_interrupted<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        match self.interrupted.run_until_cancelled(work).await {
            Some(outcome) => outcome,
            None => Err(RestoreError::Interrupted.into()),
        }
    }
}

/// Asks on a terminal. A script has said it by `--force` alone.
#[expect(clippy::print_stderr, reason = "a question to whoever ran the command")]
async fn confirm(address: &str, keys: u64) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{address} holds {keys} keys; all of them will be lost. Replace them? [y/N] ");
    io::stderr().flush()?;
    let (tell, told) = oneshot::channel();
    // A thread that nobody waits for: whoever is asked may stop the process instead of answering.
    std::thread::spawn(move || {
        let mut answer = String::new();
        let _ = tell.send(io::stdin().read_line(&mut answer).map(|_| answer));
    });
    match told.await??.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(UsageError::new("nothing was changed").into()),
    }
}

/// What Ctrl-C and SIGTERM cancel. Once for the whole delivery: from the first time that somebody listens
/// for them they do nothing by themselves, and what comes while nobody listens is lost.
fn interruption() -> io::Result<CancellationToken> {
    let [mut interrupt, mut terminate] = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let interrupted = CancellationToken::new();
    let cancelling = interrupted.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelling.cancel();
    });
    Ok(interrupted)
}

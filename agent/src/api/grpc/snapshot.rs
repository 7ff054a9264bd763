//! `TakeSnapshot`: one is asked for, or the one under way is followed, until it is complete.

use std::time::Duration;

use futures::StreamExt as _;
use redwind_archive::audit::AuditEvent;
use redwind_archive::documents::Manifest;
use redwind_proto::v1::TakeSnapshotResponse;
use redwind_proto::v1::take_snapshot_response::State;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use ulid::Ulid;

use super::{Answers, Caller, ServedSource, stopping};
use crate::api::status::{snapshot, snapshot_progress};
use crate::source::{Phase, SnapshotRequest};

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<TakeSnapshotResponse, Status>>;

/// Starts or joins, and tells how it goes. That `caller` asked is entered into the audit log.
///
/// # Errors
/// When none can be taken now.
pub(super) fn take(
    source: ServedSource,
    caller: Caller,
    closing: CancellationToken,
) -> Result<Answers<TakeSnapshotResponse>, Status> {
    let watches = source.view.watches();
    if watches.progress.borrow().fenced {
        return Err(Status::failed_precondition("fenced: another agent writes the archive"));
    }
    if matches!(watches.link.borrow().phase, Phase::StandingBy { .. }) {
        return Err(Status::failed_precondition("standing by: another agent writes the archive"));
    }
    let running = watches.snapshots.borrow().running.map(|running| running.id);
    if running.is_none() && watches.link.borrow().phase != Phase::Streaming {
        return Err(Status::unavailable("there is no link to the server"));
    }
    let asked = AuditEvent::Snapshot { peer: caller.address.to_string(), role: caller.role.as_str().to_owned() };
    source.audit.enter(asked).map_err(|full| Status::unavailable(full.to_string()))?;
    let (sender, answers) = mpsc::channel(1);
    // Ends with the snapshot, with the call, or with the agent.
    tokio::spawn(async move {
        let followed = follow(&source, running, &sender);
        let outcome = tokio::select! {
            biased;
            () = closing.cancelled() => Err(stopping()),
            () = sender.closed() => return,
            outcome = followed => outcome,
        };
        let last = outcome.map(|manifest| answer(State::Snapshot(snapshot(&manifest))));
        // Whoever asked may have gone since.
        let _ = sender.send(last).await;
    });
    Ok(ReceiverStream::new(answers).boxed())
}

async fn follow(source: &ServedSource, running: Option<Ulid>, sender: &Sender) -> Result<Manifest, Status> {
    let outcome = async {
        match running {
            Some(id) => join(source, id).await,
            None => request(source).await,
        }
    };
    let mut outcome = std::pin::pin!(outcome);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            outcome = &mut outcome => return outcome,
            _ = ticks.tick() => {
                let progress = source.view.watches().snapshots.borrow().running.as_ref().map(snapshot_progress);
                // A reader that is slow misses some.
                let _ = sender.try_send(Ok(answer(State::Progress(progress.unwrap_or_default()))));
            }
        }
    }
}

async fn request(source: &ServedSource) -> Result<Manifest, Status> {
    let (reply, outcome) = oneshot::channel();
    source.snapshots.send(SnapshotRequest { reply }).await.map_err(|_| stopping())?;
    outcome.await.map_err(|_| stopping())?.map_err(Status::aborted)
}

/// Waits for the end of the snapshot `id`, which somebody else asked for.
async fn join(source: &ServedSource, id: Ulid) -> Result<Manifest, Status> {
    let mut snapshots = source.view.watches().snapshots.clone();
    let ended = |state: &crate::journal::SnapshotState| state.running.as_ref().is_none_or(|running| running.id != id);
    let state = snapshots.wait_for(ended).await.map_err(|_| stopping())?.clone();
    match state.last {
        Some(last) if last.snapshot == id => Ok(last.as_ref().clone()),
        _ => Err(Status::aborted(state.last_error.unwrap_or_else(|| "the snapshot was not completed".to_owned()))),
    }
}

fn answer(state: State) -> TakeSnapshotResponse {
    TakeSnapshotResponse { state: Some(state) }
}

//! `WaitDurable`: until a position can be restored.

use std::time::Duration;

use redwind_archive::position::{HistoryId, Offset, Position};
use redwind_proto::v1::{Position as PositionMessage, WaitDurableRequest, WaitDurableResponse};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use ulid::Ulid;

use super::{ServedSource, duration, stopping};
use crate::api::status::{instant, position};
use crate::journal::Progress;

/// Between two looks whether a position that has not been received yet has been: nobody tells.
const RECEIVED_INTERVAL: Duration = Duration::from_millis(20);

/// Waits for the position that `request` names.
pub(super) async fn wait(
    source: &ServedSource,
    request: &WaitDurableRequest,
    closing: &CancellationToken,
) -> Result<WaitDurableResponse, Status> {
    let limit = request.timeout.map(|timeout| duration("timeout", timeout)).transpose()?;
    let target = target(source, request.position.as_ref())?;
    let reached = reached(source, target);
    let timed = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, reached).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!("{target} is not durable yet, after {limit:?}")))
            }),
            None => reached.await,
        }
    };
    tokio::select! {
        biased;
        () = closing.cancelled() => Err(stopping()),
        outcome = timed => outcome,
    }
}

fn target(source: &ServedSource, asked: Option<&PositionMessage>) -> Result<Position, Status> {
    let received = source.view.received();
    let current = received.ok_or_else(|| Status::unavailable("the source has not been reached yet"))?;
    let Some(asked) = asked else { return Ok(current) };
    let history = match asked.history.as_str() {
        "" => current.history,
        text => {
            let id = Ulid::from_string(text);
            HistoryId(id.map_err(|_| Status::invalid_argument(format!("position.history: {text:?} is no ULID")))?)
        }
    };
    if history != current.history {
        let writing = current.history;
        let message = format!(
            "history {history} is not the one being written, {writing}; `redwind list` tells how far it reaches"
        );
        return Err(Status::out_of_range(message));
    }
    Ok(Position { history, offset: Offset(asked.offset) })
}

/// Waits without a limit, and asks for a flush as soon as the position has been received.
async fn reached(source: &ServedSource, target: Position) -> Result<WaitDurableResponse, Status> {
    let mut progress = source.view.watches().progress.clone();
    let mut asked = false;
    loop {
        if let Some(durable) = durable(&progress.borrow_and_update(), target)? {
            return Ok(durable);
        }
        if !asked && source.view.received().is_some_and(|received| received.offset >= target.offset) {
            asked = true;
            source.flush.notify_one();
        }
        tokio::select! {
            changed = progress.changed() => changed.map_err(|_| stopping())?,
            () = tokio::time::sleep(RECEIVED_INTERVAL), if !asked => {}
        }
    }
}

/// The answer, if `target` is durable; an error if it cannot become so any more.
fn durable(progress: &Progress, target: Position) -> Result<Option<WaitDurableResponse>, Status> {
    if let (true, Some(offset)) = (progress.is_durable(target), progress.durable) {
        let durable = position(Position { history: target.history, offset });
        return Ok(Some(WaitDurableResponse { durable: Some(durable), durable_at: progress.durable_at.map(instant) }));
    }
    if progress.fenced {
        return Err(Status::failed_precondition("fenced: another agent writes the archive"));
    }
    match progress.history {
        Some(history) if history != target.history => Err(Status::aborted(format!(
            "history {} ended before {} was durable; {history} followed it",
            target.history, target.offset
        ))),
        _ => Ok(None),
    }
}

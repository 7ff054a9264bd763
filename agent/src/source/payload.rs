//! Reads the payload of a full resync from a connection, checking it on the way.

use std::time::Duration;

use bytes::BytesMut;
use redwind_archive::position::{Offset, Position};
use redwind_link::{LinkError, ServerAddress};
use redwind_stream::{Framing, PayloadDecoder, RdbCheck, RdbInfo};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::error::AttachError;
use super::handshake::id_text;
use crate::journal::SnapshotWriter;

const READ_BYTES: usize = 256 << 10;
/// Without a byte for so long, not even the empty line of every second, the transfer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Where a full resync stands, as the server announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) replication_id: [u8; 40],
    pub(super) offset: Offset,
}

/// Where an RDB goes, and where it stands.
pub(super) struct Destination<'a> {
    pub(super) writer: &'a mut SnapshotWriter,
    pub(super) position: Position,
}

/// Reads the whole payload, `early` first, and tells what the RDB is. What was read beyond it stays
/// in `early`. The RDB goes to `destination`, if there is one.
///
/// # Errors
/// The transfer broke, the RDB is damaged, or stands elsewhere than announced; or the writer failed.
pub(super) async fn read_payload(
    stream: &mut (impl AsyncRead + Unpin),
    early: &mut BytesMut,
    address: &ServerAddress,
    announced: Announced,
    mut destination: Option<Destination<'_>>,
) -> Result<RdbInfo, AttachError> {
    let mut decoder = PayloadDecoder::new();
    let mut check = RdbCheck::new();
    let mut framing = None;
    if let Some(Destination { writer, position }) = &destination {
        writer.announce(*position, None);
    }
    loop {
        let decoded = decoder.push(early)?;
        for piece in [decoded.held, decoded.payload] {
            check.push(piece)?;
            if let (Some(destination), false) = (&mut destination, piece.is_empty()) {
                destination.writer.push(piece).await?;
            }
        }
        let (consumed, finished) = (decoded.consumed, decoded.finished);
        let _ = early.split_to(consumed);
        if framing.is_none() {
            framing = decoder.framing();
            if let (Some(Destination { writer, position }), Some(Framing::Length(bytes))) = (&destination, framing) {
                writer.announce(*position, Some(bytes));
            }
        }
        if finished {
            break;
        }
        early.reserve(READ_BYTES);
        fill(stream, early, address).await?;
    }
    let info = check.finish()?;
    compare(&info, announced)?;
    Ok(info)
}

async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    address: &ServerAddress,
) -> Result<(), LinkError> {
    let address = || address.clone();
    match timeout(SILENCE_MAX, stream.read_buf(buffer)).await {
        Ok(Ok(0)) => Err(LinkError::Closed { address: address() }),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(LinkError::Lost { address: address(), source }),
        Err(_) => Err(LinkError::Timeout {
            address: address(),
            waiting_for: "more of the RDB".to_owned(),
            after: SILENCE_MAX,
        }),
    }
}

/// The RDB repeats what it belongs to, when the server keeps a replication log.
fn compare(info: &RdbInfo, announced: Announced) -> Result<(), AttachError> {
    let announced_id = id_text(&announced.replication_id);
    let same_id = info.repl_id.as_ref().is_none_or(|id| id.eq_ignore_ascii_case(&announced_id));
    let same_offset = info.repl_offset.is_none_or(|offset| offset == announced.offset.0);
    if same_id && same_offset {
        return Ok(());
    }
    let found = format!(
        "{}:{}",
        info.repl_id.as_deref().unwrap_or("?"),
        info.repl_offset.map_or("?".to_owned(), |offset| offset.to_string())
    );
    Err(AttachError::RdbElsewhere { found, announced: format!("{announced_id}:{}", announced.offset) })
}

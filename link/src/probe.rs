//! Finding out whether replication is allowed, without replicating.

use std::time::Duration;

use redwind_stream::encode_command;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connection::Connection;
use crate::error::LinkError;
use crate::info::ReplicationInfo;

/// Bytes of two short answers.
const ANSWERS_BYTES_MAX: usize = 16 << 10;

/// Whether the user of `probe` may run PSYNC, as far as that can be known; the connection is closed
/// afterwards. `replication` is what the same server has just told of itself.
///
/// It is sent in one write behind another command: a server that has an answer pending for us refuses
/// PSYNC and does nothing ("SYNC and PSYNC are invalid with pending output", `syncCommand`), but says
/// NOPERM before that (`processCommand`). Should the two ever be read apart, it asks for the very end
/// of the stream, which costs the server nothing where it has a backlog.
///
/// # Errors
/// [`LinkError::NoPermission`] or [`LinkError::UnknownCommand`] when it may not; others when the
/// connection is lost on the way.
pub async fn psync_allowed(
    probe: Connection,
    replication: &ReplicationInfo,
    timeout: Duration,
) -> Result<(), LinkError> {
    let address = probe.address().clone();
    let next = replication.master_repl_offset.saturating_add(1).to_string();
    let psync: [&[u8]; 3] = [b"PSYNC", replication.master_replid.as_bytes(), next.as_bytes()];
    let wire = [encode_command(&[b"PING"]), encode_command(&psync)].concat();
    let (mut stream, mut answers) = probe.into_stream();
    let exchange = async {
        stream.write_all(&wire).await?;
        stream.flush().await?;
        while lines(&answers).count() < 2 && answers.len() < ANSWERS_BYTES_MAX {
            if stream.read_buf(&mut answers).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(source)) => return Err(LinkError::Lost { address, source }),
        Err(_) => return Err(LinkError::Timeout { address, waiting_for: "PSYNC".into(), after: timeout }),
    }
    let answer = lines(&answers).nth(1).ok_or(LinkError::Closed { address })?;
    let Some(refusal) = answer.strip_prefix(b"-") else { return Ok(()) };
    match LinkError::from_server(&psync, refusal) {
        error @ (LinkError::NoPermission { .. } | LinkError::UnknownCommand { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// The complete lines of `answers` that are not empty.
fn lines(answers: &[u8]) -> impl Iterator<Item = &[u8]> {
    let complete = answers.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    answers[..complete].split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(lines(b"").count(), 0);
        assert_eq!(lines(b"+PONG\r\n-ER").collect::<Vec<_>>(), [b"+PONG"]);
        assert_eq!(lines(b"+PONG\r\n\n-ERR x\r\n").collect::<Vec<_>>(), [&b"+PONG"[..], b"-ERR x"]);
    }
}

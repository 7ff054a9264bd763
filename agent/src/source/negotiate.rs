//! Where the log goes on: in the history that the archive has, or in a new one.
//!
//! `INFO` tells beforehand whether a partial resync can succeed, by the very rules that the server
//! will apply (`masterTryPartialResynchronization` in `replication.c`). When it cannot, it is not
//! asked for: the answer would be a full resync, which costs the server a fork and us the seconds
//! until it comes. Instead a new history begins right where the server stands, by a partial resync
//! too; the full one is left for a server that keeps no backlog, and on Redis 7.0+ and Valkey it
//! then brings an RDB without keys (`rdb-filter-only ""`).
//!
//! Redis 6.2 cannot leave the keys out. There a snapshot is begun first, which makes the server keep
//! a backlog, and the log is fitted to it. Should the log be answered with a full resync all the
//! same, its RDB becomes the history's first snapshot.

use bytes::BytesMut;
use redwind_archive::documents::Cause;
use redwind_archive::position::Offset;
use redwind_archive::time::Clock;
use redwind_link::{Connection, ReplicationInfo, Role, ServerAddress, Transport};

use super::attention::Moment;
use super::error::AttachError;
use super::handshake::{Endpoint, PsyncAnswer, PsyncRequest, for_log, psync, replication_id};
use super::monitor::{Facts, examine};
use super::payload::{Announced, read_payload};
use super::snapshot_transfer::SnapshotStream;
use crate::journal::ResumePoint;

/// What the archive needs.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// Where its newest history ends, if that can be continued at all.
    pub(super) resume: Option<ResumePoint>,
    /// Why a new history would begin, where the reason is on our side.
    pub(super) because: Option<Cause>,
    /// A replica that is behind the archive may catch up: rather wait than begin a new history.
    pub(super) patient: bool,
}

/// A log connection that is online, or will be once a payload has been read from it.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) facts: Facts,
    pub(super) control: Connection,
    pub(super) transport: Transport,
    /// Bytes that were read from `transport` already.
    pub(super) early: BytesMut,
    pub(super) address: ServerAddress,
    pub(super) replication_id: [u8; 40],
    pub(super) course: Course,
    /// When everything before the first byte was known to be all.
    pub(super) seen_empty: Moment,
    /// The server's end of stream, told before the log was asked for: what comes up to there was
    /// written before.
    pub(super) kept_until: Offset,
    /// The server waits for an acknowledgement before it sends the first byte.
    pub(super) starts_by_ack: bool,
    /// The log was answered with a full resync.
    pub(super) full_resync: bool,
    /// A snapshot that was begun before, and that the log fits.
    pub(super) snapshot: Option<SnapshotStream>,
}

/// How the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// In the history that the archive has, right where it ends.
    Continue,
    /// In a new history.
    Begin {
        /// Offset before its first byte.
        start: Offset,
        /// Why.
        cause: Cause,
        /// The whole dataset comes first, on this connection.
        dataset: bool,
    },
}

/// What `INFO` lets expect of a partial resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    Good,
    /// The server has not come as far yet.
    Behind {
        bytes: u64,
    },
    Hopeless,
}

fn outlook(point: &ResumePoint, server: &ReplicationInfo) -> Outlook {
    let offset = point.position.offset;
    let next = offset.0.saturating_add(1);
    let Some(newest) = point.replication_ids.last() else { return Outlook::Hopeless };
    let is = |id: &str| newest.as_str().eq_ignore_ascii_case(id);
    let is_current = is(&server.master_replid);
    let is_former = server.master_replid2.as_deref().is_some_and(is)
        && server.second_repl_offset.is_some_and(|second| next <= second);
    if !server.backlog_active || !(is_current || is_former) {
        return Outlook::Hopeless;
    }
    let first = server.backlog_first_byte_offset;
    let end = first.saturating_add(server.backlog_histlen);
    if (first..=end).contains(&next) {
        Outlook::Good
    } else if next > end && is_current && server.role == Role::Replica {
        Outlook::Behind { bytes: next - end }
    } else {
        Outlook::Hopeless
    }
}

/// Why the history could not be continued, by where the server stands.
fn cause(wish: &Wish, server_offset: Offset) -> Cause {
    match (&wish.because, &wish.resume) {
        (Some(cause), _) => *cause,
        (None, Some(point)) if point.damaged => Cause::LogDamaged,
        (None, Some(point)) if server_offset < point.position.offset => Cause::OffsetsWentBack,
        (None, Some(_)) => Cause::BacklogLost,
        (None, None) => Cause::First,
    }
}

/// What is asked of the server, and what follows if it agrees.
struct Plan {
    request: PsyncRequest,
    course: Course,
    seen_empty: Moment,
    snapshot: Option<SnapshotStream>,
}

/// Brings the log online. Calls `examined` when the server was found to be fit.
pub(super) async fn attach(
    endpoint: &Endpoint,
    clock: &Clock,
    wish: &Wish,
    examined: impl FnOnce(),
) -> Result<Attachment, AttachError> {
    let (mut control, facts) = examine(endpoint, clock).await?;
    examined();
    let mut log = for_log(endpoint, &facts).await?;
    let asked = Moment::now(clock);
    let server = control.info_replication().await?;
    let plan = match plan_continuation(wish, &server, asked)? {
        Some(plan) => plan,
        None => plan_beginning(endpoint, clock, wish, &server, &facts, log.filtered, asked).await?,
    };
    let answer = psync(&mut log.connection, plan.request).await?;
    let answered = Moment::now(clock);
    let address = log.connection.address().clone();
    let (transport, early) = log.connection.into_stream();
    let mut attachment = Attachment {
        facts,
        control,
        transport,
        early,
        address,
        replication_id: [0; 40],
        course: plan.course,
        seen_empty: plan.seen_empty,
        kept_until: Offset(server.master_repl_offset),
        starts_by_ack: false,
        full_resync: false,
        snapshot: plan.snapshot,
    };
    match answer {
        PsyncAnswer::Continue(id) => {
            attachment.replication_id = match (id, plan.request) {
                (Some(id), _) | (None, PsyncRequest::After { replication_id: id, .. }) => id,
                (None, PsyncRequest::FullResync) => {
                    return Err(AttachError::Answer { answer: "+CONTINUE".to_owned() });
                }
            };
        }
        PsyncAnswer::FullResync { replication_id, offset } => {
            let announced = Announced { replication_id, offset };
            let cause = cause(wish, offset);
            attachment.resync_fully(announced, cause, log.filtered, answered).await?;
        }
    }
    Ok(attachment)
}

/// The plan to go on in the archive's history, if that can be.
fn plan_continuation(wish: &Wish, server: &ReplicationInfo, now: Moment) -> Result<Option<Plan>, AttachError> {
    let Some(point) = &wish.resume else { return Ok(None) };
    let Some(newest) = point.replication_ids.last() else { return Ok(None) };
    match outlook(point, server) {
        Outlook::Good => {}
        Outlook::Behind { bytes } if wish.patient => return Err(AttachError::Behind { bytes }),
        Outlook::Behind { .. } | Outlook::Hopeless => return Ok(None),
    }
    Ok(Some(Plan {
        request: PsyncRequest::After { replication_id: newest.id, offset: point.position.offset },
        course: Course::Continue,
        seen_empty: Moment { time: point.read_until, ..now },
        snapshot: None,
    }))
}

/// The plan to begin a new history where the server stands.
async fn plan_beginning(
    endpoint: &Endpoint,
    clock: &Clock,
    wish: &Wish,
    server: &ReplicationInfo,
    facts: &Facts,
    filtered: bool,
    asked: Moment,
) -> Result<Plan, AttachError> {
    let after = |announced: Announced, seen_empty, snapshot| Plan {
        request: PsyncRequest::After { replication_id: announced.replication_id, offset: announced.offset },
        course: Course::Begin {
            start: announced.offset,
            cause: cause(wish, Offset(server.master_repl_offset)),
            dataset: false,
        },
        seen_empty,
        snapshot,
    };
    if server.backlog_active {
        let replication_id = replication_id(server.master_replid.as_bytes())?;
        let announced = Announced { replication_id, offset: Offset(server.master_repl_offset) };
        return Ok(after(announced, asked, None));
    }
    if filtered {
        // Where it begins is in the answer.
        let course = Course::Begin { start: Offset(0), cause: Cause::First, dataset: false };
        return Ok(Plan { request: PsyncRequest::FullResync, course, seen_empty: asked, snapshot: None });
    }
    let snapshot = SnapshotStream::open(endpoint, facts, clock).await?;
    let announced = snapshot.announced;
    Ok(after(announced, Moment::now(clock), Some(snapshot)))
}

impl Attachment {
    /// The server answered with a full resync: a new history begins where that stands.
    async fn resync_fully(
        &mut self,
        announced: Announced,
        cause: Cause,
        filtered: bool,
        answered: Moment,
    ) -> Result<(), AttachError> {
        self.replication_id = announced.replication_id;
        self.course = Course::Begin { start: announced.offset, cause, dataset: !filtered };
        self.seen_empty = answered;
        self.starts_by_ack = true;
        self.full_resync = true;
        // It fits another stream, or an earlier point of this one.
        self.snapshot = None;
        if filtered {
            read_payload(&mut self.transport, &mut self.early, &self.address, announced, None).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

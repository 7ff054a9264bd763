//! What a spool still holds that the store does not: sealed, chained to the stored end, and put
//! under the new term.
//!
//! Nothing is decrypted, or parsed: what a dead writer encrypted, an agent that holds recipients only
//! cannot read, and what is needed to go on stands beside each block in the clear.
//!
//! A file counts if it continues the log where the store, and the files before it, end: same history,
//! same offset, same replication ID. Anything else is in the store already, or was given up by
//! another writer that took over since, and is removed.

use std::sync::Arc;

use redwind_archive::documents::HistoryStart;
use redwind_archive::position::Position;
use redwind_archive::segment::{self, Fingerprint, Recovered, SegmentEncoder, SegmentHeader};

use super::entry::ResumePoint;
use super::error::JournalError;
use super::lineage;
use super::pending::{Pending, PendingSegment};
use super::resume::{LogEnd, StoredLog};
use super::spool::{Kind, Spool, Spooled};
use super::term::{Identity, Tenure};

/// What the spool adds to the stored log.
#[derive(Debug)]
pub(super) struct Survivors {
    /// What is to be stored, in order.
    pub(super) pending: Vec<Pending>,
    /// Where the log ends with them.
    pub(super) end: Option<LogEnd>,
    /// The next free sequence number.
    pub(super) next_seq: u64,
}

/// Joins the spool's files, in order, to the stored log, and removes those that do not belong.
pub(super) fn join(
    spool: &Arc<Spool>,
    files: &[Spooled],
    stored: &StoredLog,
    tenure: &Tenure,
) -> Result<Survivors, JournalError> {
    let mut joiner = Joiner { spool, stored, tenure, end: stored.end.clone() };
    let mut pending = Vec::new();
    let mut surplus = Vec::new();
    for file in files {
        let joined = match file.kind {
            Kind::Segment => joiner.segment(file)?.map(Pending::Segment),
            Kind::History => joiner.history(file)?.map(|start| Pending::History { file: *file, start }),
        };
        match joined {
            Some(joined) => pending.push(joined),
            None => surplus.push(*file),
        }
    }
    let end = joiner.end;
    for file in &surplus {
        spool.remove(file)?;
    }
    Ok(Survivors { pending, end, next_seq: files.last().map_or(1, |last| last.seq + 1) })
}

struct Joiner<'a> {
    spool: &'a Arc<Spool>,
    stored: &'a StoredLog,
    tenure: &'a Tenure,
    end: Option<LogEnd>,
}

impl Joiner<'_> {
    fn history(&mut self, file: &Spooled) -> Result<Option<Box<HistoryStart>>, JournalError> {
        let Ok(mut start) = self.spool.read_history(file) else {
            tracing::warn!(path = %self.spool.path(file.kind, file.seq).display(), "dropping a damaged document");
            return Ok(None);
        };
        if self.stored.histories.contains(&start.history) {
            return Ok(None);
        }
        if start.predecessor != self.position() {
            tracing::warn!(history = %start.history, "dropping a history that another writer's log does not lead to");
            return Ok(None);
        }
        start.term = self.tenure.identity.term;
        self.end = Some(LogEnd {
            history_start: start.start,
            started: start.started,
            newest_time: start.started,
            point: ResumePoint::at_start_of(&start),
            last_segment: None,
            whole_from: start.start,
            damaged_until: None,
        });
        Ok(Some(Box::new(start)))
    }

    fn segment(&mut self, file: &Spooled) -> Result<Option<PendingSegment>, JournalError> {
        let Ok(found) = segment::recover(&self.spool.read(file)?) else {
            // The file's creation is all that survived, or the disk has lost its beginning.
            return Ok(None);
        };
        if !self.follows(&found) {
            self.tell_loss(&found);
            return Ok(None);
        }
        let Some(end) = self.end.as_mut() else { return Ok(None) };
        if end.damaged_until == Some(found.header.start) {
            // Behind what is damaged in the store: the chain goes on as it was written.
            end.point.position.offset = found.header.start;
            end.point.damaged = false;
            end.whole_from = found.header.start;
            end.last_segment = found.header.predecessor;
        }
        end.damaged_until = None;
        let read_until = found.trailer.map(|trailer| trailer.read_until).or(found.last_arrival()).unwrap_or_default();
        let mut sealed = Vec::with_capacity(file.bytes as usize + 1024);
        let header = rehead(&found.header, self.tenure.identity, end.last_segment);
        let mut encoder = SegmentEncoder::begin(header, self.tenure.epoch.as_deref(), &mut sealed);
        found.blocks.iter().for_each(|block| encoder.copy_block(block, &mut sealed));
        let (name, trailer) = encoder.finish(read_until, &mut sealed);
        // One that was sealed is put under the new header when it is uploaded: a spool of gigabytes is
        // not written again before the link can be attached.
        let file = if found.trailer.is_some() { *file } else { self.spool.replace(file, &sealed)? };
        let pending = PendingSegment {
            file,
            name,
            history: found.header.history,
            late_since: found.header.late_since,
            read_until: found.header.late_since.unwrap_or(trailer.read_until),
            predecessor: end.last_segment,
            fingerprint: trailer.fingerprint(),
            writes: trailer.writes,
            urgent: true,
        };
        end.point.position.offset = trailer.end;
        end.point.read_until = pending.read_until;
        end.newest_time = end.newest_time.max(trailer.read_until);
        end.last_segment = Some(trailer.fingerprint());
        end.point.framer = found.framer_end().clone();
        end.point.replication_ids = found.header.replication_ids;
        Ok(Some(pending))
    }

    /// Whether a segment continues the log, or what of it is damaged, and adds something to it.
    fn follows(&self, found: &Recovered) -> bool {
        let Some(end) = &self.end else { return false };
        let (header, point) = (&found.header, &end.point);
        let vouches = found.trailer.is_some_and(|trailer| trailer.read_until > point.read_until);
        header.archive == self.tenure.identity.archive
            && header.encryption.is_some() == self.tenure.epoch.is_some()
            && header.history == point.position.history
            && (header.start == point.position.offset || Some(header.start) == end.damaged_until)
            && lineage::agree(&point.replication_ids, &header.replication_ids, header.start)
            && (found.end > header.start || vouches)
    }

    fn tell_loss(&self, found: &Recovered) {
        let Some(position) = self.position() else { return };
        let header = &found.header;
        let covered = header.history == position.history && found.end <= position.offset;
        let older = header.history != position.history && self.stored.histories.contains(&header.history);
        if !covered && !older {
            tracing::warn!(
                history = %header.history, start = %header.start, end = %found.end, archive = %position,
                "dropping a segment from the spool: the archive's log has been continued without it"
            );
        }
    }

    fn position(&self) -> Option<Position> {
        self.end.as_ref().map(|end| end.point.position)
    }
}

/// A header under another term.
pub(super) fn rehead(header: &SegmentHeader, identity: Identity, predecessor: Option<Fingerprint>) -> SegmentHeader {
    SegmentHeader { writer: identity.writer, term: identity.term, predecessor, ..header.clone() }
}

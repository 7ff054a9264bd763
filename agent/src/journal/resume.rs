//! Where the stored log ends, and what a writer needs to know to continue it.

use std::collections::BTreeSet;
use std::sync::Arc;

use redwind_archive::catalog::{Catalog, HistoryLog, LostHistory};
use redwind_archive::documents::{Manifest, Marker};
use redwind_archive::keys::{Identities, Keyring};
use redwind_archive::layout::ObjectName;
use redwind_archive::position::{HistoryId, Offset, Position};
use redwind_archive::read;
use redwind_archive::segment::{Fingerprint, Segment};
use redwind_archive::store::{SourceStore, StoreError};
use redwind_archive::time::Timestamp;
use redwind_stream::Framer;
use ulid::Ulid;

use super::entry::ResumePoint;
use super::error::JournalError;
use crate::error::describe;

/// The end of a log, in the store or in the spool.
#[derive(Clone, Debug)]
pub(super) struct LogEnd {
    /// Where the history began.
    pub(super) history_start: Offset,
    /// When the history began.
    pub(super) started: Timestamp,
    /// Where it ends. Whether there is a snapshot is not filled in.
    pub(super) point: ResumePoint,
    /// No arrival in it is later.
    pub(super) newest_time: Timestamp,
    /// Its last segment; `None` when the history has none.
    pub(super) last_segment: Option<Fingerprint>,
    /// From where on no hole and no damage is known: what lies below cannot be joined to what lies behind.
    pub(super) whole_from: Offset,
    /// Where the log reached, when the store's last segments are damaged. What the spool holds from
    /// there on goes on behind them.
    pub(super) damaged_until: Option<Offset>,
}

/// What the store tells at the start of a tenure.
#[derive(Debug, Default)]
pub(super) struct StoredLog {
    /// The end of the newest history; `None` in an empty archive.
    pub(super) end: Option<LogEnd>,
    /// Every history that the store knows.
    pub(super) histories: BTreeSet<HistoryId>,
    /// The newest history's newest complete snapshot; `None` if it cannot be read, too.
    newest_snapshot: Option<Arc<Manifest>>,
    /// The archive's newest complete snapshot, of whatever history.
    pub(super) newest_complete: Option<Ulid>,
}

impl StoredLog {
    /// The snapshot from which a log that ends there can be restored up to its end. Without one, nothing
    /// of it is durable, and the next snapshot is due at once.
    pub(super) fn base(&self, end: &LogEnd) -> Option<&Arc<Manifest>> {
        self.newest_snapshot.as_ref().filter(|snapshot| {
            let Position { history, offset } = snapshot.position;
            history == end.point.position.history && offset >= end.whole_from
        })
    }
}

/// Reads where the stored log ends. To be called after the term has been claimed: from then on no
/// other writer's put counts.
pub(super) async fn find_end(store: &SourceStore, marker: &Marker) -> Result<StoredLog, JournalError> {
    let catalog = Catalog::open(store, &Identities::none()).await?;
    let snapshots = catalog.histories.iter().flat_map(|log| &log.snapshots);
    let snapshots = snapshots.chain(catalog.lost.iter().flat_map(|lost| &lost.snapshots));
    let mut stored = StoredLog {
        newest_complete: snapshots.map(|manifest| manifest.snapshot).max(),
        histories: catalog.histories.iter().map(|log| log.start.history).collect(),
        ..StoredLog::default()
    };
    let newest = catalog.histories.last();
    let newest_written = newest.map(|log| (log.last_term(), log.start.history));
    let lost = catalog.lost.iter().max_by_key(|lost| (lost.last_term(), lost.history));
    if let Some(lost) = lost.filter(|lost| Some((lost.last_term(), lost.history)) > newest_written) {
        stored.end = Some(end_of_lost(lost, store).await?);
    } else if let Some(newest) = newest {
        stored.newest_snapshot = newest_snapshot(&catalog, newest, store).await?;
        stored.end = Some(end_of(newest, store, marker, &catalog.keys).await?);
    }
    Ok(stored)
}

async fn newest_snapshot(
    catalog: &Catalog,
    log: &HistoryLog,
    store: &SourceStore,
) -> Result<Option<Arc<Manifest>>, StoreError> {
    let Some(name) = log.snapshots.iter().max_by_key(|snapshot| snapshot.time) else { return Ok(None) };
    match catalog.manifest(store, name).await {
        Ok(manifest) => Ok(Some(Arc::new(manifest))),
        Err(error) if error.is_damage() || error.is_absent() => {
            tracing::warn!(snapshot = %name.snapshot, %error, "the newest snapshot's manifest cannot be used");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The end of a history's log: behind its last segment that is sound.
///
/// What is damaged behind it is read from the server once more, if the server still has it; the page
/// that the new term begins there makes the damaged segments void.
async fn end_of(
    log: &HistoryLog,
    store: &SourceStore,
    marker: &Marker,
    keys: &Keyring,
) -> Result<LogEnd, JournalError> {
    let newest_snapshot = log.snapshots.iter().map(|snapshot| snapshot.offset).max().unwrap_or(log.start.start);
    let mut end = LogEnd {
        history_start: log.start.start,
        whole_from: log.unbroken_from(store, newest_snapshot).await?,
        started: log.start.started,
        newest_time: log.start.started,
        point: ResumePoint::at_start_of(&log.start),
        last_segment: None,
        damaged_until: None,
    };
    for (index, page) in log.pages.iter().enumerate().rev() {
        let segments = log.segments(store, index).await?;
        for (name, _) in segments.into_iter().rev() {
            match read::read(store, marker, keys, page, &name).await {
                Ok(segment) => {
                    end.stand_behind(&segment);
                    return Ok(end);
                }
                // One of a later release is not to be made void by an older one.
                Err(error) if error.is_newer() || !error.is_damage() => {
                    return Err(JournalError::End(error));
                }
                Err(error) => {
                    let segment = store.describe(&ObjectName::Segment(page.clone(), name));
                    let error = describe(&error);
                    tracing::error!(segment, error, "the end of the archive's log is damaged: resuming before it");
                    end.damaged_until.get_or_insert(name.end);
                    end.point.damaged = true;
                }
            }
        }
    }
    Ok(end)
}

impl LogEnd {
    fn stand_behind(&mut self, segment: &Segment) {
        let Segment { header, trailer, .. } = segment;
        self.point.position.offset = trailer.end;
        self.point.framer = segment.framer_end().clone();
        self.point.replication_ids = header.replication_ids.clone();
        self.point.read_until = header.late_since.unwrap_or(trailer.read_until);
        self.newest_time = trailer.read_until;
        self.last_segment = Some(trailer.fingerprint());
    }
}

/// The end of a history whose document is lost, as its pages' names tell: nothing can be written behind
/// it, but the history that follows can say where this one ended.
async fn end_of_lost(lost: &LostHistory, store: &SourceStore) -> Result<LogEnd, StoreError> {
    tracing::error!(
        history = %lost.history, error = describe(&lost.problem),
        "the newest history's document is lost: beginning a new history"
    );
    let (mut offset, mut time) = (Offset(0), Timestamp(0));
    if let Some(page) = lost.pages.last() {
        let segments = store.segments(page).await?;
        offset = segments.iter().map(|(name, _)| name.end).max().unwrap_or(page.start);
        time = segments.iter().map(|(name, _)| name.time).max().unwrap_or(page.time);
    }
    Ok(LogEnd {
        history_start: lost.pages.first().map_or(offset, |page| page.start),
        started: lost.pages.first().map_or(time, |page| page.time),
        point: ResumePoint {
            position: Position { history: lost.history, offset },
            framer: Framer::new(None).state(),
            replication_ids: Vec::new(),
            read_until: time,
            has_snapshot: false,
            damaged: true,
        },
        newest_time: time,
        last_segment: None,
        whole_from: offset,
        damaged_until: None,
    })
}

//! Finding the way to a target: which snapshot, which segments, and where exactly to stop.
//!
//! A plan is made before anything at the destination is touched. It either names every object that a
//! restore needs, or refuses and says what can be restored instead.

mod cut;
mod error;
mod locate;

use crate::catalog::{Catalog, HistoryLog, LostHistory};
use crate::documents::{HistoryStart, Manifest, Marker};
use crate::keys::Keyring;
use crate::layout::{ManifestName, PageName, SegmentName};
use crate::position::{HistoryId, Offset, Position};
use crate::store::SourceStore;
use crate::time::Timestamp;

use ulid::Ulid;

pub use cut::Cut;
pub use error::{Nearest, PlanError, Point, Refusal};
use locate::Locator;

/// What to restore to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The state at an instant: every record that had arrived by then, inclusive.
    Time(Timestamp),
    /// The newest state stored of the newest history that has a snapshot.
    Latest,
    /// The state after the last record that ends at or before an offset.
    Offset {
        /// The history; `None` when only one has that offset.
        history: Option<HistoryId>,
        /// The offset.
        offset: Offset,
    },
    /// The state just before the record with that id.
    Before(Position),
    /// The state just after the record with that id.
    After(Position),
}

/// What is left to whoever restores to choose, where a target alone leaves several ways.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Restore from this history only.
    pub history: Option<HistoryId>,
    /// Build on this snapshot; otherwise on the newest at or before the cut.
    pub snapshot: Option<Ulid>,
}

/// A segment that a restore reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// The page in which it lies.
    pub page: PageName,
    /// Its name there.
    pub name: SegmentName,
    /// Length of the object in bytes.
    pub stored: u64,
}

/// Everything that a restore reads, and where it stops.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The archive.
    pub marker: Marker,
    /// What opens it.
    pub keys: Keyring,
    /// The history restored from.
    pub history: HistoryStart,
    /// The snapshot to build on: the newest at or before the cut, unless another was chosen.
    pub snapshot: Manifest,
    /// The snapshots around it.
    pub beside: SnapshotsBeside,
    /// The segments to replay, in order: they hold every byte from the snapshot to the cut.
    pub segments: Vec<SegmentRef>,
    /// Where to stop.
    pub cut: Cut,
}

/// The snapshots beside the one that a plan builds on: ways round, should something be damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotsBeside {
    /// The newest before it: the same target can be restored from there, with more of the log.
    pub older: Option<ManifestName>,
    /// The oldest behind the cut: from there on targets need nothing of what this plan reads.
    pub newer: Option<ManifestName>,
}

impl RestorePlan {
    /// Bytes of stream to replay.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.cut.offset.since(self.snapshot.position.offset)
    }

    /// Bytes of objects to fetch.
    #[must_use]
    pub fn fetch_bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.stored).sum();
        self.snapshot.stored_bytes + segments
    }
}

/// Plans a restore.
///
/// `choice` narrows it down, where several ways lead to the target.
///
/// # Errors
/// [`PlanError::Refused`] when the target cannot be restored, with the nearest points that can;
/// otherwise when objects are missing or damaged, or the store cannot be read.
pub async fn plan(
    store: &SourceStore,
    catalog: &Catalog,
    target: Target,
    choice: Choice,
) -> Result<RestorePlan, PlanError> {
    catalog.keys.check_open()?;
    let planner = Planner { store, catalog, only: choice.history, snapshot: choice.snapshot };
    let (log, cut) = match target {
        Target::Time(time) => planner.at_time(time).await?,
        Target::Latest => planner.latest().await?,
        Target::Offset { history, offset } => planner.at_offset(history, offset).await?,
        Target::Before(position) => planner.beside(position, Side::Before).await?,
        Target::After(position) => planner.beside(position, Side::After).await?,
    };
    planner.assemble(log, cut).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

struct Planner<'a> {
    store: &'a SourceStore,
    catalog: &'a Catalog,
    only: Option<HistoryId>,
    snapshot: Option<Ulid>,
}

impl<'a> Planner<'a> {
    fn locator(&self, log: &'a HistoryLog) -> Locator<'a> {
        Locator::new(self.store, self.catalog, log)
    }

    /// The history with that id.
    fn history(&self, id: HistoryId) -> Result<&'a HistoryLog, PlanError> {
        if let Some(lost) = self.catalog.lost.iter().find(|lost| lost.history == id) {
            return Err(PlanError::lost(lost));
        }
        self.catalog.history(id).ok_or(PlanError::NoSuchHistory(id))
    }

    /// Refuses where the target, if no history was chosen, may lie in one that is lost. `reaches` tells
    /// this of a lost history, given where its successor says that it ended.
    fn check_lost(&self, reaches: impl Fn(&LostHistory, Option<&HistoryStart>) -> bool) -> Result<(), PlanError> {
        if self.only.is_some() {
            return Ok(());
        }
        let successor = |lost: &LostHistory| {
            let followed =
                |log: &&HistoryLog| log.start.predecessor.is_some_and(|before| before.history == lost.history);
            self.catalog.histories.iter().rfind(followed).map(|log| &log.start)
        };
        match self.catalog.lost.iter().find(|lost| reaches(lost, successor(lost))) {
            Some(lost) => Err(PlanError::lost(lost)),
            None => Ok(()),
        }
    }

    /// The histories that may be meant, newest first, given what they must satisfy.
    fn candidates(&self, fits: impl Fn(&HistoryLog) -> bool) -> Result<Vec<&'a HistoryLog>, PlanError> {
        if let Some(id) = self.only {
            let log = self.history(id)?;
            return Ok(if fits(log) { vec![log] } else { Vec::new() });
        }
        Ok(self.catalog.histories.iter().rev().filter(|log| fits(log)).collect())
    }

    async fn at_time(&self, time: Timestamp) -> Result<(&'a HistoryLog, Cut), PlanError> {
        self.check_lost(|lost, successor| {
            let until = successor.and_then(|successor| successor.predecessor_complete_until);
            lost.snapshots.iter().any(|snapshot| snapshot.time <= time) && until.is_none_or(|until| time <= until)
        })?;
        let has_snapshot = |log: &HistoryLog| log.snapshots.iter().any(|snapshot| snapshot.time <= time);
        let mut covering = Vec::new();
        for log in self.candidates(has_snapshot)? {
            if self.locator(log).reaches(time).await? {
                covering.push(log);
            }
        }
        let log = match covering.as_slice() {
            [] => return Err(self.refuse(Refusal::OutsideWindows { time }).await),
            [log] => *log,
            several => return Err(PlanError::ambiguous(several)),
        };
        let mut locator = self.locator(log);
        if let Some((from, to)) = locator.blur_around(time).await? {
            return Err(self.refuse(Refusal::InBlur { time, from, to }).await);
        }
        let cut = locator.cut_at_time(time).await?;
        Ok((log, cut))
    }

    async fn latest(&self) -> Result<(&'a HistoryLog, Cut), PlanError> {
        let Some(log) = self.candidates(|log| !log.snapshots.is_empty())?.first().copied() else {
            self.check_lost(|_, _| true)?;
            return Err(PlanError::NothingToRestore);
        };
        let newest = (log.last_term(), log.start.history);
        self.check_lost(|lost, _| (lost.last_term(), lost.history) > newest)?;
        let mut locator = self.locator(log);
        let end = locator.end().await?;
        Ok((log, locator.cut_at_offset(end).await?))
    }

    async fn at_offset(&self, history: Option<HistoryId>, offset: Offset) -> Result<(&'a HistoryLog, Cut), PlanError> {
        let mut covering = Vec::new();
        let begins_before = |log: &HistoryLog| {
            history.is_none_or(|id| log.start.history == id)
                && log.snapshots.first().is_some_and(|snapshot| snapshot.offset <= offset)
        };
        match history {
            Some(id) => {
                self.history(id)?;
            }
            None => self.check_lost(|lost, successor| {
                let end = successor.and_then(|successor| successor.predecessor).map(|before| before.offset);
                lost.snapshots.iter().any(|snapshot| snapshot.offset <= offset) && end.is_none_or(|end| offset <= end)
            })?,
        }
        for log in self.candidates(begins_before)? {
            if offset <= self.locator(log).end().await? {
                covering.push(log);
            }
        }
        match covering.as_slice() {
            [] => Err(self.refuse(Refusal::NoSuchOffset { offset }).await),
            [log] => Ok((*log, self.locator(log).cut_at_offset(offset).await?)),
            several => Err(PlanError::ambiguous(several)),
        }
    }

    async fn beside(&self, record: Position, side: Side) -> Result<(&'a HistoryLog, Cut), PlanError> {
        let log = self.history(record.history)?;
        let mut locator = self.locator(log);
        let end = locator.end().await?;
        let cut = match locator.cut_at_offset(record.offset.min(end)).await {
            // Nothing there can be restored, so that it does not matter what has expired.
            Err(PlanError::Hole { .. }) if log.snapshots.first().is_none_or(|first| record.offset < first.offset) => {
                return Err(self.refuse(Refusal::BeforeFirstSnapshot { offset: record.offset }).await);
            }
            cut => cut?,
        };
        if cut.offset != record.offset || record.offset >= end {
            return Err(self.refuse(Refusal::NoSuchRecord { record, boundary: cut.offset }).await);
        }
        if side == Side::Before {
            return Ok((log, cut));
        }
        match locator.record_end_after(record.offset).await? {
            Some(after) => Ok((log, after)),
            None => Err(self.refuse(Refusal::UnfinishedRecord { record }).await),
        }
    }

    /// Chooses the snapshot and lists the segments from there to the cut.
    async fn assemble(&self, log: &HistoryLog, cut: Cut) -> Result<RestorePlan, PlanError> {
        let Some(newest) = log.snapshots.partition_point(|snapshot| snapshot.offset <= cut.offset).checked_sub(1)
        else {
            return Err(self.refuse(Refusal::BeforeFirstSnapshot { offset: cut.offset }).await);
        };
        let usable = &log.snapshots[..=newest];
        let chosen = match self.snapshot {
            None => newest,
            Some(id) => {
                let found = usable.iter().position(|snapshot| snapshot.snapshot == id);
                found.ok_or(PlanError::NoSuchSnapshot { snapshot: id, history: log.start.history })?
            }
        };
        let name = &usable[chosen];
        let beside = SnapshotsBeside {
            older: chosen.checked_sub(1).map(|older| usable[older].clone()),
            newer: log.snapshots.get(newest + 1).cloned(),
        };
        let snapshot = match self.catalog.manifest(self.store, name).await {
            Err(source) if source.is_loss() => {
                return Err(PlanError::Snapshot { beside: Box::new(beside), source });
            }
            manifest => manifest?,
        };
        let segments = self.locator(log).segments_between(name.offset, cut.offset).await?;
        let Catalog { marker, keys, .. } = self.catalog;
        Ok(RestorePlan {
            marker: marker.clone(),
            keys: keys.clone(),
            history: log.start.clone(),
            snapshot,
            beside,
            segments,
            cut,
        })
    }

    /// Makes a refusal that names the nearest points that can be restored.
    async fn refuse(&self, why: Refusal) -> PlanError {
        match self.catalog.summary(self.store).await {
            Ok(summary) => PlanError::refused(why, &summary),
            Err(error) => PlanError::Store(error),
        }
    }
}

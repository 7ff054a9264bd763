//! The spool's folder: the files in it, who may use it, and how much they take.
//!
//! ```text
//! <spool>/<source>/lock                     held by the process that works here
//!                  archive                  the marker of the archive that all of it belongs to
//!                  id                       names the folder in the claims of those who worked here
//!                  segment-<seq>.rws        a segment: sealed, or (the newest) in the making
//!                  history-<seq>            a history's document
//!                  chunk-<snapshot>-<n>     a snapshot's chunk that waits for the store
//!                  *.new                    on the way to its name
//! ```
//!
//! The sequence numbers count segments and histories together, in the order of the log. This is no
//! part of the archive's format: a later release may lay it out anew. What is in it was read from
//! the server as its user may see it, so the folder is open to its owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redwind_archive::document;
use redwind_archive::documents::{HistoryStart, Marker};
use redwind_archive::layout::SourceName;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::sync::watch;
use ulid::Ulid;

use super::error::JournalError;

const LOCK: &str = "lock";
const MARKER: &str = "archive";
const ID: &str = "id";
const SEGMENT: (&str, &str) = ("segment-", ".rws");
const HISTORY: (&str, &str) = ("history-", "");
const SEQ_DIGITS: usize = 16;

/// How much of the spool's limit is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolUsage {
    /// Bytes on disk: segments that are not stored, and chunks of a snapshot that wait for the store.
    pub used_bytes: u64,
    /// The limit in bytes.
    pub limit_bytes: u64,
    /// Whether it has been reached, or nothing can be written for want of room; lasts until the usage is below half of the
    /// limit.
    pub full: bool,
}

/// What a file of the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A segment.
    Segment,
    /// A history's document.
    History,
}

/// A file of the log in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spooled {
    /// Its place in the order of the log.
    pub(super) seq: u64,
    /// What it holds.
    pub(super) kind: Kind,
    /// Its length in bytes.
    pub(super) bytes: u64,
}

/// The folder, locked by this process.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    id: Ulid,
    /// The folder itself, kept open so that syncing it needs no descriptor.
    folder: File,
    /// Held for as long as the folder is used; the lock goes with it.
    _lock: File,
    usage: watch::Sender<SpoolUsage>,
}

impl Spool {
    /// Opens a source's folder below `root`, making it if need be, and lists its log in order.
    ///
    /// What a crash may have left unfinished, and chunks of snapshots that died with their agent,
    /// are removed.
    pub(super) fn open(
        root: &Path,
        source: &SourceName,
        marker: &Marker,
        limit_bytes: u64,
    ) -> Result<(Self, Vec<Spooled>), JournalError> {
        let dir = root.join(source.to_string());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| failed("make", &dir, source))?;
        let lock = lock(&dir)?;
        let folder = File::open(&dir).map_err(|source| failed("open", &dir, source))?;
        let usage = watch::Sender::new(SpoolUsage { limit_bytes, ..SpoolUsage::default() });
        let mut spool = Self { dir, id: Ulid::nil(), folder, _lock: lock, usage };
        spool.check_marker(marker)?;
        spool.id = spool.identify()?;
        let log = spool.scan()?;
        spool.grow(log.iter().map(|file| file.bytes).sum());
        Ok((spool, log))
    }

    fn check_marker(&self, marker: &Marker) -> Result<(), JournalError> {
        let path = self.dir.join(MARKER);
        match fs::read(&path) {
            Ok(bytes) => {
                let found: Marker = document::decode(&bytes).map_err(|_| JournalError::SpoolDamaged { path })?;
                if found.archive == marker.archive {
                    return Ok(());
                }
                let dir = self.dir.clone();
                Err(JournalError::OtherSpool { dir, spool: found.archive, archive: marker.archive })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write(&path, &document::encode(marker)),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    /// The folder's id. One that cannot be read is replaced: then nobody who worked here is known.
    fn identify(&self) -> Result<Ulid, JournalError> {
        let path = self.dir.join(ID);
        let known = fs::read_to_string(&path).ok().and_then(|text| Ulid::from_string(text.trim_end()).ok());
        if let Some(id) = known {
            return Ok(id);
        }
        let id = Ulid::generate();
        self.write(&path, format!("{id}\n").as_bytes())?;
        Ok(id)
    }

    fn scan(&self) -> Result<Vec<Spooled>, JournalError> {
        let list_failed = |source| failed("list", &self.dir, source);
        let mut log = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(list_failed)? {
            let entry = entry.map_err(list_failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".new") || name.starts_with("chunk-") {
                fs::remove_file(entry.path()).map_err(|source| failed("remove", &entry.path(), source))?;
            } else if let Some((kind, seq)) = parse(&name) {
                let bytes = entry.metadata().map_err(|source| failed("read", &entry.path(), source))?.len();
                log.push(Spooled { seq, kind, bytes });
            }
        }
        log.sort_by_key(|file| file.seq);
        Ok(log)
    }

    /// Begins a segment's file.
    pub(super) fn create(self: &Arc<Self>, seq: u64) -> Result<SegmentFile, JournalError> {
        let path = self.path(Kind::Segment, seq);
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = opened.map_err(|source| failed("create", &path, source))?;
        Ok(SegmentFile { spool: Arc::clone(self), file, path, bytes: 0 })
    }

    /// Writes a history's document, synced.
    pub(super) fn write_history(&self, seq: u64, start: &HistoryStart) -> Result<Spooled, JournalError> {
        let bytes = document::encode(start);
        self.write(&self.path(Kind::History, seq), &bytes)?;
        self.grow(bytes.len() as u64);
        Ok(Spooled { seq, kind: Kind::History, bytes: bytes.len() as u64 })
    }

    /// Puts other bytes in a segment's place, synced; a crash leaves the old or the new ones.
    pub(super) fn replace(&self, file: &Spooled, bytes: &[u8]) -> Result<Spooled, JournalError> {
        self.write(&self.path(file.kind, file.seq), bytes)?;
        self.shrink(file.bytes);
        self.grow(bytes.len() as u64);
        Ok(Spooled { bytes: bytes.len() as u64, ..*file })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
        let new = path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        });
        written.map_err(|source| failed("write", &new, source))?;
        fs::rename(&new, path).map_err(|source| failed("rename", &new, source))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), JournalError> {
        self.folder.sync_all().map_err(|source| failed("sync", &self.dir, source))
    }

    /// A file's bytes.
    pub(super) fn read(&self, file: &Spooled) -> Result<Bytes, JournalError> {
        let path = self.path(file.kind, file.seq);
        fs::read(&path).map(Bytes::from).map_err(|source| failed("read", &path, source))
    }

    /// A history's document.
    pub(super) fn read_history(&self, file: &Spooled) -> Result<HistoryStart, JournalError> {
        document::decode(&self.read(file)?)
            .map_err(|_| JournalError::SpoolDamaged { path: self.path(file.kind, file.seq) })
    }

    /// Removes a file whose content is stored, or void.
    pub(super) fn remove(&self, file: &Spooled) -> Result<(), JournalError> {
        let path = self.path(file.kind, file.seq);
        fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
        self.shrink(file.bytes);
        Ok(())
    }

    /// Where a file of the log lies.
    pub(super) fn path(&self, kind: Kind, seq: u64) -> PathBuf {
        let (before, after) = match kind {
            Kind::Segment => SEGMENT,
            Kind::History => HISTORY,
        };
        self.dir.join(format!("{before}{seq:0SEQ_DIGITS$}{after}"))
    }

    /// Names the folder; another one has another id.
    pub(super) fn id(&self) -> Ulid {
        self.id
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lays a snapshot's chunk aside, if the snapshot may borrow that much: the spool stays below half
    /// of its limit, so that the log always has the other half. `None` when it may not, or when the
    /// disk has no room.
    pub(super) fn borrow(&self, snapshot: Ulid, number: u32, chunk: &[u8]) -> Result<Option<PathBuf>, JournalError> {
        let bytes = chunk.len() as u64;
        let usage = *self.usage.borrow();
        if usage.full || usage.used_bytes + bytes > usage.limit_bytes / 2 {
            return Ok(None);
        }
        let path = self.dir.join(format!("chunk-{snapshot}-{number:08}"));
        self.grow(bytes);
        match fs::write(&path, chunk) {
            Ok(()) => Ok(Some(path)),
            Err(error) => {
                self.give_back(&path, bytes);
                if is_no_room(&error) { Ok(None) } else { Err(failed("write", &path, error)) }
            }
        }
    }

    /// Removes a chunk that was laid aside.
    pub(super) fn give_back(&self, path: &Path, bytes: u64) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a chunk from the spool; the next start will");
        }
        self.shrink(bytes);
    }

    /// How much is used.
    pub(super) fn usage(&self) -> watch::Receiver<SpoolUsage> {
        self.usage.subscribe()
    }

    /// There is no room, whatever the limit says.
    pub(super) fn no_room(&self) {
        self.usage.send_if_modified(|usage| !std::mem::replace(&mut usage.full, true));
    }

    /// What there was no room for has been taken.
    pub(super) fn has_room(&self) {
        self.change(|_| {});
    }

    fn grow(&self, bytes: u64) {
        self.change(|usage| usage.used_bytes += bytes);
    }

    fn shrink(&self, bytes: u64) {
        self.change(|usage| usage.used_bytes = usage.used_bytes.saturating_sub(bytes));
    }

    /// Notifies of every change, which are a few in a second.
    fn change(&self, change: impl FnOnce(&mut SpoolUsage)) {
        self.usage.send_modify(|usage| {
            change(usage);
            let threshold = if usage.full { usage.limit_bytes / 2 } else { usage.limit_bytes };
            usage.full = usage.used_bytes >= threshold;
        });
    }
}

/// A segment's file while it is written.
#[derive(Debug)]
pub(super) struct SegmentFile {
    spool: Arc<Spool>,
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl SegmentFile {
    /// Appends bytes. When it fails, nothing has been appended, and it may be tried again.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.file.write_all_at(bytes, self.bytes).map_err(|source| failed("write", &self.path, source))?;
        self.bytes += bytes.len() as u64;
        self.spool.grow(bytes.len() as u64);
        Ok(())
    }

    /// Waits until the disk has it, and its name.
    ///
    /// A failure is final: the system may have dropped what it could not write (`fsync(2)`).
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| failed("sync", &self.path, source))?;
        self.spool.sync_dir()
    }
}

/// Whether an error says that there is no room for now: on the disk, in the user's share of it, or in a
/// table of open files.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    let table = [Errno::MFILE, Errno::NFILE].map(|full| Some(full.raw_os_error()));
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || table.contains(&error.raw_os_error())
}

/// An error of the spool.
pub(super) fn failed(verb: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Spool { verb, path: path.to_owned(), source }
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(|source| failed("open", &path, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(JournalError::SpoolLocked { dir: dir.to_owned() }),
        Err(error) => Err(failed("lock", &path, error.into())),
    }
}

fn parse(name: &str) -> Option<(Kind, u64)> {
    let number = |(before, after): (&str, &str)| {
        let digits = name.strip_prefix(before)?.strip_suffix(after)?;
        if digits.len() == SEQ_DIGITS { digits.parse().ok() } else { None }
    };
    let segment = number(SEGMENT).map(|seq| (Kind::Segment, seq));
    segment.or_else(|| number(HISTORY).map(|seq| (Kind::History, seq)))
}

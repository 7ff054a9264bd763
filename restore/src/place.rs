//! Putting files where they were asked for: first under another name beside it, synced, and then
//! renamed, so that nothing appears before it is whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fetch::Piece;

/// How the names of unfinished things begin.
const UNFINISHED: &str = ".redwind-restore-";

/// Pieces that wait for the disk.
const PIECES_QUEUED: usize = 8;

/// Bytes after which a file that is being written is synced so far.
const SYNC_BYTES: usize = 32 << 20;

/// Why something could not be put where it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is there already.
    #[error("{} exists already; name another place, or replace it with --force", path.display())]
    Taken {
        /// What is there.
        path: PathBuf,
    },
    /// A folder that should be empty is not.
    #[error("{} is not empty: it holds {}; name another folder, or add to it with --force", folder.display(), entry.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// One of the things in it.
        entry: PathBuf,
    },
    /// The path has no name at its end, such as `/` or `..`.
    #[error("{} cannot be written: it does not end with a name", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Names what was being done when an error came.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Io { action, path, source }
}

/// A folder for unfinished files in `folder`; removed with all that is left in it when dropped.
pub(crate) fn unfinished(folder: &Path) -> Result<TempDir, PlaceError> {
    tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder).map_err(at("write in", folder))
}

/// The folder that `path` lies in.
pub(crate) fn parent(path: &Path) -> Result<PathBuf, PlaceError> {
    let parent = path.file_name().and_then(|_| path.parent());
    match parent {
        Some(parent) if parent.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        Some(parent) => Ok(parent.to_owned()),
        None => Err(PlaceError::NoName { path: path.to_owned() }),
    }
}

/// Whether anything, be it a dangling link, has this name.
pub(crate) fn exists(path: &Path) -> Result<bool, PlaceError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("look at", path)(error)),
    }
}

/// Makes what a folder lists durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), PlaceError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("sync", folder))
}

/// Renames, and makes the new name durable.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), PlaceError> {
    fs::rename(from, to).map_err(at("rename the finished restore to", to))?;
    sync_folder(&parent(to)?)
}

/// A new file that is written by a thread of its own, so that fetching and writing overlap.
pub(crate) struct FileSink {
    pieces: mpsc::Sender<Piece>,
    writer: JoinHandle<io::Result<()>>,
    path: PathBuf,
}

impl FileSink {
    /// Creates the file, which must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self, PlaceError> {
        let file = File::create_new(path).map_err(at("create", path))?;
        let (pieces, queue) = mpsc::channel::<Piece>(PIECES_QUEUED);
        let writer = tokio::task::spawn_blocking(move || write_synced(&file, queue));
        Ok(Self { pieces, writer, path: path.to_owned() })
    }

    /// Appends bytes. An error shows in [`finish`](Self::finish) at the latest.
    pub(crate) async fn write(&mut self, piece: Piece) -> Result<(), PlaceError> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        let outcome = (&mut self.writer).await;
        let ended = || io::Error::other("the writing thread ended early");
        Err(at("write", &self.path)(outcome.ok().and_then(Result::err).unwrap_or_else(ended)))
    }

    /// Waits until everything is written and durable.
    pub(crate) async fn finish(self) -> Result<(), PlaceError> {
        drop(self.pieces);
        let outcome = self.writer.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        outcome.map_err(at("write", &self.path))
    }
}

/// Writes everything that comes and syncs it. The disk is kept busy meanwhile: left to itself the system
/// gathers gigabytes first, and everybody waits for them at the end.
fn write_synced(mut file: &File, mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
    thread::scope(|scope| {
        let (due, dues) = std::sync::mpsc::sync_channel::<()>(1);
        let syncing = scope.spawn(move || dues.into_iter().try_for_each(|()| file.sync_data()));
        let mut unsynced = 0;
        while let Some(piece) = pieces.blocking_recv() {
            file.write_all(&piece.bytes)?;
            unsynced += piece.bytes.len();
            // While a sync is under way and another waits, that one will do.
            if unsynced >= SYNC_BYTES && due.try_send(()).is_ok() {
                unsynced = 0;
            }
        }
        drop(due);
        syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        file.sync_all()
    })
}

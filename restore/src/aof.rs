//! `--aof`: a data directory that a server starts from.
//!
//! The archived stream is what a server writes to its append-only file, so the directory is the
//! snapshot as base and the stream up to the cut as increment: no engine is needed, no byte is
//! reinterpreted, and keys whose time has run out since are kept, because nothing expires while an
//! append-only file is loaded.
//!
//! - 7.0 and later, Valkey: `appendonlydir/` with base, increment and manifest (`aof.c`);
//! - before 7.0: one `appendonly.aof` that begins with the RDB (`aof-use-rdb-preamble`).
//!
//! The names are the servers' defaults (`appenddirname`, `appendfilename`).

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::RestoreError;
use crate::fetch::Piece;
use crate::place::{self, FileSink, PlaceError, at};
use crate::progress::Progress;
use crate::recording::Recording;

const FOLDER: &str = "appendonlydir";
const BASE: &str = "appendonly.aof.1.base.rdb";
const INCREMENT: &str = "appendonly.aof.1.incr.aof";
const MANIFEST: &str = "appendonly.aof.manifest";
const SINGLE: &str = "appendonly.aof";

/// What a file system may put into an empty folder.
const NOT_CONTENT: &str = "lost+found";

/// Where an append-only file goes; found fit before anything is fetched.
#[derive(Debug)]
pub struct AofDestination {
    folder: PathBuf,
    /// Whether the folder is there already.
    exists: bool,
}

impl AofDestination {
    /// Checks that `folder` is absent or empty; with `force` it may hold other things, and an
    /// append-only file in it is replaced.
    ///
    /// # Errors
    /// When it is neither, or cannot be looked into.
    pub fn check(folder: &Path, force: bool) -> Result<Self, PlaceError> {
        if !place::exists(folder)? {
            let parent = place::parent(folder)?;
            fs::read_dir(&parent).map_err(at("look into", &parent))?;
            return Ok(Self { folder: folder.to_owned(), exists: false });
        }
        for entry in fs::read_dir(folder).map_err(at("look into", folder))? {
            let entry = entry.map_err(at("look into", folder))?.file_name();
            if !force && entry != NOT_CONTENT {
                return Err(PlaceError::NotEmpty { folder: folder.to_owned(), entry: entry.into() });
            }
        }
        Ok(Self { folder: folder.to_owned(), exists: true })
    }
}

/// Writes the recording to the destination, where it appears when it is whole.
///
/// # Errors
/// [`RestoreError`]; the destination is then as it was before.
pub async fn write(recording: &Recording, to: AofDestination, progress: &Progress) -> Result<(), RestoreError> {
    let beside = if to.exists { to.folder.clone() } else { place::parent(&to.folder)? };
    let unfinished = place::unfinished(&beside)?;
    // A folder of its own, with the rights that the system gives by default: a temporary one is its
    // owner's alone, and the server may run as another user.
    let content = unfinished.path().join("content");
    make_folder(&content)?;
    let name = if recording.has_multipart_aof() { FOLDER } else { SINGLE };
    progress.begin();
    if recording.has_multipart_aof() {
        write_parts(recording, &content.join(FOLDER), progress).await?;
    } else {
        write_single(recording, &content.join(SINGLE), progress).await?;
    }
    place::sync_folder(&content)?;
    if to.exists {
        let (new, place) = (content.join(name), to.folder.join(name));
        if place::exists(&place)? {
            place::rename(&place, &unfinished.path().join("replaced"))?;
        }
        place::rename(&new, &place)?;
    } else {
        place::rename(&content, &to.folder)?;
    }
    Ok(unfinished.close().map_err(at("remove what is left in", &beside))?)
}

async fn write_parts(recording: &Recording, folder: &Path, progress: &Progress) -> Result<(), RestoreError> {
    make_folder(folder)?;
    let mut base = FileSink::create(&folder.join(BASE))?;
    copy_rdb(recording, &mut base, progress).await?;
    let mut increment = FileSink::create(&folder.join(INCREMENT))?;
    // The disk syncs the base while the stream is fetched.
    tokio::try_join!(async { Ok(base.finish().await?) }, copy_stream(recording, &mut increment, progress))?;
    increment.finish().await?;
    let mut manifest = FileSink::create(&folder.join(MANIFEST))?;
    let lines = format!("file {BASE} seq 1 type b\nfile {INCREMENT} seq 1 type i\n");
    manifest.write(Bytes::from(lines).into()).await?;
    manifest.finish().await?;
    Ok(place::sync_folder(folder)?)
}

async fn write_single(recording: &Recording, file: &Path, progress: &Progress) -> Result<(), RestoreError> {
    let mut file = FileSink::create(file)?;
    copy_rdb(recording, &mut file, progress).await?;
    copy_stream(recording, &mut file, progress).await?;
    Ok(file.finish().await?)
}

fn make_folder(folder: &Path) -> Result<(), PlaceError> {
    fs::DirBuilder::new().mode(0o777).create(folder).map_err(at("create", folder))
}

/// Appends the snapshot's RDB.
pub(crate) async fn copy_rdb(
    recording: &Recording,
    to: &mut FileSink,
    progress: &Progress,
) -> Result<(), RestoreError> {
    let mut rdb = recording.rdb();
    while let Some(piece) = rdb.next().await? {
        progress.rdb(piece.bytes.len());
        to.write(piece).await?;
    }
    Ok(())
}

async fn copy_stream(recording: &Recording, to: &mut FileSink, progress: &Progress) -> Result<(), RestoreError> {
    let select = recording.select();
    if !select.is_empty() {
        to.write(Piece::from(Bytes::from(select))).await?;
    }
    let mut stream = recording.stream();
    while let Some(piece) = stream.next().await? {
        progress.stream(piece.piece.bytes.len());
        to.write(piece.piece).await?;
    }
    progress.clock_offset(stream.clock_offset());
    Ok(())
}

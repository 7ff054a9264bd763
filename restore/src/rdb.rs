//! `--rdb`: an RDB file of the target.
//!
//! Exactly at a snapshot it is the snapshot's RDB as the source wrote it. Everywhere else an engine
//! applies the stream and saves while it is still a replica, so that keys whose time has run out
//! since are in the file as they were at the target.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redwind_link::LinkError;
use redwind_stream::RdbCheck;
use tempfile::TempDir;

use crate::aof;
use crate::engine::{Engine, EngineChoice};
use crate::error::RestoreError;
use crate::fitness::Needs;
use crate::place::{self, FileSink, PlaceError, at};
use crate::primary::{self, Primary};
use crate::progress::Progress;
use crate::recording::Recording;
use crate::replica;

/// How long `SAVE` may take.
const SAVE_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
const READ_BYTES: usize = 1 << 20;

/// Where an RDB goes, with the engine that will make it: both found fit before anything is fetched.
#[derive(Debug)]
pub struct RdbDestination {
    file: PathBuf,
    unfinished: TempDir,
    /// `None` exactly at a snapshot.
    engine: Option<Engine>,
}

impl RdbDestination {
    /// Checks that `file` can be written (with `force` also when it exists), and starts an engine if
    /// the target takes one.
    ///
    /// # Errors
    /// When it exists or cannot be written, or there is no fit engine.
    pub async fn prepare(
        file: &Path,
        force: bool,
        recording: &Recording,
        choice: &EngineChoice,
    ) -> Result<Self, RestoreError> {
        let taken = PlaceError::Taken { path: file.to_owned() };
        if file.is_dir() || (!force && place::exists(file)?) {
            return Err(taken.into());
        }
        let unfinished = place::unfinished(&place::parent(file)?)?;
        let engine = match recording.is_snapshot() {
            true => None,
            false => Some(Engine::start(choice, &Needs::of(recording), unfinished.path()).await?),
        };
        Ok(Self { file: file.to_owned(), unfinished, engine })
    }
}

/// Makes the RDB; the file appears when it is whole. Tells how many commands of the stream the engine
/// refused, if it counts them.
///
/// # Errors
/// [`RestoreError`]; the file is then as it was before.
pub async fn write(recording: &Recording, to: RdbDestination, progress: &Progress) -> Result<u64, RestoreError> {
    let RdbDestination { file, unfinished, engine } = to;
    let (finished, refused) = match engine {
        Some(engine) => apply(recording, engine, progress).await?,
        None => (copy(recording, &unfinished, progress).await?, 0),
    };
    place::rename(&finished, &file)?;
    unfinished.close().map_err(at("remove what is left beside", &file))?;
    Ok(refused)
}

async fn copy(recording: &Recording, folder: &TempDir, progress: &Progress) -> Result<PathBuf, RestoreError> {
    let path = folder.path().join("snapshot.rdb");
    let mut file = FileSink::create(&path)?;
    progress.begin();
    aof::copy_rdb(recording, &mut file, progress).await?;
    file.finish().await?;
    Ok(path)
}

async fn apply(recording: &Recording, mut engine: Engine, progress: &Progress) -> Result<(PathBuf, u64), RestoreError> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let primary = Primary::bind(loopback, recording.clone(), progress.clone()).await?;
    let (address, standing) = (primary.address(), primary.standing());
    let password = primary.password().clone();
    let lost = |source: LinkError| RestoreError::Link { who: "the engine".to_owned(), source: Box::new(source) };
    let mut connection = engine.connect().await.map_err(lost)?;
    let dump = engine.dump();
    let replay = async {
        replica::set(&mut connection, "masterauth", password.expose().as_bytes()).await.map_err(lost)?;
        replica::follow(&mut connection, address).await.map_err(lost)?;
        primary::until_applied(standing, address).await?;
        let refused = replica::refused_commands(&mut connection).await.map_err(lost)?;
        connection.command_within(&[b"SAVE"], SAVE_TIME_MAX).await.map_err(lost)?;
        Ok::<u64, RestoreError>(refused.unwrap_or(0))
    };
    let refused = tokio::select! {
        refused = engine.alongside(replay) => refused?,
        error = primary.run() => return Err(error.into()),
    };
    let path = dump.clone();
    let checking = tokio::task::spawn_blocking(move || check_and_sync(&path));
    checking.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(at("check", &dump))?;
    engine.stop().await?;
    Ok((dump, refused))
}

/// Reads an RDB to its end, checks it, and makes it durable.
fn check_and_sync(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut check = RdbCheck::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => check.push(&buffer[..count]).map_err(io::Error::other)?,
        }
    }
    check.finish().map_err(io::Error::other)?;
    file.sync_all()
}

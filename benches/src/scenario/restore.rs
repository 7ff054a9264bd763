//! From an archive to a loaded server, beside the same files copied and the same data replicated natively.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Store, directory_bytes};
use crate::fake_primary::FakePrimary;
use crate::feed::feed;
use crate::lab::Lab;
use crate::load::{Kind as LoadKind, Load};
use crate::process::{self, Finished, Process, wait_for};
use crate::report::{Limit, Section, per_gib, progress, spread};
use crate::scenario::sustained;
use crate::server::{Server, free_port};
use crate::size::{ByteSize, GIB, MIB};

/// How often files are written, in each round.
const TRIES: usize = 3;
/// Anything that takes longer has failed the bench.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The figures of all rounds.
#[derive(Default)]
struct Figures {
    restore_wall: Vec<f64>,
    restore_cpu_per_gib: Vec<f64>,
    restore_resident: Vec<f64>,
    load_restored: Vec<f64>,
    copy: Vec<f64>,
    load_copy: Vec<f64>,
    served: Vec<f64>,
    native: Vec<f64>,
    replayed: Vec<f64>,
}

/// Runs the scenario: a dataset of about `--size`, then as much of mixed commands.
///
/// # Errors
/// When anything of it fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let size = size(lab);
    let directory = lab.directory("restore")?;
    let base = make_base(lab, &directory)?;
    let stream = directory.join("stream");
    sustained::record(lab, size, &directory, &stream)?;
    let archive = if lab.agent_wanted() { Some(make_archive(lab, &directory, &base)?) } else { None };

    let mut figures = Figures::default();
    for round in 1..=lab.options().rounds {
        if let Some(archive) = &archive {
            progress(format_args!("round {round}: restore --aof and a copy of its files"));
            append_only_files(lab, &archive.store, &mut figures)?;
            progress(format_args!("round {round}: restore --serve"));
            figures.served.push(served(lab, archive)?.as_secs_f64());
        }
        progress(format_args!("round {round}: native replication"));
        figures.native.push(native(lab, &base)?.as_secs_f64());
        progress(format_args!("round {round}: replication from a replay"));
        figures.replayed.push(replayed(lab, &base, &stream)?.as_secs_f64());
    }
    lab.discard(&directory)?;
    Ok(figures.section(format!("restore: a dataset of {size} and {size} of mixed commands")))
}

impl Figures {
    fn section(&self, title: String) -> Section {
        let mut section = Section::new(title, &["step", "wall s", "CPU s/GiB written", "peak RSS MiB"]);
        let mut row = |step: &str, wall: &[f64], cpu: &[f64], resident: &[f64]| {
            if !wall.is_empty() {
                section.row(vec![step.to_owned(), spread(wall), spread(cpu), spread(resident)]);
            }
        };
        row("redwind restore --aof", &self.restore_wall, &self.restore_cpu_per_gib, &self.restore_resident);
        row("server loads what was restored", &self.load_restored, &[], &[]);
        row("copy of the same files, synced", &self.copy, &[], &[]);
        row("server loads the copy", &self.load_copy, &[], &[]);
        row("redwind restore --serve, until a server holds it", &self.served, &[], &[]);
        row("native: full sync, then the stream as it is made", &self.native, &[], &[]);
        row("floor: full sync and stream from files", &self.replayed, &[], &[]);
        section.bound("restore, own CPU s per GiB", self.restore_cpu_per_gib.clone(), Limit::AtMost(1.5));
        let own = self.restore_wall.iter().zip(&self.load_restored).map(|(a, b)| a + b);
        let peer = self.copy.iter().zip(&self.load_copy).map(|(a, b)| a + b);
        let ratios = own.zip(peer).map(|(o, p)| o / p).collect();
        section.bound("wall: restore --aof + load / copy + load", ratios, Limit::AtMost(1.10));
        for (peer, walls) in [("native full sync and stream", &self.native), ("the floor", &self.replayed)] {
            let ratios = self.served.iter().zip(walls).map(|(served, peer)| served / peer).collect();
            section.bound(format!("wall: restore --serve / {peer}"), ratios, Limit::AtMost(1.10));
        }
        section
    }
}

fn size(lab: &Lab) -> ByteSize {
    lab.size(512 * MIB)
}

/// Writes the RDB of the dataset and returns where.
fn make_base(lab: &Lab, directory: &Path) -> Result<PathBuf> {
    progress("making the dataset");
    let data = directory.join("base");
    let server = Server::start(lab.programs(), &data, &[])?;
    feed(server.address(), &mut Load::dataset(size(lab).0, lab.options().seed))?;
    server.expect_no_errors()?;
    server.client()?.call(&["SAVE"])?;
    Ok(data.join("dump.rdb"))
}

/// An archive, and the offset up to which it must be restored.
struct Archive {
    store: Store,
    end: u64,
}

/// Archives the dataset and the mixed load on top of it.
fn make_archive(lab: &Lab, directory: &Path, base: &Path) -> Result<Archive> {
    progress("making the archive");
    let (primary, at) = loaded_server(lab, base, "archived")?;
    let mut agent = Agent::start(lab.redwind()?, primary.address(), Store::file(directory), directory)?;
    wait_for("the first snapshot", PATIENCE, || agent.durable_offset())?;
    feed_mix(lab, &primary)?;
    let end = primary.mark()?;
    wait_for("the load's being durable", PATIENCE, || Ok(agent.durable_offset()?.filter(|&durable| durable >= end)))?;
    agent.stop()?;
    drop(primary);
    lab.discard(&at)?;
    Ok(Archive { store: Store::file(directory), end })
}

fn feed_mix(lab: &Lab, primary: &Server) -> Result<()> {
    primary.forget_errors()?;
    feed(primary.address(), &mut Load::new(LoadKind::Mix, size(lab).0, lab.options().seed))?;
    primary.expect_no_errors()
}

/// A server that has loaded `rdb`, and its directory.
fn loaded_server(lab: &Lab, rdb: &Path, name: &str) -> Result<(Server, PathBuf)> {
    let at = lab.directory(name)?;
    let data = at.join("data");
    fs::create_dir(&data)?;
    fs::copy(rdb, data.join("dump.rdb")).context("copy the dataset")?;
    Ok((Server::start(lab.programs(), &data, &[])?, at))
}

/// `restore --aof` and the load of its files, then the same files copied and loaded.
///
/// The files are written [`TRIES`] times and the least counts, for both: a virtual machine's host takes back
/// memory that lies free for some seconds, and whoever is the next to write pays for getting it again.
fn append_only_files(lab: &Lab, archive: &Store, figures: &mut Figures) -> Result<()> {
    let at = lab.directory("aof")?;
    let (restored, copy) = (at.join("restored"), at.join("copy"));
    let runs = repeated(lab, &restored, || restore(lab, archive, &restored))?;
    let bytes = directory_bytes(&restored)?.max(GIB / 1024);
    let copies = repeated(lab, &copy, || {
        let started = Instant::now();
        copy_and_sync(&restored, &copy)?;
        Ok(started.elapsed())
    })?;
    let keys_of = |data: &Path, walls: &mut Vec<f64>| -> Result<String> {
        let started = Instant::now();
        let server = Server::start(lab.programs(), data, &["--appendonly", "yes"])?;
        walls.push(started.elapsed().as_secs_f64());
        Ok(server.client()?.info("keyspace")?.0)
    };
    let own = keys_of(&restored, &mut figures.load_restored)?;
    let peer = keys_of(&copy, &mut figures.load_copy)?;
    let databases = |info: &str| info.lines().filter(|l| l.starts_with("db")).count();
    ensure!(databases(&own) > 1 && databases(&own) == databases(&peer), "the restored server holds {own}");
    let least = |times: &mut dyn Iterator<Item = Duration>| times.min().unwrap_or_default();
    figures.restore_wall.push(least(&mut runs.iter().map(|run| run.wall)).as_secs_f64());
    figures.restore_cpu_per_gib.push(per_gib(least(&mut runs.iter().map(|run| run.cpu)), bytes));
    figures.restore_resident.extend(runs.iter().map(|run| run.peak_resident as f64 / MIB as f64));
    figures.copy.push(least(&mut copies.into_iter()).as_secs_f64());
    lab.discard(&at)
}

/// What each of several tries gives; `made`, which each of them makes, is left of the last.
fn repeated<T>(lab: &Lab, made: &Path, run: impl Fn() -> Result<T>) -> Result<Vec<T>> {
    let mut results = vec![run()?];
    for _ in 1..TRIES {
        lab.discard(made)?;
        results.push(run()?);
    }
    Ok(results)
}

fn restore(lab: &Lab, archive: &Store, to: &Path) -> Result<Finished> {
    let mut command = Command::new(lab.redwind()?);
    command.args(["restore", "--store", &archive.url, "--to", "latest", "--aof"]).arg(to);
    process::run(command, &to.with_extension("log"))
}

/// Copies a directory with everything below it, each file and directory synced as `cp` and `sync` would.
fn copy_and_sync(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_and_sync(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    Ok(File::open(to)?.sync_all()?)
}

/// An empty replica attaches to `restore --serve` and takes everything.
fn served(lab: &Lab, archive: &Archive) -> Result<Duration> {
    let at = lab.directory("served")?;
    let log = at.join("serve.log");
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()?).into();
    let mut command = Command::new(lab.redwind()?);
    command.args(["restore", "--store", &archive.store.url, "--to", "latest", "--json"]);
    command.args(["--serve", &address.to_string()]);
    let started = Instant::now();
    let mut restorer = Process::spawn("redwind restore --serve", command, log.clone())?;
    let password = wait_for("the password of restore --serve", PATIENCE, || {
        restorer.expect_running()?;
        Ok(password_in(&fs::read_to_string(&log)?))
    })?;
    let replicaof = format!("{} {}", address.ip(), address.port());
    let settings = ["--masterauth", &password, "--replicaof", &replicaof];
    let replica = Server::start(lab.programs(), &at.join("replica"), &settings)?;
    reached(&replica, archive.end)?;
    let wall = started.elapsed();
    drop((replica, restorer));
    lab.discard(&at)?;
    Ok(wall)
}

/// The value of the field `password` in JSON.
fn password_in(json: &str) -> Option<String> {
    let (_, after) = json.split_once("\"password\"")?;
    let (_, value) = after.split_once('"')?;
    Some(value.split_once('"')?.0.to_owned())
}

/// An empty replica attaches to a primary with the dataset, and once it is in sync the load is made there.
fn native(lab: &Lab, base: &Path) -> Result<Duration> {
    let (primary, at) = loaded_server(lab, base, "native")?;
    let started = Instant::now();
    let replica = empty_replica(lab, primary.address(), &at)?;
    let attached = primary.mark()?;
    reached(&replica, attached)?;
    feed_mix(lab, &primary)?;
    reached(&replica, primary.mark()?)?;
    let wall = started.elapsed();
    drop((replica, primary));
    lab.discard(&at)?;
    Ok(wall)
}

/// The same from a primary that does nothing but send files.
fn replayed(lab: &Lab, base: &Path, stream: &Path) -> Result<Duration> {
    let at = lab.directory("replayed")?;
    let source = FakePrimary::start(Some(base), stream)?;
    let started = Instant::now();
    let replica = empty_replica(lab, source.address(), &at)?;
    reached(&replica, source.end())?;
    let wall = started.elapsed();
    drop(replica);
    lab.discard(&at)?;
    Ok(wall)
}

fn empty_replica(lab: &Lab, primary: SocketAddr, at: &Path) -> Result<Server> {
    let replicaof = format!("{} {}", primary.ip(), primary.port());
    Server::start(lab.programs(), &at.join("replica"), &["--replicaof", &replicaof])
}

fn reached(replica: &Server, offset: u64) -> Result<()> {
    wait_for("the replica's catching up", PATIENCE, || {
        // No answer while it loads the dataset.
        let Ok(info) = replica.client()?.info("replication") else { return Ok(None) };
        let up = info.text("master_link_status") == Some("up");
        Ok((up && info.number("slave_repl_offset")? >= offset).then_some(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_counts_once_all_of_it_is_there() {
        let line = r#"{"address":"127.0.0.1:1","password":"0af"}"#;
        assert_eq!(password_in(line).as_deref(), Some("0af"));
        assert_eq!(password_in(&line[..line.len() - 2]), None);
    }
}

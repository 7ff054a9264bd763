//! The agent's memory and the primary's buffers when the store is slow, silent or failing.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agent::Agent;
use crate::bucket::{Brake, Bucket};
use crate::consumer::Kind;
use crate::feed::feed;
use crate::lab::Lab;
use crate::load::{Kind as LoadKind, Load};
use crate::process::wait_for;
use crate::report::{Limit, Section, progress, spread};
use crate::resp::encode;
use crate::sample::{Sampler, replica_omem};
use crate::server::Server;
use crate::size::{GIB, MIB};
use crate::usage::peak_resident;

/// A store that came back must have everything by then.
const PATIENCE: Duration = Duration::from_secs(900);
/// Bytes of the largest values.
const LARGE_VALUE: u64 = 100_000_000;
/// How many of them are written in each phase.
const LARGE_VALUES: usize = 2;
/// What `omem` of a replica that has read everything is at most: it still refers to the last blocks of the
/// replication buffer, of 16 KiB each (`getClientOutputBufferMemoryUsage`, Redis 7.0).
const IDLE_OMEM: u64 = 64 << 10;
/// Bytes written at a time to fill up a block: less than a block has at least.
const FILLING: usize = 8 << 10;
/// Rate of the slow store in bytes per second: less than any load here makes, even compressed.
const SLOW: u64 = 4 * MIB;

/// The largest `omem` of the reader's connection in MiB: with values of 100 MB, and with mixed commands.
struct Buffers {
    large: f64,
    mixed: f64,
}

/// Runs the scenario: a part of `--size` in each phase.
///
/// # Errors
/// When anything of it fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let size = lab.size(512 * MIB);
    let title = format!("memory: {size} of load in four phases, with values of 100 MB");
    let columns = [
        "store",
        "agent peak RSS so far MiB",
        "omem MiB, mixed commands",
        "omem MiB, values of 100 MB",
        "in the store GiB",
    ];
    let mut section = Section::new(title, &columns);
    progress("a bare reader");
    let floor = bare_reader(lab)?;
    let cell = |value: f64| spread(&[value]);
    section.row(vec![
        "(a bare reader)".to_owned(),
        "-".to_owned(),
        cell(floor.mixed),
        cell(floor.large),
        "-".to_owned(),
    ]);

    let directory = lab.directory("memory")?;
    let bodies = lab.directory("bucket")?;
    let primary = Server::start(lab.programs(), &directory.join("primary"), &[])?;
    let bucket = Bucket::start(&bodies)?;
    let mut agent = Agent::start(lab.redwind()?, primary.address(), bucket.store(), &directory)?;
    wait_for("the first snapshot", PATIENCE, || agent.durable_offset())?;
    let in_store = |bucket: &Bucket| spread(&[bucket.bytes() as f64 / GIB as f64]);
    let (mut mixed, mut large) = (0.0, 0.0);
    let phases =
        [("fast", Brake::Open), ("slow", Brake::Slow(SLOW)), ("silent", Brake::Silent), ("failing", Brake::Failing)];
    for (seed, (label, brake)) in phases.into_iter().enumerate() {
        progress(format_args!("the store is {label}"));
        bucket.set(brake);
        let seen = phase(lab, &primary, seed as u64).with_context(|| format!("a {label} store"))?;
        agent.durable_offset()?;
        (mixed, large) = (f64::max(mixed, seen.mixed), f64::max(large, seen.large));
        let resident = peak_resident(agent.pid())? as f64 / MIB as f64;
        section.row(vec![label.to_owned(), cell(resident), cell(seen.mixed), cell(seen.large), in_store(&bucket)]);
    }
    progress("the store is back");
    bucket.set(Brake::Open);
    let end = primary.mark()?;
    wait_for("the store's catching up", PATIENCE, || Ok(agent.durable_offset()?.filter(|&durable| durable >= end)))?;
    let resident = peak_resident(agent.pid())? as f64 / MIB as f64;
    let back = "back, caught up".to_owned();
    section.row(vec![back, cell(resident), "-".to_owned(), "-".to_owned(), in_store(&bucket)]);
    section.bound("agent peak RSS MiB", vec![resident], Limit::AtMost(64.0));
    section.bound("primary's buffer for the agent MiB, mixed commands, worst phase", vec![mixed], Limit::AtMost(1.0));
    let ratio = large / floor.large.max(1.0);
    section.bound("the same with values of 100 MB / for a bare reader", vec![ratio], Limit::AtMost(1.25));
    section.note("A primary puts a command of 100 MB into the buffer at once, whoever reads it: see the bare reader.");
    agent.stop()?;
    drop(primary);
    lab.discard(&directory)?;
    lab.discard(&bodies)?;
    Ok(section)
}

/// The same load for a reader that does nothing with it.
fn bare_reader(lab: &Lab) -> Result<Buffers> {
    let directory = lab.directory("bare")?;
    let primary = Server::start(lab.programs(), &directory.join("primary"), &[])?;
    let mut reader = Kind::Drain.attach(lab, &primary, &directory)?.context("a reader")?;
    wait_for("the reader's attaching", PATIENCE, || Ok((reader.position(&primary)? > 0).then_some(())))?;
    let seen = phase(lab, &primary, 0)?;
    drop((reader, primary));
    lab.discard(&directory)?;
    Ok(seen)
}

/// Large values, a quarter of the size as mixed commands, and large values again.
fn phase(lab: &Lab, primary: &Server, seed: u64) -> Result<Buffers> {
    let mut mix = Load::new(LoadKind::Mix, lab.size(512 * MIB).0 / 4, lab.options().seed + seed);
    let before = largest_buffer(primary, &mut large_values())?;
    let mixed = largest_buffer(primary, &mut mix)?;
    let after = largest_buffer(primary, &mut large_values())?;
    Ok(Buffers { large: before.max(after), mixed })
}

/// The largest `omem` in MiB that `load` leads to. Begins when the reader has read everything.
fn largest_buffer(primary: &Server, load: &mut dyn Read) -> Result<f64> {
    let mut client = primary.client()?;
    // The buffer's last block counts as a whole, may be of megabytes after large values, and is left only
    // for a next one: so it is filled up.
    let filling = "x".repeat(FILLING);
    wait_for("the primary's buffer's running empty", PATIENCE, || {
        client.call(&["SET", "redwind-bench:filling", &filling])?;
        Ok((replica_omem(&mut client)? <= IDLE_OMEM).then_some(()))
    })?;
    let sampler = Sampler::start(Some(primary.address()), None)?;
    feed(primary.address(), load)?;
    Ok(sampler.finish()?.replica_omem as f64 / MIB as f64)
}

/// Values that do not compress to nothing: a load of documents, wrapped as one value.
fn large_values() -> impl Read {
    let value = Load::new(LoadKind::Fill, LARGE_VALUE, 1).into_bytes();
    let mut bytes = Vec::new();
    for number in 0..LARGE_VALUES {
        encode(&mut bytes, &[b"SET", format!("large:{number}").as_bytes(), &value]);
    }
    std::io::Cursor::new(bytes)
}

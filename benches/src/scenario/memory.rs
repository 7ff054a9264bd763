//! The agent's memory and the primary's buffers when the store is slow, silent or failing.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agent::Agent;
use crate::bucket::{Brake, Bucket};
use crate::feed::feed;
use crate::lab::Lab;
use crate::load::{Kind as LoadKind, Load};
use crate::process::wait_for;
use crate::report::{Limit, Section, progress, spread};
use crate::resp::encode;
use crate::sample::Sampler;
use crate::server::Server;
use crate::size::{GIB, MIB};
use crate::usage::peak_resident;

/// A store that came back must have everything by then.
const PATIENCE: Duration = Duration::from_secs(900);
/// Bytes of the largest values.
const LARGE_VALUE: u64 = 100_000_000;
/// How many of them are written in each phase.
const LARGE_VALUES: usize = 2;
/// Rate of the slow store in bytes per second: less than any load here makes, even compressed.
const SLOW: u64 = 4 * MIB;

/// Runs the scenario: a part of `--size` in each phase.
///
/// # Errors
/// When anything of it fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let directory = lab.directory("memory")?;
    let bodies = lab.directory("bucket")?;
    let primary = Server::start(lab.programs(), &directory.join("primary"), &[])?;
    let bucket = Bucket::start(&bodies)?;
    let mut agent = Agent::start(lab.redwind()?, primary.address(), bucket.store(), &directory)?;
    wait_for("the first snapshot", PATIENCE, || agent.durable_offset())?;

    let title = format!("memory: {} of load in four phases, with values of 100 MB", lab.options().size);
    let columns = ["store", "agent peak RSS so far MiB", "primary's buffer for the agent MiB", "in the store GiB"];
    let mut section = Section::new(title, &columns);
    let mut buffers: Vec<f64> = Vec::new();
    let phases =
        [("fast", Brake::Open), ("slow", Brake::Slow(SLOW)), ("silent", Brake::Silent), ("failing", Brake::Failing)];
    for (seed, (label, brake)) in phases.into_iter().enumerate() {
        progress(format_args!("the store is {label}"));
        bucket.set(brake);
        let sampler = Sampler::start(Some(primary.address()), Some(agent.pid()))?;
        feed(primary.address(), &mut phase_load(lab, seed as u64)).with_context(|| format!("a {label} store"))?;
        let peaks = sampler.finish()?;
        agent.durable_offset()?;
        let omem = peaks.replica_omem as f64 / MIB as f64;
        buffers.push(omem);
        section.row(vec![
            label.to_owned(),
            spread(&[peak_resident(agent.pid())? as f64 / MIB as f64]),
            spread(&[omem]),
            spread(&[bucket.bytes() as f64 / GIB as f64]),
        ]);
    }
    progress("the store is back");
    bucket.set(Brake::Open);
    let end = primary.mark()?;
    wait_for("the store's catching up", PATIENCE, || Ok(agent.durable_offset()?.filter(|&durable| durable >= end)))?;
    let resident = peak_resident(agent.pid())? as f64 / MIB as f64;
    let in_store = spread(&[bucket.bytes() as f64 / GIB as f64]);
    section.row(vec!["back, caught up".to_owned(), spread(&[resident]), "-".to_owned(), in_store]);
    section.bound("agent peak RSS MiB", vec![resident], Limit::AtMost(64.0));
    let buffer = buffers.into_iter().fold(0.0, f64::max);
    section.bound("primary's buffer for the agent MiB, worst phase", vec![buffer], Limit::AtMost(1.0));
    agent.stop()?;
    drop(primary);
    lab.discard(&directory)?;
    lab.discard(&bodies)?;
    Ok(section)
}

/// A quarter of the size as mixed commands, with large values before and after.
fn phase_load(lab: &Lab, seed: u64) -> impl Read {
    let mixed = Load::new(LoadKind::Mix, lab.options().size.0 / 4, lab.options().seed + seed);
    large_values().chain(mixed).chain(large_values())
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

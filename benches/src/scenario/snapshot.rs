//! A full copy of a dataset: the agent's first snapshot beside `redis-cli --rdb`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::agent::{Agent, Store};
use crate::feed::feed;
use crate::lab::Lab;
use crate::load::Load;
use crate::process::{self, Finished, wait_for};
use crate::report::{Limit, Section, per_gib, progress, spread};
use crate::server::Server;
use crate::size::{GIB, MIB};
use crate::usage::{cpu_time, peak_resident};

/// A snapshot that is not complete by then has failed the bench.
const PATIENCE: Duration = Duration::from_secs(1800);

/// One copy made.
struct Copy {
    used: Finished,
    primary_cpu: Duration,
    bytes: u64,
}

/// Runs the scenario on a dataset whose RDB is about as large as `--size`.
///
/// # Errors
/// When a run fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let size = lab.size(512 * MIB);
    let directory = lab.directory("snapshot")?;
    let primary = Server::start(lab.programs(), &directory.join("primary"), &[])?;
    progress(format_args!("loading a dataset of {size}"));
    feed(primary.address(), &mut Load::dataset(size.0, lab.options().seed))?;
    primary.expect_no_errors()?;

    let (mut peer, mut own) = (Vec::new(), Vec::new());
    for round in 1..=lab.options().rounds {
        progress(format_args!("round {round}: redis-cli --rdb"));
        peer.push(redis_cli(lab, &primary)?);
        if lab.agent_wanted() {
            progress(format_args!("round {round}: redwind agent"));
            own.push(agent(lab, &primary)?);
        }
    }
    let rdb = peer.first().map_or(1, |c| c.bytes);
    let mut section = Section::new(
        format!("snapshot: an RDB of {:.2} GiB", rdb as f64 / GIB as f64),
        &["copy by", "wall s", "CPU s/GiB of RDB", "primary CPU s", "peak RSS MiB", "bytes / RDB"],
    );
    for (label, copies) in [("redis-cli --rdb", &peer), ("redwind agent", &own)] {
        if copies.is_empty() {
            continue;
        }
        let of = |value: &dyn Fn(&Copy) -> f64| spread(&copies.iter().map(value).collect::<Vec<_>>());
        section.row(vec![
            label.to_owned(),
            of(&|c| c.used.wall.as_secs_f64()),
            of(&|c| per_gib(c.used.cpu, rdb)),
            of(&|c| c.primary_cpu.as_secs_f64()),
            of(&|c| c.used.peak_resident as f64 / MIB as f64),
            of(&|c| c.bytes as f64 / rdb as f64),
        ]);
    }
    let walls = own.iter().zip(&peer).map(|(o, p)| o.used.wall.as_secs_f64() / p.used.wall.as_secs_f64());
    section.bound("agent wall / redis-cli --rdb wall", walls.collect(), Limit::AtMost(1.05));
    let cpu = own.iter().map(|c| per_gib(c.used.cpu, rdb));
    section.bound("agent CPU s per GiB of RDB", cpu.collect(), Limit::AtMost(7.0));
    let resident = own.iter().map(|c| c.used.peak_resident as f64 / MIB as f64);
    section.bound("agent peak RSS MiB", resident.collect(), Limit::AtMost(64.0));
    section.note("The agent's wall time runs from its start until its first durable position.");
    drop(primary);
    lab.discard(&directory)?;
    Ok(section)
}

fn redis_cli(lab: &Lab, primary: &Server) -> Result<Copy> {
    let directory = lab.directory("redis-cli")?;
    let rdb = directory.join("dump.rdb");
    let mut command = lab.programs().command("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &primary.address().port().to_string(), "--rdb"]).arg(&rdb);
    let before = cpu_time(primary.pid())?;
    let used = process::run(command, &directory.join("log"))?;
    let bytes = std::fs::metadata(&rdb).context("the RDB of redis-cli")?.len();
    primary.wait_idle()?;
    let primary_cpu = cpu_time(primary.pid())? - before;
    lab.discard(&directory)?;
    Ok(Copy { used, primary_cpu, bytes })
}

fn agent(lab: &Lab, primary: &Server) -> Result<Copy> {
    let directory = lab.directory("agent")?;
    let before = cpu_time(primary.pid())?;
    let started = Instant::now();
    let mut agent = Agent::start(lab.redwind()?, primary.address(), Store::file(&directory), &directory)?;
    wait_for("the first snapshot", PATIENCE, || agent.durable_offset())?;
    let wall = started.elapsed();
    let used = Finished { wall, cpu: cpu_time(agent.pid())?, peak_resident: peak_resident(agent.pid())? };
    let bytes = agent.store().bytes()?.unwrap_or(0);
    primary.wait_idle()?;
    let primary_cpu = cpu_time(primary.pid())? - before;
    agent.stop()?;
    lab.discard(&directory)?;
    Ok(Copy { used, primary_cpu, bytes })
}

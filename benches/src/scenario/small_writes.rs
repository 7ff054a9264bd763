//! Unpipelined small writes: the stream comes in many tiny pieces, and waking for each is the cost.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::consumer::Kind;
use crate::feed::Fed;
use crate::lab::Lab;
use crate::process;
use crate::report::{Limit, Section};
use crate::scenario::paired::{self, Measured};
use crate::server::Server;
use crate::size::GIB;

/// Bytes of a value, as in the published figures of the servers' own benchmark.
const VALUE: u64 = 400;
/// Bytes one such SET takes in the stream: `*3 $3 SET $16 key:<12 digits> $400 value` with line ends.
const COMMAND: u64 = 4 + 9 + 5 + 18 + 6 + VALUE + 2;
/// Clients of the benchmark, one command in flight each.
const CLIENTS: &str = "50";
/// Keys the writes spread over.
const KEYS: &str = "100000";

/// Runs the scenario.
///
/// # Errors
/// When a run fails.
pub fn run(lab: &Lab) -> Result<Section> {
    // A fifth of the size of the pipelined load: a primary makes far less of this per second.
    let writes = (lab.size(GIB).0 / 5 / COMMAND).max(1000);
    let kinds = lab.consumers(&[Kind::None, Kind::Drain, Kind::Aof, Kind::Agent]);
    let rounds = paired::rounds(lab, &kinds, &mut |primary| benchmark(lab, primary, writes))?;

    let title = format!("small-writes: {writes} SETs of {VALUE} B, {CLIENTS} clients, no pipeline");
    let mut section = paired::section(title, &kinds, &rounds);
    let cpu = |m: &Measured| m.consumer_cpu_per_gib();
    let primary_cpu = |m: &Measured| m.primary_cpu.as_secs_f64();
    let (agent, drain) = (Kind::Agent, Kind::Drain);
    paired::compare(&mut section, "agent CPU / AOF replica CPU", &rounds, (agent, Kind::Aof), cpu, Limit::AtMost(0.25));
    paired::compare(&mut section, "agent CPU / drain CPU", &rounds, (agent, drain), cpu, Limit::AtMost(1.0));
    let with_agent = "primary CPU with agent / with drain";
    paired::compare(&mut section, with_agent, &rounds, (agent, drain), primary_cpu, Limit::AtMost(1.03));
    section.note("The benchmark's values are all alike, so compression costs almost nothing here.");
    Ok(section)
}

fn benchmark(lab: &Lab, primary: &Server, writes: u64) -> Result<Fed> {
    let directory = lab.directory("benchmark")?;
    let mut command = lab.programs().command("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &primary.address().port().to_string(), "-c", CLIENTS, "-P", "1"]);
    command.args(["-t", "set", "-d", &VALUE.to_string(), "-n", &writes.to_string(), "-r", KEYS, "--csv"]);
    let started = Instant::now();
    process::run(command, &directory.join("log"))?;
    let wall: Duration = started.elapsed();
    lab.discard(&directory)?;
    Ok(Fed { bytes: writes * COMMAND, wall })
}

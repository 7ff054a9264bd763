//! The mixed load at full pipeline speed, with each consumer in turn.

use anyhow::Result;

use crate::consumer::Kind;
use crate::feed::feed;
use crate::lab::Lab;
use crate::load::{Kind as LoadKind, Load};
use crate::report::{Limit, Section, progress};
use crate::scenario::paired::{self, Measured};
use crate::size::{GIB, MIB};

/// Runs the scenario.
///
/// # Errors
/// When a run fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let options = lab.options();
    let size = lab.size(GIB);
    progress(format_args!("making a load of {size}"));
    let load = Load::new(LoadKind::Mix, size.0, options.seed).into_bytes();
    let kinds = lab.consumers(&[Kind::None, Kind::Drain, Kind::Aof, Kind::AofNoRewrite, Kind::Agent]);
    let rounds = paired::rounds(lab, &kinds, &mut |primary| feed(primary.address(), &mut load.as_slice()))?;

    let title = format!("ingest: {size} of mixed commands, pipelined");
    let mut section = paired::section(title, &kinds, &rounds);
    let cpu = |m: &Measured| m.consumer_cpu_per_gib();
    let primary_cpu = |m: &Measured| m.primary_cpu.as_secs_f64();
    let speed = |m: &Measured| m.fed.megabytes_per_second();
    let (agent, drain) = (Kind::Agent, Kind::Drain);
    paired::compare(&mut section, "agent CPU / AOF replica CPU", &rounds, (agent, Kind::Aof), cpu, Limit::AtMost(0.35));
    let without_rewrite = (agent, Kind::AofNoRewrite);
    paired::compare(
        &mut section,
        "agent CPU / AOF replica CPU, rewrite off",
        &rounds,
        without_rewrite,
        cpu,
        Limit::AtMost(0.5),
    );
    let with_agent = "primary CPU with agent / with drain";
    paired::compare(&mut section, with_agent, &rounds, (agent, drain), primary_cpu, Limit::AtMost(1.03));
    let load_speed = "load MB/s with agent / with drain";
    paired::compare(&mut section, load_speed, &rounds, (agent, drain), speed, Limit::AtLeast(0.97));
    let stored = |m: &Measured| Some(m.stored? as f64 / m.stream as f64);
    paired::bound(&mut section, "archive / stream", &rounds, agent, stored, Limit::AtMost(0.35));
    let resident = |m: &Measured| Some(m.resident as f64 / MIB as f64);
    paired::bound(&mut section, "agent peak RSS MiB", &rounds, agent, resident, Limit::AtMost(64.0));
    let buffers = |m: &Measured| Some(m.peaks.replica_omem as f64 / MIB as f64);
    paired::bound(&mut section, "primary's buffer for the agent MiB", &rounds, agent, buffers, Limit::AtMost(1.0));
    Ok(section)
}

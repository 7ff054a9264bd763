//! A recorded stream at line rate: what a consumer can take when no real primary holds it back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::consumer::{Drain, Kind};
use crate::fake_primary::FakePrimary;
use crate::feed::feed;
use crate::lab::Lab;
use crate::load::{Kind as LoadKind, Load};
use crate::process::wait_for;
use crate::report::{Limit, Section, progress, spread};
use crate::server::Server;
use crate::size::{ByteSize, GIB, MIB};
use crate::usage::{cpu_time, peak_resident};

/// A consumer that has not caught up by then has failed the bench.
const PATIENCE: Duration = Duration::from_secs(900);

struct Replayed {
    kind: Kind,
    bytes: u64,
    wall: Duration,
    cpu: Duration,
    resident: u64,
}

impl Replayed {
    fn per_cpu_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu.as_secs_f64()
    }

    fn per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.wall.as_secs_f64()
    }
}

/// Runs the scenario.
///
/// # Errors
/// When a run fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let directory = lab.directory("recorded")?;
    let stream = directory.join("stream");
    let size = lab.size(GIB);
    record(lab, size, &directory, &stream)?;
    let kinds = lab.consumers(&[Kind::Drain, Kind::Aof, Kind::Agent]);
    let mut runs = Vec::new();
    for round in 1..=lab.options().rounds {
        for &kind in kinds.iter().filter(|&&k| k != Kind::None) {
            progress(format_args!("round {round}: {}", kind.label()));
            runs.push(replay(lab, kind, &stream).with_context(|| kind.label().to_owned())?);
        }
    }

    let title = format!("sustained: a recorded stream of {size} at line rate");
    let columns = ["consumer", "stream MB per CPU s", "stream MB/s", "CPU s", "wall s", "peak RSS MiB"];
    let mut section = Section::new(title, &columns);
    for &kind in &kinds {
        let of = |value: &dyn Fn(&Replayed) -> f64| -> Vec<f64> {
            runs.iter().filter(|r| r.kind == kind).map(value).collect()
        };
        section.row(vec![
            kind.label().to_owned(),
            spread(&of(&Replayed::per_cpu_second)),
            spread(&of(&Replayed::per_second)),
            spread(&of(&|r| r.cpu.as_secs_f64())),
            spread(&of(&|r| r.wall.as_secs_f64())),
            spread(&of(&|r| r.resident as f64 / MIB as f64)),
        ]);
    }
    let agent = runs.iter().filter(|r| r.kind == Kind::Agent);
    section.bound("agent, stream MB per CPU s", agent.map(Replayed::per_cpu_second).collect(), Limit::AtLeast(250.0));
    lab.discard(&directory)?;
    Ok(section)
}

/// Writes the stream that a real primary makes of `size` of the mixed load to `stream`.
///
/// # Errors
/// When the primary or the recorder fails.
pub fn record(lab: &Lab, size: ByteSize, directory: &Path, stream: &Path) -> Result<()> {
    progress("recording a stream");
    let primary = Server::start(lab.programs(), &directory.join("recorded-primary"), &[])?;
    let mut drain = Drain::start(primary.address(), Some(stream), directory)?;
    let position = |drain: &mut Drain| crate::consumer::Consumer::position(drain, &primary);
    wait_for("the recorder's attaching", PATIENCE, || Ok((position(&mut drain)? > 0).then_some(())))?;
    feed(primary.address(), &mut Load::new(LoadKind::Mix, size.0, lab.options().seed))?;
    let end = primary.mark()?;
    wait_for("the end of the recording", PATIENCE, || Ok((position(&mut drain)? >= end).then_some(())))?;
    primary.expect_no_errors()
}

fn replay(lab: &Lab, kind: Kind, stream: &Path) -> Result<Replayed> {
    let directory = lab.directory("replay")?;
    let source = FakePrimary::start(None, stream)?;
    let mut consumer = kind.attach(lab, &source, &directory)?.context("this scenario needs a consumer")?;
    let pid = consumer.pid();
    let begun = wait_for("the first byte of the stream", PATIENCE, || {
        consumer.position(&source)?;
        Ok(source.first_byte())
    })?;
    // What a consumer does before the first byte is small; what it did by now of the stream is counted.
    wait_for("the end of the stream", PATIENCE, || Ok((consumer.position(&source)? >= source.end()).then_some(())))?;
    let wall = Instant::now() - begun;
    consumer.wait_idle()?;
    let bytes = std::fs::metadata(stream)?.len();
    let replayed = Replayed { kind, bytes, wall, cpu: cpu_time(pid)?, resident: peak_resident(pid)? };
    drop(consumer);
    lab.discard(&directory)?;
    Ok(replayed)
}

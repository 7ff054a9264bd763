//! One load on one primary with one consumer, and rounds of them side by side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::consumer::{Consumer, Kind};
use crate::feed::Fed;
use crate::lab::Lab;
use crate::process::wait_for;
use crate::report::{Limit, Section, per_gib, progress, spread};
use crate::sample::{Peaks, Sampler};
use crate::server::Server;
use crate::size::MIB;
use crate::usage::{cpu_time, peak_resident};

/// A consumer that has not caught up by then has failed the bench.
const PATIENCE: Duration = Duration::from_secs(900);

/// What one run has cost.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Who was attached.
    pub kind: Kind,
    /// The load as the client saw it.
    pub fed: Fed,
    /// Bytes of replication stream the load made; of client bytes when nobody was attached.
    pub stream: u64,
    /// From the end of the load until the consumer had done its work.
    pub lag: Duration,
    /// CPU of the primary and its children over load and lag.
    pub primary_cpu: Duration,
    /// CPU of the consumer's process tree over load and lag, until it was idle.
    pub consumer_cpu: Duration,
    /// Peak resident size of the consumer's process.
    pub resident: u64,
    /// What peaked meanwhile.
    pub peaks: Peaks,
    /// Bytes the load added to the archive.
    pub stored: Option<u64>,
}

impl Measured {
    /// Starts a primary, attaches `kind`, applies `load` and waits until the consumer has done with it.
    ///
    /// # Errors
    /// When anything of it fails.
    pub fn take(lab: &Lab, kind: Kind, load: &mut dyn FnMut(&Server) -> Result<Fed>) -> Result<Self> {
        let directory = lab.directory("load")?;
        let primary = Server::start(lab.programs(), &directory.join("primary"), &[])?;
        let mut consumer = kind.attach(lab, &primary, &directory)?;
        let (start, stored_before) = match &mut consumer {
            Some(consumer) => (settle(consumer.as_mut(), &primary)?, consumer.stored()?),
            None => (0, None),
        };

        let pid = consumer.as_ref().map(|c| c.pid());
        let cpu_before = (cpu_time(primary.pid())?, pid.map_or(Ok(Duration::ZERO), cpu_time)?);
        primary.forget_errors()?;
        let sampler = Sampler::start(Some(primary.address()), pid)?;
        let fed = load(&primary).context("apply the load")?;
        let fed_at = Instant::now();
        let end = match &mut consumer {
            Some(consumer) => reach_mark(consumer.as_mut(), &primary)?,
            None => fed.bytes,
        };
        let lag = fed_at.elapsed();
        if let Some(consumer) = &mut consumer {
            consumer.wait_idle()?;
        }
        let primary_cpu = cpu_time(primary.pid())? - cpu_before.0;
        let consumer_cpu = pid.map_or(Ok(Duration::ZERO), cpu_time)?.saturating_sub(cpu_before.1);
        let peaks = sampler.finish()?;
        let stored = match &consumer {
            Some(consumer) => consumer.stored()?.zip(stored_before).map(|(after, before)| after - before),
            None => None,
        };
        primary.expect_no_errors()?;
        let resident = pid.map_or(Ok(0), peak_resident)?;
        drop(consumer);
        drop(primary);
        lab.discard(&directory)?;
        Ok(Self { kind, fed, stream: end - start, lag, primary_cpu, consumer_cpu, resident, peaks, stored })
    }

    /// CPU seconds of the consumer per GiB of stream.
    pub fn consumer_cpu_per_gib(&self) -> f64 {
        per_gib(self.consumer_cpu, self.stream)
    }
}

/// Waits until the consumer is attached, has its first dataset, and rests; returns the offset then.
fn settle(consumer: &mut dyn Consumer, primary: &Server) -> Result<u64> {
    let offset = reach_mark(consumer, primary)?;
    consumer.wait_idle()?;
    primary.wait_idle()?;
    Ok(offset)
}

/// Makes a write and waits until the consumer has it; returns the offset after it.
fn reach_mark(consumer: &mut dyn Consumer, primary: &Server) -> Result<u64> {
    // Without a replica the offset of a fresh primary stands still, so the mark is made again until one is there.
    let mut mark = primary.mark()?;
    wait_for("the consumer's catching up", PATIENCE, || {
        if mark == 0 {
            mark = primary.mark()?;
        }
        let position = consumer.position(primary)?;
        Ok((mark > 0 && position >= mark).then_some(mark))
    })
}

/// Rounds of `kinds` on the same load, in turn, so that a noisy minute hits all of them.
///
/// # Errors
/// When a run fails.
pub fn rounds(lab: &Lab, kinds: &[Kind], load: &mut dyn FnMut(&Server) -> Result<Fed>) -> Result<Vec<Vec<Measured>>> {
    let mut rounds = Vec::new();
    for round in 1..=lab.options().rounds {
        let mut runs = Vec::new();
        for &kind in kinds {
            progress(format_args!("round {round}: {}", kind.label()));
            runs.push(Measured::take(lab, kind, load).with_context(|| kind.label().to_owned())?);
        }
        rounds.push(runs);
    }
    Ok(rounds)
}

/// A section with a row for each kind.
pub fn section(title: String, kinds: &[Kind], rounds: &[Vec<Measured>]) -> Section {
    let columns = [
        "consumer",
        "CPU s",
        "CPU s/GiB",
        "peak RSS MiB",
        "tree MiB",
        "primary CPU s",
        "load s",
        "load MB/s",
        "primary buffers MiB",
        "omem MiB",
        "behind after load s",
        "archive / stream",
    ];
    let mut section = Section::new(title, &columns);
    for &kind in kinds {
        let runs: Vec<&Measured> = rounds.iter().flatten().filter(|r| r.kind == kind).collect();
        let cell = |value: &dyn Fn(&Measured) -> f64| spread(&runs.iter().map(|r| value(r)).collect::<Vec<_>>());
        let own = |value: &dyn Fn(&Measured) -> f64| if kind == Kind::None { "-".to_owned() } else { cell(value) };
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let shares: Vec<f64> = runs.iter().filter_map(|r| Some(r.stored? as f64 / r.stream as f64)).collect();
        section.row(vec![
            kind.label().to_owned(),
            own(&|r| r.consumer_cpu.as_secs_f64()),
            own(&Measured::consumer_cpu_per_gib),
            own(&|r| mib(r.resident)),
            own(&|r| mib(r.peaks.consumer_resident)),
            cell(&|r| r.primary_cpu.as_secs_f64()),
            cell(&|r| r.fed.wall.as_secs_f64()),
            cell(&|r| r.fed.megabytes_per_second()),
            own(&|r| mib(r.peaks.replica_buffers)),
            own(&|r| mib(r.peaks.replica_omem)),
            own(&|r| r.lag.as_secs_f64()),
            spread(&shares),
        ]);
    }
    section
}

/// Bounds the ratio of one kind's figure to another's, taken within each round. Does nothing for kinds
/// that were not measured.
pub fn compare(
    section: &mut Section,
    measure: &str,
    rounds: &[Vec<Measured>],
    (kind, peer): (Kind, Kind),
    figure: impl Fn(&Measured) -> f64,
    limit: Limit,
) {
    let of = |runs: &[Measured], kind: Kind| runs.iter().find(|r| r.kind == kind).map(&figure);
    let ratios = rounds.iter().filter_map(|runs| Some(of(runs, kind)? / of(runs, peer)?));
    section.bound(measure, ratios.collect(), limit);
}

/// Bounds a figure of one kind by itself.
pub fn bound(
    section: &mut Section,
    measure: &str,
    rounds: &[Vec<Measured>],
    kind: Kind,
    figure: impl Fn(&Measured) -> Option<f64>,
    limit: Limit,
) {
    let values = rounds.iter().flatten().filter(|r| r.kind == kind).filter_map(figure);
    section.bound(measure, values.collect(), limit);
}

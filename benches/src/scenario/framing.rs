//! The framer by itself, in memory: what finding the records costs, at worst on small commands.

use anyhow::Result;
use redwind_stream::Framer;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::lab::Lab;
use crate::load::{Kind as LoadKind, Load};
use crate::report::{Section, progress, spread};
use crate::resp::encode;
use crate::size::{GIB, MIB};

/// Bytes framed at a time, as the log reader does with what one read brought.
const READ: usize = 64 << 10;

/// Runs the scenario. Its size is fixed: more would only take longer.
///
/// # Errors
/// When the framer does not take the load for a stream.
pub fn run(lab: &Lab) -> Result<Section> {
    progress("framing in memory");
    let columns = ["stream", "bytes per record", "MB per CPU s", "CPU s/GiB", "million records per CPU s"];
    let mut section = Section::new("framing: the framer alone, in memory", &columns);
    let mix = Load::new(LoadKind::Mix, 64 * MIB, lab.options().seed).into_bytes();
    for (label, stream) in [("INCR of short keys", small_commands()), ("mixed commands", mix)] {
        let runs: Vec<(f64, f64)> = (0..lab.options().rounds).map(|_| frame(&stream)).collect::<Result<_>>()?;
        let bytes = stream.len() as f64;
        let of = |value: &dyn Fn(&(f64, f64)) -> f64| spread(&runs.iter().map(value).collect::<Vec<_>>());
        section.row(vec![
            label.to_owned(),
            of(&|(records, _)| bytes / records),
            of(&|(_, seconds)| bytes / 1e6 / seconds),
            of(&|(_, seconds)| seconds * GIB as f64 / bytes),
            of(&|(records, seconds)| records / 1e6 / seconds),
        ]);
    }
    Ok(section)
}

fn small_commands() -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < 64 * MIB as usize {
        encode(&mut bytes, &[b"INCR", b"counter:7"]);
    }
    bytes
}

/// Frames a stream; tells how many records it has, and the CPU seconds that took.
fn frame(stream: &[u8]) -> Result<(f64, f64)> {
    let (mut framer, mut records) = (Framer::new(None), 0_u64);
    let started = cpu_seconds();
    for read in stream.chunks(READ) {
        framer.push(read, |_| records += 1)?;
    }
    Ok((records as f64, cpu_seconds() - started))
}

fn cpu_seconds() -> f64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    tv_sec as f64 + tv_nsec as f64 / 1e9
}

//! From the moment a write is sent to the moment it is durable, at a flush interval of one second.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::agent::{Agent, Store};
use crate::lab::Lab;
use crate::process::wait_for;
use crate::report::{Limit, Section, progress, quantile};
use crate::server::{Server, mark};

/// Writes measured in a round.
const WRITES: usize = 500;
/// Pause between writes. No divisor of a second, so that the writes meet the flush at every phase.
const PAUSE: Duration = Duration::from_millis(37);
/// A write that is not durable by then has failed the bench.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the scenario.
///
/// # Errors
/// When a run fails.
pub fn run(lab: &Lab) -> Result<Section> {
    let mut section = Section::new(
        "latency: a write to durable on file://, flush interval 1 s",
        &["round", "writes", "p50 s", "p90 s", "p99 s", "max s"],
    );
    let mut p99 = Vec::new();
    for round in 1..=lab.options().rounds {
        progress(format_args!("round {round}: {WRITES} writes"));
        let seconds = measure(lab)?;
        let at = |share| format!("{:.3}", quantile(&seconds, share));
        section.row(vec![round.to_string(), seconds.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0)]);
        p99.push(quantile(&seconds, 0.99));
    }
    section.bound("p99 s", p99, Limit::AtMost(2.0));
    section.note("Taken between writes by looking at the agent's metrics, so up to 40 ms too long.");
    Ok(section)
}

fn measure(lab: &Lab) -> Result<Vec<f64>> {
    let directory = lab.directory("latency")?;
    let primary = Server::start(lab.programs(), &directory.join("primary"), &[])?;
    let mut agent = Agent::start(lab.redwind()?, primary.address(), Store::file(&directory), &directory)?;
    wait_for("the first snapshot", PATIENCE, || agent.durable_offset())?;

    let mut client = primary.client()?;
    let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut seconds = Vec::with_capacity(WRITES);
    let mut written = 0;
    while seconds.len() < WRITES {
        if written < WRITES {
            let sent = Instant::now();
            waiting.push_back((mark(&mut client)?, sent));
            written += 1;
        }
        let durable = agent.durable_offset()?.unwrap_or(0);
        let now = Instant::now();
        let reached = waiting.iter().take_while(|(offset, _)| *offset <= durable).count();
        seconds.extend(waiting.drain(..reached).map(|(_, sent)| (now - sent).as_secs_f64()));
        ensure!(
            waiting.front().is_none_or(|(_, sent)| sent.elapsed() < PATIENCE),
            "a write was not durable after {PATIENCE:?}"
        );
        thread::sleep(PAUSE);
    }
    agent.stop()?;
    drop(primary);
    lab.discard(&directory)?;
    Ok(seconds)
}

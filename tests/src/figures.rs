//! What a fault cost, for the table in `docs/reliability.md`.
//!
//! Each story that makes a fault says here what came of it. The line is printed, and appended to the
//! file `REDWIND_TEST_FIGURES`, of which `tests/reliability.sh` makes the table.

use std::io::Write;
use std::time::Duration;

use crate::servers::Flavor;

/// What came of a fault.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How often it was made.
    pub runs: u64,
    /// Writes that were confirmed as durable.
    pub acknowledged: u64,
    /// Those of them that could not be restored.
    pub lost: u64,
    /// Gaps that the archive reports.
    pub gaps: u64,
    /// The longest time from the end of the fault until writes were durable again.
    pub recovery: Duration,
}

impl Figures {
    /// One more run, after which it took so long.
    pub fn run(&mut self, recovery: Duration) {
        self.runs += 1;
        self.recovery = self.recovery.max(recovery);
    }

    /// Tells them: `fault` in words, `story` by the name of its test.
    pub fn tell(&self, fault: &str, story: &str, flavor: &Flavor) {
        let Self { runs, acknowledged, lost, gaps, recovery } = self;
        let seconds = recovery.as_secs_f64();
        let line = format!("{fault}\t{story}\t{}\t{runs}\t{acknowledged}\t{lost}\t{gaps}\t{seconds:.1}\n", flavor.name);
        println!("figures: {line}");
        let Some(path) = std::env::var_os("REDWIND_TEST_FIGURES") else { return };
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file for figures can be written");
    }
}

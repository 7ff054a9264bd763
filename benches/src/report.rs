//! Results as markdown: one table of what was seen, one of how it compares with what is promised.

use std::fmt::{self, Display};
use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::size::GIB;

/// What a scenario has found.
pub struct Section {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    bounds: Vec<Bound>,
    notes: Vec<String>,
}

/// A measure with the most (or least) it may be.
struct Bound {
    measure: String,
    values: Vec<f64>,
    limit: Limit,
}

/// Which side of a value is good.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// The median must not be above this.
    AtMost(f64),
    /// The median must not be below this.
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}

impl Section {
    /// An empty section with a table of these columns.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&c| c.to_owned()).collect();
        Self { title: title.into(), columns, rows: Vec::new(), bounds: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row, a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Adds a measure that is bounded, with its value in each round. Left out without values.
    pub fn bound(&mut self, measure: impl Into<String>, values: Vec<f64>, limit: Limit) {
        if !values.is_empty() {
            self.bounds.push(Bound { measure: measure.into(), values, limit });
        }
    }

    /// Adds a remark below the tables.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Whether every bound holds.
    pub fn holds(&self) -> bool {
        self.bounds.iter().all(|b| b.limit.holds(median(&b.values)))
    }
}

/// Every bound of several sections in one table.
pub struct Summary<'a>(pub &'a [Section]);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scenario = |section: &Section| section.title.split(':').next().unwrap_or_default().to_owned();
        let rows: Vec<_> = self
            .0
            .iter()
            .flat_map(|section| {
                section.bounds.iter().map(move |bound| [vec![scenario(section)], bound.cells()].concat())
            })
            .collect();
        writeln!(f, "## summary\n")?;
        table(f, &["scenario", "measure", "median (range)", "bound", "holds"].map(String::from), &rows)
    }
}

impl Bound {
    fn cells(&self) -> Vec<String> {
        let held = if self.limit.holds(median(&self.values)) { "yes" } else { "**no**" };
        vec![self.measure.clone(), spread(&self.values), self.limit.to_string(), held.to_owned()]
    }
}

impl Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n", self.title)?;
        if !self.rows.is_empty() {
            table(f, &self.columns, &self.rows)?;
        }
        let bounds: Vec<_> = self.bounds.iter().map(Bound::cells).collect();
        if !bounds.is_empty() {
            table(f, &["measure", "median (range)", "bound", "holds"].map(String::from), &bounds)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}\n")?;
        }
        Ok(())
    }
}

fn table(f: &mut fmt::Formatter<'_>, columns: &[String], rows: &[Vec<String>]) -> fmt::Result {
    writeln!(f, "| {} |", columns.join(" | "))?;
    writeln!(f, "|{}", "---|".repeat(columns.len()))?;
    for row in rows {
        writeln!(f, "| {} |", row.join(" | "))?;
    }
    writeln!(f)
}

/// The middle value, or the mean of the two middle ones; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value below which a share of the values lies (nearest rank); 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// The median, with the range where there is more than one value; `-` of none.
pub fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().reduce(f64::min);
    let high = values.iter().copied().reduce(f64::max);
    match (low, high, values.len()) {
        (Some(low), Some(high), 2..) => format!("{} ({}-{})", short(median(values)), short(low), short(high)),
        (Some(only), ..) => short(only),
        _ => "-".to_owned(),
    }
}

/// Three significant figures, as far as a bench is good for.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// CPU seconds per GiB.
pub fn per_gib(cpu: Duration, bytes: u64) -> f64 {
    cpu.as_secs_f64() * GIB as f64 / bytes as f64
}

/// The machine, as far as figures depend on it.
pub fn machine() -> String {
    let field = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        line.trim_start_matches([':', ' ', '\t']).trim().to_owned()
    };
    let kib: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {cores} cores, {} GiB, Linux {}; load average at the start {}",
        field("/proc/cpuinfo", "model name"),
        kib >> 20,
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
    )
}

/// Tells on stderr what is being done.
pub fn progress(what: impl Display) {
    // Nothing depends on it being seen.
    let _ = writeln!(std::io::stderr(), "redwind-bench: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_of_few_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&[5.0], 0.5), 5.0);
    }

    #[test]
    fn a_bound_that_does_not_hold_is_shown() {
        let mut section = Section::new("t", &["a"]);
        section.row(vec!["1".to_owned()]);
        section.bound("ratio", vec![0.3, 0.5, 0.4], Limit::AtMost(0.35));
        assert!(!section.holds());
        assert!(section.to_string().contains("| ratio | 0.40 (0.30-0.50) | ≤ 0.35 | **no** |"), "{section}");
        let summary = Summary(&[section]).to_string();
        assert!(summary.contains("| t | ratio | 0.40 (0.30-0.50) | ≤ 0.35 | **no** |"), "{summary}");
    }
}

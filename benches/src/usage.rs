//! What a process and its children have used, as Linux accounts for it in `/proc`.
//!
//! The kernel scales the tick counters of `/proc/<pid>/stat` to the scheduler's exact run time, so
//! the sum of user and system time is exact to one tick. A child counts while it lives by its own
//! entry and, once reaped, by its parent's `cutime` and `cstime`; a figure taken while a child is
//! just ending may miss it, so scenarios read at moments when no child is running.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Ticks per second in `/proc/<pid>/stat`: USER_HZ, a constant of the kernel's ABI.
const TICKS_PER_SECOND: u64 = 100;

/// One line of `/proc/<pid>/stat`, as far as it is needed.
struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Self::parse(&text).with_context(|| format!("parse {path}"))
    }

    fn parse(text: &str) -> Result<Self> {
        // The second field is the command in parentheses and may itself hold spaces and parentheses.
        let (_, rest) = text.rsplit_once(')').context("no command")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Fields are numbered from 1 in proc(5); `rest` begins with field 3.
        let field = |number: usize| -> Result<u64> {
            let value = fields.get(number - 3).with_context(|| format!("no field {number}"))?;
            value.parse().with_context(|| format!("field {number}"))
        };
        let (utime, stime, cutime, cstime) = (field(14)?, field(15)?, field(16)?, field(17)?);
        Ok(Self { parent: field(4)? as u32, ticks: utime + stime + cutime + cstime })
    }
}

/// Every process that descends from `root`, with `root` itself first.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if let Ok(stat) = Stat::read(pid) {
            parents.push((pid, stat.parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(found)
}

/// CPU time, user and system, of `root` and all its children, living and reaped.
pub fn cpu_time(root: u32) -> Result<Duration> {
    let mut ticks = Stat::read(root)?.ticks;
    for pid in tree(root)?.into_iter().skip(1) {
        ticks += Stat::read(pid).map_or(0, |stat| stat.ticks);
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// The highest resident size of `pid` itself so far, in bytes (`VmHWM`).
pub fn peak_resident(pid: u32) -> Result<u64> {
    match memory_line(pid, "VmHWM:")? {
        Some(bytes) => Ok(bytes),
        None => bail!("process {pid} has ended, its memory can no longer be read"),
    }
}

/// The resident size of `root` and its living children now, in bytes. Shared pages count once per
/// process, as they do for whoever sizes a machine by `VmRSS`.
pub fn tree_resident(root: u32) -> Result<u64> {
    let resident = |pid| memory_line(pid, "VmRSS:").ok().flatten().unwrap_or(0);
    Ok(tree(root)?.into_iter().map(resident).sum())
}

fn memory_line(pid: u32, key: &str) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let Some(line) = text.lines().find_map(|l| l.strip_prefix(key)) else { return Ok(None) };
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{key} in {path}"))?;
    Ok(Some(kib * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_is_no_obstacle() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 0 1 2 3 4 150 50 20 30 20 0 1 0 1 1 1";
        let stat = Stat::parse(line).expect("valid line");
        assert_eq!((stat.parent, stat.ticks), (3, 250));
        assert!(Stat::parse("7 (short) S 3").is_err());
    }

    #[test]
    fn this_process_has_used_memory_and_is_its_own_tree() {
        let me = std::process::id();
        assert!(peak_resident(me).expect("own status") > 0);
        assert!(tree_resident(me).expect("own tree") > 0);
        assert!(cpu_time(me).is_ok());
    }
}

//! The source's settings, as far as being followed depends on them.

use redwind_link::{Connection, LinkError, ReplicationInfo, Role, ServerInfo, ServerKind, Version};

use super::finding::{Finding, Level};
use super::source::{WriteRate, finding};
use crate::quantity::ByteSize;

/// How long an agent should be able to stay away without a gap.
const AWAY_SECONDS: u64 = 600;
/// A quiet server will not stay quiet.
const BACKLOG_BYTES_MIN: u64 = 8 << 20;
const BACKLOG_TTL_SECONDS_MIN: u64 = 24 * 60 * 60;
const TIMEOUT_SECONDS_MIN: u64 = 30;
const OUTPUT_HARD_BYTES_MIN: u64 = 64 << 20;
const OUTPUT_SOFT_BYTES_MIN: u64 = 16 << 20;

/// Whether the backlog outlasts an absence of the agent, at the rate at which the server is written to.
pub(super) fn backlog(info: &ServerInfo, replication: &ReplicationInfo, rate: WriteRate) -> Finding {
    let size = replication.backlog_size;
    let (rate, seen) = match rate {
        WriteRate::Measured(rate) => (rate, "writes"),
        WriteRate::AtMost(rate) => (rate, "commands, reads included,"),
        WriteRate::Unknown => (0, "writes"),
    };
    let wanted = (rate.saturating_mul(AWAY_SECONDS)).max(BACKLOG_BYTES_MIN);
    let holds = match size.checked_div(rate) {
        Some(seconds) => format!("{} hold {seconds} s of {seen} at the {}/s seen", ByteSize(size), ByteSize(rate)),
        None => format!("{}; no writes were seen to measure it by", ByteSize(size)),
    };
    if size >= wanted {
        return finding("repl-backlog-size", Level::Ok, holds);
    }
    let wipes = info.kind == ServerKind::Redis && info.version < Version::new(7, 0, 0);
    let caution = if wipes { "; on this version that empties the backlog, so do it before an agent runs" } else { "" };
    let message = format!("{holds}: an agent that is away for longer needs a new snapshot and leaves a gap{caution}");
    let megabytes = wanted.div_ceil(1 << 20).next_power_of_two();
    finding("repl-backlog-size", Level::Warning, message)
        .with_fix(format!("CONFIG SET repl-backlog-size {megabytes}mb"))
}

/// Looks at the settings; at none when `CONFIG GET` is not allowed, which is reported elsewhere.
///
/// # Errors
/// When the connection is lost.
pub(super) async fn check(
    connection: &mut Connection,
    replication: &ReplicationInfo,
) -> Result<Vec<Finding>, LinkError> {
    let mut findings = Vec::new();
    if let Some(limits) = get(connection, "client-output-buffer-limit").await? {
        findings.extend(output_buffer(&limits));
    }
    if let (Role::Primary, Some(ttl)) = (replication.role, get(connection, "repl-backlog-ttl").await?) {
        findings.extend(backlog_ttl(&ttl));
    }
    if let Some(timeout) = get(connection, "repl-timeout").await? {
        findings.extend(timeout_setting(&timeout));
    }
    if let Some(diskless) = get(connection, "repl-diskless-sync").await? {
        findings.push(diskless_sync(&diskless));
    }
    if let Some(replicas) = get(connection, "min-replicas-to-write").await? {
        findings.extend(min_replicas(&replicas));
    }
    Ok(findings)
}

/// The value of one setting; `None` when it is not there or we may not see it.
async fn get(connection: &mut Connection, name: &str) -> Result<Option<String>, LinkError> {
    let reply = match connection.command(&[b"CONFIG", b"GET", name.as_bytes()]).await {
        Ok(reply) => reply,
        Err(error) if error.is_answer() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(reply.as_array().and_then(|pair| pair.get(1)?.as_str().map(str::to_owned)))
}

/// `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`
fn output_buffer(limits: &str) -> Option<Finding> {
    const CHECK: &str = "output-buffer-limit";
    let words: Vec<&str> = limits.split_ascii_whitespace().collect();
    let class = words.chunks_exact(4).find(|class| matches!(class[0], "slave" | "replica"))?;
    let (hard, soft, seconds): (u64, u64, u64) =
        (class[1].parse().ok()?, class[2].parse().ok()?, class[3].parse().ok()?);
    let limit = |bytes| if bytes == 0 { "none".to_owned() } else { ByteSize(bytes).to_string() };
    let is = format!("hard limit {}, soft limit {} for {seconds} s", limit(hard), limit(soft));
    let small = (hard != 0 && hard < OUTPUT_HARD_BYTES_MIN) || (soft != 0 && soft < OUTPUT_SOFT_BYTES_MIN);
    Some(if small {
        let message = format!("{is}: a burst of writes can make the server drop its followers");
        finding(CHECK, Level::Warning, message)
            .with_fix("CONFIG SET client-output-buffer-limit \"replica 256mb 64mb 60\"")
    } else {
        finding(CHECK, Level::Ok, is)
    })
}

fn backlog_ttl(seconds: &str) -> Option<Finding> {
    let seconds: u64 = seconds.parse().ok()?;
    if seconds == 0 || seconds >= BACKLOG_TTL_SECONDS_MIN {
        return Some(finding(
            "repl-backlog-ttl",
            Level::Ok,
            if seconds == 0 { "never dropped".into() } else { format!("{seconds} s") },
        ));
    }
    let message = format!(
        "a primary without any replica drops its backlog after {seconds} s: an agent that is away for longer needs a \
         new snapshot and leaves a gap"
    );
    Some(finding("repl-backlog-ttl", Level::Warning, message).with_fix("CONFIG SET repl-backlog-ttl 0"))
}

fn timeout_setting(seconds: &str) -> Option<Finding> {
    let seconds: u64 = seconds.parse().ok()?;
    let message = format!("{seconds} s");
    Some(if seconds < TIMEOUT_SECONDS_MIN {
        let message = format!("{message}: a short disturbance of the network cuts the link, and a slow snapshot fails");
        finding("repl-timeout", Level::Warning, message).with_fix("CONFIG SET repl-timeout 60")
    } else {
        finding("repl-timeout", Level::Ok, message)
    })
}

fn diskless_sync(value: &str) -> Finding {
    if value == "yes" {
        return finding(
            "repl-diskless-sync",
            Level::Ok,
            "snapshots go to the agent without touching the server's disk",
        );
    }
    let message = "a snapshot overwrites the server's dump.rdb, and one that fails can make it refuse writes \
                   (stop-writes-on-bgsave-error)";
    finding("repl-diskless-sync", Level::Warning, message).with_fix("CONFIG SET repl-diskless-sync yes")
}

fn min_replicas(value: &str) -> Option<Finding> {
    let count: u64 = value.parse().ok()?;
    let message = format!("{count}: the server counts an agent as one of its replicas, so that this guards one less");
    (count > 0).then(|| {
        finding("min-replicas-to-write", Level::Warning, message)
            .with_fix(format!("CONFIG SET min-replicas-to-write {}", count + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str) -> ServerInfo {
        let text = format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\nrun_id:x\r\n");
        ServerInfo::parse(&text).unwrap()
    }

    fn replication(backlog_size: u64) -> ReplicationInfo {
        ReplicationInfo {
            role: Role::Primary,
            master_link_up: None,
            master: None,
            connected_replicas: 0,
            master_replid: "0".repeat(40),
            master_replid2: None,
            second_repl_offset: None,
            master_repl_offset: 1,
            backlog_active: true,
            backlog_size,
            backlog_first_byte_offset: 1,
            backlog_histlen: 0,
        }
    }

    #[test]
    fn the_backlog_is_measured_by_the_writes_seen() {
        let small = backlog(&info("7.0.15"), &replication(1 << 20), WriteRate::Measured(100_000));
        assert_eq!(small.level, Level::Warning);
        assert_eq!(small.fix.as_deref(), Some("CONFIG SET repl-backlog-size 64mb"));
        assert!(small.message.contains("10 s"), "{}", small.message);
        assert_eq!(backlog(&info("7.0.15"), &replication(64 << 20), WriteRate::Measured(100_000)).level, Level::Ok);
        let most = backlog(&info("7.0.15"), &replication(1 << 20), WriteRate::AtMost(100_000));
        assert!(most.message.contains("reads included"), "{}", most.message);
        let quiet = backlog(&info("7.0.15"), &replication(1 << 20), WriteRate::Measured(0));
        assert_eq!(quiet.fix.as_deref(), Some("CONFIG SET repl-backlog-size 8mb"));
        assert!(!quiet.message.contains("empties"));
        assert!(
            backlog(&info("6.2.14"), &replication(1 << 20), WriteRate::Unknown).message.contains("empties the backlog")
        );
    }

    #[test]
    fn output_buffer_limits_are_read_in_both_spellings() {
        let level = |text| output_buffer(text).map(|found| found.level);
        assert_eq!(level("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"), Some(Level::Ok));
        assert_eq!(level("normal 0 0 0 replica 1000000 0 0"), Some(Level::Warning));
        assert_eq!(level("replica 0 0 0"), Some(Level::Ok));
        assert_eq!(level("slave x 0 0"), None);
        assert_eq!(level(""), None);
    }

    #[test]
    fn settings_that_make_followers_suffer_are_warned_of() {
        assert_eq!(backlog_ttl("3600").unwrap().level, Level::Warning);
        assert_eq!(backlog_ttl("0").unwrap().level, Level::Ok);
        assert_eq!(timeout_setting("5").unwrap().level, Level::Warning);
        assert_eq!(timeout_setting("60").unwrap().level, Level::Ok);
        assert_eq!(diskless_sync("no").level, Level::Warning);
        assert_eq!(min_replicas("0"), None);
        assert_eq!(min_replicas("1").unwrap().fix.as_deref(), Some("CONFIG SET min-replicas-to-write 2"));
    }
}

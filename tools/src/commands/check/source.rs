//! The source: what it is, what we may do there, and how it is configured for being followed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use redwind_archive::time::Clock;
use redwind_link::{
    Connection, LinkError, ReplicationInfo, Role, ServerAddress, ServerInfo, ServerKind, ServerUrl, TlsOptions, Version,
};

use super::finding::{Finding, Level, Subject};
use super::{acl, settings};

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the write rate is watched.
const WATCH: Duration = Duration::from_secs(2);
const VERSION_MIN: Version = Version::new(6, 2, 0);
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(1);

pub(super) fn finding(check: &'static str, level: Level, message: impl Into<String>) -> Finding {
    Finding::new(Subject::Source, check, level, message)
}

/// Looks at the server; what cannot be gone on from is the last finding.
pub(super) async fn check(url: &ServerUrl, tls: &TlsOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = look(url, tls, &mut findings).await {
        let error = anyhow::Error::from(error);
        let message = format!("{url}: {}", crate::exit::describe(&error));
        findings.push(finding("connection", Level::Failure, message));
    }
    findings
}

async fn look(url: &ServerUrl, tls: &TlsOptions, findings: &mut Vec<Finding>) -> Result<(), LinkError> {
    let mut connection = Connection::connect(url, tls, TIMEOUT).await?;
    let info = connection.info().await?;
    findings.push(finding("connection", Level::Ok, format!("connected to {url}")));
    findings.push(version(&info));
    if info.sentinel {
        return Ok(());
    }
    findings.extend(encryption(url));
    let replication = connection.info_replication().await?;
    let probe = Connection::connect(url, tls, TIMEOUT).await?;
    findings.extend(acl::check(url, &mut connection, probe, &replication, TIMEOUT).await?);
    findings.extend(role(&info, &replication));
    findings.extend(clock(&mut connection).await?);
    let rate = write_rate(&mut connection).await?;
    findings.push(settings::backlog(&info, &replication, rate));
    findings.extend(settings::check(&mut connection, &replication).await?);
    Ok(())
}

fn version(info: &ServerInfo) -> Finding {
    let what = format!("{} {}", info.kind, info.version);
    if info.sentinel {
        let message = format!("{what} runs as a Sentinel: give the address of a server that it watches");
        return finding("version", Level::Failure, message);
    }
    if info.kind != ServerKind::Valkey && info.version < VERSION_MIN {
        return finding("version", Level::Failure, format!("{what} is too old: 6.2 or later is needed"));
    }
    let modules: Vec<&str> = info.modules.iter().flatten().map(|module| module.name.as_str()).collect();
    let modules = match modules.as_slice() {
        [] => String::new(),
        [module] => format!(", with the module {module}"),
        modules => format!(", with the modules {}", modules.join(", ")),
    };
    if info.kind == ServerKind::Redis && info.version < Version::new(7, 0, 0) {
        let message = format!(
            "{what}{modules}: followed well, but it sends expiries relative to now, which a restore works out from \
             arrival times, and needs a dump of its own when the backlog was lost; 7.0 and later do neither"
        );
        return finding("version", Level::Warning, message);
    }
    finding("version", Level::Ok, format!("{what}{modules}"))
}

fn encryption(url: &ServerUrl) -> Option<Finding> {
    let local = match url.address() {
        ServerAddress::Unix(_) => true,
        ServerAddress::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    if url.is_tls() {
        return Some(finding("tls", Level::Ok, "encrypted"));
    }
    let message = "password and data travel in clear; if the server has a TLS port, use it";
    (!local).then(|| finding("tls", Level::Warning, message).with_fix("--source rediss://..."))
}

fn role(info: &ServerInfo, replication: &ReplicationInfo) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match (replication.role, replication.master_link_up) {
        (Role::Replica, Some(false)) => finding(
            "role",
            Level::Failure,
            "a replica without a link to its primary, lost or still being made: it cannot be followed until that is up",
        ),
        (Role::Replica, _) => {
            let of = replication.master.as_deref().unwrap_or("its primary");
            finding("role", Level::Ok, format!("a replica of {of}, which is spared the snapshots' forks"))
        }
        (Role::Primary, _) => {
            finding("role", Level::Ok, "a primary; a replica of it would spare it the snapshots' forks")
        }
    });
    if info.cluster_enabled {
        let message = "a node of a cluster: every shard needs an agent with a --name of its own";
        findings.push(finding("cluster", Level::Warning, message));
    }
    findings
}

async fn clock(connection: &mut Connection) -> Result<Option<Finding>, LinkError> {
    let asked = Instant::now();
    let theirs = match connection.time_unix_micros().await {
        Ok(theirs) => theirs,
        // Reported with the other missing rights.
        Err(error) if error.is_answer() => return Ok(None),
        Err(error) => return Err(error),
    };
    let round_trip = asked.elapsed();
    let ours = Clock::new().now().before(round_trip / 2).0;
    let difference = Duration::from_micros(theirs.abs_diff(ours));
    let side = if theirs > ours { "ahead of" } else { "behind" };
    let message = format!("the server's clock is {:.3} s {side} ours", difference.as_secs_f64());
    Ok(Some(if difference > CLOCK_DIFFERENCE_MAX.max(round_trip) {
        let message = format!("{message}: restores go by the agent's clock; expiries by the server's");
        finding("clock", Level::Warning, message)
            .with_fix("keep both machines' clocks by NTP: timedatectl set-ntp true")
    } else {
        finding("clock", Level::Ok, message)
    }))
}

/// Bytes of stream a second, as seen for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteRate {
    /// By the server's own offset.
    Measured(u64),
    /// A server that never had a replica counts no offset: all that its clients send, reads included.
    AtMost(u64),
    /// It could not be told.
    Unknown,
}

async fn write_rate(connection: &mut Connection) -> Result<WriteRate, LinkError> {
    let began = Instant::now();
    let before = traffic(connection).await?;
    tokio::time::sleep(WATCH).await;
    let after = traffic(connection).await?;
    let seconds = began.elapsed().as_secs_f64();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    let rate = |before: u64, after: u64| (after.saturating_sub(before) as f64 / seconds) as u64;
    Ok(match (before, after) {
        (Traffic::Stream(before), Traffic::Stream(after)) => WriteRate::Measured(rate(before, after)),
        (Traffic::Clients(Some(before)), Traffic::Clients(Some(after))) => WriteRate::AtMost(rate(before, after)),
        _ => WriteRate::Unknown,
    })
}

enum Traffic {
    /// Bytes of stream produced.
    Stream(u64),
    /// Bytes that clients have sent, if the server tells.
    Clients(Option<u64>),
}

async fn traffic(connection: &mut Connection) -> Result<Traffic, LinkError> {
    let replication = connection.info_replication().await?;
    if replication.backlog_active {
        return Ok(Traffic::Stream(replication.master_repl_offset));
    }
    let stats = connection.command(&[b"INFO", b"stats"]).await?;
    let mut lines = stats.as_str().unwrap_or_default().lines();
    Ok(Traffic::Clients(lines.find_map(|line| line.strip_prefix("total_net_input_bytes:")?.trim().parse().ok())))
}

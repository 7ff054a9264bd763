//! The settings of an agent, checked: whatever stands in one of these types can be worked with.
//!
//! They come from flags, environment and file, which the command line reads; this module knows
//! nothing of those, only what the values mean and which of them make sense together.

mod access;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use redwind_archive::keys::Recipients;
use redwind_archive::layout::SourceName;
use redwind_archive::store::StoreUrl;
use redwind_link::{ServerUrl, TlsOptions};

pub use access::{AccessConfig, Role, TokenSource};

/// Where gRPC is served unless told otherwise.
pub const GRPC_DEFAULT: &str = "127.0.0.1:7417";
/// Where metrics and health are served unless told otherwise.
pub const HTTP_DEFAULT: &str = "127.0.0.1:7418";

/// Age at which what was received goes to the store.
pub const FLUSH_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// Least time between two flushes that `WAIT` and `WAITAOF` of applications ask for.
pub const GETACK_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// Age of the newest snapshot at which the next one is taken.
pub const SNAPSHOT_INTERVAL_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes that the spool may take on disk.
pub const SPOOL_BYTES_DEFAULT: u64 = 4 << 30;
/// Bytes of stream after which a segment ends even if it is young.
pub const SEGMENT_BYTES_DEFAULT: u64 = 8 << 20;
/// The level of zstd: higher ones cost much and save little on command streams.
pub const COMPRESSION_LEVEL_DEFAULT: i32 = 1;

const FLUSH_INTERVAL_MIN: Duration = Duration::from_millis(10);
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(60);
const GETACK_INTERVAL_MAX: Duration = Duration::from_secs(10);
const SNAPSHOT_INTERVAL_MIN: Duration = Duration::from_secs(10);
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const COMPRESSION_LEVELS: std::ops::RangeInclusive<i32> = -7..=19;
/// Segments of full size for which the spool must have room, so that it can drain while it fills.
const SPOOL_SEGMENTS_MIN: u64 = 4;

/// One agent: the source that it follows, and what it serves.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// What it follows, and where that goes.
    pub source: SourceConfig,
    /// Where gRPC is served; `None` is nowhere.
    pub grpc: Option<SocketAddr>,
    /// Where metrics and health are served; `None` is nowhere.
    pub http: Option<SocketAddr>,
    /// Who may use them.
    pub access: AccessConfig,
    /// What it does when another agent has the archive.
    pub succession: Succession,
}

/// What an agent does at its start when another one has the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Succession {
    /// It becomes the writer only if the other one is gone, and else ends.
    #[default]
    Yield,
    /// It becomes the writer at once; the other one ends.
    TakeOver,
    /// It waits until the other one is gone.
    StandBy,
}

/// One source: the server followed, and how its archive is written.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The source's name, which is its folder in the store and in the spool.
    pub name: SourceName,
    /// The server, with our user and password there.
    pub server: ServerUrl,
    /// The file that the password was read from. It is read again for every connection, so that a
    /// password can be changed without a restart.
    pub password_file: Option<PathBuf>,
    /// Certificates for `rediss://`.
    pub tls: TlsOptions,
    /// The root of the archives.
    pub store: StoreUrl,
    /// Those to whom the archive is encrypted; none, if it is not.
    pub recipients: Recipients,
    /// The local log between socket and store.
    pub spool: SpoolConfig,
    /// Longest time for which a received write waits before it is sent to the store.
    pub flush_interval: Duration,
    /// Least time between two flushes asked for by the server's `REPLCONF GETACK`.
    pub getack_interval: Duration,
    /// Bytes of stream (not compressed) after which a segment ends.
    pub segment_bytes_max: u64,
    /// The level of zstd.
    pub compression_level: i32,
    /// Age of the newest snapshot at which another is taken; `None` is never, but for the first of a
    /// history, without which nothing could be restored.
    pub snapshot_interval: Option<Duration>,
}

/// Where and how much is spooled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The folder; each source has its own in it.
    pub dir: PathBuf,
    /// Bytes that one source's spool may take. Beyond them the server is left rather than left
    /// waiting.
    pub bytes_max: u64,
}

/// A setting that cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
pub struct ConfigError {
    /// The option's name as on the command line, without dashes in front.
    pub option: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl AgentConfig {
    /// Checks the settings against each other and their bounds.
    ///
    /// # Errors
    /// The first that cannot be worked with.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.source.validate()?;
        self.access.validate([("grpc", self.grpc), ("http", self.http)])?;
        match (self.grpc, self.http) {
            (Some(grpc), Some(http)) if grpc == http && grpc.port() != 0 => {
                Err(refuse("http", format!("{http} is the address of --grpc")))
            }
            _ => Ok(()),
        }
    }
}

impl SourceConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        between("flush-interval", self.flush_interval, FLUSH_INTERVAL_MIN, FLUSH_INTERVAL_MAX)?;
        between("getack-interval", self.getack_interval, Duration::ZERO, GETACK_INTERVAL_MAX)?;
        if let Some(interval) = self.snapshot_interval {
            between("snapshot-interval", interval, SNAPSHOT_INTERVAL_MIN, Duration::MAX)?;
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes_max) {
            return Err(refuse("segment-size", "must lie between 64KiB and 64MiB".to_owned()));
        }
        let spool_min = self.segment_bytes_max * SPOOL_SEGMENTS_MIN;
        if self.spool.bytes_max < spool_min {
            return Err(refuse(
                "spool-size",
                format!("must be at least {spool_min} bytes, {SPOOL_SEGMENTS_MIN} times --segment-size"),
            ));
        }
        if !COMPRESSION_LEVELS.contains(&self.compression_level) {
            return Err(refuse("compression-level", "must lie between -7 and 19".to_owned()));
        }
        self.validate_tls()
    }

    fn validate_tls(&self) -> Result<(), ConfigError> {
        let tls = &self.tls;
        match (&tls.cert, &tls.key) {
            (Some(_), None) => return Err(refuse("tls-cert", "needs its private key: add --tls-key".to_owned())),
            (None, Some(_)) => return Err(refuse("tls-key", "needs its certificate: add --tls-cert".to_owned())),
            _ => {}
        }
        if (tls.ca.is_some() || tls.cert.is_some()) && !self.server.is_tls() {
            let option = if tls.ca.is_some() { "tls-ca" } else { "tls-cert" };
            return Err(refuse(
                option,
                "is of no use without TLS: the source's URL must start with rediss://".to_owned(),
            ));
        }
        Ok(())
    }
}

impl SpoolConfig {
    /// The folder of whoever names none: `spool` below systemd's `$STATE_DIRECTORY`, or below
    /// `/var/lib/redwind` for root, or below `$XDG_STATE_HOME/redwind` (`~/.local/state/redwind`).
    #[must_use]
    pub fn dir_default() -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = || variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
        let state = variable("STATE_DIRECTORY").unwrap_or_else(|| match own() {
            Some(own) if !rustix::process::geteuid().is_root() => own.join("redwind"),
            _ => PathBuf::from("/var/lib/redwind"),
        });
        state.join("spool")
    }
}

fn between(option: &'static str, value: Duration, min: Duration, max: Duration) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let problem = match max {
        Duration::MAX => format!("{value:?} is too short: it must be at least {min:?}"),
        _ => format!("{value:?} is out of bounds: it must lie between {min:?} and {max:?}"),
    };
    Err(refuse(option, problem))
}

fn refuse(option: &'static str, problem: String) -> ConfigError {
    ConfigError { option, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AgentConfig {
        AgentConfig {
            source: SourceConfig {
                name: "default".parse().unwrap(),
                server: "redis://127.0.0.1".parse().unwrap(),
                password_file: None,
                tls: TlsOptions::default(),
                store: "file:///archive".parse().unwrap(),
                recipients: Recipients::default(),
                spool: SpoolConfig { dir: "/spool".into(), bytes_max: SPOOL_BYTES_DEFAULT },
                flush_interval: FLUSH_INTERVAL_DEFAULT,
                getack_interval: GETACK_INTERVAL_DEFAULT,
                segment_bytes_max: SEGMENT_BYTES_DEFAULT,
                compression_level: COMPRESSION_LEVEL_DEFAULT,
                snapshot_interval: Some(SNAPSHOT_INTERVAL_DEFAULT),
            },
            grpc: Some(GRPC_DEFAULT.parse().unwrap()),
            http: Some(HTTP_DEFAULT.parse().unwrap()),
            access: AccessConfig::default(),
            succession: Succession::Yield,
        }
    }

    fn refused(change: impl FnOnce(&mut AgentConfig)) -> ConfigError {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err()
    }

    #[test]
    fn the_defaults_are_fine() {
        assert_eq!(config().validate(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_bounds_is_refused_by_its_name() {
        for (option, error) in [
            ("flush-interval", refused(|c| c.source.flush_interval = Duration::ZERO)),
            ("flush-interval", refused(|c| c.source.flush_interval = Duration::from_secs(61))),
            ("getack-interval", refused(|c| c.source.getack_interval = Duration::from_secs(11))),
            ("snapshot-interval", refused(|c| c.source.snapshot_interval = Some(Duration::from_secs(1)))),
            ("segment-size", refused(|c| c.source.segment_bytes_max = 1)),
            ("spool-size", refused(|c| c.source.spool.bytes_max = 1 << 20)),
            ("compression-level", refused(|c| c.source.compression_level = 20)),
            ("tls-ca", refused(|c| c.source.tls.ca = Some("/ca.pem".into()))),
            ("tls-cert", refused(|c| c.source.tls.cert = Some("/cert.pem".into()))),
            ("tls-key", refused(|c| c.source.tls.key = Some("/key.pem".into()))),
            ("http", refused(|c| c.http = c.grpc)),
        ] {
            assert_eq!(error.option, option, "{error}");
        }
    }

    #[test]
    fn listening_beyond_loopback_needs_tls_and_somebody_known_or_the_flag_that_says_so() {
        let beyond = Some("0.0.0.0:7417".parse().unwrap());
        let token = || Some(TokenSource::File("/token".into()));
        let tls = || AccessConfig { cert: Some("/c".into()), key: Some("/k".into()), ..AccessConfig::default() };
        let served = |access: AccessConfig| AgentConfig { grpc: beyond, access, ..config() }.validate();
        for (access, missing) in [
            (AccessConfig::default(), "--listen-cert"),
            (AccessConfig { reader: token(), ..AccessConfig::default() }, "--listen-cert"),
            (tls(), "--operator-token-file"),
        ] {
            let error = served(access).unwrap_err();
            assert!(error.option == "grpc" && error.problem.contains(missing), "{error}");
            assert!(error.problem.contains("--listen-open"), "{error}");
        }
        for access in [
            AccessConfig { reader: token(), ..tls() },
            AccessConfig { operator: token(), ..tls() },
            AccessConfig { client_ca: Some("/ca".into()), ..tls() },
            AccessConfig { open: true, ..AccessConfig::default() },
        ] {
            assert_eq!(served(access), Ok(()));
        }
        assert_eq!(AgentConfig { grpc: Some("[::1]:0".parse().unwrap()), ..config() }.validate(), Ok(()));
    }

    #[test]
    fn half_of_an_identity_is_refused_by_the_option_that_is_there() {
        for (option, access) in [
            ("listen-cert", AccessConfig { cert: Some("/c".into()), ..AccessConfig::default() }),
            ("listen-key", AccessConfig { key: Some("/k".into()), ..AccessConfig::default() }),
            ("listen-client-ca", AccessConfig { client_ca: Some("/ca".into()), ..AccessConfig::default() }),
        ] {
            assert_eq!(refused(|config| config.access = access).option, option);
        }
    }
}

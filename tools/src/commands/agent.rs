//! `redwind agent`: from options to a checked configuration, and into the agent itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use redwind_agent::config::{
    AccessConfig, AgentConfig, COMPRESSION_LEVEL_DEFAULT, FLUSH_INTERVAL_DEFAULT, GETACK_INTERVAL_DEFAULT,
    GRPC_DEFAULT, HTTP_DEFAULT, SEGMENT_BYTES_DEFAULT, SNAPSHOT_INTERVAL_DEFAULT, SPOOL_BYTES_DEFAULT, SourceConfig,
    SpoolConfig, Succession, TokenSource,
};

use crate::archive_args::ArchiveArgs;
use crate::exit::{self, Status, UsageError};
use crate::key_args::RecipientArgs;
use crate::logging::{self, LogFormat};
use crate::quantity::{ByteSize, Interval, IntervalError};
use crate::source_args::SourceArgs;

const CONFIG_HELP: &str = "\
A settings file looks like this; its keys are the options' names:

    source = \"rediss://db.internal:6379\"
    source-user = \"redwind\"
    source-password = \"${REDIS_PASSWORD}\"
    store = \"s3://backups/redis\"
    spool = \"/var/lib/redwind/spool\"
    flush-interval = \"1s\"

Flags win over the environment, and that over the file. ${NAME} in the file is replaced by the
environment variable; one that is not set is an error.";

/// Follow a server and write its archive, until told to stop
#[derive(clap::Args)]
#[command(after_long_help = CONFIG_HELP)]
pub(crate) struct AgentArgs {
    /// A TOML file with any of these options
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    archive: ArchiveArgs,

    #[command(flatten)]
    recipients: RecipientArgs,

    #[command(flatten)]
    writing: WritingArgs,

    #[command(flatten)]
    succession: SuccessionArgs,

    #[command(flatten)]
    serving: ServingArgs,

    /// How log lines on stderr are written
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Logs")]
    log_format: LogFormat,

    /// error, warn, info, debug, trace, or a list by part such as info,redwind_agent=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Logs")]
    log_level: String,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Writing")]
struct WritingArgs {
    /// Longest time for which a received write waits before it is sent to the store
    ///
    /// It is what a disaster may cost at most, but for writes that applications confirm with WAIT or
    /// WAITAOF, which are sent at once. Shorter means more requests: one a second at 1s under load.
    #[arg(long, value_name = "DURATION", default_value_t = Interval(FLUSH_INTERVAL_DEFAULT))]
    flush_interval: Interval,

    /// Least time between two flushes that WAIT and WAITAOF of applications ask for
    #[arg(long, value_name = "DURATION", default_value_t = Interval(GETACK_INTERVAL_DEFAULT))]
    getack_interval: Interval,

    /// Age of the newest snapshot at which the next is taken, or `never`
    ///
    /// Each costs the server a fork and a transfer of its dataset; restoring replays what was
    /// written since the snapshot before the target. The first one is taken in any case.
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = SnapshotInterval(Some(SNAPSHOT_INTERVAL_DEFAULT))
    )]
    snapshot_interval: SnapshotInterval,

    /// Folder of the local log between server and store
    ///
    /// What the store has not taken yet survives a crash there. Unless given: `spool` below
    /// systemd's $STATE_DIRECTORY, /var/lib/redwind for root, or ~/.local/state/redwind.
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// Bytes that the spool may take, which bounds how long a store may be down without a gap
    ///
    /// When it is full the agent leaves the server, and comes back when half of it is free.
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(SPOOL_BYTES_DEFAULT))]
    spool_size: ByteSize,

    /// Bytes of the stream after which a segment ends even if it is young
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(SEGMENT_BYTES_DEFAULT))]
    segment_size: ByteSize,

    /// Level of zstd, from -7 to 19; higher ones cost much and save little
    #[arg(
        long,
        value_name = "LEVEL",
        allow_negative_numbers = true,
        default_value_t = COMPRESSION_LEVEL_DEFAULT
    )]
    compression_level: i32,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Two agents")]
struct SuccessionArgs {
    /// Wait while another agent writes the archive, and take over when it is gone
    ///
    /// Without this, an agent that finds the archive's writer alive ends with status 6 within 30
    /// seconds. One that stands by takes over within 15 seconds of the writer's end once it is armed,
    /// which its log and `redwind status` tell, and else within 90 seconds and a little.
    #[arg(long)]
    standby: bool,

    /// Take the archive from whichever agent writes it, alive or not; that one ends with status 6
    ///
    /// For one start, by hand: two agents with this option and supervisors would take the archive from
    /// each other for ever.
    #[arg(long)]
    takeover: bool,
}

impl SuccessionArgs {
    fn succession(&self) -> Result<Succession, UsageError> {
        match (self.takeover, self.standby) {
            (false, false) => Ok(Succession::Yield),
            (true, false) => Ok(Succession::TakeOver),
            (false, true) => Ok(Succession::StandBy),
            (true, true) => Err(UsageError::new(
                "--takeover and --standby: choose one; the one does not wait for the writer's end, the other does",
            )),
        }
    }
}

#[derive(clap::Args)]
#[command(next_help_heading = "Serving")]
struct ServingArgs {
    /// Address of the gRPC interface, which `redwind status` and `redwind snapshot` use, or `none`
    #[arg(long, value_name = "ADDR", default_value = GRPC_DEFAULT)]
    grpc: ListenAddress,

    /// Address of /metrics, /healthz and /readyz, or `none`
    #[arg(long, value_name = "ADDR", default_value = HTTP_DEFAULT)]
    http: ListenAddress,

    /// PEM file of the certificate, with its chain, by which both speak TLS
    ///
    /// Beyond loopback it is needed, and so is --read-token-file, --operator-token-file or
    /// --listen-client-ca. This file and those below are read again while the agent runs, so that renewed
    /// ones count within seconds. Health checks are answered to anybody.
    #[arg(long, value_name = "FILE")]
    listen_cert: Option<PathBuf>,

    /// PEM file of the private key of --listen-cert
    #[arg(long, value_name = "FILE")]
    listen_key: Option<PathBuf>,

    /// PEM file of the authorities one of which must vouch for a client's certificate
    #[arg(long, value_name = "FILE")]
    listen_client_ca: Option<PathBuf>,

    // Only from the environment or the settings file: `settle_secrets` sees to that.
    #[arg(long, value_name = "TOKEN", hide = true)]
    read_token: Option<String>,

    /// A file of tokens, one a line, for those who may see state and metrics and wait for writes
    #[arg(long, value_name = "FILE")]
    read_token_file: Option<PathBuf>,

    #[arg(long, value_name = "TOKEN", hide = true)]
    operator_token: Option<String>,

    /// A file of tokens, one a line, for those who may also ask for snapshots
    #[arg(long, value_name = "FILE")]
    operator_token_file: Option<PathBuf>,

    /// Allow --grpc and --http beyond loopback without TLS, or without tokens and certificates of
    /// clients: whoever can reach them can then overhear or use them
    #[arg(long)]
    listen_open: bool,
}

impl ServingArgs {
    fn access(&self) -> AccessConfig {
        let tokens = |token: &Option<String>, file: &Option<PathBuf>| {
            let given = token.clone().map(|token| TokenSource::Given(token.into()));
            file.clone().map(TokenSource::File).or(given)
        };
        AccessConfig {
            cert: self.listen_cert.clone(),
            key: self.listen_key.clone(),
            client_ca: self.listen_client_ca.clone(),
            reader: tokens(&self.read_token, &self.read_token_file),
            operator: tokens(&self.operator_token, &self.operator_token_file),
            open: self.listen_open,
        }
    }
}

/// A time between snapshots, or none.
#[derive(Clone, Copy, Debug)]
struct SnapshotInterval(Option<Duration>);

impl FromStr for SnapshotInterval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        match text {
            "never" => Ok(Self(None)),
            text => Ok(Self(Some(text.parse::<Interval>()?.0))),
        }
    }
}

impl std::fmt::Display for SnapshotInterval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(interval) => Interval(interval).fmt(f),
            None => f.write_str("never"),
        }
    }
}

/// Where to listen, or nowhere.
#[derive(Clone, Copy, Debug)]
struct ListenAddress(Option<SocketAddr>);

#[derive(Debug, thiserror::Error)]
#[error("expected an IP address with a port, such as 127.0.0.1:7417 or [::1]:7417, or none")]
struct ListenAddressError;

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        match text {
            "none" => Ok(Self(None)),
            text => text.parse().map(|address| Self(Some(address))).map_err(|_| ListenAddressError),
        }
    }
}

impl AgentArgs {
    /// The configuration that the options stand for, checked.
    pub(crate) fn config(&self) -> anyhow::Result<AgentConfig> {
        let Self { writing, serving, .. } = self;
        let config = AgentConfig {
            source: SourceConfig {
                name: self.archive.name_to_write(),
                server: self.source.server()?,
                password_file: self.source.password_file(),
                tls: self.source.tls(),
                store: self.archive.store_url()?,
                recipients: self.recipients.recipients()?,
                spool: SpoolConfig {
                    dir: writing.spool.clone().unwrap_or_else(SpoolConfig::dir_default),
                    bytes_max: writing.spool_size.0,
                },
                flush_interval: writing.flush_interval.0,
                getack_interval: writing.getack_interval.0,
                segment_bytes_max: writing.segment_size.0,
                compression_level: writing.compression_level,
                snapshot_interval: writing.snapshot_interval.0,
            },
            grpc: serving.grpc.0,
            http: serving.http.0,
            access: serving.access(),
            succession: self.succession.succession()?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Starts logging as the options say.
    pub(crate) fn start_logging(&self) -> anyhow::Result<()> {
        Ok(logging::init(self.log_format, &self.log_level)?)
    }
}

/// Runs the agent until it is told to stop or cannot go on.
pub(crate) fn run(args: &AgentArgs) -> anyhow::Result<Status> {
    let error = match redwind_agent::app::run(args.config()?) {
        Ok(()) => return Ok(Status::Done),
        Err(error) => anyhow::Error::from(error),
    };
    match args.log_format {
        LogFormat::Text => Err(error),
        // Whoever reads JSON reads nothing else.
        LogFormat::Json => {
            tracing::error!("{}", exit::describe(&error));
            Ok(exit::status_of(&error))
        }
    }
}

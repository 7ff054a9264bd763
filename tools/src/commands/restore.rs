//! `redwind restore`: plan, say what will be restored, and do it.

mod audit;
mod bar;
mod deliver;
mod report;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use jiff::Zoned;
use redwind_archive::catalog::Catalog;
use redwind_archive::keys::Identities;
use redwind_archive::plan::{Choice, RestorePlan, SnapshotsBeside, Target, plan};
use redwind_archive::position::HistoryId;
use redwind_archive::store::SourceStore;
use redwind_link::{ServerUrl, TlsOptions};
use redwind_restore::{Recording, RestoreError};

use crate::archive_args::ArchiveArgs;
use crate::exit::{Status, UsageError};
use crate::key_args::ArchiveIdentityArgs;
use crate::target;
use crate::tls_args::TlsArgs;

use audit::AuditLog;
use report::Report;

const TARGET_HELP: &str = "\
Targets:
    2026-11-20T14:03:07.250Z               an instant: every write that had arrived by then
    '2026-11-20 14:03:07[Europe/Berlin]'   the same in a time zone; without one, in this machine's
    '15m ago', 1795183387.25               a while ago; seconds or milliseconds since 1970
    latest                                 the newest state there is
    offset:4711, offset:<history>:4711     after the last record that ends at or before the offset
    before:<record>, after:<record>        just before or after one record, <history>:<offset>";

/// Restore the state at any instant: to files, into a server, or to whoever replicates
///
/// Exactly one destination is given: an append-only file or an RDB file that a server starts from, a
/// running server, or any server that comes and replicates. Nothing appears there before it is whole.
/// The restore is entered into the archive's audit log, if these credentials may put there.
#[derive(clap::Args)]
#[command(after_help = TARGET_HELP)]
pub(crate) struct RestoreArgs {
    /// What to restore to: a time, latest, an offset, or a record (see below)
    #[arg(long, value_name = "TARGET", allow_hyphen_values = true)]
    to: String,

    /// Restore from this history, where several have the target
    #[arg(long, value_name = "ID", value_parser = id::<HistoryId>)]
    history: Option<HistoryId>,

    /// Build on this snapshot rather than on the newest before the target: a way round a damaged one
    #[arg(long, value_name = "ID", value_parser = id::<ulid::Ulid>)]
    snapshot: Option<ulid::Ulid>,

    /// Only find out and show what would be restored
    #[arg(long)]
    dry_run: bool,

    /// Replace what is at the destination: files, or the data of the server
    #[arg(long)]
    force: bool,

    /// Do not ask before the data of a server is replaced
    #[arg(long)]
    yes: bool,

    /// Print JSON: what was restored, and what to type next
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    archive: ArchiveArgs,

    #[command(flatten)]
    identity: ArchiveIdentityArgs,

    #[command(flatten)]
    destination: DestinationArgs,

    #[command(flatten)]
    how: HowArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Destination")]
#[group(multiple = false)]
struct DestinationArgs {
    /// A new or empty folder: becomes a data directory that a server starts from
    #[arg(long, value_name = "DIR")]
    aof: Option<PathBuf>,

    /// An RDB file; unless the target is exactly a snapshot, a server makes it (see --engine)
    #[arg(long, value_name = "FILE")]
    rdb: Option<PathBuf>,

    /// A running, empty server, which replicates from us and is released when it has everything
    ///
    /// A password in the URL is visible in the process list: give the URL in REDWIND_INTO.
    #[arg(long, value_name = "URL")]
    into: Option<ServerUrl>,

    /// Listen there as a primary, for any server that knows the password which is printed
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    serve: Option<SocketAddr>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "How")]
struct HowArgs {
    /// The server program that makes the RDB file, instead of one of the source's vendor on PATH
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,

    /// One more argument for that server; repeat it: --engine-arg --loadmodule --engine-arg FILE
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    engine_arg: Vec<std::ffi::OsString>,

    /// Where the server of --into reaches us, instead of an address chosen on the way to it
    #[arg(long, value_name = "ADDR", value_parser = listen_address, requires = "into")]
    listen: Option<SocketAddr>,

    /// End --serve when a server has taken everything and left
    #[arg(long, requires = "serve")]
    once: bool,

    #[command(flatten)]
    tls: TlsArgs,
}

/// Where the restored state goes.
enum Destination {
    Aof(PathBuf),
    Rdb(PathBuf),
    Into(ServerUrl),
    Serve(SocketAddr),
}

impl DestinationArgs {
    fn one(&self) -> Option<Destination> {
        let aof = self.aof.clone().map(Destination::Aof);
        let rdb = self.rdb.clone().map(Destination::Rdb);
        let into = self.into.clone().map(Destination::Into);
        aof.or(rdb).or(into).or(self.serve.map(Destination::Serve))
    }
}

impl HowArgs {
    /// TLS to the server of `--into`; the environment may hold the agent's, for a plain URL.
    fn tls(&self, server: &ServerUrl) -> TlsOptions {
        if server.is_tls() { self.tls.options() } else { TlsOptions::default() }
    }
}

fn id<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "expected an id of 26 letters and digits, as `redwind list` shows it")
}

/// An address such as `127.0.0.1:7000`, `[::1]:7000`, an address alone for any free port, or a port
/// alone for loopback.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let port = || {
        text.strip_prefix(':').unwrap_or(text).parse().ok().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)))
    };
    let ip = || text.parse().ok().map(|ip: std::net::IpAddr| SocketAddr::new(ip, 0));
    let address = text.parse().ok().or_else(port).or_else(ip);
    address.ok_or_else(|| "expected an address such as 127.0.0.1:7000, [::1]:7000, 192.0.2.7, or a port".to_owned())
}

pub(crate) async fn run(args: RestoreArgs) -> anyhow::Result<Status> {
    let target = target::parse(&args.to, &Zoned::now()).context("to")?;
    let destination = args.destination.one();
    if destination.is_none() && !args.dry_run {
        return Err(
            UsageError::new("nowhere to restore to: give --aof DIR, --rdb FILE, --into URL or --serve ADDR").into()
        );
    }
    let identities = args.identity.identities()?;
    let store = args.archive.open().await?;
    let choice = Choice { history: args.history, snapshot: args.snapshot };
    let plan = make_plan(&store, &identities, target, choice).await?;
    let mut report = Report::new(&store, &args.to, target, &plan);
    match destination.filter(|_| !args.dry_run) {
        None => report.print_plan(args.json)?,
        Some(destination) => {
            report.announce()?;
            let audit = AuditLog::new(store.clone(), &plan, &args.to);
            let recording = Recording::new(store, plan);
            deliver::deliver(&args, destination, &recording, &audit, &mut report)
                .await
                .map_err(|error| with_ways_round(error, &recording.plan().beside))?;
            report.print_outcome(args.json)?;
        }
    }
    std::io::stdout().flush()?;
    Ok(Status::Done)
}

async fn make_plan(
    store: &SourceStore,
    identities: &Identities,
    target: Target,
    choice: Choice,
) -> anyhow::Result<RestorePlan> {
    let catalog = Catalog::open(store, identities).await?;
    Ok(plan(store, &catalog, target, choice).await?)
}

/// Says how else the target can be restored, or what else can, when the archive turned out to be damaged.
fn with_ways_round(error: anyhow::Error, beside: &SnapshotsBeside) -> anyhow::Error {
    let Some(cause) = error.downcast_ref::<RestoreError>().filter(|error| error.is_damage()) else { return error };
    let ways = if cause.is_snapshot_damage() { beside.describe() } else { beside.describe_newer() };
    let context = format!("the archive is damaged where this restore needs it{ways}");
    error.context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on_are_read_as_people_write_them() {
        for (text, expected) in [
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("[::1]:7000", "[::1]:7000"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("7000", "127.0.0.1:7000"),
            (":7000", "127.0.0.1:7000"),
            ("192.0.2.7", "192.0.2.7:0"),
            ("::1", "[::1]:0"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", "localhost:7000", "70000", "1.2.3.4:x"] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }
}

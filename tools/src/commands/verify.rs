//! `redwind verify`: read everything, check everything.

mod promised;

use std::io::Write as _;

use redwind_archive::verify::{Report, Severity, verify};
use serde::Serialize;

use crate::agent_address::IdentityArgs;
use crate::archive_args::ArchiveArgs;
use crate::exit::Status;
use crate::key_args::ArchiveIdentityArgs;
use crate::screen::{self, bytes};
use promised::Promises;

/// Read every object and check every promise of the format; exit status 4 tells of damage
///
/// What a bucket alone cannot show is the loss of its newest objects. With --agent the archive must also
/// hold what its running agent says is durable.
///
/// Of an encrypted archive, whether its objects are authentic and their contents can be read takes an
/// --identity-file; all else is checked without.
#[derive(clap::Args)]
pub(crate) struct VerifyArgs {
    /// Print JSON: per source what was read, and the array findings
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    archive: ArchiveArgs,

    #[command(flatten)]
    archive_identity: ArchiveIdentityArgs,

    /// Ask the running agent at this gRPC address what is durable, before looking; as for `redwind status`
    #[arg(long, value_name = "ADDR", help_heading = "Agent")]
    agent: Option<String>,

    #[command(flatten)]
    identity: IdentityArgs,
}

/// One source, as `--json` prints it.
#[derive(Serialize)]
struct Verified {
    source: String,
    sound: bool,
    #[serde(flatten)]
    report: Report,
}

pub(crate) async fn run(args: VerifyArgs) -> anyhow::Result<Status> {
    let identities = args.archive_identity.identities()?;
    let stores = args.archive.open_all().await?;
    let promises = match &args.agent {
        Some(agent) => Promises::ask(agent, &args.identity, &stores).await?,
        None => Promises::default(),
    };
    let mut verified = Vec::new();
    for store in stores {
        let bar = screen::spinner("verifying");
        let mut report = verify(&store, &identities, |report| {
            bar.set_message(format!("{}: {} objects, {}", store.name(), report.objects, bytes(report.bytes)));
        })
        .await?;
        promises.check(&store, &mut report).await?;
        bar.finish_and_clear();
        verified.push(Verified { source: store.name().to_string(), sound: !report.is_damaged(), report });
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &serde_json::json!({ "sources": verified }))?;
        writeln!(out)?;
    } else {
        verified.iter().try_for_each(|verified| show(&mut out, verified))?;
    }
    let sound = verified.iter().all(|verified| verified.sound);
    Ok(if sound { Status::Done } else { Status::Damage })
}

fn show(out: &mut impl std::io::Write, verified: &Verified) -> std::io::Result<()> {
    let Verified { source, sound, report } = verified;
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Damage => "DAMAGE",
            Severity::Note => "note  ",
        };
        writeln!(out, "{severity} {source}/{}: {}", finding.object, finding.problem)?;
    }
    let verdict = if *sound { "sound" } else { "DAMAGED" };
    writeln!(
        out,
        "source {source}: {verdict}; {} objects read, {} ({} segments, {} snapshots)",
        report.objects,
        bytes(report.bytes),
        report.segments,
        report.snapshots
    )
}

//! `redwind list`: what can be restored, and with `--audit` what was done with the archive.

mod audit;

use std::fmt::Write as _;
use std::io::Write as _;

use redwind_archive::catalog::{Catalog, LockedHistory, Summary};
use redwind_archive::documents::HistoryStart;
use redwind_archive::keys::Identities;
use redwind_archive::store::SourceStore;
use redwind_archive::time::Timestamp;
use serde::Serialize;

use crate::archive_args::ArchiveArgs;
use crate::exit::Status;
use crate::key_args::ArchiveIdentityArgs;
use crate::screen::{self, bytes};

/// Show what can be restored: windows, the blurs in them, the gaps between them, snapshots
#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// Show the audit log instead: who restored what to where, and what else was done by hand
    ///
    /// An entry says what its writer knew of itself. Restores with credentials that may only read have
    /// none.
    #[arg(long)]
    audit: bool,

    /// Print JSON: per source the arrays windows, blurs, gaps, snapshots and histories; with --audit the
    /// array audit
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    archive: ArchiveArgs,

    #[command(flatten)]
    identity: ArchiveIdentityArgs,
}

/// One source, as `--json` prints it.
#[derive(Serialize)]
struct Listing {
    source: String,
    archive: ulid::Ulid,
    created: Timestamp,
    encrypted: bool,
    #[serde(flatten)]
    summary: Summary,
    histories: Vec<HistoryStart>,
}

pub(crate) async fn run(args: ListArgs) -> anyhow::Result<Status> {
    if args.audit {
        return audit::run(&args.archive, args.json).await;
    }
    let identities = args.identity.identities()?;
    let mut listings = Vec::new();
    for store in args.archive.open_all().await? {
        listings.push(listing(&store, &identities).await?);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &serde_json::json!({ "sources": listings }))?;
        writeln!(out)?;
    } else {
        let text: Vec<String> = listings.iter().map(show).collect::<Result<_, _>>()?;
        out.write_all(text.join("\n").as_bytes())?;
    }
    Ok(Status::Done)
}

async fn listing(store: &SourceStore, identities: &Identities) -> anyhow::Result<Listing> {
    let catalog = Catalog::open(store, identities).await?;
    let summary = catalog.summary(store).await?;
    Ok(Listing {
        source: store.name().to_string(),
        archive: catalog.marker.archive,
        created: catalog.marker.created,
        encrypted: catalog.marker.encrypted,
        summary,
        histories: catalog.histories.into_iter().map(|history| history.start).collect(),
    })
}

fn show(listing: &Listing) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let encrypted = if listing.encrypted { ", encrypted" } else { "" };
    writeln!(out, "source {} (archive {}, since {}{encrypted})", listing.source, listing.archive, listing.created)?;
    let summary = &listing.summary;
    if summary.windows.is_empty() {
        writeln!(out, "\nNothing can be restored yet: no snapshot is complete.")?;
    } else {
        show_windows(&mut out, listing)?;
    }
    show_blurs(&mut out, summary)?;
    show_gaps(&mut out, summary)?;
    show_snapshots(&mut out, summary)?;
    for history in &summary.lost_histories {
        writeln!(out, "\nDAMAGE: the document of history {history} is lost; nothing of it can be restored")?;
    }
    for LockedHistory { history, epoch } in &summary.locked_histories {
        writeln!(out, "\nLOCKED: history {history} is restored by an identity that opens key epoch {epoch}, or after")?;
        writeln!(out, "its owner has run redwind rewrap; nothing of it is shown here")?;
    }
    if summary.pages_not_looked_into > 0 {
        let pages = summary.pages_not_looked_into;
        writeln!(out, "\nThe {pages} oldest pages of the log were not looked into: redwind verify reads everything.")?;
    }
    Ok(out)
}

fn show_windows(out: &mut String, listing: &Listing) -> std::fmt::Result {
    let mut table = screen::table(["from", "known complete until", "stream", "offsets", "history", "server"]);
    for window in &listing.summary.windows {
        let server = listing.histories.iter().find(|history| history.history == window.history);
        table.add_row([
            window.from.to_string(),
            window.complete_until.to_string(),
            bytes(window.to_offset.since(window.from_offset)),
            format!("{} to {}", window.from_offset, window.to_offset),
            window.history.to_string(),
            server.map(|history| format!("{} {}", history.server.vendor, history.server.version)).unwrap_or_default(),
        ]);
    }
    writeln!(out, "\nWindows: any instant in them can be restored\n{table}")
}

fn show_blurs(out: &mut String, summary: &Summary) -> std::fmt::Result {
    if summary.blurs.is_empty() {
        return Ok(());
    }
    let mut table = screen::table(["from", "to", "offsets", "history"]);
    for blur in &summary.blurs {
        table.add_row([
            blur.from.to_string(),
            blur.to.to_string(),
            format!("{} to {}", blur.from_offset, blur.to_offset),
            blur.history.to_string(),
        ]);
    }
    writeln!(out, "\nBlurs: read late; restore by offset, or to a time at either edge\n{table}")
}

fn show_gaps(out: &mut String, summary: &Summary) -> std::fmt::Result {
    if summary.gaps.is_empty() {
        return Ok(());
    }
    let mut table = screen::table(["from", "to", "cause"]);
    let instant = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    for gap in &summary.gaps {
        table.add_row([instant(gap.from), instant(gap.to), gap.because.clone()]);
    }
    writeln!(out, "\nGaps: writes may be missing, nothing between can be restored\n{table}")
}

fn show_snapshots(out: &mut String, summary: &Summary) -> std::fmt::Result {
    if summary.snapshots.is_empty() {
        return Ok(());
    }
    let mut table = screen::table(["time", "rdb", "stored", "offset", "snapshot"]);
    for snapshot in &summary.snapshots {
        let unreadable = || if snapshot.locked { "locked" } else { "damaged" }.to_owned();
        let size = |count: Option<u64>| count.map_or_else(unreadable, bytes);
        table.add_row([
            snapshot.time.to_string(),
            size(snapshot.rdb_bytes),
            size(snapshot.stored_bytes),
            snapshot.offset.to_string(),
            snapshot.snapshot.to_string(),
        ]);
    }
    writeln!(out, "\nSnapshots\n{table}")
}

//! `redwind check`: whether a source and a store are fit, before anybody relies on them.
//!
//! Each finding comes with the line to type. Nothing is changed on the server: what may be done is
//! found out by commands that answer and do nothing. On the store a few small objects are put into a
//! folder of their own and deleted again.

mod acl;
mod finding;
mod settings;
mod source;
mod store;

use std::io::Write as _;
use std::path::PathBuf;

use crate::archive_args::ArchiveArgs;
use crate::exit::{Status, UsageError};
use crate::source_args::SourceArgs;

use finding::{Finding, Level};

const EXIT_HELP: &str = "\
Exit status: 0 when source and store are fit, though there may be warnings; 5 when the store is not;
7 when the source is not.";

/// Find out whether a source and a store are fit, before relying on them
///
/// Each finding comes with the line to type. Nothing is changed on the server; in the store a few small
/// objects are put into a folder of their own and deleted again, where that is allowed.
#[derive(clap::Args)]
#[command(after_help = EXIT_HELP)]
pub(crate) struct CheckArgs {
    /// The agent's settings file, so that just what it will use is checked
    // Read by `cli::parse` before this is filled.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print JSON: `fit`, and an array `findings`
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    archive: ArchiveArgs,
}

pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<Status> {
    if !args.source.is_given() && !args.archive.is_given() {
        let from = args.config.map_or_else(String::new, |path| format!("; {} names neither", path.display()));
        return Err(UsageError::new(format!("nothing to check: give --source URL, --store URL, or both{from}")).into());
    }
    let server = args.source.is_given().then(|| args.source.server()).transpose()?;
    let store = args.archive.is_given().then(|| args.archive.store_url()).transpose()?;
    let source = async {
        match server {
            Some(server) => source::check(&server, &args.source.tls()).await,
            None => Vec::new(),
        }
    };
    let store = async {
        match store {
            Some(store) => store::check(&store, &args.archive.name_to_write()).await,
            None => Vec::new(),
        }
    };
    let (source, store) = tokio::join!(source, store);
    let findings: Vec<Finding> = source.into_iter().chain(store).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&finding::document(&findings))?)?;
    } else {
        out.write_all(finding::text(&findings).as_bytes())?;
    }
    Ok(status(&findings))
}

/// What failed decides; when both did, the store comes first, since it is what everything ends in.
fn status(findings: &[Finding]) -> Status {
    let failed = |subject| findings.iter().any(|found| found.level == Level::Failure && found.subject == subject);
    match (failed(finding::Subject::Store), failed(finding::Subject::Source)) {
        (true, _) => Status::Store,
        (false, true) => Status::Source,
        (false, false) => Status::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use finding::Subject;

    #[test]
    fn the_status_tells_what_is_unfit() {
        let warning = Finding::new(Subject::Source, "tls", Level::Warning, "in clear");
        let source = Finding::new(Subject::Source, "acl", Level::Failure, "no PSYNC");
        let store = Finding::new(Subject::Store, "race", Level::Failure, "two winners");
        assert_eq!(status(std::slice::from_ref(&warning)), Status::Done);
        assert_eq!(status(&[warning, source.clone()]), Status::Source);
        assert_eq!(status(&[source, store]), Status::Store);
    }
}

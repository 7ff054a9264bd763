//! `redwind list --audit`: the log of what was done with the archive.

use std::io::Write as _;

use redwind_archive::audit::{self, Actor, AuditEvent, Destination, Recorded};
use redwind_archive::catalog::CatalogError;
use redwind_archive::documents::Marker;
use redwind_archive::layout::ObjectName;
use redwind_archive::store::SourceStore;
use serde::Serialize;

use crate::archive_args::ArchiveArgs;
use crate::exit::Status;
use crate::screen;

/// One source, as `--json` prints it.
#[derive(Serialize)]
struct Log {
    source: String,
    /// Oldest first; `entry` is null where it is damaged.
    audit: Vec<Recorded>,
}

pub(super) async fn run(archive: &ArchiveArgs, json: bool) -> anyhow::Result<Status> {
    let mut logs = Vec::new();
    for store in archive.open_all().await? {
        logs.push(read(&store).await?);
    }
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &serde_json::json!({ "sources": logs }))?;
        writeln!(out)?;
    } else {
        logs.iter().try_for_each(|log| writeln!(out, "{}", show(log)))?;
    }
    Ok(Status::Done)
}

async fn read(store: &SourceStore) -> anyhow::Result<Log> {
    let marker: Option<Marker> = store.find_document(&ObjectName::Marker).await?;
    let marker = marker.ok_or_else(|| CatalogError::Absent(store.to_string()))?;
    Ok(Log { source: store.name().to_string(), audit: audit::read_all(store, marker.archive).await? })
}

fn show(log: &Log) -> String {
    if log.audit.is_empty() {
        return format!("source {}: nothing is in the audit log", log.source);
    }
    let mut table = screen::table(["time", "by", "what"]);
    for recorded in &log.audit {
        let (by, what) = match &recorded.entry {
            Some(entry) => (who(&entry.by), describe(&entry.event)),
            None => ("-".to_owned(), "damaged; `redwind verify` says how".to_owned()),
        };
        table.add_row([recorded.name.time.to_string(), by, what]);
    }
    format!("source {}\n{table}", log.source)
}

fn who(by: &Actor) -> String {
    let user = if by.user.is_empty() { format!("uid {}", by.uid) } else { by.user.clone() };
    format!("{user}@{} (pid {})", by.host, by.pid)
}

fn describe(event: &AuditEvent) -> String {
    match event {
        AuditEvent::Restore { target, position, destination, place } => {
            let means = match destination {
                Destination::Aof => "to the folder",
                Destination::Rdb => "to the RDB file",
                Destination::Into => "into the server",
                Destination::Serve => "served to replicas at",
            };
            format!("restore of {target} ({position}) {means} {place}")
        }
        AuditEvent::Snapshot { peer, role } => format!("snapshot asked for by an {role} at {peer}"),
        AuditEvent::Takeover { term, former_term, former_host, former_pid, reason } => {
            format!(
                "took the archive over from process {former_pid} on {former_host}, term {former_term} to {term}: {reason}"
            )
        }
        AuditEvent::NewKey { epoch, recipients } => {
            format!("began to encrypt under key epoch {epoch}, wrapped to {}", recipients.join(", "))
        }
        AuditEvent::Rewrap { recipients, epochs } => {
            format!("keys of {epochs} epochs wrapped to {}", recipients.join(", "))
        }
        AuditEvent::Unknown => "something that a newer redwind writes down".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redwind_archive::audit::AuditEntry;
    use redwind_archive::layout::AuditName;
    use redwind_archive::position::{HistoryId, Offset, Position};
    use redwind_archive::time::Timestamp;
    use ulid::Ulid;

    #[test]
    fn an_entry_tells_when_who_and_what_and_a_damaged_one_when() {
        let by = Actor { user: "ann".into(), uid: 7, host: "db1".into(), pid: 42, redwind: "1".into() };
        let position = Position { history: HistoryId(Ulid(1)), offset: Offset(9) };
        let (target, place) = ("latest".to_owned(), "/restored".to_owned());
        let event = AuditEvent::Restore { target, position, destination: Destination::Aof, place };
        let name = AuditName { time: Timestamp(1_763_733_787_250_001), entry: Ulid(2) };
        let entry = AuditEntry { entry: name.entry, archive: Ulid(3), time: name.time, by, event };
        let audit = vec![Recorded { name, entry: Some(entry) }, Recorded { name, entry: None }];
        let shown = show(&Log { source: "default".into(), audit });
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[2].contains("2025-11-21T14:03:07.250001Z") && lines[2].contains("ann@db1 (pid 42)"), "{shown}");
        assert!(lines[2].contains(&format!("restore of latest ({position}) to the folder /restored")), "{shown}");
        assert!(lines[3].contains("2025-11-21T14:03:07.250001Z") && lines[3].contains("damaged"), "{shown}");
    }
}

//! `redwind list --audit`: the log of what was done with the archive.

use std::io::Write as _;

use redwind_archive::audit::{self, Actor, AuditEvent, Destination, Recorded};
use redwind_archive::catalog::read_marker;
use redwind_archive::store::SourceStore;
use redwind_link::sanitised;
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
    let marker = read_marker(store).await?;
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

/// A text from an entry, whose words whoever may put below `audit/` chooses.
fn plain(text: &str) -> String {
    sanitised(text.as_bytes())
}

fn who(by: &Actor) -> String {
    let user = if by.user.is_empty() { format!("uid {}", by.uid) } else { plain(&by.user) };
    format!("{user}@{} (pid {})", plain(&by.host), by.pid)
}

fn describe(event: &AuditEvent) -> String {
    let list = |texts: &[String]| texts.iter().map(|text| plain(text)).collect::<Vec<_>>().join(", ");
    match event {
        AuditEvent::Restore { target, position, destination, place } => {
            let means = match destination {
                Destination::Aof => "to the folder",
                Destination::Rdb => "to the RDB file",
                Destination::Into => "into the server",
                Destination::Serve => "served to replicas at",
            };
            format!("restore of {} ({position}) {means} {}", plain(target), plain(place))
        }
        AuditEvent::Snapshot { peer, role } => format!("snapshot asked for by an {} at {}", plain(role), plain(peer)),
        AuditEvent::Takeover { term, former_term, former_host, former_pid, reason } => {
            let host = plain(former_host);
            let reason = plain(reason);
            format!("took the archive over from process {former_pid} on {host}, term {former_term} to {term}: {reason}")
        }
        AuditEvent::NewKey { epoch, recipients } => {
            format!("began to encrypt under key epoch {epoch}, wrapped to {}", list(recipients))
        }
        AuditEvent::Rewrap { recipients, epochs } => format!("keys of {epochs} epochs wrapped to {}", list(recipients)),
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

    /// An entry of a restore, with these texts.
    fn restore(user: &str, host: &str, target: &str, place: &str) -> AuditEntry {
        let by = Actor { user: user.into(), uid: 7, host: host.into(), pid: 42, redwind: "1".into() };
        let position = Position { history: HistoryId(Ulid(1)), offset: Offset(9) };
        let (target, place) = (target.to_owned(), place.to_owned());
        let event = AuditEvent::Restore { target, position, destination: Destination::Aof, place };
        AuditEntry { entry: Ulid(2), archive: Ulid(3), time: Timestamp(1_763_733_787_250_001), by, event }
    }

    fn shown(entries: Vec<Option<AuditEntry>>) -> String {
        let name = AuditName { time: Timestamp(1_763_733_787_250_001), entry: Ulid(2) };
        let audit = entries.into_iter().map(|entry| Recorded { name, entry }).collect();
        show(&Log { source: "default".into(), audit })
    }

    #[test]
    fn an_entry_tells_when_who_and_what_and_a_damaged_one_when() {
        let shown = shown(vec![Some(restore("ann", "db1", "latest", "/restored")), None]);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[2].contains("2025-11-21T14:03:07.250001Z") && lines[2].contains("ann@db1 (pid 42)"), "{shown}");
        assert!(
            lines[2].contains("restore of latest (") && lines[2].contains(":9) to the folder /restored"),
            "{shown}"
        );
        assert!(lines[3].contains("2025-11-21T14:03:07.250001Z") && lines[3].contains("damaged"), "{shown}");
    }

    #[test]
    fn an_entry_can_neither_add_lines_nor_steer_the_terminal() {
        let harmless = shown(vec![Some(restore("ann", "db1", "latest", "/restored"))]);
        let forged = "x\n2026-01-01T00:00:00Z root@db1\r\u{1b}[2J\u{202e}";
        let shown = shown(vec![Some(restore(forged, forged, forged, forged))]);
        assert_eq!(shown.lines().count(), harmless.lines().count(), "{shown:?}");
        assert!(
            shown.matches("\\n2026-01-01").count() == 4 && !shown.contains(['\u{1b}', '\r', '\u{202e}']),
            "{shown:?}"
        );
    }
}

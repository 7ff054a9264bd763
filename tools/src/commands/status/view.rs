//! Status for people: one line for each thing that somebody on call wants to know.

use std::fmt::{self, Write as _};

use jiff::SignedDuration;
use redwind_proto::v1::{AgentInfo, Server, SourceStatus, Watermark};

use super::json::state;
use crate::screen::bytes;

const ERROR_CHARS_MAX: usize = 200;

/// The whole screen.
pub(super) fn text(agent: &AgentInfo, sources: &[SourceStatus], now: jiff::Timestamp) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let up = agent.started_at.map_or_else(String::new, |time| format!(", up {}", age(Some(time), now)));
    writeln!(out, "redwind {} on {}{up}, writing to {}", agent.version, agent.host, agent.store)?;
    for source in sources {
        writeln!(out)?;
        show(&mut out, source, now)?;
    }
    Ok(out.trim_end().to_owned())
}

fn show(out: &mut String, source: &SourceStatus, now: jiff::Timestamp) -> fmt::Result {
    let since = age(source.state_since, now);
    let reason = if source.reason.is_empty() { String::new() } else { format!(": {}", source.reason) };
    writeln!(out, "source {}: {} for {since}{reason}", source.name, state(source).replace('_', " "))?;
    if let Some(server) = &source.server {
        line(out, "server", &describe(server))?;
    }
    if !source.history.is_empty() {
        line(out, "history", &format!("{}, written in term {}", source.history, source.term))?;
    }
    for (name, mark) in [
        ("received", source.received),
        ("spooled", source.spooled),
        ("stored", source.stored),
        ("durable", source.durable),
    ] {
        line(out, name, &mark.map_or_else(|| "nothing yet".to_owned(), |mark| watermark(&mark, now)))?;
    }
    line(out, "behind server", &behind_server(source))?;
    line(out, "behind store", &behind_store(source))?;
    line(out, "complete until", &instant(source.known_complete_until))?;
    if let Some(spool) = &source.spool {
        line(out, "spool", &format!("{} of {}", bytes(spool.used_bytes), bytes(spool.limit_bytes)))?;
    }
    if !source.store_error.is_empty() {
        line(out, "store error", &brief(&source.store_error))?;
    }
    snapshots(out, source, now)?;
    line(out, "gaps", &gaps(source))?;
    if let Some(blur) = &source.blur_in_progress {
        line(out, "reading late", &format!("what the server sent since {}", instant(blur.from)))?;
    }
    Ok(())
}

fn line(out: &mut String, name: &str, value: &str) -> fmt::Result {
    writeln!(out, "  {name:<15} {value}")
}

/// The beginning of an error, which may be that of a whole chain; `--json` has all of it.
fn brief(error: &str) -> String {
    match error.char_indices().nth(ERROR_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &error[..end]),
        None => error.to_owned(),
    }
}

fn describe(server: &Server) -> String {
    let what = if server.kind.is_empty() {
        "not reached yet".to_owned()
    } else {
        format!("{} {}", server.kind, server.version)
    };
    let role = if server.is_replica { ", a replica" } else { "" };
    let tls = if server.tls { ", TLS" } else { "" };
    let clock = server.clock_offset.map_or_else(String::new, |offset| {
        let sign = if offset.seconds < 0 || offset.nanos < 0 { '-' } else { '+' };
        format!(", clock {sign}{}", span(offset))
    });
    format!("{}: {what}{role}{tls}{clock}", server.address)
}

fn watermark(mark: &Watermark, now: jiff::Timestamp) -> String {
    match mark.reached_at {
        Some(_) => format!("{}, {} ago", mark.offset, age(mark.reached_at, now)),
        None => mark.offset.to_string(),
    }
}

fn behind_server(source: &SourceStatus) -> String {
    let Some(lag) = &source.server_lag else { return "unknown: no link".to_owned() };
    format!("{}, {}", bytes(lag.bytes_behind), lag.time_behind.map_or_else(|| "time unknown".to_owned(), span))
}

fn behind_store(source: &SourceStatus) -> String {
    let Some(lag) = &source.store_lag else { return "unknown".to_owned() };
    let time = lag.time_behind.map_or_else(|| "time unknown: no link".to_owned(), span);
    format!("{}, {time}", bytes(lag.bytes_behind))
}

fn snapshots(out: &mut String, source: &SourceStatus, now: jiff::Timestamp) -> fmt::Result {
    let last = source.last_snapshot.as_ref().map_or_else(
        || "none yet".to_owned(),
        |last| {
            let offset =
                last.position.as_ref().map_or_else(String::new, |position| format!(" at offset {}", position.offset));
            let size = if last.rdb_bytes == 0 { String::new() } else { format!(", {}", bytes(last.rdb_bytes)) };
            format!("{}{offset}, {} ago{size}", last.id, age(last.taken_at, now))
        },
    );
    let next = source.next_snapshot_at.map_or_else(String::new, |next| format!(", next at {}", instant(Some(next))));
    line(out, "last snapshot", &format!("{last}{next}"))?;
    if let Some(running) = &source.snapshot_in_progress {
        let total = running.total_bytes.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
        let text = format!(
            "{}{total} received, {} stored, for {}",
            bytes(running.received_bytes),
            bytes(running.stored_bytes),
            age(running.started_at, now)
        );
        line(out, "snapshot now", &text)?;
    }
    if !source.snapshot_error.is_empty() {
        line(out, "snapshot error", &brief(&source.snapshot_error))?;
    }
    Ok(())
}

fn gaps(source: &SourceStatus) -> String {
    match &source.last_gap {
        None => source.gaps.to_string(),
        Some(gap) => {
            format!("{}, the last from {} to {}: {}", source.gaps, instant(gap.from), instant(gap.until), gap.cause)
        }
    }
}

fn instant(time: Option<prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(|| "unknown".to_owned(), |time| format!("{time:.3}"))
}

fn age(time: Option<prost_types::Timestamp>, now: jiff::Timestamp) -> String {
    let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(|| "unknown time".to_owned(), |time| elapsed(now.duration_since(time).max(SignedDuration::ZERO)))
}

/// A span without its sign.
fn span(span: prost_types::Duration) -> String {
    elapsed(SignedDuration::from_secs(span.seconds).saturating_add(SignedDuration::from_nanos(span.nanos.into())).abs())
}

/// A span in its two largest units, or with a tenth of a second.
fn elapsed(span: SignedDuration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redwind_proto::v1::{Position, ServerLag, Snapshot, SourceState, Spool, StoreLag};

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn the_screen_tells_state_and_lag() {
        let source = SourceStatus {
            name: "default".into(),
            state: SourceState::Streaming.into(),
            state_since: at(900),
            server: Some(Server {
                address: "db:6379".into(),
                kind: "redis".into(),
                version: "7.0.15".into(),
                clock_offset: Some(prost_types::Duration { seconds: 0, nanos: -200_000_000 }),
                ..Server::default()
            }),
            history: "01H".into(),
            term: 2,
            received: Some(Watermark { offset: 120, reached_at: at(999) }),
            server_lag: Some(ServerLag {
                bytes_behind: 5,
                time_behind: Some(prost_types::Duration::default()),
                ..ServerLag::default()
            }),
            store_lag: Some(StoreLag { bytes_behind: 20, time_behind: None }),
            spool: Some(Spool { used_bytes: 1024, limit_bytes: 4096 }),
            last_snapshot: Some(Snapshot {
                id: "01S".into(),
                position: Some(Position { history: "01H".into(), offset: 7 }),
                taken_at: at(-89_000),
                ..Snapshot::default()
            }),
            ..SourceStatus::default()
        };
        let agent = AgentInfo { version: "1.0".into(), host: "here".into(), started_at: at(1), store: "s3://b".into() };
        let text = text(&agent, &[source], jiff::Timestamp::from_second(1_000).unwrap()).unwrap();
        let expected = "\
redwind 1.0 on here, up 16 min 39 s, writing to s3://b

source default: streaming for 1 min 40 s
  server          db:6379: redis 7.0.15, clock -0.2 s
  history         01H, written in term 2
  received        120, 1.0 s ago
  spooled         nothing yet
  stored          nothing yet
  durable         nothing yet
  behind server   5 B, 0.0 s
  behind store    20 B, time unknown: no link
  complete until  unknown
  spool           1.00 KiB of 4.00 KiB
  last snapshot   01S at offset 7, 1 d 1 h ago
  gaps            0";
        assert_eq!(text, expected);
    }
}

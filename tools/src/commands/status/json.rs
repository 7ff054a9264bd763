//! Status as JSON, on which scripts rely: keys are added, never changed.

use redwind_proto::v1::{
    AgentInfo, Blur, Gap, Position, Server, ServerLag, Snapshot, SnapshotProgress, SourceState, SourceStatus, Spool,
    StoreLag, Watermark,
};
use serde_json::{Value, json};

/// The document: the agent and its sources.
pub(super) fn document(agent: &AgentInfo, sources: &[SourceStatus]) -> Value {
    json!({
        "agent": {
            "version": agent.version,
            "host": agent.host,
            "started_at": instant(agent.started_at),
            "store": agent.store,
        },
        "sources": sources.iter().map(source).collect::<Vec<_>>(),
    })
}

fn source(source: &SourceStatus) -> Value {
    json!({
        "name": source.name,
        "archive": text(&source.archive),
        "state": state(source),
        "state_since": instant(source.state_since),
        "reason": text(&source.reason),
        "server": source.server.as_ref().map(server),
        "history": text(&source.history),
        "term": source.term,
        "replication_id": text(&source.replication_id),
        "received": source.received.as_ref().map(watermark),
        "spooled": source.spooled.as_ref().map(watermark),
        "stored": source.stored.as_ref().map(watermark),
        "durable": source.durable.as_ref().map(watermark),
        "server_lag": source.server_lag.as_ref().map(server_lag),
        "store_lag": source.store_lag.as_ref().map(store_lag),
        "known_complete_until": instant(source.known_complete_until),
        "spool": source.spool.as_ref().map(spool),
        "store_error": text(&source.store_error),
        "last_snapshot": source.last_snapshot.as_ref().map(snapshot),
        "snapshot_in_progress": source.snapshot_in_progress.as_ref().map(progress),
        "next_snapshot_at": instant(source.next_snapshot_at),
        "snapshot_error": text(&source.snapshot_error),
        "gaps": source.gaps,
        "last_gap": source.last_gap.as_ref().map(gap),
        "blur_in_progress": source.blur_in_progress.as_ref().map(blur),
        "standby_armed": source.standby_armed,
    })
}

/// The state's name in lower case, without the enum's; `unspecified` is one that this program is too
/// old to know.
pub(super) fn state(source: &SourceStatus) -> String {
    let state = SourceState::try_from(source.state).unwrap_or(SourceState::Unspecified);
    state.as_str_name().trim_start_matches("SOURCE_STATE_").to_lowercase()
}

fn server(server: &Server) -> Value {
    let module = |module: &redwind_proto::v1::Module| json!({ "name": module.name, "version": module.version });
    json!({
        "address": server.address,
        "tls": server.tls,
        "kind": text(&server.kind),
        "version": text(&server.version),
        "is_replica": server.is_replica,
        "modules": server.modules.iter().map(module).collect::<Vec<_>>(),
        "clock_offset_seconds": server.clock_offset.map(seconds),
    })
}

fn watermark(mark: &Watermark) -> Value {
    json!({ "offset": mark.offset, "reached_at": instant(mark.reached_at) })
}

fn server_lag(lag: &ServerLag) -> Value {
    json!({
        "server_offset": lag.server_offset,
        "observed_at": instant(lag.observed_at),
        "bytes_behind": lag.bytes_behind,
        "seconds_behind": lag.time_behind.map(seconds),
    })
}

fn store_lag(lag: &StoreLag) -> Value {
    json!({ "bytes_behind": lag.bytes_behind, "seconds_behind": lag.time_behind.map(seconds) })
}

fn spool(spool: &Spool) -> Value {
    json!({ "used_bytes": spool.used_bytes, "limit_bytes": spool.limit_bytes })
}

/// A snapshot; `redwind snapshot --json` prints the same.
pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id,
        "position": snapshot.position.as_ref().map(position),
        "taken_at": instant(snapshot.taken_at),
        "completed_at": instant(snapshot.completed_at),
        "rdb_bytes": snapshot.rdb_bytes,
        "stored_bytes": snapshot.stored_bytes,
    })
}

fn progress(progress: &SnapshotProgress) -> Value {
    json!({
        "id": progress.id,
        "position": progress.position.as_ref().map(position),
        "started_at": instant(progress.started_at),
        "received_bytes": progress.received_bytes,
        "total_bytes": progress.total_bytes,
        "stored_bytes": progress.stored_bytes,
    })
}

fn position(position: &Position) -> Value {
    json!({ "history": position.history, "offset": position.offset })
}

fn gap(gap: &Gap) -> Value {
    json!({ "from": instant(gap.from), "until": instant(gap.until), "cause": gap.cause, "history": gap.history })
}

fn blur(blur: &Blur) -> Value {
    json!({ "from": instant(blur.from), "from_offset": blur.from_offset })
}

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Microseconds are what the agent measures.
fn instant(time: Option<prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    jiff::Timestamp::new(time.seconds, time.nanos).ok().map(|time| format!("{time:.6}"))
}

#[expect(clippy::cast_precision_loss, reason = "lags are far below 2^53 seconds")]
fn seconds(span: prost_types::Duration) -> f64 {
    span.seconds as f64 + f64::from(span.nanos) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let status = SourceStatus {
            name: "default".into(),
            state: SourceState::SpoolFull.into(),
            store_lag: Some(StoreLag { bytes_behind: 3, time_behind: None }),
            server: Some(Server {
                clock_offset: Some(prost_types::Duration { seconds: -1, nanos: -500_000_000 }),
                ..Server::default()
            }),
            ..SourceStatus::default()
        };
        let json = document(&AgentInfo::default(), &[status]);
        let source = &json["sources"][0];
        assert_eq!(source["state"], "spool_full");
        assert_eq!(source["store_lag"], json!({ "bytes_behind": 3, "seconds_behind": null }));
        assert_eq!(source["server"]["clock_offset_seconds"], json!(-1.5));
        for key in
            ["durable", "server_lag", "reason", "history", "known_complete_until", "last_snapshot", "standby_armed"]
        {
            assert!(source[key].is_null(), "{key}");
        }
    }

    #[test]
    fn instants_are_rfc_3339_in_utc() {
        let time = prost_types::Timestamp { seconds: 1_795_000_000, nanos: 250_000_000 };
        assert_eq!(instant(Some(time)).as_deref(), Some("2026-11-18T11:06:40.250000Z"));
        assert_eq!(instant(Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })), None);
    }
}

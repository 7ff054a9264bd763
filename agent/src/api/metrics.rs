//! Prometheus metrics: what each means, and those that are read off the source's state.
//!
//! Counters and histograms are kept where things happen; the gauges here are set when somebody
//! scrapes, from the same state that gRPC tells. What is not known is `NaN`, never zero.

use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use prost_types::{Duration as Span, Timestamp as Instant};
use redwind_proto::v1::{SourceState, SourceStatus, Watermark};

use super::status::SourceView;

/// How often histograms must be tidied, or they grow.
pub(super) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const STORE_SECONDS: &str = "redwind_store_request_seconds";
const STORE_SECONDS_BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

const STATES: [(SourceState, &str); 8] = [
    (SourceState::Connecting, "connecting"),
    (SourceState::Syncing, "syncing"),
    (SourceState::Streaming, "streaming"),
    (SourceState::Down, "down"),
    (SourceState::SpoolFull, "spool_full"),
    (SourceState::Fenced, "fenced"),
    (SourceState::Stopping, "stopping"),
    (SourceState::Standby, "standby"),
];

/// Why metrics cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep metrics")]
pub struct MetricsError(#[from] BuildError);

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts to keep metrics. Once per process.
    ///
    /// # Errors
    /// On the second call.
    pub fn install() -> Result<Self, MetricsError> {
        let handle = builder()?.install_recorder()?;
        describe();
        Ok(Self(handle))
    }

    /// Tidies; due every [`UPKEEP_INTERVAL`].
    pub(super) fn upkeep(&self) {
        self.0.run_upkeep();
    }

    /// The text that Prometheus reads, with the state of `view` as it is now.
    pub(super) fn render(&self, view: Option<&SourceView>) -> String {
        if let Some(view) = view {
            set(&view.status());
            let watches = view.watches();
            let link = watches.link.borrow();
            count(view.name(), "redwind_full_resyncs_total", link.full_resyncs);
            count(view.name(), "redwind_partial_resyncs_total", link.partial_resyncs);
        }
        self.0.render()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let matcher = Matcher::Full(STORE_SECONDS.to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(matcher, &STORE_SECONDS_BUCKETS)
}

fn describe() {
    use Unit::{Bytes, Count, Seconds};
    for (name, unit, text) in [
        ("redwind_info", Count, "1; the label version tells the agent's release"),
        ("redwind_state", Count, "1 for the state that the source is in, 0 for the others"),
        ("redwind_term", Count, "The agent's term as the archive's writer"),
        ("redwind_server_offset", Bytes, "The server's end of the stream, when it was last asked"),
        ("redwind_received_offset", Bytes, "End of the stream read from the socket"),
        ("redwind_spooled_offset", Bytes, "End of the stream written to the spool"),
        ("redwind_stored_offset", Bytes, "End of the stream that is contiguous in the store"),
        ("redwind_durable_offset", Bytes, "End of the stream that can be restored; NaN before the first snapshot"),
        ("redwind_behind_server_bytes", Bytes, "Bytes of the server's stream not received; NaN without a link"),
        (
            "redwind_behind_server_seconds",
            Seconds,
            "Time for which bytes of the server have been missing; NaN without a link",
        ),
        ("redwind_behind_store_bytes", Bytes, "Bytes received that cannot be restored yet"),
        (
            "redwind_behind_store_seconds",
            Seconds,
            "Age of the oldest write that cannot be restored yet; NaN without a link",
        ),
        (
            "redwind_complete_until_timestamp_seconds",
            Seconds,
            "Until when everything that the source had sent is stored",
        ),
        ("redwind_last_snapshot_timestamp_seconds", Seconds, "Time of the newest complete snapshot"),
        ("redwind_last_snapshot_rdb_bytes", Bytes, "Length of the newest complete snapshot"),
        ("redwind_snapshot_received_bytes", Bytes, "Bytes received of the snapshot under way; NaN when none is"),
        ("redwind_spool_used_bytes", Bytes, "Bytes in the spool"),
        ("redwind_spool_limit_bytes", Bytes, "Bytes that the spool may take"),
        ("redwind_store_failing", Count, "1 while the store does not take what it is given"),
        ("redwind_clock_offset_seconds", Seconds, "The server's clock minus the agent's"),
        (
            "redwind_standby_armed",
            Count,
            "1 while standing by for a writer whose end would be noticed within seconds, 0 for another; else NaN",
        ),
    ] {
        describe_gauge!(name, unit, text);
    }
    for (name, unit, text) in [
        ("redwind_received_bytes_total", Bytes, "Bytes of stream read from the socket"),
        ("redwind_full_resyncs_total", Count, "Times that the log was taken up by a full resync"),
        ("redwind_partial_resyncs_total", Count, "Times that the log was taken up by a partial resync"),
        ("redwind_gaps_total", Count, "Times that a history could not be continued"),
        ("redwind_getacks_total", Count, "Requests of the server for an acknowledgement, which ask for a flush"),
        ("redwind_segments_stored_total", Count, "Segments stored"),
        ("redwind_segment_bytes_stored_total", Bytes, "Bytes of the segments stored, compressed"),
        ("redwind_store_requests_total", Count, "Requests to the store, by operation and outcome"),
        ("redwind_store_retries_total", Count, "Requests to the store that were tried again"),
        ("redwind_store_written_bytes_total", Bytes, "Bytes put to the store"),
        ("redwind_store_read_bytes_total", Bytes, "Bytes got from the store"),
    ] {
        describe_counter!(name, unit, text);
    }
    describe_histogram!(STORE_SECONDS, Seconds, "Time that requests to the store took, by operation");
}

fn set(status: &SourceStatus) {
    gauge!("redwind_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    for (state, name) in STATES {
        let is = i32::from(status.state == i32::from(state));
        gauge!("redwind_state", "source" => status.name.clone(), "state" => name).set(is);
    }
    let mark = |mark: &Option<Watermark>| mark.as_ref().map(|mark| number(mark.offset));
    let server_lag = status.server_lag.as_ref();
    let store_lag = status.store_lag.as_ref();
    let spool = status.spool.as_ref();
    let snapshot = status.last_snapshot.as_ref();
    for (name, value) in [
        ("redwind_term", Some(number(status.term))),
        ("redwind_server_offset", server_lag.map(|lag| number(lag.server_offset))),
        ("redwind_received_offset", mark(&status.received)),
        ("redwind_spooled_offset", mark(&status.spooled)),
        ("redwind_stored_offset", mark(&status.stored)),
        ("redwind_durable_offset", mark(&status.durable)),
        ("redwind_behind_server_bytes", server_lag.map(|lag| number(lag.bytes_behind))),
        ("redwind_behind_server_seconds", server_lag.and_then(|lag| lag.time_behind).map(seconds)),
        ("redwind_behind_store_bytes", store_lag.map(|lag| number(lag.bytes_behind))),
        ("redwind_behind_store_seconds", store_lag.and_then(|lag| lag.time_behind).map(seconds)),
        ("redwind_complete_until_timestamp_seconds", status.known_complete_until.map(since_epoch)),
        ("redwind_last_snapshot_timestamp_seconds", snapshot.and_then(|last| last.taken_at).map(since_epoch)),
        ("redwind_last_snapshot_rdb_bytes", snapshot.map(|last| number(last.rdb_bytes))),
        ("redwind_snapshot_received_bytes", status.snapshot_in_progress.as_ref().map(|now| number(now.received_bytes))),
        ("redwind_spool_used_bytes", spool.map(|spool| number(spool.used_bytes))),
        ("redwind_spool_limit_bytes", spool.map(|spool| number(spool.limit_bytes))),
        ("redwind_store_failing", Some(f64::from(u8::from(!status.store_error.is_empty())))),
        ("redwind_clock_offset_seconds", status.server.as_ref().and_then(|server| server.clock_offset).map(seconds)),
        ("redwind_standby_armed", status.standby_armed.map(|armed| f64::from(u8::from(armed)))),
    ] {
        gauge!(name, "source" => status.name.clone()).set(value.unwrap_or(f64::NAN));
    }
    count(&status.name, "redwind_gaps_total", status.gaps);
}

fn count(source: &str, name: &'static str, total: u64) {
    counter!(name, "source" => source.to_owned()).absolute(total);
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing but f64; exact up to 9 PB")]
fn number(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "spans are far below 2^53 seconds")]
fn seconds(span: Span) -> f64 {
    span.seconds as f64 + f64::from(span.nanos) / 1e9
}

fn since_epoch(time: Instant) -> f64 {
    seconds(Span { seconds: time.seconds, nanos: time.nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::tests::Parts;

    impl Metrics {
        /// Metrics that nothing in this process is counted in.
        pub(crate) fn detached() -> Self {
            Self(builder().unwrap().build_recorder().handle())
        }
    }

    /// The text that a scrape gets, without the process's recorder.
    fn scrape(view: &SourceView) -> String {
        let recorder = builder().unwrap().build_recorder();
        let metrics = Metrics(recorder.handle());
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            metrics.render(Some(view))
        })
    }

    #[test]
    fn what_is_not_known_is_not_a_number() {
        let parts = Parts::new();
        let text = scrape(&parts.view());
        for name in ["redwind_received_offset", "redwind_durable_offset", "redwind_behind_store_seconds"] {
            assert!(text.contains(&format!("{name}{{source=\"default\"}} NaN")), "{name}: {text}");
        }
        assert!(text.contains("redwind_state{source=\"default\",state=\"connecting\"} 1"), "{text}");
    }

    #[test]
    fn offsets_and_lags_are_those_of_the_status() {
        let parts = Parts::streaming();
        let text = scrape(&parts.view());
        for line in [
            "redwind_received_offset{source=\"default\"} 200",
            "redwind_durable_offset{source=\"default\"} 150",
            "redwind_behind_server_bytes{source=\"default\"} 50",
            "redwind_behind_store_bytes{source=\"default\"} 50",
            "redwind_spool_used_bytes{source=\"default\"} 10",
            "redwind_partial_resyncs_total{source=\"default\"} 2",
            "redwind_state{source=\"default\",state=\"streaming\"} 1",
            "# HELP redwind_durable_offset End of the stream that can be restored",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}

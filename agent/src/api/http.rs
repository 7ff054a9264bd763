//! HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever supervises the agent.
//!
//! - `/healthz`: 200 while the process lives.
//! - `/readyz`: 200 while the source is followed and what it sends becomes durable; else 503 and why.

use std::io;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use redwind_proto::v1::{SourceState, SourceStatus};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{Metrics, UPKEEP_INTERVAL};
use super::status::SourceView;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Debug)]
struct Shown {
    metrics: Metrics,
    view: Arc<OnceLock<Arc<SourceView>>>,
}

/// Serves the pages until `closing` is cancelled. `view` is filled when the archive has been opened.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    view: Arc<OnceLock<Arc<SourceView>>>,
    closing: CancellationToken,
) -> io::Result<()> {
    let upkeep = {
        let metrics = metrics.clone();
        async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                metrics.upkeep();
            }
        }
    };
    tokio::select! {
        ended = axum::serve(listener, router(metrics, view)).with_graceful_shutdown(closing.cancelled_owned()) => ended,
        () = upkeep => Ok(()),
    }
}

fn router(metrics: Metrics, view: Arc<OnceLock<Arc<SourceView>>>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness_page))
        .with_state(Shown { metrics, view })
}

async fn metrics_page(State(shown): State<Shown>) -> impl IntoResponse {
    let text = shown.metrics.render(shown.view.get().map(Arc::as_ref));
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text)
}

async fn readiness_page(State(shown): State<Shown>) -> (StatusCode, String) {
    let obstacle = match shown.view.get() {
        Some(view) => obstacle(&view.status()),
        None => Some("the agent is opening the archive".to_owned()),
    };
    match obstacle {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(obstacle) => (StatusCode::SERVICE_UNAVAILABLE, format!("{obstacle}\n")),
    }
}

/// What keeps writes from becoming durable, if anything.
fn obstacle(status: &SourceStatus) -> Option<String> {
    let state = SourceState::try_from(status.state).unwrap_or(SourceState::Unspecified);
    let obstacle = match state {
        SourceState::Streaming if status.store_error.is_empty() => return None,
        SourceState::Streaming => return Some(format!("the store takes nothing: {}", status.store_error)),
        SourceState::Syncing => "the first snapshot is not complete, so that nothing can be restored yet",
        SourceState::Connecting | SourceState::Unspecified => "connecting to the source",
        SourceState::Down => "no link to the source",
        SourceState::SpoolFull => "the link is closed",
        SourceState::Fenced => "fenced: another agent writes the archive",
        SourceState::Stopping => "the agent stops",
    };
    Some(if status.reason.is_empty() { obstacle.to_owned() } else { format!("{obstacle}: {}", status.reason) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::tests::Parts;
    use crate::source::Phase;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn get(address: std::net::SocketAddr, page: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_pages_are_served_from_before_the_archive_is_open_until_it_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (view, closing) = (Arc::new(OnceLock::new()), CancellationToken::new());
        let server = tokio::spawn(serve(listener, Metrics::detached(), Arc::clone(&view), closing.clone()));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let early = get(address, "/readyz").await;
        assert!(early.starts_with("HTTP/1.1 503") && early.ends_with("the agent is opening the archive\n"), "{early}");
        let parts = Parts::streaming();
        view.set(Arc::new(parts.view())).unwrap();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains(PROMETHEUS_TEXT));
        assert!(get(address, "/nonsense").await.starts_with("HTTP/1.1 404"));
        closing.cancel();
        server.await.unwrap().unwrap();
    }

    #[test]
    fn ready_is_when_writes_become_durable() {
        let parts = Parts::new();
        let obstacle = || obstacle(&parts.view().status());
        assert_eq!(obstacle().as_deref(), Some("connecting to the source"));
        parts.stream();
        assert_eq!(obstacle(), None);
        parts.progress.send_modify(|progress| progress.durable = None);
        assert!(obstacle().unwrap().starts_with("the first snapshot is not complete"));
        let phase = Phase::Down { reason: "gone".into(), retry_in: Duration::ZERO };
        parts.link.send_modify(|link| link.phase = phase);
        assert_eq!(obstacle().as_deref(), Some("no link to the source: gone"));
        parts.stream();
        parts.progress.send_modify(|progress| progress.store_error = Some("503".into()));
        assert_eq!(obstacle().as_deref(), Some("the store takes nothing: 503"));
        parts.stopping.cancel();
        assert_eq!(obstacle().as_deref(), Some("the agent stops"));
    }
}

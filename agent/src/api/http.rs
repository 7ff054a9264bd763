//! HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever supervises the agent.
//!
//! - `/metrics`: for readers; 401 or 403 for others, where a token or a certificate is asked for.
//! - `/healthz`: 200 while the process lives.
//! - `/readyz`: 200 while the source is followed and what it sends becomes durable; else 503, and why, to
//!   readers.

use std::io;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use redwind_proto::v1::{SourceState, SourceStatus};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Peer, Protocol, Refusal};
use super::door::Door;
use super::metrics::{Metrics, UPKEEP_INTERVAL};
use super::status::SourceView;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Debug)]
struct Shown {
    access: Access,
    metrics: Metrics,
    view: Arc<OnceLock<Arc<SourceView>>>,
}

/// Serves the pages until `closing` is cancelled. `view` is filled when the archive has been opened.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    access: Access,
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
    let door = Door::new(listener, access.clone(), Protocol::Http1);
    let pages = router(Shown { access, metrics, view }).into_make_service_with_connect_info::<Peer>();
    tokio::select! {
        ended = axum::serve(door, pages).with_graceful_shutdown(closing.cancelled_owned()) => ended,
        () = upkeep => Ok(()),
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .route("/readyz", get(readiness_page))
        .with_state(shown)
}

/// That whoever asks may read, or why not.
struct Admission(Result<(), Refusal>);

impl FromRequestParts<Shown> for Admission {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, shown: &Shown) -> Result<Self, Self::Rejection> {
        let ConnectInfo(peer) = parts.extensions.get().expect("every connection comes through the door");
        let authorization = parts.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        Ok(Self(shown.access.judge(peer, authorization).map(drop)))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = format!("{self}\n");
        match self {
            Self::NoCertificate => (StatusCode::FORBIDDEN, text).into_response(),
            Self::NoToken | Self::UnknownToken => {
                (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
            }
        }
    }
}

async fn metrics_page(Admission(admitted): Admission, State(shown): State<Shown>) -> Result<Response, Refusal> {
    admitted?;
    let text = shown.metrics.render(shown.view.get().map(Arc::as_ref));
    Ok(([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response())
}

/// Anybody may ask; that somebody known asks spares it being cut off.
async fn health_page(_: Admission) -> &'static str {
    "ok\n"
}

async fn readiness_page(Admission(admitted): Admission, State(shown): State<Shown>) -> (StatusCode, String) {
    let obstacle = match shown.view.get() {
        Some(view) => obstacle(&view.status()),
        None => Some("the agent is opening the archive".to_owned()),
    };
    match obstacle {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(_) if admitted.is_err() => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
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
        SourceState::Standby => "standing by",
    };
    Some(if status.reason.is_empty() { obstacle.to_owned() } else { format!("{obstacle}: {}", status.reason) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::tests::write_identity;
    use crate::api::status::tests::Parts;
    use crate::config::{AccessConfig, TokenSource};
    use crate::source::Phase;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
        let access = Access::load(&AccessConfig::default()).await.unwrap().0;
        let server = tokio::spawn(serve(listener, access, Metrics::detached(), Arc::clone(&view), closing.clone()));
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

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_come_to_the_point_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (view, closing) = (Arc::default(), CancellationToken::new());
        let access = Access::load(&AccessConfig::default()).await.unwrap().0;
        tokio::spawn(serve(listener, access, Metrics::detached(), view, closing));
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await.unwrap();
        let mut answer = Vec::new();
        // Time passes when nothing else happens.
        let _end = stranger.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test]
    async fn without_a_token_only_health_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = TokenSource::Given("reader-0123456789abcdef".to_owned().into());
        let config = AccessConfig { reader: Some(token), ..AccessConfig::default() };
        let access = Access::load(&config).await.unwrap().0;
        let closing = CancellationToken::new();
        tokio::spawn(serve(listener, access, Metrics::detached(), Arc::default(), closing));
        let refused = get(address, "/metrics").await;
        assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("www-authenticate: Bearer"), "{refused}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.ends_with("\r\n\r\nnot ready\n"));
        let bearer = "HTTP/1.1\r\nAuthorization: Bearer reader-0123456789abcdef\r\nX:";
        let with_token = |page: &str| format!("{page} {bearer}");
        assert!(get(address, &with_token("/metrics")).await.starts_with("HTTP/1.1 200"));
        let told = get(address, &with_token("/readyz")).await;
        assert!(told.ends_with("the agent is opening the archive\n"), "{told}");
    }

    /// A connection inside TLS, with the client's certificate or without.
    async fn encrypted(
        address: std::net::SocketAddr,
        folder: &std::path::Path,
        known: bool,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let pem = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let certificate = || CertificateDer::from_pem_slice(&pem("cert.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        let config = if known {
            let key = PrivateKeyDer::from_pem_slice(&pem("key.pem")).unwrap();
            builder.with_client_auth_cert(vec![certificate()], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(address).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    }

    async fn get_encrypted(address: std::net::SocketAddr, folder: &std::path::Path, known: bool, page: &str) -> String {
        let mut stream = encrypted(address, folder, known).await;
        let request = format!("GET {page} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_withdrawn_authority_opens_no_connection_made_before_either() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = write_identity(folder.path());
        let (access, mut keeper) = Access::load(&config).await.unwrap();
        tokio::spawn(serve(listener, access, Metrics::detached(), Arc::default(), CancellationToken::new()));
        let mut stream = encrypted(address, folder.path(), true).await;
        let ca = config.client_ca.unwrap();
        let first = std::fs::read_to_string(&ca).unwrap();
        let other = tempfile::tempdir().unwrap();
        let second = std::fs::read_to_string(write_identity(other.path()).client_ca.unwrap()).unwrap();
        for (authorities, expected) in [
            (Some(first.clone()), "HTTP/1.1 200"),
            (Some(format!("{first}{second}")), "HTTP/1.1 200"),
            (Some(second), "HTTP/1.1 403"),
            (Some(first), "HTTP/1.1 200"),
            (Some(String::new()), "HTTP/1.1 403"),
            (None, "HTTP/1.1 403"),
        ] {
            match &authorities {
                Some(authorities) => std::fs::write(&ca, authorities).unwrap(),
                None => std::fs::remove_file(&ca).unwrap(),
            }
            let _told = keeper.look_again().await;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n").await.unwrap();
            let mut answer = [0; 4096];
            let length = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(answer.starts_with(expected), "{authorities:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn inside_tls_a_certificate_opens_what_health_does_not_need() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let access = Access::load(&write_identity(folder.path())).await.unwrap().0;
        tokio::spawn(serve(listener, access, Metrics::detached(), Arc::default(), CancellationToken::new()));
        for (page, known, expected) in [
            ("/metrics", true, "HTTP/1.1 200"),
            ("/metrics", false, "HTTP/1.1 403"),
            ("/healthz", false, "HTTP/1.1 200"),
        ] {
            let answer = get_encrypted(address, folder.path(), known, page).await;
            assert!(answer.starts_with(expected), "{page}: {answer}");
        }
        // Without TLS there is no answer at all.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: agent\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _end = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "answered without TLS");
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

//! The service `redwind.v1.Agent`, with the standard health and reflection services beside it.
//!
//! Only this module knows gRPC's status codes; `agent.proto` says which call ends with which.

mod durable;
mod snapshot;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use redwind_proto::v1::agent_server::{Agent, AgentServer};
use redwind_proto::v1::{
    AgentInfo, GetStatusRequest, GetStatusResponse, TakeSnapshotRequest, TakeSnapshotResponse, WaitDurableRequest,
    WaitDurableResponse, WatchStatusRequest, WatchStatusResponse,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::access::{Access, Caller, Peer, Protocol, Refusal};
use super::door::Door;
use super::publisher::StatusFeed;
use super::status::SourceView;
use crate::audit::AuditLog;
use crate::config::Role;
use crate::source::SnapshotRequest;

const WATCH_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Requests hold a name and a position.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Calls of one connection at a time.
const CALLS_MAX: u32 = 256;
/// A peer that does not answer to this is gone, and its calls with it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The source that the service tells of, and how it is asked for things.
#[derive(Clone, Debug)]
pub struct ServedSource {
    /// Its state.
    pub view: Arc<SourceView>,
    /// Its state as it changes.
    pub feed: StatusFeed,
    /// Makes the log reader hand over what it has read.
    pub flush: Arc<Notify>,
    /// Asks for a snapshot.
    pub snapshots: mpsc::Sender<SnapshotRequest>,
    /// Remembers who has asked for one.
    pub audit: AuditLog,
}

/// The service.
#[derive(Clone, Debug)]
pub struct AgentService {
    info: AgentInfo,
    source: Arc<OnceLock<ServedSource>>,
    closing: CancellationToken,
}

impl AgentService {
    /// A service that tells of `source` once that is filled, and ends its streams when `closing` is
    /// cancelled.
    #[must_use]
    pub fn new(info: AgentInfo, source: Arc<OnceLock<ServedSource>>, closing: CancellationToken) -> Self {
        Self { info, source, closing }
    }

    /// The source of that name, or the one that there is.
    fn source(&self, name: &str) -> Result<&ServedSource, Status> {
        let source = self.source.get().ok_or_else(|| Status::unavailable("the agent is opening the archive"))?;
        match name {
            "" => Ok(source),
            name if name == source.view.name() => Ok(source),
            name => Err(Status::not_found(format!("this agent follows {}, not {name:?}", source.view.name()))),
        }
    }
}

/// Serves on `listener` until the service's `closing` is cancelled and its calls have ended. Whether it is
/// healthy anybody may ask.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, access: Access, service: AgentService) -> io::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServer<AgentService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(redwind_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(io::Error::other)?;
    let closing = service.closing.clone();
    let closed = async move {
        closing.cancelled().await;
        health.set_not_serving::<AgentServer<AgentService>>().await;
    };
    let door = Door::new(listener, access.clone(), Protocol::Http2);
    let agent = AgentServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    let known_only = {
        let access = access.clone();
        move |request| admit(&access, request)
    };
    let anybody = move |request: Request<()>| {
        // Only to see who it is, which spares it being cut off.
        let _stranger = judge(&access, &request);
        Ok(request)
    };
    Server::builder()
        .max_concurrent_streams(Some(CALLS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .add_service(InterceptedService::new(agent, known_only.clone()))
        .add_service(InterceptedService::new(health_service, anybody))
        .add_service(InterceptedService::new(reflection, known_only))
        .serve_with_incoming_shutdown(door.visitors(), closed)
        .await
        .map_err(io::Error::other)
}

/// Lets a request in together with who asks.
fn admit(access: &Access, mut request: Request<()>) -> Result<Request<()>, Status> {
    let caller = judge(access, &request).map_err(|refusal| Status::unauthenticated(refusal.to_string()))?;
    request.extensions_mut().insert(caller);
    Ok(request)
}

fn judge(access: &Access, request: &Request<()>) -> Result<Caller, Refusal> {
    let peer = request.extensions().get::<Peer>().expect("every connection comes through the door");
    let authorization = request.metadata().get("authorization").map(|value| value.as_bytes());
    access.judge(peer, authorization)
}

/// The operator who asks, or the refusal of anybody else.
fn operator<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().filter(|caller| caller.role >= Role::Operator);
    caller.copied().ok_or_else(|| Status::permission_denied("only an operator may ask for snapshots, not a reader"))
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let source = self.source(request.get_ref().source())?;
        let sources = vec![source.view.status()];
        Ok(Response::new(GetStatusResponse { agent: Some(self.info.clone()), sources }))
    }

    type WatchStatusStream = Answers<WatchStatusResponse>;

    async fn watch_status(
        &self,
        request: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let request = request.into_inner();
        let source = self.source(request.source())?;
        let interval = match request.min_interval {
            Some(interval) => duration("min_interval", interval)?.max(WATCH_INTERVAL_MIN),
            None => WATCH_INTERVAL_DEFAULT,
        };
        let watch = StatusWatch {
            info: self.info.clone(),
            feed: source.feed.clone(),
            closing: self.closing.clone(),
            interval,
            stage: Stage::First,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(watch, StatusWatch::next))))
    }

    async fn wait_durable(
        &self,
        request: Request<WaitDurableRequest>,
    ) -> Result<Response<WaitDurableResponse>, Status> {
        let request = request.into_inner();
        let source = self.source(&request.source)?;
        durable::wait(source, &request, &self.closing).await.map(Response::new)
    }

    type TakeSnapshotStream = Answers<TakeSnapshotResponse>;

    async fn take_snapshot(
        &self,
        request: Request<TakeSnapshotRequest>,
    ) -> Result<Response<Self::TakeSnapshotStream>, Status> {
        let caller = operator(&request)?;
        let source = self.source(&request.get_ref().source)?;
        snapshot::take(source.clone(), caller, self.closing.clone()).map(Response::new)
    }
}

fn duration(field: &str, value: prost_types::Duration) -> Result<Duration, Status> {
    Duration::try_from(value).map_err(|_| Status::invalid_argument(format!("{field} is negative or malformed")))
}

fn stopping() -> Status {
    Status::unavailable("the agent stops")
}

/// One call of `WatchStatus`.
struct StatusWatch {
    info: AgentInfo,
    feed: StatusFeed,
    closing: CancellationToken,
    interval: Duration,
    stage: Stage,
}

enum Stage {
    First,
    Following,
    Ended,
}

impl StatusWatch {
    /// The first answer at once, the others when something has changed, and the interval has passed.
    async fn next(mut self) -> Option<(Result<WatchStatusResponse, Status>, Self)> {
        match self.stage {
            Stage::Ended => return None,
            Stage::First => self.stage = Stage::Following,
            Stage::Following => {
                let news = async {
                    tokio::time::sleep(self.interval).await;
                    self.feed.changed().await.is_ok()
                };
                let news = tokio::select! {
                    biased;
                    () = self.closing.cancelled() => false,
                    news = news => news,
                };
                if !news {
                    self.stage = Stage::Ended;
                    return Some((Err(stopping()), self));
                }
            }
        }
        let status = self.feed.borrow_and_update().as_ref().clone();
        Some((Ok(WatchStatusResponse { agent: Some(self.info.clone()), sources: vec![status] }), self))
    }
}

#[cfg(test)]
mod tests;

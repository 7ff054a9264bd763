use super::*;
use crate::api::Publisher;
use crate::api::access::Access;
use crate::api::status::tests::{Parts, history};
use crate::config::AccessConfig;
use crate::journal::SnapshotProgress;
use redwind_archive::position::{HistoryId, Offset};
use redwind_proto::v1::agent_client::AgentClient;
use redwind_proto::v1::take_snapshot_response::State;
use redwind_proto::v1::{Position, SourceState};
use tokio_stream::StreamExt as _;
use tonic::Code;
use ulid::Ulid;

struct Served {
    _audit: crate::audit::AuditWriter,
    parts: Parts,
    service: AgentService,
    flush: Arc<Notify>,
    requests: mpsc::Receiver<SnapshotRequest>,
}

/// A service over stubbed parts, with its publisher.
fn serve_parts(parts: Parts) -> Served {
    let view = Arc::new(parts.view());
    let publisher = Publisher::new(Arc::clone(&view));
    let flush = Arc::new(Notify::new());
    let (snapshots, requests) = mpsc::channel(1);
    let store = redwind_archive::store::Store::over(Arc::new(object_store::memory::InMemory::new()), "memory://");
    let (audit, audit_writer) = AuditLog::new(store.source(&"default".parse().unwrap()), Ulid::from(1));
    let source = ServedSource { view, feed: publisher.feed(), flush: Arc::clone(&flush), snapshots, audit };
    let closing = CancellationToken::new();
    tokio::spawn(publisher.run(closing.clone()));
    let service = AgentService::new(AgentInfo::default(), Arc::new(OnceLock::from(source)), closing);
    Served { _audit: audit_writer, parts, service, flush, requests }
}

impl Served {
    async fn wait(&self, request: WaitDurableRequest) -> Result<WaitDurableResponse, Status> {
        self.service.wait_durable(Request::new(request)).await.map(Response::into_inner)
    }
}

/// A request for a snapshot, as the door lets it through.
fn asked_by(role: Role) -> Request<TakeSnapshotRequest> {
    let mut request = Request::new(TakeSnapshotRequest::default());
    request.extensions_mut().insert(Caller { role, address: ([127, 0, 0, 1], 9).into() });
    request
}

fn at(offset: u64) -> WaitDurableRequest {
    WaitDurableRequest { position: Some(Position { history: String::new(), offset }), ..WaitDurableRequest::default() }
}

fn within(mut request: WaitDurableRequest, millis: i32) -> WaitDurableRequest {
    request.timeout = Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    request
}

#[tokio::test]
async fn an_agent_that_starts_and_a_source_that_it_does_not_follow_are_told_apart() {
    let starting = AgentService::new(AgentInfo::default(), Arc::default(), CancellationToken::new());
    let error = starting.get_status(Request::new(GetStatusRequest::default())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let served = serve_parts(Parts::streaming());
    let request = |name: &str| Request::new(GetStatusRequest { source: Some(name.into()) });
    assert_eq!(served.service.get_status(request("other")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(served.service.get_status(request("default")).await.unwrap().into_inner().sources.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_at_once_and_then_what_changes() {
    let served = serve_parts(Parts::new());
    let mut watch =
        served.service.watch_status(Request::new(WatchStatusRequest::default())).await.unwrap().into_inner();
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.sources[0].state(), SourceState::Connecting);
    served.parts.stream();
    let began = tokio::time::Instant::now();
    let second = watch.next().await.unwrap().unwrap();
    assert_eq!(second.sources[0].state(), SourceState::Streaming);
    assert!(began.elapsed() >= WATCH_INTERVAL_DEFAULT);
    served.service.closing.cancel();
    let mut last = watch.next().await;
    while matches!(last, Some(Ok(_))) {
        last = watch.next().await;
    }
    assert_eq!(last.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_negative_interval_is_refused() {
    let served = serve_parts(Parts::streaming());
    let min_interval = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let request = Request::new(WatchStatusRequest { min_interval, ..WatchStatusRequest::default() });
    assert_eq!(served.service.watch_status(request).await.err().unwrap().code(), Code::InvalidArgument);
    let error = served.wait(WaitDurableRequest { timeout: min_interval, ..at(1) }).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn waiting_asks_for_a_flush_and_ends_when_the_position_is_durable() {
    let served = serve_parts(Parts::streaming());
    assert_eq!(served.wait(at(150)).await.unwrap().durable.unwrap().offset, 150);
    let flushed = async {
        served.flush.notified().await;
        served.parts.progress.send_modify(|progress| {
            progress.durable = Some(Offset(200));
        });
    };
    // Without a position: what has been received by now.
    let (answer, ()) = tokio::join!(served.wait(WaitDurableRequest::default()), flushed);
    assert_eq!(answer.unwrap().durable.unwrap(), Position { history: history().to_string(), offset: 200 });
}

#[tokio::test(start_paused = true)]
async fn no_flush_is_asked_for_before_the_position_has_been_received() {
    let served = serve_parts(Parts::streaming());
    let error = served.wait(within(at(1_000), 500)).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    let unasked = tokio::time::timeout(Duration::from_millis(1), served.flush.notified()).await;
    assert!(unasked.is_err());
    let received = async {
        served.parts.received.raise(Offset(1_000), served.parts.clock.now());
        served.flush.notified().await;
    };
    let (error, ()) = tokio::join!(served.wait(within(at(1_000), 500)), received);
    assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn what_cannot_become_durable_is_told_by_its_code() {
    let served = serve_parts(Parts::new());
    assert_eq!(served.wait(at(1)).await.unwrap_err().code(), Code::Unavailable);
    served.parts.stream();
    let of = |history: &str| WaitDurableRequest {
        position: Some(Position { history: history.into(), offset: 1 }),
        ..WaitDurableRequest::default()
    };
    assert_eq!(served.wait(of("nonsense")).await.unwrap_err().code(), Code::InvalidArgument);
    let other = Ulid::from(8).to_string();
    assert_eq!(served.wait(of(&other)).await.unwrap_err().code(), Code::OutOfRange);
    let ended = async {
        served.flush.notified().await;
        served.parts.progress.send_modify(|progress| progress.history = Some(HistoryId(Ulid::from(8))));
    };
    let (error, ()) = tokio::join!(served.wait(at(200)), ended);
    assert_eq!(error.unwrap_err().code(), Code::Aborted);
    served.parts.stream();
    served.parts.progress.send_modify(|progress| progress.fenced = true);
    assert_eq!(served.wait(at(200)).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn waiting_ends_with_the_agent() {
    let served = serve_parts(Parts::streaming());
    let closing = served.service.closing.clone();
    let (error, ()) = tokio::join!(served.wait(at(200)), async { closing.cancel() });
    assert_eq!(error.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_snapshot_needs_a_link_and_the_archive() {
    let served = serve_parts(Parts::new());
    let take = || served.service.take_snapshot(asked_by(Role::Operator));
    assert_eq!(take().await.err().unwrap().code(), Code::Unavailable);
    served.parts.progress.send_modify(|progress| progress.fenced = true);
    assert_eq!(take().await.err().unwrap().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn only_an_operator_may_ask_for_a_snapshot() {
    let served = serve_parts(Parts::streaming());
    for request in [asked_by(Role::Reader), Request::new(TakeSnapshotRequest::default())] {
        assert_eq!(served.service.take_snapshot(request).await.err().unwrap().code(), Code::PermissionDenied);
    }
    assert!(served.service.take_snapshot(asked_by(Role::Operator)).await.is_ok());
}

#[tokio::test]
async fn a_snapshot_that_fails_says_why() {
    let mut served = serve_parts(Parts::streaming());
    let answers = served.service.take_snapshot(asked_by(Role::Operator)).await.unwrap();
    let mut answers = answers.into_inner();
    let request = served.requests.recv().await.unwrap();
    request.reply.send(Err("the fork failed".into())).unwrap();
    let mut last = answers.next().await.unwrap();
    while last.is_ok() {
        last = answers.next().await.unwrap();
    }
    let error = last.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Aborted, "the fork failed"));
}

#[tokio::test]
async fn a_snapshot_under_way_is_followed_instead_of_asking_for_another() {
    let mut served = serve_parts(Parts::streaming());
    let id = Ulid::from(9);
    let running = SnapshotProgress {
        id,
        started: served.parts.clock.now(),
        position: None,
        received_bytes: 5,
        total_bytes: None,
        stored_bytes: 0,
    };
    served.parts.snapshots.send_modify(|snapshots| snapshots.running = Some(running));
    let answers = served.service.take_snapshot(asked_by(Role::Operator)).await.unwrap();
    let mut answers = answers.into_inner();
    let State::Progress(progress) = answers.next().await.unwrap().unwrap().state.unwrap() else {
        panic!("no progress first");
    };
    assert_eq!((progress.id, progress.received_bytes), (id.to_string(), 5));
    served.parts.snapshots.send_modify(|snapshots| {
        snapshots.running = None;
        snapshots.last_error = Some("the connection was lost".into());
    });
    let error = answers.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Aborted, "the connection was lost"));
    assert!(served.requests.try_recv().is_err());
}

#[tokio::test]
async fn it_is_served_with_health_and_reflection_until_it_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = serve_parts(Parts::streaming());
    let closing = served.service.closing.clone();
    let access = Access::load(&AccessConfig::default()).await.unwrap().0;
    let server = tokio::spawn(serve(listener, access, served.service.clone()));
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let status = AgentClient::new(channel.clone()).get_status(GetStatusRequest::default()).await.unwrap();
    assert_eq!(status.into_inner().sources[0].state(), SourceState::Streaming);
    let request = tonic_health::pb::HealthCheckRequest { service: "redwind.v1.Agent".into() };
    let health = tonic_health::pb::health_client::HealthClient::new(channel.clone()).check(request).await.unwrap();
    assert_eq!(health.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let mut watch = AgentClient::new(channel).watch_status(WatchStatusRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    closing.cancel();
    let mut end = watch.message().await;
    while matches!(end, Ok(Some(_))) {
        end = watch.message().await;
    }
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    server.await.unwrap().unwrap();
}

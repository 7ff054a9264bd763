//! One agent process: build, run, stop.
//!
//! ```text
//! server ──► SourceFollower ──entries──► Journal ──► store
//!                 │  ▲                      │
//!                 │  └── flush, snapshot ── │ ── what WaitDurable and TakeSnapshot ask for
//!                 └──────── watches ────────┴──► SourceView ──► gRPC, HTTP
//! ```
//!
//! Before that it may take a while: the archive is claimed only once the source was found fit, and once it
//! is this agent's turn ([`Candidacy`]).
//!
//! Any part that ends by itself ends the agent: the spool makes a restart cheap. A first SIGTERM or
//! SIGINT stops in the order of the data's path: the follower hands over what it has read, the
//! journal stores it within its deadline, then the interfaces close. A second one ends at once.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redwind_archive::audit::AuditEvent;
use redwind_archive::store::Store;
use redwind_archive::time::{Clock, Timestamp};
use redwind_proto::v1::AgentInfo;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::grpc::{self, AgentService, ServedSource};
use crate::api::{Access, Metrics, Publisher, SourceView, Watches, http, instant};
use crate::audit::AuditLog;
use crate::config::{AgentConfig, SourceConfig, Succession};
use crate::error::AgentError;
use crate::journal::{self, Candidacy, Journal, JournalEnd, JournalError, Mandate};
use crate::source::{Scout, SourceError, SourceFollower};

const WORKER_THREADS: usize = 2;
/// Requests for snapshots that wait: one runs at a time, and it serves all that came before it.
const SNAPSHOT_REQUESTS: usize = 8;
/// How long calls may take to end when the agent closes.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Runs an agent until it is told to stop by SIGTERM or SIGINT, or cannot go on.
///
/// # Errors
/// [`AgentError::exit`] tells what the end means.
pub fn run(config: AgentConfig) -> Result<(), AgentError> {
    config.validate()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("redwind")
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { what: "start the runtime", source })?;
    let outcome = runtime.block_on(supervise(config));
    // Blocking work that a second signal cut short must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn supervise(config: AgentConfig) -> Result<(), AgentError> {
    let mut signals = Signals::new()?;
    let clock = Arc::new(Clock::new());
    let mut interfaces = Interfaces::open(&config, &clock).await?;
    let stop = CancellationToken::new();
    let started = tokio::select! {
        biased;
        name = signals.next() => {
            info!("{name} before this agent followed the source: stopped");
            Ok(None)
        }
        parts = Parts::start(&config, clock, &mut interfaces, stop.clone()) => parts.map(Some),
    };
    let app = match started {
        Ok(Some(parts)) => App { parts, stop: stop.clone(), interfaces },
        ended => {
            interfaces.close().await;
            return ended.map(drop);
        }
    };
    let told = async {
        let name = signals.next().await;
        info!("{name}: stopping; a second signal ends at once");
        stop.cancel();
        signals.next().await;
    };
    tokio::select! {
        biased;
        outcome = app.run() => outcome,
        () = told => Err(AgentError::Interrupted),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, AgentError> {
        let listen = |kind| signal(kind).map_err(|source| AgentError::System { what: "listen for signals", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The interfaces, which serve from the start on: an address that is taken ends the agent before it
/// touches the archive, and a supervisor that asks before this agent writes the archive gets an answer.
struct Interfaces {
    tasks: JoinSet<Result<(), AgentError>>,
    view: Arc<OnceLock<Arc<SourceView>>>,
    served: Arc<OnceLock<ServedSource>>,
    closing: CancellationToken,
}

impl Interfaces {
    async fn open(config: &AgentConfig, clock: &Clock) -> Result<Self, AgentError> {
        let mut interfaces = Self {
            tasks: JoinSet::new(),
            view: Arc::default(),
            served: Arc::default(),
            closing: CancellationToken::new(),
        };
        let (access, keeper) = Access::load(&config.access).await?;
        tokio::spawn(keeper.run(interfaces.closing.clone()));
        if let Some(listener) = listen("grpc", config.grpc).await? {
            let service = AgentService::new(
                info(config, clock.now()),
                Arc::clone(&interfaces.served),
                interfaces.closing.clone(),
            );
            let serving = grpc::serve(listener, access.clone(), service);
            interfaces.tasks.spawn(async { serving.await.map_err(|source| AgentError::Serve("gRPC", source)) });
        }
        if let Some(listener) = listen("http", config.http).await? {
            let (view, closing) = (Arc::clone(&interfaces.view), interfaces.closing.clone());
            let serving = http::serve(listener, access, Metrics::install()?, view, closing);
            interfaces.tasks.spawn(async { serving.await.map_err(|source| AgentError::Serve("HTTP", source)) });
        }
        Ok(interfaces)
    }

    /// Shows the source from now on.
    fn show(&self, source: ServedSource) {
        // Set once, by `Parts::start`.
        let _ = self.view.set(Arc::clone(&source.view));
        let _ = self.served.set(source);
    }

    /// Why one of them ended by itself; for ever while none does.
    async fn failed(&mut self) -> AgentError {
        match self.tasks.join_next().await {
            Some(end) => joined(end).err().unwrap_or(AgentError::Ended("an interface")),
            None => std::future::pending().await,
        }
    }

    /// Ends the calls, and the interfaces.
    async fn close(mut self) {
        self.closing.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // Whoever has not gone by then is cut off when the tasks are dropped.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, ended).await;
    }
}

async fn listen(option: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, AgentError> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| AgentError::Listen { option, address, source })
}

/// The parts on the data's path.
struct Parts {
    source: JoinHandle<Result<(), SourceError>>,
    journal: JoinHandle<Result<JournalEnd, JournalError>>,
    /// Ends the journal, once the follower has ended.
    drain: CancellationToken,
}

impl Parts {
    /// Opens the archive, waits for its turn to write it, and starts to follow the source: all the wiring,
    /// in the data's order.
    async fn start(
        config: &AgentConfig,
        clock: Arc<Clock>,
        interfaces: &mut Interfaces,
        stop: CancellationToken,
    ) -> Result<Self, AgentError> {
        let succession = config.succession;
        let config = config.source.clone();
        let store = Store::create(&config.store)?.source(&config.name);
        let candidacy = Candidacy::open(store.clone(), &config, Arc::clone(&clock)).await?;
        let (audit, audit_writer) = AuditLog::new(store, candidacy.archive());

        let scout = Scout::new(&config, Arc::clone(&clock));
        let flush = Arc::new(Notify::new());
        let (snapshots, requests) = mpsc::channel(SNAPSHOT_REQUESTS);
        let watches = Watches::before_writing(scout.link_state(), config.spool.bytes_max, stop.clone());
        let view = Arc::new(SourceView::new(&config, candidacy.archive(), Arc::clone(&clock), watches));
        let publisher = Publisher::new(Arc::clone(&view));
        let feed = publisher.feed();
        let served =
            ServedSource { view: Arc::clone(&view), feed, flush: Arc::clone(&flush), snapshots, audit: audit.clone() };
        interfaces.show(served);
        tokio::spawn(publisher.run(interfaces.closing.clone()));
        let closing = interfaces.closing.clone();
        interfaces.tasks.spawn(async {
            audit_writer.run(closing).await;
            Ok(())
        });

        let mandate = tokio::select! {
            won = win(&candidacy, &scout, succession) => won?,
            error = interfaces.failed() => return Err(error),
        };
        enter(&audit, mandate.takeover());
        let new_key = mandate.new_key(&config.recipients);
        let drain = CancellationToken::new();
        let (journal, tasks) = candidacy.start(mandate, drain.clone()).await?;
        enter(&audit, new_key);
        let journal = Arc::new(journal);
        announce(&config, &journal);
        let follower = SourceFollower::new(&config, Arc::clone(&journal), clock, requests, flush);
        view.switch(Watches {
            link: follower.link_state(),
            progress: journal.progress(),
            received: journal.received(),
            spool: journal.spool_usage(),
            snapshots: journal.snapshots(),
            stopping: stop.clone(),
        });
        let journal = tokio::spawn(tasks.run());
        let source = tokio::spawn(follower.run(stop));
        Ok(Self { source, journal, drain })
    }
}

/// A running agent.
struct App {
    parts: Parts,
    /// Ends the follower.
    stop: CancellationToken,
    interfaces: Interfaces,
}

impl App {
    /// Runs until told to stop or until a part ends; then stops the others, in order.
    async fn run(mut self) -> Result<(), AgentError> {
        let Parts { mut source, mut journal, drain } = self.parts;
        let (mut source_end, mut journal_end, mut failure) = (None, None, None);
        tokio::select! {
            biased;
            end = &mut journal => journal_end = Some(joined(end)),
            end = &mut source => source_end = Some(joined(end)),
            error = self.interfaces.failed() => failure = Some(error),
        }
        let told = self.stop.is_cancelled();
        self.stop.cancel();
        let source_end = match source_end {
            Some(end) => end,
            None => joined(source.await),
        };
        let journal_ended_early = journal_end.is_some();
        drain.cancel();
        let journal_end = match journal_end {
            Some(end) => end,
            None => joined(journal.await),
        };
        self.interfaces.close().await;
        // The journal's error comes first: the follower's may only say that the journal has ended.
        let end = journal_end?;
        source_end?;
        // What is left in the spool the journal has told itself.
        info!("stopped{}", if end.complete { "; everything that was received is stored" } else { "" });
        match failure {
            Some(error) => Err(error),
            // Also the journal, which ends when the follower has: either may be noticed first.
            None if told => Ok(()),
            None if journal_ended_early => Err(AgentError::Ended("the journal")),
            None => Err(AgentError::Ended("the follower of the source")),
        }
    }
}

/// Waits for this agent's turn to write the archive, with a source that it can follow.
async fn win(candidacy: &Candidacy, scout: &Scout, succession: Succession) -> Result<Mandate, AgentError> {
    let fit = async || scout.reach().await.map_err(AgentError::from);
    let won = candidacy.win(succession, fit, |standing| {
        let holder = &standing.holder;
        let name = format!("process {} on {} (term {})", holder.pid, holder.host, holder.term);
        scout.stand_by(name, standing.armed);
    });
    tokio::select! {
        won = won => won,
        never = scout.keep_looking() => match never {},
    }
}

/// Says what is followed, from where, and to where.
fn announce(config: &SourceConfig, journal: &Journal) {
    let from = journal.resume_point().map_or_else(|| "an empty archive".to_owned(), |point| point.position.to_string());
    let term = journal.progress().borrow().term;
    info!(
        source = %config.name, server = %config.server, store = %config.store, spool = %config.spool.dir.display(),
        %from, %term, version = env!("CARGO_PKG_VERSION"), "the agent starts"
    );
}

/// Enters what happened, if anything did, into the audit log.
fn enter(audit: &AuditLog, event: Option<AuditEvent>) {
    let Some(event) = event else { return };
    if let Err(error) = audit.enter(event) {
        warn!("not everything is in the audit log: {error}");
    }
}

/// A part's end; its panic goes on.
fn joined<T, E: Into<AgentError>>(end: Result<Result<T, E>, JoinError>) -> Result<T, AgentError> {
    match end {
        Ok(end) => end.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(AgentError::Ended("a part of the agent")),
        },
    }
}

fn info(config: &AgentConfig, started: Timestamp) -> AgentInfo {
    AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: journal::host(),
        started_at: Some(instant(started)),
        store: config.source.store.to_string(),
    }
}

//! The store of a simulation, its faults, and what every agent has ever reported.
//!
//! What happens to a request depends on the seed, on the run of the agent that makes it, and on which of
//! that run's requests for the object it is: not on the order in which threads come to it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use redwind_archive::layout::ObjectName;
use redwind_archive::position::{HistoryId, Offset, Position, Term};
use redwind_archive::store::{SourceStore, Store};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::journal::Progress;

/// One run of one agent.
pub(super) type Run = usize;

/// Where a request is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    /// Before it takes effect.
    Before,
    /// When it has taken effect, and is not answered yet.
    After,
}

/// How unkind the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// It answers at once.
    Calm,
    /// It takes up to a tenth of a second, and now and then loses a request or an answer.
    Fair,
    /// It takes seconds, or loses every third.
    Foul,
}

/// What agents have reported, and where those that came later began.
#[derive(Debug, Default)]
struct Ledger {
    reported: BTreeMap<HistoryId, Offset>,
    /// By term: where a writer without a spool of its own found the log's end.
    openings: BTreeMap<Term, Option<Position>>,
    /// By term: what its writer found stored.
    found: BTreeMap<Term, Option<Position>>,
    violations: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    put_at: HashMap<Path, Duration>,
    weather: Option<Weather>,
    requests: HashMap<(Run, u64), u64>,
    steps: HashMap<Run, u64>,
    /// The run to be struck, at which of its requests, and where.
    target: Option<(Run, u64, Strike)>,
    ledger: Ledger,
}

/// Everything that outlives an agent. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    inner: Arc<InMemory>,
    began: Instant,
    state: Arc<Mutex<State>>,
    /// Runs whose requests do not get on.
    frozen: watch::Sender<Vec<Run>>,
    struck: mpsc::UnboundedSender<Run>,
}

impl World {
    /// A world, and who was struck in it.
    pub(super) fn new(seed: u64) -> (Self, mpsc::UnboundedReceiver<Run>) {
        let (struck, seen) = mpsc::unbounded_channel();
        let world = Self {
            seed,
            inner: Arc::default(),
            began: Instant::now(),
            state: Arc::default(),
            frozen: watch::Sender::new(Vec::new()),
            struck,
        };
        (world, seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as it is, without faults.
    pub(super) fn truth(&self) -> SourceStore {
        Store::over(Arc::clone(&self.inner) as _, "memory://").source(&"default".parse().unwrap())
    }

    /// The store as a run of an agent meets it.
    pub(super) fn store(&self, run: Run) -> SourceStore {
        let client = Client { world: self.clone(), run };
        Store::over(Arc::new(client), "memory://").source(&"default".parse().unwrap())
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.state().weather = Some(weather);
    }

    /// Strikes a run at the request that is its `step`-th, from 0.
    pub(super) fn aim(&self, run: Run, step: u64, strike: Strike) {
        self.state().target = Some((run, step, strike));
    }

    /// How many requests a run has made.
    pub(super) fn steps(&self, run: Run) -> u64 {
        self.state().steps.get(&run).copied().unwrap_or_default()
    }

    pub(super) fn freeze(&self, run: Run) {
        self.frozen.send_modify(|frozen| frozen.push(run));
    }

    pub(super) fn thaw(&self, run: Run) {
        self.frozen.send_modify(|frozen| frozen.retain(|other| *other != run));
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A number that depends on nothing but the seed and `what`.
    pub(super) fn chance(&self, what: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        fastrand::Rng::with_seed(hasher.finish()).u64(..)
    }

    /// A writer has found where the log ends; `fresh` if its spool added nothing to that.
    pub(super) fn opened(&self, progress: &Progress, fresh: bool) {
        let stored = progress.history.map(|history| Position { history, offset: progress.stored });
        let ledger = &mut self.state().ledger;
        ledger.found.insert(progress.term, stored);
        if fresh {
            ledger.openings.insert(progress.term, stored);
        }
    }

    /// The writer of `progress.term` reports.
    pub(super) fn report(&self, progress: &Progress) {
        let Some(history) = progress.history else { return };
        let ledger = &mut self.state().ledger;
        let most = ledger.reported.entry(history).or_insert(progress.stored);
        *most = (*most).max(progress.stored);
        // One that hung between its claim and its first look has found what its successor wrote.
        let own = ledger.found.get(&progress.term).copied().flatten().filter(|own| own.history == history);
        for (term, end) in ledger.openings.range(progress.term.next()..) {
            let found = end.filter(|end| end.history == history).map_or(progress.history_start, |end| end.offset);
            let elsewhere = end.is_some_and(|end| end.history != history);
            let by_itself = own.is_none_or(|own| progress.stored > own.offset);
            if !elsewhere && by_itself && progress.stored > found {
                let (old, stored) = (progress.term, progress.stored);
                ledger.violations.push(format!("term {old} reported {stored}, but term {term} had found {found}"));
            }
        }
    }

    pub(super) fn violation(&self, what: String) {
        self.state().ledger.violations.push(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state().ledger.violations.clone()
    }

    /// What was reported as stored, by history.
    pub(super) fn reported(&self) -> BTreeMap<HistoryId, Offset> {
        self.state().ledger.reported.clone()
    }
}

/// The store as one run of an agent meets it.
#[derive(Clone, Debug)]
struct Client {
    world: World,
    run: Run,
}

/// What happens to a request.
struct Fate {
    before: Duration,
    takes_effect: bool,
    after: Duration,
    answer_arrives: bool,
}

impl Client {
    /// Counts a request. Tells its fate, and whether it is the one to be struck.
    fn decide(&self, operation: &str, path: &Path) -> (Fate, Option<Strike>) {
        let what = key(operation, path);
        let mut state = self.world.state();
        let attempt = state.requests.entry((self.run, what)).or_default();
        *attempt += 1;
        let attempt = *attempt;
        let steps = state.steps.entry(self.run).or_default();
        let step = *steps;
        *steps += 1;
        let strike = state.target.filter(|target| (target.0, target.1) == (self.run, step)).map(|target| target.2);
        let weather = state.weather.unwrap_or(Weather::Calm);
        let mut random = fastrand::Rng::with_seed(self.world.chance((self.run, what, attempt)));
        let (delay_max, lost_of) = match weather {
            Weather::Calm => (2, 0),
            Weather::Fair => (100, 12),
            Weather::Foul => (4_000, 3),
        };
        let mut lost = || lost_of > 0 && random.u32(..lost_of) == 0;
        let (request_lost, answer_lost) = (lost(), lost());
        let mut delay = || Duration::from_millis(random.u64(..delay_max));
        let fate = Fate { before: delay(), takes_effect: !request_lost, after: delay(), answer_arrives: !answer_lost };
        (fate, strike)
    }

    async fn until_thawed(&self) {
        let mut frozen = self.world.frozen.subscribe();
        // The world outlives its clients.
        let _ = frozen.wait_for(|frozen| !frozen.contains(&self.run)).await;
    }

    async fn strike(&self) {
        let _ = self.world.struck.send(self.run);
        // It is for the one who aimed to kill the agent, or to freeze and thaw it.
        self.world.freeze(self.run);
        self.until_thawed().await;
    }

    /// Makes a request: it travels, takes effect, even if the one who made it has died since, and is
    /// answered.
    async fn request<T: Send + 'static>(
        &self,
        operation: &str,
        path: &Path,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (fate, strike) = self.decide(operation, path);
        self.until_thawed().await;
        if strike == Some(Strike::Before) {
            self.strike().await;
        }
        let travelling = tokio::spawn(async move {
            sleep(fate.before).await;
            if fate.takes_effect { Some(effect.await) } else { None }
        });
        let outcome = travelling.await.unwrap();
        if strike == Some(Strike::After) {
            self.strike().await;
        }
        sleep(fate.after).await;
        self.until_thawed().await;
        match outcome {
            Some(outcome) if fate.answer_arrives => outcome,
            _ => Err(Error::Generic { store: "simulated", source: "no answer".into() }),
        }
    }

    fn stamped(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.last_modified = Default::default();
        // Long after the epoch, so that what lies before is one, too.
        meta.last_modified += Duration::from_secs(1_000_000);
        meta.last_modified += self.world.state().put_at.get(&meta.location).copied().unwrap_or_default();
        meta
    }
}

/// What an object's name tells that is the same in every run of a seed: no instants, no ids.
fn key(operation: &str, path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    operation.hash(&mut hasher);
    let text = path.as_ref().trim_start_matches("default/");
    match ObjectName::parse(text) {
        Some(ObjectName::Segment(page, segment)) => {
            (page.term.0, page.number, segment.start.0, segment.end.0).hash(&mut hasher);
        }
        Some(ObjectName::Chunk(_, number)) => ("chunk", number).hash(&mut hasher),
        Some(ObjectName::Manifest(manifest)) => ("snapshot", manifest.offset.0).hash(&mut hasher),
        _ => text.split('/').next().hash(&mut hasher),
    }
    hasher.finish()
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated, run {}", self.run)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (world, path) = (self.world.clone(), location.clone());
        let effect = async move {
            let put = world.inner.put_opts(&path, payload, options).await?;
            let now = world.now();
            world.state().put_at.insert(path, now);
            Ok(put)
        };
        self.request("put", location, effect).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put_multipart".into(), implementer: "simulated".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (inner, path) = (Arc::clone(&self.world.inner), location.clone());
        let operation = if options.head { "head" } else { "get" };
        let effect = async move { inner.get_opts(&path, options).await };
        let mut got = self.request(operation, location, effect).await?;
        got.meta = self.stamped(got.meta);
        Ok(got)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.world.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.world.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (inner, folder) = (Arc::clone(&self.world.inner), prefix.cloned());
        let effect = async move { inner.list_with_delimiter(folder.as_ref()).await };
        let mut listed = self.request("list", prefix.unwrap_or(&Path::default()), effect).await?;
        listed.objects = listed.objects.into_iter().map(|meta| self.stamped(meta)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "simulated".into() })
    }
}

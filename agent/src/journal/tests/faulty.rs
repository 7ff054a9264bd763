//! An object store in memory that fails as asked.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// What goes wrong with a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Nothing is stored.
    Fail,
    /// It is stored, and answered with an error.
    FailAfter,
    /// It is stored, and answered as if somebody else had stored it.
    TakenByItself,
    /// Nothing is stored, for want of permission.
    Denied,
    /// It is stored whether or not there is one.
    Overwrite,
}

/// Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct FaultyStore {
    pub(super) inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    open: Arc<watch::Sender<bool>>,
    heads_open: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct State {
    /// Of the puts to come.
    plan: VecDeque<Fault>,
    /// Of all puts after those.
    default: Fault,
    /// Of every kind.
    requests: u64,
    heads: u64,
    puts: Vec<String>,
}

impl FaultyStore {
    pub(super) fn new() -> Self {
        let state = State { plan: VecDeque::new(), default: Fault::None, requests: 0, heads: 0, puts: Vec::new() };
        let open = || Arc::new(watch::Sender::new(true));
        Self { inner: Arc::default(), state: Arc::new(Mutex::new(state)), open: open(), heads_open: open() }
    }

    pub(super) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().plan.extend(faults);
    }

    /// Forgets the plan.
    pub(super) fn behave(&self) {
        self.state().plan.clear();
    }

    pub(super) fn always(&self, fault: Fault) {
        self.state().default = fault;
    }

    /// Keeps puts waiting until [`answer`](Self::answer).
    pub(super) fn hang(&self) {
        self.open.send_replace(false);
    }

    /// Keeps looks at single objects waiting until [`answer`](Self::answer).
    pub(super) fn hang_heads(&self) {
        self.heads_open.send_replace(false);
    }

    pub(super) fn answer(&self) {
        self.open.send_replace(true);
        self.heads_open.send_replace(true);
    }

    pub(super) fn requests(&self) -> u64 {
        self.state().requests
    }

    pub(super) fn heads(&self) -> u64 {
        self.state().heads
    }

    /// Names put so far, of those that contain `part`.
    pub(super) fn puts(&self, part: &str) -> Vec<String> {
        self.state().puts.iter().filter(|name| name.contains(part)).cloned().collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "503 slow down".into() }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let fault = {
            let mut state = self.state();
            state.requests += 1;
            state.puts.push(location.to_string());
            state.plan.pop_front().unwrap_or(state.default)
        };
        match fault {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::Fail => Err(failure()),
            Fault::FailAfter => {
                self.inner.put_opts(location, payload, options).await?;
                Err(failure())
            }
            Fault::TakenByItself => {
                self.inner.put_opts(location, payload, options).await?;
                Err(Error::AlreadyExists { path: location.to_string(), source: "412".into() })
            }
            Fault::Denied => Err(Error::PermissionDenied { path: location.to_string(), source: "403".into() }),
            Fault::Overwrite => self.inner.put_opts(location, payload, PutOptions::default()).await,
        }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.state().requests += 1;
        if options.head {
            self.heads_open.subscribe().wait_for(|open| *open).await.unwrap();
            self.state().heads += 1;
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.state().requests += 1;
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.state().requests += 1;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

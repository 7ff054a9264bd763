//! An object store in process whose requests fail as asked, and which remembers all of them.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Storing an object.
    Put,
    /// Reading one, whole or in part, or its metadata.
    Get,
    /// Listing names.
    List,
    /// Deleting one.
    Delete,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing has happened.
    FailBefore,
    /// It is done, and fails nevertheless: a 503 after the fact, or an answer that was lost.
    FailAfter,
    /// It is done, and a client that tries again by itself meets its own object: a put-if-absent
    /// ends with `AlreadyExists`.
    DoneAndRetried,
    /// It is done this much later.
    Slow(Duration),
    /// It is never answered.
    Hang,
    /// It is refused for want of permission, and nothing has happened.
    Denied,
}

/// A fault, the requests it hits, and how many of them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The requests of this kind.
    pub operation: Operation,
    /// The part that a name must contain; empty for every name.
    pub name_contains: String,
    /// How many matching requests pass first.
    pub after: usize,
    /// How many it hits.
    pub times: usize,
    /// What happens to them.
    pub fault: Fault,
}

impl Rule {
    /// Hits every request of this kind until the rules are cleared.
    pub fn always(operation: Operation, fault: Fault) -> Self {
        Self { operation, name_contains: String::new(), after: 0, times: usize::MAX, fault }
    }

    /// Hits the next request of this kind.
    pub fn once(operation: Operation, fault: Fault) -> Self {
        Self { times: 1, ..Self::always(operation, fault) }
    }

    /// Hits only names that contain `part`.
    #[must_use]
    pub fn named(mut self, part: &str) -> Self {
        part.clone_into(&mut self.name_contains);
        self
    }

    /// Lets `count` matching requests pass first.
    #[must_use]
    pub fn after(mut self, count: usize) -> Self {
        self.after = count;
        self
    }
}

/// A request as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its kind.
    pub operation: Operation,
    /// The object's name, or the prefix listed.
    pub name: String,
    /// The fault that hit it.
    pub fault: Option<Fault>,
}

/// Wraps a store. Clones share rules and calls.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    calls: Vec<Call>,
}

impl FaultyStore {
    /// A store that behaves until told otherwise.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Adds a rule. Of several that match a request, the oldest hits it.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Behaves again.
    pub fn clear(&self) {
        self.state().rules.clear();
    }

    /// All requests so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How many requests of this kind there were.
    pub fn count(&self, operation: Operation) -> usize {
        self.state().calls.iter().filter(|call| call.operation == operation).count()
    }

    /// Forgets the requests so far.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, operation: Operation, name: &str) -> Option<Fault> {
        let mut state = self.state();
        let fault = state.rules.iter_mut().find_map(|rule| {
            if rule.operation != operation || !name.contains(&rule.name_contains) || rule.times == 0 {
                return None;
            }
            if rule.after > 0 {
                rule.after -= 1;
                return None;
            }
            rule.times -= 1;
            Some(rule.fault)
        });
        state.calls.push(Call { operation, name: name.to_owned(), fault });
        fault
    }

    /// Does `request`, with the fault that is due.
    async fn perform<T>(
        &self,
        operation: Operation,
        name: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.record(operation, name) {
            None => request.await,
            Some(Fault::FailBefore) => Err(unavailable(name)),
            Some(Fault::FailAfter) => {
                request.await?;
                Err(unavailable(name))
            }
            Some(Fault::DoneAndRetried) => {
                request.await?;
                Err(Error::AlreadyExists { path: name.to_owned(), source: "412 on a retry".into() })
            }
            Some(Fault::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                request.await
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Denied) => {
                let source = "403 Forbidden".into();
                Err(Error::PermissionDenied { path: name.to_owned(), source })
            }
        }
    }

    /// Passes a listing on, behind the fault that is due.
    fn listed(
        &self,
        prefix: Option<&Path>,
        found: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let name = prefix.map(ToString::to_string).unwrap_or_default();
        let gate = async move {
            let gate = this.perform(Operation::List, &name, async { Ok(()) }).await;
            match gate {
                Ok(()) => found,
                Err(error) => futures::stream::once(async { Err(error) }).boxed(),
            }
        };
        futures::stream::once(gate).flatten().boxed()
    }
}

fn unavailable(name: &str) -> Error {
    Error::Generic { store: "faulty", source: format!("503 Service Unavailable: {name}").into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let request = self.inner.put_opts(location, payload, opts);
        self.perform(Operation::Put, location.as_ref(), request).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let request = self.inner.put_multipart_opts(location, opts);
        self.perform(Operation::Put, location.as_ref(), request).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let request = self.inner.get_opts(location, options);
        self.perform(Operation::Get, location.as_ref(), request).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let request = self.inner.get_ranges(location, ranges);
        self.perform(Operation::Get, location.as_ref(), request).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                let one = futures::stream::once(std::future::ready(Ok(location.clone()))).boxed();
                let mut deleted = this.inner.delete_stream(one);
                let request = async { deleted.next().await.unwrap_or_else(|| Ok(location.clone())) };
                this.perform(Operation::Delete, location.as_ref(), request).await
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.map(ToString::to_string).unwrap_or_default();
        let request = self.inner.list_with_delimiter(prefix);
        self.perform(Operation::List, &name, request).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let request = self.inner.copy_opts(from, to, options);
        self.perform(Operation::Put, to.as_ref(), request).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let request = self.inner.rename_opts(from, to, options);
        self.perform(Operation::Put, to.as_ref(), request).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;

    #[tokio::test]
    async fn rules_hit_what_they_name_and_calls_are_remembered() {
        let store = FaultyStore::new(Arc::new(InMemory::new()));
        let name = Path::from("term/1");
        store.add(Rule::once(Operation::Put, Fault::FailAfter).named("term/").after(1));
        store.put(&Path::from("other"), "x".into()).await.unwrap();
        store.put(&Path::from("term/0"), "x".into()).await.unwrap();
        store.put_opts(&name, "x".into(), PutMode::Create.into()).await.unwrap_err();
        let stored = store.get(&name).await.unwrap().bytes().await.unwrap();
        assert_eq!(stored.as_ref(), b"x", "the put failed after it was done");
        store.add(Rule::always(Operation::List, Fault::FailBefore));
        assert!(store.list(None).next().await.unwrap().is_err());
        store.clear();
        assert_eq!(store.list(None).count().await, 3);
        assert_eq!(store.count(Operation::Put), 3);
        store.add(Rule::once(Operation::Delete, Fault::Denied));
        store.delete(&name).await.unwrap_err();
        store.delete(&name).await.unwrap();
    }
}

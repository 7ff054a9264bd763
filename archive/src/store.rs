//! The archive's store: an object store, seen through the archive's names and its one way of writing.
//!
//! Objects are created with put-if-absent and never changed. What a put's failure means is settled
//! here, once: whether the object stands in the store is read back from it, never guessed. Only the
//! signs of life are overwritten (`signs`): nothing is promised of those.

mod body;
mod error;
mod signs;
#[cfg(test)]
mod tests;
mod url;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use ulid::Ulid;

use crate::document::{self, DOCUMENT_BYTES_MAX, Document, DocumentError, Signed};
use crate::keys::{Epoch, Keyring};
use crate::layout::{self, Folder, ObjectName, PageName, SegmentName, SourceName};

pub use error::{Advice, Operation, StoreError};
pub use url::{StoreUrl, StoreUrlError};

/// Longest object that is read: more than a segment or a chunk of the largest that an agent makes, of 64 MiB
/// and what arrived last, with marks and heads.
pub const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// A store that holds archives, each in the folder of its source.
#[derive(Clone, Debug)]
pub struct Store {
    client: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
}

impl Store {
    /// Opens the store for reading archives. Makes no request to a bucket; a file store must exist.
    ///
    /// # Errors
    /// When the settings in the environment are wrong, or a file store's folder is absent.
    pub fn open(url: &StoreUrl) -> Result<Self, StoreError> {
        Self::from_url(url, false)
    }

    /// Opens the store for writing: makes a file store's folder when it is absent.
    ///
    /// # Errors
    /// As [`open`](Self::open), or when the folder cannot be made.
    pub fn create(url: &StoreUrl) -> Result<Self, StoreError> {
        Self::from_url(url, true)
    }

    fn from_url(url: &StoreUrl, create: bool) -> Result<Self, StoreError> {
        let (client, root) =
            url.client(create).map_err(|source| StoreError::new(Operation::Open, url.to_string(), source))?;
        Ok(Self { client, root, url: url.to_string() })
    }

    /// A store over any client; `url` is what messages call it.
    #[must_use]
    pub fn over(client: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { client, root: Path::default(), url: url.to_owned() }
    }

    /// The sources that have a folder in the store, sorted.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn sources(&self) -> Result<Vec<SourceName>, StoreError> {
        let listing = measured(Operation::List, self.client.list_with_delimiter(Some(&self.root)))
            .await
            .map_err(|source| StoreError::new(Operation::List, self.url.clone(), source))?;
        let folders = listing.common_prefixes.iter().filter_map(Path::filename);
        let names = folders.filter(|name| !name.starts_with(layout::TRIAL_PREFIX)).filter_map(|name| name.parse().ok());
        let mut names: Vec<SourceName> = names.collect();
        names.sort();
        Ok(names)
    }

    /// The archive of a source.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> SourceStore {
        SourceStore {
            client: Arc::clone(&self.client),
            root: self.root.clone().join(name.to_string()),
            url: format!("{}/{name}", self.url),
            name: name.clone(),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// What came of putting an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The object stands in the store with these bytes: put now, or by an earlier try of ours.
    Stored,
    /// Another object has the name: these are its bytes.
    Taken(Bytes),
}

/// The store of one source's archive.
#[derive(Clone, Debug)]
pub struct SourceStore {
    client: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
    name: SourceName,
}

impl fmt::Display for SourceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl SourceStore {
    /// The source whose archive this is.
    #[must_use]
    pub fn name(&self) -> &SourceName {
        &self.name
    }

    /// Puts an object if its name is free.
    ///
    /// A store may answer that the name is taken when it was our own try that took it (a put that
    /// was stored and then answered with an error is tried again by the client), and a time-out
    /// leaves the outcome open. Both are settled by reading the object back.
    ///
    /// # Errors
    /// When the object is not known to stand in the store; [`StoreError::advice`] tells whether trying
    /// again may help.
    pub async fn put_new(&self, name: &ObjectName, bytes: Bytes) -> Result<Put, StoreError> {
        let path = self.path(&name.to_string());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let length = bytes.len() as u64;
        let put = self.client.put_opts(&path, PutPayload::from(bytes.clone()), options);
        let Err(failed) = measured(Operation::Put, put).await else {
            metrics::counter!("redwind_store_written_bytes_total").increment(length);
            return Ok(Put::Stored);
        };
        let failed = self.error(Operation::Put, &path, failed);
        if failed.advice() == Advice::Refused {
            return Err(failed);
        }
        match self.get(name).await {
            Ok(found) if found == bytes => Ok(Put::Stored),
            Ok(found) => Ok(Put::Taken(found)),
            Err(_) => Err(failed),
        }
    }

    /// Puts a document if its name is free.
    ///
    /// # Errors
    /// As [`put_new`](Self::put_new).
    pub async fn put_document<D: Document>(&self, name: &ObjectName, document: &D) -> Result<Put, StoreError> {
        self.put_new(name, document::encode(document)).await
    }

    /// Puts a document that steers a restore if its name is free; in an encrypted archive, `epoch` is the
    /// writer's.
    ///
    /// # Errors
    /// As [`put_new`](Self::put_new).
    pub async fn put_signed<D: Document>(
        &self,
        name: &ObjectName,
        document: &D,
        epoch: Option<&Epoch>,
    ) -> Result<Put, StoreError> {
        self.put_new(name, document::encode_signed(document, name, epoch)).await
    }

    /// An object's bytes.
    ///
    /// # Errors
    /// When it is absent, longer than [`OBJECT_BYTES_MAX`], or the store cannot be read.
    pub async fn get(&self, name: &ObjectName) -> Result<Bytes, StoreError> {
        self.get_into(name, Vec::with_capacity).await.map(Bytes::from)
    }

    /// An object's bytes, in an empty buffer that `take` gives for so many.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_into(
        &self,
        name: &ObjectName,
        take: impl FnOnce(usize) -> Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        let bytes = self.get_up_to(name, OBJECT_BYTES_MAX, take).await?;
        let bytes = bytes.ok_or_else(|| StoreError::TooLong { object: self.describe(name) })?;
        metrics::counter!("redwind_store_read_bytes_total").increment(bytes.len() as u64);
        Ok(bytes)
    }

    /// A whole object, unless it is longer: then none of it is kept.
    async fn get_up_to(
        &self,
        name: &ObjectName,
        bytes_max: u64,
        take: impl FnOnce(usize) -> Vec<u8>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(&name.to_string());
        let get = async {
            let found = self.client.get(&path).await?;
            let fits = found.meta.size <= bytes_max;
            Ok(if fits { Some(body::read(found, take).await?) } else { None })
        };
        measured(Operation::Get, get).await.map_err(|source| self.error(Operation::Get, &path, source))
    }

    /// The last `count` bytes of an object of `length` bytes.
    ///
    /// # Errors
    /// When it is absent, shorter, or the store cannot be read.
    pub async fn get_tail(&self, name: &ObjectName, length: u64, count: u64) -> Result<Bytes, StoreError> {
        let path = self.path(&name.to_string());
        let range = length.saturating_sub(count)..length;
        measured(Operation::Get, self.client.get_range(&path, range))
            .await
            .map_err(|source| self.error(Operation::Get, &path, source))
    }

    /// A document, checked.
    ///
    /// # Errors
    /// When it is absent, damaged, or the store cannot be read.
    pub async fn get_document<D: Document>(&self, name: &ObjectName) -> Result<D, StoreError> {
        self.read_document(name, document::decode).await
    }

    /// A document that steers a restore, checked, its signature too.
    ///
    /// # Errors
    /// When it is absent, damaged, or forged, its key is not in the keyring, or the store cannot be read.
    pub async fn get_signed<D: Document>(&self, name: &ObjectName, keys: &Keyring) -> Result<Signed<D>, StoreError> {
        self.read_document(name, |bytes| document::decode_signed(bytes, name, keys)).await
    }

    async fn read_document<D>(
        &self,
        name: &ObjectName,
        decode: impl FnOnce(&[u8]) -> Result<D, DocumentError>,
    ) -> Result<D, StoreError> {
        let bytes = self.get_up_to(name, DOCUMENT_BYTES_MAX, Vec::with_capacity).await?;
        decode(bytes.as_deref().unwrap_or_default()).map_err(|source| self.damaged(name, source))
    }

    /// The error that says that a document cannot be used.
    pub(crate) fn damaged(&self, name: &ObjectName, source: DocumentError) -> StoreError {
        StoreError::Damaged { object: self.describe(name), source: Box::new(source) }
    }

    /// A document, or `None` when there is no such object.
    ///
    /// # Errors
    /// When it is damaged, or the store cannot be read.
    pub async fn find_document<D: Document>(&self, name: &ObjectName) -> Result<Option<D>, StoreError> {
        match self.get_document(name).await {
            Ok(document) => Ok(Some(document)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn exists(&self, name: &ObjectName) -> Result<bool, StoreError> {
        let path = self.path(&name.to_string());
        match measured(Operation::Head, self.client.head(&path)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(self.error(Operation::Head, &path, source)),
        }
    }

    /// Deletes an object; one that is absent already is no error.
    ///
    /// # Errors
    /// When the store refuses or cannot be reached.
    pub async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let path = self.path(&name.to_string());
        match measured(Operation::Delete, self.client.delete(&path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error(Operation::Delete, &path, source)),
        }
    }

    /// The objects of a folder with their lengths, in no order; objects that are not ours are left
    /// out. A folder of folders lists none.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn list(&self, folder: &Folder) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        let listing = self.list_folder(folder).await?;
        let ours = |meta: &ObjectMeta| Some((self.name_of(&meta.location)?, meta.size));
        Ok(listing.objects.iter().filter_map(ours).collect())
    }

    /// Every page of the log, in the order in which they were begun.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn pages(&self) -> Result<Vec<PageName>, StoreError> {
        let listing = self.list_folder(&Folder::Pages).await?;
        let mut pages: Vec<PageName> = listing.common_prefixes.iter().filter_map(layout::page_of).collect();
        pages.sort_by_key(|page| (page.term, page.number));
        Ok(pages)
    }

    /// The segments of a page with their lengths, in the order of the stream.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn segments(&self, page: &PageName) -> Result<Vec<(SegmentName, u64)>, StoreError> {
        let listed = self.list(&Folder::Page(page.clone())).await?;
        let segment = |(name, length)| match name {
            ObjectName::Segment(_, segment) => Some((segment, length)),
            _ => None,
        };
        let mut segments: Vec<(SegmentName, u64)> = listed.into_iter().filter_map(segment).collect();
        segments.sort_by_key(|(segment, _)| (segment.start, segment.end, segment.time));
        Ok(segments)
    }

    /// Whether an agent has ever claimed the archive: there is a term, or a history.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn is_claimed(&self) -> Result<bool, StoreError> {
        let terms = self.list(&Folder::Terms).await?;
        Ok(!terms.is_empty() || !self.list(&Folder::Histories).await?.is_empty())
    }

    /// The snapshots of which there are chunks, whether complete or not.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn chunk_folders(&self) -> Result<Vec<Ulid>, StoreError> {
        let listing = self.list_folder(&Folder::ChunkFolders).await?;
        let id = |path: &Path| Ulid::from_string(path.filename()?).ok();
        Ok(listing.common_prefixes.iter().filter_map(id).collect())
    }

    /// Every object below the source's folder with its length, in no order: `Err` of the text of a name that
    /// is not ours.
    pub fn everything(&self) -> impl Stream<Item = Result<(Result<ObjectName, String>, u64), StoreError>> + Send + '_ {
        let ours = |meta: ObjectMeta| {
            let name = self.name_of(&meta.location).ok_or_else(|| meta.location.to_string());
            (name, meta.size)
        };
        self.client
            .list(Some(&self.root))
            .map_ok(ours)
            .map_err(|source| self.error(Operation::List, &self.root, source))
            .boxed()
    }

    async fn list_folder(&self, folder: &Folder) -> Result<object_store::ListResult, StoreError> {
        let path = self.path(&folder.to_string());
        match measured(Operation::List, self.client.list_with_delimiter(Some(&path))).await {
            Ok(listing) => Ok(listing),
            // A folder of a file store that is not there is an empty one.
            Err(object_store::Error::NotFound { .. }) => Ok(object_store::ListResult {
                common_prefixes: Vec::new(),
                objects: Vec::new(),
                extensions: Default::default(),
            }),
            Err(source) => Err(self.error(Operation::List, &path, source)),
        }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    fn name_of(&self, path: &Path) -> Option<ObjectName> {
        let parts: Vec<_> = path.prefix_match(&self.root)?.collect();
        let text = parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
        ObjectName::parse(&text)
    }

    /// How messages call an object.
    #[must_use]
    pub fn describe(&self, name: &ObjectName) -> String {
        format!("{}/{name}", self.url)
    }

    fn url_of(&self, path: &Path) -> String {
        let name =
            path.prefix_match(&self.root).map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>());
        format!("{}/{}", self.url, name.unwrap_or_default().join("/"))
    }

    fn error(&self, operation: Operation, path: &Path, source: object_store::Error) -> StoreError {
        StoreError::new(operation, self.url_of(path), source)
    }
}

/// Runs one request and counts it.
async fn measured<T>(
    operation: Operation,
    request: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    let began = Instant::now();
    let result = request.await;
    let outcome = match &result {
        Ok(_) => "ok",
        Err(object_store::Error::NotFound { .. }) => "absent",
        Err(object_store::Error::AlreadyExists { .. }) => "taken",
        Err(_) => "failed",
    };
    metrics::counter!("redwind_store_requests_total", "operation" => operation.as_str(), "outcome" => outcome)
        .increment(1);
    metrics::histogram!("redwind_store_request_seconds", "operation" => operation.as_str()).record(began.elapsed());
    result
}
